"""Coefficients to frames: the decoder, in exact integers. Read quantiser.py before it, prior.py after it.

    coefficients -> inverse transform * step + prediction -> + correction -> smoothing -> frame
                 -> blocks on tokens -> blocks on patches --------^

An I frame is predicted as mid-gray, of which no network sees anything. All grids are channels-last.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .blocks import ShiftBlock
from .deblocking import smooth
from .layers import (
    ACT_BITS,
    ACT_MAX,
    LIMIT,
    Matrix,
    Tensors,
    at_once,
    divide,
    in_parts,
    linear,
    multiply_shift,
    normalise,
    of_nonzero,
    parts,
    scale,
    stack_depth,
)
from .patches import add_windows, canvas, per_patch, split, token_view, windows
from .quantiser import COEFFICIENTS, LOWEST_CLASS, STEP_BITS, WEIGHT_BITS, Quantiser
from .views import VALUE_MAX, VIEW_ONE, ViewLayers, views, whole_views

MID_GRAY = 128
PIXEL_BITS = 4  # fractional bits of pixels before the last rounding
PIXEL_MAX = 1 << 13  # bound of a pixel before it, from mid-gray
TRANSFORM_BITS = 12  # fractional bits of the inverse transform
ANALYSIS_BITS = 11  # of the transform: one less, for its inputs are larger
CORRECTION_BITS, CORRECTION_MAX = 10, 1 << 13  # fractional bits and bound of corrections, in quantiser steps
FEATURES = 7  # mean, class of contrast, level, 1, predicted, tune, B frame
FEATURE_ONE = 1 << ACT_BITS
DIGIT_BITS = 7  # coefficients are transformed digit by digit: each is small enough for a product in int8
DIGIT = 1 << DIGIT_BITS
MORE_DIGITS = 2  # beside the lowest: three hold any coefficient
# 2**(5 - c / 2) for classes -3..3: pixels with PIXEL_BITS times this, with UNIT_BITS, are in units of the contrast
UNIT = (91, 64, 45, 32, 23, 16, 11)
UNIT_BITS = 8
RING_BITS = 4  # fractional bits of pixels in units of the contrast


class Condition(NamedTuple):
    """The condition under which the networks code a frame.

    Attributes:
        frame_type: 0 for a frame without prediction (I), 1 for a P frame, 2 for a B frame.
        quality: 1..100.
        tune: 0 perceptual, 1 psnr.
    """

    frame_type: int
    quality: int
    tune: int


class Context(NamedTuple):
    """The knowledge of decoder and prior of a frame before its coefficients, for each token.

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

    def clone(self) -> "Context":
        """The same in tensors of their own. Gradients may pass them, even if those of this one have none."""
        several = (None if t is None else t.clone() for t in (self.views, self.prediction))
        return Context(self.classes.clone(), self.mean.clone(), *several)


def features(quantiser: Quantiser, condition: Condition, mean: Tensor, classes: Tensor) -> Tensor:
    """The conditioning of each token, within +-127 with ACT_BITS, (B, h, w, FEATURES).

    mean: of the token, pixels from mid-gray, (B, h, w, 1); classes: (B, h, w).
    """
    f = mean.new_zeros((*classes.shape, FEATURES))
    f[..., 0] = mean.squeeze(-1).clamp(-ACT_MAX, ACT_MAX)
    f[..., 1] = classes * FEATURE_ONE
    f[..., 2] = quantiser.level[condition.quality - 1]
    f[..., 3] = FEATURE_ONE
    f[..., 4] = FEATURE_ONE * (condition.frame_type > 0)
    f[..., 5] = FEATURE_ONE * condition.tune
    f[..., 6] = FEATURE_ONE * (condition.frame_type == 2)
    return f


def _mean(samples: Tensor) -> Tensor:
    """Rounded mean of the samples of a token, (..., 768) to (..., 1), in their type."""
    return divide(samples.sum(-1, keepdim=True), torch.full_like(samples[..., :1], COEFFICIENTS)).to(samples.dtype)


