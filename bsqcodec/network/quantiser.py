"""The quantiser: gain and shape of a token, bit planes of its coefficients, and how likely each bit is; in integers.

The first of four modules to be read in this order: quantiser.py, tokenizer.py, prior.py, network.py.

Spherical quantisation codes the direction of a vector and leaves its length to be coded apart. Here the length is the
class of contrast of a token, c = round(log2((sigma + 2) / 16)) of the standard deviation of its luma, -3..3, by which
its quantiser step grows:

    step(quality, tune, c) = 2**(9 - 8 (quality - 1) / 99 + gamma c) pixel values, gamma = 9/16 or 0 by the tune.

I frames code c (stream/contrast.py); in P and B frames it is that of the prediction.

The direction is a residual BSQ (arXiv 2406.07548) in bit planes: plane j projects what the coarser planes left of a
coefficient r to (r - t, -r - t) with t = 3**j / 2, and takes the two signs: "above" and "below". So a plane is one
balanced-ternary digit of every coefficient; n planes hold the integers within +-(3**n - 1) / 2.

The prior gives each coefficient a mean m, in 1/32 of a step, and a scale index l, eighths of an octave. A logistic
distribution with that mean and scale, from one table of the sigmoid, gives the probability of every bit. All tables
travel in the model file (quantiser_tables.py).
"""

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

COEFFICIENTS = 768  # of a token of 16x16 pixels in three colours
GROUPS = (8, 24, 64, 96, 224, 352)  # coefficients that are coded together
LOWEST_CLASS = -3
STEP_BITS = 10  # fractional bits of quantiser steps
WEIGHT_BITS = 12  # fractional bits of the frequency weights
TABLE_ROWS = 11  # of the prior's table of means and scales: one for every 9.9 of the quality

MEAN_BITS = 5
MEAN_ONE = 1 << MEAN_BITS
SCALE_BITS = 3
SCALE_LOW, SCALE_HIGH = -40, 72  # bounds of the index l of a scale, 2**(l / 8) steps
PLANES = 10
P_ONE = 1 << 16  # stands for the probability 1
SIGMOID_REACH = 20  # the table holds the sigmoid at -20, -20 + 1/16 .. 20
SIGMOID_BITS = 32
EXCESS_MAX = (1 << 16) - 1  # by so much a value can pass the bound of its planes
EXCESS_BITS = 15  # floor(log2) of it
P_EXCESS_MIN = 16  # least probability that a value at the bound of its planes passes it
# By the number of planes: half of the interval of values that they hold, with MEAN_BITS, and the largest such value
HALF_INTERVALS = MEAN_ONE // 2 * 3 ** np.arange(PLANES + 1, dtype=np.int64)
PLANE_BOUNDS = (3 ** np.arange(PLANES + 1, dtype=np.int64) - 1) // 2
# borders of the intervals that a digit tells apart, from the middle, in halves of an interval
DIGIT_BORDERS = np.array([[-3], [-1], [1], [3]])

# Called with P(bit = 1) * P_ONE, int64 (n,), and when encoding with the bits, bool (n,). Returns the bits, bool (n,).
Coder = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


def log2_step(quality: Tensor | int) -> Tensor:
    """log2 of the quantiser step, in pixel values, of a token of class 0; quality: 1..100."""
    return 9 - 8 * (torch.as_tensor(quality, dtype=torch.float64) - 1) / 99


def groups(n_coded: int) -> list[slice]:
    """The groups that hold any of the first `n_coded` coefficients."""
    ends = itertools.accumulate(GROUPS)
    return [slice(end - n, min(end, n_coded)) for n, end in zip(GROUPS, ends, strict=True) if end - n < n_coded]


