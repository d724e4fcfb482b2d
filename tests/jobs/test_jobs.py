"""Several processes and threads give what one gives, and end as one does."""

import io
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from skimage import data as skdata

import bsqcodec
from bsqcodec import BsqError, FormatError
from bsqcodec.errors import ModelError
from bsqcodec.jobs import cluster
from bsqcodec.jobs import processes as parallel
from bsqcodec.jobs.cluster import Cluster
from bsqcodec.jobs.processes import Workers, choose_jobs
from bsqcodec.network.weights import load_model
from bsqcodec.prefetch import read_ahead
from bsqcodec.settings import DEFAULT_MODEL, EncodeSettings
from bsqcodec.types import AudioPacket, Frame
from helpers import exit_status


def no_children_left():
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not multiprocessing.active_children()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder of 7 frames, and what one process makes of it in groups of 2."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("clip")
    (folder / "in").mkdir()
    picture = skdata.astronaut()
    for i in range(7):
        Image.fromarray(picture[100 + 3 * i : 148 + 3 * i, 200:280]).save(folder / "in" / f"{i}.png")
    result = bsqcodec.encode_file(str(folder / "in"), str(folder / "one.bsq"), gop=2)
    return folder, result


def test_same_bytes_and_pictures_from_two_processes(clip, tmp_path):
    folder, one = clip
    seen = []
    two = bsqcodec.encode_file(
        str(folder / "in"), str(tmp_path / "two.bsq"), gop=2, jobs=2, progress=lambda r, total: seen.append(r.frames)
    )
    assert (tmp_path / "two.bsq").read_bytes() == (folder / "one.bsq").read_bytes()
    assert two.md5 == one.md5 and two.frames == 7 and two.qualities == one.qualities and seen == list(range(1, 8))
    assert math.isclose(two.bits, one.bits)
    for frames in ((0, None), (3, 6)):
        a = bsqcodec.decode_file(str(tmp_path / "two.bsq"), None, frames)
        b = bsqcodec.decode_file(str(tmp_path / "two.bsq"), None, frames, jobs=2)
        assert a.md5 == b.md5 and a.frames == b.frames
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


def test_a_damaged_group_keeps_the_frames_before_the_damage(clip, monkeypatch):
    """What a worker returns stands for what `decode_gop` would yield and raise."""
    pictures = [np.full((2, 2, 3), i, np.uint8) for i in range(3)]

    def broken(*_):
        yield from pictures[:2]
        raise FormatError("the coded bits are damaged")

    monkeypatch.setattr(parallel, "decode_gop", broken)
    future = parallel.Future()
    future.set_result(parallel._decode(None, b"", 2, 2, 3, 3))
    frames = parallel.decoded(future)
    assert [int(next(frames)[0, 0, 0]) for _ in range(2)] == [0, 1]
    with pytest.raises(FormatError, match="damaged"):
        next(frames)
    assert len(parallel._decode(None, b"", 2, 2, 3, 1)[0]) == 1


def test_a_broken_source_stops_the_workers(clip, tmp_path):
    folder, _ = clip
    (tmp_path / "in").mkdir()
    for i in range(6):
        os.link(folder / "in" / f"{i}.png", tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "6.png").write_bytes(b"no image")
    with pytest.raises(BsqError, match="6.png"):
        bsqcodec.encode_file(str(tmp_path / "in"), str(tmp_path / "x.bsq"), gop=2, jobs=2)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    assert no_children_left()


def test_a_worker_that_dies_is_one_line(tmp_path):
    with pytest.raises(BsqError, match="died"):
        with Workers(1, partial(os._exit, 3)) as workers:
            parallel._result(workers.decode(b"", 16, 16, 1, 1))
    assert no_children_left()


def test_jobs_are_refused_where_groups_depend_on_each_other(clip, tmp_path, capsys):
    folder, _ = clip
    assert exit_status("encode", folder / "in", tmp_path / "x.bsq", "--bpp", 0.5, "--jobs", 2) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(BsqError, match="name"):
        bsqcodec.encode_file(str(folder / "in"), str(tmp_path / "x.bsq"), model=load_model(), jobs=2)
    with pytest.raises(BsqError, match="name"):
        bsqcodec.decode_file(str(folder / "one.bsq"), None, model=load_model(), jobs=2)


@pytest.fixture(scope="module")
def scheduler():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as local:
        yield local.scheduler_address


def test_same_bytes_and_pictures_from_a_cluster(clip, scheduler, tmp_path):
    folder, one = clip
    out = tmp_path / "cluster.bsq"
    assert exit_status("encode", folder / "in", out, "--gop", 2, "--dask", scheduler, "--quiet") == 0
    assert out.read_bytes() == (folder / "one.bsq").read_bytes()
    assert bsqcodec.decode_file(str(out), None, dask=scheduler).md5 == one.md5
    part = bsqcodec.decode_file(str(out), None, (3, 6))
    assert bsqcodec.decode_file(str(out), None, (3, 6), dask=scheduler).md5 == part.md5


