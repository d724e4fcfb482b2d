"""What training and the encoder's search minimise: rate + lambda distortion of a frame, differentiable in its bits."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import msssim
from .network import Network
from .prior import pad_even


class Weights(NamedTuple):
    """What counts how much.

    Attributes:
        msssim: share of MS-SSIM in the distortion; the rest is MSE.
        fidelity: lambda at quality 100 is so many times what its step asks for, down to 1 at quality 50.
        predicted: a P or B frame's distortion counts so much: what an I frame gets right, P frames inherit.
    """

    msssim: float
    fidelity: float
    predicted: float


class Measures(NamedTuple):
    """Of each frame of a batch, (B,) all: `bpp` and `distortion` as they count, `mse` and `msssim` as they are."""

    bpp: Tensor
    distortion: Tensor
    mse: Tensor
    msssim: Tensor


def measure(
    network: Network, bits: Tensor, frame: Tensor, reference: Tensor, previous: Tensor, condition, weights: Weights
) -> tuple[Measures, Tensor]:
    """Code frames with given bits, in the arithmetic of training.

    bits, previous: (B, H/16, W/16, L), of the frames and of those before; frame, reference: (B, 3, H, W) pixels 0..255;
    condition: (kind, quality), int64 (B,). Returns also the decoded frames, pixels that are not rounded.
    """
    decoded = network.decoder(bits, reference, condition) * (1 / 16)
    hard = bits.detach()
    height, width = hard.shape[1:3]
    logits = network.prior(pad_even(hard), pad_even(previous), condition)[:, :height, :width].clamp(-11.1, 11.1)
    # the gradient of the target -logit * t is the rate's gradient in the bits, passed straight through
    rate = F.softplus(logits) - bits * logits
    quality = condition[1]
    bpp = (rate * network.prior.active_mask(quality)[:, None, None]).sum((1, 2, 3)) / (
        math.log(2) * frame.shape[2] * frame.shape[3]
    )
    shown = decoded.clamp(0, 255)
    mse = (shown - frame).square().mean((1, 2, 3))
    similarity = msssim(shown, frame)
    # 1700 brings 1 - MS-SSIM to the mean squared error that it typically comes with. From quality 50 on it saturates,
    # and gives way to the squared error.
    share = weights.msssim * (1 - 0.6 * high(quality))
    distortion = (1 - share) * mse + share * 1700.0 * (1 - similarity)
    return Measures(bpp, distortion, mse, similarity), decoded


def high(quality: Tensor) -> Tensor:
    """0 up to quality 50, 1 at 100."""
    return ((quality - 50) / 50).clamp(min=0)


def cost(network: Network, bpp: Tensor, distortion: Tensor, condition, weights: Weights) -> tuple[Tensor, Tensor]:
    """rate + lambda distortion of each frame in bits a pixel, (B,), and what `fidelity` multiplies lambda by, (B,)."""
    kind, quality = condition
    fidelity = weights.fidelity ** high(quality).square()
    counts = torch.where(kind > 0, weights.predicted, 1.0) * fidelity
    # High-rate theory of a uniform quantiser gives dD/dR = step^2 ln(2) / 6 a coefficient, of which a pixel has three.
    return bpp + distortion * counts * (3 * 6 / math.log(2)) / network.step(quality).square(), fidelity


def half_way(bits: Tensor, pixels: int) -> Tensor:
    """What `cost` lacks to be minimised in the bits, (B,); its value means nothing.

    A bit moves by a whole unit, so what counts is the distortion's slope half way, at 1/2. For a squared error in the
    transform's domain that is the slope at the bit plus curvature * (1/2 - bit).
    """
    curvature = 2 * 6 / math.log(2) / pixels
    return ((0.5 - bits.detach()) * bits * curvature).sum((1, 2, 3))
