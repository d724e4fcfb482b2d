"""The cost that training and the encoder's search minimise: rate + lambda distortion of a picture."""

from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import ms_ssim
from .patches import TOKEN

SCALE = 1700.0  # brings 1 - MS-SSIM to the mean squared error that it typically comes with


class Measures(NamedTuple):
    """Measures of the distortion of each picture of a batch; all are (B,).

    Attributes:
        mse: mean squared error of pixel values 0..255.
        dssim: 1 - MS-SSIM.
        colour: mean squared error of R - G and B - G, added.
        border: mean squared error of the difference across the borders of tokens, which shows as blocks.
    """

    mse: Tensor
    dssim: Tensor
    colour: Tensor
    border: Tensor


@dataclass(frozen=True)
class Objective:
    """The weights of what is minimised. They travel in the model file: a search aims at what networks were trained for.

    The tune "perceptual" minimises rate + perceptual * distortion / step**2, rate in bits per pixel and step in pixel
    values, with

        distortion = msssim * (1 - MS-SSIM) + (mse * MSE + colour * C + border * B) / 1700 + stlpips * ST-LPIPS;

    the tune "psnr" minimises rate + (psnr * MSE + psnr_border * B) / step**2. C and B are `colour` and `border` of
    `Measures`.

    Attributes:
        msssim, mse, colour, border, stlpips: weights in the distortion of the tune "perceptual".
        perceptual: what that distortion is worth, in bits per pixel, at a quantiser step of one pixel value.
        psnr, psnr_border: what MSE and B are worth in the tune "psnr".
        predicted: the distortion of a P or B frame counts so much: what an I frame gets right, P frames inherit.
    """

    msssim: float = 0.93
    mse: float = 0.07
    colour: float = 0.02
    border: float = 0.1
    stlpips: float = 0.015
    perceptual: float = 42240.0
    psnr: float = 20.0
    psnr_border: float = 1.0
    predicted: float = 0.7

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9:
                raise ValueError(f"{key} is {value!r}, not a weight")

    @classmethod
    def from_dict(cls, values: dict) -> "Objective":
        """An objective from what `to_dict` gives. Raises ValueError for unknown keys and for what is no weight."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown key in the objective: {', '.join(sorted(unknown))}")
        return cls(**values)

    def to_dict(self) -> dict:
        """The attributes by name, as a model file holds them."""
        return asdict(self)

    def distortion(
        self, m: Measures, log2_step: Tensor, tune: Tensor, predicted: bool, stlpips: Tensor | float = 0.0
    ) -> Tensor:
        """The distortion that the rate is weighed against, in bits per pixel, (B,).

        log2_step: log2 of the quantiser step of a token of class 0, (B,). tune: 0 perceptual, 1 psnr, (B,). predicted:
        whether the pictures are P or B frames. stlpips: ST-LPIPS of each, or 0 where it takes too long.
        """
        seen = self.msssim * m.dssim + self.stlpips * stlpips
        for weight, errors in ((self.mse, m.mse), (self.colour, m.colour), (self.border, m.border)):
            seen = seen.add(errors, alpha=weight / SCALE)
        psnr = (self.psnr * m.mse).add(m.border, alpha=self.psnr_border)
        d = torch.where(tune < 0.5, self.perceptual * seen, psnr) / 4**log2_step
        return d * (self.predicted if predicted else 1.0)

    def cost(
        self, decoded: Tensor, source: Tensor, rate: Tensor, log2_step: Tensor, tune: Tensor, predicted: bool
    ) -> Tensor:
        """rate + lambda distortion of each picture, without ST-LPIPS, in bits per pixel, (B,).

        decoded, source: pixels, (B, 3, H, W), those that are decoded neither rounded nor bounded; rate: bits per pixel,
        (B,). The other arguments are those of `distortion`.
        """
        return rate + self.distortion(measure(decoded, source), log2_step, tune, predicted)


def measure(decoded: Tensor, source: Tensor) -> Measures:
    """The distortion of decoded pictures.

    decoded, source: pixels 0..255, (B, 3, H, W), sides multiples of 16; those that are decoded may go beyond.
    """
    e = decoded - source
    colour = (e[:, 0] - e[:, 1]).square().mean((1, 2)) + (e[:, 2] - e[:, 1]).square().mean((1, 2))
    border = torch.zeros_like(colour)
    for axis in (e, e.transpose(2, 3)):
        if axis.shape[2] > TOKEN:
            border = border + (axis[:, :, TOKEN::TOKEN] - axis[:, :, TOKEN - 1 : -1 : TOKEN]).square().mean((1, 2, 3))
    return Measures(e.square().mean((1, 2, 3)), 1 - ms_ssim(F.hardtanh(decoded, 0, 255), source), colour, border)


def evenly(log2_step: Tensor) -> Tensor:
    """Factors by which costs at these steps are multiplied so that all qualities count alike, and not by their rate.

    The rate of photographs is about 19.2 / step + 0.03 bits per pixel.
    """
    step = torch.exp2(log2_step)
    return step / (0.03 * step + 19.2)
