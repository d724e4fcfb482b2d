"""Layers in real numbers, for training and for the encoder: what layers.py, blocks.py and views.py are in integers.

Backward passes that autograd would make of many kernels are written out here.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import HEAD, WINDOW
from .patches import PHASES, padded
from .quantiser import COEFFICIENTS

ACT_MAX = 127 / 32  # of an activation; the integer networks hold it in int8 with 5 fractional bits
MLP = 4  # hidden channels of an attention block's MLP, in its width
MASK = -1e4  # added to scores of keys that are not to be seen


class _Views(torch.autograd.Function):
    """`views`, with its gradient in four kernels."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return torch.cat([y.clamp(-1, 1), (y / 4).clamp_(-1, 1), (y / 20).clamp_(-2, 2)], -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        size = y.abs()
        one, four, twenty = g.chunk(3, -1)
        g = torch.addcmul(one * (size <= 1), four, size <= 4, value=1 / 4)
        return g.addcmul_(twenty, size <= 40, value=1 / 20)


def views(y: Tensor) -> Tensor:
    """Three bounded views of values in quantiser steps, (..., C) to (..., 3 C), within +-2, as in views.py."""
    return _Views.apply(y)


def bounded(x: Tensor, low: float = -ACT_MAX, high: float = ACT_MAX) -> Tensor:
    """Clamp x. The gradient is 0 at the bounds; that of `clamp` takes five kernels where this one's takes one."""
    return F.hardtanh(x, low, high)


class _L1Norm(torch.autograd.Function):
    """w x / mean |x| over the last axis, bounded to +-ACT_MAX before the product with w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        d = torch.rsub(torch.linalg.vector_norm(x, 1, -1, keepdim=True), 1e-3, alpha=-1 / len(w))  # mean |x| + .001
        n = x / d
        ctx.save_for_backward(n, d, w)
        return n.clamp(-ACT_MAX, ACT_MAX).mul_(w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        n, d, w = ctx.saved_tensors
        g = torch.ops.aten.hardtanh_backward(g, n, -ACT_MAX, ACT_MAX)
        p = g * n
        total = (p @ w).unsqueeze(-1)
        return g.mul_(w).addcmul_(torch.sign(n), total, value=-1 / len(w)).div_(d), p.flatten(0, -2).sum(0)


class Norm(nn.Module):
    """w x / mean |x| over the channels, the last axis of x.

    From w = .4 the early steps of a training are stable: from 1 they lose 5 % (I frames) to 14 % (P) after 90 steps.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.w = nn.Parameter(torch.full((channels,), 0.4))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., channels). Returns its shape."""
        return _L1Norm.apply(x, self.w.to(x.dtype))


class Mat(nn.Module):
    """A matrix product, (..., n_in) to (..., n_out), in the type of its input.

    Its weights start as 0 if `zero`, else with the standard deviation `std`, or n_in**-.5 where that is not given.
    """

    def __init__(self, n_in: int, n_out: int, zero: bool = False, std: float | None = None):
        super().__init__()
        start = torch.zeros(n_out, n_in) if zero else torch.randn(n_out, n_in) * (std or n_in**-0.5)
        self.w = nn.Parameter(start)

    def forward(self, x: Tensor, n_coded: int | None = None) -> Tensor:
        """x: (..., n_in). Returns (..., n_out).

        n_coded: x has the three views of so many coefficients, where the matrix has columns for those of all.
        """
        w: Tensor = self.w
        if n_coded is not None and n_coded < COEFFICIENTS:
            w = w.view(len(w), 3, COEFFICIENTS)[:, :, :n_coded].reshape(len(w), 3 * n_coded)
        return F.linear(x, w.to(x.dtype))


class _Shift(torch.autograd.Function):
    """Nine groups of channels, each moved by one token in one of nine directions; 0 comes in at the border."""

    @staticmethod
    def run(x: Tensor, sign: int) -> Tensor:
        _, h, w, c = x.shape
        n, rest = c // 9, c % 9
        groups = F.pad(x, (0, 0, 1, 1, 1, 1)).split([n] * 4 + [n + rest] + [n] * 4, -1)
        places = [(1 + sign * i, 1 + sign * j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        return torch.cat([t[:, y : y + h, z : z + w] for t, (y, z) in zip(groups, places, strict=True)], -1)

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _Shift.run(x, 1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _Shift.run(g, -1)


def shifted(x: Tensor) -> Tensor:
    """Nine groups of channels, each moved by a token in one of nine directions, as in blocks.py; x: (B, H, W, C)."""
    return _Shift.apply(x)


class ShiftBlock(nn.Module):
    """Norm, shift, and an MLP with a ReLU: `blocks.ShiftBlock` in real numbers.

    Args:
        channels: of the residual stream.
        mlp: channels of the hidden layer, in those of the stream.
    """

    def __init__(self, channels: int, mlp: int):
        super().__init__()
        self.n, self.a = Norm(channels), Mat(channels, mlp * channels)
        self.b = Mat(mlp * channels, channels, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        """x: residual stream, (B, H, W, channels). Returns it with what the block adds."""
        return x + self.b(bounded(self.a(shifted(self.n(x))), 0))


class _Attend(torch.autograd.Function):
    """Means of v, weighted by max(0, 1 + (s - max s) / 16)**2; no gradient passes the maximum."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, v: Tensor) -> Tensor:
        root = torch.rsub(s - s.amax(-1, keepdim=True), 1, alpha=-1 / 16).clamp_(min=0)
        weights = root * root
        total = weights.sum(-1, keepdim=True)
        mean = (weights @ v).div_(total)
        ctx.save_for_backward(root, total, mean, v)
        return mean

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        root, total, mean, v = ctx.saved_tensors
        g = g / total
        by_weight = (g @ v.mT).sub_((g * mean).sum(-1, keepdim=True))
        return by_weight.mul_(root).div_(8), (root * root).mT @ g


