"""Outputs for decoded frames that are images, through Pillow: a still image, or a folder of them."""

import contextlib
import os
import sys
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from ..errors import BsqError
from ..types import MediaInfo
from . import colour, hdr
from .base import EXIF_ROTATION
from .deep_images import png
from .sinks import NO_HDR, Sink, upright

STILL_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}  # Pillow's names by suffix

_EXIF_ORIENTATION = {degrees: orientation for orientation, degrees in EXIF_ROTATION.items()}
_PNG_LEVEL = 3  # of zlib; takes half the time of 6, for files of about the same size


class StillSink(Sink):
    """One image, whose format is named as Pillow names it."""

    def __init__(self, path: str, info: MediaInfo, format: str, quality: int):
        super().__init__(path, info, holds_alpha=format != "JPEG")
        self._leave_out_tracks()
        if info.transfer in colour.HDR_TRANSFERS and info.bit_depth == 8:
            self.warnings.append(NO_HDR)
        self._format, self._quality = format, quality

    def _open(self, part: str) -> None:
        self._part = part

    def _write(self, frame: np.ndarray, pts: int) -> None:
        if self._frames:
            raise BsqError(
                f"{self._path} holds one image; for more frames give a folder, as in frames/, an animation such as "
                ".apng or .webp, or a video"
            )
        self._save(frame)

    def _options(self) -> dict[str, Any]:
        """What Pillow's `save` is told of an image, upright."""
        if self._format == "PNG":
            return {"compress_level": _PNG_LEVEL}
        return {"quality": self._quality, "subsampling": "4:4:4"}  # each format ignores what it does not know

    def _save(self, frame: np.ndarray) -> None:
        options = self._options()
        if self._info.rotation:
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = _EXIF_ORIENTATION[self._info.rotation]
            options["exif"] = exif
        piped = contextlib.nullcontext(sys.stdout.buffer)
        with piped if self._part == "-" else open(self._part, "wb") as file:
            if self._info.bit_depth > 8:
                file.write(_deep_png(frame, self._info, options.get("exif")))
            else:
                Image.fromarray(frame).save(file, self._format, **options)
            file.flush()


class FolderSink(Sink):
    """A folder of numbered PNGs, upright."""

    def __init__(self, path: str, info: MediaInfo):
        super().__init__(path.rstrip("/") or "/", info, holds_alpha=True)
        if os.path.exists(self._path) and (not os.path.isdir(self._path) or os.listdir(self._path)):
            raise BsqError(f"{self._path} is not an empty folder; give another name")
        self._leave_out_tracks()
        if info.transfer in colour.HDR_TRANSFERS and info.bit_depth == 8:
            self.warnings.append(NO_HDR)

    def _open(self, part: str) -> None:
        self._part = part
        with self._writing():
            os.mkdir(part)

    def _write(self, frame: np.ndarray, pts: int) -> None:
        picture = upright(frame, self._info.rotation)
        with open(os.path.join(self._part, f"{self._frames:06d}.png"), "wb") as file:
            if self._info.bit_depth > 8:
                file.write(_deep_png(picture, self._info))
            else:
                Image.fromarray(picture).save(file, "PNG", compress_level=_PNG_LEVEL)


def _deep_png(frame: np.ndarray, info: MediaInfo, exif: Image.Exif | None = None) -> bytes:
    """A PNG of a frame of more than 8 bits."""
    chunks = hdr.png_chunks(info.metadata) if info.transfer in colour.HDR_TRANSFERS else {}
    if exif:
        chunks[b"eXIf"] = exif.tobytes().removeprefix(b"Exif\0\0")
    return png(frame, info.bit_depth, info.primaries, info.transfer, chunks)
