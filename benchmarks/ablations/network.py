"""The autoencoder of the comparisons: a linear transform with networks beside it, a quantiser, and a prior.

    z = transform(pixels) / step + encoder's blocks      in steps of the level
    q = quantiser(z)                                     what is coded, and what stands for z
    pixels = inverse transform(q) * step + decoder's blocks
    bits = quantiser.bits(q, prior(q))                   4 phases of tokens, groups of channels in each

All quantisers meet the same networks. They are those of the codec in small, without its stage on patches of 8x8 pixels,
its frequency weights and its motion. The levels stand for its quality: all networks serve all levels.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsqcodec.network import unrounded
from bsqcodec.network.blocks import WINDOW
from bsqcodec.network.patches import PHASES, cells, padded, uncells
from bsqcodec.network.tokenizer import MID_GRAY
from bsqcodec.network.unrounded_layers import AttentionBlock, Mat, Norm, views
from bsqcodec.train.sampler import Sampler

from .backbones import before, stack

LOG2_STEPS = (8.0, 7.25, 6.5, 5.75, 5.0)  # log2 of the quantiser step of each level, in pixel values
LEVELS = len(LOG2_STEPS)
PIXEL_MAX = 8.0  # bound of a pixel as the encoder sees it, in units of 32
TRANSFORM_TOKENS = 60_000  # that the transform is computed from
START_TOKENS = 16_384  # that quantisers start from


@dataclass(frozen=True)
class Shape:
    """Sizes of the networks.

    Attributes:
        backbone, mask: the blocks of encoder and decoder, and the frames that they see: see backbones.py.
        patch: side of a token in pixels.
        channels: coefficients of a token that are coded.
        width, blocks: channels and blocks of encoder and decoder, each.
        prior_width, prior_blocks: those of the prior.
    """

    backbone: str = "shift"
    mask: str = "frame"
    patch: int = 16
    channels: int = 192
    width: int = 256
    blocks: int = 3
    prior_width: int = 192
    prior_blocks: int = 2


class Quantised(NamedTuple):
    """A quantiser's result for latents z, (..., channels).

    Attributes:
        seen: what decoder and prior see, of the order of 1, (..., sum of `Quantiser.groups`); with the gradient of a
            straight-through estimator.
        values: what takes the place of z in the linear path, (..., channels), likewise.
        symbols: the integers that are coded, int64 (..., symbols).
        loss: what is added to the loss of training, a scalar.
        latents: what was rounded, if the rate has a gradient in it.
    """

    seen: Tensor
    values: Tensor
    symbols: Tensor
    loss: Tensor
    latents: Tensor | None = None


class Quantiser(nn.Module):
    """The interface of a quantiser.

    Attributes:
        groups: numbers of what decoder and prior see, by groups whose symbols are coded together; a group is predicted
            from those before it.
        outputs: how many numbers the prior gives for each group of a token.
        start: what these numbers start from, by level, a parameter (LEVELS, sum of outputs).
        gains: whether steps follow the contrast of tokens, which is coded beside the symbols.
        in_loss: whether the rate's gradient reaches the encoder.
    """

    groups: tuple[int, ...]
    outputs: tuple[int, ...]
    start: nn.Parameter
    gains = False
    in_loss = False

    def forward(self, z: Tensor, level: int, classes: Tensor) -> Quantised:
        """Quantise.

        Args:
            z: in steps of the level, float32 (B, T, h, w, channels).
            level: 0 (coarsest)..LEVELS - 1.
            classes: of contrast, -3..3, (B, T, h, w).
        """
        raise NotImplementedError

    def begin(self, coefficients: Tensor) -> None:
        """Start from data, where the quantiser has what can: coefficients of training tokens, pixel values,
        (n, channels)."""

    def restored(self, symbols: Tensor, level: int, classes: Tensor) -> tuple[Tensor, Tensor]:
        """What a decoder makes of symbols, int64 (..., symbols): `Quantised.seen` and `Quantised.values`.

        The symbols of a group suffice for what is seen of it.
        """
        raise NotImplementedError

    def bits(self, q: Quantised, outputs: Tensor, level: int) -> Tensor:
        """Code length of each symbol that the level codes, (..., symbols). It depends on symbols before it at most.

        outputs: the prior's, `start` added, float32 (..., sum of outputs).
        """
        raise NotImplementedError

    def usage(self, symbols: Tensor, level: int) -> float:
        """The part of the alphabet that is used, 0..1: the perplexity of a symbol by its size, mean of the symbols.

        symbols: of many tokens, as in `Quantised`, (..., symbols).
        """
        raise NotImplementedError


def contrast(x: Tensor, patch: int) -> Tensor:
    """Classes of contrast of tokens, -3..3, (B, T, h, w) from (B, T, 3, H, W)."""
    return unrounded.contrast(x.flatten(0, 1), patch).unflatten(0, x.shape[:2])


def to_tokens(x: Tensor, patch: int) -> Tensor:
    """Frames (B, T, 3, H, W) to tokens (B, T, H / patch, W / patch, 3 patch**2)."""
    b, t, c, h, w = x.shape
    x = x.view(b, t, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(b, t, h // patch, w // patch, c * patch * patch)


def from_tokens(x: Tensor, patch: int) -> Tensor:
    """The inverse of `to_tokens`."""
    b, t, h, w, _ = x.shape
    x = x.view(b, t, h, w, 3, patch, patch).permute(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(b, t, 3, h * patch, w * patch)


@torch.no_grad()
def coefficients(sampler: Sampler, basis: Tensor, patch: int, seed: int) -> Tensor:
    """Coefficients of training photographs, float32 (n, columns of the basis), for a quantiser to start from."""
    crops = math.ceil(START_TOKENS / (128 // patch) ** 2)
    x = sampler.plain(np.random.default_rng([seed, 1]), crops, 128)[:, None].float() - MID_GRAY
    return to_tokens(x, patch).flatten(0, 3) @ basis


@torch.no_grad()
def transform(sampler: Sampler, patch: int, seed: int) -> tuple[Tensor, Tensor]:
    """The Karhunen-Loeve transform of training photographs: standard deviations, falling, (3 patch**2,), and basis,
    (3 patch**2, 3 patch**2), a column for each coefficient."""
    crops = math.ceil(TRANSFORM_TOKENS / (128 // patch) ** 2)
    x = to_tokens(sampler.plain(np.random.default_rng(seed), crops, 128)[:, None].float() - MID_GRAY, patch)
    x = x.flatten(0, 3)
    variance, basis = torch.linalg.eigh((x.T @ x).double() / len(x))
    return variance.flip(0).clamp(min=1e-3).sqrt().float(), basis.flip(1).float().contiguous()


class Autoencoder(nn.Module):
    """Encoder, quantiser, decoder and prior.

    Args:
        shape: their sizes.
        quantiser: for `shape.channels` channels.
        basis: of the transform.
    """

    def __init__(self, shape: Shape, quantiser: Quantiser, basis: Tensor):
        super().__init__()
        self.shape, self.quantiser = shape, quantiser
        pixels, c, k, cp = 3 * shape.patch**2, shape.width, shape.channels, shape.prior_width
        self.register_buffer("basis", basis[:, :k].clone())
        self.register_buffer("log2_steps", torch.tensor(LOG2_STEPS))
        self.basis: Tensor
        self.log2_steps: Tensor
        features, seen = LEVELS + 1, sum(quantiser.groups)
        self.e_in, self.e_feature = Mat(pixels, c), Mat(features, c)
        self.e_blocks = stack(shape.backbone, shape.mask, c, shape.blocks)
        self.e_norm, self.e_out = Norm(c), Mat(c, k, zero=True)
        self.d_in, self.d_feature = Mat(3 * seen, c), Mat(features, c)
        self.d_blocks = stack(shape.backbone, shape.mask, c, shape.blocks)
        self.d_norm, self.d_out = Norm(c), Mat(c, pixels, zero=True)

        phases = len(PHASES)
        self.p_known = nn.ModuleList(Mat(3 * seen, cp, std=0.02) for _ in range(phases - 1))
        self.p_past = Mat(phases * 3 * seen, cp, zero=True)
        self.p_phase = nn.Parameter(torch.randn(phases, cp) * 0.1)
        self.p_feature = Mat(phases * features, cp)
        self.p_blocks = nn.ModuleList(AttentionBlock(cp, WINDOW // 2 * (i % 2)) for i in range(shape.prior_blocks))
        self.p_norm, self.p_head = Norm(cp), Mat(cp, cp)
        self.p_seen = nn.ModuleList(Mat(3 * n, cp, std=0.02) for n in quantiser.groups[:-1])
        self.p_out = nn.ModuleList(Mat(cp, n, zero=True) for n in quantiser.outputs)

    def sparse(self) -> set[nn.Parameter]:
        """Heads, and matrices that see levels or symbols: a trainer treats them otherwise than other matrices."""
        heads = [self.e_out, self.d_out, self.e_feature, self.d_feature, self.p_feature, self.p_past]
        return {m.w for m in [*heads, *self.p_known, *self.p_seen, *self.p_out] if isinstance(m, Mat)}

    def forward(self, x: Tensor, level: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Quantised]:
        """Code groups of frames.

        Args:
            x: pixels 0..255, float32 (B, T, 3, H, W), sides multiples of a token's.
            level: 0 (coarsest)..LEVELS - 1.
            dtype: of the activations.

        Returns the decoded pixels, not bounded, the shape of x; the bits of each token, (B, T, h, w); and what the
        quantiser gave.
        """
        classes = contrast(x, self.shape.patch)
        features = self.features(classes * self.quantiser.gains, level, dtype)
        z = self.encode(x, features, level, dtype)
        q = self.quantiser(z, level, classes)
        seen, for_prior = q.seen, q.seen if self.quantiser.in_loss else q.seen.detach()
        outputs = self.prior(for_prior, features, dtype) + self.quantiser.start[level]
        bits = self.quantiser.bits(q, outputs, level).sum(-1)
        return self.decode(seen, q.values, features, level, dtype), bits, q

    def features(self, classes: Tensor, level: int, dtype: torch.dtype) -> Tensor:
        """What all networks are told of each token: its level and, if it is coded, its class, (B, T, h, w, 6)."""
        one_hot = torch.zeros(LEVELS, device=classes.device, dtype=dtype)
        one_hot[level] = 1
        return torch.cat([one_hot.expand(*classes.shape, LEVELS), classes.unsqueeze(-1).to(dtype)], -1)

    def encode(self, x: Tensor, features: Tensor, level: int, dtype: torch.dtype) -> Tensor:
        """Latents in steps of the level, float32 (B, T, h, w, channels)."""
        t = to_tokens(x - MID_GRAY, self.shape.patch)
        linear = (t @ self.basis) / 2 ** self.log2_steps[level]
        h = self.e_in(((t - t.mean(-1, keepdim=True)) / 32).clamp(-PIXEL_MAX, PIXEL_MAX).to(dtype))
        h = h + self.e_feature(features)
        for block in self.e_blocks:
            h = block(h)
        return linear + self.e_out(self.e_norm(h)).float()

    def decode(self, seen: Tensor, values: Tensor, features: Tensor, level: int, dtype: torch.dtype) -> Tensor:
        """Pixels, not bounded, (B, T, 3, H, W)."""
        h = self.d_in(views(seen).to(dtype)) + self.d_feature(features)
        for block in self.d_blocks:
            h = block(h)
        t = values @ self.basis.T + self.d_out(self.d_norm(h)).float()
        return from_tokens(t * 2 ** self.log2_steps[level], self.shape.patch) + MID_GRAY

    def prior(self, seen: Tensor, features: Tensor, dtype: torch.dtype) -> Tensor:
        """What the quantiser's `bits` take, float32 (B, T, h, w, sum of outputs), of which those of a token depend on
        the frame before, on tokens of earlier phases, and on earlier groups of the token."""
        b, t, height, width, _ = seen.shape
        pad = (0, 0, 0, width % 2, 0, height % 2)

        def to_cells(y: Tensor) -> Tensor:
            return cells(padded(y.flatten(0, 1), pad))

        v = views(seen).to(dtype)
        c = to_cells(v)
        base = self.p_feature(to_cells(features).flatten(3))
        if t > 1:
            past = before(v, 1)[:, :t]
            base = base + self.p_past(to_cells(past).flatten(3))
        known = [torch.zeros_like(base)]
        for see, phase in zip(self.p_known, c.unbind(3)[:-1], strict=True):
            known.append(known[-1] + see(phase))
        x = base.unsqueeze(3) + torch.stack(known, 3) + self.p_phase.to(dtype)
        for block in self.p_blocks:
            x = block(x)
        total = self.p_head(self.p_norm(x))
        groups = c.unflatten(-1, (3, -1)).split(self.quantiser.groups, -1)
        out = []
        for i, head in enumerate(self.p_out):
            out.append(head(F.relu(total)))
            if i < len(groups) - 1:
                total = total + self.p_seen[i](groups[i].flatten(-2))
        result = uncells(torch.cat(out, -1))[:, :height, :width]
        return result.unflatten(0, (b, t)).float()
