"""Lets Pillow open and save .bsq files: `import bsqcodec.pillow`, and then `Image.open` and `Image.save` as ever.

Opening reads the header; torch is loaded when pixels are asked for. Save options are the fields of `EncodeSettings`,
`model` and `device` as `Encoder` takes them, `exif`, `icc_profile`, `xmp`, `dpi`, and for animations `save_all`,
`append_images`, `duration` (milliseconds, of all frames or a list) and `loop` (how often shown, 0 for ever).
"""

import dataclasses
import io
import itertools
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageSequence

from . import exif as tiff
from .errors import BsqError, FormatError
from .settings import EncodeSettings
from .stream.container import MAGIC, Gop, IndexEntry
from .stream.reader import StreamReader
from .types import Frame, MediaInfo, rescaled

if TYPE_CHECKING:
    from .network.weights import Model

# What `Decoder` is given; for user code to set.
MODEL: "Model | str | None" = None
DEVICE = "auto"

_DEFAULT_MILLISECONDS = 100  # what browsers show a frame for of which nothing is known


class BsqImageFile(ImageFile.ImageFile):
    """A .bsq stream: a picture, or the frames of a video, of which any can be sought.

    Of a stream that is cut short, every whole group of pictures can be had.
    """

    format = "BSQ"
    format_description = "bsqcodec image or video"
    _close_exclusive_fp_after_loading = False
    _groups: "_Groups | None" = None
    _frame = 0
    _fp: Any

    def _open(self) -> None:
        self._fp = self.fp
        try:
            reader = StreamReader(self._fp)
        except FormatError as e:
            raise SyntaxError(str(e)) from e
        info = reader.info
        self._groups = _Groups(reader)
        self._size = info.width, info.height
        self._mode = "RGBA" if info.alpha else "RGB"
        self._pictures: Iterator[Frame] = iter(())
        self._next = self._stop = 0  # which frames these still give
        for key, name in (("icc", "icc_profile"), ("xmp", "xmp")):
            if key in info.metadata:
                self.info[name] = info.metadata[key]
        if exif := tiff.shown(info.metadata.get("exif", b""), info.rotation):
            self.info["exif"] = tiff.PREFIX + exif
        if (density := tiff.density(exif)) and density[2]:
            self.info["dpi"] = float(density[0]), float(density[1])
        if info.loop is not None:
            self.info["loop"] = info.loop
        self._show(0)

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self._groups.frames if self._groups else 1

    @property
    def is_animated(self) -> bool:
        """Whether there are several frames."""
        return self.n_frames > 1

    def seek(self, frame: int) -> None:
        """Go to a frame, counted from 0. Raises EOFError if there is none of this number."""
        if self._seek_check(frame):
            self._show(frame)

    def tell(self) -> int:
        """Number of the current frame, counted from 0."""
        return self._frame

    def _show(self, frame: int) -> None:
        """Make a frame the current one, which `load` will decode."""
        assert self._groups
        self._frame = frame
        self.tile = [ImageFile._Tile("raw", (0, 0, *self.size), 0, self.mode)]
        if milliseconds := self._groups.milliseconds(frame):
            self.info["duration"] = int(milliseconds) if milliseconds.denominator == 1 else float(milliseconds)

    def load(self) -> Any:
        """Decode the current frame. Raises OSError for a stream that is damaged, or needs a model that is not there."""
        if self.tile and self._groups:
            try:
                self.fp = io.BytesIO(self._decoded(self._groups).tobytes())
            except BsqError as e:
                raise OSError(str(e)) from e
            if self._exclusive_fp and not self.is_animated:
                self._fp.close()
        return super().load()

    def load_seek(self, pos: int) -> None:
        """Nothing, for the pixels are in memory."""

    def _decoded(self, groups: "_Groups") -> np.ndarray:
        """The current frame, uint8 (H, W, 3), or (H, W, 4) with alpha; goes on in its group where it was, if it can."""
        from .decoder import Decoder

        if not self._next <= self._frame < self._stop:
            self._stop = groups.stop(self._frame)
            self._fp.seek(0)
            self._pictures = Decoder(self._fp, DEVICE, MODEL, depth=8).frames(self._frame, self._stop)
            self._next = self._frame
        skipped, self._next = self._frame - self._next, self._frame + 1
        try:
            return next(itertools.islice(self._pictures, skipped, None)).rgb
        except StopIteration:
            raise FormatError("there is no such frame") from None

    def verify(self) -> None:
        """Check every checksum of the file; nothing is decoded. Raises OSError for damage."""
        try:
            self._fp.seek(0)
            for _ in StreamReader(self._fp).chunks():
                pass
        except FormatError as e:
            raise OSError(str(e)) from e
        finally:
            if self._exclusive_fp:
                self._fp.close()
            self.fp = None


