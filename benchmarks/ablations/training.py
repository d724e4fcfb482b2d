"""The training of an autoencoder, and its measurement: the same for every variant."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from bsqcodec.network.objective import Objective, evenly, measure
from bsqcodec.stream.contrast import encode_classes
from bsqcodec.stream.range_coder import BitEncoder
from bsqcodec.train.config import TrainConfig
from bsqcodec.train.parameters import Parameters

from .data import Data, Settings, held_out_groups, held_out_pictures, training_groups
from .measures import measured
from .network import LEVELS, LOG2_STEPS, Autoencoder, Quantiser, Shape, coefficients, contrast, transform

PICTURES, GROUPS = 8, 2  # of a step: single frames, or groups of four
MEASURED_PICTURES, MEASURED_GROUPS = 20, 5  # held out
OBJECTIVE = Objective(stlpips=0.0, border=0.0, colour=0.0)
CONFIG = TrainConfig(ema=0.99, warmup=20)


def train(network: Autoencoder, seed: int, data: Data, settings: Settings, groups: bool) -> tuple[Parameters, float]:
    """Train, and leave the averaged weights in the network.

    The loss is rate + lambda distortion, as the codec's, with a level drawn for each step, and what the quantiser adds.
    groups: train on groups of frames, not on single ones. Returns the parameters, and steps a second.
    """
    parameters = Parameters(network, CONFIG)
    network.train()
    started = time.monotonic()
    for step in range(settings.steps):
        rng = np.random.default_rng([seed, step])
        level = int(rng.integers(LEVELS))
        if groups:
            x = training_groups(data, rng, GROUPS, settings.crop)
        else:
            x = data.train.crops(rng, PICTURES, settings.crop)[:, None]
        parameters.refresh()
        loss(network, parameters, x, level).backward()
        rate = min(1.0, (step + 1) / CONFIG.warmup) * min(1.0, (1 - step / settings.steps) / CONFIG.decay)
        averaged = min(CONFIG.ema, (step + 1) / (step + 20))
        parameters.update(data.train.on_device(np.array([rate, 1 - averaged])))
    if settings.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - started
    network.load_state_dict(network.state_dict() | parameters.average)
    network.eval()
    return parameters, settings.steps / seconds


def loss(network: Autoencoder, parameters: Parameters, x: Tensor, level: int) -> Tensor:
    """The loss of a batch of groups of frames at a level."""
    decoded, bits, q = functional_call(network, parameters.working, (x, level, parameters.dtype))
    pixels = x.shape[-1] * x.shape[-2]
    rate = bits.sum((2, 3)).flatten() / pixels
    log2_step = torch.full_like(rate, LOG2_STEPS[level])
    decoded, x = decoded.flatten(0, 1), x.flatten(0, 1)
    d = OBJECTIVE.distortion(measure(decoded, x), log2_step, torch.zeros_like(rate), False)
    return (evenly(log2_step) * (rate + d)).mean() + q.loss


@torch.no_grad()
def evaluate(network: Autoencoder, groups: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """Rates and qualities of held-out groups, (n, T, 3, H, W), at each level; usage of the alphabet at the finest."""
    rows: list[list[list[float]]] = []
    symbols = []
    for group in groups.split(1):
        results = [network(group, level, dtype) for level in range(LEVELS)]
        frames = group.flatten(0, 1)
        qualities = measured(frames, [decoded.flatten(0, 1) for decoded, *_ in results])
        pixels = frames.shape[0] * frames.shape[2] * frames.shape[3]
        beside = class_bits(contrast(group, network.shape.patch)) if network.quantiser.gains else 0.0
        rates = [(float(bits.sum()) + beside) / pixels for _, bits, _ in results]
        rows.append([[rate, *quality] for rate, quality in zip(rates, qualities, strict=True)])
        symbols.append(results[-1][2].symbols)
    return {"points": np.mean(rows, 0).tolist(), "usage": network.quantiser.usage(torch.cat(symbols), LEVELS - 1)}


def class_bits(classes: Tensor) -> float:
    """What classes of contrast, (1, T, h, w), cost with the codec's own code (bsqcodec/stream/contrast.py), in bits."""
    encoder = BitEncoder()
    for frame in classes[0].cpu().numpy():
        encode_classes(frame, encoder)
    return encoder.bits


def run_autoencoder(
    shape: Shape, quantiser: Callable[[Tensor], Quantiser], seed: int, data: Data, settings: Settings,
    groups: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train and measure one variant.

    quantiser: makes one from the spread of the coefficients. Returns "points", of each level bits per pixel, PSNR,
    MS-SSIM and ST-LPIPS; "usage"; "steps per second"; "parameters".
    """
    torch.manual_seed(seed)
    spread, basis = transform(data.train, shape.patch, seed)
    made = quantiser(spread[: shape.channels].cpu())
    made.begin(coefficients(data.train, basis[:, : shape.channels], shape.patch, seed).cpu())
    network = Autoencoder(shape, made, basis).to(settings.device)
    parameters, speed = train(network, seed, data, settings, groups)
    if groups:
        held_out = held_out_groups(data, MEASURED_GROUPS, settings.device)
    else:
        held_out = held_out_pictures(data, MEASURED_PICTURES, settings.device)
    figures = evaluate(network, held_out, parameters.dtype)
    n = sum(p.numel() for p in network.parameters())
    return figures | {"steps per second": speed, "parameters": n}
