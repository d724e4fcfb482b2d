"""Images of 16 bits a sample in colour, which Pillow does not hold: read and written through FFmpeg."""

import struct
import zlib
from typing import Any, NamedTuple

import av
import numpy as np

from ..types import rescaled
from . import colour, hdr

_PNG_START = 33  # bytes of the signature and of IHDR, after which other chunks may come


class DeepImage(NamedTuple):
    """An image of 16 bits a sample.

    Attributes:
        rgb: the nearest of 8 bits, uint8 (H, W, 3) RGB or (H, W, 4) RGBA.
        primaries, transfer: of ITU-T H.273, as a PNG's cICP tells them; 2 if it does not.
        metadata: of HDR, as `hdr.read` gives them.
    """

    rgb: np.ndarray
    primaries: int
    transfer: int
    metadata: dict[str, bytes]


def read(path: str) -> DeepImage | None:
    """An image of 16 bits a sample in colour; None for one of another kind."""
    try:
        with av.open(f"file:{path}") as file:
            frame = next(file.decode(video=0))
    except (av.FFmpegError, OSError, ValueError, StopIteration, IndexError):
        return None
    if not frame.format.name.startswith(("rgb48", "rgba64")):
        return None
    rgb = rescaled(frame.to_ndarray(), 16, 8)
    return DeepImage(rgb, int(frame.color_primaries), int(frame.color_trc), hdr.read(frame))


def png(frame: np.ndarray, depth: int, primaries: int, transfer: int, chunks: dict[bytes, bytes]) -> bytes:
    """A PNG of 16 bits a sample.

    frame: uint16 (H, W, 3) RGB or (H, W, 4) RGBA of `depth` bits. primaries, transfer: of ITU-T H.273, told where it
    is HDR. chunks: the contents of ancillary chunks, such as eXIf, by their type.
    """
    name = "rgba64be" if frame.shape[2] == 4 else "rgb48be"
    context: Any = av.CodecContext.create("png", "w")
    context.height, context.width, context.pix_fmt = *frame.shape[:2], name
    context.time_base, context.sample_aspect_ratio = 1, 1
    context.options = {"compression_level": "3", "pred": "paeth"}
    picture: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(rescaled(frame, depth, 16)), format=name)
    if transfer in colour.HDR_TRANSFERS:
        picture.color_primaries, picture.color_trc, picture.colorspace = primaries, transfer, colour.IDENTITY
    data = b"".join(bytes(packet) for packet in [*context.encode(picture), *context.encode(None)])
    more = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks.items()
    )
    return data[:_PNG_START] + more + data[_PNG_START:]
