"""Tokens, patches, rings and cells of a picture, and back."""

import torch

from bsqcodec.network.patches import (
    PHASES,
    add_windows,
    canvas,
    cells,
    from_tokens,
    merge,
    overlap,
    per_patch,
    rings,
    split,
    to_patches,
    to_tokens,
    uncells,
    windows,
)


def test_patches_are_inverted():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 32, 48, generator=g)
    t = to_tokens(x)
    assert torch.equal(from_tokens(t), x)
    assert torch.equal(t[1, 1, 2], x[1, :, 16:32, 32:48].flatten())
    small = to_patches(t)
    assert torch.equal(small[1, 3, 4], x[1, :, 24:32, 32:40].flatten())
    assert torch.equal(merge(split(t)), t)
    assert torch.equal(per_patch(t)[:, 1::2, ::2], t) and torch.equal(per_patch(t)[:, ::2, 1::2], t)


def test_rings_see_around_and_overlap_adds_up():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 3, 32, 48), generator=g).float()
    r = rings(x)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
    for i, j in ((0, 0), (3, 5), (1, 2)):
        assert torch.equal(r[1, i, j], padded[1, :, 8 * i : 8 * i + 12, 8 * j : 8 * j + 12].flatten())
    t = torch.randint(-9, 9, r.shape, generator=g).float()
    total = torch.zeros_like(padded)
    for i in range(4):
        for j in range(6):
            total[:, :, 8 * i : 8 * i + 12, 8 * j : 8 * j + 12] += t[:, i, j].view(2, 3, 12, 12)
    assert torch.equal(overlap(t), total[:, :, 2:-2, 2:-2])
    room, inside = canvas(torch.Size((2, 2, 3)), torch.float32, x.device)
    inside.copy_(x)
    seen = windows(room)
    assert torch.equal(seen.flatten(3), r)
    add_windows(seen, t)
    assert torch.equal(inside, x + overlap(t))


def test_cells_are_in_the_order_of_the_phases():
    x = torch.arange(2 * 4 * 6 * 3).view(2, 4, 6, 3)
    for k, (i, j) in enumerate(PHASES):
        assert torch.equal(cells(x)[:, 1, 2, k], x[:, 2 + i, 4 + j])
    assert torch.equal(uncells(cells(x)), x)
