"""Blocks of encoder and decoder on groups of frames, (B, T, h, w, channels).

A mask names the frames that a token sees, beside its own: "frame" none, "block-causal" those before (BSQ-ViT), "full"
all of the group. Where it is not "full", frames are coded and decoded one by one.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsqcodec.network.blocks import HEAD
from bsqcodec.network.unrounded_layers import MASK, Mat, Norm, ShiftBlock, bounded, shifted

from .data import GROUP_FRAMES

MASKS = ("frame", "block-causal", "full")
COARSE_MLP = 4  # hidden channels of an MLP, in its width
FROM_PAST = 4  # of so many channels a shift over frames takes one from the frame before
WINDOW = 8  # side of a window of attention, in tokens


class FrameShift(ShiftBlock):
    """The codec's shift block. If `past`, a quarter of the channels, of all directions, are those of the frame before.

    That is the shift of TSM (arXiv 1811.08383) in one direction. In front of the first frame there are zeros.
    """

    def __init__(self, channels: int, past: bool):
        super().__init__(channels, COARSE_MLP)
        self.past = past
        self.register_buffer("taken", torch.arange(channels) % FROM_PAST == 0, persistent=False)
        self.taken: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, h, w, channels). Returns it with what the block adds."""
        n = self.n(x)
        if self.past:
            n = torch.where(self.taken, before(n, 1)[:, :-1], n)
        n = shifted(n.flatten(0, 1)).view(x.shape)
        return x + self.b(bounded(self.a(n), 0))


class FrameConvolution(nn.Module):
    """A residual block of MAGVIT-v2's tokenizer (arXiv 2310.05737): two causal convolutions of 3x3x3.

    They see two frames before, none after. Norm and nonlinearity are those of the other blocks. A kernel is kept as a
    matrix (channels, 27 channels), which an optimiser of matrices takes as any other.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.n, self.a = Norm(channels), Mat(27 * channels, channels)
        self.m, self.b = Norm(channels), Mat(27 * channels, channels, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, h, w, channels). Returns it with what the block adds."""
        h = _convolved(bounded(self.n(x), 0), self.a.w)
        return x + _convolved(bounded(self.m(h), 0), self.b.w)


