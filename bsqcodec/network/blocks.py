"""The two blocks that the integer networks are stacks of: shift blocks (decoder) and attention blocks (prior).

Both take and give the residual stream, integers with RES_BITS fractional bits.
"""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import ACT_BITS, ACT_MAX, LIMIT, Tensors, at_once, divide, in_parts, linear, normalise, parts
from .patches import PHASES

HEAD = 32  # channels of an attention head
WINDOW = 4  # side of a window of attention, in cells of 2x2 tokens
MASK = -float(1 << 22)  # added to scores of cells outside the grid
RAMP = 255  # weight, before it is squared, of the largest score
RAMP_SHIFT = 2 * ACT_BITS - 4  # scores have 2 * ACT_BITS fractional bits; one unit less is 16 less on the ramp
_CHUNK_SCORES = 1 << 18  # scores of attention that a CPU works on at once: they then stay in its cache


class ShiftBlock:
    """Feed-forward block: norm, shift, and an MLP with a ReLU (ShiftViT, arXiv 2201.10801).

    Nine groups of channels come from the nine tokens around and at each token; beyond the grid is 0.

    Args:
        tensors: the integers of a model on their device.
        name: of the block, such as "d16.0".
        dtype: float32, or int64 for the oracle.
    """

    def __init__(self, tensors: Tensors, name: str, dtype: torch.dtype):
        self.inner = linear(tensors, f"{name}.a", dtype, out_bits=ACT_BITS, low=0, high=ACT_MAX)
        self.outer = linear(tensors, f"{name}.b", dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """Add the block to the residual stream x, (B, H, W, C), in place; returns x."""
        b, h, w, c = x.shape
        padded = x.new_zeros((b, h + 2, w + 2, c), dtype=self.inner.matrix.in_dtype)
        for part, inside in parts(x, padded[:, 1:-1, 1:-1]):
            inside.copy_(normalise(part))
        n = c // 9
        groups = padded.split([n] * 4 + [c - 8 * n] + [n] * 4, -1)
        moved = [t[:, i // 3 : i // 3 + h, i % 3 : i % 3 + w] for i, t in enumerate(groups)]
        for part, *near in parts(x, *moved):
            part.add_(self.outer.stream(self.inner(torch.cat(near, -1))))
        return x


class AttentionBlock:
    """Windowed attention beside an MLP, from one norm: one product in (C to 7 C), one out (5 C to C).

    The windows hold WINDOW x WINDOW cells of four phases; those of odd blocks are shifted by half (Swin, arXiv
    2103.14030). A token sees those of its own and of earlier phases. Where softmax has exp(s), this has a squared ramp,
    which integers compute exactly: r = max(0, 255 + floor((s - max) / 64)), e = floor(r * r / 256), out =
    round(sum e v / sum e). Scores s have 2 * ACT_BITS fractional bits.

    Args:
        tensors: the integers of a model on their device.
        name: of the block, such as "prior16.0".
        dtype: float32, or int64 for the oracle.
        offset: of the windows from the corner of the grid, in cells.
    """

    def __init__(self, tensors: Tensors, name: str, dtype: torch.dtype, offset: int):
        self.heads, self.offset = tensors[f"{name}.b.w"].shape[0] // HEAD, offset
        self.inner = linear(tensors, f"{name}.a", dtype, out_bits=ACT_BITS, low=-ACT_MAX, high=ACT_MAX)
        self.outer = linear(tensors, f"{name}.b", dtype)
        n, phases, span = WINDOW * WINDOW, len(PHASES), 2 * WINDOW - 1
        assert RAMP * RAMP // 256 * ACT_MAX * n * phases < LIMIT
        cell = torch.arange(WINDOW, device=tensors[f"{name}.b.w"].device)
        y, x = (t.flatten() for t in torch.meshgrid(cell, cell, indexing="ij"))
        distance = (y[:, None] - y[None] + WINDOW - 1) * span + x[:, None] - x[None] + WINDOW - 1
        table = tensors[f"{name}.bias"].to(dtype).view(self.heads, span * span, phases, phases)[:, distance]
        # for each phase k of the queries (heads, cells, (k + 1) * cells): keys come phase after phase
        self.biases = [
            table[:, :, :, k, : k + 1].transpose(2, 3).reshape(self.heads, n, (k + 1) * n) for k in range(phases)
        ]

    def __call__(self, x: Tensor, phase: int, known: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor, Tensor]:
        """Run the block on the tokens of one phase.

        x: residual stream, (B, H, W, C), a token of each cell. known: keys and values of the earlier phases, as the
        last call returned them; nothing for phase 0. Returns the stream after the block, and keys and values with
        those of this phase, (windows, heads, (phase + 1) * cells, HEAD).
        """
        b, h, w, c = x.shape
        top = self.offset
        bottom, right = -(h + top) % WINDOW, -(w + top) % WINDOW
        rows, columns = (h + top + bottom) // WINDOW, (w + top + right) // WINDOW
        y = in_parts(lambda x: self.inner(normalise(x)).to(self.outer.matrix.in_dtype), x)
        qkv, hidden = y.split([3 * c, y.shape[-1] - 3 * c], -1)
        if padded := top or bottom or right:
            qkv = F.pad(qkv, (0, 0, top, right, top, bottom))
        qkv = qkv.view(b, rows, WINDOW, columns, WINDOW, 3, self.heads, HEAD).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = qkv.reshape(3, b * rows * columns, self.heads, WINDOW * WINDOW, HEAD).unbind(0)
        if known:
            k, v = torch.cat([known[0], k], 2), torch.cat([known[1], v], 2)
        bias = self.biases[phase]
        outside = None
        if padded:
            outside = _outside(h, w, top, x.device).repeat(b, phase + 1)[:, None, None].to(bias.dtype)
        windows = len(q) if at_once(q) else max(1, _CHUNK_SCORES // bias.numel())
        done = []
        for i in range(0, len(q), windows):
            at = slice(i, i + windows)
            done.append(attend(q[at], k[at], v[at], bias, None if outside is None else outside[at]))
        o = torch.cat(done) if len(done) > 1 else done[0]
        o = o.view(b, rows, columns, self.heads, WINDOW, WINDOW, HEAD).permute(0, 1, 4, 2, 5, 3, 6)
        o = o.reshape(b, rows * WINDOW, columns * WINDOW, c)[:, top : top + h, top : top + w]
        x = in_parts(lambda x, o, u: x + self.outer.stream(torch.cat([o, u.clamp(min=0)], -1)), x, o, hidden)
        return x, k, v


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, outside: Tensor | None) -> Tensor:
    """The values v of the keys, averaged with the weights of a squared ramp; in the type of q, the shape of q.

    q, k, v: activations (windows, heads, tokens, HEAD); bias, outside: to add to the scores q k.
    """
    dtype = q.dtype
    if dtype == torch.int8:
        q, k, v = q.float(), k.float(), v.float()
    s = (q @ k.transpose(-1, -2)).add_(bias)
    if outside is not None:
        s.add_(outside)
    m = s.amax(-1, keepdim=True)
    if not s.is_floating_point():
        r = (RAMP + ((s - m) >> RAMP_SHIFT)).clamp(min=0)
        e = (r * r) >> 8
        return divide(e @ v, e.sum(-1, keepdim=True))
    e = s.sub_(m).mul_(2.0**-RAMP_SHIFT).add_(RAMP).floor_().clamp_(min=0).square_().mul_(1 / 256).floor_()
    n, d = (e @ v).double(), e.sum(-1, keepdim=True).double()
    return n.add_(d * 0.5).div_(d).floor_().to(dtype)


@functools.lru_cache(32)
@torch.inference_mode(False)
def _outside(height: int, width: int, offset: int, device: torch.device) -> Tensor:
    """MASK for the cells of each window that lie outside a grid, else 0: float32 (windows, WINDOW**2)."""
    inside = torch.zeros((height, width), device=device)
    pad = (offset, -(width + offset) % WINDOW, offset, -(height + offset) % WINDOW)
    inside = F.pad(inside, pad, value=MASK)
    rows, columns = inside.shape
    inside = inside.view(rows // WINDOW, WINDOW, columns // WINDOW, WINDOW).transpose(1, 2)
    return inside.reshape(-1, WINDOW * WINDOW)