class _Groups:
    """The groups of pictures of a stream, and when their frames are shown. Reads them when it must; decodes nothing."""

    def __init__(self, reader: StreamReader):
        self._reader = reader
        self._entries: list[IndexEntry] = []
        self._of, self._times = -1, tuple[int, ...]()  # a group, and the times of its frames
        try:
            self._entries = reader.index()
            self.frames = reader.frames or 1
        except FormatError:  # cut short
            self.frames = 1
            for gop in self._whole():
                self._entries.append(IndexEntry(gop.offset, gop.first))
                self.frames = gop.first + len(gop.pts)
        self._firsts = [entry.first for entry in self._entries] or [0]

    def _whole(self) -> Iterator[Gop]:
        """The groups before the first damage."""
        self._reader.seek(None)
        try:
            for chunk in self._reader.chunks():
                if isinstance(chunk, Gop):
                    yield chunk
        except FormatError:
            return

    def stop(self, frame: int) -> int:
        """The number of the frame behind the group of a frame."""
        group = bisect_right(self._firsts, frame)
        return self._firsts[group] if group < len(self._firsts) else self.frames

    def milliseconds(self, frame: int) -> Fraction | None:
        """How long a frame is shown; None for a still image, and if it is not known."""
        info = self._reader.info
        if info.image:
            return None
        try:
            start = self._time(frame)
            if frame + 1 < self.frames:
                return (self._time(frame + 1) - start) * info.time_base * 1000
            last = self._reader.last_duration or (start - self._time(frame - 1) if frame else 0)
        except FormatError:
            return None  # `load` will tell
        return last * info.time_base * 1000 or None

    def _time(self, frame: int) -> int:
        """When a frame is shown, in units of time. Raises FormatError for damage."""
        group = bisect_right(self._firsts, frame) - 1
        if group != self._of:
            self._reader.seek(self._entries[group] if self._entries else None)
            gop = next((chunk for chunk in self._reader.chunks() if isinstance(chunk, Gop)), None)
            if gop is None:
                raise FormatError("there is no such group of pictures")
            self._of, self._times = group, gop.pts
        i = frame - self._firsts[group]
        if not 0 <= i < len(self._times):
            raise FormatError("the index is wrong")
        return self._times[i]


