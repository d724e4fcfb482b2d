"""The deblocking filter: softer borders of tokens, within its bound."""

import pytest
import torch

from bsqcodec.network.deblocking import smooth


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_smoothing_leaves_what_is_flat_or_steep(bound):
    flat = torch.full((1, 3, 48, 64), 77.0)
    assert torch.equal(smooth(flat.clone(), bound), flat)
    ramp = torch.arange(64.0).expand(1, 3, 48, 64).contiguous()
    assert torch.equal(smooth(ramp.clone(), bound), ramp)
    for axis in (2, 3):
        edge = torch.full((1, 3, 48, 64), 100.0)
        edge.narrow(axis, 16, 16).add_(6 * max(bound, 1))
        assert torch.equal(smooth(edge.clone(), bound), edge)
        edge.narrow(axis, 16, 16).add_(-1)  # less steep by one
        assert torch.equal(smooth(edge.clone(), bound), edge) == (bound == 0)


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_smoothing_changes_no_pixel_by_more_than_its_bound(bound):
    g = torch.Generator().manual_seed(0)
    for spread in (1, 3, 8, 40, 255):
        x = (128 + spread * torch.randn(2, 3, 48, 64, generator=g)).round().clamp(0, 255)
        y = smooth(x.clone(), bound)
        whole = smooth(x.long(), bound)
        assert torch.equal(y.long(), whole)
        change = (y - x).abs()
        assert y.min() >= 0 and y.max() <= 255
        # along rows, then along columns: a pixel where borders cross may change twice
        assert change.max() <= 2 * bound and (change[:, :, 3:13] <= bound).all() and (change[..., 3:13] <= bound).all()
        inside = change[:, :, 2:14, 2:14]
        assert not inside.any()
    for size in ((16, 16), (16, 48), (48, 16)):
        x = torch.randint(90, 110, (1, 3, *size), generator=g).float()
        assert smooth(x.clone(), bound).shape == x.shape


@pytest.mark.parametrize("bound", [1, 2])
def test_more_bits_are_smoothed_as_8_are(bound):
    g = torch.Generator().manual_seed(0)
    x = (128 + 8 * torch.randn(1, 3, 48, 64, generator=g)).round().clamp(0, 255)
    for depth in (10, 12):
        y = smooth(x * (1 << (depth - 8)), bound, depth)
        assert torch.equal(y.long(), smooth(x.long() << (depth - 8), bound, depth))
        near = (y / (1 << (depth - 8)) - smooth(x.clone(), bound)).abs()
        assert near.max() <= 2 * bound and near.mean() < 0.2
        assert smooth(torch.full((1, 3, 32, 32), 5000.0), bound, depth).max() == (1 << depth) - 1


def test_smoothing_makes_blocks_smaller():
    x = torch.full((1, 3, 32, 32), 100.0)
    x[..., 16:] += 5
    y = smooth(x.clone(), 2)
    assert (y[..., 16] - y[..., 15]).abs().max() <= 2
