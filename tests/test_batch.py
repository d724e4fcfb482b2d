"""Many files with one start, what is told in JSON, exit statuses, and the completion of shells."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import bsqcodec
from bsqcodec.batch import encode_files
from bsqcodec.errors import explain
from bsqcodec.report import Report
from helpers import exit_status, waves

ENTRY = [sys.executable, "-c", "import sys; from bsqcodec.__main__ import process; sys.exit(process())"]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The current folder, with four pictures and an animation."""
    monkeypatch.chdir(tmp_path)
    images = [Image.fromarray(picture) for picture in waves(4)]
    for i, image in enumerate(images):
        image.save(f"{i}.png")
    images[0].save("moving.gif", save_all=True, append_images=images[1:], duration=40)
    return tmp_path


def fails(capsys, *words, match, code=1):
    """The command ends so, with a line on standard error that contains `match`, for 1 nothing else, and no output."""
    before = sorted(os.listdir())
    assert exit_status(*words) == code
    err = capsys.readouterr().err
    assert match in err and "Traceback" not in err and sorted(os.listdir()) == before
    assert code != 1 or (err.startswith("bsqcodec: ") and err.count("\n") == 1)


def test_many_files_become_what_each_alone_becomes(photos, capsys):
    assert exit_status("encode", "0.png", "1.png", "moving.gif", "--to", "out/", "-q", 40, "--md5") == 0
    out, err = capsys.readouterr()
    assert err.startswith("3 of 3 files, 6 frames, ") and err.count("\n") == 1
    for line, name in zip(out.splitlines(), ("0.png", "1.png", "moving.gif"), strict=True):
        assert exit_status("encode", name, "quick.bsq", "-f", "-q", 40, "--quiet") == 0  # a still image not decoded
        assert exit_status("encode", name, "alone.bsq", "-f", "-q", 40, "--md5", "--quiet") == 0
        assert (photos / "quick.bsq").read_bytes() == (photos / "alone.bsq").read_bytes()
        assert line == f"{capsys.readouterr().out.strip()}  {name}"
        assert (photos / "alone.bsq").read_bytes() == (photos / "out" / f"{name[:-4]}.bsq").read_bytes()
    assert sorted(os.listdir("out")) == ["0.bsq", "1.bsq", "moving.bsq"]

    words = ("decode", "out/0.bsq", "out/moving.bsq", "--to", "back")
    assert exit_status(*words) == 0 and sorted(os.listdir("back")) == ["0.png", "moving.mkv"]
    assert exit_status(*words, "--format", ".JPG", "--frames", 0, "--quiet") == 0
    assert sorted(os.listdir("back")) == ["0.jpg", "0.png", "moving.jpg", "moving.mkv"]
    assert exit_status("decode", "out/0.bsq", "0-alone.png", "--quiet") == 0
    assert (photos / "0-alone.png").read_bytes() == (photos / "back/0.png").read_bytes()


def test_a_folder_of_frames_among_the_inputs(photos):
    os.mkdir("clip.old")
    for i in range(2):
        os.rename(f"{i}.png", f"clip.old/{i}.png")
    assert exit_status("encode", "clip.old/", "2.png", "--to", ".", "--quiet") == 0
    with open("clip.old.bsq", "rb") as file:
        assert len(list(bsqcodec.Decoder(file).frames())) == 2
    assert os.path.exists("2.bsq")


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_fails_does_not_stop_the_others(photos, capfd, jobs):
    (photos / "1.png").write_bytes(b"\x89PNG nothing")
    (photos / "2.png").unlink()
    os.mkdir("out")
    (photos / "out/3.bsq").write_bytes(b"old")
    words = ("encode", "0.png", "1.png", "2.png", "3.png", "--to", "out", "--json", "--jobs", jobs)
    assert exit_status(*words) == 1
    out, err = capfd.readouterr()
    found = {line["source"]: line for line in map(json.loads, out.splitlines())}
    assert sorted(found) == ["0.png", "1.png", "2.png", "3.png"]
    assert [name for name in sorted(found) if "error" in found[name]] == ["1.png", "2.png", "3.png"]
    lines = [f"bsqcodec: {line['error']}\n" for name, line in found.items() if name in ("1.png", "2.png")]
    expected = [*lines, "bsqcodec: 3.png: out/3.bsq exists already; -f replaces it\n"]
    assert sorted(err.splitlines(True)) == sorted(expected)
    assert sorted(os.listdir("out")) == ["0.bsq", "3.bsq"] and (photos / "out/3.bsq").read_bytes() == b"old"


def test_a_folder_that_gets_nothing_goes(photos, capsys):
    (photos / "0.png").write_bytes(b"nothing")
    assert exit_status("encode", "0.png", "--to", "out") == 1 and not os.path.exists("out")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "bsqcodec: 0.png is broken or not an image" and second.startswith("0 of 1 file, ")