def _save_all(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    """Write an animation of all frames of an image and of those in the option `append_images`."""
    sources = [image, *image.encoderinfo.get("append_images", ())]
    shown = image.tell()
    try:
        _write(sources, image, file)
    finally:
        image.seek(shown)


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    """Write a still image of the current frame."""
    _write([image.copy()], image, file)


def _write(sources: list[Image.Image], image: Image.Image, file: Any) -> None:
    """Write all frames of some images with the options that Pillow's `save` of one was given.

    Raises OSError for a mode that cannot be written, ValueError for other sizes and options out of range.
    """
    from .encoder import Encoder

    options = image.encoderinfo
    orientation, exif = _split_exif(options.get("exif"))
    if dpi := options.get("dpi"):
        exif = tiff.with_density(exif, *dpi)
    info, times = _described(sources, image, options)
    rotation = tiff.ROTATIONS.get(orientation)
    upright = tiff.TURNS.get(orientation) if rotation is None else None
    if upright in (Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE):
        info = dataclasses.replace(info, width=info.height, height=info.width)
    metadata = {**info.metadata, **_metadata(image, options), **({"exif": exif} if exif else {})}
    info = dataclasses.replace(info, rotation=rotation or 0, metadata=metadata)
    settings = {f.name: options[f.name] for f in dataclasses.fields(EncodeSettings) if f.name in options}
    try:
        with Encoder(file, info, device=options.get("device", "auto"), **settings) as encoder:
            for frame, (start, stop) in zip(_frames(sources), itertools.pairwise(times), strict=True):
                turned = frame if upright is None else frame.transpose(upright)
                last = stop == times[-1] and not info.image
                encoder.write(_pixels(turned, info.alpha), start, stop - start if last else 0)
    except BsqError as e:
        raise OSError(str(e)) from e


def _frames(sources: list[Image.Image]) -> Iterator[Image.Image]:
    return itertools.chain.from_iterable(map(ImageSequence.Iterator, sources))


def _described(
    sources: list[Image.Image], image: Image.Image, options: Mapping[str, Any]
) -> tuple[MediaInfo, list[int]]:
    """What the frames are, and in ms the time when each begins, and when the last one ends.

    All frames are loaded for it, for only then do some formats tell durations.
    """
    wanted = options.get("duration")
    durations: list[float] = []
    alpha = False
    for number, frame in enumerate(_frames(sources)):
        frame.load()
        if frame.size != image.size:
            raise ValueError("frame {} has {}x{} pixels, not {}x{}".format(number, *frame.size, *image.size))
        alpha = alpha or frame.has_transparency_data
        given = wanted[number] if isinstance(wanted, list | tuple) else wanted or frame.info.get("duration")
        durations.append(given or _DEFAULT_MILLISECONDS)
    info = MediaInfo(
        *image.size, Fraction(1, 1000), alpha=alpha, primaries=1, transfer=13, matrix=0, color_range=2,
    )  # fmt: skip
    times = [round(end) for end in itertools.accumulate(durations, initial=0)]
    times = list(itertools.accumulate(times, lambda before, now: max(now, before + 1)))
    if len(durations) > 1:
        rate = Fraction(1000 * len(durations), times[-1])
        loop = options.get("loop", image.info.get("loop"))
        if image.format == "GIF" and loop and "loop" not in options:
            loop += 1  # a GIF counts what comes after the first
        info = dataclasses.replace(info, frame_rate=rate, metadata={} if loop is None else {"loop": b"%d" % loop})
    return info, times


def _split_exif(exif: Image.Exif | bytes | None) -> tuple[int, bytes]:
    """The orientation that EXIF tells, and EXIF as a stream has it; empty if there is nothing else, or it is broken."""
    data, tags = exif.tobytes() if isinstance(exif, Image.Exif) else exif or b"", Image.Exif()
    try:
        tags.load(data)
        kept = tiff.stored(data)
    except Exception:  # Pillow documents no class for broken EXIF
        return 1, b""
    orientation = tags.pop(ExifTags.Base.Orientation, 1)
    return orientation, kept if tags else b""


def _metadata(image: Image.Image, options: Mapping[str, Any]) -> dict[str, bytes]:
    """The colour profile, if it is one of RGB as the pixels are, and XMP."""
    icc, xmp = options.get("icc_profile", image.info.get("icc_profile")), options.get("xmp")
    found = {"icc": icc} if icc and icc[16:20] == b"RGB " else {}
    return {**found, **({"xmp": xmp.encode() if isinstance(xmp, str) else xmp} if xmp else {})}


def _pixels(frame: Image.Image, alpha: bool) -> np.ndarray:
    """uint8 (H, W, 3), or (H, W, 4) with alpha. Raises OSError for real numbers and integers of more than 16 bits."""
    if frame.mode.startswith(("I", "F")):
        gray = np.asarray(frame)
        if frame.mode == "F" or gray.min() < 0 or gray.max() > 65535:
            raise OSError(f"cannot write samples of 32 bits, mode {frame.mode}, as BSQ")
        frame = Image.fromarray(rescaled(gray.astype(np.uint16), 16, 8))
    return np.array(frame.convert("RGBA" if alpha else "RGB"))


Image.register_open(BsqImageFile.format, BsqImageFile, lambda prefix: prefix.startswith(MAGIC))
Image.register_save(BsqImageFile.format, _save)
Image.register_save_all(BsqImageFile.format, _save_all)
Image.register_extension(BsqImageFile.format, ".bsq")
Image.register_mime(BsqImageFile.format, "image/x-bsq")
