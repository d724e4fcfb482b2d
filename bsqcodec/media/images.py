"""Images, animations and folders of images as sources of frames, through Pillow."""

import contextlib
import glob
import io
import itertools
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from ..errors import BsqError
from ..exif import ROTATIONS
from ..settings import SourceOptions
from ..types import Frame, Items, MediaInfo, rescaled
from . import colour, deep_images, png_chunks
from .base import DEFAULT_RATE, MAX_DEPTH, Source, coded_from_8_bits, reason_of, ticks
from .image_metadata import as_rgb, icc_of, metadata_of, not_kept, orientation_of, upright

OPAQUE = 255
# formats of pages, or of pictures beside the one to show such as a map of its brightness, which are no animation
_SEVERAL = ("TIFF", "MPO")
# formats, by Pillow's names, of images that are known by their content; the last may be missing
_COMMON = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "JPEG2000", "AVIF")
_DEFAULT_MILLISECONDS = 100  # what browsers show a frame of an animation for that gives 0


class ImageSource(Source):
    """A still image, an animation, or a list of images that make a video.

    Args:
        path: the image or animation; with `files` the folder or pattern, for messages.
        options: what is wanted of it; alpha and all metadata are kept.
        files: the images of a video in their order; None: `path` is the only file.
        data: the content of that file, which then need not exist.

    Raises BsqError if the first image is broken or not supported, or no frame is wanted.
    """

    def __init__(self, path: str, options: SourceOptions, files: list[str] | None = None, data: bytes | None = None):
        super().__init__()
        self._path, self._files, self._data = path, files, data
        self._image: Image.Image | None = None  # the only file, which stays open
        self._animated = False
        self._depth = 8  # bits of a sample that decoded frames shall have
        self._strip = options.strip
        self._alpha = False  # shall frames have alpha?
        rate: Fraction | None = DEFAULT_RATE
        time_base = 1 / DEFAULT_RATE
        if files:
            with _reading(files[0]), Image.open(files[0]) as image:
                rgb, rotation = self._pixels(image, files[0])
                primaries, transfer, metadata = self._metadata(image, files[0])
            self._alpha = any(map(_may_be_transparent, files))
            durations = [1] * len(files)
        else:
            with _reading(path if data is None else f"{path}, which is not y4m,"):
                self._image = Image.open(self._source(path))
            with _reading(path):
                rgb, rotation = self._pixels(self._image, path)
                durations, transparent = _durations(self._image)
                self._alpha = transparent or rgb.shape[2] == 4
                self._animated = bool(durations)
                primaries, transfer, metadata = self._metadata(self._image, path)
            rate = None
            if durations:
                time_base = Fraction(1, 1000)
                rate = Fraction(1000 * len(durations), sum(durations)).limit_denominator((1 << 31) - 1)
        low = ticks(options.start, time_base)
        high = low + ticks(options.duration, time_base) if options.duration is not None else math.inf
        times = list(itertools.accumulate(durations[:-1], initial=0))
        self._wanted = [(i, t) for i, t in enumerate(times) if low <= t < high]
        if not self._wanted:
            raise BsqError(f"{path}: no frame in the time that is wanted")
        self.total = len(self._wanted)
        last, time = self._wanted[-1]
        self._last_duration = int(min(durations[last], high - time)) if durations else 0
        self.info = MediaInfo(
            width=rgb.shape[1],
            height=rgb.shape[0],
            time_base=time_base,
            frame_rate=rate,
            rotation=rotation,
            primaries=primaries,
            transfer=transfer,
            matrix=colour.IDENTITY,
            color_range=colour.FULL_RANGE,
            metadata=self._if_small(metadata),
            bit_depth=self._depth,
            alpha=self._alpha,
        )

    def close(self) -> None:
        """Close the image or animation, if it is one file."""
        if self._image:
            self._image.close()

    def __iter__(self) -> Items:
        origin = self._wanted[0][1]
        for i, time in self._wanted:
            if self._files:
                name = self._files[i]
                with _reading(name), Image.open(name) as image:
                    rgb, _ = self._pixels(image, name)
                    if icc_of(image) != self.info.metadata.get("icc"):
                        self._warn(f"{name}: its ICC profile is not that of the images before it, and left out")
                if rgb.shape[:2] != (self.info.height, self.info.width):
                    size = f"{rgb.shape[1]}x{rgb.shape[0]}, not {self.info.width}x{self.info.height}"
                    each = self._path if glob.has_magic(self._path) else os.path.join(self._path, "*")
                    raise BsqError(
                        f"{name} is {size} like the images before it; to encode each for itself: "
                        f"bsqcodec encode {each} --to OUT"
                    )
            else:
                assert self._image
                with _reading(f"{self._path}, frame {i}"):
                    if self._animated:
                        self._image.seek(i)
                    self._image.load()
                    rgb, _ = self._pixels(self._image, self._path)
            if self._alpha and rgb.shape[2] == 3:
                rgb = np.concatenate([rgb, np.full_like(rgb[..., :1], OPAQUE)], axis=2)
            yield Frame(rgb, time - origin, self._last_duration if i == self._wanted[-1][0] else 0)

    def _source(self, name: str) -> str | io.BytesIO:
        """An image by its path, or the only one by its content, if that is known."""
        return name if self._data is None else io.BytesIO(self._data)

    def _metadata(self, image: Any, name: str) -> tuple[int, int, dict[str, bytes]]:
        """Primaries and transfer of H.273 and metadata of `image`; only colours of one of many images."""
        chunks = png_chunks.read_colour_chunks(self._source(name)) if image.format == "PNG" else {}
        primaries, transfer, raw = png_chunks.colours(chunks)
        if image.format in _SEVERAL and image.n_frames > 1:
            self._warn(f"{name}: of {image.n_frames} pictures all but the first are left out")
        metadata = metadata_of(image, self._animated, self._warn)
        if not self._files and not self._strip:
            lost = not_kept(image) + (png_chunks.not_kept(self._source(name)) if image.format == "PNG" else [])
            if lost:
                self._warn(f"{name}: left out, which is not kept: {', '.join(lost)}")
        if self._files:
            if metadata.keys() - {"icc"}:
                self._warn("EXIF, XMP, text and pixel density of the images are left out, which are of each for itself")
            metadata = {key: value for key, value in metadata.items() if key == "icc"}
        return primaries, transfer, metadata | raw | png_chunks.hdr_metadata(chunks)

    def _pixels(self, image: Any, name: str) -> tuple[np.ndarray, int]:
        """The current frame of `image`, and by how many degrees it is to be turned clockwise.

        It is uint8 RGB (H, W, 3), or if it has transparent pixels RGBA (H, W, 4).
        """
        # as the decoder is told it, "I;16" or a maximum; of an image that is loaded it is known already
        depth = str(image.tile[0].args) if image.tile else ""
        premultiplied = "RGBa" in depth
        image.load()
        deep = self._depth > 8 or image.mode.startswith(("I", "F")) or ";16" in depth or "65535" in depth
        image, orientation = as_rgb(image, self._warn), orientation_of(image)
        if deep:
            self._depth = MAX_DEPTH
            self._warn(coded_from_8_bits(self._path, 16, MAX_DEPTH))
            image = image if self._animated else self._rounded(image, name)
        rotation = ROTATIONS.get(orientation, 0)
        if self._files or orientation not in ROTATIONS:
            image, rotation = upright(image, orientation), 0
        if image.mode.startswith(("I", "F")):
            return _gray(image, name), rotation
        if image.has_transparency_data:
            rgba = np.array(image.convert("RGBA"))
            if rgba[..., 3].min() < OPAQUE:
                if premultiplied:
                    self._warn("alpha is not multiplied into the colours any more, as it was in the source")
                return rgba, rotation
            return np.ascontiguousarray(rgba[..., :3]), rotation
        return np.array(image.convert("RGB")), rotation

    def _rounded(self, image: Any, name: str) -> Any:
        """An image of 16 bits rounded to 8, of which Pillow would keep the upper ones; the same if it is gray."""
        picture = deep_images.read_8_bits(self._source(name)) if image.mode in ("RGB", "RGBA") else None
        return image if picture is None or picture.shape[1::-1] != image.size else Image.fromarray(picture)


