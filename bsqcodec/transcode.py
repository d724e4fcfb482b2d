"""From file to file: pictures, videos and folders of frames into .bsq files and back.

encode_file("in.mp4", "out.bsq", quality=50)
decode_file("out.bsq", "rec.mp4")
"""

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from . import media
from .decoder import DEPTHS, Decoder
from .encoder import Encoder, choose
from .errors import BsqError, FormatError
from .jobs.processes import Processes, choose_jobs
from .jobs.workers import MAX_GROUP_BYTES, EncodedGroup, Workers, load_once
from .network.weights import Model, device_of
from .output import check_free, open_input, output_file
from .pilot import pilot
from .prefetch import read_ahead
from .preview import Preview, check_preview, previewing
from .rate import RateControl
from .resume import Unfinished
from .settings import MAX_PIXELS, EncodeSettings, SourceOptions
from .types import Frame, FrameStats, MediaInfo, Packet, packed


@dataclass
class Result:
    """What was encoded or decoded.

    Attributes:
        info: attributes of the video.
        frames: number of frames.
        kept: frames of these that were encoded before, by an encode that is now resumed; `md5` does not have them.
        size: bytes of the .bsq stream; of one that is decoded, those that were read, and 0 in the end if only a part
            was wanted.
        bits: ideal code length of the pictures of an encoded stream.
        qualities: lowest and highest quality that was asked for, or found by `verify_file`.
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
        """Count a decoded frame and add it to the MD5."""
        self.frames += 1
        self._digest.update(packed(rgb))

    @property
    def md5(self) -> str:
        """MD5 of all decoded frames, `packed` RGB, one after the other. A still image may be encoded without it."""
        return self._digest.hexdigest()


# called after each frame with what is done so far and the number of frames to expect, if known
Progress = Callable[[Result, int | None], None]
Items = Iterator[Frame | Packet]


def encode_file(
    source: str,
    target: str,
    settings: EncodeSettings | None = None,
    *,
    bpp: float | None = None,
    size: int | None = None,
    preview: str = "",
    force: bool = False,
    resume: bool = False,
    md5: bool = True,
    jobs: int | None = 1,
    dask: str = "",
    model: Model | str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Encode a picture, a video, or a folder of frames into a .bsq file.

    Args:
        source, target: as `media.open_source` takes it, and a file; "-" is standard input, standard output.
        settings, model, device, options: as `Encoder` takes them; options may also be fields of SourceOptions.
        bpp, size: bits per pixel without tracks, or bytes of all, to aim at in place of a quality; images stay below.
        preview: also write the frames as they will be decoded, with the tracks, as `media.open_sink` takes it.
        force: replace `target` and `preview` if they are there.
        resume: go on with what a killed encode to `target` left, to the same bytes; leave as much if interrupted.
        md5: whether the result of a still image has its MD5, without which that takes two thirds of the time.
        jobs: groups of pictures to encode at once, to the same bytes, in processes of one thread (so the main module
            must be importable, as `multiprocessing` needs it); None: as many as are worth it. Not with a rate or a GPU.
        dask: address of a dask.distributed scheduler, whose workers, which need the model file too, encode instead.

    Raises BsqError for all that can go wrong with files, ValueError as `Encoder`; then only `resume` leaves anything.
    """
    wanted = {f.name: options.pop(f.name) for f in fields(SourceOptions) if f.name in options}
    check_preview(preview, target, force, resume)
    md5 = md5 or preview != ""  # which needs the frames, too
    settings, loaded = choose(settings, model, device, options)
    alone = isinstance(model, Model) or bpp is not None or size is not None or loaded.device.type != "cpu"
    _check_jobs(jobs, dask, alone, "a quality in place of a rate, the CPU, and a model by its name")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(output_file(target, force, resume))
        opened = stack.enter_context(media.open_source(source, **wanted))
        pictures = wanted | {"audio": False, "subtitles": False}
        reopen = None if source == "-" else functools.partial(media.open_source, source, **pictures)
        items, rate = pilot(opened, reopen, iter(opened), loaded, settings, bpp, size)
        settings = replace(settings, quality=rate.quality) if rate else settings
        unfinished = Unfinished(file, settings.gop) if resume else None
        encoder = Encoder(unfinished.output if unfinished else file, opened.info, settings, model=loaded, decoded=md5)
        work = _Encoding(encoder, opened, rate, progress, stack.enter_context(previewing(preview, opened.info)))
        if unfinished:
            work.go_on(unfinished.again(encoder, items))
        if source != "-" and not opened.info.image:  # reading from a pipe cannot be stopped from here
            items = stack.enter_context(read_ahead(items, 4))
        items = work.preview.watch(items)
        workers = _encoding_workers(opened, loaded, settings, jobs, dask, alone)
        frame_format = opened.info.frame_format
        work.encode(stack.enter_context(workers).encode(items, settings, frame_format) if workers else items)
        work.close(source)
    return work.result


