"""Going on with an encode that was killed: its whole groups of pictures are kept, checked, and not encoded again."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from .encoder import Encoder
from .errors import BsqError, FormatError
from .gop.alpha import AlphaEncoder
from .gop.decoder import decode_gop
from .gop.encoder import GopEncoder
from .gop.picture_group import colour_of
from .gop.temporal_filter import REACH
from .settings import TUNES
from .stream.container import Gop
from .stream.group import parse_group
from .stream.reader import StreamReader
from .types import Items, Packet


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

    def again(self, encoder: Encoder, items: Items) -> Iterator[Gop]:
        """Write the groups, with their input from `items`, of which the rest is left; yields each when it is written.

        Raises BsqError if a group was made for another quality or tune or, which is seen in the last one, of other
        frames.
        """
        for number, gop in enumerate(itertools.islice(self._chunks(), self._groups), 1):
            self._check(gop, encoder)
            pts: list[int] = []
            duration = 0
            pictures: list[np.ndarray] = []  # the first ones of the last group
            alpha = self._alpha_encoder(encoder) if number == self._groups and encoder.info.alpha else None
            for item in items:
                if isinstance(item, Packet):
                    encoder.write_packet(item)
                    continue
                pts.append(item.pts)
                duration = item.duration
                if number == self._groups and len(pictures) <= REACH:
                    pictures.append(item.rgb)
                if alpha:
                    alpha.push(item.rgb[..., 3])
                if len(pts) == len(gop.pts):
                    break
            else:
                raise self._other("a longer input")
            if pictures:
                self._check_picture(gop, encoder, pictures)
            if alpha and alpha.finish()[0] != gop.alpha:
                raise self._other("another transparency, or --alpha-quality")
            encoder.write_coded(pts, gop.payload, gop.alpha, 8 * len(gop.payload + gop.alpha), duration)
            yield gop

    @staticmethod
    def _alpha_encoder(encoder: Encoder) -> AlphaEncoder:
        return AlphaEncoder(encoder.model, encoder.info.height, encoder.info.width, encoder.settings)

    def _check(self, gop: Gop, encoder: Encoder) -> None:
        """Compare the settings of a group with those of the encoder."""
        frames = len(gop.pts)
        group = parse_group(gop.payload, frames)
        quality, tune = group.headers[0].quality, TUNES[group.tune]
        if any(header.frame_type == "B" for header in group.headers) != (frames > 2 and not encoder.settings.low_delay):
            raise self._other("another --low-delay")
        if quality != encoder.quality:
            raise self._other(f"quality {quality}, not {encoder.quality}")
        if tune != encoder.settings.tune:
            raise self._other(f"tune {tune}, not {encoder.settings.tune}")

    def _check_picture(self, gop: Gop, encoder: Encoder, pictures: list[np.ndarray]) -> None:
        """Compare the first frame of a group with what the encoder makes of the group's first pictures."""
        size = encoder.info.height, encoder.info.width
        decoded = next(decode_gop(encoder.model, gop.payload, *size, len(gop.pts)))
        group = GopEncoder(encoder.model, *size, encoder.settings)
        ready = (group.push(colour_of(picture), encoder.quality) for picture in pictures)
        again = next(filter(None, ready), None) or group.flush()
        if not np.array_equal(decoded, again[0]):
            raise self._other("another input or options, or on another machine")

    def _chunks(self) -> Iterator[Gop]:
        """The groups of pictures up to the first that is not whole; `_end` is where the last one ends."""
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