def test_refused_before_anything_is_done(photos, capsys):
    os.mkdir("more")
    Image.open("0.png").save("more/0.jpg")
    both = "0.png and more/0.jpg would both become out/0.bsq\n"
    fails(capsys, "encode", "1.png", "0.png", "more/0.jpg", "--to", "out", match=both)
    fails(capsys, "encode", "0.png", "0.png", "--to", "out", match="both become")
    fails(capsys, "encode", "0.png", "-", "--to", "out", match="standard input has no name")
    fails(capsys, "encode", "0.png", "--to", "no/out", match="cannot make the folder no/out")
    fails(capsys, "encode", "0.png", "--to", "1.png", match="is a file", code=2)
    fails(capsys, "encode", "0.png", "--to", "out", "--resume", match="--resume is for one OUTPUT")
    fails(capsys, "encode", "0.png", "--to", "out", "--preview", "a.png", match="--preview is for one OUTPUT")
    fails(capsys, "encode", "0.png", "--to", "out", "--model", "huge", match="no model 'huge'")
    fails(capsys, "encode", "0.png", "--to", "out", "--jobs", 2, "--dask", "x", match="--jobs or --dask, not both")
    fails(capsys, "decode", "0.bsq", "--to", "out", "--format", "xyz", match="'xyz' is not one of mp4, mkv")
    fails(capsys, "decode", "0.bsq", "--to", "out", "--model", "huge", match="no model 'huge'")
    fails(capsys, "decode", "0.bsq", "0.png", "--format", "png", match="--format is for the outputs in --to")


def test_json_of_one_file(photos, capsys):
    def told(*words, code=0):
        assert exit_status(*words, "--json") == code
        out, err = capsys.readouterr()
        return json.loads(out), err

    encoded, err = told("encode", "moving.gif", "a.bsq", "-q", 30, "--md5")
    size = os.path.getsize("a.bsq")
    assert encoded.pop("seconds") > 0 and not err
    expected = {"frames": 4, "width": 48, "height": 32, "bytes": size, "bits_per_pixel": round(8 * size / 6144, 6)}
    md5 = encoded.pop("md5")
    ends = {"source": "moving.gif", "target": "a.bsq"}
    assert encoded == {**ends, **expected, "quality": [30, 30], "warnings": []} and re.fullmatch("[0-9a-f]{32}", md5)

    decoded, _ = told("decode", "a.bsq", "a.y4m", "--md5")
    assert decoded.items() >= {"source": "a.bsq", "target": "a.y4m", "md5": md5, **expected}.items()
    part, _ = told("decode", "a.bsq", "--md5", "--frames", "1:3")
    assert part["frames"] == 2 and not {"target", "bytes", "bits_per_pixel"} & set(part)
    verified, err = told("verify", "a.bsq")
    assert verified.items() >= expected.items() and verified["quality"][1] == 30 and not err
    failed, err = told("verify", "0.png", code=1)
    assert failed == {"source": "0.png", "error": err.removeprefix("bsqcodec: ").rstrip("\n")}
    failed, _ = told("encode", "0.png", "a.bsq", code=1)
    assert failed == {"source": "0.png", "target": "a.bsq", "error": "a.bsq exists already; -f replaces it"}


def test_json_beside_data_on_standard_output(photos, monkeypatch, capsys):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out))
    assert exit_status("encode", "0.png", "-", "--json") == 0
    found = json.loads(capsys.readouterr().err)
    assert found["target"] == "-" and found["bytes"] == len(out.getvalue())


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_stopped_half_way(tmp_path):
    """Ctrl-C, which a terminal sends to all processes, while two of them write: no part of a file is left."""
    big = np.kron(waves(1)[0], np.ones((24, 24, 1), np.uint8))
    for i in range(6):
        Image.fromarray(big).save(tmp_path / f"{i}.png")
    os.mkdir(tmp_path / "out")
    files = [str(tmp_path / f"{i}.png") for i in range(6)]
    command = [sys.executable, "-m", "bsqcodec", "encode", *files, "--to", str(tmp_path / "out"), "--jobs", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 600
    while sum(name.endswith(".part") for name in os.listdir(tmp_path / "out")) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130 and err == b"bsqcodec: interrupted\n"
    left = os.listdir(tmp_path / "out")
    assert not [name for name in left if name.endswith(".part")] and len(left) < 6


def test_mistakes_are_not_told_as_failures(photos, monkeypatch):
    assert explain(MemoryError()) == explain(RuntimeError("out of memory")) == "not enough memory"
    assert explain(OSError(28, "No space", "x")) == "No space: x"
    assert explain(ValueError("x")) is explain(RuntimeError("x")) is None

    options = {"model": "bsq1", "jobs": 1, "dask": "", "device": "cpu", "quality": 101}
    with pytest.raises(ValueError, match="quality"):
        encode_files(["0.png"], "out", Report("encode", True), options)
    assert not os.path.exists("out")


def entry(*words, **environment):
    """The installed command in a process of its own."""
    return subprocess.run([*ENTRY, *words], capture_output=True, text=True, env={**os.environ, **environment})


def test_exit_statuses(photos):
    assert entry("--version").returncode == entry("encode", "--help").returncode == 0
    assert entry("info", "0.png").returncode == 1
    for words in (["--no-such-option"], ["no-such-command"], ["encode", "0.png", "-q", "0"], []):
        done = entry(*words)
        assert done.returncode == 2 and done.stderr and not done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell):
    name = {"_BSQCODEC_COMPLETE": f"{shell}_source"}
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'bsqcodec'\n" + ENTRY[2]]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **name})
    assert done.returncode == 0 and "_BSQCODEC_COMPLETE" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("typed", "found"),
    [("bsqcodec enc", "plain,encode"), ("bsqcodec encode --lo", "plain,--low-delay"), ("bsqcodec encode a", "file,a")],
)
def test_what_is_completed(typed, found):
    """A command, an option, and the name of a file, which the shell knows."""
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_BSQCODEC_COMPLETE": "bash_complete"}
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'bsqcodec'\n" + ENTRY[2]]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **words})
    assert done.returncode == 0 and done.stdout.split() == [found] and not done.stderr
