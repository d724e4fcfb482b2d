"""Frames with alpha, uint8 or uint16 (H, W, 4), straight: composited on a colour, or without their alpha."""

from dataclasses import replace

import numpy as np
from PIL import ImageColor

from ..errors import BsqError
from ..types import Frame, Items
from .base import Source

Colour = tuple[int, int, int]  # R, G, B, 0..255


def colour_of(text: str) -> Colour:
    """The colour that a name such as "white", or "#rrggbb", stands for. Raises BsqError for another text."""
    try:
        red, green, blue, *_ = ImageColor.getrgb(text)
    except ValueError:
        raise BsqError(f"{text!r} is not a colour such as white or #ff8000") from None
    return red, green, blue


def composited(frame: np.ndarray, background: Colour, depth: int = 8) -> np.ndarray:
    """A frame (H, W, 4) of `depth` bits a sample over a background: (H, W, 3), rounded to the nearest."""
    full = (1 << depth) - 1
    alpha = frame[..., 3:].astype(np.int64)
    behind = np.array(background, np.int64) * full  # times 255
    total = 255 * alpha * frame[..., :3] + (full - alpha) * behind
    return ((2 * total + 255 * full) // (2 * 255 * full)).astype(frame.dtype)


class OpaqueSource(Source):
    """A source whose frames have no alpha any more.

    Args:
        source: one with alpha.
        background: what the frames are composited on; None: their colours stay as they are, and alpha is dropped.
    """

    def __init__(self, source: Source, background: Colour | None):
        self._source, self._background = source, background
        self.info = replace(source.info, alpha=False)
        self.total, self.warnings = source.total, source.warnings

    def close(self) -> None:
        """Release the source."""
        self._source.close()

    def __iter__(self) -> Items:
        for item in self._source:
            if isinstance(item, Frame):
                rgba = item.rgb
                rgb = rgba[..., :3] if self._background is None else composited(rgba, self._background)
                item = item._replace(rgb=np.ascontiguousarray(rgb))
            yield item
