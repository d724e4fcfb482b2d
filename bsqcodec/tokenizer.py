"""Frames to bit tokens and back.

    frame - reference -> transform coefficients -+-> trit planes -> BSQ -> bits      Encoder (float)
                      -> transformer ------------+
    bits -> coefficients -> inverse transform + reference -> + correction -> frame   Decoder (exact integers)
         -> transformer ---------------------------------------^

The code is a residual BSQ (arXiv 2406.07548): plane j projects what the coarser planes left over to L_j dimensions,
normalises to the unit sphere and takes signs. A projection to (r - T, -r - T) makes the two signs say "above" and
"below" a dead zone, so a plane is one balanced-ternary digit of every coefficient and unimportant digits cost
almost nothing once the prior has seen them. An I frame is a P frame whose reference is mid-gray.

All grids are channels-last. Only the decoder must be exact; the encoder is free.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .exact import (
    ACT_BITS,
    QUALITIES,
    WEIGHT_BITS,
    AttentionBlock,
    ConditionTable,
    ExactModule,
    Linear,
    Norm,
    ShiftBlock,
    at_once,
    in_parts,
    scale,
)
from .graphs import Graphs

TOKEN = 16  # pixels
STEP_BITS = 6  # fractional bits of the quantiser step in pixel values
COEFFICIENT_BITS = 3
SYNTHESIS_BITS = 12
PIXEL_BITS = 4  # fractional bits of pixels before the last rounding
SLOPE = 6.0  # of a bit's surrogate gradient, in units of the plane's step
CORRECTION_BITS = 4  # the correction's unit is 2**-4 of a quantiser step


def bsq(v: Tensor) -> Tensor:
    """Binary spherical quantisation: u = v / |v|, returns sign(u) / sqrt(L) with the gradient of u (straight-through).

    v: (..., L) real. sign(0) is -1.
    """
    u = F.normalize(v, dim=-1)
    code = torch.where(v > 0, 1.0, -1.0) * v.shape[-1] ** -0.5
    return code + (u - u.detach())


def bsq_entropy(u: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """The paper's factorised entropies of the soft assignment, in nats.

    u: (N, L) on the unit sphere. The soft assignment to the 2**L codes c, p(c|u) ~ exp(2 tau c.u / sqrt(L)) over
    c in {-1, 1}**L, factorises into L independent bits with P(+1) = sigmoid(4 tau u_i / sqrt(L)).
    Returns (mean over N of H[p(.|u)], sum of H of the mean bit probabilities, an upper bound of H[mean p]).
    """
    p = torch.sigmoid(4 * tau * u * u.shape[-1] ** -0.5)
    return binary_entropy(p).sum(-1).mean(), binary_entropy(p.mean(0)).sum()


def binary_entropy(p: Tensor) -> Tensor:
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))


def step_integers(config: ModelConfig) -> Tensor:
    """Quantiser step of qualities 1..100 in pixel values with STEP_BITS fractional bits, int64 (100,)."""
    q = torch.arange(QUALITIES, dtype=torch.float64) / (QUALITIES - 1)
    step = config.step_coarse * (config.step_fine / config.step_coarse) ** q
    return torch.round(255 * step * 2**STEP_BITS).long()


def patches(x: Tensor, size: int) -> Tensor:
    """(B, 3, H, W) -> (B, H/size, W/size, 3*size*size)."""
    b, c, h, w = x.shape
    x = x.view(b, c, h // size, size, w // size, size).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, h // size, w // size, c * size * size)


def unpatch(x: Tensor, size: int) -> Tensor:
    """Inverse of `patches`."""
    b, h, w, _ = x.shape
    x = x.view(b, h, w, 3, size, size).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, 3, h * size, w * size)


def quarters(x: Tensor) -> Tensor:
    """(B, H, W, C of `patches`, one or several), patches of TOKEN pixels, to (B, 2 H, 2 W, ...) of half their side."""
    b, h, w, c = x.shape
    n = TOKEN // 2
    x = x.view(b, h, w, -1, 2, n, 2, n).permute(0, 1, 4, 2, 6, 3, 5, 7)
    return x.reshape(b, 2 * h, 2 * w, c // 4)


class Encoder(nn.Module):
    """Chooses the bits. Float arithmetic: two encoders may differ, every decoder follows either."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        width = config.encoder_width
        self.analysis = nn.Parameter(torch.zeros(config.coefficients, 3 * TOKEN * TOKEN))
        self.embed = nn.Linear(2 * 3 * TOKEN * TOKEN, width)
        self.blocks = nn.ModuleList(
            AttentionBlock(width, 4 * width, config.window, 1, i % 2 == 1) for i in range(config.encoder_blocks)
        )
        self.norm = Norm(width)
        self.out = nn.Linear(width, config.coefficients)
        self.widen = nn.Linear(width, config.coefficients)
        for layer in (self.out, self.widen):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.masking = nn.Parameter(torch.tensor(0.2))
        self.dead_zone = ConditionTable(config.coefficients, 0.0, 0)
        # the trits of P frames are nearly all 0, so that another digit costs more than in an I frame
        nn.init.constant_(self.dead_zone.anchors[1:], 0.5)
        self.thresholds = nn.ParameterList(
            torch.full((2, n), 0.6 if i == len(config.planes) - 1 else 0.5) for i, n in enumerate(config.planes)
        )

    def coefficients(self, frame: Tensor, reference: Tensor, condition, step: Tensor) -> tuple[Tensor, Tensor]:
        """frame, reference: (B, 3, H, W) pixels 0..255, H and W multiples of 16; step: (B,) in pixel values.

        Returns the coefficients and by how much each one's dead zone is wider than `thresholds`, both
        (B, H/16, W/16, coefficients) in quantiser steps.
        """

        def first(frame: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
            difference = frame - reference
            inputs = torch.cat([difference, reference - 128], -1) * (1 / 64)
            # the blocks work in the integer layers' units
            return self.embed(inputs) * 256, F.linear(difference, self.analysis)

        x, y = in_parts(first, patches(frame, TOKEN), patches(reference, TOKEN))
        x = x.unsqueeze(3)
        for block in self.blocks:
            x = block(x, condition)
        x = self.norm(x, condition).squeeze(3) * 2.0**-ACT_BITS
        y = y / step.view(-1, 1, 1, 1) + self.out(x)
        widen = self.widen(x) + self.dead_zone(*condition)[:, None, None]
        return y, widen + self.masked(frame, step).unsqueeze(-1)

    def masked(self, frame: Tensor, step: Tensor) -> Tensor:
        """How much wider the dead zone is where texture masks errors (adaptive quantisation), (B, H/16, W/16).

        SSIM divides the error by the local variance, as the eye does. Nothing is masked at the finest step, where a
        picture is to be kept as it is.
        """
        gray = frame.mean(1, keepdim=True)
        variance = F.avg_pool2d(gray * gray, 8) - F.avg_pool2d(gray, 8).square()
        activity = F.avg_pool2d(variance.clamp(min=0).sqrt(), 2).squeeze(1)
        step = step.view(-1, 1, 1)
        share = 1 - 255 * self.config.step_fine / step
        return (self.masking * torch.log2((activity + 2) / (0.3 * step + 2))).clamp(-0.1, 0.9) * share

    def quantise(self, y: Tensor, widen: Tensor, active: Tensor) -> Tensor:
        """y, widen: (..., coefficients), as `coefficients` gives them; active: bool (..., L), bits that are coded.

        Returns (..., L) of 0.0 and 1.0: the "above" bit of every trit, coarse plane first, then the "below" bits.
        Those that are not active are 0, and finer planes make up for them as far as they can.

        The gradient of a bit is that of sigmoid(SLOPE v): straight-through, but only near the threshold, since far
        from it a change of y changes nothing. It reaches y through the finest plane alone: one path, however many
        planes there are.
        """
        out = []
        rest = y.detach()
        coded = active[..., : self.config.bits // 2].split(self.config.planes, -1)
        for i, n in enumerate(self.config.planes):
            unit = 3.0 ** (len(self.config.planes) - 1 - i)
            r = rest[..., :n]
            if unit == 1:
                r = r + (y - y.detach())
            t = self.thresholds[i]
            w = widen[..., :n]
            v = torch.cat([(r - w) / unit - t[0], (-r - w) / unit - t[1]], -1)
            if torch.is_grad_enabled():
                soft = torch.sigmoid(SLOPE * v)
                bits = (bsq(v) > 0).to(v.dtype) + (soft - soft.detach())
            else:
                bits = (v > 0).to(v.dtype)  # the same signs
            out.append(bits.unflatten(-1, (2, n)) * coded[i].unsqueeze(-2))
            digit = (out[-1][..., 0, :] - out[-1][..., 1, :]).detach()
            rest = torch.cat([r.detach() - unit * digit, rest[..., n:]], -1)
        return torch.cat(out, -1).flatten(-2)


class Decoder(ExactModule):
    """Bits to pixels in exact integers (see exact.py): the same frame, bit for bit, on every machine."""

    steps: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        width, detail = config.decoder_width, config.detail_width
        self.levels = nn.Parameter(
            torch.cat(
                [torch.full((2, n), 3.0 ** (len(config.planes) - 1 - i)) for i, n in enumerate(config.planes)],
                1,
            )
        )
        self.synthesis = Linear(
            config.coefficients, 3 * TOKEN * TOKEN, COEFFICIENT_BITS, SYNTHESIS_BITS, 0, 1 << 12, False
        )
        self.embed_bits = Linear(config.bits, width, 0, WEIGHT_BITS, 1)
        self.embed_reference = Linear(3 * TOKEN * TOKEN, width, 7)
        self.blocks = nn.ModuleList(
            AttentionBlock(width, 4 * width, config.window, 1, i % 2 == 1) for i in range(config.decoder_blocks)
        )
        self.norm = Norm(width)
        self.up = Linear(width, 4 * detail)
        self.embed_detail = Linear(2 * 3 * 64, detail, 5)
        self.detail_blocks = nn.ModuleList(ShiftBlock(detail, 2 * detail) for _ in range(config.detail_blocks))
        self.detail_norm = Norm(detail)
        self.out = Linear(detail, 3 * 64)
        nn.init.zeros_(self.out.weight)
        self.formats["levels"] = (COEFFICIENT_BITS, 1 << 14)
        self.register_buffer("steps", step_integers(config), persistent=False)

    def freeze(self, dtype):
        super().freeze(dtype)
        self.graphs = Graphs()
        self.synthesis.in_max = self.sum_planes(self.frozen["levels"].abs().amax(0))

    def sum_planes(self, x: Tensor) -> Tensor:
        """(..., trits) -> (..., coefficients): add up the planes; each covers the first coefficients."""
        parts = list(x.split(self.config.planes, -1))
        total = parts.pop()
        for part in parts:
            total = total + F.pad(part, (0, total.shape[-1] - part.shape[-1]))
        return total

    def dequantise(self, bits: Tensor) -> Tensor:
        """bits: (B, H, W, L) as `Encoder.quantise` gives them. Returns (B, H, W, coefficients)."""
        levels = self.integer("levels")
        above, below = bits.chunk(2, -1)
        return self.sum_planes(above * levels[0] - below * levels[1])

    def inverse_transform(self, bits: Tensor) -> Tensor:
        """Pixels in quantiser steps, (B, H, W, 3 * 16 * 16) with COEFFICIENT_BITS + SYNTHESIS_BITS fractional bits."""
        if at_once(bits) or (some := bits.amax(-1) > 0).all():
            return self.synthesis(self.dequantise(bits))
        out = bits.new_zeros((*bits.shape[:-1], 3 * TOKEN * TOKEN))
        out[some] = self.synthesis(self.dequantise(bits[some]))  # of no bits it is 0
        return out

    def forward(
        self, bits: Tensor, reference: Tensor, condition, finish: Callable[[Tensor], Tensor] = lambda x: x
    ) -> Tensor:
        """bits: (B, H/16, W/16, L); reference: (B, 3, H, W) integers 0..255; condition: (kind, quality), int64 (B,).

        Returns what `finish`, which works on each pixel alone, makes of the frame with PIXEL_BITS fractional bits,
        neither rounded to pixels nor clamped.
        """
        rounding = self.rounding
        kind, quality = condition
        step = self.steps[quality - 1].view(-1, 1, 1, 1)

        def coarse(bits: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """The frame without correction, the tokens' features, and what the correction is to see of the frame."""
            shift = COEFFICIENT_BITS + SYNTHESIS_BITS + STEP_BITS - PIXEL_BITS
            pixels = multiply_shift(self.inverse_transform(bits), step, shift, rounding)
            pixels = pixels + reference * (1 << PIXEL_BITS)
            small_reference = self.embed_reference.narrow((reference - 128).clamp(-127, 127))
            x = self.embed_bits.residual(bits) + self.embed_reference.residual(small_reference)
            small = scale(pixels - (128 << PIXEL_BITS), -PIXEL_BITS, -127, 127, rounding)
            small = torch.cat([self.embed_detail.narrow(small), small_reference], -1)
            return pixels, x, small

        def correct(x: Tensor, pixels: Tensor) -> Tensor:
            shift = ACT_BITS + WEIGHT_BITS + STEP_BITS + CORRECTION_BITS - PIXEL_BITS
            correction = self.out(self.detail_norm(x.flatten(1, 2), condition))
            corrected = multiply_shift(correction, step, shift, rounding) + quarters(pixels)
            return finish(corrected).unflatten(1, (-1, 2))

        pixels, x, small = in_parts(coarse, bits, patches(reference, TOKEN))
        x = x.unsqueeze(3)
        for block in self.blocks:
            x = block(x, condition)
        x = self.up.residual(self.norm(x, condition).squeeze(3))
        b, h, w, c = x.shape
        x = x.view(b, h, w, 2, 2, c // 4).transpose(2, 3).reshape(b, 2 * h, 2 * w, c // 4)
        x = in_parts(lambda x, small: x + self.embed_detail.residual(small), x, quarters(small))
        for block in self.detail_blocks:
            x = block(x, condition)
        return unpatch(in_parts(correct, x.unflatten(1, (-1, 2)), pixels).flatten(1, 2), TOKEN // 2)


def multiply_shift(x: Tensor, factor: Tensor, bits: int, rounding: bool) -> Tensor:
    """round(x * factor / 2**bits) for |x| < 2**24 and factor < 2**16: exact in float64 and int64."""
    if not x.is_floating_point():
        return (x * factor + (1 << (bits - 1))) >> bits
    y = x * (factor * 2.0**-bits).to(x.dtype)
    if not rounding:
        return y
    with torch.no_grad():
        exact = x.double().mul_(factor.double() * 2.0**-bits).add_(0.5).floor_().float()
    return exact + (y - y.detach()) if y.requires_grad else exact


def to_pixels(x: Tensor) -> Tensor:
    """Round a frame of `Decoder.forward` to pixels 0..255."""
    return scale(x, -PIXEL_BITS, 0, 255)
