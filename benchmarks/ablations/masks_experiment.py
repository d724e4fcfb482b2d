"""The comparison of masks of attention: which frames of a group encoder and decoder see."""

from dataclasses import replace
from typing import Any

from .backbones_experiment import SHAPES, run_groups, table_of
from .data import Data, Settings

BASELINE = "block-causal"
VARIANTS = {
    "block-causal": "a token sees its own frame and those before: its run is that of the backbone `attention`",
    "frame": "a token sees its own frame only",
    "full": "a token sees all frames: no frame can be decoded before the whole group has come",
}


def run(variant: str, seed: int, data: Data, settings: Settings) -> dict[str, Any]:
    """Train and measure the autoencoder of attention with one mask."""
    return run_groups(replace(SHAPES["attention"], mask=variant), seed, data, settings)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of all runs."""
    return table_of(rows, BASELINE, VARIANTS)
