"""The comparison of backbones: groups of four frames, masks that let them be coded one by one, equal multiplications.

Patches of 8 and of 16 pixels are compared, too. There is no class of contrast here: its cost, which is not counted,
would differ by four.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .data import GROUP_FRAMES, Data, Settings
from .measures import MEASURES, compared, curve
from .network import Autoencoder, Quantised, Shape
from .quantisers import Planes
from .training import run_autoencoder

BASELINE = "shift"
VARIANTS = {
    "shift": "the codec's shift block; a quarter of the channels come from the frame before",
    "conv3d": "residual blocks of causal 3-D convolutions, as MAGVIT-v2 has them",
    "attention": "block-causal attention in windows of 8x8 tokens of all frames",
    "shift-8": "shift, with patches of 8 pixels",
    "attention-8": "attention, with patches of 8 pixels, as BSQ-ViT has it",
}
CAUSAL = "block-causal"
# widths make for equal multiplications in encoder and decoder, within 3 %
SHAPES = {
    "shift": Shape("shift", CAUSAL),
    "conv3d": Shape("conv3d", CAUSAL, width=104),
    "attention": Shape("attention", CAUSAL, width=192),
    "shift-8": Shape("shift", CAUSAL, patch=8, channels=48, width=136, prior_width=96),
    "attention-8": Shape("attention", CAUSAL, patch=8, channels=48, width=96, prior_width=96),
}


class EvenPlanes(Planes):
    """Bit planes without gains: steps are those of the level."""

    gains = False

    def forward(self, z: Tensor, level: int, classes: Tensor) -> Quantised:
        return super().forward(z, level, torch.zeros_like(classes))


def run(variant: str, seed: int, data: Data, settings: Settings) -> dict[str, Any]:
    """Train and measure the autoencoder with one backbone."""
    return run_groups(SHAPES[variant], seed, data, settings)


def run_groups(shape: Shape, seed: int, data: Data, settings: Settings) -> dict[str, Any]:
    """Train and measure an autoencoder of groups of frames; "multiplications" are those of a pixel."""
    figures = run_autoencoder(shape, EvenPlanes, seed, data, settings, groups=True)
    return figures | {"multiplications": multiplications(shape)}


@torch.no_grad()
def multiplications(shape: Shape) -> float:
    """Multiplications of encoder and decoder for each pixel of groups of four frames, those that a mask hides, too."""
    side = 128
    network = Autoencoder(shape, EvenPlanes(torch.ones(shape.channels)), torch.eye(3 * shape.patch**2))
    with FlopCounterMode(display=False) as counter:
        features = network.features(torch.zeros(1, GROUP_FRAMES, *[side // shape.patch] * 2), 0, torch.float32)
        z = network.encode(torch.zeros(1, GROUP_FRAMES, 3, side, side), features, 0, torch.float32)
        network.decode(z, z, features, 0, torch.float32)
    return counter.get_total_flops() / 2 / (GROUP_FRAMES * side * side)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of all runs."""
    return table_of(rows, BASELINE, VARIANTS)


def table_of(rows: list[dict[str, Any]], baseline: str, variants: dict[str, str]) -> str:
    """Markdown of runs, with BD-rates against the baseline's run of the same seed."""
    lines = [
        "| variant | seed | BD-rate by PSNR, MS-SSIM, ST-LPIPS | multiplications a pixel | parameters | steps a second "
        f"| {', '.join(MEASURES)} of each level |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in compared(rows, baseline):
        rates = ", ".join(f"{value:+.1f} %" for value, _ in row["against"])
        cells = [row["variant"], row["seed"], rates, f"{row['multiplications']:.0f}", row["parameters"]]
        cells += [f"{row['steps per second']:.1f}", curve(row["points"])]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", *(f"- {name}: {what}" for name, what in variants.items()), ""])
