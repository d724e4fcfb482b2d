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


def token_view(x: Tensor) -> Tensor:
    """A picture (B, 3, H, W), sides multiples of 16, as a view of its tokens, (B, H/16, W/16, 3, 16, 16)."""
    return x.unflatten(2, (-1, TOKEN)).unflatten(4, (-1, TOKEN)).permute(0, 2, 4, 1, 3, 5)


def to_tokens(x: Tensor) -> Tensor:
    """A picture (B, 3, H, W), sides multiples of 16, to tokens (B, H/16, W/16, 768): of each R, G and B, row by row."""
    return token_view(x).flatten(3)


def from_tokens(x: Tensor) -> Tensor:
    """Tokens (B, H/16, W/16, 768) to a picture (B, 3, H, W): the inverse of `to_tokens`."""
    b, h, w, _ = x.shape
    return x.view(b, h, w, 3, TOKEN, TOKEN).permute(0, 3, 1, 4, 2, 5).reshape(b, 3, h * TOKEN, w * TOKEN)


def to_patches(t: Tensor) -> Tensor:
    """Tokens (B, h, w, 768) to patches of 8x8 pixels, (B, 2 h, 2 w, 192)."""
    b, h, w, _ = t.shape
    return t.view(b, h, w, 3, 2, PATCH, 2, PATCH).permute(0, 1, 4, 2, 6, 3, 5, 7).reshape(b, 2 * h, 2 * w, PATCH_VALUES)


def per_patch(t: Tensor) -> Tensor:
    """Give the values of a token to each of its four patches, (B, h, w, C) to (B, 2 h, 2 w, C)."""
    b, h, w, c = t.shape
    return t[:, :, None, :, None].expand(b, h, 2, w, 2, c).reshape(b, 2 * h, 2 * w, c)


def merge(t: Tensor) -> Tensor:
    """Put the channels of a token's four patches side by side, (B, 2 h, 2 w, C) to (B, h, w, 4 C)."""
    b, h, w, c = t.shape
    return t.view(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(b, h // 2, w // 2, 4 * c)


def split(t: Tensor) -> Tensor:
    """Share the channels of a token among its four patches, (B, h, w, 4 C) to (B, 2 h, 2 w, C): undoes `merge`."""
    b, h, w, c = t.shape
    return t.view(b, h, w, 2, 2, c // 4).transpose(2, 3).reshape(b, 2 * h, 2 * w, c // 4)


def rings(x: Tensor) -> Tensor:
    """A picture (B, 3, H, W) as patches of 8x8 pixels with a ring of 2 around each, (B, H/8, W/8, 432).

    Beyond its border the picture goes on as at the border.
    """
    x = F.pad(x, (RING, PATCH - RING) * 2, mode="replicate")  # what is beyond the ring is never read
    b, _, h, w = x.shape
    rows, columns = h // PATCH, w // PATCH
    x = x.view(b, 3, rows, PATCH, w)
    x = torch.cat([x[:, :, :-1], x[:, :, 1:, : 2 * RING]], 3).view(b, 3, rows - 1, RINGED_SIDE, columns, PATCH)
    x = torch.cat([x[..., :-1, :], x[..., 1:, : 2 * RING]], 5)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, rows - 1, columns - 1, RINGED_VALUES)


def canvas(grid: torch.Size, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Room for pictures of (B, h, w) tokens with a margin of RING pixels, and the part of it within the margin."""
    b, h, w = grid
    x = torch.empty((b, 3, h * TOKEN + 2 * RING, w * TOKEN + 2 * RING), dtype=dtype, device=device)
    return x, x[:, :, RING:-RING, RING:-RING]


def windows(x: Tensor) -> Tensor:
    """The patches of a picture with their rings, as a view of its `canvas`, (B, H/8, W/8, 3, 12, 12).

    Fills the margin with the pixels at the border.
    """
    x[:, :, :RING], x[:, :, -RING:] = x[:, :, RING : RING + 1], x[:, :, -RING - 1 : -RING]
    x[..., :RING], x[..., -RING:] = x[..., RING : RING + 1], x[..., -RING - 1 : -RING]
    return x.unfold(2, RINGED_SIDE, PATCH).unfold(3, RINGED_SIDE, PATCH).permute(0, 2, 3, 1, 4, 5)


def add_windows(seen: Tensor, t: Tensor) -> None:
    """Add ringed patches, (B, H/8, W/8, 432), to what `windows` sees. Where they overlap they add up."""
    t = t.unflatten(-1, seen.shape[3:])
    for rows in slice(PATCH), slice(PATCH, None):
        for columns in slice(PATCH), slice(PATCH, None):  # in each of the four no two patches overlap
            seen[..., rows, columns] += t[..., rows, columns]


def overlap(t: Tensor) -> Tensor:
    """The sum of ringed patches, (B, H/8, W/8, 432), 8 pixels apart, as a picture (B, 3, H, W)."""
    b, h, w, _ = t.shape
    own, beyond = PATCH, 2 * RING  # rows and columns of a patch, and those that lie in the place of the next one
    t = t.reshape(b, h, w, 3, RINGED_SIDE, RINGED_SIDE).permute(0, 3, 1, 4, 2, 5)
    here, next_one = t.split([own, beyond], -1)
    x = F.pad(here, (0, 0, 0, 1)) + F.pad(next_one, (0, own - beyond, 1, 0))
    here, next_one = x.reshape(b, 3, h, RINGED_SIDE, (w + 1) * PATCH).split([own, beyond], 3)
    x = F.pad(here, (0, 0, 0, 0, 0, 1)) + F.pad(next_one, (0, 0, 0, own - beyond, 1, 0))
    x = x.reshape(b, 3, (h + 1) * PATCH, (w + 1) * PATCH)
    return x[:, :, RING : RING + h * PATCH, RING : RING + w * PATCH]


def padded(x: Tensor, pad: tuple[int, ...]) -> Tensor:
    """Pad like `F.pad`, but return x itself where there is nothing to pad."""
    return F.pad(x, pad) if any(pad) else x


def cells(x: Tensor) -> Tensor:
    """Tokens (B, H, W, C), H and W even, to cells of four, (B, H/2, W/2, 4, C), in the order of `PHASES`."""
    b, h, w, c = x.shape
    rows = [row.unbind(3) for row in x.view(b, h // 2, 2, w // 2, 2, c).unbind(2)]
    return torch.stack([rows[i][j] for i, j in PHASES], 3)


def uncells(x: Tensor) -> Tensor:
    """Cells (B, H/2, W/2, 4, C) to tokens (B, H, W, C): the inverse of `cells`."""
    b, h, w, _, c = x.shape
    raster = sorted(zip(PHASES, x.unbind(3), strict=True), key=lambda item: item[0])
    x = torch.stack([values for _, values in raster], 3).view(b, h, w, 2, 2, c)
    return x.transpose(2, 3).reshape(b, 2 * h, 2 * w, c)
