"""Encodes, decodes and measures every (item, codec, point), and keeps the records of what is done."""

import contextlib
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ..errors import BsqError, first_line
from ..jobs.cluster import connect
from .codec import Codec
from .datasets import Item
from .frames import frames_of
from .machine import peak_memory, reset_peak_memory
from .metrics import METRICS, measure
from .ours import Bsq

CACHE = "cache.jsonl"

Record = dict[str, Any]  # of one task, as `run_task` makes it


@dataclass(frozen=True)
class Task:
    """One point of one codec's curve for one item.

    Attributes:
        item: the image or video.
        codec: with its settings.
        options: the codec's words for its options; part of the key, so that a change of them makes another task.
        point: quality setting of the codec.
        metrics: names in METRICS.
        frames: largest number of frames that are coded; 0 is all.
        threads: of torch, for our codec and some metrics. Anchors always run on one.
    """

    item: Item
    codec: Codec
    options: str
    point: float
    metrics: tuple[str, ...]
    frames: int
    threads: int

    @property
    def key(self) -> str:
        """Text that tells a task from every other one, but for its metrics."""
        item = self.item
        parts = (item.name, item.size, item.crc, self.codec.name, self.options, f"{self.point:g}", self.frames)
        return " | ".join(map(str, parts))


def run_task(task: Task) -> Record:
    """Encode, decode and measure; returns a record, which has "error" in place of results if anything failed."""
    record = {"key": task.key, "item": task.item.name, "codec": task.codec.name, "point": task.point}
    try:
        return record | _run(task)
    except BsqError as error:
        return record | {"error": str(error)}
    except Exception as error:
        return record | {"error": _line(error)}


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _run(task: Task) -> Record:
    torch.set_num_threads(task.threads)
    item, codec = task.item, task.codec
    load_seconds = codec.load()
    if codec.options() != task.options:  # a cluster whose machines differ
        raise BsqError(f"the worker would run {codec.options()}, not {task.options}")
    source = _Timed(_source(task))
    reset_peak_memory()
    start = time.perf_counter()
    chunks = codec.encode(source, item.fps, task.point)
    encode_seconds = time.perf_counter() - start - source.seconds
    encode_peak = peak_memory()
    with tempfile.TemporaryDirectory(prefix="bsqcodec-bench-") as folder:
        raw = Path(folder, "decoded.rgb")
        reset_peak_memory()
        decoded = _Timed(codec.decode(chunks, item.height, item.width))
        with raw.open("wb") as file:
            for frame in decoded:
                file.write(frame.tobytes())
        decode_peak = peak_memory()
        shape = (-1, item.height, item.width, 3)
        values = measure(_source(task), np.memmap(raw, np.uint8, "r").reshape(shape), task.metrics)
    size = sum(map(len, chunks))
    return {
        "options": task.options,
        "bytes": size,
        "frames": source.count,
        "bpp": size * 8 / (item.width * item.height * source.count),
        "encode_seconds": encode_seconds,
        "decode_seconds": decoded.seconds,
        "load_seconds": load_seconds,
        "encode_peak_mib": encode_peak,
        "decode_peak_mib": decode_peak,
        "device": codec.device(),
        "threads": task.threads if isinstance(codec, Bsq) else 1,
        "metrics": values,
    }


def _source(task: Task) -> Iterator[np.ndarray]:
    return frames_of(Path(task.item.path), task.frames or None)


class _Timed:
    """An iterator of frames that counts them, and the seconds spent inside the iterator that it wraps."""

    def __init__(self, inner: Iterator[np.ndarray]):
        self.inner, self.seconds, self.count = inner, 0.0, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        start = time.perf_counter()
        try:
            frame = next(self.inner)
        finally:
            self.seconds += time.perf_counter() - start
        self.count += 1
        return frame


def read_cache(path: Path) -> dict[str, Record]:
    """Finished records by key. A line that was cut off is left out."""
    records: dict[str, Record] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                record = json.loads(line)
                records[record["key"]] = record
    return records


def run(
    tasks: list[Task],
    folder: Path,
    jobs: int = 1,
    dask: str = "",
    progress: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Run the tasks that are not done yet.

    Args:
        tasks: in any order.
        folder: holds the cache, to which each record is added as soon as it is there.
        jobs: number of processes on this machine.
        dask: address of a dask.distributed scheduler to use instead; its workers must see the same files.
        progress: called with each record, old or new, as it comes.

    Returns:
        One record per task, in the order of the tasks.

    Raises:
        BsqError: a process died, or the cluster gave up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cache = read_cache(folder / CACHE)
    records: dict[str, Record] = {}
    todo = []
    for task in tasks:
        known = cache.get(task.key)
        if known and {METRICS[name].key for name in task.metrics} <= known["metrics"].keys():
            records[task.key] = known
            progress(known)
        else:
            todo.append(task)
    mapped = _dask(todo, dask) if dask else _processes(todo, jobs) if jobs > 1 else map(run_task, todo)
    with (folder / CACHE).open("a+b") as file:
        if file.tell() and not _ends_in_newline(file):
            file.write(b"\n")
        for record in mapped:
            key = record["key"]
            if "error" not in record:
                if key in cache:
                    record["metrics"] = cache[key]["metrics"] | record["metrics"]
                file.write(json.dumps(record).encode() + b"\n")
                file.flush()
            records[key] = record
            progress(record)
    return [records[task.key] for task in tasks]


def _ends_in_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _processes(tasks: list[Task], jobs: int) -> Iterator[Record]:
    if not tasks:
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), context, _ignore_interrupt)
    try:
        for future in as_completed([pool.submit(run_task, task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool:
        raise BsqError("a worker process died, perhaps for want of memory; what was finished is kept") from None
    except BaseException:
        # the records that the processes are working on would be lost anyway
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupt() -> None:
    """Ctrl-C reaches all processes of a terminal; the parent, which has to tidy up, ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _dask(tasks: list[Task], address: str) -> Iterator[Record]:
    client = connect(address)
    from dask.distributed import as_completed as completed

    with client, client.as_current():  # `completed` waits for the current client
        try:
            for _, record in completed(client.map(run_task, tasks, pure=False), with_results=True):
                yield record
        except Exception as error:  # run_task raises none: a worker died, or the scheduler has gone
            raise BsqError(f"dask at {address} gave up: {_line(error)}") from None


def tasks_for(
    items: Iterable[Item],
    codecs: Iterable[Codec],
    points: dict[str, tuple[float, ...]],
    metrics: tuple[str, ...],
    frames: int,
    threads: int,
) -> list[Task]:
    """The tasks of all items, codecs and points, item by item.

    `points` holds points by codec name, in place of that codec's default ones; the rest is as in `Task`.
    """
    described = [(codec, codec.options()) for codec in codecs]
    return [
        Task(item, codec, options, float(point), metrics, frames, threads)
        for item in items
        for codec, options in described
        for point in dict.fromkeys(points.get(codec.name, codec.points))
    ]
