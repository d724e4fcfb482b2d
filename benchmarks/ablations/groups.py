"""Into how many groups the coefficients of a token are factorised (token factorisation of MAGVIT-v2, arXiv 2310.05737).

A group is coded at once; it sees those of its token before it, and the tokens of earlier phases.
"""

from typing import Any

from bsqcodec.network.patches import PHASES

from .data import Data, Settings
from .prior_network import CODED, quadratic_groups
from .prior_training import fixed, load, measure, results, start, train

COUNTS = (5, 1, 2, 16)
VARIANTS = {str(n): ", ".join(map(str, quadratic_groups(n))) for n in COUNTS}


def run(variant: str, seed: int, data: Data, settings: Settings) -> dict[str, Any]:
    """Train and measure one factorisation on I frames of (2 * settings.crop)**2 pixels, in the product's phases.

    Returns the figures of `train` and `measure`, and "decoding steps" of a frame.
    """
    tokens, held_out = load(data, settings, "I")
    prior, orders = start(tokens, settings, seed, int(variant)), fixed("phases", settings)
    figures = train(prior, tokens, orders, settings, seed) | measure(prior, held_out, orders)
    return figures | {"decoding steps": len(PHASES) * int(variant)}


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of all runs."""
    return f"Groups of the {CODED} coefficients:\n\n" + results(rows, VARIANTS, {"decoding steps": "steps of decoding"})
