"""The codec as a library, in memory and frame by frame; `encode_file` and `decode_file` do the same from file to file.

>>> import io, numpy as np
>>> from fractions import Fraction
>>> from bsqcodec import Decoder, Encoder, MediaInfo, decode_image, encode_image
>>> picture = np.full((48, 64, 3), 90, np.uint8)
>>> data = encode_image(picture, quality=40)
>>> decode_image(data).shape
(48, 64, 3)

>>> file = io.BytesIO()
>>> with Encoder(file, MediaInfo(64, 48, frame_rate=Fraction(25)), quality=40, gop=2) as encoder:
...     for t in range(3):
...         _ = encoder.write(picture, t)
>>> _ = file.seek(0)
>>> with Decoder(file) as decoder:
...     [frame.pts for frame in decoder.frames(1)]
[1, 2]
"""

import io
from typing import Any

import numpy as np

from .decoder import Decoder
from .encoder import Encoder
from .errors import FormatError
from .network.weights import Model
from .settings import MAX_PIXELS, EncodeSettings
from .types import MediaInfo

__all__ = ["Decoder", "Encoder", "decode_image", "encode_image"]


def encode_image(
    rgb: np.ndarray,
    settings: EncodeSettings | None = None,
    *,
    model: Model | str | None = None,
    device: str = "auto",
    **options: Any,
) -> bytes:
    """One picture, uint8 RGB (H, W, 3) or RGBA (H, W, 4), to a .bsq stream. Takes and raises what `Encoder` does."""
    file, info = io.BytesIO(), MediaInfo(rgb.shape[1], rgb.shape[0], alpha=rgb.shape[2:] == (4,))
    with Encoder(file, info, settings, model=model, device=device, decoded=False, **options) as encoder:
        encoder.write(rgb)
    return file.getvalue()


def decode_image(
    data: bytes, device: str = "auto", model: Model | str | None = None, max_pixels: int = MAX_PIXELS,
    depth: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Decode the first picture of a stream, (H, W, 3), with alpha (H, W, 4), uint8, or uint16 of more than 8 bits.

    Takes and raises what `Decoder` does, and FormatError if there is no picture.
    """
    for frame in Decoder(io.BytesIO(data), device, model, max_pixels, depth).frames(0, 1):
        return frame.rgb
    raise FormatError("there are no frames")
