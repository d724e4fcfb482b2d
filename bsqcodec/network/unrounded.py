"""The networks in real numbers: what is trained, the encoder, and what the encoder's search descends through.

Decoder and prior are those of tokenizer.py and prior.py without their rounding; export.py makes one of the other. The
stages of a frame stand apart, so that each can be called alone:

    frame = network.condition(pixels, ...)      what all others go by
    y = network.coefficients(frame)             real numbers, in quantiser steps
    q = network.quantise(y, frame)              integers
    mean, scale = network.prior(q, frame)       of each coefficient's distribution
    bits = network.bits(y, q, mean, scale, frame)
    pixels = network.decode(q, frame)

Matrix products, and what lies between them, take the type that `condition` is given: bfloat16 in training. All grids
are channels-last.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .patches import (
    PHASES,
    RINGED,
    TOKEN,
    cells,
    merge,
    overlap,
    padded,
    patches,
    quarter,
    quarters,
    rings,
    split,
    uncells,
    unpatch,
)
from .quantiser import COEFFICIENTS, GAMMA, GROUPS, TABLE_ROWS, groups

FEATURES = 7  # mean / 32, class of contrast, level, 1, predicted, tune, B frame
FREQUENCY_WEIGHT = 0.3  # exponent of the frequency weights in the perceptual tune; the other has none
FINE_MLP, MLP = 3, 4  # hidden channels of a block, in its width
WINDOW = 4  # of attention, in cells of 2x2 tokens
HEAD = 32  # channels of an attention head
ACT_MAX = 127 / 32  # of an activation; the integer networks hold it in int8 with 5 fractional bits
PATCH_MAX = 8  # of a pixel in units of the contrast
MID_GRAY = 128
# A coefficient is rounded away from 0 from .5 + dead zone on: I, P, B frames
DEAD_ZONE = (0.08, 0.14, 0.14)
SLOPE = 5.0  # of the sigmoid that stands for a threshold in the rate's gradient
SCALE_MIN, SCALE_MAX = -5, 9  # of log2 of a distribution's scale
LIKELY_MIN = 1e-9


class Frame(NamedTuple):
    """Frames of one shape, and what encoder, prior and decoder go by. h, w = H / 16, W / 16.

    Attributes:
        frame_type: 0 I, 1 P, 2 B frame, int64 (B,).
        tune: 0 perceptual, 1 psnr, int64 (B,).
        log2_step: of the quantiser step, in pixel values, of a token of class 0, (B,).
        features: the conditioning of every token, (B, h, w, FEATURES).
        step: quantiser step of every token, in pixel values, (B, h, w, 1).
        unit: what brings pixels of a token to the unit of its contrast, 2**(-3 - class / 2), (B, h, w, 1).
        weight: of every coded coefficient, by its frequency, (B, 1, 1, n_coded).
        source: the pixels, from mid-gray, (B, h, w, 768).
        prediction: likewise; None for I frames.
        views: of the prediction's coefficients, of the type of the activations, (B, h, w, 3 * n_coded); None for I
            frames, and where nothing but the encoder is asked for.
        dtype: of the activations.
    """

    frame_type: Tensor
    tune: Tensor
    log2_step: Tensor
    features: Tensor
    step: Tensor
    unit: Tensor
    weight: Tensor
    source: Tensor
    prediction: Tensor | None
    views: Tensor | None
    dtype: torch.dtype

    @property
    def n_coded(self) -> int:
        """Coefficients of a token that are coded; the others are 0."""
        return self.weight.shape[-1]


def contrast(x: Tensor) -> Tensor:
    """Class of contrast of each token, round(log2((sigma + 2) / 16)) within -3..3, (B, H/16, W/16) from (B, 3, H, W).

    sigma: standard deviation of the mean of R, G and B, in pixel values.
    """
    g = x.mean(1, keepdim=True)
    v = F.avg_pool2d(g * g, TOKEN) - F.avg_pool2d(g, TOKEN) ** 2
    return torch.log2((v.clamp(min=0).sqrt().squeeze(1) + 2) / 16).round().clamp(-3, 3)


class _Views(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        ctx.save_for_backward(y)
        return torch.cat([y.clamp(-1, 1), (y / 4).clamp_(-1, 1), (y / 20).clamp_(-2, 2)], -1)

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        size = y.abs()
        one, four, twenty = g.chunk(3, -1)
        g = torch.addcmul(one * (size <= 1), four, size <= 4, value=1 / 4)
        return g.addcmul_(twenty, size <= 40, value=1 / 20)


def views(y: Tensor) -> Tensor:
    """Three bounded views of values in quantiser steps, (..., C) to (..., 3 C), within +-2."""
    return _Views.apply(y)


def bounded(x: Tensor, low: float = -ACT_MAX, high: float = ACT_MAX) -> Tensor:
    """As `clamp`, whose gradient takes five kernels where this one's takes one; it is 0 at the bounds."""
    return F.hardtanh(x, low, high)


