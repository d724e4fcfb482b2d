"""Backbones and masks of the comparisons: what a frame depends on, and what the networks cost."""

from dataclasses import replace

import pytest
import torch

from ablations.backbones import MASKS, stack
from ablations.comparison_of_backbones import QUANTISER, SHAPES, multiplications
from ablations.network import Autoencoder

CAUSAL = [("shift", "frame"), ("shift", "block-causal"), ("conv3d", "block-causal")]
CASES = [*CAUSAL, *(("attention", mask) for mask in MASKS)]


def _filled(module: torch.nn.Module) -> torch.nn.Module:
    """The module with weights, in double precision, where some start as 0."""
    generator = torch.Generator().manual_seed(0)
    for p in module.double().parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype) * (0.1 if p.ndim > 1 else 1)
    return module.eval()


def _depends(function, x: torch.Tensor) -> torch.Tensor:
    """Whether frame i of the function's result changes with frame j of x, (B, T, ...), bool (T, T)."""
    with torch.no_grad():
        plain, rows = function(x), []
        for j in range(x.shape[1]):
            other = x.clone()
            other[:, j] += torch.randn(x[:, j].shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
            rows.append((function(other) != plain).flatten(2).any(2).any(0))
    return torch.stack(rows, 1)


def _expected(mask: str) -> torch.Tensor:
    every = torch.ones(4, 4, dtype=torch.bool)
    return {"frame": torch.eye(4, dtype=torch.bool), "block-causal": every.tril(), "full": every}[mask]


@pytest.mark.parametrize(("backbone", "mask"), CASES)
def test_a_frame_sees_those_that_its_mask_shows(backbone, mask):
    blocks = _filled(torch.nn.Sequential(*stack(backbone, mask, 64, 3)))
    x = torch.randn(1, 4, 16, 8, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert (_depends(blocks, x) == _expected(mask)).all()


@pytest.mark.parametrize(("backbone", "mask"), CASES)
def test_latents_and_pixels_of_a_frame_are_there_before_later_frames_unless_the_mask_is_full(backbone, mask):
    shape = replace(SHAPES["shift"], backbone=backbone, mask=mask, width=32, blocks=2)
    network = _filled(Autoencoder(shape, QUANTISER(torch.ones(192)), torch.eye(768)))
    features = network.features(torch.zeros(1, 4, 8, 8), 1, torch.float64)
    pixels = torch.rand(1, 4, 3, 128, 128, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 255
    z = network.encode(pixels, features, 1, torch.float64)
    assert (_depends(lambda x: network.encode(x, features, 1, torch.float64), pixels).triu(1).any()) == (mask == "full")
    seen = _depends(lambda q: network.decode(q, q, features, 1, torch.float64), z.detach())
    assert seen.triu(1).any() == (mask == "full") and seen.diagonal().all()


def test_the_prior_of_a_frame_sees_the_frame_before_and_none_that_follows():
    shape = replace(SHAPES["shift"], width=32, blocks=1, prior_width=64, prior_blocks=1)
    network = _filled(Autoencoder(shape, QUANTISER(torch.ones(192)), torch.eye(768)))
    features = network.features(torch.zeros(1, 4, 4, 4), 1, torch.float64)
    seen = torch.randn(1, 4, 4, 4, 192, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    every = torch.ones(4, 4, dtype=torch.bool)
    assert (_depends(lambda q: network.prior(q, features, torch.float64), seen) == every.tril() & every.triu(-1)).all()


@pytest.mark.parametrize(("backbone", "mask"), [case for case in CASES if case[1] != "full"])
def test_first_frames_decode_alone_to_what_they_are_in_their_group(backbone, mask):
    blocks = _filled(torch.nn.Sequential(*stack(backbone, mask, 64, 3)))
    x = torch.randn(2, 4, 8, 8, 64, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with torch.no_grad():
        whole = blocks(x)
        for n in (1, 3):
            torch.testing.assert_close(blocks(x[:, :n]), whole[:, :n])


@pytest.mark.parametrize("offset_block", [0, 1])
def test_tokens_across_a_border_of_the_grid_do_not_see_each_other(offset_block):
    block = _filled(stack("attention", "frame", 32, 2)[offset_block])
    x = torch.randn(1, 1, 16, 16, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    other = x.clone()
    other[:, :, 0] += 1  # the first row of tokens, in a window with rows 0..7, or 0..3 where windows are moved
    with torch.no_grad():
        rows = (block(other) != block(x)).any(-1).any(-1)[0, 0]
    assert rows.nonzero().flatten().tolist() == list(range(4 if offset_block else 8))


def test_backbones_take_equal_multiplications():
    base = multiplications(SHAPES["shift"])
    # 2 networks of 3 blocks of 8 width**2; heads, views and the transform; features of 6 channels
    token = 6 * 8 * 256**2 + 2 * 768 * 256 + 4 * 192 * 256 + 2 * 768 * 192 + 2 * 6 * 256
    assert base == token / 256
    for name in {*SHAPES} - {"attention-frame"}:
        assert multiplications(SHAPES[name]) == pytest.approx(base, rel=0.03)
    # 6 blocks, with scores and means over 64 tokens of 3 more frames
    more = 6 * 2 * 3 * 64 * 192 / 256
    assert multiplications(SHAPES["attention"]) - multiplications(SHAPES["attention-frame"]) == more


@pytest.mark.parametrize(("backbone", "mask"), CASES)
def test_every_weight_of_a_block_gets_a_gradient(backbone, mask):
    blocks = _filled(torch.nn.Sequential(*stack(backbone, mask, 32, 2)))
    x = torch.randn(1, 4, 8, 8, 32, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    blocks(x).square().sum().backward()
    without = {name for name, p in blocks.named_parameters() if p.grad.abs().max() < 1e-9}
    # one frame has one distance in time, and softmax does not change with what all scores share
    assert without == ({"0.time", "1.time"} if (backbone, mask) == ("attention", "frame") else set())
