"""The runner: it goes on where it stopped, and gives the same in one process, several, and on a cluster."""

import os
from dataclasses import replace

import pytest
from bench_helpers import simple_tasks

from bsqcodec.bench import codec, datasets, runner
from bsqcodec.errors import BsqError


def test_runner_resumes_after_an_interrupt(pictures, tmp_path, monkeypatch):
    tasks = simple_tasks(pictures)
    done = []

    def interrupted(task):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(task.key)
        return runner.__dict__["_original"](task)

    monkeypatch.setattr(runner, "_original", runner.run_task, raising=False)
    monkeypatch.setattr(runner, "run_task", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.run(tasks, tmp_path)
    with (tmp_path / runner.CACHE).open("a") as file:
        file.write('{"key": "torn')
    assert len(runner.read_cache(tmp_path / runner.CACHE)) == 3
    monkeypatch.setattr(runner, "run_task", lambda task: done.append(task.key) or runner._original(task))
    records = runner.run(tasks, tmp_path)
    assert sorted(done) == sorted(t.key for t in tasks) and len(set(done)) == len(tasks) == 6
    assert [r["key"] for r in records] == [t.key for t in tasks]
    assert len(runner.read_cache(tmp_path / runner.CACHE)) == 6
    more = [runner.Task(**(t.__dict__ | {"metrics": ("ssim",)})) for t in tasks]
    records = runner.run(more, tmp_path)
    assert len(done) == 12 and all({"psnr-rgb", "ssim-rgb"} <= r["metrics"].keys() for r in records)


def test_runner_in_processes_and_on_dask_gives_the_same(pictures, tmp_path):
    tasks = simple_tasks(pictures)[:4]
    expected = [(r["bytes"], r["metrics"]) for r in runner.run(tasks, tmp_path / "1")]
    assert [(r["bytes"], r["metrics"]) for r in runner.run(tasks, tmp_path / "2", jobs=2)] == expected
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        records = runner.run(tasks, tmp_path / "3", dask=cluster.scheduler_address)
    assert [(r["bytes"], r["metrics"]) for r in records] == expected


def test_a_worker_that_differs_refuses(pictures):
    (task, *_) = simple_tasks(pictures)
    error = runner.run_task(replace(task, options="Pillow 0.1"))["error"]
    assert error.startswith("the worker would run Pillow ") and error.endswith(", not Pillow 0.1")


class Fatal(codec.Identity):
    """Ends its process."""

    def encode(self, frames, fps, point):
        os._exit(1)


def test_a_worker_that_dies(pictures, tmp_path):
    items = datasets.load(str(pictures)).items
    with pytest.raises(BsqError, match="a worker process died"):
        runner.run(runner.tasks_for(items, [Fatal()], {}, ("psnr",), 1, 1), tmp_path, jobs=2)
