"""The one colour conversion: 8 bits, done by swscale with accurate rounding, BT.709 unless told otherwise.

RGB is full range; YUV is limited range unless told otherwise. Chroma is resampled bicubically. Matrices are named by
their code points of ITU-T H.273.
"""

from typing import Any

import av
import numpy as np

from . import colour

BT709, BT601 = 1, 6
MATRICES = (BT709, 4, 5, BT601, 7, 9)  # those that swscale can do: also FCC, BT.470BG (= BT.601), SMPTE 240M, BT.2020


def _options(matrix: int, source_range: Any, target_range: Any) -> dict[str, Any]:
    from av.video.reformatter import Interpolation as I

    # without the FULL_CHR flags swscale drops every other chroma sample of RGB: 5 dB of the round trip through 4:2:0
    flags = I.BICUBIC | I.ACCURATE_RND | I.FULL_CHR_H_INT | I.FULL_CHR_H_INP | I.BITEXACT
    space = 5 if matrix == BT601 else matrix  # PyAV ignores 6, of which 5 is the twin
    return dict(src_colorspace=space, dst_colorspace=space, src_color_range=source_range,
                dst_color_range=target_range, interpolation=flags, threads=1)  # fmt: skip


def is_rgb(frame: Any) -> bool:
    return frame.format.is_rgb or frame.format.has_palette


def to_yuv(rgb: np.ndarray, pixel_format: str, matrix: int = BT709, full: bool = False) -> Any:
    """uint8 (H, W, 3) RGB to an `av.VideoFrame` of `pixel_format`, limited range or `full`."""
    from av.video.reformatter import ColorRange

    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    target = ColorRange.JPEG if full else ColorRange.MPEG
    return frame.reformat(format=pixel_format, **_options(matrix, ColorRange.JPEG, target))


def to_rgb(frame: Any, matrix: int = BT709, alpha: bool = False) -> np.ndarray:
    """An `av.VideoFrame` to uint8 (H, W, 3) RGB, or (H, W, 4) with `alpha`.

    YUV is taken as limited range unless the frame says full.
    """
    from av.video.reformatter import ColorRange

    full = frame.color_range == ColorRange.JPEG or is_rgb(frame) or frame.format.name.startswith("yuvj")
    source = ColorRange.JPEG if full else ColorRange.MPEG
    target = "rgba" if alpha else "rgb24"
    return frame.reformat(format=target, **_options(matrix, source, ColorRange.JPEG)).to_ndarray()


def assumed_matrix(width: int, height: int) -> int:
    """The matrix of YUV that does not tell: as most players have it, BT.601 up to 576 lines, BT.709 above."""
    return colour.BT601 if height <= 576 and width < 1280 else colour.BT709
