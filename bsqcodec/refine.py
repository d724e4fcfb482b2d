"""The encoder's search: gradient descent on the coefficients of the very frame that is encoded.

What the encoder's network chose is the start; decoder, prior and objective are those of training. It costs the encoder
time and changes nothing for a decoder (Campos et al., arXiv 1906.01223: content adaptive optimisation).
"""

import torch
from torch import Tensor

from . import bands
from .model import Model
from .objective import Weights, cost, half_way, measure

WEIGHTS = Weights(msssim=0.9, fidelity=4.0, predicted=0.6)
RATE = 0.07  # of the first step, in quantiser steps a coefficient
MOST = 1 << 12  # tokens that are worked on at once


def encode(model: Model, frame: Tensor, reference: Tensor, previous: Tensor, condition, steps: int) -> Tensor:
    """The bits of one frame, (1, H/16, W/16, L), by `steps` steps of the search.

    frame, reference: (1, 3, H, W) pixels 0..255, sides multiples of 16; previous: the bits of the frame before;
    condition: (kind, quality), int64 (1,). A large picture is searched in bands of rows.
    """
    window = model.network.config.window
    rows, columns = previous.shape[1:3]
    parts = []
    with torch.inference_mode(False), torch.enable_grad():
        frame, reference, previous = frame.clone(), reference.clone(), previous.clone()
        condition = tuple(x.clone() for x in condition)
        for run, keep in bands.bands(rows, columns, window, window, MOST):
            pixels = bands.pixels(run)
            part = _search(model, frame[:, :, pixels], reference[:, :, pixels], previous[:, run], condition, steps)
            parts.append(part[:, keep])
    return torch.cat(parts, 1)


def _search(model: Model, frame: Tensor, reference: Tensor, previous: Tensor, condition, steps: int) -> Tensor:
    network = model.unrounded
    step, active = network.step(condition[1]), network.prior.active_mask(condition[1])[:, None, None]
    with torch.no_grad():
        y, widen = network.encoder.coefficients(frame, reference, condition, step)
    change = torch.zeros_like(y, requires_grad=True)
    # its steps are as long for small gradients as for large ones: a coefficient crosses its threshold in a few
    optimiser = torch.optim.Adam([change], betas=(0.8, 0.9))
    best, least = None, float("inf")
    for i in range(steps + 1):
        bits = network.encoder.quantise(y + change, widen, active)
        m, _ = measure(network, bits, frame, reference, previous, condition, WEIGHTS)
        total, _ = cost(network, m.bpp, m.distortion, condition, WEIGHTS)
        if total.item() < least:
            best, least = bits.detach(), total.item()
        if i < steps:
            optimiser.param_groups[0]["lr"] = RATE * (1 - i / steps)
            optimiser.zero_grad()
            (total + half_way(bits, frame.shape[2] * frame.shape[3])).sum().backward()
            optimiser.step()
    assert best is not None, "the cost is not a number"
    return best
