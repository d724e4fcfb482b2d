"""Images, animations and folders of images as sources of frames."""

import contextlib
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..errors import BsqError
from ..types import AudioPacket, Frame, MediaInfo
from .base import ANIMATION_SUFFIXES, EXIF_ROTATION, FOLDER_RATE, Source, reason_of, suffix_of, ticks

# ---------------------------------------------------------------- images


class ImageSource(Source):
    """A still image, an animation (both `files` None), or a list of images that make a video."""

    def __init__(self, path: str, files: list[str] | None, start: float, duration: float | None):
        super().__init__()
        self._path, self._files = path, files
        self._image: Image.Image | None = None
        durations: list[int] = []  # milliseconds of each frame of an animation
        time_base, rate = 1 / FOLDER_RATE, FOLDER_RATE
        first = files[0] if files else path
        if files:
            with _reading(first), Image.open(first) as image:
                rgb, rotation = self._pixels(image, first)
            count = len(files)
        else:
            with _reading(path):
                self._image = Image.open(path)
                rgb, rotation = self._pixels(self._image, path)
                count = getattr(self._image, "n_frames", 1) if self._image.format != "TIFF" else 1
                self._animated = count > 1 or suffix_of(path) in ANIMATION_SUFFIXES
                for i in range(count if self._animated else 0):
                    self._seek(i)
                    durations.append(round(self._image.info.get("duration", 0)) or 100)  # 0 means 100, as in browsers
            if self._animated:
                time_base = Fraction(1, 1000)
                rate = Fraction(1000 * count, sum(durations))
        times = [sum(durations[:i]) for i in range(count)] if durations else list(range(count))
        low = ticks(start, time_base)
        high = low + ticks(duration, time_base) if duration is not None else math.inf
        self._kept = [(i, t) for i, t in enumerate(times) if low <= t < high]
        if not self._kept:
            raise BsqError(f"{path}: no frame in the time that is wanted")
        self.total = len(self._kept)
        still = files is None and not self._animated
        height, width = rgb.shape[:2]
        self.info = MediaInfo(
            width,
            height,
            time_base,
            None if still else rate,
            rotation=rotation,
            primaries=1,
            transfer=13,
            matrix=0,
            color_range=2,
        )

    def close(self) -> None:
        if self._image:
            self._image.close()

    def __iter__(self) -> Iterator[Frame | AudioPacket]:
        origin = self._kept[0][1]
        for i, time in self._kept:
            if self._files:
                name = self._files[i]
                with _reading(name), Image.open(name) as image:
                    rgb, _ = self._pixels(image, name)
                if rgb.shape != (self.info.height, self.info.width, 3):
                    size = f"{rgb.shape[1]}x{rgb.shape[0]}, not {self.info.width}x{self.info.height}"
                    raise BsqError(f"{name} is {size} like the images before it")
            else:
                assert self._image
                with _reading(f"{self._path}, frame {i}"):
                    self._seek(i)
                    rgb, _ = self._pixels(self._image, self._path)
            yield Frame(rgb, time - origin)

    def _seek(self, index: int) -> None:
        assert self._image
        if self._animated:
            self._image.seek(index)
        self._image.load()

    def _pixels(self, image: Any, name: str) -> tuple[np.ndarray, int]:
        """uint8 (H, W, 3) RGB of the current frame of `image`, and by how much it is to be turned clockwise."""
        depth = str(image.tile[0].args) if image.tile else ""
        image.load()
        if image.mode.startswith(("I", "F")) or ";16" in depth or "65535" in depth:
            self._warn(f"{name}: more than 8 bits a component is reduced to 8 bits")
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        rotation = EXIF_ROTATION.get(orientation, 0)
        if self._files or orientation not in EXIF_ROTATION:
            image, rotation = ImageOps.exif_transpose(image), 0
        if image.has_transparency_data:
            rgba = np.asarray(image.convert("RGBA"))
            if rgba[..., 3].min() < 255:
                raise BsqError(f"{name} has transparent pixels, which are not supported")
            return np.ascontiguousarray(rgba[..., :3]), rotation
        if image.mode.startswith(("I", "F")):
            gray = np.asarray(image)
            if image.mode == "F" or gray.min() < 0 or gray.max() > 65535:
                raise BsqError(f"{name} has samples of 32 bits, which are not supported")
            gray = ((gray.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
            return np.stack([gray] * 3, axis=2), rotation
        return np.array(image.convert("RGB")), rotation


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns whatever Pillow raises on a broken file into one line."""
    try:
        yield
    except BsqError:
        raise
    except Exception as error:  # Pillow documents no common class: SyntaxError, struct.error, ... all occur
        detail = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({reason_of(error)})"
        raise BsqError(f"{name} is broken or not an image{detail}") from None