def information(v: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """Bits of integers v, -log2 of their probability, under logistic distributions of those means and 1 / scales."""
    d = -(v - mean).abs()
    p = torch.sigmoid((d + 0.5) * inverse) - torch.sigmoid((d - 0.5) * inverse)
    return -torch.log2(p.clamp(min=LIKELY_MIN))


class _L1Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        d = torch.rsub(torch.linalg.vector_norm(x, 1, -1, keepdim=True), 1e-3, alpha=-1 / len(w))  # mean |x| + .001
        n = x / d
        ctx.save_for_backward(n, d, w)
        return n.clamp(-ACT_MAX, ACT_MAX).mul_(w)

    @staticmethod
    def backward(ctx, g):
        n, d, w = ctx.saved_tensors
        g = torch.ops.aten.hardtanh_backward(g, n, -ACT_MAX, ACT_MAX)
        p = g * n
        total = (p @ w).unsqueeze(-1)
        return g.mul_(w).addcmul_(torch.sign(n), total, value=-1 / len(w)).div_(d), p.flatten(0, -2).sum(0)


class Norm(nn.Module):
    """w x / mean |x| over the channels.

    From w = .4 the early steps of a training are stable: from 1 they lose 5 % (I frames) to 14 % (P) after 90 steps.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.w = nn.Parameter(torch.full((channels,), 0.4))

    def forward(self, x: Tensor) -> Tensor:
        return _L1Norm.apply(x, self.w.to(x.dtype))


class Mat(nn.Module):
    """A matrix product. Without `zero` its weights start with the standard deviation `std`, else n_in**-.5."""

    def __init__(self, n_in: int, n_out: int, zero: bool = False, std: float | None = None):
        super().__init__()
        start = torch.zeros(n_out, n_in) if zero else torch.randn(n_out, n_in) * (std or n_in**-0.5)
        self.w = nn.Parameter(start)

    def forward(self, x: Tensor, n_coded: int | None = None) -> Tensor:
        """n_coded: x is the three views of so many coefficients, where the matrix sees those of all."""
        w: Tensor = self.w
        if n_coded is not None and n_coded < COEFFICIENTS:
            w = w.view(len(w), 3, COEFFICIENTS)[:, :, :n_coded].reshape(len(w), 3 * n_coded)
        return F.linear(x, w.to(x.dtype))


class _Shift(torch.autograd.Function):
    """Nine groups of channels, each moved by one token in one of nine directions; 0 comes in at the border."""

    @staticmethod
    def run(x, sign):
        _, h, w, c = x.shape
        n, rest = c // 9, c % 9
        groups = F.pad(x, (0, 0, 1, 1, 1, 1)).split([n] * 4 + [n + rest] + [n] * 4, -1)
        places = [(1 + sign * i, 1 + sign * j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        return torch.cat([t[:, y : y + h, z : z + w] for t, (y, z) in zip(groups, places)], -1)

    @staticmethod
    def forward(ctx, x):
        return _Shift.run(x, 1)

    @staticmethod
    def backward(ctx, g):
        return _Shift.run(g, -1)


class ShiftBlock(nn.Module):
    """Norm, shift, MLP with ReLU; hidden layer of so many times the width."""

    def __init__(self, channels: int, mlp: int):
        super().__init__()
        self.n, self.a = Norm(channels), Mat(channels, mlp * channels)
        self.b = Mat(mlp * channels, channels, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(bounded(self.a(_Shift.apply(self.n(x))), 0))


class _Attend(torch.autograd.Function):
    """Means of v, weighted by max(0, 1 + (s - max s) / 16)**2; no gradient passes the maximum."""

    @staticmethod
    def forward(ctx, s, v):
        root = torch.rsub(s - s.amax(-1, keepdim=True), 1, alpha=-1 / 16).clamp_(min=0)
        weights = root * root
        total = weights.sum(-1, keepdim=True)
        mean = (weights @ v).div_(total)
        ctx.save_for_backward(root, total, mean, v)
        return mean

    @staticmethod
    def backward(ctx, g):
        root, total, mean, v = ctx.saved_tensors
        g = g / total
        by_weight = (g @ v.mT).sub_((g * mean).sum(-1, keepdim=True))
        return by_weight.mul_(root).div_(8), (root * root).mT @ g


class AttentionBlock(nn.Module):
    """Attention in windows of 4x4 cells of four tokens, causal in the phases, beside an MLP: one product in, one out.

    In place of exp(s) the weights are max(0, 1 + (s - max s) / 16)**2, which integers compute exactly.

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
        """x: (B, cells, cells, 4, C)."""
        b, h, w, p, c = x.shape
        win, d, n, o = WINDOW, HEAD, WINDOW * WINDOW * p, self.offset
        qkv, u = self.a(self.n(x)).split([3 * c, MLP * c], -1)
        qkv, u = bounded(qkv), bounded(u, 0)
        py, px = (-h - o) % win, (-w - o) % win
        t = padded(qkv, (0, 0, 0, 0, o, px, o, py))
        rows, columns = t.shape[1] // win, t.shape[2] // win
        t = t.view(b, rows, win, columns, win, p, 3, self.heads, d).permute(6, 0, 1, 3, 7, 2, 4, 5, 8)
        q, k, v = t.reshape(3, b * rows * columns * self.heads, n, d).unbind(0)
        bias = self.bias[:, self.index].masked_fill(self.future, -1e4).to(x.dtype)
        s = (q @ k.transpose(1, 2)).view(b, rows * columns, self.heads, n, n) + bias
        if o or py or px:
            outside = F.pad(torch.zeros(h, w, device=x.device), (o, px, o, py), value=-1e4)
            outside = outside.view(rows, win, columns, win).permute(0, 2, 1, 3).reshape(-1, 1, 1, win * win, 1)
            s = s + outside.expand(-1, 1, 1, win * win, p).reshape(rows * columns, 1, 1, n).to(x.dtype)
        t = (
            _Attend.apply(s.view(-1, n, n), v)
            .view(b, rows, columns, self.heads, win, win, p, d)
            .permute(0, 1, 4, 2, 5, 6, 3, 7)
        )
        t = t.reshape(b, rows * win, columns * win, p, c)[:, o : o + h, o : o + w]
        return x + self.b(torch.cat([t, u], -1))


class Unrounded(nn.Module):
    """Encoder (names that begin with e), decoder (d) and prior (p) of a model.

    Transform and frequency weights are 0 until `initialise`, or a state, sets them.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        c1, c2, cp, head, k = config.fine_width, config.width, config.prior_width, config.prior_head, COEFFICIENTS
        self.register_buffer("basis", torch.zeros(k, k))  # pixels of a token by coefficients
        self.register_buffer("frequency", torch.zeros(k))
        self.basis: Tensor
        self.frequency: Tensor

        def fine() -> nn.ModuleList:
            return nn.ModuleList(ShiftBlock(c1, FINE_MLP) for _ in range(config.fine_blocks))

        def coarse() -> nn.ModuleList:
            return nn.ModuleList(ShiftBlock(c2, MLP) for _ in range(config.blocks))

        self.e_in, self.e_residual, self.e_feature = Mat(192, c1), Mat(192, c1, zero=True), Mat(FEATURES, c1)
        self.e8, self.e_merge, self.e16 = fine(), Mat(4 * c1, c2), coarse()
        self.e_norm, self.e_out = Norm(c2), Mat(c2, k, zero=True)

        self.d_in, self.d_prediction, self.d_feature = Mat(3 * k, c2), Mat(3 * k, c2, zero=True), Mat(FEATURES, c2)
        self.d16, self.d_norm, self.d_split = coarse(), Norm(c2), Mat(c2, 4 * c1)
        self.d_pixels, self.d_reference = Mat(RINGED, c1), Mat(RINGED, c1, zero=True)
        self.d8, self.d_last, self.d_out = fine(), Norm(c1), Mat(c1, RINGED, zero=True)

        phases = len(PHASES)
        self.p_known = nn.ModuleList(Mat(3 * k, cp, std=0.02) for _ in range(phases - 1))
        self.p_prediction = nn.ModuleList(Mat(3 * k, cp, zero=True) for _ in range(phases))
        self.p_phase = nn.Parameter(torch.randn(phases, cp) * 0.1)
        self.p_feature = Mat(phases * FEATURES, cp)
        self.prior16 = nn.ModuleList(AttentionBlock(cp, WINDOW // 2 * (i % 2)) for i in range(config.prior_blocks))
        self.p_norm, self.p_head = Norm(cp), Mat(cp, head)
        self.p_seen = nn.ModuleList(Mat(3 * g, head, std=0.02) for g in GROUPS[:-1])
        self.p_out = nn.ModuleList(Mat(head, 2 * g, zero=True) for g in GROUPS)
        # by frame type, tune and step: means, then log2 of scales
        self.p_bias = nn.Parameter(torch.zeros(3, 2, TABLE_ROWS, 2 * k))

    def sparse(self) -> set[nn.Parameter]:
        """Matrices that see bits and features, or whose outputs start at 0."""
        found = [self.e_out, self.d_out, self.e_feature, self.d_feature, self.p_feature, self.d_prediction]
        lists = [self.p_out, self.p_known, self.p_seen, self.p_prediction]
        return {m.w for m in [*found, *(m for some in lists for m in some)]}  # type: ignore[union-attr, misc]

    def forward(
        self, x: Tensor, log2_step: Tensor, tune: Tensor, prediction: Tensor | None = None,
        b_frame: Tensor | None = None, n_coded: int = COEFFICIENTS, soft: bool = False, dtype: torch.dtype = torch.bfloat16,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Code frames: the decoded pixels, neither rounded nor bounded, (B, 3, H, W), and bits a pixel, (B,).

        The arguments are those of `condition`; `soft` is that of `bits`. The picture's gradient passes the quantiser
        as if it were not there.
        """
        frame = self.condition(x, log2_step, tune, prediction, b_frame, n_coded, dtype)
        y = self.coefficients(frame)
        q = self.quantise(y, frame)
        through = y + (q - y).detach()
        mean, scale = self.prior(through, frame)
        rate = self.bits(y, q, mean, scale, frame, soft)
        return self.decode(through, frame), rate.sum((1, 2, 3)) / (x.shape[2] * x.shape[3])

    @torch.no_grad()
    def reconstruct(
        self, x: Tensor, log2_step: Tensor, tune: Tensor, prediction: Tensor | None = None,
        b_frame: Tensor | None = None, n_coded: int = COEFFICIENTS, dtype: torch.dtype = torch.bfloat16,
    ) -> Tensor:  # fmt: skip
        """The pixels that `forward` gives, without what the rate takes."""
        frame = self.condition(x, log2_step, tune, prediction, b_frame, n_coded, dtype)
        return self.decode(self.quantise(self.coefficients(frame), frame), frame)

    def condition(
        self, x: Tensor, log2_step: Tensor, tune: Tensor, prediction: Tensor | None = None,
        b_frame: Tensor | None = None, n_coded: int = COEFFICIENTS, dtype: torch.dtype = torch.bfloat16,
        classes: Tensor | None = None, encode_only: bool = False,
    ) -> Frame:  # fmt: skip
        """What all other stages go by.

        Args:
            x: pixels 0..255, float (B, 3, H, W), H and W multiples of 16.
            log2_step: log2 of the quantiser step, in pixel values, of a token of class 0, 1..9, (B,).
            tune: 0 perceptual, 1 psnr, (B,).
            prediction: pixels 0..255 like x; None for I frames.
            b_frame: 1 where the prediction is that of a B frame, else 0, (B,). None: nowhere.
            n_coded: coefficients that are coded, the same for all frames: a sum of the first of GROUPS.
            dtype: of the activations.
            classes: of contrast, (B, H/16, W/16), where they are known; else those of the prediction, or of x if there
                is none.
            encode_only: leave out `views`, which the encoder does not look at.
        """
        predicted = prediction is not None
        perceptual = (tune < 0.5).float()[:, None, None]
        if classes is None:
            classes = contrast(x if prediction is None else prediction)
        c = classes.to(x.dtype)
        gamma = GAMMA[1] + (GAMMA[0] - GAMMA[1]) * perceptual
        step = 2 ** (log2_step[:, None, None] + gamma * c).unsqueeze(-1)
        weight = 2 ** (perceptual.unsqueeze(-1) * FREQUENCY_WEIGHT * self.frequency[:n_coded])
        source = patches(x - MID_GRAY)
        known = None if prediction is None else patches(prediction - MID_GRAY)
        mean = (source if known is None else known).mean(-1)
        one = torch.ones_like(c)
        level = ((log2_step - 5.5) / 1.5)[:, None, None].expand_as(c)
        is_b = torch.zeros_like(c) if b_frame is None else b_frame[:, None, None].expand_as(c)
        psnr = (1 - perceptual).expand_as(c)
        features = torch.stack([mean / 32, c, level, one, one * predicted, psnr, is_b], -1)
        frame_type = torch.full_like(tune, float(predicted)) + (0 if b_frame is None else b_frame)
        seen = None
        if known is not None and not encode_only:
            seen = views((known @ self.basis[:, :n_coded]) / (step * weight)).to(dtype)
        return Frame(
            frame_type.long(), tune.long(), log2_step, features, step, 2 ** -((c / 2 + 3).unsqueeze(-1)), weight,
            source, known, seen, dtype,
        )  # fmt: skip

    def coefficients(self, frame: Frame) -> Tensor:
        """The encoder: what is to be quantised, in quantiser steps, (B, H/16, W/16, n_coded)."""
        k, dtype = frame.n_coded, frame.dtype
        if frame.prediction is None:
            mean, d = frame.source.mean(-1, keepdim=True), frame.source
        else:
            mean, d = frame.prediction.mean(-1, keepdim=True), frame.source - frame.prediction
        z = self.e_in(quarters(((frame.source - mean) * frame.unit).clamp(-PATCH_MAX, PATCH_MAX).to(dtype)))
        z = z + quarter(self.e_feature(frame.features.to(dtype)))
        if frame.prediction is not None:
            z = z + self.e_residual(quarters((d * frame.unit).clamp(-PATCH_MAX, PATCH_MAX).to(dtype)))
        for block in self.e8:
            z = block(z)
        z = self.e_merge(merge(z))
        for block in self.e16:
            z = block(z)
        linear = (d @ self.basis[:, :k]) / (frame.step * frame.weight)
        return linear + F.linear(self.e_norm(z), self.e_out.w[:k].to(dtype)).float()

    @staticmethod
    def quantise(y: Tensor, frame: Frame) -> Tensor:
        """Integers, the shape of y; without a gradient."""
        return torch.sign(y) * torch.floor(y.abs() + 0.5 - _dead_zone(frame))

    @staticmethod
    def bits(y: Tensor, q: Tensor, mean: Tensor, scale: Tensor, frame: Frame, soft: bool = False) -> Tensor:
        """What the integers q cost under the distributions of the prior, in bits, the shape of y.

        soft: the result has a gradient in y, too. A coefficient has two thresholds next to it, each a sigmoid here;
        crossing it costs, or saves, so many bits. The value stays that of q.
        """
        q = q.detach()
        inverse = torch.exp2(-bounded(scale, SCALE_MIN, SCALE_MAX))
        rate = information(q, mean, inverse)
        if not soft:
            return rate
        with torch.no_grad():
            away = torch.sign(torch.where(q == 0, y, q))
            more = information(q + away, mean, inverse) - rate
            less = rate - information(q - away * (q != 0), mean, inverse)
        n, dead = q.abs(), _dead_zone(frame)
        s = more * torch.sigmoid(SLOPE * (y.abs() - (n + 0.5 + dead)))
        s = s - less * torch.sigmoid(SLOPE * (n - 0.5 + dead - y.abs()))
        return rate + s - s.detach()

    def decode(self, q: Tensor, frame: Frame) -> Tensor:
        """Pixels, neither rounded nor bounded to 0..255, (B, 3, H, W); q: (B, H/16, W/16, n_coded)."""
        k, dtype = frame.n_coded, frame.dtype
        linear = ((q * frame.weight) @ self.basis[:, :k].T) * frame.step
        if frame.prediction is not None:
            linear = linear + frame.prediction
        mean = linear.mean(-1, keepdim=True)
        z = self.d_in(views(q).to(dtype), k)
        z = z + self.d_feature(torch.cat([mean / 32, frame.features[..., 1:]], -1).to(dtype))
        if frame.views is not None:
            z = z + self.d_prediction(frame.views, k)
        for block in self.d16:
            z = block(z)
        z = split(self.d_split(self.d_norm(z)))

        def ringed(t: Tensor) -> Tensor:
            t = (rings(unpatch(t)) - quarter(mean)) * quarter(frame.unit)
            return bounded(t, -PATCH_MAX, PATCH_MAX).to(dtype)

        z = z + self.d_pixels(ringed(linear))
        if frame.prediction is not None:
            z = z + self.d_reference(ringed(frame.prediction))
        for block in self.d8:
            z = block(z)
        correction = self.d_out(self.d_last(z)).float() * quarter(frame.step)
        return unpatch(linear) + overlap(correction) + MID_GRAY

    def prior(self, q: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
        """Mean, in quantiser steps, and log2 of the scale of every coefficient's logistic distribution, both the shape
        of q, (B, H/16, W/16, n_coded); each sees of q what is coded before it."""
        k, dtype = frame.n_coded, frame.dtype
        _, height, width, _ = q.shape
        pad = (0, 0, 0, width % 2, 0, height % 2)
        # of an I frame no mean is known before its coefficients
        means = frame.features[..., :1] * (frame.prediction is not None)
        f = torch.cat([means, frame.features[..., 1:]], -1)
        c = cells(padded(views(q), pad).to(dtype))
        base = self.p_feature(cells(padded(f, pad).to(dtype)).flatten(3))
        if frame.views is not None:
            r = cells(padded(frame.views, pad))
            for see, phase in zip(self.p_prediction, r.unbind(3)):
                base = base + see(phase, k)
        known = [torch.zeros_like(base)]
        for see, phase in zip(self.p_known, c.unbind(3)):
            known.append(known[-1] + see(phase, k))
        x = base.unsqueeze(3) + torch.stack(known, 3) + self.p_phase.to(dtype)
        for block in self.prior16:
            x = block(x)
        t = self.p_head(self.p_norm(x))
        seen = c.unflatten(-1, (3, k)).split([place.stop - place.start for place in groups(k)], -1)
        out = []
        for i, values in enumerate(seen):
            out.append(self.p_out[i](F.relu(t)).unflatten(-1, (2, -1)))
            if i < len(seen) - 1:
                t = t + self.p_seen[i](values.flatten(-2))
        result = uncells(torch.cat(out, -1).flatten(-2))[:, :height, :width]
        result = result.unflatten(-1, (2, k)) + self._bias(frame).view(-1, 1, 1, 2, k)
        return result.unbind(-2)  # type: ignore[return-value]

    def _bias(self, frame: Frame) -> Tensor:
        """What means and scales start from, (B, 2, n_coded)."""
        at = ((frame.log2_step - 1) / 0.8).clamp(0, TABLE_ROWS - 1)
        low = at.floor().long().clamp(max=TABLE_ROWS - 2)
        part = (at - low).view(-1, 1, 1)
        table = self.p_bias.view(3, 2, TABLE_ROWS, 2, COEFFICIENTS)[..., : frame.n_coded]
        kind, tune = frame.frame_type, frame.tune
        return table[kind, tune, low] * (1 - part) + table[kind, tune, low + 1] * part


def _dead_zone(frame: Frame) -> float:
    return DEAD_ZONE[0 if frame.prediction is None else 1]


@torch.no_grad()
def karhunen_loeve(photos: Tensor) -> tuple[Tensor, Tensor]:
    """The transform whose coefficients are uncorrelated over the tokens of photographs, mid-gray taken off.

    photos: pixels 0..255 of any type, (N, 3, H, W), sides multiples of 16. Returns the variance of each coefficient in
    falling order, (768,), and the basis, (768, 768), a column a coefficient; both float32 where `photos` is.
    """
    total = torch.zeros(COEFFICIENTS, COEFFICIENTS, dtype=torch.float64, device=photos.device)
    tokens = 0
    for photo in photos.split(1):
        x = patches(photo.float() - MID_GRAY).flatten(0, 2)
        total += (x.T @ x).double()
        tokens += len(x)
    variance, basis = torch.linalg.eigh(total / tokens)
    return variance.flip(0).float(), basis.flip(1).float().contiguous()


@torch.no_grad()
def initialise(network: Unrounded, basis: Tensor, variance: Tensor) -> None:
    """Set the transform, the frequency of its coefficients, and the scales that the prior starts from.

    basis, variance: those of `karhunen_loeve`. A coefficient's frequency is the mean of the radius in the plane of
    16x16 frequencies, 0..22, weighted by energy; kept as log2((1 + f) / 3).
    """
    device = network.basis.device
    basis, variance = basis.to(device), variance.to(device)
    network.basis.copy_(basis)
    i = torch.arange(TOKEN)
    dct = torch.cos(math.pi * (i + 0.5) * i[:, None] / TOKEN) * torch.where(i == 0, 0.25, 8**-0.5)[:, None]
    dct, radius = dct.to(device), (i[:, None] ** 2 + i**2).float().sqrt().to(device)
    energy = torch.einsum("ia,kcab,jb->kcij", dct, basis.T.reshape(-1, 3, TOKEN, TOKEN), dct) ** 2
    network.frequency.copy_(torch.log2((1 + (energy * radius).sum((1, 2, 3))) / 3))
    levels = 1 + torch.arange(TABLE_ROWS, device=device)[:, None] * 0.8  # log2 of the steps of the table's rows
    less = torch.tensor([0, 2.5, 3.0], device=device)[:, None, None]  # residuals of P and B frames are smaller
    for tune, exponent in enumerate((FREQUENCY_WEIGHT, 0.0)):
        spread = torch.log2(variance.clamp(min=1e-3).sqrt()) - exponent * network.frequency
        row = (spread[None] - levels).clamp(-4, 7)
        network.p_bias[:, tune, :, COEFFICIENTS:] = row - less
