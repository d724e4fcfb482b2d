"""From a picture, a video or a folder of frames to a .bsq file: encode_file("in.mp4", "out.bsq", quality=50)."""

import contextlib
import functools
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import numpy as np

from . import media
from .encoder import Encoder, choose
from .errors import BsqError
from .jobs.choice import check_jobs, workers_of
from .jobs.processes import choose_jobs
from .jobs.workers import MAX_GROUP_BYTES, EncodedGroup, Workers
from .network.weights import Model
from .output import output_file
from .pilot import pilot
from .prefetch import read_ahead
from .preview import Preview, check_outputs, previewing
from .rate import RateControl
from .result import Progress, Result
from .resume import Unfinished
from .settings import EncodeSettings, SourceOptions
from .types import Frame, Packet


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
    check_outputs(target, preview, force, resume)
    md5 = md5 or preview != ""  # which needs the frames, too
    settings, loaded = choose(settings, model, device, options)
    alone = isinstance(model, Model) or bpp is not None or size is not None or loaded.device.type != "cpu"
    check_jobs(jobs, dask, alone, "a quality in place of a rate, the CPU, and a model by its name")
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
            last = item.pts[-1] if isinstance(item, EncodedGroup) else item.pts
            self.result.seconds = float((last + item.duration) * self.result.info.time_base)
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
        self.result.track_bytes = self._encoder.tracks_size

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
    return workers_of(jobs, dask, settings.model, model.id)
