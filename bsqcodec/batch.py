"""Many files with one start: each is encoded or decoded into one folder, and those that fail do not stop the others."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import as_completed
from typing import Any, NamedTuple, NoReturn

from . import media
from .errors import BsqError, explain
from .file_decoder import decode_file
from .file_encoder import encode_file
from .jobs import cluster
from .jobs.choice import check_jobs
from .jobs.processes import Pool, choose_processes
from .model_files import find_file
from .network.weights import device_of
from .output import open_input
from .report import Report, account, bar, failure, many, print_json, say
from .result import Result
from .settings import MAX_PIXELS
from .stream.reader import StreamReader

_FILES_PER_PROCESS = 8  # for fewer it is not worth while to start another
_FILE_BYTES = 1 << 30  # of memory that a picture may take
_WORK: dict[str, Callable[..., Result]] = {"encode": encode_file, "decode": decode_file}


class _Task(NamedTuple):
    """One file: `command`, a key of _WORK, is done with the paths and options; `md5`: its account tells it."""

    command: str
    source: str
    target: str
    md5: bool
    options: dict[str, Any]


def encode_files(sources: Sequence[str], folder: str, report: Report, options: dict[str, Any]) -> bool:
    """Encode each source into `folder` as NAME.bsq.

    folder: is made if it is not there. options: as `encode_file` takes them, but for `jobs`: files at a time, each in a
    process of one thread; None: as many as are worth it. Returns whether all went well.

    Raises BsqError, before anything is done, if two outputs would have one name, the folder cannot be made, or no
    dask scheduler answers.
    """
    find_file(options["model"])  # that it is there is found out here, not for each file
    pairs = _pairs(sources, folder, lambda source: ".bsq")
    return _run("encode", pairs, folder, report, options | {"md5": report.md5})


def decode_files(sources: Sequence[str], folder: str, format: str, report: Report, options: dict[str, Any]) -> bool:
    """Decode each source into `folder`, as `encode_files` does.

    format: a suffix that `media.open_sink` knows; if empty, png for still images and mkv for videos.
    """
    suffix = f".{format.lower().removeprefix('.')}"
    if format and suffix not in media.OUTPUT_SUFFIXES:
        raise BsqError(f"{format!r} is not one of {', '.join(known[1:] for known in media.OUTPUT_SUFFIXES)}")
    if options["model"]:
        find_file(options["model"])
    return _run("decode", _pairs(sources, folder, lambda s: suffix if format else _suffix(s)), folder, report, options)


def _suffix(source: str) -> str:
    """What a stream is decoded to if nothing else is asked for."""
    with contextlib.suppress(BsqError), open_input(source) as file:
        if not StreamReader(file, MAX_PIXELS).info.image:
            return ".mkv"
    return ".png"  # what cannot be read fails when its turn comes


def _pairs(sources: Sequence[str], folder: str, suffix: Callable[[str], str]) -> list[tuple[str, str]]:
    """Each source with its target."""
    taken: dict[str, str] = {}
    pairs = []
    for source in sources:
        if source == "-":
            raise BsqError("standard input has no name for an output in a folder")
        name = os.path.basename(os.path.abspath(source))
        stem = name if os.path.isdir(source) else os.path.splitext(name)[0]
        target = os.path.join(folder, stem + suffix(source))
        key = os.path.normcase(target)
        if key in taken:
            raise BsqError(f"{taken[key]} and {source} would both become {target}")
        taken[key] = source
        pairs.append((source, target))
    return pairs


def _run(command: str, pairs: list[tuple[str, str]], folder: str, report: Report, options: dict[str, Any]) -> bool:
    began = time.perf_counter()
    options, jobs = _divided(options, len(pairs))
    tasks = [_Task(command, *pair, report.md5, options) for pair in pairs]
    done: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(_made(folder))
        stack.callback(_tell_failures, done)
        shown = stack.enter_context(bar(report.quiet, desc=command, unit="file", total=len(tasks)))
        for found in stack.enter_context(contextlib.closing(_accounts(tasks, jobs))):
            done.append(found)
            if report.as_json:
                print_json(found)
            elif report.md5 and "md5" in found:
                print(f"{found['md5']}  {found['source']}", flush=True)
            if shown:
                shown.update()
    whole = [found for found in done if "error" not in found]
    if not report.as_json:
        for found in whole:
            for line in found["warnings"]:
                say(f"warning: {_named(found['source'], line)}")
        if not report.quiet:
            say(_summary(command, whole, len(tasks), time.perf_counter() - began))
    return len(whole) == len(tasks)


def _divided(options: dict[str, Any], files: int) -> tuple[dict[str, Any], int]:
    """The options for each file, and how many files to work on at a time."""
    jobs, dask = options["jobs"], options["dask"]
    check_jobs(jobs, dask)
    if dask:  # that a scheduler answers is found out here, not for each file
        cluster.connect(dask).close()
    if jobs is None and not dask and device_of(options["device"]).type == "cpu":
        jobs = choose_processes(files // _FILES_PER_PROCESS, _FILE_BYTES)
        if jobs == 1:  # then the groups of pictures of a video may share the cores
            return options, 1
    return options | {"jobs": 1}, min(jobs or 1, files)


@contextlib.contextmanager
def _made(folder: str) -> Iterator[None]:
    """Make a folder, if it is not there, which goes if nothing gets into it."""
    try:
        os.mkdir(folder)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise BsqError(f"{folder} is not a folder") from None
        yield
        return
    except OSError as e:
        raise BsqError(f"cannot make the folder {folder}: {e.strerror}") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _accounts(tasks: list[_Task], jobs: int) -> Generator[dict[str, Any], None, None]:
    """What became of each file, as JSON objects, in the order in which they end."""
    if jobs == 1:
        yield from map(_do, tasks)
        return
    with Pool(jobs) as pool:
        for future in as_completed([pool.submit(_do_in_worker, task) for task in tasks]):
            with pool.lost():
                found = future.result()
            yield found


def _tell_failures(done: list[dict[str, Any]]) -> None:
    for found in done:
        if "error" in found:
            say(f"bsqcodec: {_named(found['source'], found['error'])}")


def _named(source: str, line: str) -> str:
    """A line that names the file, once."""
    return line if source in line else f"{source}: {line}"


def _summary(command: str, whole: list[dict[str, Any]], files: int, seconds: float) -> str:
    frames, size = (sum(found.get(key, 0) for found in whole) for key in ("frames", "bytes"))
    text = f"{len(whole)} of {many(files, 'file')}, {many(frames, 'frame')}, "
    if command == "encode" and whole:
        pixels = [found["frames"] * found["width"] * found["height"] for found in whole]
        bits = sum(found["bits_per_pixel"] * n for found, n in zip(whole, pixels, strict=True))
        text += f"{size} bytes, {bits / sum(pixels):.4f} bits per pixel, "
    return text + f"{seconds:.1f} s"


def _do(task: _Task) -> dict[str, Any]:
    """Encode or decode one file, and tell how it went. Raises only what is a mistake of this package."""
    began = time.perf_counter()
    try:
        result = _WORK[task.command](task.source, task.target, **task.options)
    except Exception as e:
        reason = explain(e)
        if reason is None:
            raise
        return failure(task.source, task.target, reason)
    return account(task.source, task.target, result, time.perf_counter() - began, task.md5)


# What follows runs in the worker.


def _do_in_worker(task: _Task) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _do(task)
    except SystemExit:  # which the pool would send back, to go on with the next file
        os._exit(1)


def _stop(*_: Any) -> NoReturn:
    """Let the file that is written be tidied up; the signal may come again while that is done."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(1)
