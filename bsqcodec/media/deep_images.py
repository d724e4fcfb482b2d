"""Images of 16 bits a sample in colour, which Pillow does not hold: read and written through FFmpeg."""

import io
from typing import Any

import av
import numpy as np

from ..types import rescaled
from .png_chunks import HEAD_BYTES

_PHYS_BYTES = 21  # of the chunk pHYs of a PNG


def read_8_bits(image: str | io.BytesIO) -> np.ndarray | None:
    """An image of 16 bits, by its path or content, as the nearest 8, uint8 (H, W, 3) RGB or (H, W, 4) RGBA.

    None for others.
    """
    source: Any = f"file:{image}" if isinstance(image, str) else image
    try:
        with av.open(source) as file:
            frame = next(file.decode(video=0))
    except (av.FFmpegError, OSError, ValueError, StopIteration, IndexError):
        return None
    return rescaled(frame.to_ndarray(), 16, 8) if frame.format.name.startswith(("rgb48", "rgba64")) else None


def png(frame: np.ndarray, depth: int) -> bytes:
    """A PNG of 16 bits a sample, without metadata. frame: uint16 (H, W, 3) RGB or (H, W, 4) RGBA of `depth` bits."""
    name = "rgba64be" if frame.shape[2] == 4 else "rgb48be"
    context: Any = av.CodecContext.create("png", "w")
    context.height, context.width, context.pix_fmt = *frame.shape[:2], name
    context.time_base, context.sample_aspect_ratio = 1, 1
    context.options = {"compression_level": "3", "pred": "paeth"}
    picture: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(rescaled(frame, depth, 16)), format=name)
    content = b"".join(bytes(packet) for packet in [*context.encode(picture), *context.encode(None)])
    told = content[HEAD_BYTES + 4 :].startswith(b"pHYs")  # by FFmpeg, that pixels are square, which it does not know
    return content[:HEAD_BYTES] + content[HEAD_BYTES + _PHYS_BYTES * told :]
