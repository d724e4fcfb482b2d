"""What the prior of a P frame sees of the frame before: nothing, the motion-compensated prediction, or no motion."""

from typing import Any

from .data import Data, Settings
from .prior_training import fixed, load, measure, results, start, train

GROUPS = 4
VARIANTS = {
    "prediction": "the prediction's means and coefficients, as in the product",
    "none": "nothing but the class of contrast, which the quantiser takes from the prediction",
    "before": "the coefficients of the decoded frame before in the same place, without motion",
}


def run(variant: str, seed: int, data: Data, settings: Settings) -> dict[str, Any]:
    """Train and measure one context on P frames of (2 * settings.crop)**2 pixels, in the product's phases.

    Returns the figures of `train` and `measure`.
    """
    tokens, held_out = load(data, settings, "P")
    prior, orders = start(tokens, settings, seed, GROUPS, variant != "none"), fixed("phases", settings)
    return train(prior, tokens, orders, settings, seed, variant) | measure(prior, held_out, orders, variant)


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of all runs."""
    return results(rows, VARIANTS, {})