class FrameAttention(nn.Module):
    """Attention in windows of 8x8 tokens of all frames that the mask shows, beside an MLP: one product in, one out.

    Biases of the scores are sums of one for the distance in space and one for that in time. BSQ-ViT attends to all
    tokens; with patches of 16 pixels a window is a crop of training.

    Args:
        channels: a multiple of HEAD.
        mask: one of `MASKS`.
        offset: of the windows from the corner of the grid, in tokens; windows at the border are then in parts, which
            do not see each other (Swin, arXiv 2103.14030).
    """

    def __init__(self, channels: int, mask: str, offset: int):
        super().__init__()
        self.mask, self.offset, self.heads = mask, offset, channels // HEAD
        self.n, self.a = Norm(channels), Mat(channels, (3 + COARSE_MLP) * channels)
        self.b = Mat((1 + COARSE_MLP) * channels, channels, zero=True)
        span = 2 * WINDOW - 1
        self.space = nn.Parameter(torch.zeros(self.heads, span * span))
        self.time = nn.Parameter(torch.zeros(self.heads, 2 * GROUP_FRAMES - 1))
        line = torch.arange(WINDOW)
        place = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).view(-1, 2)
        apart = place[:, None] - place + WINDOW - 1
        self.register_buffer("index", apart[..., 0] * span + apart[..., 1], persistent=False)
        self.index: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, h, w, channels), T at most 4, sides multiples of 8. Returns it with what the block adds."""
        b, t, h, w, c = x.shape
        qkv, u = self.a(self.n(x)).split([3 * c, COARSE_MLP * c], -1)
        y = self._attend(bounded(qkv).reshape(b * t, 1, h, w, 3 * c) if self.mask == "frame" else bounded(qkv))
        return x + self.b(torch.cat([y.view(x.shape), bounded(u, 0)], -1))

    def _attend(self, qkv: Tensor) -> Tensor:
        """qkv: (B, T, h, w, 3 channels). Returns the means of the values, (B, T, h, w, channels)."""
        b, t, h, w, c = qkv.shape
        rows, columns, o = h // WINDOW, w // WINDOW, self.offset
        windows = (b, t, rows, WINDOW, columns, WINDOW)
        y = qkv.roll((-o, -o), (2, 3)).view(*windows, 3, self.heads, HEAD).permute(6, 0, 2, 4, 7, 1, 3, 5, 8)
        q, k, v = y.reshape(3, b, rows * columns, self.heads, t * WINDOW * WINDOW, HEAD).unbind(0)
        scores = (q * HEAD**-0.5) @ k.mT + self._bias(t, h, w, qkv.dtype)
        y = (torch.softmax(scores, -1) @ v).view(b, rows, columns, self.heads, t, WINDOW, WINDOW, HEAD)
        return y.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(b, t, h, w, c // 3).roll((o, o), (2, 3))

    def _bias(self, t: int, h: int, w: int, dtype: torch.dtype) -> Tensor:
        """What is added to scores, (1 or windows, heads, T 64, T 64): by distance, and for tokens that are hidden."""
        line = torch.arange(t, device=self.time.device)
        time = self.time[:, line[:, None] - line + GROUP_FRAMES - 1][:, :, None, :, None]
        space = self.space[:, self.index][:, None, :, None]
        n = t * WINDOW * WINDOW
        bias = (space.to(dtype) + time.to(dtype)).reshape(self.heads, n, n)
        return bias + _hidden(self.mask, t, h, w, self.offset, dtype, self.time.device)


@functools.lru_cache(maxsize=64)
def _hidden(mask: str, t: int, h: int, w: int, offset: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """MASK for each pair of a token and another that it does not see, else 0, (1 or windows, 1, T 64, T 64)."""
    frame = torch.arange(t).repeat_interleave(WINDOW * WINDOW)
    unseen = (frame > frame[:, None])[None] & (mask == "block-causal")
    if offset:
        part = 2 * (torch.arange(h) >= h - offset)[:, None] + (torch.arange(w) >= w - offset)
        part = part.view(h // WINDOW, WINDOW, w // WINDOW, WINDOW).transpose(1, 2).reshape(-1, WINDOW * WINDOW)
        part = part.repeat(1, t)
        unseen = unseen | (part[:, None] != part[:, :, None])
    return (unseen.unsqueeze(1) * MASK).to(device, dtype, non_blocking=True)


def before(x: Tensor, frames: int) -> Tensor:
    """x, (B, T, h, w, channels), with so many frames of zeros in front."""
    return F.pad(x, (0, 0, 0, 0, 0, 0, frames, 0))


def _convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """A causal convolution of 3x3x3; kernel: (channels, 27 channels), the channels of a place together."""
    w = kernel.to(x.dtype).view(len(kernel), 3, 3, 3, -1).permute(0, 4, 1, 2, 3)
    return F.conv3d(before(x, 2).permute(0, 4, 1, 2, 3), w, padding=(0, 1, 1)).permute(0, 2, 3, 4, 1)


def stack(backbone: str, mask: str, channels: int, blocks: int) -> nn.ModuleList:
    """The blocks of a network.

    backbone: "shift", "conv3d" or "attention", of which only the last has mask "full", and "conv3d" has no other than
    "block-causal". Raises KeyError for what is not there.
    """
    make = {
        ("shift", "frame"): lambda i: FrameShift(channels, False),
        ("shift", "block-causal"): lambda i: FrameShift(channels, True),
        ("conv3d", "block-causal"): lambda i: FrameConvolution(channels),
    } | {("attention", m): lambda i: FrameAttention(channels, mask, WINDOW // 2 * (i % 2)) for m in MASKS}
    return nn.ModuleList(make[backbone, mask](i) for i in range(blocks))
