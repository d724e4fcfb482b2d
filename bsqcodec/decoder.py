"""Frames of a .bsq stream: in their order, or from any of them on; whole or damaged."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from .errors import BsqError, FormatError
from .gop.alpha import decode_alpha
from .gop.decoder import decode_symbols
from .gop.picture_group import decode_group
from .jobs.workers import MAX_GROUP_BYTES, Future, Workers, decoded
from .network.weights import Model, model_of
from .settings import MAX_PIXELS
from .stream.container import Gop, IndexEntry
from .stream.reader import StreamReader
from .stream.recovery import Lost
from .types import Frame, FrameStats, Packet

DEPTHS = (8, 9, 10, 11, 12, 16)  # bits of a sample of frames
Chunk = Gop | list[Packet] | Lost


class Decoder:
    """Reads a .bsq stream: a context manager.

    Args:
        file: open for reading in binary, at its start; it is left open. A pipe will do, but then `frames` skips by
            reading, and works once.
        device: "auto", "cpu" or "cuda".
        model: where the packaged models lack the one that the stream needs: a model file, or a model that is loaded.
        max_pixels: limit of pixels per frame; streams of larger frames are refused.
        depth: bits of a sample of the frames, 8..12 or 16; None: as many as the stream says.

    Raises ValueError for another depth, FormatError for what is not a stream, ModelError if the model that the stream
    needs is not there. Where a stream is damaged or cut short, iterating raises FormatError after what comes before.

    Attributes:
        info: what is known of the video.
        warnings: a line for each thing that was concealed by the last call of `frames`.
        on_packet: called with every packet of the tracks that lies between the frames that are decoded.
    """

    def __init__(
        self, file: BinaryIO, device: str = "auto", model: Model | str | None = None, max_pixels: int = MAX_PIXELS,
        depth: int | None = None,
    ):  # fmt: skip
        self._file = file
        self.reader = StreamReader(file, max_pixels)
        self.show(depth or self.reader.info.bit_depth)
        self.warnings: list[str] = []
        self._device, self._model = device, model
        self._readings = 0  # how often reading the chunks was begun
        self._given = 0  # number of the frame after the last one that was given away
        self._closed = False
        self.on_packet: Callable[[Packet], None] = lambda packet: None

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True

    @property
    def last_duration(self) -> int:
        """How long the last frame of the stream is shown, in units of time; 0 if not known, or not yet given."""
        return self.reader.last_duration if self._given == self.reader.frames else 0

    def show(self, depth: int) -> None:
        """Give the frames that follow `depth` bits a sample, 8..12 or 16. Raises ValueError for another depth."""
        if depth not in DEPTHS:
            raise ValueError(f"frames of {depth} bits a sample cannot be had, only of {', '.join(map(str, DEPTHS))}")
        self.info = replace(self.reader.info, bit_depth=depth)

    @property
    def model(self) -> Model:
        """The model that the stream needs, loaded when it is first asked for."""
        self._model = model_of(self.reader.model, self._model, self._device)
        return self._model

    def index(self) -> list[IndexEntry] | None:
        """The groups of pictures, or None where the file cannot seek."""
        return self.reader.index() if self._file.seekable() else None

    def frames(
        self, start: int = 0, stop: int | None = None, conceal: bool = False, workers: Workers | None = None
    ) -> Iterator[Frame]:
        """Frames `start` to `stop` - 1; groups of pictures that are not needed are neither read nor decoded.

        With `conceal`, frames that are lost repeat the one before, or are gray; `warnings` tells which. `workers`
        decode several groups at a time. A file can be read as often as wanted, by one iteration at a time: a new one
        ends those before. Raises BsqError for the second reading of a pipe, and in an iteration that was ended so.
        """
        self.warnings.clear()
        with contextlib.suppress(FormatError, AttributeError):  # cut short; an object that can do nothing but read
            self.index()  # tells the duration of the last frame
        picture = None
        for chunk, future in self._wanted(start, stop, conceal, workers):
            count = _count(chunk, stop)
            done, reason = 0, chunk.reason if isinstance(chunk, Lost) else ""
            if isinstance(chunk, Gop):
                try:
                    for picture in itertools.islice(self._pictures(chunk, future), count):
                        if chunk.first + done >= start:
                            yield self._frame(picture, chunk, done)
                        done += 1
                except FormatError as e:
                    if not conceal:
                        raise
                    reason = str(e)
            if reason:
                self._warn_lost(chunk, max(chunk.first + done, start), chunk.first + count, reason, picture is None)
            for i in range(max(done, start - chunk.first), count):
                if picture is None:
                    picture = self.info.frame_format.gray()
                yield self._frame(picture, chunk, i)

    def _frame(self, picture: np.ndarray, chunk: Gop | Lost, i: int) -> Frame:
        """Frame i of a group, which is given away."""
        self._given = chunk.first + i + 1
        return Frame(picture, chunk.pts[i], self.last_duration)

    def symbols(self) -> Iterator[FrameStats]:
        """Decode every symbol, and give the cost of each frame, in the order of coding. Raises as `frames` does."""
        for chunk in self._chunks(0):
            if isinstance(chunk, Gop):
                with chunk.located():
                    yield from self._symbols(chunk)

    def _chunks(self, start: int, conceal: bool = False) -> Iterator[Chunk]:
        """The chunks from the one on that holds frame `start`, or from an earlier one where there is no index."""
        if self._closed:
            raise ValueError("the decoder is closed")
        self._readings += 1
        reading = self._readings
        if (reading > 1 or start > 0) and self._file.seekable():
            self.reader.seek(self._entry(start) if start > 0 else None)
        elif reading > 1:
            raise BsqError("a pipe can be read only once")
        for chunk in self.reader.chunks(conceal):
            yield chunk
            if reading != self._readings:
                raise BsqError("the frames of this decoder are being read anew by another iteration")

    def _entry(self, start: int) -> IndexEntry | None:
        """The last group that begins no later than frame `start`; None if there is no index."""
        try:
            before = [entry for entry in self.reader.index() if entry.first <= start]
        except FormatError:  # a stream that is cut short still has the frames before the cut
            before = []
        return before[-1] if before else None

    def _wanted(
        self, start: int, stop: int | None, conceal: bool, workers: Workers | None
    ) -> Iterator[tuple[Gop | Lost, Future | None]]:
        """What holds frames `start` to `stop` - 1, with what `workers` make of it; packets are passed on."""
        chunks: Iterator[tuple[Chunk, Future | None]]
        if workers:
            begin = functools.partial(self._begin, workers, start, stop)
            chunks = workers.ahead(self._chunks(start, conceal), begin, self._bytes)
        else:
            chunks = ((chunk, None) for chunk in self._chunks(start, conceal))
        number = 0
        for chunk, future in chunks:
            if isinstance(chunk, list):
                if number > start or start == 0:
                    for packet in chunk:
                        self.on_packet(packet)
                continue
            if stop is not None and chunk.first >= stop:
                return
            number = chunk.first + len(chunk.pts)
            if number > start or isinstance(chunk, Lost):
                yield chunk, future

    def _bytes(self, chunk: Chunk) -> int:
        """Bytes that the frames of a group of pictures have."""
        return self.info.frame_bytes * len(chunk.pts) if isinstance(chunk, Gop) else 0

    def _begin(self, workers: Workers, start: int, stop: int | None, chunk: Chunk) -> Future | None:
        """Let `workers` decode a group, if it is wanted and not too large."""
        if not isinstance(chunk, Gop) or self._bytes(chunk) > MAX_GROUP_BYTES:
            return None
        n, count = len(chunk.pts), _count(chunk, stop)
        if chunk.first + n <= start or count <= 0:
            return None
        return workers.decode(chunk.payload, chunk.alpha, self.info.frame_format, n, count)

    def _warn_lost(self, chunk: Gop | Lost, first: int, stop: int, reason: str, gray: bool) -> None:
        """Warn that frames `first` to `stop` - 1 are lost."""
        if isinstance(chunk, Lost) and chunk.ended:
            self.warnings.append(f"whatever there was from frame {first} on is lost: {reason}")
        elif isinstance(chunk, Lost) and not chunk.pts:
            self.warnings.append(f"no frame is lost before frame {first}, but something else, such as sound: {reason}")
        elif stop > first:
            which = f"frames {first} to {stop - 1} are" if stop - first > 1 else f"frame {first} is"
            shown = "gray is shown in place" if gray else "the last good frame stays"
            self.warnings.append(f"{which} lost, {shown}: {reason}")

    def _pictures(self, gop: Gop, future: Future | None) -> Iterator[np.ndarray]:
        """The frames of a group, decoded here, or by the worker that was to do it."""
        with gop.located():
            if future is not None:
                yield from decoded(future)
            else:
                yield from decode_group(self.model, gop.payload, gop.alpha, self.info.frame_format, len(gop.pts))

    def _symbols(self, gop: Gop) -> Iterator[FrameStats]:
        """The cost of the frames of a group; its alpha is decoded behind them, if only to see that it can be."""
        size = self.info.height, self.info.width, len(gop.pts)
        for symbols in decode_symbols(self.model, gop.payload, *size):
            yield symbols.stats
        if gop.alpha:
            for _ in decode_alpha(self.model, gop.alpha, *size):
                pass


def _count(chunk: Gop | Lost, stop: int | None) -> int:
    """How many frames of a group come before frame `stop`."""
    return len(chunk.pts) if stop is None else min(len(chunk.pts), stop - chunk.first)
