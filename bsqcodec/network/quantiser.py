"""The quantiser: gain and shape of a token, bit planes of its coefficients, and how likely each bit is.

Spherical quantisation codes the direction of a vector and leaves its length to be coded apart. Here the length is the
class of contrast of a token, c = round(log2((sigma + 2) / 16)) of the standard deviation of its luma, -3..3, by which
its quantiser step grows:

    step(quality, tune, c) = 2**(9 - 8 (quality - 1) / 99 + gamma c) pixel values, gamma = 9/16 or 0 by the tune.

I frames code c (gains.py), in P and B frames it is that of the prediction.

The direction is a residual BSQ (arXiv 2406.07548) in bit planes: plane j projects what the coarser planes left of a
coefficient r to (r - t, -r - t) with t = 3**j / 2, and takes the two signs: "above" and "below". A plane is so one
balanced-ternary digit of every coefficient; n planes hold the integers within +-(3**n - 1) / 2.

The prior gives each coefficient a mean m, in 1/32 of a step, and a scale index l, eighths of an octave. A logistic
distribution with that mean and scale, from one table of the sigmoid, gives the probability of every bit. All in
integers.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .patches import PHASES

COEFFICIENTS = 768
GROUPS = (8, 24, 64, 96, 224, 352)  # coefficients that are coded together
TUNES = 2  # perceptual, psnr
QUALITIES = 100
CLASSES = 7  # of contrast
LOWEST = -3  # class
GAMMA = (9 / 16, 0.0)
STEP_BITS = 10
WEIGHT_BITS = 12  # of the frequency weights
TABLE_ROWS = 11  # of the table of means and scales, at every 9.9 steps of quality

MEAN_BITS = 5
SCALE_LOW, SCALE_HIGH = -40, 72  # in eighths of an octave
PLANES = 10
ONE = 1 << 16  # scale of the probabilities
SIGMOID_REACH = 20  # the table holds the sigmoid at -20, -20 + 1/16 .. 20
SIGMOID_BITS = 32
_CERTAIN = 7  # scales beyond which a value is not coded: exp(-7) = 2**-10 likely
ESCAPE_MAX = (1 << 16) - 1  # by so much a value can pass the bound of its planes
_ESCAPE = 16  # of ONE: least probability that a value at the bound of its planes passes it
_UNITS = 16 * 3 ** np.arange(PLANES + 1, dtype=np.int64)  # half of the interval of so many planes, in 1/32 steps
_MOST = (3 ** np.arange(PLANES + 1, dtype=np.int64) - 1) // 2  # that so many planes hold
_BORDERS = np.array([[-3], [-1], [1], [3]])  # of the intervals that a digit tells apart, in such halves

# Called with P(bit = 1) * 65536, int64 (n,), and when encoding with the bits, bool (n,). Returns the bits, bool (n,).
Coder = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


def log2_step(quality: Tensor | int) -> Tensor:
    """log2 of the quantiser step, in pixel values, of a token of class 0; quality: 1..100."""
    return 9 - 8 * (torch.as_tensor(quality, dtype=torch.float64) - 1) / 99


def tables(frequency: Tensor) -> dict[str, Tensor]:
    """Every integer table that the quantiser goes by; they travel in the model file.

    frequency: float (768,), log2 of the weight of each coefficient's frequency before the exponent of a tune.
    """
    quality, c = torch.arange(1, QUALITIES + 1), torch.arange(CLASSES, dtype=torch.float64) + LOWEST
    level = log2_step(quality)
    step = torch.stack([2 ** (level[:, None] + gamma * c) for gamma in GAMMA])
    bound = (16 * 2 ** (c[1:] - 0.5) - 2) ** 2  # of the variance of luma, the mean of R, G and B, on the way up
    # variances are compared as 256 * sum g^2 - (sum g)^2 with g = R + G + B
    reach = torch.arange(-SIGMOID_REACH * 16, SIGMOID_REACH * 16 + 1, dtype=torch.float64) / 16
    scales = torch.arange(SCALE_LOW, SCALE_HIGH + 1, dtype=torch.float64) / 8
    return {
        "quantiser.step": torch.round(step * 2**STEP_BITS).long(),
        "quantiser.active": torch.where(level >= 6, 192, torch.where(level >= 4.3, 416, COEFFICIENTS)),
        "quantiser.smooth": (level >= 4).long() + (level >= 6).long(),
        "quantiser.level": torch.round(32 * (level - 5.5) / 1.5).long(),
        "quantiser.weight": torch.stack(
            [
                torch.round(2 ** (0.3 * frequency.double()) * 2**WEIGHT_BITS).long(),
                torch.full((COEFFICIENTS,), 1 << WEIGHT_BITS),
            ]
        ),
        "quantiser.contrast": torch.round(bound * 9 * 65536).long(),
        "quantiser.sigmoid": torch.round(torch.sigmoid(reach) * 2**SIGMOID_BITS).long(),
        "quantiser.inverse": torch.round(2 ** (20 - scales)).long(),
        "quantiser.certain": torch.ceil(32 * _CERTAIN * 2**scales).long(),
    }


class Quantiser:
    """The tables of a model at work. Attributes are int64 tensors on the model's device, but for those of `code`."""

    def __init__(self, tensors: dict[str, Tensor], device: torch.device):
        def table(name: str) -> Tensor:
            return tensors[f"quantiser.{name}"].to(device, torch.int64)

        self.step, self.level = table("step"), table("level")
        self.weight, self.contrast = table("weight"), table("contrast")
        self.n_coded: list[int] = tensors["quantiser.active"].tolist()
        self.smooth: list[int] = tensors["quantiser.smooth"].tolist()
        self._reach = tensors["quantiser.certain"].to(device, torch.int32)
        self._sigmoid, self._inverse, self._certain = (
            tensors[f"quantiser.{name}"].cpu().numpy().astype(np.int64) for name in ("sigmoid", "inverse", "certain")
        )

    def classes(self, picture: Tensor) -> Tensor:
        """Class of contrast of each token, -3..3, int64 (B, H/16, W/16).

        picture: integers 0..255, (B, 3, H, W), sides multiples of 16.
        """
        g = picture.sum(1)
        b, h, w = g.shape
        g = g.view(b, h // 16, 16, w // 16, 16)
        # 16 * 585225 < 2**24, exact in float32; then 2**16 * 585225 < 2**53
        squares, total = (t.sum(2).double().sum(-1) for t in (g * g, g))
        variance = 256 * squares - total**2
        return torch.bucketize(variance.to(torch.int64), self.contrast, right=True) + LOWEST

    def steps(self, quality: int, tune: int, classes: Tensor) -> Tensor:
        """Quantiser step of each token with STEP_BITS fractional bits, int64, the shape of `classes`."""
        return self.step[tune, quality - 1][classes - LOWEST]

    def coded(self, mean: Tensor, scale: Tensor) -> Tensor:
        """The places of the coefficients that have a plane at all, int64, in the order of `flatten`: about one in ten.

        mean, scale: integers of one shape, as for `code`, on the model's device.
        """
        reach = self._reach[(scale - SCALE_LOW).long()] + mean.abs()
        return (reach.flatten() > int(_UNITS[0])).nonzero().squeeze(1)

    def code(self, mean: np.ndarray, scale: np.ndarray, coder: Coder, y: np.ndarray | None = None) -> np.ndarray:
        """Code the planes of coefficients that do not depend on each other, coarse planes first.

        mean, scale: int32 (n,), from the prior. y: int64 (n,), the coefficients, when encoding. Returns, int64, the
        coefficients that were coded: those of y, but for some that are not 0 where the prior is certain that they are.

        A coefficient has so many planes that a value beyond them is less than 2**-10 likely. With none it is 0; at the
        bound of its planes, which values of the tails share, it is told whether it passes it and by how much.
        """
        result = np.zeros(mean.size, np.int64)
        reach = self._certain[scale - SCALE_LOW] + np.abs(mean)
        coded = np.flatnonzero(reach > _UNITS[0])  # the places that `coded` finds
        planes = np.searchsorted(_UNITS, reach[coded]).clip(max=PLANES)
        mean, inverse = mean[coded].astype(np.int64), self._inverse[scale[coded] - SCALE_LOW]
        y = None if y is None else y[coded]
        most = _MOST[planes]
        out = np.zeros_like(mean)
        bounded = None if y is None else np.clip(y, -most, most)
        for j in range(int(planes.max(initial=0)) - 1, -1, -1):
            at = np.flatnonzero(planes > j)
            m, inv, half = 32 * out[at] - mean[at], inverse[at], _UNITS[j]
            lowest, below, above, highest = self._distribution(m + half * _BORDERS, inv)
            p_above = ((highest - above) * ONE // (highest - lowest)).clip(1, ONE - 1)
            p_below = ((below - lowest) * ONE // (above - lowest)).clip(1, ONE - 1)
            rest = None if bounded is None else 2 * (bounded[at] - out[at])
            digit = np.zeros_like(m)
            is_above = coder(p_above, None if rest is None else rest > 3**j)
            digit[is_above] = 1
            others = np.flatnonzero(~is_above)
            is_below = coder(p_below[others], None if rest is None else rest[others] < -(3**j))
            digit[others[is_below]] = -1
            out[at] += 3**j * digit
        at = np.flatnonzero(np.abs(out) == most)
        if at.size:
            sign = np.sign(out[at])
            far = 32 * most[at] - sign * mean[at]
            tail, beyond = ((1 << SIGMOID_BITS) - self._logistic(far + k, inverse[at]) for k in (-16, 16))
            p = (beyond * ONE // np.maximum(tail, 1)).clip(_ESCAPE, ONE // 2)
            over = None if y is None else (np.abs(y[at]) - most[at]).clip(max=ESCAPE_MAX)
            out[at] += sign * _escape(p, coder, over)
        result[coded] = out
        return result

    def _logistic(self, z: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """The logistic distribution, 2**32 times, at a distance of z / 32 steps from the mean."""
        t = (z * inverse >> 13) + (SIGMOID_REACH << 12)
        t = t.clip(0, (SIGMOID_REACH << 13) - 1)
        i, part = t >> 8, t & 255
        low = self._sigmoid[i]
        return low + ((self._sigmoid[i + 1] - low) * part >> 8)

    def _distribution(self, z: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """The same, made to rise strictly: no interval of values is impossible."""
        return self._logistic(z, inverse) + z


def _escape(p: np.ndarray, coder: Coder, over: np.ndarray | None) -> np.ndarray:
    """Code by how much values pass the bound of their planes, 0..65535, int64 (n,): whether they do, with the
    probabilities p, and then the Exp-Golomb code of order 0 of the rest, whose bits are all as likely as not."""

    def even(n: int, bits: np.ndarray | None) -> np.ndarray:
        return coder(np.full(n, ONE // 2), bits)

    passes = coder(p, None if over is None else over > 0)
    out = passes.astype(np.int64)
    at = np.flatnonzero(passes)
    # over = 2**e + suffix, e <= 15
    exponent = None if over is None else np.frexp(over[at].astype(np.float64))[1] - 1
    length, going = np.zeros(at.size, np.int64), np.arange(at.size)
    for e in range(15 if at.size else 0):
        more = even(going.size, None if exponent is None else exponent[going] > e)
        going = going[more]
        length[going] += 1
    value = np.ones(at.size, np.int64)
    for e in range(length.max(initial=0) - 1, -1, -1):
        those = np.flatnonzero(length > e)
        bits = even(those.size, None if over is None else (over[at[those]] >> e & 1).astype(bool))
        value[those] = 2 * value[those] + bits
    out[at] = value
    return out


def decide(y: np.ndarray, mean: np.ndarray, scale: np.ndarray, worth: float) -> np.ndarray:
    """Round real numbers to one of the two integers next to each, whichever costs less: int64 (n,).

    The cost is bits + worth * squared error (rate-distortion optimised quantisation). It is the encoder's own affair:
    nothing here need be exact.

    y: float32 (n,), in quantiser steps; mean, scale: of their distributions, like those of `Quantiser.code`.
    """
    out = np.rint(y)
    off = np.abs(y - out)
    # closer to an integer than this, another would have to save 0.7 * worth bits: a lone 1 may do so, others hardly
    at = np.flatnonzero((off > 0.15) | (np.abs(out) == 1))
    near = out[at]
    side = np.where(y[at] < near, np.float32(-1), np.float32(1))
    # borders of the two integers' intervals from the mean, in scales, and seen from its other side where they lie
    # beyond it: the sigmoid of what is far below 0 is exact
    border = side * (near - mean[at] * np.float32(2.0**-MEAN_BITS)) + np.array([[-0.5], [0.5], [1.5]], np.float32)
    border *= np.exp2(scale[at] * np.float32(-0.125))
    border *= np.where(border[1] > 0, np.float32(-1), np.float32(1))
    likely = np.abs(np.diff(1 / (1 + np.exp(-border.clip(-40, 40))), axis=0)) + np.float32(1e-9)
    saved = np.log2(likely[1] / likely[0])
    out[at] += side * (saved > worth * (1 - 2 * off[at]))
    return out.astype(np.int64)


def groups(n_coded: int) -> list[slice]:
    """The groups that hold any of the first `n_coded` coefficients."""
    out, start = [], 0
    for n in GROUPS:
        if start < n_coded:
            out.append(slice(start, min(start + n, n_coded)))
        start += n
    return out


__all__ = ["PHASES", "Coder", "Quantiser", "groups", "log2_step", "tables"]
