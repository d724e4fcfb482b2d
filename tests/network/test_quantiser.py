"""Quantisation by gain and shape: the classes, the bit planes, and what they cost."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bsqcodec.network.quantiser import (
    COEFFICIENTS,
    GROUPS,
    P_ONE,
    PLANES,
    SCALE_HIGH,
    SCALE_LOW,
    STEP_BITS,
    Quantiser,
    groups,
    log2_step,
)
from bsqcodec.network.quantiser_tables import GAMMA, tables
from bsqcodec.stream.range_coder import BitDecoder, BitEncoder

FARTHEST = 65535  # beyond the bound of the planes


@pytest.fixture(scope="module")
def quantiser() -> Quantiser:
    return Quantiser(tables(torch.linspace(-1.5, 3, COEFFICIENTS)), torch.device("cpu"))


# The theory: binary spherical quantisation (arXiv 2406.07548).


def bsq(v: torch.Tensor) -> torch.Tensor:
    """u = v / |v|, returns sign(u) / sqrt(L) with the gradient of u (straight-through). v: (..., L). sign(0) is -1."""
    u = F.normalize(v, dim=-1)
    code = torch.where(v > 0, 1.0, -1.0) * v.shape[-1] ** -0.5
    return code + (u - u.detach())


def binary_entropy(p: torch.Tensor) -> torch.Tensor:
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))


def bsq_entropy(u: torch.Tensor, tau: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The factorised entropies of the soft assignment, in nats: mean of H[p(.|u)], and of the mean bits.

    u: (N, L) on the unit sphere. The assignment to the 2**L codes c, p(c|u) ~ exp(2 tau c.u / sqrt(L)), factorises
    into L independent bits with P(+1) = sigmoid(4 tau u_i / sqrt(L)).
    """
    p = torch.sigmoid(4 * tau * u * u.shape[-1] ** -0.5)
    return binary_entropy(p).sum(-1).mean(), binary_entropy(p.mean(0)).sum()


@pytest.mark.parametrize("bits", [4, 16, 64, 256])
def test_expected_quantisation_error_is_bounded(bits):
    """E d(u, u^) < sqrt(2 - 2/sqrt(L)) for u uniform on the sphere."""
    v = torch.randn(4000, bits, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    code = bsq(v)
    assert torch.allclose(code.norm(dim=-1), torch.ones((), dtype=torch.float64))
    assert torch.equal(code > 0, v > 0)
    error = (code - v / v.norm(dim=-1, keepdim=True)).norm(dim=-1).mean()
    assert error < math.sqrt(2 - 2 / math.sqrt(bits))


def test_straight_through_gradient_is_that_of_the_normalised_vector():
    g = torch.Generator().manual_seed(0)
    v = torch.randn(5, 12, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 12, generator=g, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((bsq(v) * weight).sum(), v)
    (expected,) = torch.autograd.grad((v / v.norm(dim=-1, keepdim=True) * weight).sum(), v)
    assert torch.allclose(gradient, expected)


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_factorised_entropy_equals_enumeration(bits):
    g = torch.Generator().manual_seed(0)
    u = F.normalize(torch.randn(20, bits, generator=g, dtype=torch.float64), dim=-1)
    tau = 3.0
    codes = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=bits)), dtype=torch.float64) / math.sqrt(bits)
    p = torch.softmax(2 * tau * u @ codes.T, -1)
    conditional, marginal = bsq_entropy(u, tau)
    assert torch.allclose(conditional, -(p * p.log()).sum(-1).mean())
    mean = p.mean(0)
    assert -(mean * mean.log()).sum() <= marginal + 1e-12
    alone, marginal = bsq_entropy(u[:1], tau)  # with one sample, the mean factorises too
    assert torch.allclose(alone, marginal)


# The planes.