class AttentionBlock(nn.Module):
    """Attention in windows of 4x4 cells of four tokens, causal in the phases, beside an MLP: one product in, one out.

    `blocks.AttentionBlock` in real numbers, with all phases at once: a mask keeps tokens from seeing later phases. In
    place of exp(s) the weights are max(0, 1 + (s - max s) / 16)**2, which integers compute exactly.

    Args:
        channels: a multiple of HEAD.
        offset: of the windows from the corner of the grid, in cells.
    """

    def __init__(self, channels: int, offset: int):
        super().__init__()
        p, span = len(PHASES), 2 * WINDOW - 1
        self.offset, self.heads = offset, channels // HEAD
        self.n, self.a = Norm(channels), Mat(channels, (3 + MLP) * channels)
        self.b = Mat((1 + MLP) * channels, channels, zero=True)
        self.bias = nn.Parameter(torch.zeros(self.heads, span * span * p * p))
        line, i = torch.arange(WINDOW), torch.arange(p)
        cell = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).view(-1, 2)
        apart = cell[:, None] - cell[None] + WINDOW - 1
        apart = apart[..., 0] * span + apart[..., 1]
        index = apart[:, None, :, None] * p * p + i[None, :, None, None] * p + i
        tokens = WINDOW * WINDOW * p
        self.register_buffer("index", index.reshape(tokens, tokens), persistent=False)
        phase = torch.arange(tokens) % p
        self.register_buffer("future", phase > phase[:, None], persistent=False)
        self.index: Tensor
        self.future: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """x: residual stream, (B, rows, columns, 4, channels) of cells. Returns it with what the block adds."""
        b, h, w, p, c = x.shape
        win, d, n, o = WINDOW, HEAD, WINDOW * WINDOW * p, self.offset
        qkv, u = self.a(self.n(x)).split([3 * c, MLP * c], -1)
        qkv, u = bounded(qkv), bounded(u, 0)
        py, px = (-h - o) % win, (-w - o) % win
        t = padded(qkv, (0, 0, 0, 0, o, px, o, py))
        rows, columns = t.shape[1] // win, t.shape[2] // win
        t = t.view(b, rows, win, columns, win, p, 3, self.heads, d).permute(6, 0, 1, 3, 7, 2, 4, 5, 8)
        q, k, v = t.reshape(3, b * rows * columns * self.heads, n, d).unbind(0)
        bias = self.bias[:, self.index].masked_fill(self.future, MASK).to(x.dtype)
        s = (q @ k.transpose(1, 2)).view(b, rows * columns, self.heads, n, n) + bias
        if o or py or px:
            outside = F.pad(torch.zeros(h, w, device=x.device), (o, px, o, py), value=MASK)
            outside = outside.view(rows, win, columns, win).permute(0, 2, 1, 3).reshape(-1, 1, 1, win * win, 1)
            s = s + outside.expand(-1, 1, 1, win * win, p).reshape(rows * columns, 1, 1, n).to(x.dtype)
        t = (
            _Attend.apply(s.view(-1, n, n), v)
            .view(b, rows, columns, self.heads, win, win, p, d)
            .permute(0, 1, 4, 2, 5, 6, 3, 7)
        )
        t = t.reshape(b, rows * win, columns * win, p, c)[:, o : o + h, o : o + w]
        return x + self.b(torch.cat([t, u], -1))
