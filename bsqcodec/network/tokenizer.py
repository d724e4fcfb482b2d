"""Coefficients to frames: the decoder, in exact integers.

    coefficients -> inverse transform * step + prediction -> + correction -> frame
                 -> blocks on tokens -> blocks on patches --------^

An I frame is predicted as mid-gray, of which no network sees anything. All grids are channels-last.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .layers import (
    ACT_MAX,
    Matrix,
    ShiftBlock,
    Tensors,
    at_once,
    divide,
    in_parts,
    linear,
    multiply_shift,
    normalise,
    of_some,
    parts,
    scale,
)
from .patches import FINE, RINGED, TOKEN, add_windows, canvas, quarter, split, tokens, windows
from .quantiser import COEFFICIENTS, LOWEST, STEP_BITS, WEIGHT_BITS, Quantiser

PIXEL_BITS = 4  # fractional bits of pixels before the last rounding
PIXEL_MAX = 1 << 13  # of a pixel before it, from mid-gray
TRANSFORM_BITS = 12
ANALYSIS_BITS = 11  # one bit less: inputs are larger
VIEW_BITS = 6  # views have the unit 1/60; weights that see them are kept times 64/60
VIEW_ONE, VIEW_MAX = 60, 120
CORRECTION_BITS, CORRECTION_MAX = 10, 1 << 13  # of a quantiser step
FEATURES = 7  # mean, class of contrast, level, 1, predicted, tune, B frame
FEATURE_ONE = 32
_DIGIT = 128  # coefficients are transformed digit by digit
# 2**(5 - c / 2) for classes -3..3: pixels with PIXEL_BITS times this / 256 are in units of the contrast
_UNIT = (91, 64, 45, 32, 23, 16, 11)


class Condition(NamedTuple):
    """What a frame is coded as.

    Attributes:
        frame_type: 0 for a frame without prediction, 1 for a P frame, 2 for a B frame.
        quality: 1..100.
        tune: 0 perceptual, 1 psnr.
    """

    frame_type: int
    quality: int
    tune: int


class Context(NamedTuple):
    """What decoder and prior know of a frame before its coefficients, for each token.

    Attributes:
        classes: of contrast, int64 (B, H/16, W/16).
        mean: of the prediction, pixels from mid-gray, (B, H/16, W/16, 1); of an I frame 0.
        views: of the prediction's coefficients, (B, H/16, W/16, 3 * n_coded); None for an I frame.
        prediction: pixels from mid-gray, int8 (B, 3, H, W); None for an I frame.
    """

    classes: Tensor
    mean: Tensor
    views: Tensor | None
    prediction: Tensor | None

    def copy(self) -> "Context":
        """Of tensors that gradients may pass, whatever those of this one are."""
        several = (None if t is None else t.clone() for t in (self.views, self.prediction))
        return Context(self.classes.clone(), self.mean.clone(), *several)


def views(y: Tensor) -> Tensor:
    """Three bounded views of values in units of 1/60 step, (..., C) to (..., 3 C), within +-120.

    y within +-1 step, a quarter of it within +-4, a twentieth within +-40.
    """
    if y.is_floating_point():
        parts = y, ((y + 2) * 0.25).floor_(), ((y + 10) * 0.05).floor_()
    else:
        parts = y, (y + 2) >> 2, torch.div(y + 10, 20, rounding_mode="floor")
    return torch.cat([part.clamp(-high, high) for part, high in zip(parts, (VIEW_ONE, VIEW_ONE, VIEW_MAX))], -1)


def whole_views(y: Tensor) -> Tensor:
    """`views` of 60 y, for integers y."""
    return torch.cat([y.clamp(-1, 1) * 60, y.clamp(-4, 4) * 15, y.clamp(-40, 40) * 3], -1)


def view_columns(n_coded: int, device: torch.device) -> Tensor:
    """Columns of a matrix on three views of all coefficients that see the first `n_coded`."""
    k = torch.arange(n_coded, device=device)
    return torch.cat([k, k + COEFFICIENTS, k + 2 * COEFFICIENTS])


class Decoder:
    """The inverse of the encoder for frames; needs nothing that depends on the size of a picture.

    Args:
        tensors: the integers of a model on their device.
        quantiser: its tables.
        dtype: float32, or int64 for the oracle.
    """

    def __init__(self, tensors: Tensors, quantiser: Quantiser, dtype: torch.dtype):
        self.quantiser, self.dtype = quantiser, dtype
        self.device = tensors["basis"].device
        self._tensors = tensors
        self._cut: dict = {}
        self.unit = torch.tensor(_UNIT, device=self.device, dtype=dtype)
        self.feature = linear(tensors, "d_feature", dtype)
        self.split = linear(tensors, "d_split", dtype)
        self.pixels = linear(tensors, "d_pixels", dtype, in_bits=4)
        self.reference = linear(tensors, "d_reference", dtype, in_bits=4)
        self.out = linear(tensors, "d_out", dtype, out_bits=CORRECTION_BITS, low=-CORRECTION_MAX, high=CORRECTION_MAX)
        self.blocks = [ShiftBlock(tensors, f"d16.{i}", dtype) for i in range(count(tensors, "d16"))]
        self.fine_blocks = [ShiftBlock(tensors, f"d8.{i}", dtype) for i in range(count(tensors, "d8"))]

    @property
    def halo(self) -> int:
        """Rows of tokens beside a cut that come out wrong: each block reaches one token or patch further, the rings one
        patch, and the borders that are smoothed one token."""
        return len(self.blocks) + -(-(len(self.fine_blocks) + 2) // 2) + 1

    def _of(self, name: str, *key: int):
        """What depends on the number of coded coefficients or on the tune, made when it is needed first."""
        found = self._cut.get((name, *key))
        if found is None:
            t, n_coded = self._tensors, key[0]
            if name in ("d_in", "d_prediction"):
                columns = view_columns(n_coded, self.device)
                found = linear(t, name, self.dtype, columns, in_bits=VIEW_BITS, in_max=VIEW_MAX)
            else:
                basis = t["basis"][:, :n_coded].to(torch.int64)
                weight = self.quantiser.weight[key[1], :n_coded]
                if name == "synthesis":
                    found = Matrix(
                        (basis * weight + (1 << (WEIGHT_BITS - 1)) >> WEIGHT_BITS).to(self.dtype), _DIGIT // 2
                    )
                else:
                    shift = TRANSFORM_BITS - ANALYSIS_BITS
                    found = Matrix(divide(basis << WEIGHT_BITS - shift, weight).T.to(self.dtype), ACT_MAX)
            self._cut[(name, *key)] = found
        return found

    def context(self, condition: Condition, prediction: Tensor | None, classes: Tensor | None) -> Context:
        """What is known of a frame from its prediction, integers 0..255 (B, 3, H, W), or, for an I frame, from the
        classes that the stream carries, int64 (B, H/16, W/16)."""
        if prediction is None:
            assert classes is not None
            return Context(classes, torch.zeros_like(classes, dtype=self.dtype).unsqueeze(-1), None, None)
        classes = self.quantiser.classes(prediction)
        prediction = (prediction - 128).to(torch.int8)
        analysis = self._of("analysis", self.quantiser.n_coded[condition.quality - 1], condition.tune)
        step = self.quantiser.steps(condition.quality, condition.tune, classes).unsqueeze(-1)

        def see(p: Tensor, step: Tensor) -> list[Tensor]:
            p = p.flatten(3).to(self.dtype)
            mean = divide(p.sum(-1, keepdim=True), torch.full_like(p[..., :1], COEFFICIENTS)).to(self.dtype)
            y = analysis.product(p.clamp(-ACT_MAX, ACT_MAX))
            exact = torch.int64 if self.dtype == torch.int64 else torch.float64
            # 60 / 2**11 * 2**10 = 30
            y = divide(y.to(exact) * (60 << STEP_BITS >> ANALYSIS_BITS), step.to(exact))
            return [mean, views(y.clamp_(-20 * VIEW_MAX, 20 * VIEW_MAX).to(self.dtype)).to(kind)]

        kind = self._of("d_prediction", analysis.n_out).matrix.kind
        mean, seen = in_parts(see, tokens(prediction), step)
        return Context(classes, mean, seen, prediction)

    def features(self, condition: Condition, mean: Tensor, classes: Tensor) -> Tensor:
        """The conditioning of each token, within +-127 with 5 fractional bits, (B, h, w, FEATURES)."""
        f = mean.new_zeros((*classes.shape, FEATURES))
        f[..., 0] = mean.squeeze(-1).clamp(-ACT_MAX, ACT_MAX)
        f[..., 1] = classes * FEATURE_ONE
        f[..., 2] = self.quantiser.level[condition.quality - 1]
        f[..., 3] = FEATURE_ONE
        f[..., 4] = FEATURE_ONE * (condition.frame_type > 0)
        f[..., 5] = FEATURE_ONE * condition.tune
        f[..., 6] = FEATURE_ONE * (condition.frame_type == 2)
        return f

    def __call__(self, y: Tensor, context: Context, condition: Condition) -> Tensor:
        """y: coefficients, integers (B, H/16, W/16, n_coded). Returns pixels 0..255, (B, 3, H, W)."""
        q, n_coded, tune = self.quantiser, y.shape[-1], condition.tune
        step = q.steps(condition.quality, tune, context.classes).unsqueeze(-1)
        unit = self.unit[context.classes - LOWEST].unsqueeze(-1)
        synthesis, d_in = self._of("synthesis", n_coded, tune), self._of("d_in", n_coded)
        coded, inside = canvas(y.shape[:3], self.dtype, y.device)
        exact = torch.int64 if self.dtype == torch.int64 else torch.float64

        def first(y: Tensor, step: Tensor) -> list[Tensor]:
            """What the coefficients alone make of pixels, and of what the blocks start from."""
            # digits to the base 128, -64..63: small enough for the product; three of them hold any coefficient, and
            # most have but one. On a GPU the host does not ask.
            rest = (y + _DIGIT // 2) >> 7
            total = synthesis.product(y - _DIGIT * rest).to(exact)
            for digit in (1, 2):
                if not at_once(y) and not rest.any():
                    break
                high = (rest + _DIGIT // 2) >> 7
                total = total + synthesis.product(rest - _DIGIT * high).to(exact) * _DIGIT**digit
                rest = high
            total = total.clamp_(-(1 << 24), 1 << 24)
            pixels = multiply_shift(total, step.to(exact), TRANSFORM_BITS + STEP_BITS - PIXEL_BITS).to(self.dtype)
            return [pixels, d_in.stream(whole_views(y))]

        def coarse(y: Tensor, step: Tensor, classes: Tensor, inside: Tensor, *predicted: Tensor) -> list[Tensor]:
            """Writes the frame without correction; returns the means of its tokens and what the blocks start from."""
            pixels, x = of_some(first, y.to(torch.int32), step)
            if predicted:
                pixels = pixels + predicted[0].flatten(3).to(self.dtype) * (1 << PIXEL_BITS)
                x = x + self._of("d_prediction", n_coded).stream(predicted[1])
            pixels = pixels.clamp_(-PIXEL_MAX, PIXEL_MAX)
            mean = divide(pixels.sum(-1, keepdim=True), torch.full_like(pixels[..., :1], COEFFICIENTS)).to(self.dtype)
            inside.copy_(pixels.view_as(inside))
            f = self.features(condition, scale(mean, -PIXEL_BITS, -ACT_MAX, ACT_MAX), classes)
            return [mean, x + self.feature.stream(f)]

        known = []
        if context.prediction is not None and context.views is not None:
            known = [tokens(context.prediction), context.views]
        mean, x = in_parts(coarse, y, step, context.classes, tokens(inside), *known)
        for block in self.blocks:
            x = block(x)
        x = in_parts(lambda x: split(self.split.stream(normalise(x))), x)
        seen = [windows(coded)]
        if context.prediction is not None:
            predicted, within = canvas(y.shape[:3], torch.int8, y.device)
            within.copy_(context.prediction)
            seen.append(windows(predicted))

        for rows, middle, contrast, *rings in parts(x, quarter(mean), quarter(unit), *seen):
            for layer, ring, bits in zip((self.pixels, self.reference), rings, (0, PIXEL_BITS)):
                ring = ring.flatten(3).to(self.dtype) * (1 << bits)
                # within 2**13 * 91 * 2: exact in float32
                rows.add_(layer.stream(scale(ring.sub_(middle).mul_(contrast), -8, -ACT_MAX, ACT_MAX)))
        for block in self.fine_blocks:
            x = block(x)

        for rows, steps, ring in parts(x, quarter(step), seen[0]):
            correction = self.out(normalise(rows)).to(exact)
            correction = multiply_shift(correction, steps.to(exact), CORRECTION_BITS + STEP_BITS - PIXEL_BITS)
            add_windows(ring, correction.to(self.dtype))
        return smooth(scale(inside.add_(128 << PIXEL_BITS), -PIXEL_BITS, 0, 255), q.smooth[condition.quality - 1])


def smooth(x: Tensor, most: int) -> Tensor:
    """Soften the borders of tokens, which else would show as blocks, by at most `most`, 0..2, on each side.

    x: pixels 0..255, integers (B, 3, H, W), which is used up. First along rows, then along columns; p1 p0 | q0 q1 are
    the pixels around a border. Steeper differences than blocks make, edges of the picture's own, stay as they are
    (compare ITU-T H.264, 8.7.2).
    """
    if not most:
        return x
    for axis in (3, 2):
        count = x.shape[axis] // TOKEN - 1
        if count < 1:
            continue
        borders = x.narrow(axis, TOKEN - 3, x.shape[axis] - TOKEN + 3).unfold(axis, 6, TOKEN)
        p2, p1, p0, q0, q1, q2 = borders.clone().unbind(-1)
        soft = (p0 - q0).abs() < 6 * most
        d = scale(4 * (q0 - p0) + p1 - q1, -3, -most, most) * soft
        half = most >> 1
        more_p = scale(p2 + p0 - 2 * p1 + 2 * d, -2, -half, half) * soft
        more_q = scale(q2 + q0 - 2 * q1 - 2 * d, -2, -half, half) * soft
        borders.copy_(torch.stack([p2, p1 + more_p, p0 + d, q0 - d, q1 + more_q, q2], -1))
    return x.clamp_(0, 255)


def count(tensors: Tensors, stack: str) -> int:
    """How many blocks a stack has."""
    return len({name.split(".")[1] for name in tensors if name.startswith(f"{stack}.")})


__all__ = ["FINE", "RINGED", "TOKEN", "Condition", "Context", "Decoder", "count", "views", "whole_views"]
