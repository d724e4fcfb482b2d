"""What the papers say of BSQ and LFQ, on the quantisers that benchmarks/ablations trains.

BSQ-ViT: arXiv 2406.07548; MAGVIT-v2: arXiv 2310.05737.
"""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ablations.binary_quantisers import (
    LEVEL_BITS,
    LookupFreeSigns,
    SphericalSigns,
    binary_entropy,
    entropy_loss,
    thermometers,
)
from ablations.network import Quantised
from ablations.quantisers import Planes, straight_through
from bsqcodec.network.unrounded import DEAD_ZONE, SLOPE, information

SPREAD = torch.logspace(2.6, 0.5, 192)


def on_sphere(n: int, bits: int) -> Tensor:
    return F.normalize(torch.randn(n, bits, dtype=torch.float64), dim=-1)


def corner(u: Tensor) -> Tensor:
    """The code of a point of the sphere, as the quantiser finds it, on the sphere."""
    quantiser = SphericalSigns(SPREAD, weight=0.0, gamma=1.0, inverse_temperature=1.0)
    return quantiser.rounded(u)[0] / math.sqrt(u.shape[-1])


@pytest.mark.parametrize("bits", [2, 9, 18, 36, 160])
def test_the_error_of_bsq_is_bounded(bits):
    """E |u - q|**2 of points drawn evenly from the sphere: exactly 2 - 2 sqrt(L) E |u_1|; the bound holds for each."""
    torch.manual_seed(bits)
    u = on_sphere(4000, bits)
    error = (u - corner(u)).norm(dim=-1)
    first = math.exp(math.lgamma(bits / 2) - math.lgamma((bits + 1) / 2)) / math.sqrt(math.pi)
    exact = 2 - 2 * math.sqrt(bits) * first
    squared = error.square()
    assert float(squared.mean()) == pytest.approx(exact, abs=5 * float(squared.std()) / math.sqrt(len(u)))
    bound = math.sqrt(2 - 2 / math.sqrt(bits))
    assert float(error.max()) < bound < math.sqrt(2)
    assert exact < 2 - 2 * math.sqrt(2 / math.pi) < 0.41  # what it rises to with the number of bits
    if bits == 160:
        assert exact == pytest.approx(2 - 2 * math.sqrt(2 / math.pi), rel=0.01)


def test_the_bound_is_met_on_an_axis_and_the_code_is_the_nearest_one():
    axis = torch.eye(9, dtype=torch.float64)
    assert torch.allclose((axis - corner(axis)).norm(dim=-1), torch.tensor(math.sqrt(2 - 2 / 3), dtype=torch.float64))
    torch.manual_seed(0)
    u = on_sphere(50, 9)
    codes = torch.tensor(list(itertools.product((-1, 1), repeat=9)), dtype=torch.float64) / 3
    assert torch.equal(corner(u).sign(), codes[torch.cdist(u, codes).argmin(1)].sign())


def entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1) / math.log(2)


@pytest.mark.parametrize("bits", [1, 4, 10])
def test_the_entropy_of_a_sample_is_that_of_its_bits(bits):
    """The soft assignment to all 2**L corners, softmax(tau c u), against a product over bits."""
    torch.manual_seed(0)
    u, factor = on_sphere(64, bits), 1.7
    codes = torch.tensor(list(itertools.product((-1, 1), repeat=bits)), dtype=torch.float64) / math.sqrt(bits)
    tau = factor * bits / 2
    p = (tau * u @ codes.T).softmax(-1)
    logits = factor * math.sqrt(bits) * u  # as SphericalSigns takes them
    product = torch.sigmoid(logits[:, None] * codes.sign()).prod(-1)
    torch.testing.assert_close(product, p)
    assert float(entropy_loss(logits, 0.0)) * bits == pytest.approx(float(entropy(p).mean()), rel=1e-6)
    quantiser = SphericalSigns(SPREAD, weight=1.0, gamma=0.5, inverse_temperature=factor)
    torch.testing.assert_close(quantiser.rounded(3 * u)[1], entropy_loss(logits, 0.5))
    # LFQ: by distance to the signs, exp(-tau |v - c|**2)
    v, signs = 2 * u, codes.sign()
    p = (-0.3 * torch.cdist(v, signs).square()).softmax(-1)
    loss = LookupFreeSigns(SPREAD, weight=1.0, gamma=0.0, inverse_temperature=0.3, commitment=0.0)
    assert float(loss.rounded(v)[1]) * bits == pytest.approx(float(entropy(p).mean()), rel=1e-6)


