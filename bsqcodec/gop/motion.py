"""Block motion compensation in exact integers.

A frame is cut into 16x16 blocks. Each, or each quarter of it if it is split, has a vector (dy, dx) in quarter pixels
that points into the reference: what is at (y, x) is predicted from the reference around (y + dy/4, x + dx/4). Positions
between pixels are interpolated with the 8-tap luma filters of HEVC (ITU-T H.265, table 8-11) on each of R, G, B.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..network.patches import TOKEN
from ..stream.group import BOTH, FIRST

BLOCK = TOKEN  # side of a block in pixels: one motion vector per token
TAPS = ((0, 0, 0, 64, 0, 0, 0, 0), (-1, 4, -10, 58, 17, -5, 1, 0),
        (-1, 4, -11, 40, 40, -11, 4, -1), (0, 1, -5, 17, 58, -10, 4, -1))  # fmt: skip
_BLOCKS_AT_ONCE = 256  # so few on a CPU that the working set stays in its cache


def quartered(blocks: Tensor) -> Tensor:
    """What holds for blocks, (B, rows, columns, ...), for each of their quarters, (B, 2 rows, 2 columns, ...)."""
    return blocks.repeat_interleave(2, 1).repeat_interleave(2, 2)


def flat(x: Tensor) -> Tensor:
    """Each block as its mean: what stands for the prediction of a frame without reference.

    x: pixels, float32 (B, 3, H, W); H and W are multiples of 16.
    """
    return F.interpolate(F.avg_pool2d(x, BLOCK), scale_factor=float(BLOCK))


def compensate(ref: Tensor, vectors: Tensor) -> Tensor:
    """The prediction of a frame from one reference. Bit-exact on every device.

    With taps t (of the fraction of dx and dy) and pixels p, coordinates clamped to the frame, a predicted pixel is

        clip((sum_i t_dy[i] sum_j t_dx[j] p[y + i - 3, x + j - 3] + 2048) >> 12, 0, 255)

    at the integer position (y, x), pixel + floor(vector / 4). Nothing is rounded between the passes: the sums stay
    below 112 * 112 * 255 < 2**22, which float32 holds exactly in any order, fused or not.

    Args:
        ref: the reference, (B, 3, H, W), uint8 or float32 holding integers 0..255; any H, W.
        vectors: of the quarters of blocks, 8x8 pixels, (B, 2 ceil(H / 16), 2 ceil(W / 16), 2), any integer type,
            (dy, dx) in quarter pixels, best on the host.

    Returns:
        float32 (B, 3, H, W) holding integers 0..255.
    """
    b, c, h, w = ref.shape
    rows, columns = -(-h // BLOCK), -(-w // BLOCK)
    if vectors.shape != (b, 2 * rows, 2 * columns, 2):
        raise ValueError(f"vectors are {tuple(vectors.shape)}, not {(b, 2 * rows, 2 * columns, 2)}")
    vectors = vectors.cpu()  # the host tells what is to be done, and does not wait for the device to tell it
    if not vectors.any():
        return ref.to(torch.float32)
    pixels = ref.to(torch.float32).transpose(0, 1).reshape(c, b * h * w)
    out = torch.empty((c, b, rows, BLOCK, columns, BLOCK), device=ref.device)
    quarters = vectors.long()
    blocks = quarters[:, ::2, ::2]
    four = quarters.view(b, rows, 2, columns, 2, 2)
    split = (four != blocks[:, :, None, :, None]).any(-1).any(4).any(2)
    _copy(pixels, (h, w), (blocks >> 2).to(ref.device), out)
    _fill(pixels, (h, w), blocks, ~split & (blocks & 3).any(-1), out)
    if split.any():
        those = quartered(split)
        _fill(pixels, (h, w), quarters, those, out.view(c, b, 2 * rows, BLOCK // 2, 2 * columns, BLOCK // 2))
    return out.view(c, b, rows * BLOCK, columns * BLOCK).transpose(0, 1)[:, :, :h, :w].contiguous()


def _copy(pixels: Tensor, size: tuple[int, int], whole: Tensor, out: Tensor) -> None:
    """Fill `out`, (C, B, rows, side, columns, side), with what lies `whole` pixels away, (B, rows, columns, 2)."""
    (h, w), (c, b, rows, side, columns, _), device = size, out.shape, out.device
    inside = torch.arange(side, device=device)
    frame = torch.arange(b, device=device)[:, None, None] * (h * w)
    top = torch.arange(rows, device=device)[:, None] * side + whole[..., 0]
    left = torch.arange(columns, device=device) * side + whole[..., 1]
    rows_at_once = max(1, 16 * _BLOCKS_AT_ONCE // columns) if device.type == "cpu" else rows
    for n in range(0, rows, rows_at_once):
        s = slice(n, n + rows_at_once)
        y = (top[:, s, None] + inside[:, None]).clamp_(0, h - 1) * w + frame[..., None]
        x = (left[:, s, :, None] + inside).clamp_(0, w - 1)
        index = y[..., None] + x[:, :, None]
        out[:, :, s] = pixels.index_select(1, index.view(-1)).view(c, *index.shape)


def _fill(pixels: Tensor, size: tuple[int, int], vectors: Tensor, chosen: Tensor, out: Tensor) -> None:
    """Predict those blocks of `out`, (C, B, rows, side, columns, side), that are chosen, (B, rows, columns)."""
    (h, w), (c, _, _, side, _, _), device = size, out.shape, out.device
    taps = torch.tensor(TAPS, dtype=torch.float32, device=device)
    fraction = vectors & 3
    blocks_at_once = _BLOCKS_AT_ONCE * (BLOCK // side) ** 2 if device.type == "cpu" else chosen.numel()
    # a filter of a fraction of 0 changes nothing
    for down, across in ((False, False), (False, True), (True, False), (True, True)):
        those = chosen & ((fraction[..., 0] > 0) == down) & ((fraction[..., 1] > 0) == across)
        span_y = torch.arange(-3 if down else 0, side + 4 if down else side, device=device)[:, None]
        span_x = torch.arange(-3 if across else 0, side + 4 if across else side, device=device)[:, None]
        for at in those.nonzero().split(blocks_at_once):
            i, j, k, dy, dx = torch.cat([at, vectors[at.unbind(1)]], 1).to(device).unbind(1)
            # blocks are the last axis, so that every operation runs over long contiguous rows
            y = (j * side + (dy >> 2) + span_y).clamp_(0, h - 1) * w + i * (h * w)
            x = (k * side + (dx >> 2) + span_x).clamp_(0, w - 1)
            p = pixels.index_select(1, (y[:, None] + x[None]).view(-1)).view(c, len(span_y), len(span_x), len(at))
            if across:
                p = _filtered(p, 2, taps[dx & 3].T)
            if down:
                p = _filtered(p, 1, taps[dy & 3].T)
            if bits := 6 * (across + down):
                p = p.add_(1 << (bits - 1)).mul_(2.0**-bits).floor_().clamp_(0, 255)
            out[:, i, j, :, k] = p.permute(3, 0, 1, 2)


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