def test_a_cluster_that_fails_is_one_line(clip, scheduler, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 1)
    with Cluster(scheduler, None, bytes(8)) as workers, pytest.raises(ModelError, match="not installed"):
        next(workers.encode([Frame(np.zeros((16, 16, 3), np.uint8), 0)], 1, 50, 0, 1))
    with Cluster(scheduler, DEFAULT_MODEL, bytes(8)) as workers, pytest.raises(ModelError, match="another model"):
        next(workers.encode([Frame(np.zeros((16, 16, 3), np.uint8), 0)], 1, 50, 0, 1))
    with Cluster(scheduler, None, load_model().id) as workers, pytest.raises(BsqError, match="gave up"):
        workers.decode(b"", "no height", 16, 1, 1).result()
    with pytest.raises(BsqError, match="no dask scheduler"):
        bsqcodec.encode_file(str(clip[0] / "in"), str(tmp_path / "x.bsq"), dask="tcp://127.0.0.1:1")
    assert not list(tmp_path.iterdir())


def test_a_cluster_is_refused_where_it_cannot_work(clip, tmp_path, monkeypatch, capsys):
    folder, _ = clip
    source, address = folder / "in", "tcp://127.0.0.1:1"
    for more in (("--bpp", 0.5), ("--jobs", 2)):
        assert exit_status("encode", source, tmp_path / "x.bsq", "--dask", address, *more) == 1
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(BsqError, match="name"):
        bsqcodec.decode_file(str(folder / "one.bsq"), None, model=load_model(), dask=address)
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    for words in (("encode", source, tmp_path / "x.bsq"), ("decode", folder / "one.bsq", "--md5")):
        assert exit_status(*words, "--dask", address) == 1
        assert "pip install" in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_processes_are_only_started_where_they_are_worth_it(monkeypatch):
    monkeypatch.setattr(parallel.torch, "get_num_threads", lambda: 2)
    frame = 3 * 640 * 360
    assert choose_jobs(1000, 32, frame) == 2
    assert choose_jobs(None, 32, frame) == choose_jobs(32, 32, frame) == choose_jobs(33, 32, 3 * 16 * 16) == 1
    assert choose_jobs(1000, 1000, frame) == 1  # a group too large to be handed over
    monkeypatch.setattr(parallel.torch, "get_num_threads", lambda: 1)
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
    deadline = time.monotonic() + 60
    while not workers and process.poll() is None and time.monotonic() < deadline:
        workers = children(process.pid)
        time.sleep(0.02)
    assert workers
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: all of them
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    deadline = time.monotonic() + 60
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


class _Instant:
    """Workers whose futures are done at once; counts how many are under way."""

    def __init__(self, jobs):
        self.jobs, self.under_way, self.most = jobs, 0, 0

    ahead = Workers.ahead

    def start(self, item):
        if not isinstance(item, int):
            return None
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        future = parallel.Future()
        future.set_result(item)
        return future


def test_order_bounds_and_errors_of_the_queue():
    def items():
        yield from (0, "sound", 1, 2, 3, 4)
        raise BsqError("broken")

    for size, most in ((1, 3), (1 << 30, 1)):
        workers, seen = _Instant(2), []
        with pytest.raises(BsqError, match="broken"):
            for item, future in workers.ahead(items(), workers.start, lambda _, size=size: size):
                seen.append(item)
                workers.under_way -= future is not None
        assert seen == [0, "sound", 1, 2, 3, 4] and workers.most <= most


def test_groups_take_the_place_of_their_last_frame(monkeypatch):
    workers = _Instant(2)
    monkeypatch.setattr(_Instant, "encode", Workers.encode, raising=False)
    monkeypatch.setattr(_Instant, "_submit", lambda self, task, group, *options: self.done(len(group)), raising=False)
    monkeypatch.setattr(_Instant, "done", lambda self, n: self.start(n), raising=False)
    sound = AudioPacket(0, 1, b"x")
    frame = Frame(np.zeros((1, 1, 3), np.uint8), 0)
    assert list(workers.encode([frame, sound, frame, sound, frame], EncodeSettings(gop=2))) == [sound, 2, sound, 1]


def test_reading_ahead_keeps_order_errors_and_bounds():
    made = []

    def items():
        for i in range(100):
            made.append(i)
            yield i
        raise BsqError("broken")

    with read_ahead(items(), 3) as ready:
        assert next(ready) == 0
        time.sleep(0.2)
        assert len(made) <= 5
    assert len(made) <= 6
    with pytest.raises(BsqError, match="broken"), read_ahead(iter(items()), 3) as ready:
        assert list(zip(ready, range(100)))[-1] == (99, 99)
        next(ready)