class Quantiser:
    """The tables of a model at work.

    Args:
        tensors: those of the model file; the names of the tables begin with "quantiser.".
        device: where `classes`, `steps` and `uncertain` work; `code` works on the host.

    Attributes:
        n_coded: coefficients of a token that are coded, by quality - 1; the others are 0.
        smooth: bound of the deblocking filter, by quality - 1.
        level: the quality as a feature of the networks, by quality - 1.
        weight: of the frequency of each coefficient, int64 (tunes, 768).
    """

    def __init__(self, tensors: dict[str, Tensor], device: torch.device):
        def on_device(name: str) -> Tensor:
            return tensors[f"quantiser.{name}"].to(device, torch.int64)

        def on_host(name: str) -> np.ndarray:
            return tensors[f"quantiser.{name}"].cpu().numpy().astype(np.int64)

        self.n_coded: list[int] = on_host("active").tolist()
        self.smooth: list[int] = on_host("smooth").tolist()
        self.level, self.weight = on_device("level"), on_device("weight")
        self._step, self._contrast = on_device("step"), on_device("contrast")
        self._tail = on_device("certain").to(torch.int32)
        self._host_tail, self._sigmoid, self._inverse = map(on_host, ("certain", "sigmoid", "inverse"))

    def classes(self, picture: Tensor) -> Tensor:
        """Class of contrast of each token, -3..3, int64 (B, H/16, W/16).

        picture: integers 0..255, (B, 3, H, W), sides multiples of 16.
        """
        g = picture.sum(1)
        b, h, w = g.shape
        g = g.view(b, h // 16, 16, w // 16, 16)
        # 16 * 765**2 < 2**24, exact in float32; then 2**16 * 765**2 < 2**53
        squares, total = (t.sum(2).double().sum(-1) for t in (g * g, g))
        variance = 256 * squares - total**2
        return torch.bucketize(variance.to(torch.int64), self._contrast, right=True) + LOWEST_CLASS

    def steps(self, quality: int, tune: int, classes: Tensor) -> Tensor:
        """Quantiser step of each token with STEP_BITS fractional bits, int64, the shape of `classes`."""
        return self._step[tune, quality - 1][classes - LOWEST_CLASS]

    def uncertain(self, mean: Tensor, scale: Tensor) -> Tensor:
        """Places of the coefficients that the prior is not certain to be 0, int64, in the order of `flatten`.

        These, about one in ten, have a bit plane at least; the others are 0, and nothing is coded for them.

        mean, scale: integers of one shape, as for `code`, on the model's device.
        """
        reach = self._tail[(scale - SCALE_LOW).long()] + mean.abs()
        return (reach.flatten() > int(HALF_INTERVALS[0])).nonzero().squeeze(1)

    def code(self, mean: np.ndarray, scale: np.ndarray, coder: Coder, y: np.ndarray | None = None) -> np.ndarray:
        """Code the planes of coefficients that do not depend on each other, coarse planes first.

        A coefficient has so many planes that a value beyond them is less than 2**-10 likely. If it comes out at the
        bound of its planes, the excess of the value beyond this bound is coded last.

        mean, scale: int32 (n,), from the prior, of coefficients that are `uncertain`. y: int64 (n,), the coefficients,
        when encoding. Returns the coefficients, int64 (n,).
        """
        planes = np.searchsorted(HALF_INTERVALS, self._host_tail[scale - SCALE_LOW] + np.abs(mean)).clip(max=PLANES)
        mean, inverse, bound = mean.astype(np.int64), self._inverse[scale - SCALE_LOW], PLANE_BOUNDS[planes]
        out = np.zeros_like(mean)
        inside = None if y is None else np.clip(y, -bound, bound)
        for j in range(int(planes.max(initial=0)) - 1, -1, -1):
            at = np.flatnonzero(planes > j)
            rest = None if inside is None else inside[at] - out[at]
            out[at] += 3**j * self._code_digits(j, MEAN_ONE * out[at] - mean[at], inverse[at], coder, rest)
        at = np.flatnonzero(np.abs(out) == bound)
        if at.size:
            sign = np.sign(out[at])
            far = MEAN_ONE * bound[at] - sign * mean[at]
            tail, beyond = (
                (1 << SIGMOID_BITS) - self._logistic(far + k, inverse[at]) for k in (-MEAN_ONE // 2, MEAN_ONE // 2)
            )
            p = (beyond * P_ONE // np.maximum(tail, 1)).clip(P_EXCESS_MIN, P_ONE // 2)
            excess = None if y is None else (np.abs(y[at]) - bound[at]).clip(max=EXCESS_MAX)
            out[at] += sign * _code_excess(p, coder, excess)
        return out

    def _code_digits(
        self, j: int, z: np.ndarray, inverse: np.ndarray, coder: Coder, rest: np.ndarray | None
    ) -> np.ndarray:
        """Code the digits of plane j, -1..1, int64 (n,): whether each is 1, then of the others whether it is -1.

        z: distance of the coarser planes' value from the mean, with MEAN_BITS; rest: what they left of the coefficient.
        """
        borders = z + HALF_INTERVALS[j] * DIGIT_BORDERS
        # made to rise strictly: no interval of values is impossible
        lowest, below, above, highest = self._logistic(borders, inverse) + borders
        p_above = ((highest - above) * P_ONE // (highest - lowest)).clip(1, P_ONE - 1)
        p_below = ((below - lowest) * P_ONE // (above - lowest)).clip(1, P_ONE - 1)
        digit = np.zeros_like(z)
        is_above = coder(p_above, None if rest is None else 2 * rest > 3**j)
        digit[is_above] = 1
        others = np.flatnonzero(~is_above)
        is_below = coder(p_below[others], None if rest is None else 2 * rest[others] < -(3**j))
        digit[others[is_below]] = -1
        return digit

    def _logistic(self, z: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """The logistic distribution function, times 2**32, at a distance of z / 32 steps from the mean."""
        t = (z * inverse >> 13) + (SIGMOID_REACH << 12)  # in scales, with 5 + 20 - 13 = 12 fractional bits
        t = t.clip(0, (SIGMOID_REACH << 13) - 1)
        i, part = t >> 8, t & 255  # the table has 4 of the bits
        low = self._sigmoid[i]
        return low + ((self._sigmoid[i + 1] - low) * part >> 8)


def _code_excess(p: np.ndarray, coder: Coder, excess: np.ndarray | None) -> np.ndarray:
    """Code by how much values pass the bound of their planes, 0..65535, int64 (n,).

    Whether they do has the probabilities p. The rest is an Exp-Golomb code of order 0, whose bits are all as likely as
    not: 2**e + suffix, e in unary.
    """

    def even(n: int, bits: np.ndarray | None) -> np.ndarray:
        return coder(np.full(n, P_ONE // 2), bits)

    passes = coder(p, None if excess is None else excess > 0)
    out = passes.astype(np.int64)
    at = np.flatnonzero(passes)
    exponent = None if excess is None else np.frexp(excess[at].astype(np.float64))[1] - 1
    length, going = np.zeros(at.size, np.int64), np.arange(at.size)
    for e in range(EXCESS_BITS if at.size else 0):
        more = even(going.size, None if exponent is None else exponent[going] > e)
        going = going[more]
        length[going] += 1
    value = np.ones(at.size, np.int64)
    for e in range(length.max(initial=0) - 1, -1, -1):
        those = np.flatnonzero(length > e)
        bits = even(those.size, None if excess is None else (excess[at[those]] >> e & 1).astype(bool))
        value[those] = 2 * value[those] + bits
    out[at] = value
    return out
