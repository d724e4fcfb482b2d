"""Rate-distortion optimised quantisation takes what costs less."""

import numpy as np
import pytest

from bsqcodec.network.quantiser import SCALE_LOW
from bsqcodec.network.rdoq import round_to_cheaper


@pytest.mark.parametrize("error_cost", [8.0, 14.0, 20.0])
def test_rounding_takes_what_costs_less(error_cost):
    """Against every integer near it, in float64; but for values so close to one that another hardly pays."""
    rng = np.random.default_rng(5)
    n = 20_000
    mean = rng.integers(-200, 200, n) * (rng.random(n) < 0.5)
    scale = rng.integers(SCALE_LOW, 40, n)
    y = (mean / 32 + 2.0 ** (scale / 8) * rng.logistic(size=n) * rng.choice([0.3, 1, 3], n)).astype(np.float32)
    found = round_to_cheaper(y, mean, scale, error_cost)
    options = np.floor(y).astype(np.int64) + np.arange(-1, 3)[:, None]

    def cost(v):
        d = -np.abs(v - mean / 32) * 2.0 ** (-scale / 8)
        half = 0.5 * 2.0 ** (-scale / 8)
        p = 1 / (1 + np.exp(-np.clip(d + half, -500, 500))) - 1 / (1 + np.exp(-np.clip(d - half, -500, 500)))
        return -np.log2(np.maximum(p, 1e-9)) + error_cost * (v - y.astype(np.float64)) ** 2

    assert found.dtype == np.int64 and (np.abs(found - y) < 1).all()
    lost = cost(found) - cost(options).min(0)
    assert (lost < 0.01).mean() > 0.98 and lost.mean() < 0.02
    assert (cost(np.rint(y)) - cost(found)).mean() > 0.01
    assert np.array_equal(round_to_cheaper(found.astype(np.float32), mean, np.full(n, 20), error_cost), found)
