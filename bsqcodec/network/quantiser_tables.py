"""The integer tables of the quantiser. They are computed when a model is exported and travel in its file, where every
decoder reads them: no decoder computes a power or a sigmoid."""

import torch
from torch import Tensor

from .quantiser import (
    COEFFICIENTS,
    LOWEST_CLASS,
    MEAN_BITS,
    SCALE_BITS,
    SCALE_HIGH,
    SCALE_LOW,
    SIGMOID_BITS,
    SIGMOID_REACH,
    STEP_BITS,
    WEIGHT_BITS,
    log2_step,
)

QUALITIES = 100
CLASSES = 7
GAMMA = (9 / 16, 0.0)  # octaves by which the step grows from class to class: perceptual, psnr
FREQUENCY_EXPONENT = (0.3, 0.0)  # of the weights by frequency: perceptual, psnr
N_CODED = ((6.0, 192), (4.3, 416))  # from this log2 of the step on so many coefficients are coded, below it all
# from each of these log2 of the step on, borders of tokens are smoothed by one pixel value more
SMOOTHING_LEVELS = (4.0, 6.0)
LEVEL_CENTRE, LEVEL_SPREAD = 5.5, 1.5  # of log2 of the step, as a feature of the networks
LEVEL_ONE = 32
TAIL = 7  # scales from the mean beyond which no value gets a bit plane: exp(-7) = 2**-10 likely


def tables(frequency: Tensor) -> dict[str, Tensor]:
    """Every table of the quantiser by its name in the model file.

    frequency: float (768,), log2 of the weight of each coefficient's frequency before the exponent of a tune.
    """
    quality, c = torch.arange(1, QUALITIES + 1), torch.arange(CLASSES, dtype=torch.float64) + LOWEST_CLASS
    level = log2_step(quality)
    step = torch.stack([2 ** (level[:, None] + gamma * c) for gamma in GAMMA])
    (coarse, few), (medium, more) = N_CODED
    bound = (16 * 2 ** (c[1:] - 0.5) - 2) ** 2  # of the variance of luma, the mean of R, G and B, on the way up
    # variances are compared as 256 * sum g^2 - (sum g)^2 with g = R + G + B: 3**2 and 256**2 times as large
    reach = torch.arange(-SIGMOID_REACH * 16, SIGMOID_REACH * 16 + 1, dtype=torch.float64) / 16
    scales = torch.arange(SCALE_LOW, SCALE_HIGH + 1, dtype=torch.float64) / 2**SCALE_BITS
    return {
        "quantiser.step": torch.round(step * 2**STEP_BITS).long(),
        "quantiser.active": torch.where(level >= coarse, few, torch.where(level >= medium, more, COEFFICIENTS)),
        "quantiser.smooth": torch.stack([level >= border for border in SMOOTHING_LEVELS]).sum(0),
        "quantiser.level": torch.round(LEVEL_ONE * (level - LEVEL_CENTRE) / LEVEL_SPREAD).long(),
        "quantiser.weight": torch.stack(
            [torch.round(2 ** (e * frequency.double()) * 2**WEIGHT_BITS).long() for e in FREQUENCY_EXPONENT]
        ),
        "quantiser.contrast": torch.round(bound * 9 * 65536).long(),
        "quantiser.sigmoid": torch.round(torch.sigmoid(reach) * 2**SIGMOID_BITS).long(),
        "quantiser.inverse": torch.round(2 ** (20 - scales)).long(),
        "quantiser.certain": torch.ceil(2**MEAN_BITS * TAIL * 2**scales).long(),
    }
