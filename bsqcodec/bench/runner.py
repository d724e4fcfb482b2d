"""Runs (item, codec, point) triples, keeps what is done, and averages it into curves."""

import contextlib
import json
import math
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BsqError
from ..jobs.cluster import connect
from .anchors import Bsq, Codec
from .datasets import Item, frames_of
from .metrics import METRICS, measure

CACHE = "cache.jsonl"


@dataclass(frozen=True)
class Task:
    """One point of one codec's curve for one item.

    Attributes:
        options: the codec's own words for its options; part of the key, so that a change of them is a new triple.
        frames: at most that many are coded; 0 is all.
        threads: of torch: our codec and some metrics. Anchors always run on one.
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
        item = self.item
        parts = (item.name, item.size, item.crc, self.codec.name, self.options, f"{self.point:g}", self.frames)
        return " | ".join(map(str, parts))


def run_task(task: Task) -> dict[str, Any]:
    """Encode, decode and measure; returns a record. What fails gives a record with "error" in place of results."""
    record = {"key": task.key, "item": task.item.name, "codec": task.codec.name, "point": task.point}
    try:
        return record | _run(task)
    except BsqError as error:
        return record | {"error": str(error)}
    except Exception as error:
        return record | {"error": _line(error)}


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _run(task: Task) -> dict[str, Any]:
    import torch

    torch.set_num_threads(task.threads)
    item, codec = task.item, task.codec
    load_seconds = codec.load()
    if codec.options() != task.options:  # a cluster whose machines differ
        raise BsqError(f"the worker would run {codec.options()}, not {task.options}")
    source = _Timed(_source(task))
    _reset_peak()
    start = time.perf_counter()
    chunks = codec.encode(source, item.fps, task.point)
    encode_seconds = time.perf_counter() - start - source.seconds
    encode_peak = _peak()
    with tempfile.TemporaryDirectory(prefix="bsqcodec-bench-") as folder:
        raw = Path(folder, "decoded.rgb")
        _reset_peak()
        decoded = _Timed(codec.decode(chunks, item.height, item.width))
        with raw.open("wb") as file:
            for frame in decoded:
                file.write(frame.tobytes())
        decode_peak = _peak()
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
    """An iterator that counts items and the seconds spent inside the one it wraps."""

    def __init__(self, inner: Iterator[np.ndarray]):
        self.inner, self.seconds, self.count = inner, 0.0, 0

    def __iter__(self):
        return self

    def __next__(self) -> np.ndarray:
        start = time.perf_counter()
        try:
            frame = next(self.inner)
        finally:
            self.seconds += time.perf_counter() - start
        self.count += 1
        return frame


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
    """Peak resident memory of this process in MiB: since `_reset_peak` on Linux, since its start elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def read_cache(path: Path) -> dict[str, dict[str, Any]]:
    """Finished records by key. A line that was cut off is left out."""
    records = {}
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
    progress: Callable[[dict[str, Any]], None] = lambda record: None,
) -> list[dict[str, Any]]:
    """Run what is not done yet.

    Args:
        folder: holds the cache, to which each record is added as soon as it is there.
        jobs: processes on this machine.
        dask: address of a dask.distributed scheduler to use instead; its workers must see the same files.
        progress: called with each record, old or new, as it comes.

    Returns:
        One record a task, in the order of the tasks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cache = read_cache(folder / CACHE)
    records: dict[str, dict[str, Any]] = {}
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


def _ends_in_newline(file) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _processes(tasks: list[Task], jobs: int) -> Iterator[dict[str, Any]]:
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
        # nobody waits for what they are at
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupt() -> None:
    """Ctrl-C reaches all processes of a terminal; the parent, which has to tidy up, ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _dask(tasks: list[Task], address: str) -> Iterator[dict[str, Any]]:
    client = connect(address)
    from dask.distributed import as_completed as completed

    with client, client.as_current():  # of which `completed` is
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
    """All triples, item by item. `points` overrides the default points of the codecs it names."""
    described = [(codec, codec.options()) for codec in codecs]
    return [
        Task(item, codec, options, float(point), metrics, frames, threads)
        for item in items
        for codec, options in described
        for point in dict.fromkeys(points.get(codec.name, codec.points))
    ]


def results(
    codec: Codec, items: Iterable[Item], records: Iterable[dict[str, Any]], metrics: Iterable[str]
) -> dict[str, Any]:
    """One codec's result in CompressAI's format with extra keys beside.

    Args:
        items: those to average over; every one must have a record of this codec for each point.
        records: without errors.

    Returns:
        "name", "description", "results" (key to list, points in rising rate: means over items of bits a pixel and of
        each metric, "encoding_time" and "decoding_time" in seconds an item, for videos also "bitrate" in kbit/s),
        "points" (encoder settings), "items" (item name to lists like "results"), "timing". A metric that some item
        was too small for is left out.
    """
    items = list(items)
    mine: dict[str, list[dict[str, Any]]] = {item.name: [] for item in items}
    for record in records:
        if record["codec"] == codec.name and record["item"] in mine:
            mine[record["item"]].append(record)
    fps = {item.name: item.fps for item in items}
    keys = [METRICS[name].key for name in metrics]
    points = sorted({r["point"] for rs in mine.values() for r in rs}, reverse=not codec.rising)
    per_item = {}
    for name, rows in mine.items():
        rows.sort(key=lambda r: points.index(r["point"]))
        lists = {"bpp": [r["bpp"] for r in rows]}
        if fps[name]:
            lists["bitrate"] = [r["bytes"] * 8 / 1000 / (r["frames"] / fps[name]) for r in rows]
        lists |= {key: [r["metrics"][key] for r in rows] for key in keys}
        lists["encoding_time"] = [r["encode_seconds"] for r in rows]
        lists["decoding_time"] = [r["decode_seconds"] for r in rows]
        per_item[name] = {k: v for k, v in lists.items() if not any(map(math.isnan, v))}
    shared = [k for k in next(iter(per_item.values())) if all(k in lists for lists in per_item.values())]
    every = [r for rows in mine.values() for r in rows]
    frames = sum(r["frames"] for r in every)
    return {
        "name": codec.label,
        "description": every[0]["options"],
        "results": {k: np.mean([lists[k] for lists in per_item.values()], axis=0).tolist() for k in shared},
        "points": points,
        "parameter": codec.parameter,
        "timing": {
            "encode_seconds_per_frame": sum(r["encode_seconds"] for r in every) / frames,
            "decode_seconds_per_frame": sum(r["decode_seconds"] for r in every) / frames,
            "load_seconds": max(r["load_seconds"] for r in every),
            "encode_peak_mib": max(r["encode_peak_mib"] for r in every),
            "decode_peak_mib": max(r["decode_peak_mib"] for r in every),
            "device": every[0]["device"],
            "threads": every[0]["threads"],
        },
        "items": per_item,
    }
