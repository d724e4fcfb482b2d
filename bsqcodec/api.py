"""The codec as a library, in memory and frame by frame; transcode.py does the same from file to file.

>>> import io, numpy as np
>>> from fractions import Fraction
>>> from bsqcodec import Decoder, Encoder, MediaInfo, decode_image, encode_image
>>> picture = np.full((48, 64, 3), 90, np.uint8)
>>> data = encode_image(picture, quality=40)
>>> decode_image(data).shape
(48, 64, 3)

>>> file = io.BytesIO()
>>> with Encoder(file, MediaInfo(64, 48, frame_rate=Fraction(25)), quality=40, gop=2) as encoder:
...     for t in range(3):
...         _ = encoder.write(picture, t)
>>> _ = file.seek(0)
>>> with Decoder(file) as decoder:
...     [frame.pts for frame in decoder.frames(1)]
[1, 2]
"""

import functools
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from .errors import BsqError, FormatError
from .gop.decoder import decode_gop, decode_symbols
from .gop.encoder import GopEncoder
from .jobs.workers import MAX_GROUP_BYTES, Future, Workers, decoded
from .network.weights import Model, device_of, find_model, load_model
from .settings import MAX_PIXELS, EncodeSettings
from .stream.container import Gop, IndexEntry, StreamWriter
from .stream.reader import StreamReader
from .stream.recovery import Lost
from .types import AudioPacket, Frame, FrameStats, MediaInfo

GRAY = 128  # pixel value of a lost frame before which none was decoded
MAX_PENDING = 1 << 20  # bytes of sound that wait for the end of a group of pictures
Chunk = Gop | list[AudioPacket] | Lost


def choose(
    settings: EncodeSettings | None, model: Model | str | None, device: str, options: dict[str, Any]
) -> tuple[EncodeSettings, Model]:
    """The settings with `options` in place of some fields, and the loaded model. Raises as `Encoder` does."""
    if not isinstance(settings, EncodeSettings | None):
        raise TypeError(f"settings are {settings!r}, not EncodeSettings; a quality is given as quality=40")
    settings = replace(settings or EncodeSettings(), **options)
    if isinstance(model, Model):
        return replace(settings, model=model.name), model
    settings = replace(settings, model=model or settings.model)
    return settings, load_model(settings.model, device_of(device))


