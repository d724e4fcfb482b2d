"""The comparison of backbones of encoder and decoder at equal multiplications, and of masks: groups of four frames.

All but one mask let frames be coded one by one. The quantiser has no gains: the cost of the classes of contrast would
differ by four between patches of 8 and of 16 pixels.
"""

from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .data import GROUP_FRAMES, Data, Settings
from .measures import curves_table
from .network import Autoencoder, Shape
from .quantisers import Planes
from .training import run_autoencoder

BACKBONES = {
    "shift": "the codec's shift block; a quarter of the channels come from the frame before",
    "conv3d": "residual blocks of causal 3-D convolutions, as MAGVIT-v2 has them",
    "attention": "block-causal attention in windows of 8x8 tokens of all frames",
    "shift-8": "shift, with patches of 8 pixels",
    "attention-8": "attention, with patches of 8 pixels, as BSQ-ViT has it",
}
MASKS = {
    "attention": "block-causal: a token sees its own frame and those before",
    "attention-frame": "a token sees its own frame only",
    "attention-full": "a token sees all frames: not decodable frame by frame, for nothing comes before the whole group",
}
VARIANTS = BACKBONES | {name: f"attention; {text}" for name, text in MASKS.items()}
CAUSAL = "block-causal"
# widths make for equal multiplications in encoder and decoder, within 3 %; attention in a frame alone takes 11 % less
# than that of four frames
SHAPES = {
    "shift": Shape("shift", CAUSAL),
    "conv3d": Shape("conv3d", CAUSAL, width=104),
    "attention": Shape("attention", CAUSAL, width=192),
    "shift-8": Shape("shift", CAUSAL, patch=8, channels=48, width=136, prior_width=96),
    "attention-8": Shape("attention", CAUSAL, patch=8, channels=48, width=96, prior_width=96),
    "attention-frame": Shape("attention", "frame", width=192),
    "attention-full": Shape("attention", "full", width=192),
}
QUANTISER = partial(Planes, gamma=0.0)


def run(variant: str, seed: int, data: Data, settings: Settings) -> dict[str, Any]:
    """Train and measure the autoencoder with one backbone or mask; "multiplications" are those of a pixel."""
    shape = SHAPES[variant]
    figures = run_autoencoder(shape, QUANTISER, seed, data, settings, groups=True)
    return figures | {"multiplications": multiplications(shape)}


@torch.no_grad()
def multiplications(shape: Shape) -> float:
    """Multiplications of encoder and decoder for each pixel of groups of four frames, those that a mask hides, too."""
    side = 128
    network = Autoencoder(shape, QUANTISER(torch.ones(shape.channels)), torch.eye(3 * shape.patch**2))
    with FlopCounterMode(display=False) as counter:
        features = network.features(torch.zeros(1, GROUP_FRAMES, *[side // shape.patch] * 2), 0, torch.float32)
        z = network.encode(torch.zeros(1, GROUP_FRAMES, 3, side, side), features, 0, torch.float32)
        network.decode(z, z, features, 0, torch.float32)
    return counter.get_total_flops() / 2 / (GROUP_FRAMES * side * side)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of all runs: backbones against `shift`, then masks against the block-causal one."""
    text = []
    for variants in (BACKBONES, MASKS):
        some = [row for row in rows if row["variant"] in variants]
        more = {"multiplications a pixel": "multiplications", "parameters": "parameters"}
        text.append(curves_table(some, next(iter(variants)), variants, more))
    return "\n".join(text)
