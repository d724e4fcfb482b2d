"""Pictures in 1/2 to 1/16 of their size: each pixel is the mean of those it covers, in integers."""

from dataclasses import replace
from fractions import Fraction

import numpy as np

from ..errors import BsqError
from ..settings import SCALES
from ..types import MediaInfo


def reduction(scale: Fraction | float | str) -> int:
    """By what sides are divided: 2 for a scale of 1/2 or "1/2". Raises BsqError if `scale` is not one of SCALES."""
    try:
        found = Fraction(scale)
    except (ValueError, ZeroDivisionError):
        found = Fraction(0)
    if found not in SCALES:
        raise BsqError(f"the scale is {scale}, not one of {', '.join(map(str, SCALES))}")
    return found.denominator


def reduced_info(info: MediaInfo, factor: int) -> MediaInfo:
    """`info` with sides divided by `factor`, rounded up. The shape of a pixel and the rotation stay."""
    return replace(info, width=-(-info.width // factor), height=-(-info.height // factor))


def reduced(picture: np.ndarray, factor: int) -> np.ndarray:
    """A picture with sides divided by `factor`, rounded up; `picture` itself for a factor of 1.

    Pixels at the right and at the bottom are the mean of what is there of the factor x factor pixels that they cover.
    Colours are weighted with their alpha; they are 0 where all of it is.

    Args:
        picture: uint8 or uint16, (H, W, 3) or, with straight alpha, (H, W, 4).
        factor: 1 to 16.

    Returns:
        An array of the same type, (ceil(H / factor), ceil(W / factor), channels).
    """
    if factor == 1:
        return picture
    rows, columns = (_covered(side, factor) for side in picture.shape[:2])
    area = rows[:, None, None] * columns[:, None]
    if picture.shape[2] == 3:
        return _quotient(_sums(picture, factor), area).astype(picture.dtype)
    alpha = picture[..., 3:]
    weight = _sums(alpha, factor)
    colour = _quotient(_sums(picture[..., :3] * alpha.astype(np.uint64), factor), np.maximum(weight, 1))
    return np.concatenate([colour, _quotient(weight, area)], 2).astype(picture.dtype)


def _covered(side: int, factor: int) -> np.ndarray:
    """How many of the `side` pixels of a row or a column each of its reduced pixels covers, uint64."""
    return np.minimum(factor, side - np.arange(0, side, factor)).astype(np.uint64)


def _sums(samples: np.ndarray, factor: int) -> np.ndarray:
    """Sums of factor x factor samples, of those that are there, (H, W, C) to uint64 (H / factor, W / factor, C)."""
    height, width, channels = samples.shape
    padded = np.pad(samples, ((0, -height % factor), (0, -width % factor), (0, 0)))
    kind = np.uint64 if samples.dtype == np.uint64 else np.uint32  # which is faster
    below = padded.reshape(-1, factor, padded.shape[1], channels).sum(1, dtype=kind)
    return below.reshape(len(below), -1, factor, channels).sum(2, dtype=np.uint64)


def _quotient(sums: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Sums divided by how many they are of, rounded to the nearest integer, halves upwards."""
    return (sums + count // 2) // count
