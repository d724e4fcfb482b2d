"""What HDR video tells of the display that it was made on, and of its brightest picture: read, kept and written.

It is kept as the SEI messages of ITU-T H.265 have it, big-endian: "mdcv", the mastering display colour volume, x and y
of green, blue, red and white (u16, units of 0.00002), highest and lowest luminance (u32, of 0.0001 cd/m²); "clli", the
highest light level of a pixel and of the mean of a picture (u16, cd/m²).
"""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

MASTERING, LIGHT = "mdcv", "clli"  # keys of what is kept
_MDCV, _CLLI = ">8H2I", ">2H"
_XY, _LUMINANCE = 50_000, 10_000  # units in 1, and in 1 cd/m²
_DYNAMIC = {"DYNAMIC_HDR_PLUS", "DYNAMIC_HDR_VIVID", "DOVI_RPU_BUFFER", "DOVI_METADATA"}


def read(frame: Any) -> dict[str, bytes]:
    """What an `av.VideoFrame` tells, by MASTERING and LIGHT; what it does not tell is left out."""
    sides, found = side_data(frame), {}
    # the structures of FFmpeg: numerator and denominator of each number, red, green, blue; white; lowest and highest
    if len(side := sides.get("MASTERING_DISPLAY_METADATA", b"")) >= 88:
        *pairs, has_primaries, has_luminance = np.frombuffer(side[:88], np.int32).tolist()
        r, g, b, white, (low, high) = np.reshape(
            [n / d if d else 0 for n, d in zip(pairs[::2], pairs[1::2], strict=True)], (5, 2)
        )
        if has_primaries and has_luminance:
            numbers = [round(x * _XY) for x in (*g, *b, *r, *white)] + [round(x * _LUMINANCE) for x in (high, low)]
            if min(numbers) >= 0 and max(numbers[:8]) < 1 << 16 and max(numbers) < 1 << 32:
                found[MASTERING] = struct.pack(_MDCV, *numbers)
    if len(side := sides.get("CONTENT_LIGHT_LEVEL", b"")) >= 8:
        found[LIGHT] = struct.pack(_CLLI, *np.frombuffer(side[:8], np.uint32).clip(0, 65535).tolist())
    return found


def side_data(frame: Any) -> dict[str, bytes]:
    """What an `av.VideoFrame` carries beside its samples, by FFmpeg's names, such as "DISPLAYMATRIX".

    Nothing if it carries a kind that PyAV does not know, as EXIF: then it gives none of them.
    """
    try:
        return {data.type.name: bytes(data) for data in frame.side_data}
    except ValueError:
        return {}


def is_dynamic(frame: Any) -> bool:
    """Whether an `av.VideoFrame` has metadata of its own scene, such as HDR10+ or Dolby Vision, which are not kept."""
    return bool(_DYNAMIC & side_data(frame).keys())


def x264_params(metadata: Mapping[str, bytes]) -> str:
    """The same for libx264, as its option x264-params; an empty string if there is nothing.

    What has another length than it must have is left out.
    """
    params = []
    if len(data := metadata.get(MASTERING, b"")) == struct.calcsize(_MDCV):
        gx, gy, bx, by, rx, ry, wx, wy, high, low = struct.unpack(_MDCV, data)
        params.append(f"mastering-display=G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({high},{low})")
    if len(data := metadata.get(LIGHT, b"")) == struct.calcsize(_CLLI):
        params.append("cll={},{}".format(*struct.unpack(_CLLI, data)))
    return ":".join(params)
