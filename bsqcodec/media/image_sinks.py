"""Outputs for decoded frames that are images, through Pillow: a still image, or a folder of them."""

import contextlib
import functools
import io
import os
import sys
from typing import Any

import numpy as np
from PIL import Image

from ..errors import BsqError
from ..settings import SinkOptions
from ..types import MediaInfo
from . import deep_images
from .image_metadata import held, holds, save_options
from .png_chunks import chunks_of, with_chunks
from .sinks import Sink, upright

STILL_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}  # Pillow's names by suffix

_PNG_LEVEL = 3  # of zlib; takes half the time of 6, for files of about the same size


class StillSink(Sink):
    """One image, whose format is named as Pillow names it."""

    def __init__(self, path: str, info: MediaInfo, options: SinkOptions, format: str):
        super().__init__(path, info, options, holds_alpha=format != "JPEG")
        self._leave_out_tracks()
        self._leave_out_aspect()
        self._leave_out_metadata(functools.partial(holds, format), colours=format == "PNG")
        self._format, self._quality = format, options.image_quality

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
        """What Pillow's `save` is told of an image."""
        return {"quality": self._quality, "subsampling": "4:4:4"}  # each format ignores what it does not know

    def _save(self, frame: np.ndarray) -> None:
        metadata = held(self._format, self._info.metadata, self._info.rotation)
        piped = contextlib.nullcontext(sys.stdout.buffer)
        with piped if self._part == "-" else open(self._part, "wb") as file:
            if self._format == "PNG":
                file.write(with_chunks(_png(frame, self._info.bit_depth), chunks_of(self._info, metadata)))
            else:
                Image.fromarray(frame).save(file, self._format, **self._options(), **save_options(metadata))
            file.flush()


class FolderSink(Sink):
    """A folder of numbered PNGs, upright."""

    def __init__(self, path: str, info: MediaInfo, options: SinkOptions):
        super().__init__(path.rstrip("/") or "/", info, options, holds_alpha=True)
        if os.path.exists(self._path) and (not os.path.isdir(self._path) or os.listdir(self._path)):
            raise BsqError(f"{self._path} is not an empty folder; give another name")
        self._leave_out_tracks()
        self._leave_out_aspect()
        self._leave_out_metadata(functools.partial(holds, "PNG"), colours=True)
        self._chunks = chunks_of(info, held("PNG", info.metadata, 0))

    def _open(self, part: str) -> None:
        self._part = part
        with self._writing():
            os.mkdir(part)

    def _write(self, frame: np.ndarray, pts: int) -> None:
        with open(os.path.join(self._part, f"{self._frames:06d}.png"), "wb") as file:
            picture = upright(frame, self._info.rotation)
            file.write(with_chunks(_png(picture, self._info.bit_depth), self._chunks))


def _png(frame: np.ndarray, depth: int) -> bytes:
    """A frame of `depth` bits as a PNG, without metadata."""
    if depth > 8:
        return deep_images.png(frame, depth)
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG", compress_level=_PNG_LEVEL)
    return file.getvalue()
