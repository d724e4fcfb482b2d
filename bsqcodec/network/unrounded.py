"""The networks in real numbers: what is trained, the encoder, and what the encoder's search descends through.

Decoder and prior are those of tokenizer.py and prior.py without their rounding; export.py makes one of the other. The
stages of a batch of frames stand apart, so that each can be called alone:

    batch = network.prepare(pixels, ...)        what all others go by
    y = network.coefficients(batch)             real numbers, in quantiser steps
    q = network.quantise(y, batch)              integers
    mean, scale = network.prior(q, batch)       of each coefficient's distribution
    bits = network.bits(y, q, mean, scale, batch)
    pixels = network.decode(q, batch)

Matrix products, and what lies between them, take the type that `prepare` is given: bfloat16 in training. All grids
are channels-last.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import WINDOW
from .config import ModelConfig
from .patches import (
    PATCH_VALUES,
    PHASES,
    RINGED_VALUES,
    TOKEN,
    cells,
    from_tokens,
    merge,
    overlap,
    padded,
    per_patch,
    rings,
    split,
    to_patches,
    to_tokens,
    uncells,
)
from .quantiser import COEFFICIENTS, GROUPS, TABLE_ROWS, groups
from .quantiser_tables import FREQUENCY_EXPONENT, GAMMA, LEVEL_CENTRE, LEVEL_SPREAD
from .tokenizer import FEATURES, MID_GRAY
from .unrounded_layers import AttentionBlock, Mat, Norm, ShiftBlock, bounded, views

FINE_MLP, COARSE_MLP = 3, 4  # hidden channels of a shift block, in its width: on patches, on tokens
PATCH_MAX = 8  # bound of a pixel in units of the contrast
MEAN_UNIT = 32  # pixel values: unit of a token's mean, as a feature
LOWEST_LOG2_STEP, ROW_OCTAVES = 1, 0.8  # of the first row of the prior's table, and from row to row
DEAD_ZONE = (0.08, 0.14)  # a coefficient is rounded away from 0 from .5 + this on: of I frames, of P and B frames
SLOPE = 5.0  # of the sigmoid that stands for a threshold in the rate's gradient
SCALE_MIN, SCALE_MAX = -5, 9  # of log2 of a distribution's scale
PROBABILITY_MIN = 1e-9  # so that no integer costs infinitely many bits


class Batch(NamedTuple):
    """Frames of one shape, and what encoder, prior and decoder know of them. h, w = H / 16, W / 16.

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


def contrast(x: Tensor, side: int = TOKEN) -> Tensor:
    """Class of contrast of each token, round(log2((sigma + 2) / 16)) within -3..3, (B, H/16, W/16) from (B, 3, H, W).

    sigma: standard deviation of the mean of R, G and B, in pixel values. side: of a token in pixels.
    """
    g = x.mean(1, keepdim=True)
    v = F.avg_pool2d(g * g, side) - F.avg_pool2d(g, side) ** 2
    return torch.log2((v.clamp(min=0).sqrt().squeeze(1) + 2) / 16).round().clamp(-3, 3)


