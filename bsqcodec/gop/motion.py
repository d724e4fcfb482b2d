"""Block motion compensation in exact integers.

A frame is cut into 16x16 blocks. Each has one vector (dy, dx) in quarter pixels that points into the reference:
the block at (y, x) is predicted from the reference around (y + dy/4, x + dx/4). Positions between pixels are
interpolated with the 8-tap luma filters of HEVC (ITU-T H.265, table 8-11) on each of R, G, B.
"""

import torch
from torch import Tensor

from ..network.patches import TOKEN
from ..stream.group import BOTH, FIRST

BLOCK = TOKEN  # side of a block in pixels: one motion vector per token
TAPS = ((0, 0, 0, 64, 0, 0, 0, 0), (-1, 4, -10, 58, 17, -5, 1, 0),
        (-1, 4, -11, 40, 40, -11, 4, -1), (0, 1, -5, 17, 58, -10, 4, -1))  # fmt: skip
_BLOCKS_AT_ONCE = 256  # so few on a CPU that the working set stays in its cache


def compensate(ref: Tensor, vectors: Tensor) -> Tensor:
    """The prediction of a frame from one reference. Bit-exact on every device.

    With taps t (of the fraction of dx and dy) and pixels p, coordinates clamped to the frame, a predicted pixel is

        clip((sum_i t_dy[i] sum_j t_dx[j] p[y + i - 3, x + j - 3] + 2048) >> 12, 0, 255)

    at the integer position (y, x), pixel + floor(vector / 4). Nothing is rounded between the passes: the sums stay
    below 112 * 112 * 255 < 2**22, which float32 holds exactly in any order, fused or not.

    Args:
        ref: the reference, (B, 3, H, W), uint8 or float32 holding integers 0..255; any H, W.
        vectors: (B, ceil(H / 16), ceil(W / 16), 2), any integer type, (dy, dx) in quarter pixels.

    Returns:
        float32 (B, 3, H, W) holding integers 0..255.
    """
    b, c, h, w = ref.shape
    rows, columns = -(-h // BLOCK), -(-w // BLOCK)
    if vectors.shape != (b, rows, columns, 2):
        raise ValueError(f"vectors are {tuple(vectors.shape)}, not {(b, rows, columns, 2)}")
    if not vectors.any():
        return ref.to(torch.float32)
    device = ref.device
    pixels = ref.to(torch.float32).transpose(0, 1).reshape(c, b * h * w)
    taps = torch.tensor(TAPS, dtype=torch.float32, device=device)
    v = vectors.long()
    whole, fraction = v >> 2, v & 3
    inside = torch.arange(BLOCK, device=device)
    frame = torch.arange(b, device=device)[:, None, None] * (h * w)
    top = torch.arange(rows, device=device)[:, None] * BLOCK + whole[..., 0]
    left = torch.arange(columns, device=device) * BLOCK + whole[..., 1]
    out = torch.empty((c, b, rows, BLOCK, columns, BLOCK), device=device)
    # every block without its fraction
    rows_at_once = max(1, 16 * _BLOCKS_AT_ONCE // columns) if device.type == "cpu" else rows
    for n in range(0, rows, rows_at_once):
        s = slice(n, n + rows_at_once)
        y = (top[:, s, None] + inside[:, None]).clamp_(0, h - 1) * w + frame[..., None]
        x = (left[:, s, :, None] + inside).clamp_(0, w - 1)
        index = y[..., None] + x[:, :, None]
        out[:, :, s] = pixels.index_select(1, index.view(-1)).view(c, *index.shape)
    # those that have one; a filter of a fraction of 0 changes nothing
    for down, across in ((False, True), (True, False), (True, True)):
        those = ((fraction[..., 0] > 0) == down) & ((fraction[..., 1] > 0) == across)
        span_y = torch.arange(-3 if down else 0, BLOCK + 4 if down else BLOCK, device=device)[:, None]
        span_x = torch.arange(-3 if across else 0, BLOCK + 4 if across else BLOCK, device=device)[:, None]
        for at in those.nonzero().split(_BLOCKS_AT_ONCE if device.type == "cpu" else rows * columns * b):
            i, j, k = at.unbind(1)
            # blocks are the last axis, so that every operation runs over long contiguous rows
            y = (top[i, j, k] + span_y).clamp_(0, h - 1) * w + i * (h * w)
            x = (left[i, j, k] + span_x).clamp_(0, w - 1)
            p = pixels.index_select(1, (y[:, None] + x[None]).view(-1)).view(c, len(span_y), len(span_x), len(at))
            if across:
                p = _filtered(p, 2, taps[fraction[i, j, k, 1]].T)
            if down:
                p = _filtered(p, 1, taps[fraction[i, j, k, 0]].T)
            bits = 6 * (across + down)
            p = p.add_(1 << (bits - 1)).mul_(2.0**-bits).floor_().clamp_(0, 255)
            out[:, i, j, :, k] = p.permute(3, 0, 1, 2)
    return out.view(c, b, rows * BLOCK, columns * BLOCK).transpose(0, 1)[:, :, :h, :w].contiguous()


def _filtered(p: Tensor, dim: int, taps: Tensor) -> Tensor:
    """p: (..., blocks), 7 longer along `dim` than the result; taps: (8, blocks)."""
    size = p.shape[dim] - 7
    total = p.narrow(dim, 0, size) * taps[0]
    for k in range(1, 8):
        total.addcmul_(p.narrow(dim, k, size), taps[k])
    return total


def mean(a: Tensor, b: Tensor) -> Tensor:
    """Average of two predictions, integers 0..255, halves rounded up."""
    return (a + b + 1).mul_(0.5).floor_()


def combine(first: Tensor, second: Tensor, modes: Tensor) -> Tensor:
    """The prediction from two references: of each block their mean, or one of them.

    Args:
        first, second: predictions from one reference, (B, 3, H, W); H and W are multiples of 16.
        modes: (H / 16, W / 16), as `stream.group` numbers them.
    """
    modes = modes.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return torch.where(modes == BOTH, mean(first, second), torch.where(modes == FIRST, first, second))
