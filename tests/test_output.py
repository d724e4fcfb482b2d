"""Files and folders get their name when they are whole, and only then."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bsqcodec import BsqError, FormatError
from bsqcodec.output import _locked, open_input, output_file, replacing


def write(path, data=b"new", **options):
    with output_file(str(path), True, **options) as file:
        file.write(data)


def test_a_file_replaces_another_in_one_step(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with output_file(str(tmp_path / "a"), True) as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "a").read_bytes() == b"old"
    assert (tmp_path / "a").read_bytes() == b"new" and os.listdir(tmp_path) == ["a"]
    with pytest.raises(BsqError, match="exists already"), output_file(str(tmp_path / "a"), False):
        pass


def test_what_killed_processes_left_is_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".a.{ended.pid}.part").mkdir()
    (tmp_path / f".a.{ended.pid}.part" / "0.png").write_bytes(b"old")
    (tmp_path / f".a.{os.getppid()}.part").write_bytes(b"of a process that runs")
    (tmp_path / f".ab.{ended.pid}.part").write_bytes(b"of another name")
    with replacing(tmp_path / "a") as part:
        Path(part).write_bytes(b"new")
    assert sorted(os.listdir(tmp_path)) == sorted(["a", f".a.{os.getppid()}.part", f".ab.{ended.pid}.part"])


@pytest.mark.parametrize("folder", [False, True])
def test_what_fails_leaves_what_was_there(tmp_path, folder):
    (tmp_path / "a").mkdir() if folder else (tmp_path / "a").write_bytes(b"old")

    def failing():
        with replacing(tmp_path / "a") as part:
            if folder:
                os.mkdir(part)
                part += "/0.png"
            with open(part, "wb") as file:
                file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    assert os.listdir(tmp_path) == ["a"]
    assert folder or (tmp_path / "a").read_bytes() == b"old"
    with pytest.raises(BsqError, match="cannot write"), replacing(tmp_path / "b"):
        pass  # nothing was made that could get the name
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "folder/b")
    write(tmp_path / "a")
    with replacing(tmp_path / "a") as part, open(part, "wb") as file:
        file.write(b"newer")
    assert (tmp_path / "a").is_symlink() and (tmp_path / "folder/b").read_bytes() == b"newer"
    assert os.listdir(tmp_path / "folder") == ["b"]


def test_a_pipe_is_written_in_place(tmp_path):
    os.mkfifo(tmp_path / "a")
    with replacing(tmp_path / "a") as part:
        assert part == str(tmp_path / "a")
    read = []
    thread = threading.Thread(target=lambda: read.append((tmp_path / "a").read_bytes()))
    thread.start()
    write(tmp_path / "a")
    thread.join()
    assert read == [b"new"] and os.listdir(tmp_path) == ["a"]
    with pytest.raises(BsqError, match="only a file"):
        write(tmp_path / "a", resume=True)


def test_leftovers_go_unless_someone_writes_them(tmp_path):
    for name in (".a.1.part", ".a.2.part", ".b.1.part", ".a.x.part"):
        (tmp_path / name).write_bytes(b"left")
    with open(tmp_path / ".a.2.part", "r+b") as file, _locked(file) as mine:
        assert mine
        write(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == [".a.2.part", ".a.x.part", ".b.1.part", "a"]


def test_what_can_be_resumed_is_kept_and_taken(tmp_path):
    def failing(error):
        with output_file(str(tmp_path / "a"), False, resume=True) as file:
            file.write(b"begun ")
            file.flush()
            raise error

    with pytest.raises(KeyboardInterrupt):
        failing(KeyboardInterrupt())
    with pytest.raises(BsqError, match=r"cannot write .*: broken"):
        failing(OSError(5, "broken"))
    (tmp_path / ".a.1.part").write_bytes(b"less")
    write(tmp_path / "a", b"done", resume=True)
    assert (tmp_path / "a").read_bytes() == b"begun begun done" and os.listdir(tmp_path) == ["a"]


def test_paths_that_cannot_be_opened(tmp_path):
    for opened in (output_file(str(tmp_path / "no/a"), True), replacing(tmp_path / "no/a"), open_input(str(tmp_path))):
        with pytest.raises(BsqError, match=r"does not exist|cannot read"), opened:
            pass
    with pytest.raises(BsqError, match="cannot write"):
        write(tmp_path / ("a" * 250))


def test_what_is_wrong_with_a_stream_is_told_with_its_name(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    for path, name in ((str(tmp_path / "a"), tmp_path / "a"), ("-", "standard input")):
        with pytest.raises(FormatError, match=f"^{name}: broken$"), open_input(path):
            raise FormatError("broken")
