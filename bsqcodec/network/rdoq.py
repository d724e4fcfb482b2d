"""Rate-distortion optimised quantisation: the encoder's rounding, once the prior has said what each integer costs.

It is the encoder's own affair: any integers are valid, and nothing here need be exact.
"""

import numpy as np

from .quantiser import MEAN_BITS, SCALE_BITS

# A value closer to an integer than this stays there: another would have to save 0.7 * error_cost bits. A lone 1 may do
# so, others hardly.
SETTLED_DISTANCE = 0.15
BORDER_MAX = 40  # scales from the mean; the sigmoid of more is 0 in float32
PROBABILITY_MIN = 1e-9


def round_to_cheaper(y: np.ndarray, mean: np.ndarray, scale: np.ndarray, error_cost: float) -> np.ndarray:
    """Round each number to that one of its two neighbouring integers that costs less, int64 (n,).

    The cost is bits + error_cost * squared error.

    y: float32 (n,), in quantiser steps; mean, scale: of their distributions, like those of `Quantiser.code`.
    error_cost: bits that a squared error of one quantiser step is worth.
    """
    out = np.rint(y)
    off = np.abs(y - out)
    at = np.flatnonzero((off > SETTLED_DISTANCE) | (np.abs(out) == 1))
    near = out[at]
    side = np.where(y[at] < near, np.float32(-1), np.float32(1))
    # borders of the two integers' intervals from the mean, in scales, and seen from its other side where they lie
    # beyond it: the sigmoid of what is far below 0 is exact
    border = side * (near - mean[at] * np.float32(2.0**-MEAN_BITS)) + np.array([[-0.5], [0.5], [1.5]], np.float32)
    border *= np.exp2(scale[at] * np.float32(-(2.0**-SCALE_BITS)))
    border *= np.where(border[1] > 0, np.float32(-1), np.float32(1))
    sigmoid = 1 / (1 + np.exp(-border.clip(-BORDER_MAX, BORDER_MAX)))
    likely = np.abs(np.diff(sigmoid, axis=0)) + np.float32(PROBABILITY_MIN)
    saved = np.log2(likely[1] / likely[0])
    out[at] += side * (saved > error_cost * (1 - 2 * off[at]))
    return out.astype(np.int64)
