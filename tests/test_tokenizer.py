import itertools
import math

import pytest
import torch
from conftest import TINY

from bsqcodec.config import ModelConfig
from bsqcodec.network import GRAY, Network, initialise
from bsqcodec.tokenizer import bsq, bsq_entropy, patches, to_pixels, unpatch


@pytest.mark.parametrize("bits", [4, 16, 64, 256])
def test_expected_quantisation_error_is_bounded(bits):
    """E d(u, u^) < sqrt(2 - 2/sqrt(L)) for u uniform on the sphere (arXiv 2406.07548)."""
    g = torch.Generator().manual_seed(0)
    v = torch.randn(4000, bits, generator=g, dtype=torch.float64)
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
    """The soft assignment over all 2**L codes factorises into bits; so does its entropy."""
    g = torch.Generator().manual_seed(0)
    u = torch.nn.functional.normalize(torch.randn(20, bits, generator=g, dtype=torch.float64), dim=-1)
    tau = 3.0
    codes = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=bits)), dtype=torch.float64) / math.sqrt(bits)
    p = torch.softmax(2 * tau * u @ codes.T, -1)
    conditional, marginal = bsq_entropy(u, tau)
    assert torch.allclose(conditional, -(p * p.log()).sum(-1).mean())
    mean = p.mean(0)
    assert -(mean * mean.log()).sum() <= marginal + 1e-12
    alone, marginal = bsq_entropy(u[:1], tau)  # with one sample, the mean factorises too
    assert torch.allclose(alone, marginal)


def test_patches_are_inverted():
    x = torch.rand(2, 3, 32, 48)
    assert torch.equal(unpatch(patches(x, 16), 16), x)
    assert torch.equal(patches(x, 16)[1, 1, 2], x[1, :, 16:32, 32:48].flatten())


@pytest.fixture(scope="module")
def started():
    """A network at its start, which already is a codec."""
    skdata = pytest.importorskip("skimage.data")
    image = torch.from_numpy(skdata.astronaut()).permute(2, 0, 1).float()
    photos = image[:, :512, :512].reshape(3, 4, 128, 4, 128).permute(1, 3, 0, 2, 4).flatten(0, 1)
    torch.manual_seed(0)
    small = {k: v for k, v in TINY.to_dict().items() if k not in ("planes", "groups")}
    network = Network(ModelConfig.from_dict(small))
    initialise(network, photos, None)
    return network.requires_grad_(False), photos


def psnr(a, b):
    return 10 * math.log10(255**2 / (a - b).square().mean())


def test_the_start_is_a_transform_codec(started):
    network, photos = started
    values = []
    for q in (1, 40, 70):
        condition = (torch.zeros(16, dtype=torch.int64), torch.full((16,), q))
        reference = torch.full_like(photos, GRAY)
        bits = network.bits(photos, reference, condition)
        assert set(bits.unique().tolist()) <= {0.0, 1.0}
        values.append(psnr(to_pixels(network.decoder(bits, reference, condition)), photos))
    assert values[0] > 18 and values[1] > values[0] + 3 and values[2] > values[1] + 2


def test_a_good_reference_needs_few_bits(started):
    network, photos = started
    condition = (torch.ones(16, dtype=torch.int64), torch.full((16,), 50))
    noisy = (photos + 3 * torch.randn(photos.shape, generator=torch.Generator().manual_seed(0))).round().clamp(0, 255)
    gray = torch.full_like(photos, GRAY)
    residual = network.bits(photos, noisy, condition).sum()
    assert residual < 0.1 * network.bits(photos, gray, condition).sum()


def test_both_signs_of_a_trit_are_never_set(started):
    network, photos = started
    condition = (torch.zeros(16, dtype=torch.int64), torch.full((16,), 60))
    above, below = network.bits(photos, torch.full_like(photos, GRAY), condition).chunk(2, -1)
    assert not (above * below).any()


def test_finer_planes_make_up_for_bits_that_are_not_coded(started):
    network, _ = started
    encoder, config = network.encoder, network.config
    y = torch.zeros(1, config.coefficients)
    y[0, 0] = 0.9 * 3.0 ** (len(config.planes) - 1)
    every = torch.ones(1, config.bits, dtype=torch.bool)
    without = every.clone()
    without[0, [0, config.bits // 2]] = False  # the coarsest trit of the first coefficient
    for active in (every, without):
        bits = encoder.quantise(y, torch.zeros_like(y), active)
        assert not bits[~active].any()
        above, below = bits.chunk(2, -1)
        digits = [x[0, 0].item() for x in (above - below).split(config.planes, -1)]
        assert digits[0] == (active is every) and (active is every or digits[1:] == [1.0] * (len(digits) - 1))


def test_texture_masks_errors_but_not_at_the_finest_step(network):
    x = torch.full((1, 3, 32, 32), 128.0)
    x[..., :16, :16] += 60 * torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    steps = [network.step(torch.tensor([q])) for q in (40, 100)]
    coarse, fine = (network.encoder.masked(x, step) for step in steps)
    assert coarse[0, 0, 0] > 0.05 and (coarse[0, 1] <= 0).all()
    assert fine.abs().max() < 1e-3


def test_windows_are_local_and_quality_conditions(network):
    """A change far away moves nothing here; a change of quality moves the bits."""
    x = torch.rand(1, 3, 16 * 40, 16, generator=torch.Generator().manual_seed(0)) * 255
    y = x.clone()
    y[:, :, -16:] = 0
    gray = torch.full_like(x, GRAY)
    condition = (torch.zeros(1, dtype=torch.int64), torch.full((1,), 60))
    a, b = network.bits(x, gray, condition), network.bits(y, gray, condition)
    assert torch.equal(a[:, :8], b[:, :8]) and not torch.equal(a, b)
    assert not torch.equal(a, network.bits(x, gray, (condition[0], torch.full((1,), 80))))


def test_unknown_configuration_keys_raise():
    with pytest.raises(ValueError, match="unknown key.*depth"):
        ModelConfig.from_dict({"depth": 3})