class Encoder:
    """Writes a .bsq stream frame by frame: a context manager. Memory does not depend on the number of frames.

    Args:
        file: open for writing in binary; a pipe will do. It is left open.
        info: what the frames are. `info.frame_rate` None makes a still image, of one frame.
        settings: how to encode.
        model: a model that is loaded, or the name or path of one, in place of that of the settings.
        device: "auto", "cpu" or "cuda"; not used if `model` is loaded already.
        options: fields of EncodeSettings, in place of those in `settings`: `Encoder(file, info, quality=40)`.

    Raises ModelError for a model that is not there, ValueError for numbers out of range and an unknown tune, TypeError
    for an unknown option.

    Attributes:
        settings: how to encode, with `options` in their place.
        quality: quality of the frames that follow, 1..100; may be changed between frames.
        frames: number of frames written so far.
        stats: cost of the last frame that was encoded, in the order of coding.
        bits: ideal code length of all frames that are encoded.
        size, audio_size: bytes written so far, and those of them that are audio.
    """

    def __init__(
        self,
        file: BinaryIO,
        info: MediaInfo,
        settings: EncodeSettings | None = None,
        *,
        model: Model | str | None = None,
        device: str = "auto",
        **options: Any,
    ):
        self.settings, self.model = choose(settings, model, device, options)
        self.info, self.quality = info, self.settings.quality
        self.frames = 0
        self.stats: FrameStats | None = None
        self.audio_size = 0
        self._writer = StreamWriter(file, self.model.id, info)
        self._bits = 0.0  # of the groups before the one that is open
        self._group: GopEncoder | None = None
        self._pts: list[int] = []
        self._audio: list[AudioPacket] = []
        self._audio_pending = 0  # bytes
        self._closed = False

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the stream, unless an exception passes: then it stays cut short, as what it is."""
        if kind is None:
            self.close()
        self._closed = True

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._writer.size

    @property
    def bits(self) -> float:
        """Ideal code length of all frames that are encoded, in bits."""
        return self._bits + (self._group.bits if self._group else 0.0)

    def write(self, rgb: np.ndarray, pts: int = 0) -> list[np.ndarray]:
        """Take the next frame, uint8 (H, W, 3); `pts` must rise.

        Returns the frames that are encoded by now and were not returned before, in order, as every decoder will give
        them. Up to nineteen wait for later ones, unless `low_delay`. Raises ValueError after `close`, for a frame of
        another size or type, and for the second frame of a still image.
        """
        self._check_open()
        if self.info.image and self.frames:
            raise ValueError("a still image has one frame")
        group = self._group or GopEncoder(self.model, self.info.height, self.info.width, self.settings)
        decoded = group.push(rgb, self.quality)  # which may refuse the frame: then there is no group yet
        self._group = group
        self.frames += 1
        self._pts.append(pts)
        self.stats = group.stats[-1] if group.stats else self.stats
        return decoded + self._end_group() if len(self._pts) == self.settings.gop else decoded

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the encoder is closed")

    def _end_group(self) -> list[np.ndarray]:
        """Encode and write what belongs to the group that is open, if one is."""
        if self._group is None:
            self._finish_group(None)
            return []
        decoded = self._group.flush()
        self.stats = self._group.stats[-1]
        self._bits += self._group.bits
        self._finish_group(self._group.finish())
        return decoded

    def write_coded(self, pts: list[int], payload: bytes, bits: float) -> None:
        """Append a group of pictures that was encoded before, or elsewhere, in place of `write` for its frames.

        pts: presentation time of each frame. payload: as `GopEncoder.finish` gives it. bits: its ideal code length.
        """
        self._check_open()
        self.frames += len(pts)
        self._pts += pts
        self._bits += bits
        self._finish_group(payload)

    def write_audio(self, packet: AudioPacket) -> None:
        """Pass on a packet of `info.audio`; it is written after the open group of pictures, or before if too large."""
        self._check_open()
        self._audio.append(packet)
        self._audio_pending += len(packet.data)
        if self._audio_pending > MAX_PENDING:
            self._write_audio()

    def close(self) -> list[np.ndarray]:
        """Finish the stream, once. The file is left open. Returns the rest of the frames, as `write` does."""
        if self._closed:
            return []
        decoded = self._end_group()
        self._writer.close()
        self._closed = True
        return decoded

    def _finish_group(self, payload: bytes | None) -> None:
        if payload is not None:
            self._writer.gop(self._pts, payload)
            self._group, self._pts = None, []
        if self._audio:
            self._write_audio()
        self._writer.flush()  # so that whole groups outlive this process

    def _write_audio(self) -> None:
        before = self._writer.size
        self._writer.audio(self._audio)
        self._audio, self._audio_pending = [], 0
        self.audio_size += self._writer.size - before


class Decoder:
    """Reads a .bsq stream: a context manager.

    Args:
        file: open for reading in binary, at its start; it is left open. A pipe will do, but then `frames` skips by
            reading, and works once.
        device: "auto", "cpu" or "cuda".
        model: where the packaged models lack the one that the stream needs: a model file, or a model that is loaded.
        max_pixels: limit of pixels per frame; streams of larger frames are refused.

    Raises FormatError for what is not a stream, ModelError if the model that the stream needs is not there. Where a
    stream is damaged or cut short, iterating raises FormatError after all that comes before.

    Attributes:
        info: what is known of the video.
        warnings: a line for each thing that was concealed by the last call of `frames`.
        audio: called with every packet of the audio track that lies between the frames that are decoded.
    """

    def __init__(
        self, file: BinaryIO, device: str = "auto", model: Model | str | None = None, max_pixels: int = MAX_PIXELS
    ):
        self._file = file
        self.reader = StreamReader(file, max_pixels)
        self.info = self.reader.info
        self.warnings: list[str] = []
        self._device, self._model = device, model
        self._readings = 0  # how often reading the chunks was begun
        self._closed = False
        self.audio: Callable[[AudioPacket], None] = lambda packet: None

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True

    @property
    def model(self) -> Model:
        """The model that the stream needs, loaded when it is first asked for."""
        if isinstance(self._model, str):
            self._model = load_model(self._model, device_of(self._device))
        if self._model is None:
            self._model = find_model(self.reader.model, device_of(self._device))
        if self._model.id != self.reader.model:
            raise FormatError(f"the stream needs model {self.reader.model.hex()}, not {self._model.id.hex()}")
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
        picture = None
        for chunk, future in self._wanted(start, stop, conceal, workers):
            count = _count(chunk, stop)
            done, reason = 0, chunk.reason if isinstance(chunk, Lost) else ""
            if isinstance(chunk, Gop):
                try:
                    for picture in itertools.islice(self._pictures(chunk, future), count):
                        if chunk.first + done >= start:
                            yield Frame(picture, chunk.pts[done])
                        done += 1
                except FormatError as e:
                    if not conceal:
                        raise
                    reason = str(e)
            if reason:
                self._warn_lost(chunk, max(chunk.first + done, start), chunk.first + count, reason, picture is None)
            for i in range(max(done, start - chunk.first), count):
                if picture is None:
                    picture = np.full((self.info.height, self.info.width, 3), GRAY, np.uint8)
                yield Frame(picture, chunk.pts[i])

    def symbols(self) -> Iterator[FrameStats]:
        """Decode every symbol, and give the cost of each frame, in the order of coding. Raises as `frames` does."""
        for chunk in self._chunks(0):
            if isinstance(chunk, Gop):
                for s in self._decoded(decode_symbols, chunk):
                    yield s.stats

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
        """What holds frames `start` to `stop` - 1, with what `workers` make of it; sound is passed on."""
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
                        self.audio(packet)
                continue
            if stop is not None and chunk.first >= stop:
                return
            number = chunk.first + len(chunk.pts)
            if number > start or isinstance(chunk, Lost):
                yield chunk, future

    def _bytes(self, chunk: Chunk) -> int:
        """Bytes that the frames of a group of pictures have."""
        return 3 * self.info.width * self.info.height * len(chunk.pts) if isinstance(chunk, Gop) else 0

    def _begin(self, workers: Workers, start: int, stop: int | None, chunk: Chunk) -> Future | None:
        """Let `workers` decode a group, if it is wanted and not too large."""
        if not isinstance(chunk, Gop) or self._bytes(chunk) > MAX_GROUP_BYTES:
            return None
        n, count = len(chunk.pts), _count(chunk, stop)
        if chunk.first + n <= start or count <= 0:
            return None
        return workers.decode(chunk.payload, self.info.height, self.info.width, n, count)

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
        return self._decoded(decode_gop if future is None else functools.partial(decoded, future), gop)

    def _decoded(self, decode: Callable[..., Iterator[Any]], gop: Gop) -> Iterator[Any]:
        """What `decode` makes of a group of pictures; its errors then tell which group it is."""
        items = decode(self.model, gop.payload, self.info.height, self.info.width, len(gop.pts))
        try:
            yield from items
        except FormatError as e:
            last = gop.first + len(gop.pts) - 1
            raise FormatError(f"frames {gop.first} to {last}, in the chunk at byte {gop.offset}: {e}") from e


def _count(chunk: Gop | Lost, stop: int | None) -> int:
    """How many frames of a group come before frame `stop`."""
    return len(chunk.pts) if stop is None else min(len(chunk.pts), stop - chunk.first)


def encode_image(
    rgb: np.ndarray,
    settings: EncodeSettings | None = None,
    *,
    model: Model | str | None = None,
    device: str = "auto",
    **options: Any,
) -> bytes:
    """One picture, uint8 (H, W, 3) RGB, to a .bsq stream. Takes and raises what `Encoder` does."""
    file, info = io.BytesIO(), MediaInfo(rgb.shape[1], rgb.shape[0])
    with Encoder(file, info, settings, model=model, device=device, **options) as encoder:
        encoder.write(rgb)
    return file.getvalue()


def decode_image(
    data: bytes, device: str = "auto", model: Model | str | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode the first picture of a stream, uint8 (H, W, 3). Raises as `Decoder`, and FormatError if there is none."""
    for frame in Decoder(io.BytesIO(data), device, model, max_pixels).frames(0, 1):
        return frame.rgb
    raise FormatError("there are no frames")