def coded(quantiser, mean, scale, y):
    """What was coded, the bytes, their ideal bits, and what a decoder makes of them."""
    encoder = BitEncoder()

    def write(p, bits):
        assert bits.dtype == bool and p.dtype == np.int64 and p.shape == bits.shape
        assert not p.size or (p.min() >= 1 and p.max() < P_ONE)
        encoder.encode(bits, p)
        return bits

    at = quantiser.uncertain(torch.from_numpy(mean), torch.from_numpy(scale)).numpy()
    out, back = np.zeros_like(y), np.zeros_like(y)
    out[at] = quantiser.code(mean[at], scale[at], write, y[at])
    data = encoder.finish()
    decoder = BitDecoder(data)
    back[at] = quantiser.code(mean[at], scale[at], lambda p, _: decoder.decode(p).view(bool))
    assert decoder.count == encoder.count
    return out, data, encoder.bits, back


def planes(quantiser, mean, scale):
    """How many planes a coefficient has: the fewest whose interval, +-3**n / 2, holds the mean and `certain` more."""
    certain = np.ceil(32 * 7 * 2.0 ** (scale / 8))
    reach = np.abs(mean) + certain
    return (reach[:, None] > 16 * 3.0 ** np.arange(PLANES)).sum(1)


def test_every_scale_and_the_extremes_come_back(quantiser):
    scales = np.arange(SCALE_LOW, SCALE_HIGH + 1)
    means = np.array([0, 1, -1, 15, 16, -16, 17, 1000, -40000, 2**19, -(2**19), 2**19 - 1])
    values = np.array([0, 1, -1, 2, 13, -14, 40, 500, -29524, 29525, -95000, 95000])
    scale, mean, y = (t.ravel() for t in np.meshgrid(scales, means, values, indexing="ij"))
    out, _, _, back = coded(quantiser, mean, scale, y)
    assert np.array_equal(out, back)
    most = (3 ** planes(quantiser, mean, scale) - 1) // 2
    assert not out[most == 0].any()
    right = (most > 0) & (np.abs(y) - most <= FARTHEST)
    assert np.array_equal(out[right], y[right]) and right.mean() > 0.5
    assert np.abs(out).max() <= 29524 + FARTHEST


@pytest.mark.parametrize("seed", range(4))
def test_random_values_come_back(quantiser, seed):
    rng = np.random.default_rng(seed)
    n = 20000
    scale = rng.integers(SCALE_LOW, SCALE_HIGH + 1, n)
    mean = (rng.normal(0, 1, n) * 2.0 ** rng.uniform(0, 17, n)).astype(np.int64).clip(-(2**19), 2**19)
    y = np.rint(mean / 32 + rng.logistic(0, 1, n) * 2.0 ** (scale / 8)).astype(np.int64)
    out, data, bits, back = coded(quantiser, mean, scale, y)
    assert np.array_equal(out, back)
    assert np.array_equal(out[planes(quantiser, mean, scale) > 0], y[planes(quantiser, mean, scale) > 0])
    assert bits <= 8 * len(data) < bits * 1.001 + 64


def test_no_values_and_one(quantiser):
    none = np.zeros(0, np.int64)
    assert coded(quantiser, none, none, none)[0].size == 0
    one = np.array([5])
    assert coded(quantiser, 0 * one, 0 * one, one)[3].tolist() == [5]


@pytest.mark.parametrize("scale", [-16, -8, 0, 8, 24, 48])
@pytest.mark.parametrize("mean", [0, 7, -16, 100, -5000])
def test_a_value_costs_what_the_logistic_distribution_says(quantiser, scale, mean):
    """Of values that are likely: on average they cost less than a hundredth of a bit more, lost at the bound of the
    planes and by the coder."""
    s = 2 ** (scale / 8)
    spread = np.arange(math.floor(mean / 32 - 6 * s - 1), math.ceil(mean / 32 + 6 * s + 1) + 1)
    z = (spread[:, None] + np.array([-0.5, 0.5]) - mean / 32) / s
    p = np.diff(1 / (1 + np.exp(-z)), axis=1)[:, 0]
    rng = np.random.default_rng(0)
    chosen = rng.choice(np.flatnonzero(p > 1e-3 * p.max()), min(40, len(spread)))
    if planes(quantiser, np.array([mean]), np.array([scale]))[0] == 0:
        pytest.skip("0 is certain")
    total = 0.0
    for i in chosen:
        bits = coded(quantiser, np.array([mean]), np.array([scale]), spread[i : i + 1])[2]
        assert bits == pytest.approx(-math.log2(p[i]), abs=0.05 if p[i] > 3e-3 else 0.3), spread[i]
        total += p[i] * (bits + math.log2(p[i]))
    assert abs(total) < 0.01 * p[chosen].sum()


