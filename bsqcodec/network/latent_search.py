"""The encoder's search: gradient descent on the coefficients of the very frame that is encoded.

What the encoder chose is the start; decoder, prior and objective are those of training. It costs the encoder time and
changes nothing for a decoder (Campos et al., arXiv 1906.01223: content adaptive optimisation).
"""

import torch
from torch import Tensor

from .objective import Objective
from .unrounded import Batch, Unrounded

LEARNING_RATE = 0.05  # of the first step, in quantiser steps per coefficient; it falls to 0 in a line
BETAS = (0.8, 0.9)  # of Adam, short for so few steps
# A coefficient moves by a whole step, so what counts is the distortion's slope half way, at 1/2. For a squared error
# that is worth 20 bits / step**2 per pixel value (`Objective.psnr`), three of them per pixel, it grows by 2 * 20 / 3.
CURVATURE = 2 * 20 / 3
MAX_TOKENS_PER_BAND = 1 << 12  # each token takes far more memory than in the decoder: gradients need all layers


def search(network: Unrounded, batch: Batch, picture: Tensor, objective: Objective, steps: int) -> Tensor:
    """The cheapest coefficients of one frame, integers (1, H/16, W/16, n_coded), among those of each of `steps` steps.

    picture: pixels 0..255, float32 (1, 3, H, W), of which `batch` was made. Gradients have to be enabled.
    """
    with torch.no_grad():
        start = network.coefficients(batch)
    change = torch.zeros_like(start, requires_grad=True)
    # its steps are as long for small gradients as for large ones: a coefficient crosses its threshold in a few
    optimiser = torch.optim.Adam([change], betas=BETAS)
    best, least = None, float("inf")
    for i in range(steps + 1):
        y = start + change
        q = network.quantise(y, batch)
        through = y + (q - y).detach()
        mean, scale = network.prior(through, batch)
        pixels = picture.shape[2] * picture.shape[3]
        rate = network.bits(y, q, mean, scale, batch, soft=True).sum((1, 2, 3)) / pixels
        decoded = network.decode(through, batch)
        total = objective.cost(decoded, picture, rate, batch.log2_step, batch.tune, batch.prediction is not None)
        if total.item() < least:
            best, least = q.detach(), total.item()
        if i < steps:
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - i / steps)
            optimiser.zero_grad()
            (total + CURVATURE / 2 * (y - q).abs().sum((1, 2, 3)) / pixels).sum().backward()
            optimiser.step()
    assert best is not None, "the cost is not a number"
    return best
