"""The codec as a library: frames to .bsq streams and back, in memory, frame by frame, or from file to file.

data = encode_image(picture, quality=40)         # uint8 (H, W, 3) to bytes
picture = decode_image(data)
encode_file("in.mp4", "out.bsq", quality=50)
decode_file("out.bsq", "rec.mp4")

with open("out.bsq", "wb") as file:
    encoder = Encoder(file, MediaInfo(width, height, Fraction(1, 25), Fraction(25)))
    for t, picture in enumerate(pictures):
        encoder.write(picture, t)
    encoder.close()
with open("out.bsq", "rb") as file:
    for picture, pts in Decoder(file).frames():
        ...
"""

import contextlib
import functools
import hashlib
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import BinaryIO, TypeVar

import numpy as np
import torch

from . import media, partial
from .ahead import read_ahead
from .codec import MINI_GOP, FrameStats, GopEncoder, decode_gop, decode_symbols
from .config import DEFAULT
from .errors import BsqError, FormatError
from .info import AudioPacket, Frame, MediaInfo
from .model import Model, find_model, load_model
from .parallel import MAX_GROUP, EncodedGroup, Workers, choose_jobs, decoded
from .partial import Unfinished
from .rate import RateControl, find_quality
from .stream import MAX_PIXELS, Gop, IndexEntry, Lost, StreamReader, StreamWriter
from .tune import DEFAULT_TUNE, tune_number

DEFAULT_QUALITY = 50
GRAY = 128  # what stands for a frame that is lost
DEFAULT_GOP = 32
MAX_GOP = 65535
MAX_EFFORT = 1000
_T = TypeVar("_T")
MAX_PENDING = 1 << 20  # bytes of sound that wait for the end of a group of pictures
_SAMPLE = 4  # frames of each piece that the rate is tried on