def test_the_entropy_of_the_mean_is_at_most_that_of_its_bits():
    """Equal where the bits are independent over the samples, less where they are not."""

    def both(logits: Tensor) -> tuple[float, float]:
        signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=logits.shape[1])), dtype=torch.float64)
        p = torch.sigmoid(logits[:, None] * signs).prod(-1).mean(0)
        each = float(entropy_loss(logits, 0.0) - entropy_loss(logits, 1.0)) * logits.shape[1]
        return float(entropy(p)), each

    torch.manual_seed(0)
    values = torch.randn(5, 2, dtype=torch.float64) * 2
    independent = torch.stack(torch.meshgrid(*values, indexing="ij"), -1).flatten(0, -2)
    exact, factorised = both(independent)
    assert exact == pytest.approx(factorised, rel=1e-9)
    for _ in range(5):
        exact, factorised = both(torch.randn(40, 6, dtype=torch.float64) * 3)
        assert exact < factorised
    same = 8 * torch.randn(200, 1, dtype=torch.float64).sign().expand(-1, 6)  # one bit, six times
    exact, factorised = both(same)
    assert exact == pytest.approx(1, abs=0.05) and factorised == pytest.approx(6, abs=0.1)
    assert float(binary_entropy(torch.tensor(0.5))) == pytest.approx(1)


def test_the_gradient_of_bsq_is_that_of_the_projection_to_the_sphere():
    torch.manual_seed(0)
    v = (3 * torch.randn(5, 12, dtype=torch.float64)).requires_grad_()
    g = torch.randn_like(v)
    quantiser = SphericalSigns(SPREAD, weight=0.0, gamma=1.0, inverse_temperature=1.0)
    seen, _ = quantiser.rounded(v)
    assert torch.equal(seen.detach(), v.detach().sign())
    seen.backward(g)
    u, length = F.normalize(v.detach(), dim=-1), v.detach().norm(dim=-1, keepdim=True)
    analytic = math.sqrt(12) * (g - u * (u * g).sum(-1, keepdim=True)) / length
    torch.testing.assert_close(v.grad, analytic)
    torch.testing.assert_close((v.grad * v.detach()).sum(-1), torch.zeros(5, dtype=torch.float64))
    scaled = (2 * v.detach()).requires_grad_()
    quantiser.rounded(scaled)[0].backward(g)
    torch.testing.assert_close(2 * scaled.grad, v.grad)


def test_the_gradient_of_lfq_is_the_identity():
    torch.manual_seed(0)
    v = torch.randn(5, 12).requires_grad_()
    g = torch.randn_like(v)
    quantiser = LookupFreeSigns(SPREAD, weight=0.0, gamma=1.0, inverse_temperature=1.0, commitment=0.0)
    seen, _ = quantiser.rounded(v)
    assert torch.equal(seen.detach(), v.detach().sign())
    seen.backward(g)
    assert torch.equal(v.grad, g)
    assert torch.equal(torch.autograd.grad(straight_through(v, v.detach().round()).sum(), v)[0], torch.ones_like(v))


def test_the_rate_of_planes_has_the_gradient_of_the_smoothed_rate():
    """Each threshold next to a value is a sigmoid whose height is what crossing it costs."""
    torch.manual_seed(0)
    planes = Planes(SPREAD).train()
    z, outputs = 2 * torch.randn(4, 192), planes.start[2].detach() + 0.3 * torch.randn(4, 384)
    mean, scale = planes.mean_and_scale(outputs)
    q = planes(z.requires_grad_(), 2, torch.zeros(4))
    planes.bits(q, outputs, 2).sum().backward()
    n, inverse = q.symbols.double(), 2 ** -scale.double()
    sign = torch.where(n == 0, z.detach().sign().double(), n.sign())

    def rate(k: Tensor) -> Tensor:
        return information(k, mean.double(), inverse)

    def smoothed(y: Tensor) -> Tensor:
        up = torch.sigmoid(SLOPE * (y.abs() - n.abs() - 0.5 - DEAD_ZONE[0]))
        down = torch.sigmoid(SLOPE * (n.abs() - 0.5 + DEAD_ZONE[0] - y.abs())) * (n != 0)
        return rate(n) + up * (rate(n + sign) - rate(n)) + down * (rate(n - sign) - rate(n))

    y, e = z.detach().double(), 1e-5
    torch.testing.assert_close(
        z.grad.double(), (smoothed(y + e) - smoothed(y - e)) / (2 * e), rtol=2e-3, atol=2e-3, check_dtype=False
    )
    assert q.symbols.abs().max() > 2 and (q.symbols == 0).any()
    exact = planes.eval().bits(Quantised(*q[:4]), outputs, 2)
    torch.testing.assert_close(exact.double(), rate(n), rtol=1e-3, atol=1e-3)


def test_thermometers_give_bits_where_they_lower_the_distortion_most():
    at, thresholds = thermometers(SPREAD)
    assert at[0] == 0 and all(at.count(k) >= at.count(k + 1) for k in range(191))
    for level, n in enumerate(LEVEL_BITS):  # of each coefficient at equal distances, about its mean
        for k in (0, 1, 5):
            own = thresholds[level, [j for j in range(n) if at[j] == k]].sort().values
            torch.testing.assert_close(own, -own.flip(0))
            assert len(own) == 1 or float(own.diff().max() - own.diff().min()) < 1e-5