class _Encoding:
    """One encode: its items to the encoder, its account to the progress, its rate under control."""

    def __init__(
        self,
        encoder: Encoder,
        opened: media.Source,
        rate: RateControl | None,
        progress: Progress | None,
        preview: Preview,
    ):
        self.result, self.preview = Result(opened.info, warnings=opened.warnings), preview
        self._encoder, self._total, self._rate, self._progress = encoder, opened.total, rate, progress

    def go_on(self, groups: Iterable[Any]) -> None:
        """Take over groups of pictures that were encoded before; the encoder has each of them when it comes."""
        for _ in groups:
            self.result.frames = self.result.kept = self._encoder.frames
            self._tell()
            self._steer()

    def encode(self, items: Iterable[Frame | Packet | EncodedGroup]) -> None:
        for item in items:
            if isinstance(item, Packet):
                self._encoder.write_packet(item)
                continue
            if isinstance(item, EncodedGroup):
                bits = sum(s.bits + s.side_bits for s in item.stats)
                self._encoder.write_coded(item.pts, item.payload, item.alpha, bits, item.duration)
                self._add(item.decoded)
            else:
                self._add(self._encoder.write(*item))
            self._steer()

    def close(self, source: str) -> None:
        """Finish the stream. Raises BsqError, which names the source, if it has no frame."""
        if not self._encoder.frames:
            raise BsqError(f"{source}: there are no frames")
        self._add(self._encoder.close())
        if not self.result.frames:  # a still image that is not decoded
            self.result.frames = self._encoder.frames
            self._tell()
        self.result.warnings += self.preview.warnings
        self.result.bits, self.result.size = self._encoder.bits, self._encoder.size

    def _add(self, pictures: list[np.ndarray]) -> None:
        for picture in pictures:
            self.result.add(picture)
            self.preview.add(picture)
            self._tell()

    def _tell(self) -> None:
        self.result.bits, self.result.size = self._encoder.bits, self._encoder.size
        if self._progress:
            self._progress(self.result, self._total)

    def _steer(self) -> None:
        """After frames were taken: note their quality, and choose that of the next group."""
        encoder, (low, high) = self._encoder, self.result.qualities
        self.result.qualities = min(low, encoder.quality), max(high, encoder.quality)
        if self._rate and encoder.frames % encoder.settings.gop == 0:
            encoder.quality = self._rate.next(encoder.frames, encoder.size, encoder.tracks_size)


def _encoding_workers(
    opened: media.Source, model: Model, settings: EncodeSettings, jobs: int | None, dask: str, alone: bool
) -> Workers | None:
    """Workers that encode groups of pictures; None if they are not wanted, or not worth it."""
    frame_bytes = opened.info.frame_bytes
    if jobs is None:
        jobs = 1 if alone or dask else choose_jobs(opened.total, settings.gop, frame_bytes)
    if alone or not (dask or jobs > 1) or settings.gop * frame_bytes > MAX_GROUP_BYTES:
        return None
    if dask:
        return _cluster(dask, settings.model, model.id)
    return Processes(jobs, functools.partial(load_once, settings.model, model.id))