def device_of(name: str) -> torch.device:
    """ "auto" is the GPU where there is one. Raises BsqError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise BsqError(f"no device called {name!r}") from e
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BsqError("there is no CUDA device on this machine")
    return device


class Encoder:
    """Writes a .bsq stream frame by frame. Memory does not depend on the number of frames.

    Args:
        file: open for writing in binary; a pipe will do.
        info: what the frames are. `info.frame_rate` None makes a still image, of one frame.
        model: a model, or the name or path of one.
        quality: 1..100, of I frames; most P and all B frames get less. May be changed between frames.
        gop: frames from one I frame to the next; each such group decodes without the others.
        effort: steps of a search for better bits, for each frame; 0 to 1000. Each takes about three times as long as
            encoding without any. Most is gained by the first 16.
        low_delay: no B frames, so that every frame is encoded when it comes.
        tune: "perceptual" for texture and sharpness as people see them (MS-SSIM), or "psnr" for the smallest squared
            error.
        device: "auto", "cpu" or "cuda"; not used if `model` is loaded already.

    Raises BsqError for a model that is not there, ValueError for numbers out of range and an unknown tune.

    Attributes:
        frames: written so far.
        stats: of the last that was encoded, in the order of coding.
        bits: ideal code length of all that are encoded.
        size: bytes written so far.
        audio_size: of which audio.
    """

    def __init__(
        self,
        file: BinaryIO,
        info: MediaInfo,
        model: Model | str = DEFAULT,
        quality: int = DEFAULT_QUALITY,
        gop: int = DEFAULT_GOP,
        device: str = "auto",
        effort: int = 0,
        low_delay: bool = False,
        tune: str = DEFAULT_TUNE,
    ):
        if not 1 <= gop <= MAX_GOP:
            raise ValueError(f"a group of {gop} pictures; it must have 1 to {MAX_GOP}")
        if not 0 <= effort <= MAX_EFFORT:
            raise ValueError(f"effort {effort} is not in 0..{MAX_EFFORT}")
        tune_number(tune)  # a name that is unknown is told before the first frame comes
        self.model = load_model(model, device_of(device)) if isinstance(model, str) else model
        self.info, self.quality, self.gop, self.effort, self.tune = info, quality, gop, effort, tune
        self.frames = 0
        self.stats: FrameStats | None = None
        self.audio_size = 0
        self._writer = StreamWriter(file, self.model.id, info)
        self.mini = 1 if low_delay else min(MINI_GOP, gop)
        self._bits = 0.0  # of the groups before the one that is open
        self._group: GopEncoder | None = None
        self._pts: list[int] = []
        self._audio: list[AudioPacket] = []
        self._audio_pending = 0  # bytes

    @property
    def size(self) -> int:
        return self._writer.size

    @property
    def bits(self) -> float:
        return self._bits + (self._group.bits if self._group else 0.0)

    def write(self, rgb: np.ndarray, pts: int = 0) -> list[np.ndarray]:
        """Take the next frame, uint8 (H, W, 3); `pts` must rise.

        Returns the frames that are encoded by now and were not returned before, in order, as every decoder will give
        them. Up to three wait for a later one, unless `low_delay`.
        """
        if self.info.image and self.frames:
            raise ValueError("a still image has one frame")
        if self._group is None:
            size = self.info.height, self.info.width
            self._group = GopEncoder(self.model, *size, self.effort, self.mini, self.tune)
        decoded = self._group.push(rgb, self.quality)
        self.frames += 1
        self._pts.append(pts)
        self.stats = self._group.stats[-1]
        return decoded + self._end_group() if len(self._pts) == self.gop else decoded

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
        """In place of `write` for all frames of a group that was encoded before, or elsewhere, in so many bits."""
        self.frames += len(pts)
        self._pts += pts
        self._bits += bits
        self._finish_group(payload)

    def write_audio(self, packet: AudioPacket) -> None:
        """Pass on a packet of `info.audio`; it is written after the group of pictures that is being encoded, or before
        if there is more sound than that."""
        self._audio.append(packet)
        self._audio_pending += len(packet.data)
        if self._audio_pending > MAX_PENDING:
            self._write_audio()

    def close(self) -> list[np.ndarray]:
        """Finish the stream. The file is left open. Returns the rest of the frames, as `write` does."""
        decoded = self._end_group()
        self._writer.close()
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
    """Reads a .bsq stream.

    Args:
        file: open for reading in binary; a pipe will do, but then `frames` skips by reading.
        device: "auto", "cpu" or "cuda".
        model: where the packaged models lack the one that the stream needs: a model file.
        max_pixels: of a frame; streams of larger ones are refused.

    Raises FormatError for what is not a stream, ModelError if the model that the stream needs is not there. Where a
    stream is damaged or cut short, iterating raises FormatError after all that comes before.

    Attributes:
        info: what is known of the video.
        warnings: a line for each thing that was concealed.
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
        self.audio: Callable[[AudioPacket], None] = lambda packet: None

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
        decode several groups at a time.
        """
        if start > 0 and self._file.seekable():
            # a stream that is cut short has no index, but still the frames before the cut
            with contextlib.suppress(FormatError):
                before = [entry for entry in self.reader.index() if entry.first <= start]
                if before:
                    self.reader.seek(before[-1])
        chunks: Iterator[tuple[Gop | list[AudioPacket] | Lost, Future | None]]
        chunks = ((chunk, None) for chunk in self.reader.chunks(conceal))
        if workers:
            begin = functools.partial(self._begin, workers, start, stop)
            chunks = workers.ahead(self.reader.chunks(conceal), begin, self._bytes)
        picture = None
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
            if number <= start and isinstance(chunk, Gop):
                continue
            count = len(chunk.pts) if stop is None else min(len(chunk.pts), stop - chunk.first)
            done, reason = 0, ""
            if isinstance(chunk, Lost):
                reason = chunk.reason
            else:
                decode = decode_gop if future is None else functools.partial(decoded, future)
                pictures = self._decoded(decode, chunk)
                try:
                    for picture in itertools.islice(pictures, count):
                        if chunk.first + done >= start:
                            yield Frame(picture, chunk.pts[done])
                        done += 1
                except FormatError as e:
                    if not conceal:
                        raise
                    reason = str(e)
            if reason:
                self._tell(chunk, max(chunk.first + done, start), chunk.first + count, reason, picture is None)
            for i in range(max(done, start - chunk.first), count):
                if picture is None:
                    picture = np.full((self.info.height, self.info.width, 3), GRAY, np.uint8)
                yield Frame(picture, chunk.pts[i])

    def _bytes(self, chunk: Gop | list[AudioPacket] | Lost) -> int:
        """Of the frames of a group of pictures."""
        return 3 * self.info.width * self.info.height * len(chunk.pts) if isinstance(chunk, Gop) else 0

    def _begin(
        self, workers: Workers, start: int, stop: int | None, chunk: Gop | list[AudioPacket] | Lost
    ) -> Future | None:
        """Let `workers` decode a group, if it is wanted and not too large."""
        if not isinstance(chunk, Gop) or self._bytes(chunk) > MAX_GROUP:
            return None
        n = len(chunk.pts)
        count = n if stop is None else min(n, stop - chunk.first)
        if chunk.first + n <= start or count <= 0:
            return None
        return workers.decode(chunk.payload, self.info.height, self.info.width, n, count)

    def _tell(self, chunk: Gop | Lost, first: int, stop: int, reason: str, gray: bool) -> None:
        """Warn that frames `first` to `stop` - 1 are lost."""
        if isinstance(chunk, Lost) and chunk.ended:
            self.warnings.append(f"whatever there was from frame {first} on is lost: {reason}")
        elif isinstance(chunk, Lost) and not chunk.pts:
            self.warnings.append(f"no frame is lost before frame {first}, but something else, such as sound: {reason}")
        elif stop > first:
            which = f"frames {first} to {stop - 1} are" if stop - first > 1 else f"frame {first} is"
            shown = "gray is shown in place" if gray else "the last good frame stays"
            self.warnings.append(f"{which} lost, {shown}: {reason}")

    def _decoded(self, decode: Callable[..., Iterator[_T]], gop: Gop) -> Iterator[_T]:
        """What `decode` makes of a group of pictures; its errors then tell which group it is."""
        items = decode(self.model, gop.payload, self.info.height, self.info.width, len(gop.pts))
        try:
            yield from items
        except FormatError as e:
            last = gop.first + len(gop.pts) - 1
            raise FormatError(f"frames {gop.first} to {last}, in the chunk at byte {gop.offset}: {e}") from e

    def symbols(self) -> Iterator[FrameStats]:
        """What each frame costs: reads the whole stream and decodes every symbol."""
        for chunk in self.reader.chunks():
            if isinstance(chunk, Gop):
                for s in self._decoded(decode_symbols, chunk):
                    yield s.stats


@dataclass
class Result:
    """What was encoded or decoded.

    Attributes:
        info: of the video.
        frames: how many.
        kept: frames of these that were encoded before, by an encode that is now resumed; `md5` does not have them.
        size: of the .bsq stream, in bytes.
        bits: of the pictures of an encoded stream.
        qualities: lowest and highest that was asked for.
        warnings: a line for each thing that was lost.
    """

    info: MediaInfo
    frames: int = 0
    kept: int = 0
    size: int = 0
    bits: float = 0.0
    qualities: tuple[int, int] = (100, 1)
    warnings: list[str] = field(default_factory=list)
    _digest: "hashlib._Hash" = field(default_factory=hashlib.md5, repr=False)

    def add(self, rgb: np.ndarray) -> None:
        self.frames += 1
        self._digest.update(rgb.tobytes())

    @property
    def md5(self) -> str:
        """Of all decoded frames, uint8 RGB in raster order, one after the other."""
        return self._digest.hexdigest()


# called after each frame with what is done so far and the number of frames to expect, if known
Progress = Callable[[Result, int | None], None]


def encode_file(
    source: str,
    target: str,
    quality: int = DEFAULT_QUALITY,
    bpp: float | None = None,
    size: int | None = None,
    gop: int = DEFAULT_GOP,
    model: Model | str = DEFAULT,
    device: str = "auto",
    start: float = 0.0,
    duration: float | None = None,
    audio: bool = True,
    force: bool = False,
    resume: bool = False,
    jobs: int | None = 1,
    effort: int = 0,
    low_delay: bool = False,
    tune: str = DEFAULT_TUNE,
    dask: str = "",
    progress: Progress | None = None,
) -> Result:
    """Encode a picture, a video, or a folder of frames into a .bsq file.

    Args:
        source: as `media.open_source` takes it; "-" is y4m on standard input.
        target: a file, or "-" for standard output.
        quality: 1..100, unless a rate is asked for.
        bpp: bits a pixel to aim at, audio left out. A still image stays below, a video comes near.
        size: bytes to aim at, audio included, alike.
        start, duration: part of the source, in seconds.
        force: replace `target` if it is there.
        resume: go on with what an encode to `target` left that was killed; the result is the same as if it had not
            been. What this one has done is left to resume if it is interrupted.
        jobs: groups of pictures to encode at the same time, in processes of one thread that are started for it (so the
            program's main module must be importable, as for all of `multiprocessing`); None: as many as are worth it.
            The bytes are the same. Not with a rate, and not on a GPU.
        effort: steps of a search for better bits, as for `Encoder`.
        low_delay: no B frames.
        tune: "perceptual" or "psnr", as for `Encoder`.
        dask: address of a dask.distributed scheduler whose workers encode the groups in place of `jobs`. They need this
            package, and a model file under the same path.

    Raises BsqError in one line for all that can go wrong with files, ValueError as `Encoder` does. Nothing is left of a
    file that was not finished, but for `resume`.
    """
    name = None
    if not isinstance(model, Model):
        name, model = model, load_model(model, device_of(device))
    alone = name is None or bpp is not None or size is not None or model.device.type != "cpu"
    _one_way(jobs, dask, alone, "a quality in place of a rate, the CPU, and a model by its name")
    # the name is checked before the work begins
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(output_file(target, force, resume))
        opened = stack.enter_context(media.open_source(source, start, duration, audio))
        info, items = opened.info, iter(opened)
        result = Result(info, warnings=opened.warnings)
        rate = None
        if bpp is not None or size is not None:
            items, rate = _control(source, opened, items, model, gop, effort, low_delay, tune, bpp, size)
            quality = rate.quality
        before = Unfinished(file, gop) if resume else None
        output = before.output if before else file
        encoder = Encoder(output, info, model, quality, gop, effort=effort, low_delay=low_delay, tune=tune)

        def written(pictures: list[np.ndarray]) -> None:
            for picture in pictures:
                result.add(picture)
                tell()

        def tell() -> None:
            result.bits, result.size = encoder.bits, encoder.size
            if progress:
                progress(result, opened.total)

        def steer() -> None:
            """After frames were taken."""
            result.qualities = min(result.qualities[0], encoder.quality), max(result.qualities[1], encoder.quality)
            if rate and encoder.frames % gop == 0:
                encoder.quality = rate.next(encoder.frames, encoder.size, encoder.audio_size)

        for _ in before.again(encoder, items) if before else ():
            result.frames = result.kept = encoder.frames
            tell()
            steer()
        frame_bytes = 3 * info.width * info.height
        if jobs is None:
            jobs = 1 if alone or dask else choose_jobs(opened.total, gop, frame_bytes)
        if source != "-" and not info.image:  # reading from a pipe cannot be stopped from here
            items = stack.enter_context(read_ahead(items, 4))
        if name is not None and (dask or jobs > 1) and gop * frame_bytes <= MAX_GROUP:
            load = functools.partial(load_model, name)
            workers = stack.enter_context(_cluster(dask, name, model.id) if dask else Workers(jobs, load))
            items = workers.encode(items, gop, quality, effort, encoder.mini, tune)
        for item in items:
            if isinstance(item, AudioPacket):
                encoder.write_audio(item)
                continue
            if isinstance(item, EncodedGroup):
                encoder.write_coded(item.pts, item.payload, sum(s.bits + s.side_bits for s in item.stats))
                written(item.decoded)
            else:
                written(encoder.write(*item))
            steer()
        if not encoder.frames:
            raise BsqError(f"{source}: there are no frames")
        written(encoder.close())
        result.bits, result.size = encoder.bits, encoder.size
    return result


def _control(source, opened, items, model, gop, effort, low_delay, tune, bpp, size):
    """Find the quality for a rate; returns the items with those that were looked at, and the control to go on with."""
    info = opened.info
    pixels = info.width * info.height
    if info.image:
        frame = next(items)
        target = 8 * size if size is not None else bpp * pixels

        def encode(quality: int) -> float:
            file = io.BytesIO()
            encoder = Encoder(file, info, model, quality, effort=effort, tune=tune)
            encoder.write(*frame)
            encoder.close()
            return 8 * encoder.size

        quality = find_quality(encode, target, tries=8)
        return iter([frame]), RateControl(quality, target, 1)
    if size is not None and opened.total is None:
        raise BsqError("the number of frames is not known beforehand: give --bpp in place of --size")
    target = 8 * size / opened.total if size is not None else bpp * pixels
    pieces, items = _pieces(source, opened, items)

    def encode_pieces(quality: int) -> float:
        """Bits a frame."""
        total = 0.0
        for piece in pieces:
            encoder = Encoder(io.BytesIO(), info, model, quality, gop, effort=effort, low_delay=low_delay, tune=tune)
            encoder.write(piece[0], 0)
            first = encoder.bits
            for t, frame in enumerate(piece[1:], 1):
                encoder.write(frame, t)
            encoder.close()
            rest = encoder.bits - first
            total += first if len(piece) == 1 else (first + (gop - 1) * rest / (len(piece) - 1)) / gop
        return total / len(pieces)

    quality = find_quality(encode_pieces, target, tries=4)
    if size is None:
        return items, RateControl(quality, target)
    return items, RateControl(quality, target, opened.total, include_audio=True)


def _pieces(source: str, opened: media.Source, items: Iterator) -> tuple[list[list[np.ndarray]], Iterator]:
    """A few frames of three places of a file, or the first few of a pipe; and the items, none missing."""
    rate = opened.info.frame_rate
    if source == "-" or not opened.total or not rate or opened.total < 8 * _SAMPLE:
        seen: list = []
        frames = 0
        for item in items:
            seen.append(item)
            frames += isinstance(item, Frame)
            if frames == 2 * _SAMPLE:
                break
        return [[item.rgb for item in seen if isinstance(item, Frame)]], itertools.chain(seen, items)
    pieces = []
    for part in (1, 3, 5):
        with media.open_source(source, float(opened.total * part / 6 / rate), _SAMPLE / float(rate), False) as piece:
            pieces.append([item.rgb for item in itertools.islice(piece, _SAMPLE) if isinstance(item, Frame)])
    return [piece for piece in pieces if piece], items


def decode_file(
    source: str,
    target: str | None,
    frames: tuple[int, int | None] = (0, None),
    model: Model | str | None = None,
    device: str = "auto",
    crf: int = 14,
    image_quality: int = 95,
    force: bool = False,
    keep_partial: bool = False,
    conceal: bool = False,
    max_pixels: int = MAX_PIXELS,
    jobs: int | None = 1,
    dask: str = "",
    progress: Progress | None = None,
) -> Result:
    """Decode a .bsq file.

    Args:
        source: a file, or "-" for standard input.
        target: as `media.open_sink` takes it; "-" is y4m on standard output, None decodes and writes nothing.
        frames: the first frame and the one after the last; None is the end.
        crf: of x264, for mp4, mkv and mov.
        image_quality: of JPEG and WebP.
        keep_partial: of a stream that is damaged or cut short, keep what comes before, and then raise FormatError.
        conceal: go on after damage, with the last good frame in place of those that are lost; `warnings` tells which.
        max_pixels: of a frame; streams of larger ones are refused.
        jobs: groups of pictures to decode at the same time, as for `encode_file`; a pipe decodes in one process.
        dask: as for `encode_file`; of a pipe too, but then nothing is decoded until every worker has got a group.

    Raises BsqError as `encode_file` does.
    """
    if keep_partial and conceal:
        raise BsqError("keep what comes before the damage, or conceal it, not both")
    if target is not None:
        check_free(target, force)
    damage = None
    with open_input(source) as file:
        decoder = Decoder(file, device, model, max_pixels)
        result = Result(decoder.info)
        total = _count(decoder, frames)
        with contextlib.ExitStack() as stack:
            workers = _workers(decoder, model, device, total, jobs, dask)
            if workers:
                stack.enter_context(workers)
                decoder.model  # noqa: B018 that it is there is found out here, not in a worker
            sink = stack.enter_context(media.open_sink(target, decoder.info, crf, image_quality)) if target else None
            if sink:
                result.warnings = sink.warnings
                decoder.audio = sink.write_audio
            try:
                for frame in decoder.frames(*frames, conceal, workers):
                    result.add(frame.rgb)
                    result.size = decoder.reader.size
                    if sink:
                        sink.write(*frame)
                    if progress:
                        progress(result, total)
            except FormatError as e:
                if not keep_partial or not result.frames:
                    raise
                damage = e
            if not result.frames:
                why = f": {decoder.warnings[0]}" if decoder.warnings else ""
                raise BsqError(f"{source}: there are no such frames{why}")
        result.warnings += decoder.warnings
    if damage:
        raise FormatError(f"{damage}; what comes before is kept") from damage
    return result


def _workers(
    decoder: Decoder, model: Model | str | None, device: str, frames: int | None, jobs: int | None, dask: str
) -> Workers | None:
    """Processes that decode `frames` frames of a file, if it is to be several, or (None) if several are worth it."""
    on_gpu = device_of(device).type != "cpu"
    _one_way(jobs, dask, on_gpu or isinstance(model, Model), "the CPU, and a model by its name")
    if on_gpu or isinstance(model, Model):
        return None
    if dask:
        return _cluster(dask, model, decoder.reader.model)
    if jobs == 1 or frames is None:
        return None
    if jobs is None:
        starts = [entry.first for entry in decoder.index() or ()] + [decoder.reader.frames or 0]
        longest = max((b - a for a, b in itertools.pairwise(starts)), default=frames)
        jobs = choose_jobs(frames, longest, 3 * decoder.info.width * decoder.info.height)
    if jobs == 1:
        return None
    load = functools.partial(find_model, decoder.reader.model)
    return Workers(jobs, load if model is None else functools.partial(load_model, model))


def _one_way(jobs: int | None, dask: str, alone: bool, needs: str) -> None:
    """Refuse --jobs and --dask together, and either of them where one process works `alone`."""
    several = jobs is not None and jobs > 1
    if dask and several:
        raise BsqError("give --jobs or --dask, not both")
    if alone and (dask or several):
        raise BsqError(f"{'--dask needs' if dask else 'several jobs need'} {needs}")


def _cluster(address: str, model: str | None, identity: bytes) -> Workers:
    from .cluster import Cluster

    return Cluster(address, model, identity)


def _count(decoder: Decoder, frames: tuple[int, int | None]) -> int | None:
    """How many frames there are to decode, where the stream tells before its end."""
    try:
        if decoder.index() is None or decoder.reader.frames is None:
            return None
    except FormatError:
        return None  # a stream that is cut short still gives the frames before the cut
    start, stop = frames
    return max(0, min(decoder.reader.frames, stop or decoder.reader.frames) - start)


def encode_image(
    rgb: np.ndarray,
    quality: int = DEFAULT_QUALITY,
    model: Model | str = DEFAULT,
    device: str = "auto",
    effort: int = 0,
    tune: str = DEFAULT_TUNE,
) -> bytes:
    """One picture, uint8 (H, W, 3) RGB, to a .bsq stream. Takes and raises what `Encoder` does."""
    file, info = io.BytesIO(), MediaInfo(rgb.shape[1], rgb.shape[0])
    encoder = Encoder(file, info, model, quality, device=device, effort=effort, tune=tune)
    encoder.write(rgb)
    encoder.close()
    return file.getvalue()


def decode_image(data: bytes, device: str = "auto") -> np.ndarray:
    """The first picture of a .bsq stream, uint8 (H, W, 3) RGB. Raises FormatError if there is none."""
    for frame in Decoder(io.BytesIO(data), device).frames(0, 1):
        return frame.rgb
    raise FormatError("there are no frames")


# ---------------------------------------------------------------- files


def check_free(path: str, force: bool) -> None:
    """Raise BsqError if there is something at `path` that must not be replaced."""
    if not force and path != "-" and (os.path.isfile(path) or (os.path.isdir(path) and os.listdir(path))):
        raise BsqError(f"{path} exists already; -f replaces it")


@contextlib.contextmanager
def output_file(path: str, force: bool, resume: bool = False) -> Iterator[BinaryIO]:
    """A binary file that gets its name when all went well, and is gone when not. "-" is standard output.

    With `resume` it is what an interrupted process left, if there is that, and is left behind when something fails.
    """
    if path == "-":
        if resume:
            raise BsqError("only a file can be resumed, not standard output")
        yield sys.stdout.buffer
        return
    check_free(path, force)
    final, part = media.hidden_part(path)
    try:
        if part == final:
            if resume:
                raise BsqError(f"only a file can be resumed, and {path} is none")
            with open(final, "wb") as file:
                yield file
        else:
            with partial.opened(final, part, resume) as file:
                yield file
    except BrokenPipeError:
        raise
    except OSError as e:
        raise BsqError(f"cannot write {path}: {e.strerror}") from e


@contextlib.contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")
    except OSError as e:
        raise BsqError(f"cannot read {path}: {e.strerror}") from e
    with file:
        yield file


def check_stream(
    source: str, device: str = "auto", model: str | None = None, max_pixels: int = MAX_PIXELS
) -> Iterable[FrameStats]:
    """Verify every checksum and decode every symbol of a file. Raises FormatError for the first that is wrong."""
    with open_input(source) as file:
        yield from Decoder(file, device, model, max_pixels).symbols()