def test_all_values_together_are_possible_once(quantiser):
    """The probabilities of all values add up to 1: nothing is wasted."""
    for mean, scale in ((0, -8), (13, 0), (-40, 8)):
        values = np.arange(-120, 121)
        total = sum(
            2.0 ** -coded(quantiser, np.array([mean]), np.array([scale]), np.array([v]))[2] for v in values.tolist()
        )
        assert 0.999 < total < 1 + 1e-9


def test_planes_are_a_residual_bsq(quantiser):
    """The bits of plane j are the signs of (r - t, -r - t) with t = 3**j / 2, r what the coarser planes left; the
    second is not told where the first is positive, for then it is negative."""
    y = np.arange(-364, 365)  # six planes
    scale = np.full_like(y, 36)  # 32 * 7 * 2**(36/8): within 16 * 3**5 .. 16 * 3**6
    mean = np.zeros_like(y)
    assert (planes(quantiser, mean, scale) == 6).all()
    seen = []

    def watch(p, bits):
        seen.append(bits.copy())
        return bits

    assert np.array_equal(quantiser.code(mean, scale, watch, y), y)
    rest = torch.from_numpy(y).double()
    steps = iter(seen)
    for j in range(5, -1, -1):
        t = 3**j / 2
        code = bsq(torch.stack([rest - t, -rest - t], -1)) > 0
        above, below = code.unbind(-1)
        assert not (above & below).any()
        assert np.array_equal(next(steps), above.numpy())
        assert np.array_equal(next(steps), below[~above].numpy())
        rest = rest - 3**j * (above.double() - below.double())
    assert not rest.any()
    passes = next(steps)
    assert passes.size == 2 and not passes.any()  # the two values at the bound


# Classes, steps, groups.


def test_classes_equal_a_computation_in_floating_point(quantiser):
    g = torch.Generator().manual_seed(0)
    amplitude = 2 ** (9 * torch.rand(2, 1, 7, 1, 9, 1, generator=g) - 1)
    noise = torch.randn(2, 3, 7, 16, 9, 16, generator=g)
    x = (128 + amplitude * noise).round().clamp(0, 255).reshape(2, 3, 112, 144)
    x[0, :, :16, :32] = 77
    x[0, :, :16, 16:24] = 255
    x[0, :, :16, 24:32] = 0
    expected = []
    for token in x.double().mean(1).unfold(1, 16, 16).unfold(2, 16, 16).flatten(0, 2):
        sigma = (token - token.mean()).square().mean().sqrt()
        expected.append(min(max(math.floor(math.log2((sigma + 2) / 16) + 0.5), -3), 3))
    for dtype in (torch.float32, torch.uint8, torch.int64):
        classes = quantiser.classes(x.to(dtype))
        assert classes.dtype == torch.int64 and classes.shape == (2, 7, 9)
        assert classes.flatten().tolist() == expected
    assert set(expected) == set(range(-3, 4)) and expected[0] == -3 and expected[1] == 3


def test_steps_of_classes_and_tunes(quantiser):
    classes = torch.arange(-3, 4)
    for quality, tune in itertools.product((1, 50, 100), (0, 1)):
        steps = quantiser.steps(quality, tune, classes)
        expected = 2.0 ** (9 - 8 * (quality - 1) / 99 + GAMMA[tune] * classes)
        assert torch.allclose(steps / 2**STEP_BITS, expected, rtol=1e-3)
        assert 2 ** log2_step(quality) == pytest.approx(steps[3].item() / 2**STEP_BITS, rel=1e-3)


def test_groups_cover_the_coded_coefficients():
    assert sum(GROUPS) == COEFFICIENTS
    for n_coded in (1, 8, 9, 192, 416, COEFFICIENTS):
        places = [k for place in groups(n_coded) for k in range(place.start, place.stop)]
        assert places == list(range(n_coded))


def test_more_coefficients_are_coded_at_a_higher_quality(quantiser):
    assert quantiser.n_coded == sorted(quantiser.n_coded) and quantiser.n_coded[-1] == COEFFICIENTS
