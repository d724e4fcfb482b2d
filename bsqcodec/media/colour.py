"""The one conversion between RGB and YUV. All but the matrix of more than 8 bits is done by swscale, with accurate
rounding and bicubic chroma.

RGB is full range; YUV is BT.709 in limited range unless told otherwise. Colours are described by the code points of
ITU-T H.273.
"""

from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation

from ..types import MediaInfo, rescaled

BT709, UNSPECIFIED = 1, 2  # primaries, transfer and matrix
IDENTITY, RESERVED, FCC, BT470BG, BT601, SMPTE240M, BT2020 = 0, 3, 4, 5, 6, 7, 9  # matrices; 5 and 6 are the same
# those that swscale can do, and what red and blue are of luma
MATRICES = {
    BT709: (0.2126, 0.0722), FCC: (0.30, 0.11), BT470BG: (0.299, 0.114), BT601: (0.299, 0.114),
    SMPTE240M: (0.212, 0.087), BT2020: (0.2627, 0.0593),
}  # fmt: skip
GAMMA_22, SRGB = 4, 13  # transfers
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
LIMITED_RANGE, FULL_RANGE = 1, 2  # as in `MediaInfo.color_range`
# what is shown well enough as if it were sRGB: of television and of nobody knows what
_COMMON_PRIMARIES, _COMMON_TRANSFERS = (1, 2, 5, 6, 7), (1, 2, 6, 7, 13, 14, 15)

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


def looks_like_srgb(info: MediaInfo) -> bool:
    """Whether colours are right, or nearly so, where nothing tells what they are."""
    return info.primaries in _COMMON_PRIMARIES and info.transfer in _COMMON_TRANSFERS


def to_yuv(rgb: np.ndarray, pixel_format: str, matrix: int = BT709, full: bool = False) -> Any:
    """uint8 (H, W, 3) RGB to an `av.VideoFrame` of `pixel_format`, limited range or `full`."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return _converted(frame, pixel_format, matrix, ColorRange.JPEG, ColorRange.JPEG if full else ColorRange.MPEG)


def to_deep_yuv(rgb: np.ndarray, depth: int, pixel_format: str, matrix: int = BT709, full: bool = False) -> Any:
    """RGB (H, W, 3), or RGBA (H, W, 4), of `depth` bits to an `av.VideoFrame` of more than 8 bits, as `to_yuv` does.

    pixel_format: with alpha if `rgb` has it. swscale would make it too bright, by up to 3.5 code values of 10 bits.
    """
    bits = bits_of(av.VideoFormat(pixel_format))
    red, blue = MATRICES[matrix]
    r, g, b, *alpha = np.moveaxis(rgb, 2, 0).astype(np.float32) / ((1 << depth) - 1)
    y = red * r + (1 - red - blue) * g + blue * b
    unit = 1 << (bits - 8)
    luma, chroma, black = (255 * unit + unit - 1,) * 2 + (0,) if full else (219 * unit, 224 * unit, 16 * unit)
    planes = [luma * y + black]
    planes += [chroma / (2 - 2 * k) * (c - y) + 128 * unit for c, k in ((b, blue), (r, red))]
    planes += [(256 * unit - 1) * opacity for opacity in alpha]
    frame = _planar([np.rint(plane).clip(0, 256 * unit - 1) for plane in planes], f"yuv{'a' * len(alpha)}444p{bits}le")
    told = ColorRange.JPEG if full else ColorRange.MPEG
    frame.color_range = told
    return _converted(frame, pixel_format, matrix, told, told)


def to_rgba_frame(rgba: np.ndarray, depth: int) -> Any:
    """RGBA (H, W, 4) of 8, 10 or 12 bits to an `av.VideoFrame` of as many, bgra or planar."""
    if depth == 8:
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(rgba[..., [2, 1, 0, 3]]), format="bgra")
    r, g, b, a = np.moveaxis(rgba, 2, 0)
    return _planar([g, b, r, a], f"gbrap{depth}le")


def _planar(planes: list[np.ndarray], pixel_format: str) -> Any:
    """An `av.VideoFrame` of planes of the same size and 9 to 16 bits."""
    frame: Any = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], pixel_format)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
        rows[:, : plane.width] = values
        plane.update(rows.tobytes())
    return frame


def samples(frame: Any) -> bytes:
    """The samples of a planar `av.VideoFrame`, plane by plane, in raster order, little-endian."""
    size = 1 if bits_of(frame.format) <= 8 else 2
    rows = (np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : size * plane.width] for plane in frame.planes)
    return b"".join(plane.tobytes() for plane in rows)


def has_alpha(pixel_format: Any) -> bool:
    """Whether frames of an `av.VideoFormat` may have transparent pixels."""
    return pixel_format.has_palette or any(component.is_alpha for component in pixel_format.components)


def bits_of(pixel_format: Any) -> int:
    """The most bits that a component of an `av.VideoFormat` has."""
    return max(component.bits for component in pixel_format.components)


def to_rgb(frame: Any, matrix: int = BT709, alpha: bool = False) -> np.ndarray:
    """An `av.VideoFrame` to uint8 (H, W, 3) RGB, or (H, W, 4) with `alpha`.

    YUV is taken as limited range unless the frame says full.
    """
    full = frame.color_range == ColorRange.JPEG or is_rgb(frame) or frame.format.name.startswith("yuvj")
    source = ColorRange.JPEG if full else ColorRange.MPEG
    if is_rgb(frame) and bits_of(frame.format) > 8:  # of these swscale does not round to the nearest
        deep = _converted(frame, "rgba64le" if alpha else "rgb48le", matrix, source, ColorRange.JPEG)
        return rescaled(deep.to_ndarray(), 16, 8)
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
