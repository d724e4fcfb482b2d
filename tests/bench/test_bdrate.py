"""Bjontegaard deltas: against another implementation, and where they are refused."""

import math

import numpy as np
import pytest

pytest.importorskip("scipy")

from bsqcodec.bench import bdrate

RATE = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
QUALITY = np.array([28.0, 30.5, 33.1, 35.8, 38.0])


@pytest.mark.parametrize(("factor", "shift"), [(1.3, 0.0), (0.8, 0.4), (1.0, -1.0)])
def test_bd_agrees_with_bjontegaard(factor, shift):
    package = pytest.importorskip("bjontegaard")
    rate, quality = RATE * factor, QUALITY + shift + 0.1 * np.sin(np.arange(5))
    ours = bdrate.bd_rate(RATE, QUALITY, rate, quality)
    theirs = package.bd_rate(RATE, QUALITY, rate, quality, method="pchip", min_overlap=0)
    assert ours.value == pytest.approx(theirs, abs=1e-6)
    assert ours.low == max(QUALITY[0], quality[0]) and ours.high == min(QUALITY[-1], quality[-1])
    ours = bdrate.bd_quality(RATE, QUALITY, rate, quality)
    assert ours.value == pytest.approx(
        package.bd_psnr(RATE, QUALITY, rate, quality, method="pchip", min_overlap=0), abs=1e-6
    )


def test_bd_of_scaled_and_swapped_curves():
    forth = bdrate.bd_rate(RATE, QUALITY, RATE * 1.25, QUALITY)
    back = bdrate.bd_rate(RATE * 1.25, QUALITY, RATE, QUALITY)
    assert forth.value == pytest.approx(25) and back.value == pytest.approx(-20)
    assert forth.share == pytest.approx(1)
    gain = bdrate.bd_quality(RATE, QUALITY, RATE * 1.1, QUALITY + 0.3)
    loss = bdrate.bd_quality(RATE * 1.1, QUALITY + 0.3, RATE, QUALITY)
    assert gain.value == pytest.approx(-loss.value)


def test_bd_refuses_with_a_reason():
    with pytest.raises(bdrate.NoComparison, match="3 points; at least 4"):
        bdrate.bd_rate(RATE[:3], QUALITY[:3], RATE, QUALITY)
    with pytest.raises(bdrate.NoComparison, match="share no quality"):
        bdrate.bd_rate(RATE, QUALITY, RATE, QUALITY + 20)
    with pytest.raises(bdrate.NoComparison, match="share no rate"):
        bdrate.bd_quality(RATE, QUALITY, RATE * 100, QUALITY)
    with pytest.raises(bdrate.NoComparison, match="3 of 5 points"):
        bdrate.bd_rate(RATE, QUALITY, RATE, [28, 30, 29, 29, 31])
    with pytest.raises(bdrate.NoComparison):
        bdrate.bd_rate(RATE, QUALITY, RATE, [math.inf] * 5)