def information(v: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """Bits of integers v, -log2 of their probability, under logistic distributions of those means and 1 / scales."""
    d = -(v - mean).abs()
    p = torch.sigmoid((d + 0.5) * inverse) - torch.sigmoid((d - 0.5) * inverse)
    return -torch.log2(p.clamp(min=PROBABILITY_MIN))


def quantise(y: Tensor, dead_zone: float) -> Tensor:
    """Round to integers away from 0 only from a fraction of .5 + `dead_zone` on; without a gradient."""
    return torch.sign(y) * torch.floor(y.abs() + 0.5 - dead_zone)


def code_length(y: Tensor, q: Tensor, mean: Tensor, scale: Tensor, dead_zone: float, soft: bool = False) -> Tensor:
    """Bits of the integers q, to which y was rounded, under logistic distributions, the shape of y.

    mean, scale: in quantiser steps, and log2 of it. soft: the result has a gradient in y, too. A coefficient has two
    thresholds next to it, each a sigmoid here; crossing it costs, or saves, so many bits. The value stays that of q.
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
    n = q.abs()
    s = more * torch.sigmoid(SLOPE * (y.abs() - (n + 0.5 + dead_zone)))
    s = s - less * torch.sigmoid(SLOPE * (n - 0.5 + dead_zone - y.abs()))
    return rate + s - s.detach()


class Unrounded(nn.Module):
    """Encoder (names that begin with e), decoder (d) and prior (p) of a model; a model file has these names.

    Encoder and decoder have blocks on tokens (e16, d16) and on their patches (e8, d8), the prior on cells of tokens.
    Transform and frequency weights are 0 until `initialise`, or a state, sets them.

    Args:
        config: sizes of the networks.
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
            return nn.ModuleList(ShiftBlock(c2, COARSE_MLP) for _ in range(config.blocks))

        self.e_in, self.e_residual = Mat(PATCH_VALUES, c1), Mat(PATCH_VALUES, c1, zero=True)
        self.e_feature = Mat(FEATURES, c1)
        self.e8, self.e_merge, self.e16 = fine(), Mat(4 * c1, c2), coarse()
        self.e_norm, self.e_out = Norm(c2), Mat(c2, k, zero=True)

        self.d_in, self.d_prediction, self.d_feature = Mat(3 * k, c2), Mat(3 * k, c2, zero=True), Mat(FEATURES, c2)
        self.d16, self.d_norm, self.d_split = coarse(), Norm(c2), Mat(c2, 4 * c1)
        self.d_pixels, self.d_reference = Mat(RINGED_VALUES, c1), Mat(RINGED_VALUES, c1, zero=True)
        self.d8, self.d_last, self.d_out = fine(), Norm(c1), Mat(c1, RINGED_VALUES, zero=True)

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
        """Matrices whose inputs are mostly 0 (coefficients, features), and heads: a trainer treats them otherwise."""
        single = [self.e_out, self.d_out, self.e_feature, self.d_feature, self.p_feature, self.d_prediction]
        several = [*self.p_out, *self.p_known, *self.p_seen, *self.p_prediction]
        return {m.w for m in [*single, *several] if isinstance(m, Mat)}

    def forward(
        self, x: Tensor, log2_step: Tensor, tune: Tensor, prediction: Tensor | None = None,
        b_frame: Tensor | None = None, n_coded: int = COEFFICIENTS, soft: bool = False,
        dtype: torch.dtype = torch.bfloat16,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Code frames: the decoded pixels, neither rounded nor bounded, (B, 3, H, W), and bits per pixel, (B,).

        The arguments are those of `prepare`; `soft` is that of `bits`. The picture's gradient passes the quantiser
        as if it were not there.
        """
        batch = self.prepare(x, log2_step, tune, prediction, b_frame, n_coded, dtype)
        y = self.coefficients(batch)
        q = self.quantise(y, batch)
        through = y + (q - y).detach()
        mean, scale = self.prior(through, batch)
        rate = self.bits(y, q, mean, scale, batch, soft)
        return self.decode(through, batch), rate.sum((1, 2, 3)) / (x.shape[2] * x.shape[3])

    @torch.no_grad()
    def reconstruct(
        self, x: Tensor, log2_step: Tensor, tune: Tensor, prediction: Tensor | None = None,
        b_frame: Tensor | None = None, n_coded: int = COEFFICIENTS, dtype: torch.dtype = torch.bfloat16,
    ) -> Tensor:  # fmt: skip
        """The pixels that `forward` gives, without the work that the rate takes."""
        batch = self.prepare(x, log2_step, tune, prediction, b_frame, n_coded, dtype)
        return self.decode(self.quantise(self.coefficients(batch), batch), batch)

    def prepare(
        self, x: Tensor, log2_step: Tensor, tune: Tensor, prediction: Tensor | None = None,
        b_frame: Tensor | None = None, n_coded: int = COEFFICIENTS, dtype: torch.dtype = torch.bfloat16,
        classes: Tensor | None = None, encode_only: bool = False,
    ) -> Batch:  # fmt: skip
        """Bring frames to the form that all other stages take.

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
        weight = 2 ** (perceptual.unsqueeze(-1) * FREQUENCY_EXPONENT[0] * self.frequency[:n_coded])
        source = to_tokens(x - MID_GRAY)
        known = None if prediction is None else to_tokens(prediction - MID_GRAY)
        mean = (source if known is None else known).mean(-1)
        one = torch.ones_like(c)
        level = ((log2_step - LEVEL_CENTRE) / LEVEL_SPREAD)[:, None, None].expand_as(c)
        is_b = torch.zeros_like(c) if b_frame is None else b_frame[:, None, None].expand_as(c)
        psnr = (1 - perceptual).expand_as(c)
        features = torch.stack([mean / MEAN_UNIT, c, level, one, one * predicted, psnr, is_b], -1)
        frame_type = torch.full_like(tune, float(predicted)) + (0 if b_frame is None else b_frame)
        seen = None
        if known is not None and not encode_only:
            seen = views((known @ self.basis[:, :n_coded]) / (step * weight)).to(dtype)
        return Batch(
            frame_type.long(), tune.long(), log2_step, features, step, 2 ** -((c / 2 + 3).unsqueeze(-1)), weight,
            source, known, seen, dtype,
        )  # fmt: skip

    def coefficients(self, batch: Batch) -> Tensor:
        """The encoder: what is to be quantised, in quantiser steps, (B, H/16, W/16, n_coded)."""
        k, dtype = batch.n_coded, batch.dtype
        if batch.prediction is None:
            mean, d = batch.source.mean(-1, keepdim=True), batch.source
        else:
            mean, d = batch.prediction.mean(-1, keepdim=True), batch.source - batch.prediction
        z = self.e_in(to_patches(((batch.source - mean) * batch.unit).clamp(-PATCH_MAX, PATCH_MAX).to(dtype)))
        z = z + per_patch(self.e_feature(batch.features.to(dtype)))
        if batch.prediction is not None:
            z = z + self.e_residual(to_patches((d * batch.unit).clamp(-PATCH_MAX, PATCH_MAX).to(dtype)))
        for block in self.e8:
            z = block(z)
        z = self.e_merge(merge(z))
        for block in self.e16:
            z = block(z)
        linear = (d @ self.basis[:, :k]) / (batch.step * batch.weight)
        return linear + F.linear(self.e_norm(z), self.e_out.w[:k].to(dtype)).float()

    @staticmethod
    def quantise(y: Tensor, batch: Batch) -> Tensor:
        """Integers, the shape of y; without a gradient."""
        return quantise(y, _dead_zone(batch))

    @staticmethod
    def bits(y: Tensor, q: Tensor, mean: Tensor, scale: Tensor, batch: Batch, soft: bool = False) -> Tensor:
        """Cost of the integers q under the distributions of the prior, in bits, the shape of y: `code_length`."""
        return code_length(y, q, mean, scale, _dead_zone(batch), soft)

    def decode(self, q: Tensor, batch: Batch) -> Tensor:
        """Pixels, neither rounded nor bounded to 0..255, (B, 3, H, W); q: (B, H/16, W/16, n_coded)."""
        k, dtype = batch.n_coded, batch.dtype
        linear = ((q * batch.weight) @ self.basis[:, :k].T) * batch.step
        if batch.prediction is not None:
            linear = linear + batch.prediction
        mean = linear.mean(-1, keepdim=True)
        z = self.d_in(views(q).to(dtype), k)
        z = z + self.d_feature(torch.cat([mean / MEAN_UNIT, batch.features[..., 1:]], -1).to(dtype))
        if batch.views is not None:
            z = z + self.d_prediction(batch.views, k)
        for block in self.d16:
            z = block(z)
        z = split(self.d_split(self.d_norm(z)))

        def ringed(t: Tensor) -> Tensor:
            t = (rings(from_tokens(t)) - per_patch(mean)) * per_patch(batch.unit)
            return bounded(t, -PATCH_MAX, PATCH_MAX).to(dtype)

        z = z + self.d_pixels(ringed(linear))
        if batch.prediction is not None:
            z = z + self.d_reference(ringed(batch.prediction))
        for block in self.d8:
            z = block(z)
        correction = self.d_out(self.d_last(z)).float() * per_patch(batch.step)
        return from_tokens(linear) + overlap(correction) + MID_GRAY

    def prior(self, q: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean, in quantiser steps, and log2 of the scale of every coefficient's logistic distribution, both the shape
        of q, (B, H/16, W/16, n_coded); each sees of q what is coded before it."""
        k, dtype = batch.n_coded, batch.dtype
        _, height, width, _ = q.shape
        pad = (0, 0, 0, width % 2, 0, height % 2)
        # of an I frame no mean is known before its coefficients
        means = batch.features[..., :1] * (batch.prediction is not None)
        f = torch.cat([means, batch.features[..., 1:]], -1)
        c = cells(padded(views(q), pad).to(dtype))
        base = self.p_feature(cells(padded(f, pad).to(dtype)).flatten(3))
        if batch.views is not None:
            r = cells(padded(batch.views, pad))
            for see, phase in zip(self.p_prediction, r.unbind(3), strict=True):
                base = base + see(phase, k)
        known = [torch.zeros_like(base)]
        for see, phase in zip(self.p_known, c.unbind(3)[:-1], strict=True):
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
        result = result.unflatten(-1, (2, k)) + self._bias(batch).view(-1, 1, 1, 2, k)
        mean, scale = result.unbind(-2)
        return mean, scale

    def _bias(self, batch: Batch) -> Tensor:
        """Means and scales that the prior starts from, (B, 2, n_coded)."""
        at = ((batch.log2_step - LOWEST_LOG2_STEP) / ROW_OCTAVES).clamp(0, TABLE_ROWS - 1)
        low = at.floor().long().clamp(max=TABLE_ROWS - 2)
        part = (at - low).view(-1, 1, 1)
        table = self.p_bias.view(3, 2, TABLE_ROWS, 2, COEFFICIENTS)[..., : batch.n_coded]
        frame_type, tune = batch.frame_type, batch.tune
        return table[frame_type, tune, low] * (1 - part) + table[frame_type, tune, low + 1] * part


def _dead_zone(batch: Batch) -> float:
    """Part of a quantiser step beyond a half by which a coefficient passes an integer to be rounded away from 0."""
    return DEAD_ZONE[0 if batch.prediction is None else 1]
