"""The networks in real numbers: the integer ones without their rounding, and the encoder."""

import pytest
import torch

from bsqcodec.network.deblocking import smooth
from bsqcodec.network.quantiser import log2_step
from bsqcodec.network.tokenizer import Condition
from bsqcodec.stream.range_coder import BitEncoder
from helpers import as_batch, photo, psnr


def neighbours(top=100, left=200, size=96):
    """A crop of a photograph, and the same moved by two pixels with some noise, as its prediction."""
    noise = 2 * torch.randn((1, 3, size, size), generator=torch.Generator().manual_seed(0))
    near = (as_batch(photo(size, size, top + 1, left + 2)) + noise).round().clamp(0, 255)
    return as_batch(photo(size, size, top, left)), near


def coded(network, context, condition, y):
    """What is coded of y, and its bits."""
    encoder = BitEncoder()

    def write(p, bits):
        encoder.encode(bits, p)
        return bits

    out = network.code(context, condition, write, y)
    wrong = out != y  # the prior was certain of a 0
    assert not out[wrong].any() and wrong.float().mean() < 5e-3
    return out, encoder.bits


@pytest.mark.parametrize("predicted", [0, 1])
@pytest.mark.parametrize("tune", [0, 1])
@torch.inference_mode()
def test_real_numbers_and_integers_agree(model, tune, predicted):
    network, unrounded = model.network, model.network.unrounded
    x, near = neighbours()
    for quality in (10, 50, 90):
        condition = Condition(predicted, quality, tune)
        prediction = near if predicted else None
        classes = None if predicted else network.classes(x)
        context = network.context(condition, prediction, classes)
        y, used = coded(network, context, condition, network.encode(x, context, condition).round().int())
        one = torch.ones(1)
        batch = unrounded.prepare(
            x,
            log2_step(quality).float() * one,
            tune * one,
            prediction,
            0 * one,
            network.n_coded(quality),
            torch.float32,
        )
        mean, scale = unrounded.prior(y.float(), batch)
        bits = unrounded.bits(y.float(), y.float(), mean, scale, batch).sum().item()
        assert used == pytest.approx(bits, rel=0.035 if predicted else 0.015, abs=20)
        [exact] = network.decode(y, context, condition)
        real = unrounded.decode(y.float(), batch).round().clamp(0, 255)
        real = smooth(real, network.quantiser.smooth[quality - 1])
        assert psnr(exact, x) == pytest.approx(psnr(real, x), abs=0.15)
        assert psnr(exact, real) > psnr(exact, x) + 6


def test_the_encoder_looks_around_and_the_quality_conditions(model):
    """A change far away moves nothing here; a change of quality moves the coefficients."""
    x = torch.rand(1, 3, 16 * 24, 16, generator=torch.Generator().manual_seed(0)).mul(255).round()
    y = x.clone()
    y[:, :, -16:] = 0

    @torch.inference_mode()
    def encoded(x, quality):
        condition = Condition(0, quality, 0)
        context = model.network.context(condition, None, model.network.classes(x))
        return model.network.encode(x, context, condition).round()

    a, b = encoded(x, 60), encoded(y, 60)
    far = 24 - model.network.decoder.halo - 2
    assert (a[:, :far] != b[:, :far]).float().mean() < 1e-3 and not torch.equal(a[:, -1:], b[:, -1:])
    assert not torch.equal(a, encoded(x, 62))
