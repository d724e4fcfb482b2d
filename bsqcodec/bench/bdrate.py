"""Bjontegaard deltas: average difference of two rate-distortion curves over the part that they share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

MINIMUM_POINTS = 4


class NoComparison(ValueError):
    """Two curves that cannot be compared; the message says why."""


@dataclass(frozen=True)
class Delta:
    """Average difference of two curves.

    Attributes:
        value: of the second curve from the first, in percent (`bd_rate`) or units of the quality (`bd_quality`).
        low, high: the interval that both curves cover: quality for `bd_rate`, bits per pixel for `bd_quality`.
        share: its part of the interval that either covers, 0..1 (in log rate for `bd_quality`).
    """

    value: float
    low: float
    high: float
    share: float


def clean(rate: ArrayLike, quality: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Sort by rate and keep the points that improve on every cheaper one; float64 arrays.

    Infinite qualities (lossless) are dropped. Raises NoComparison if less than MINIMUM_POINTS are left.
    """
    r, q = np.asarray(rate, float), np.asarray(quality, float)
    if r.shape != q.shape or r.ndim != 1:
        raise ValueError(f"rates {r.shape} and qualities {q.shape} are not two lists of one length")
    given = len(r)
    keep = np.isfinite(q) & np.isfinite(r) & (r > 0)
    r, q = r[keep], q[keep]
    order = np.lexsort((-q, r))
    r, q = r[order], q[order]
    best = np.maximum.accumulate(np.concatenate(([-np.inf], q[:-1]))) if len(q) else q
    r, q = r[q > best], q[q > best]
    if len(r) < MINIMUM_POINTS:
        why = f"{len(r)} of {given} points rise in quality with rate" if given > len(r) else f"{given} points"
        raise NoComparison(f"{why}; at least {MINIMUM_POINTS} are needed")
    return r, q


def bd_rate(reference_rate: ArrayLike, reference_quality: ArrayLike, rate: ArrayLike, quality: ArrayLike) -> Delta:
    """Rate that the second curve spends above the first at equal quality, in percent (negative: it saves).

    PCHIP of log rate over quality, averaged over the qualities that both reach.

    Args:
        reference_rate, rate: bits per pixel, or any other positive unit.
        reference_quality, quality: higher is better, for example dB.

    Raises:
        NoComparison: less than MINIMUM_POINTS usable points in a curve, or no common quality.
    """
    (r1, q1), (r2, q2) = clean(reference_rate, reference_quality), clean(rate, quality)
    mean, low, high, share = _average_gap(q1, np.log(r1), q2, np.log(r2), "quality")
    return Delta((np.exp(mean) - 1) * 100, low, high, share)


def bd_quality(reference_rate: ArrayLike, reference_quality: ArrayLike, rate: ArrayLike, quality: ArrayLike) -> Delta:
    """Quality that the second curve has above the first at equal rate (BD-PSNR if it is PSNR).

    Arguments and errors as of `bd_rate`.
    """
    (r1, q1), (r2, q2) = clean(reference_rate, reference_quality), clean(rate, quality)
    mean, low, high, share = _average_gap(np.log(r1), q1, np.log(r2), q2, "rate")
    return Delta(mean, float(np.exp(low)), float(np.exp(high)), share)


def _average_gap(
    x1: np.ndarray, y1: np.ndarray, x2: np.ndarray, y2: np.ndarray, axis: str
) -> tuple[float, float, float, float]:
    """Mean of y2 - y1 over the x that both curves cover, that interval's ends, and its share of what either covers."""
    from scipy.interpolate import PchipInterpolator

    low, high = max(x1[0], x2[0]), min(x1[-1], x2[-1])
    if low >= high:
        raise NoComparison(f"the curves share no {axis}")
    area1 = PchipInterpolator(x1, y1).integrate(low, high)
    area2 = PchipInterpolator(x2, y2).integrate(low, high)
    share = (high - low) / (max(x1[-1], x2[-1]) - min(x1[0], x2[0]))
    return float((area2 - area1) / (high - low)), float(low), float(high), float(share)
