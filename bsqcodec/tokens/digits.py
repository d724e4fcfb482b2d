"""Coefficients as the digits of their bit planes."""

import numpy as np


def to_digits(coefficients: np.ndarray, planes: int = 12) -> np.ndarray:
    """Balanced ternary digits of integers, -1, 0 or 1, int8 (..., planes): digit j counts 3**j.

    Of the two bits that plane j of binary spherical quantisation has, "above" and "below", the first is set where the
    digit is 1, the second where it is -1. `planes` digits, at most 20, hold integers within +-(3**planes - 1) / 2; 12
    hold all that can be coded. Raises ValueError for larger ones.

    >>> to_digits(np.array([0, 1, 2, -5]), 3).tolist()
    [[0, 0, 0], [1, 0, 0], [-1, 1, 0], [1, 1, -1]]
    """
    bound = (3**planes - 1) // 2
    if np.abs(coefficients).max(initial=0) > bound:
        raise ValueError(f"{planes} digits do not hold integers beyond +-{bound}")
    shifted = np.asarray(coefficients, np.int64)[..., None] + bound
    return (shifted // 3 ** np.arange(planes) % 3 - 1).astype(np.int8)


def from_digits(digits: np.ndarray) -> np.ndarray:
    """The integers, int32 (...), of balanced ternary digits, (..., planes), of at most 20 planes.

    >>> from_digits(to_digits(np.array([7, -40]))).tolist()
    [7, -40]
    """
    return (digits.astype(np.int64) * 3 ** np.arange(digits.shape[-1])).sum(-1).astype(np.int32)