def decode_file(
    source: str,
    target: str | None,
    frames: tuple[int, int | None] = (0, None),
    model: Model | str | None = None,
    device: str = "auto",
    depth: int | None = None,
    force: bool = False,
    keep_partial: bool = False,
    conceal: bool = False,
    max_pixels: int = MAX_PIXELS,
    jobs: int | None = 1,
    dask: str = "",
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Decode a .bsq file.

    Args:
        source: a file, or "-" for standard input.
        target: as `media.open_sink` takes it; "-" is standard output, None decodes and writes nothing.
        frames: the first frame and the one after the last; None is the end.
        model, device, max_pixels: as `Decoder` takes them.
        depth: bits of a sample, 8..12 or 16; None: as many as the stream says, or as `target` holds.
        keep_partial: of a stream that is damaged or cut short, keep what comes before, and then raise FormatError.
        conceal: go on after damage, with the last good frame in place of those that are lost; `warnings` tells which.
        jobs: groups of pictures to decode at the same time, as for `encode_file`; a pipe decodes in one process.
        dask: as for `encode_file`; of a pipe too, but then nothing is decoded until every worker has got a group.
        options: fields of SinkOptions.

    Raises BsqError as `encode_file` does.
    """
    if keep_partial and conceal:
        raise BsqError("keep what comes before the damage, or conceal it, not both")
    if target is not None:
        check_free(target, force)
    with open_input(source) as file:
        decoder = Decoder(file, device, model, max_pixels)
        lost = _choose_depth(decoder, depth, target)
        result = Result(decoder.info)
        with contextlib.ExitStack() as stack:
            total = _count(decoder, frames)
            workers = _decoding_workers(decoder, model, device, total, jobs, dask)
            if workers:
                stack.enter_context(workers)
                _ = decoder.model  # that it is there is found out here, not in a worker
            sink = stack.enter_context(media.open_sink(target, decoder.info, **options)) if target else None
            damage = _decode(decoder, decoder.frames(*frames, conceal, workers), result, sink, progress, total)
            if damage and not (keep_partial and result.frames):
                raise damage
            if not result.frames:
                why = f": {decoder.warnings[0]}" if decoder.warnings else ""
                raise BsqError(f"{source}: there are no such frames{why}")
        result.warnings += lost + decoder.warnings
        result.size = decoder.reader.size if frames == (0, None) else 0
    if damage:
        raise FormatError(f"{damage}; what comes before is kept") from damage
    return result


def _choose_depth(decoder: Decoder, depth: int | None, target: str | None) -> list[str]:
    """Let a decoder show as many bits as are wanted, or as an output holds. Returns a warning if it holds less."""
    holds, has = media.max_depth(target) if target else max(DEPTHS), decoder.info.bit_depth
    if depth and depth > holds:
        raise BsqError(f"{target} cannot have {depth} bits a sample, but at most {holds}")
    decoder.show(depth or min(has, holds))
    return [f"{target} has {holds} bits a sample, the stream {has}"] if not depth and has > holds else []


def _decode(
    decoder: Decoder,
    frames: Iterator[Frame],
    result: Result,
    sink: media.Sink | None,
    progress: Progress | None,
    total: int | None,
) -> FormatError | None:
    """Write the frames, and their sound, until all is done or a damage is met, which is returned."""
    if sink:
        result.warnings = sink.warnings
        decoder.on_packet = sink.write_packet
    try:
        for frame in frames:
            result.add(frame.rgb)
            result.size = decoder.reader.size
            if sink:
                sink.write(*frame)
            if progress:
                progress(result, total)
    except FormatError as error:
        return error
    if sink:
        sink.duration = decoder.last_duration  # a pipe tells it behind the frame
    return None


def _decoding_workers(
    decoder: Decoder, model: Model | str | None, device: str, frames: int | None, jobs: int | None, dask: str
) -> Workers | None:
    """Workers that decode `frames` frames of a file; None if they are not wanted, or not worth it."""
    alone = device_of(device).type != "cpu" or isinstance(model, Model)
    _check_jobs(jobs, dask, alone, "the CPU, and a model by its name")
    if alone or isinstance(model, Model):
        return None
    if dask:
        return _cluster(dask, model, decoder.reader.model)
    if jobs == 1 or frames is None:
        return None
    if jobs is None:
        starts = [entry.first for entry in decoder.index() or ()] + [decoder.reader.frames or 0]
        longest = max((b - a for a, b in itertools.pairwise(starts)), default=frames)
        jobs = choose_jobs(frames, longest, decoder.info.frame_bytes)
    if jobs == 1:
        return None
    return Processes(jobs, functools.partial(load_once, model, decoder.reader.model))


def _check_jobs(jobs: int | None, dask: str, alone: bool, needs: str) -> None:
    """Refuse --jobs and --dask together, and either of them where one process works `alone`."""
    several = jobs is not None and jobs > 1
    if dask and several:
        raise BsqError("give --jobs or --dask, not both")
    if alone and (dask or several):
        raise BsqError(f"{'--dask needs' if dask else 'several jobs need'} {needs}")


def _cluster(address: str, model: str | None, identity: bytes) -> Workers:
    from .jobs.cluster import Cluster  # needs the optional extra `dask`

    return Cluster(address, model, identity)


def _count(decoder: Decoder, frames: tuple[int, int | None]) -> int | None:
    """Number of frames to decode; None if the stream does not tell before its end."""
    try:
        if decoder.index() is None or decoder.reader.frames is None:
            return None
    except FormatError:
        return None  # a stream that is cut short still gives the frames before the cut
    start, stop = frames
    return max(0, min(decoder.reader.frames, stop or decoder.reader.frames) - start)


def check_stream(
    source: str, device: str = "auto", model: str | None = None, max_pixels: int = MAX_PIXELS
) -> Iterable[FrameStats]:
    """Verify every checksum and decode every symbol of a file. Raises FormatError for the first that is wrong."""
    with open_input(source) as file:
        yield from Decoder(file, device, model, max_pixels).symbols()


def verify_file(
    source: str,
    device: str = "auto",
    model: str | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> Result:
    """What `check_stream` finds, in short: its result has no MD5. Raises BsqError as that does."""
    with open_input(source) as file:
        decoder = Decoder(file, device, model, max_pixels)
        result, total = Result(decoder.info), _count(decoder, (0, None))
        for stats in decoder.symbols():
            low, high = result.qualities
            result.qualities = min(low, stats.quality), max(high, stats.quality)
            result.frames += 1
            result.size = decoder.reader.size
            if progress:
                progress(result, total)
        result.size = decoder.reader.size
    return result