class Decoder:
    """Coefficients to pixels, and a prediction to what is known of a frame.

    Args:
        tensors: the integers of a model on their device.
        quantiser: its tables.
        dtype: float32, or int64 for the oracle.
    """

    def __init__(self, tensors: Tensors, quantiser: Quantiser, dtype: torch.dtype):
        self.quantiser, self.dtype = quantiser, dtype
        self.wide = torch.int64 if dtype == torch.int64 else torch.float64  # for integers beyond 2**24
        self.see = ViewLayers(tensors, dtype)
        self._basis = tensors["basis"]
        self._transforms: dict[tuple[str, int, int], Matrix] = {}
        self.unit = torch.tensor(UNIT, device=self._basis.device, dtype=dtype)
        self.feature = linear(tensors, "d_feature", dtype)
        self.split = linear(tensors, "d_split", dtype)
        self.pixels = linear(tensors, "d_pixels", dtype, in_bits=RING_BITS)
        self.reference = linear(tensors, "d_reference", dtype, in_bits=RING_BITS)
        self.out = linear(tensors, "d_out", dtype, out_bits=CORRECTION_BITS, low=-CORRECTION_MAX, high=CORRECTION_MAX)
        self.blocks = [ShiftBlock(tensors, f"d16.{i}", dtype) for i in range(stack_depth(tensors, "d16"))]
        self.fine_blocks = [ShiftBlock(tensors, f"d8.{i}", dtype) for i in range(stack_depth(tensors, "d8"))]

    @property
    def halo(self) -> int:
        """Rows of tokens beside a cut that come out wrong: each block reaches one token or patch further, the rings one
        patch, and the borders that are smoothed one token."""
        return len(self.blocks) + -(-(len(self.fine_blocks) + 2) // 2) + 1

    def _transform(self, name: str, n_coded: int, tune: int) -> Matrix:
        """The "synthesis" of samples from coefficients, or their "analysis", with the weights of the frequencies."""
        key = name, n_coded, tune
        if key not in self._transforms:
            basis, weight = self._basis[:, :n_coded].to(torch.int64), self.quantiser.weight[tune, :n_coded]
            if name == "synthesis":
                matrix = Matrix(multiply_shift(basis, weight, WEIGHT_BITS).to(self.dtype), DIGIT // 2)
            else:
                inverse = divide(basis << WEIGHT_BITS - (TRANSFORM_BITS - ANALYSIS_BITS), weight)
                matrix = Matrix(inverse.T.to(self.dtype), ACT_MAX)
            self._transforms[key] = matrix
        return self._transforms[key]

    def context(self, condition: Condition, prediction: Tensor | None, classes: Tensor | None) -> Context:
        """The context of a frame, from its prediction, integers 0..255 (B, 3, H, W), or, for an I frame, from the
        classes that the stream carries, int64 (B, H/16, W/16)."""
        if prediction is None:
            assert classes is not None
            return Context(classes, torch.zeros_like(classes, dtype=self.dtype).unsqueeze(-1), None, None)
        classes = self.quantiser.classes(prediction)
        prediction = (prediction - MID_GRAY).to(torch.int8)
        n_coded = self.quantiser.n_coded[condition.quality - 1]
        analysis = self._transform("analysis", n_coded, condition.tune)
        step = self.quantiser.steps(condition.quality, condition.tune, classes).unsqueeze(-1)
        view_dtype = self.see("d_prediction", n_coded).matrix.in_dtype

        def see(p: Tensor, step: Tensor) -> list[Tensor]:
            p = p.flatten(3).to(self.dtype)
            y = analysis.product(p.clamp(-ACT_MAX, ACT_MAX)).to(self.wide)
            y = divide(y * (VIEW_ONE << STEP_BITS >> ANALYSIS_BITS), step.to(self.wide))
            return [_mean(p), views(y.clamp_(-VALUE_MAX, VALUE_MAX).to(self.dtype)).to(view_dtype)]

        mean, seen = in_parts(see, token_view(prediction), step)
        return Context(classes, mean, seen, prediction)

    def __call__(self, y: Tensor, context: Context, condition: Condition, depth: int = 8) -> list[Tensor]:
        """y: coefficients, integers (B, H/16, W/16, n_coded). Returns pixels 0..255, (B, 3, H, W), after them
        those of `depth` bits if that is not 8."""
        step = self.quantiser.steps(condition.quality, condition.tune, context.classes).unsqueeze(-1)
        picture, inside = canvas(y.shape[:3], self.dtype, y.device)
        known = []
        if context.prediction is not None and context.views is not None:
            known = [token_view(context.prediction), context.views]
        mean, x = in_parts(partial(self._draft, condition), y, step, context.classes, token_view(inside), *known)
        for block in self.blocks:
            x = block(x)
        x = in_parts(lambda x: split(self.split.stream(normalise(x))), x)
        draft = windows(picture)
        self._see_patches(x, mean, draft, context)
        for block in self.fine_blocks:
            x = block(x)
        for rows, steps, ring in parts(x, per_patch(step), draft):
            correction = self.out(normalise(rows)).to(self.wide)
            correction = multiply_shift(correction, steps.to(self.wide), CORRECTION_BITS + STEP_BITS - PIXEL_BITS)
            add_windows(ring, correction.to(self.dtype))
        inside.add_(MID_GRAY << PIXEL_BITS)
        bound = self.quantiser.smooth[condition.quality - 1]
        pixels = [smooth(scale(inside, -PIXEL_BITS, 0, 255), bound)]
        return pixels if depth == 8 else [*pixels, smooth(self._deep(inside, depth), bound, depth)]

    def _deep(self, x: Tensor, depth: int) -> Tensor:
        """Pixels of `depth` bits, of such with PIXEL_BITS."""
        white = 255 << PIXEL_BITS
        x = x.clamp(0, white).to(self.wide)
        return divide(x * ((1 << depth) - 1), torch.full_like(x, white)).to(self.dtype)

    def _draft(
        self, condition: Condition, y: Tensor, step: Tensor, classes: Tensor, inside: Tensor, *predicted: Tensor
    ) -> list[Tensor]:
        """Write the frame without correction to `inside`, tokens of PIXEL_BITS. Returns the means of its tokens and the
        residual stream that the blocks start from.

        predicted: pixels of the prediction's tokens and their views, of a P or B frame.
        """
        pixels, x = of_nonzero(partial(self._invert, condition.tune), y.to(torch.int32), step)
        if predicted:
            pixels = pixels + predicted[0].flatten(3).to(self.dtype) * (1 << PIXEL_BITS)
            x = x + self.see("d_prediction", y.shape[-1]).stream(predicted[1])
        pixels = pixels.clamp_(-PIXEL_MAX, PIXEL_MAX)
        mean = _mean(pixels)
        inside.copy_(pixels.view_as(inside))
        f = features(self.quantiser, condition, scale(mean, -PIXEL_BITS, -ACT_MAX, ACT_MAX), classes)
        return [mean, x + self.feature.stream(f)]

    def _invert(self, tune: int, y: Tensor, step: Tensor) -> list[Tensor]:
        """The samples of tokens and the residual stream, as the coefficients alone make them."""
        synthesis = self._transform("synthesis", y.shape[-1], tune)
        # digits to the base 128, -64..63. Most coefficients have but one; on a GPU the host does not ask.
        rest = (y + DIGIT // 2) >> DIGIT_BITS
        total = synthesis.product(y - DIGIT * rest).to(self.wide)
        for i in range(1, MORE_DIGITS + 1):
            if not at_once(y) and not rest.any():
                break
            high = (rest + DIGIT // 2) >> DIGIT_BITS
            total = total + synthesis.product(rest - DIGIT * high).to(self.wide) * DIGIT**i
            rest = high
        total = total.clamp_(-LIMIT, LIMIT)
        pixels = multiply_shift(total, step.to(self.wide), TRANSFORM_BITS + STEP_BITS - PIXEL_BITS).to(self.dtype)
        return [pixels, self.see("d_in", y.shape[-1]).stream(whole_views(y))]

    def _see_patches(self, x: Tensor, mean: Tensor, draft: Tensor, context: Context) -> None:
        """Add to the residual stream of the patches, x, what their rings show of the draft and of the prediction.

        mean: of each token of the draft; draft: its `windows`.
        """
        seen = [draft]
        if context.prediction is not None:
            predicted, inside = canvas(context.classes.shape, torch.int8, x.device)
            inside.copy_(context.prediction)
            seen.append(windows(predicted))
        unit = self.unit[context.classes - LOWEST_CLASS].unsqueeze(-1)
        for rows, middle, contrast, *rings in parts(x, per_patch(mean), per_patch(unit), *seen):
            # the prediction has whole pixels
            for layer, ring, bits in zip((self.pixels, self.reference), rings, (0, PIXEL_BITS), strict=False):
                ring = ring.flatten(3).to(self.dtype) * (1 << bits)
                # within 2**13 * 91 * 2: exact in float32
                rows.add_(layer.stream(scale(ring.sub_(middle).mul_(contrast), -UNIT_BITS, -ACT_MAX, ACT_MAX)))
