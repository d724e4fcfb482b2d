"""Several processes give what one gives, and end as one does."""

import io
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

import bsqcodec
from bsqcodec import BsqError, FormatError
from bsqcodec.jobs import processes
from bsqcodec.jobs.processes import Processes, choose_jobs
from bsqcodec.network.weights import load_model
from helpers import exit_status


def no_children_left():
    deadline = time.monotonic() + 120
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not multiprocessing.active_children()


def test_same_bytes_and_pictures_from_two_processes(clip, tmp_path):
    folder, one = clip
    seen = []
    two = bsqcodec.encode_file(
        str(folder / "in"), str(tmp_path / "two.bsq"), gop=2, jobs=2, progress=lambda r, total: seen.append(r.frames)
    )
    assert (tmp_path / "two.bsq").read_bytes() == (folder / "one.bsq").read_bytes()
    assert two.md5 == one.md5 and two.frames == 7 and two.qualities == one.qualities and seen == list(range(1, 8))
    assert math.isclose(two.bits, one.bits)
    a = bsqcodec.decode_file(str(tmp_path / "two.bsq"), None, (1, 6))  # begins and ends within groups
    b = bsqcodec.decode_file(str(tmp_path / "two.bsq"), None, (1, 6), jobs=2)
    assert a.md5 == b.md5 and a.frames == b.frames == 5
    assert no_children_left()


def test_damage_is_told_and_kept_apart_as_by_one_process(clip, tmp_path):
    folder, _ = clip
    data = (folder / "one.bsq").read_bytes()
    reader = bsqcodec.Decoder(io.BytesIO(data))
    at = reader.index()[2].offset + 20
    (tmp_path / "bad.bsq").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    source = str(tmp_path / "bad.bsq")
    found = []
    for jobs in (1, 2):
        with pytest.raises(FormatError) as error:
            bsqcodec.decode_file(source, None, jobs=jobs)
        result = bsqcodec.decode_file(source, None, conceal=True, jobs=jobs)
        found.append((str(error.value), result.md5, result.warnings, result.frames))
    assert found[0] == found[1] and found[0][3] == 7 and found[0][2]
    assert no_children_left()


def test_a_broken_source_stops_the_workers(clip, tmp_path):
    folder, _ = clip
    (tmp_path / "in").mkdir()
    for i in range(2):  # a group that is under way when the source breaks
        os.link(folder / "in" / f"{i}.png", tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "6.png").write_bytes(b"no image")
    with pytest.raises(BsqError, match=r"6\.png"):
        bsqcodec.encode_file(str(tmp_path / "in"), str(tmp_path / "x.bsq"), gop=2, jobs=2)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    assert no_children_left()


def test_a_worker_that_dies_is_one_line():
    with pytest.raises(BsqError, match="died"), Processes(1, partial(os._exit, 3)) as workers:
        workers.decode(b"", 16, 16, 1, 1).result()
    assert no_children_left()


def test_a_task_for_workers_that_have_died_is_one_line():
    with Processes(1, partial(os._exit, 3)) as workers:
        with pytest.raises(BsqError, match="died"):
            workers.decode(b"", 16, 16, 1, 1).result()
        with pytest.raises(BsqError, match="died"):
            workers.decode(b"", 16, 16, 1, 1)
    assert no_children_left()


def test_only_while_it_has_workers_this_process_uses_one_thread(monkeypatch):
    counts = [3]
    monkeypatch.setattr(processes.torch, "get_num_threads", lambda: counts[-1])
    monkeypatch.setattr(processes.torch, "set_num_threads", counts.append)
    workers = Processes(1, load_model)
    assert counts == [3]
    with workers:
        assert counts == [3, 1]
    assert counts == [3, 1, 3]
    with pytest.raises(BsqError, match="broken"), Processes(1, load_model):
        raise BsqError("broken")
    assert counts == [3, 1, 3, 1, 3]


@pytest.fixture
def interruptible():
    """SIGINT raises KeyboardInterrupt, whatever handler the program has left; another thread may get it, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait, daemon=True)
    thread.start()
    yield thread
    leave.set()
    thread.join()
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_until_a_process_is_started(monkeypatch, interruptible):
    """Else it would miss what it was started for, and say so. Whichever thread the system interrupts."""
    submitted = []

    def interrupted(*_):
        signal.pthread_kill(interruptible.ident, signal.SIGINT)
        time.sleep(0.1)
        submitted.append(True)

    with Processes(1, load_model) as workers:
        monkeypatch.setattr(workers._pool._pool, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            workers.decode(b"", 16, 16, 1, 1)
    assert submitted == [True]
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_jobs_are_refused_where_groups_depend_on_each_other(clip, tmp_path, capsys):
    folder, _ = clip
    assert exit_status("encode", folder / "in", tmp_path / "x.bsq", "--bpp", 0.5, "--jobs", 2) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(BsqError, match="name"):
        bsqcodec.encode_file(str(folder / "in"), str(tmp_path / "x.bsq"), model=load_model(), jobs=2)
    with pytest.raises(BsqError, match="name"):
        bsqcodec.decode_file(str(folder / "one.bsq"), None, model=load_model(), jobs=2)


def test_processes_are_only_started_where_they_are_worth_it(monkeypatch):
    monkeypatch.setattr(processes.torch, "get_num_threads", lambda: 2)
    frame = 3 * 640 * 360
    assert choose_jobs(1000, 32, frame) == 2
    assert choose_jobs(None, 32, frame) == choose_jobs(32, 32, frame) == choose_jobs(33, 32, 3 * 16 * 16) == 1
    assert choose_jobs(1000, 1000, frame) == 1  # a group too large to be handed over
    monkeypatch.setattr(processes.torch, "get_num_threads", lambda: 1)
    assert choose_jobs(1000, 32, frame) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_or_killed_leaves_no_process_and_no_file(clip, tmp_path, number):
    folder, _ = clip
    words = ["encode", str(folder / "in"), str(tmp_path / "x.bsq"), "-q", "50", "--gop", "2", "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bsqcodec", *words], stderr=subprocess.PIPE, start_new_session=True
    )
    workers = []
    deadline = time.monotonic() + 600
    while not workers and process.poll() is None and time.monotonic() < deadline:
        workers = children(process.pid)
        time.sleep(0.02)
    assert workers
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: all of them
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=600)
    deadline = time.monotonic() + 600
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)
    assert not (tmp_path / "x.bsq").exists()
    if number == signal.SIGINT:
        assert process.returncode == 130 and b"Traceback" not in errors and not list(tmp_path.iterdir())


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