def is_image(path: str) -> bool:
    """Whether the content of a file, whatever its name, is an image of one of the common formats."""
    if not os.path.isfile(path):  # a pipe would lose what is read
        return False
    try:
        Image.open(path, formats=_COMMON).close()
    except Exception:  # as in `_reading`
        return False
    return True


def _gray(image: Any, name: str) -> np.ndarray:
    """An image of 16 bits, gray, as uint8 RGB (H, W, 3), or RGBA (H, W, 4) if one of its values is transparent."""
    gray = np.asarray(image)
    if image.mode == "F" or gray.min() < 0 or gray.max() > 65535:
        raise BsqError(f"{name} has samples of 32 bits, which are not supported")
    planes = [rescaled(gray.astype(np.uint16), 16, 8)] * 3
    clear = gray == image.info.get("transparency", -1)
    if clear.any():
        planes.append(np.where(clear, 0, OPAQUE).astype(np.uint8))
    return np.stack(planes, axis=2)


def _may_be_transparent(name: str) -> bool:
    """Whether an image has alpha, or a transparent colour. Broken ones are told when their turn comes."""
    try:
        with Image.open(name) as image:
            return image.has_transparency_data
    except Exception:  # as in `_reading`
        return False


def _durations(image: Any) -> tuple[list[int], bool]:
    """Milliseconds of each frame of an animation, and whether any has transparent pixels: all are decoded for it.

    Of a still image there are no durations.
    """
    count = getattr(image, "n_frames", 1) if image.format not in _SEVERAL else 1
    durations, transparent = [], False
    for i in range(count if count > 1 else 0):
        image.seek(i)
        image.load()
        durations.append(round(image.info.get("duration", 0)) or _DEFAULT_MILLISECONDS)
        if not transparent and image.has_transparency_data:
            transparent = image.convert("RGBA").getextrema()[3][0] < OPAQUE
    return durations, transparent


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns whatever Pillow raises on a broken file into a BsqError of one line."""
    try:
        yield
    except BsqError:
        raise
    except Exception as error:  # Pillow documents no common class: SyntaxError, struct.error, ... all occur
        detail = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({reason_of(error)})"
        raise BsqError(f"{name} is broken or not an image{detail}") from None
