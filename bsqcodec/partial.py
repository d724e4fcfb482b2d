"""What an encode has written before all is whole: a hidden file beside its target, `.NAME.PID.part`.

It survives a kill, and a later encode can go on with it. Who writes it holds a lock, by which leftovers can be told.
"""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from . import media
from .codec import GopEncoder, decode_gop, frame_headers, group_tune
from .errors import BsqError, FormatError
from .info import AudioPacket, Frame
from .stream import Gop, StreamReader

if TYPE_CHECKING:
    from .api import Encoder

try:
    import fcntl
except ImportError:  # Windows, where a file that another process has open cannot be removed or renamed anyway
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def opened(final: str, part: str, resume: bool) -> Iterator[BinaryIO]:
    """The hidden file, which is renamed to `final` on normal exit; others that were left of `final` are then removed.

    Args:
        part: its name, if no other one is resumed.
        resume: take the largest that was left, and leave it on an exception. Else it is empty, and removed then.

    Raises BsqError if another process writes it.
    """
    if resume:
        part = max(_left(final), key=os.path.getsize, default=part)
    with open(part, "a+b") as file, _locked(file) as mine:
        if not mine:
            raise BsqError(f"another process is writing {final}")
        begun = False
        try:
            if not resume:
                file.truncate(0)
            try:
                yield file
            finally:
                begun = os.fstat(file.fileno()).st_size > 0  # what is still in the buffer is no whole group
            file.close()
            media.rename(part, final)
        except BaseException:
            with contextlib.suppress(OSError):
                file.close()
            if not (resume and begun):
                with contextlib.suppress(OSError):
                    os.remove(part)
            raise
    for name in _left(final):
        with contextlib.suppress(OSError), open(name, "r+b") as file, _locked(file) as mine:
            if mine:
                os.remove(name)


def _left(final: str) -> list[str]:
    """Hidden files of `final`."""
    folder, name = os.path.split(final)
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9]+\.part")
    with contextlib.suppress(OSError):  # a folder that can be written but not read
        paths = (os.path.join(folder, n) for n in os.listdir(folder) if pattern.fullmatch(n))
        return [path for path in paths if os.path.isfile(path)]
    return []


@contextlib.contextmanager
def _locked(file: BinaryIO) -> Iterator[bool]:
    """Whether no other process has the lock; then this one has it to the end, even if `file` is closed before."""
    if fcntl is None:
        yield True
        return
    descriptor = os.dup(file.fileno())
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(descriptor), os.stat(file.name))  # not renamed or removed meanwhile
        except (BlockingIOError, FileNotFoundError):
            mine = False
        except OSError:
            mine = True  # a file system without locks
        yield mine
    finally:
        os.close(descriptor)


class Unfinished:
    """The whole groups of pictures at the start of a stream that was cut short.

    They are not encoded again, but their input is read again: times, sound and the state of a rate control follow from
    it as they did before, and what is written is compared with what is there.

    Args:
        file: open for reading and appending.
        gop: frames of a group. Raises BsqError if the groups have others.

    Attributes:
        output: what to write to in place of `file`.
    """

    def __init__(self, file: BinaryIO, gop: int):
        self._file = file
        self._groups = end = 0
        short = None
        for chunk in self._chunks():
            n = len(chunk.pts)
            if short is not None or n > gop:
                raise self._other(f"groups of {n if short is None else short} frames, not {gop}")
            if n < gop:  # the last one of the video, which there must be once more to see that it ends there
                short = n
                continue
            self._groups, end = self._groups + 1, self._end
        self.output: Any = _Again(file, end, self._other("another input, model or options"))

    def again(self, encoder: "Encoder", items: Iterator[Frame | AudioPacket]) -> Iterator[Gop]:
        """Write the groups, with their input from `items`, of which the rest is left; yields each when it is written.

        Raises BsqError if a group was made for another quality or tune or, which is seen in the last one, of other
        frames.
        """
        for number, gop in enumerate(itertools.islice(self._chunks(), self._groups), 1):
            pts: list[int] = []
            for item in items:
                if isinstance(item, AudioPacket):
                    encoder.write_audio(item)
                    continue
                if not pts:
                    self._check(gop, encoder, item.rgb if number == self._groups else None)
                pts.append(item.pts)
                if len(pts) == len(gop.pts):
                    break
            else:
                raise self._other("a longer input")
            encoder.write_coded(pts, gop.payload, 8 * len(gop.payload))
            yield gop

    def _check(self, gop: Gop, encoder: "Encoder", rgb: np.ndarray | None) -> None:
        size, frames = (encoder.info.height, encoder.info.width), len(gop.pts)
        headers = frame_headers(gop.payload, frames)
        quality = headers[0].quality
        if any(h.place.after is not None for h in headers) != (encoder.mini > 1 and frames > 2):
            raise self._other("another --low-delay")
        if quality != encoder.quality:
            raise self._other(f"quality {quality}, not {encoder.quality}")
        tune = group_tune(gop.payload, frames)
        if tune != encoder.tune:
            raise self._other(f"tune {tune}, not {encoder.tune}")
        if rgb is not None:
            decoded = next(decode_gop(encoder.model, gop.payload, *size, frames))
            again = GopEncoder(encoder.model, *size, encoder.effort, tune=tune).push(rgb, quality)[0]
            if not np.array_equal(decoded, again):
                raise self._other("another input or options, or on another machine")

    def _chunks(self) -> Iterator[Gop]:
        """Up to the first that is not whole; `_end` is where the last one ends."""
        with contextlib.suppress(FormatError), open(self._file.name, "rb") as file:
            reader = StreamReader(file)
            for chunk in reader.chunks():
                if isinstance(chunk, Gop):
                    self._end = reader.size
                    yield chunk

    def _other(self, what: str) -> BsqError:
        return BsqError(f"{self._file.name} was made from or with {what}; remove it, or encode without --resume")


class _Again:
    """Compares what is written with the first `size` bytes of a file, then replaces the rest. Raises `error`."""

    def __init__(self, file: BinaryIO, size: int, error: BsqError):
        self._file, self._size, self._left, self._error = file, size, size, error
        self._cut = False
        file.seek(0)

    def write(self, data: bytes) -> None:
        n = min(len(data), self._left)
        if self._file.read(n) != data[:n]:
            raise self._error
        self._left -= n
        if n < len(data):
            if not self._cut:
                self._file.truncate(self._size)
                self._cut = True
            self._file.write(data[n:])

    def flush(self) -> None:
        self._file.flush()
