"""Groups of pictures encoded and decoded elsewhere, several at a time: the same bytes and pictures as here, in the same
order, with bounded queues. Whatever fails or stops one worker stops all.
"""

import functools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..errors import FormatError, ModelError
from ..gop.picture_group import PictureGroupEncoder, decode_group
from ..network.weights import Model, find_model, load_model
from ..settings import EncodeSettings
from ..types import Frame, FrameFormat, FrameStats, Packet

MAX_GROUP_BYTES = 1 << 29  # of the frames of a group; larger ones are not handed over whole
_MAX_BYTES_AHEAD = 1 << 30  # of the frames of all groups that are handed over
_MAX_ITEMS_AHEAD = 1000  # items between groups, such as packets of tracks, that are read before the first is needed
_T = TypeVar("_T")


class EncodedGroup(NamedTuple):
    """A group of pictures as a worker returns it.

    Attributes:
        pts: presentation time of each frame.
        payload, alpha: the coded group, for `StreamWriter.gop`.
        stats: cost of each frame, in the order of coding.
        decoded: the frames as they will be decoded.
        duration: of the last frame, if it is known.
    """

    pts: list[int]
    payload: bytes
    alpha: bytes
    stats: list[FrameStats]
    decoded: list[np.ndarray]
    duration: int = 0


class Future:
    """A task that was handed to a worker.

    Args:
        future: an object whose `result` waits for the task.
        lost: context in which that is done: it turns the loss of the worker into a BsqError.
    """

    def __init__(self, future: Any, lost: Callable[[], AbstractContextManager[None]]):
        self._future, self._lost = future, lost

    def result(self) -> Any:
        """Wait for what the task returns, or raise what it raises. Raises BsqError if its worker is lost."""
        with self._lost():
            return self._future.result()


class Workers(ABC):
    """A context manager that has tasks done while it is entered.

    Args:
        jobs: how many tasks are worked on at a time.
        load: gives the model; is pickled and called for every task, as `load_once` is meant to be.
    """

    def __init__(self, jobs: int, load: Callable[[], Model]):
        self.jobs, self._load = jobs, load

    def __enter__(self) -> "Workers":
        return self

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None: ...

    @abstractmethod
    def _submit(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """Have a worker `run` a task with `self._load` and the arguments, of which the first may be large; returns what
        waits for it by `result`."""

    @abstractmethod
    def _lost(self) -> AbstractContextManager[None]:
        """A context that turns what the loss of a worker raises into a BsqError."""

    def encode(
        self, items: Iterable[Frame | Packet], settings: EncodeSettings, frame_format: FrameFormat
    ) -> Iterator[Packet | EncodedGroup]:
        """Replace the frames among `items` by EncodedGroup of `settings.gop` frames, each at its last frame's place."""

        def start(item: list[Frame] | Packet) -> Future | None:
            return None if isinstance(item, Packet) else self._start(_encode, item, settings, frame_format)

        def size(item: list[Frame] | Packet) -> int:
            return 0 if isinstance(item, Packet) else sum(frame.rgb.nbytes for frame in item)

        for item, future in self.ahead(_grouped(items, settings.gop), start, size):
            if isinstance(item, Packet):
                yield item
            elif future:
                yield future.result()

    def decode(self, payload: bytes, alpha: bytes, frame_format: FrameFormat, frames: int, count: int) -> Future:
        """Start to decode the first `count` frames of a group of `frames`; `decoded` waits for it."""
        return self._start(_decode, payload, alpha, frame_format, frames, count)

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
            while not ended and len(started) <= self.jobs and sum(started) < _MAX_BYTES_AHEAD:
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
                    elif len(waiting) > _MAX_ITEMS_AHEAD:
                        break
            if not waiting:
                break
            item, future, _ = waiting.popleft()
            yield item, future
        if error:
            raise error

    def _start(self, task: Callable[..., Any], *arguments: Any) -> Future:
        with self._lost():
            return Future(self._submit(task, *arguments), self._lost)


def decoded(future: Future) -> Iterator[np.ndarray]:
    """The frames that `decode_group` would yield of a group, and the error it would raise."""
    frames, error = future.result()
    yield from frames
    if error:
        raise FormatError(error)


def _grouped(items: Iterable[Frame | Packet], gop: int) -> Iterator[list[Frame] | Packet]:
    """The items with their frames in lists of `gop`, the last of which may be shorter."""
    group: list[Frame] = []
    for item in items:
        if not isinstance(item, Frame):
            yield item
            continue
        group.append(item)
        if len(group) == gop:
            yield group
            group = []
    if group:
        yield group


# What follows runs in the worker.


@functools.lru_cache(maxsize=2)
def load_once(name: str | None, identity: bytes) -> Model:
    """The model of a name or path, or None for the packaged one of an id; kept for as long as the worker lives.

    A file that is replaced meanwhile so changes nothing. Threads may share a model: coding does not change it. Raises
    ModelError if the model has another id, or is not there.
    """
    model = find_model(identity) if name is None else load_model(name)
    if model.id != identity:
        raise ModelError(f"a worker has another model {name}: {model.id.hex()}, not {identity.hex()}")
    return model


def run(load: Callable[[], Model], task: Callable[..., _T], *arguments: Any) -> _T:
    """The result of `task` for the model, which `load` keeps from one call to the next, and the arguments."""
    return task(load(), *arguments)


def _encode(model: Model, frames: list[Frame], settings: EncodeSettings, frame_format: FrameFormat) -> EncodedGroup:
    encoder = PictureGroupEncoder(model, frame_format, settings)
    pictures = [picture for frame in frames for picture in encoder.push(frame.rgb, settings.quality)] + encoder.flush()
    pts = [frame.pts for frame in frames]
    return EncodedGroup(pts, *encoder.finish(), encoder.stats, pictures, frames[-1].duration)


def _decode(
    model: Model, payload: bytes, alpha: bytes, frame_format: FrameFormat, frames: int, count: int
) -> tuple[list[np.ndarray], str]:
    """The frames before the first error, at most `count`, and the error's text."""
    pictures: list[np.ndarray] = []
    try:
        for picture in decode_group(model, payload, alpha, frame_format, frames):
            pictures.append(picture)
            if len(pictures) == count:
                break
    except FormatError as e:
        return pictures, str(e)
    return pictures, ""
