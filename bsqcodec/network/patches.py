"""Pictures as tokens of 16x16 pixels and patches of 8x8, and back. Exact for every type of number.

A patch is seen, and corrected, with a ring of two pixels around it: 12x12 pixels, of which those of neighbours overlap.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TOKEN = 16  # side of a token in pixels
PATCH = TOKEN // 2  # side of a patch, four of which make a token
PATCH_VALUES = 3 * PATCH**2
RING = 2  # pixels around a patch that it sees, and writes to
RINGED_SIDE = PATCH + 2 * RING
RINGED_VALUES = 3 * RINGED_SIDE**2  # of a patch with its ring
PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))  # order of coding of the tokens in a cell of 2x2


def tokens(x: Tensor) -> Tensor:
    """A picture (B, 3, H, W), sides multiples of 16, seen as (B, H/16, W/16, 3, 16, 16)."""
    return x.unflatten(2, (-1, TOKEN)).unflatten(4, (-1, TOKEN)).permute(0, 2, 4, 1, 3, 5)


def patches(x: Tensor) -> Tensor:
    """(B, 3, H, W), sides multiples of 16, to (B, H/16, W/16, 768): of each token R, G and B, row by row."""
    return tokens(x).flatten(3)


def unpatch(x: Tensor) -> Tensor:
    """The inverse of `patches`."""
    b, h, w, _ = x.shape
    return x.view(b, h, w, 3, TOKEN, TOKEN).permute(0, 3, 1, 4, 2, 5).reshape(b, 3, h * TOKEN, w * TOKEN)


def quarters(t: Tensor) -> Tensor:
    """Tokens (B, h, w, 768) as patches of 8x8 pixels, (B, 2 h, 2 w, 192)."""
    b, h, w, _ = t.shape
    return t.view(b, h, w, 3, 2, PATCH, 2, PATCH).permute(0, 1, 4, 2, 6, 3, 5, 7).reshape(b, 2 * h, 2 * w, PATCH_VALUES)


def quarter(t: Tensor) -> Tensor:
    """Give the values of a token to each of its four patches, (B, h, w, C) to (B, 2 h, 2 w, C)."""
    b, h, w, c = t.shape
    return t[:, :, None, :, None].expand(b, h, 2, w, 2, c).reshape(b, 2 * h, 2 * w, c)


def merge(t: Tensor) -> Tensor:
    """The channels of four patches side by side, (B, 2 h, 2 w, C) to (B, h, w, 4 C)."""
    b, h, w, c = t.shape
    return t.view(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(b, h // 2, w // 2, 4 * c)


def split(t: Tensor) -> Tensor:
    """The inverse of `merge`."""
    b, h, w, c = t.shape
    return t.view(b, h, w, 2, 2, c // 4).transpose(2, 3).reshape(b, 2 * h, 2 * w, c // 4)


def rings(x: Tensor) -> Tensor:
    """A picture (B, 3, H, W) as patches of 8x8 pixels with a ring of 2 around each, (B, H/8, W/8, 432).

    Beyond its border the picture goes on as at the border.
    """
    x = F.pad(x, (2, 6, 2, 6), mode="replicate")  # the last 4 are never read
    b, _, h, w = x.shape
    x = x.view(b, 3, h // 8, 8, w)
    x = torch.cat([x[:, :, :-1], x[:, :, 1:, :4]], 3).view(b, 3, h // 8 - 1, 12, w // 8, 8)
    x = torch.cat([x[..., :-1, :], x[..., 1:, :4]], 5)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, h // 8 - 1, w // 8 - 1, RINGED_VALUES)


def canvas(grid: torch.Size, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Room for pictures of (B, h, w) tokens with a margin of RING pixels, and the part of it within the margin."""
    b, h, w = grid
    x = torch.empty((b, 3, h * TOKEN + 2 * RING, w * TOKEN + 2 * RING), dtype=dtype, device=device)
    return x, x[:, :, RING:-RING, RING:-RING]


def windows(x: Tensor) -> Tensor:
    """The patches of a picture with their rings, as a view of its `canvas`, (B, H/8, W/8, 3, 12, 12).

    Fills the margin."""
    x[:, :, :RING], x[:, :, -RING:] = x[:, :, RING : RING + 1], x[:, :, -RING - 1 : -RING]
    x[..., :RING], x[..., -RING:] = x[..., RING : RING + 1], x[..., -RING - 1 : -RING]
    return x.unfold(2, RINGED_SIDE, PATCH).unfold(3, RINGED_SIDE, PATCH).permute(0, 2, 3, 1, 4, 5)


def add_windows(seen: Tensor, t: Tensor) -> None:
    """Add patches of 12x12 pixels, (B, H/8, W/8, 432), to what `windows` sees. What overlaps adds up."""
    t = t.unflatten(-1, seen.shape[3:])
    for rows in slice(PATCH), slice(PATCH, None):
        for columns in slice(PATCH), slice(PATCH, None):  # in each of the four no two patches overlap
            seen[..., rows, columns] += t[..., rows, columns]


def overlap(t: Tensor) -> Tensor:
    """The sum of patches of 12x12 pixels, 8 apart, (B, H/8, W/8, 432), as a picture (B, 3, H, W)."""
    b, h, w, _ = t.shape
    own, next_one = t.reshape(b, h, w, 3, 12, 12).permute(0, 3, 1, 4, 2, 5).split([8, 4], -1)
    x = F.pad(own, (0, 0, 0, 1)) + F.pad(next_one, (0, 4, 1, 0))
    own, next_one = x.reshape(b, 3, h, 12, 8 * w + 8).split([8, 4], 3)
    x = F.pad(own, (0, 0, 0, 0, 0, 1)) + F.pad(next_one, (0, 0, 0, 4, 1, 0))
    return x.reshape(b, 3, 8 * h + 8, 8 * w + 8)[:, :, 2 : 8 * h + 2, 2 : 8 * w + 2]


def padded(x: Tensor, pad: tuple[int, ...]) -> Tensor:
    """Pad like `F.pad`, but return x itself where there is nothing to pad."""
    return F.pad(x, pad) if any(pad) else x


def cells(x: Tensor) -> Tensor:
    """(B, H, W, C) tokens, H and W even, to (B, H/2, W/2, 4, C) in the order of `PHASES`."""
    b, h, w, c = x.shape
    rows = [row.unbind(3) for row in x.view(b, h // 2, 2, w // 2, 2, c).unbind(2)]
    return torch.stack([rows[i][j] for i, j in PHASES], 3)


def uncells(x: Tensor) -> Tensor:
    """The inverse of `cells`."""
    b, h, w, _, c = x.shape
    raster = sorted(zip(PHASES, x.unbind(3), strict=True), key=lambda item: item[0])
    x = torch.stack([values for _, values in raster], 3).view(b, h, w, 2, 2, c)
    return x.transpose(2, 3).reshape(b, 2 * h, 2 * w, c)
