"""The one colour conversion of the benchmark: BT.709, 8 bits, done by swscale with accurate rounding.

RGB is full range; YUV is limited range in streams and files. Chroma is resampled bicubically.
"""

from typing import Any

import numpy as np


def _options(source_range: Any, target_range: Any) -> dict[str, Any]:
    from av.video.reformatter import Colorspace
    from av.video.reformatter import Interpolation as I

    # without the FULL_CHR flags swscale drops every other chroma sample of RGB: 5 dB of the round trip through 4:2:0
    flags = I.BICUBIC | I.ACCURATE_RND | I.FULL_CHR_H_INT | I.FULL_CHR_H_INP | I.BITEXACT
    return dict(src_colorspace=Colorspace.ITU709, dst_colorspace=Colorspace.ITU709, src_color_range=source_range,
                dst_color_range=target_range, interpolation=flags, threads=1)  # fmt: skip


def to_yuv(rgb: np.ndarray, pixel_format: str) -> Any:
    """uint8 (H, W, 3) RGB to an `av.VideoFrame` of `pixel_format`, limited range BT.709."""
    import av
    from av.video.reformatter import ColorRange

    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return frame.reformat(format=pixel_format, **_options(ColorRange.JPEG, ColorRange.MPEG))


def to_rgb(frame: Any) -> np.ndarray:
    """An `av.VideoFrame` to uint8 (H, W, 3) RGB. YUV is taken as BT.709, limited range unless the frame says full."""
    from av.video.reformatter import ColorRange

    name = frame.format.name
    full = frame.color_range == ColorRange.JPEG or name.startswith(("rgb", "bgr", "gbr", "yuvj", "0rgb", "argb"))
    source = ColorRange.JPEG if full else ColorRange.MPEG
    return frame.reformat(format="rgb24", **_options(source, ColorRange.JPEG)).to_ndarray()
