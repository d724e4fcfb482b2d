"""The one conversion between RGB and YUV: 8 bits, done by swscale with accurate rounding and bicubic chroma.

RGB is full range; YUV is BT.709 in limited range unless told otherwise. Colours are described by the code points of
ITU-T H.273.
"""

from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation

BT709, UNSPECIFIED = 1, 2  # primaries, transfer and matrix
IDENTITY, RESERVED, FCC, BT470BG, BT601, SMPTE240M, BT2020 = 0, 3, 4, 5, 6, 7, 9  # matrices; 5 and 6 are the same
MATRICES = (BT709, FCC, BT470BG, BT601, SMPTE240M, BT2020)  # those that swscale can do
SRGB = 13  # transfer
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
LIMITED_RANGE, FULL_RANGE = 1, 2  # as in `MediaInfo.color_range`

# without the FULL_CHR flags swscale drops every other chroma sample of RGB: 5 dB of the round trip through 4:2:0
_FLAGS = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)


def is_rgb(frame: Any) -> bool:
    """Whether an `av.VideoFrame` holds RGB, if only in a palette."""
    return frame.format.is_rgb or frame.format.has_palette


def to_yuv(rgb: np.ndarray, pixel_format: str, matrix: int = BT709, full: bool = False) -> Any:
    """uint8 (H, W, 3) RGB to an `av.VideoFrame` of `pixel_format`, limited range or `full`."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return _converted(frame, pixel_format, matrix, ColorRange.JPEG, ColorRange.JPEG if full else ColorRange.MPEG)


def to_rgb(frame: Any, matrix: int = BT709, alpha: bool = False) -> np.ndarray:
    """An `av.VideoFrame` to uint8 (H, W, 3) RGB, or (H, W, 4) with `alpha`.

    YUV is taken as limited range unless the frame says full.
    """
    full = frame.color_range == ColorRange.JPEG or is_rgb(frame) or frame.format.name.startswith("yuvj")
    source = ColorRange.JPEG if full else ColorRange.MPEG
    return _converted(frame, "rgba" if alpha else "rgb24", matrix, source, ColorRange.JPEG).to_ndarray()


def assumed_matrix(width: int, height: int) -> int:
    """The matrix of YUV that does not tell: as most players have it, BT.601 up to 576 lines, BT.709 above."""
    return BT601 if height <= 576 and width < 1280 else BT709


def _converted(frame: Any, pixel_format: str, matrix: int, source: ColorRange, target: ColorRange) -> Any:
    """The frame in another pixel format and range, with the same matrix on both sides."""
    space = BT470BG if matrix == BT601 else matrix  # PyAV ignores 6
    return frame.reformat(
        format=pixel_format,
        src_colorspace=space,
        dst_colorspace=space,
        src_color_range=source,
        dst_color_range=target,
        interpolation=_FLAGS,
        threads=1,
    )
