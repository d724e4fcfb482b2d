"""The order in which the tokens of a frame are coded: one network, trained for and measured in each order."""

from functools import partial
from typing import Any

import numpy as np

from .data import Data, Settings
from .prior_network import MASKGIT_STEPS, random_order
from .prior_training import Orders, fixed, load, measure, measure_by_confidence, results, start, train

GROUPS = 4  # of coefficients of a token, as the product's networks code of so many
VARIANTS = {
    "phases": "four steps, each token of a cell of 2x2, as in the product",
    "none": "all at once, each token from nothing but its conditions",
    "raster": "one token after the other, row by row",
    "maskgit": f"{MASKGIT_STEPS} sets, those of least entropy first; trained on random sets of a cosine schedule",
}


def run(variant: str, seed: int, data: Data, settings: Settings) -> dict[str, Any]:
    """Train and measure one order on I frames of (2 * settings.crop)**2 pixels.

    Returns the figures of `train` and `measure`; "decoding steps" of a frame, one for each group of a set; and for
    "maskgit" the bits per pixel of random sets in place of those by confidence.
    """
    tokens, held_out = load(data, settings, "I")
    prior = start(tokens, settings, seed, GROUPS)
    if variant == "maskgit":
        orders: Orders = partial(random_order, tokens=tokens.q.shape[1])
    else:
        orders = fixed(variant, settings)
    figures = train(prior, tokens, orders, settings, seed)
    measured = measure(prior, held_out, orders)
    sets = len(np.unique(orders(np.random.default_rng(0), 1)))
    if variant == "maskgit":
        figures["bpp of random sets"] = measured["bpp"]
        measured = measure_by_confidence(prior, held_out)
    return figures | measured | {"decoding steps": sets * GROUPS}


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of all runs, and what random sets cost."""
    text = results(rows, VARIANTS, {"decoding steps": "steps of decoding"})
    random = [f"{row['bpp of random sets']:.4f}" for row in rows if row["variant"] == "maskgit"]
    if random:
        text += f"\n\n`maskgit` with random sets in place of those by confidence: {', '.join(random)}."
    return text
