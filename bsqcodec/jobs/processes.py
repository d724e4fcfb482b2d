"""Groups of pictures in several processes: the same bytes and pictures as from one, in the same order, with bounded
queues. Whatever fails or stops one of them stops all.
"""

import functools
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from ..errors import BsqError, FormatError
from ..gop.decoder import decode_gop
from ..gop.encoder import GopEncoder
from ..network.weights import Model
from ..settings import EncodeSettings
from ..types import AudioPacket, Frame, FrameStats

MAX_GROUP_BYTES = 1 << 29  # bytes of frames; larger groups are not handed over whole
_MAX_BYTES_IN_FLIGHT = 1 << 30  # bytes of the frames of all groups that are handed over
_MIN_PIXELS = 10_000_000  # pixels: less takes no longer than starting a process
_PROCESS_BYTES = 500 << 20  # bytes of a process
_T = TypeVar("_T")


def choose_jobs(frames: int | None, gop: int, frame_bytes: int) -> int:
    """Processes that are worth it for that many frames (None: unknown): at most torch's threads, in half the memory."""
    if frames is None or frames <= gop or frames * frame_bytes < 3 * _MIN_PIXELS or gop * frame_bytes > MAX_GROUP_BYTES:
        return 1
    groups = -(-frames // gop)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 4 << 30
    return max(1, min(torch.get_num_threads(), groups, memory // 2 // (_PROCESS_BYTES + 4 * gop * frame_bytes)))


class EncodedGroup(NamedTuple):
    """A group of pictures as a worker returns it.

    Attributes:
        pts: presentation time of each frame.
        payload: for `StreamWriter.gop`.
        stats: of each frame.
        decoded: the frames as they will be decoded.
    """

    pts: list[int]
    payload: bytes
    stats: list[FrameStats]
    decoded: list[np.ndarray]


class Workers:
    """Processes of one thread each that encode and decode groups of pictures: a context manager.

    Args:
        jobs: how many.
        load: gives the model; to be pickled.

    Until it is left, this process too uses one thread: several would only wait for the cores that the others have.
    Leaving by an exception stops them at once. A process that dies raises BsqError in the one that waits for it.
    """

    def __init__(self, jobs: int, load: "functools.partial[Model]"):
        self.jobs = jobs
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._load = load
        self._pool = ProcessPoolExecutor(jobs, get_context("spawn"), _start)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        torch.set_num_threads(self._threads)
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if kind is not None:
            for process in processes:
                process.terminate()

    def _submit(self, task: Callable[..., Any], *arguments: Any) -> Future:
        # Ctrl-C reaches every process of the terminal: workers are born deaf to it, and are stopped by this one
        if not hasattr(signal, "pthread_sigmask"):
            return self._pool.submit(run, self._load, task, *arguments)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._pool.submit(run, self._load, task, *arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def encode(
        self, items: Iterable[Frame | AudioPacket], settings: EncodeSettings
    ) -> Iterator[AudioPacket | EncodedGroup]:
        """Replace the frames among `items` by EncodedGroup of `settings.gop` frames, each at its last frame's place."""

        def grouped() -> Iterator[Any]:
            group: list[Frame] = []
            for item in items:
                if not isinstance(item, Frame):
                    yield item
                    continue
                group.append(item)
                if len(group) == settings.gop:
                    yield group
                    group = []
            if group:
                yield group

        def start(item: Any) -> Future | None:
            return self._submit(_encode, item, settings) if isinstance(item, list) else None

        def size(item: Any) -> int:
            return sum(frame.rgb.nbytes for frame in item)

        for item, future in self.ahead(grouped(), start, size):
            yield item if future is None else _result(future)

    def decode(self, payload: bytes, height: int, width: int, frames: int, count: int) -> Future:
        """Start to decode the first `count` frames of a group of `frames`; `decoded` waits for it."""
        return self._submit(_decode, payload, height, width, frames, count)

    def ahead(
        self, items: Iterable[_T], start: Callable[[_T], Future | None], size: Callable[[_T], int]
    ) -> Iterator[tuple[_T, Future | None]]:
        """Every item in order, with what `start` gave for it some time before.

        At most jobs + 1 items are started, and no more (but for one) than bytes of frames by `size` are allowed. An
        error of `items` is raised after all items before it.
        """
        iterator = iter(items)
        waiting: deque[tuple[_T, Future | None, int]] = deque()
        error: Exception | None = None
        ended = False
        while True:
            started = [n for _, future, n in waiting if future is not None]
            while not ended and len(started) <= self.jobs and sum(started) < _MAX_BYTES_IN_FLIGHT:
                try:
                    item = next(iterator)
                except StopIteration:
                    ended = True
                except Exception as e:
                    ended, error = True, e
                else:
                    future = start(item)
                    waiting.append((item, future, size(item) if future else 0))
                    if future:
                        started.append(waiting[-1][2])
                    elif len(waiting) > 1000:  # all of them sound: no reason to read on
                        break
            if not waiting:
                break
            item, future, _ = waiting.popleft()
            yield item, future
        if error:
            raise error


def decoded(future: Future, *_: Any) -> Iterator[np.ndarray]:
    """What `decode_gop` would yield or raise; takes its arguments."""
    frames, error = _result(future)
    yield from frames
    if error:
        raise FormatError(error)


def _result(future: Future) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as e:
        raise BsqError("a process that was to code a group of pictures has died; try fewer with --jobs") from e


# ---------------------------------------------------------------- in the worker


def _start() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End with the process that is served, even if that is killed."""
    parent = parent_process()
    if parent:
        connection.wait([parent.sentinel])
        os._exit(1)


def run(load: "functools.partial[Model]", task: Callable[..., _T], *arguments: Any) -> _T:
    """`task` of the model, which `load` keeps from one call to the next, and the arguments."""
    return task(load(), *arguments)


def _encode(model: Model, frames: list[Frame], settings: EncodeSettings) -> EncodedGroup:
    height, width, _ = frames[0].rgb.shape
    encoder = GopEncoder(model, height, width, settings)
    pictures = [picture for frame in frames for picture in encoder.push(frame.rgb, settings.quality)] + encoder.flush()
    return EncodedGroup([frame.pts for frame in frames], encoder.finish(), encoder.stats, pictures)


def _decode(
    model: Model, payload: bytes, height: int, width: int, frames: int, count: int
) -> tuple[list[np.ndarray], str]:
    """The frames before the first error, and the error."""
    pictures: list[np.ndarray] = []
    try:
        for picture in decode_gop(model, payload, height, width, frames):
            pictures.append(picture)
            if len(pictures) == count:
                break
    except FormatError as e:
        return pictures, str(e)
    return pictures, ""
