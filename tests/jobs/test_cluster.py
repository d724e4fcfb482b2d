"""The workers of a cluster give what one process gives, and their errors are one line."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import bsqcodec
from bsqcodec import BsqError
from bsqcodec.errors import ModelError
from bsqcodec.jobs import cluster
from bsqcodec.jobs.cluster import Cluster
from bsqcodec.network.weights import load_model
from bsqcodec.settings import DEFAULT_MODEL, EncodeSettings
from bsqcodec.types import Frame, FrameFormat
from helpers import exit_status


class Threads:
    """Stands for dask's Client, with threads of this process as its one worker."""

    def __init__(self, count):
        self._count, self.closed = count, False
        self._pool = ThreadPoolExecutor(max(count, 1))

    def nthreads(self):
        return {"worker": self._count} if self._count else {}

    def scatter(self, data, hash):
        return list(data)

    def submit(self, function, *arguments, pure):
        return self._pool.submit(function, *arguments)

    def close(self):
        self._pool.shutdown()
        self.closed = True


@pytest.fixture(scope="module")
def scheduler():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as local:
        yield local.scheduler_address


@pytest.fixture(params=["threads", "dask"])
def address(request, monkeypatch):
    """Of a cluster with two threads: one that stands for it, and dask's where that is installed."""
    if request.param == "dask":
        return request.getfixturevalue("scheduler")
    monkeypatch.setattr(cluster, "connect", lambda _: Threads(2))
    return request.param


def test_same_bytes_and_pictures_from_a_cluster(clip, address, tmp_path):
    folder, one = clip
    out = tmp_path / "cluster.bsq"
    assert exit_status("encode", folder / "in", out, "--gop", 2, "--dask", address, "--quiet") == 0
    assert out.read_bytes() == (folder / "one.bsq").read_bytes()
    assert bsqcodec.decode_file(str(out), None, dask=address).md5 == one.md5
    part = bsqcodec.decode_file(str(out), None, (3, 6))
    assert bsqcodec.decode_file(str(out), None, (3, 6), dask=address).md5 == part.md5


def test_a_cluster_that_fails_is_one_line(address):
    frames, settings = [Frame(np.zeros((16, 16, 3), np.uint8), 0)], EncodeSettings(gop=1)
    size = FrameFormat(16, 16)
    with Cluster(address, None, bytes(8)) as workers, pytest.raises(ModelError, match="not installed"):
        next(workers.encode(frames, settings, size))
    with Cluster(address, DEFAULT_MODEL, bytes(8)) as workers, pytest.raises(ModelError, match="another model"):
        next(workers.encode(frames, settings, size))
    with Cluster(address, None, load_model().id) as workers, pytest.raises(BsqError, match="gave up"):
        workers.decode(None, b"", size, 1, 1).result()


def test_a_cluster_without_workers_is_refused(monkeypatch):
    client = Threads(0)
    monkeypatch.setattr(cluster, "connect", lambda _: client)
    with pytest.raises(BsqError, match="has no workers"):
        Cluster("threads", None, bytes(8))
    assert client.closed


def test_a_cluster_that_is_gone_is_one_line(monkeypatch):
    """What is handed over then, too."""
    client = Threads(1)
    monkeypatch.setattr(cluster, "connect", lambda _: client)
    with Cluster("threads", None, bytes(8)) as workers:
        client.close()
        with pytest.raises(BsqError, match="dask at threads gave up"):
            workers.decode(b"", 16, 16, 1, 1)


def test_a_scheduler_that_does_not_answer_is_one_line(clip, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    with pytest.raises(BsqError, match="no dask scheduler"):
        bsqcodec.encode_file(str(clip[0] / "in"), str(tmp_path / "x.bsq"), dask="tcp://127.0.0.1:1")
    assert not list(tmp_path.iterdir())


def test_of_many_files_only_one_waits_for_a_scheduler(clip, tmp_path, monkeypatch, capsys):
    asked = []

    def connect(address):
        asked.append(address)
        raise BsqError(f"no dask scheduler at {address}")

    monkeypatch.setattr(cluster, "connect", connect)
    for words in (("encode", *sorted((clip[0] / "in").iterdir())), ("decode", clip[0] / "one.bsq")):
        asked.clear()
        assert exit_status(*words, "--to", tmp_path / "out", "--dask", "gone") == 1
        assert capsys.readouterr().err == "bsqcodec: no dask scheduler at gone\n" and asked == ["gone"]
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
