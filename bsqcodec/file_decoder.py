"""From a .bsq file to a picture, a video or a folder of frames: decode_file("in.bsq", "out.mp4"). Or only checked."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

from . import media
from .decoder import DEPTHS, Decoder
from .errors import BsqError, FormatError
from .jobs.choice import check_jobs, workers_of
from .jobs.processes import choose_jobs
from .jobs.workers import Workers
from .network.weights import Model, device_of
from .output import check_free, open_input
from .part import Part
from .result import Progress, Result
from .settings import MAX_PIXELS
from .types import Frame


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
        frames: the first frame and the one after the last; None is the end. The first one is then at time 0.
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
            shown = decoder.frames(*frames, conceal, workers)
            sink, shown = stack.enter_context(_opened(target, decoder, shown, frames, options))
            damage = _decode(decoder, shown, result, sink, progress, total)
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


@contextlib.contextmanager
def _opened(
    target: str | None,
    decoder: Decoder,
    shown: Iterator[Frame],
    frames: tuple[int, int | None],
    options: dict[str, Any],
) -> Iterator[tuple[media.Sink | None, Iterator[Frame]]]:
    """A sink that gets the packets of a decoder, and the frames for it, moved in time if they are a part."""
    if target is None:
        yield None, shown
        return
    part = Part(decoder, shown, *frames) if frames != (0, None) else None
    with media.open_sink(target, part.info if part else decoder.info, **options) as sink:
        if part:
            part.pass_on(sink.write_packet)
        else:
            decoder.on_packet = sink.write_packet
        yield sink, part.frames() if part else shown


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
    """Write the frames until all is done or a damage is met, which is returned."""
    if sink:
        result.warnings = sink.warnings
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
    check_jobs(jobs, dask, alone, "the CPU, and a model by its name")
    if alone or isinstance(model, Model):
        return None
    if jobs is None and frames is not None and not dask:
        starts = [entry.first for entry in decoder.index() or ()] + [decoder.reader.frames or 0]
        longest = max((b - a for a, b in itertools.pairwise(starts)), default=frames)
        jobs = choose_jobs(frames, longest, decoder.info.frame_bytes)
    if not dask and (jobs == 1 or frames is None):
        return None
    return workers_of(jobs or 1, dask, model, decoder.reader.model)


def _count(decoder: Decoder, frames: tuple[int, int | None]) -> int | None:
    """Number of frames to decode; None if the stream does not tell before its end."""
    try:
        if decoder.index() is None or decoder.reader.frames is None:
            return None
    except FormatError:
        return None  # a stream that is cut short still gives the frames before the cut
    start, stop = frames
    return max(0, min(decoder.reader.frames, stop or decoder.reader.frames) - start)


def verify_file(
    source: str,
    device: str = "auto",
    model: str | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> Result:
    """Verify every checksum and decode every symbol of a file: its result has no MD5.

    Raises FormatError for the first that is wrong, ModelError as `Decoder`.
    """
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
