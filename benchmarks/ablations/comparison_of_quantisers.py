"""The comparison of quantisers: the same networks, data, seeds and steps."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .data import Data, Settings
from .measures import curves_table
from .network import Quantiser, Shape
from .quantisers import Planes
from .training import run_autoencoder

BASELINE = "planes"
VARIANTS = {"planes": "BSQ planes with gains: the codec's"}
MAKERS: dict[str, Callable[[Tensor], Quantiser]] = {"planes": Planes}


def run(variant: str, seed: int, data: Data, settings: Settings) -> dict[str, Any]:
    """Train and measure the autoencoder with one quantiser."""
    return run_autoencoder(Shape(), MAKERS[variant], seed, data, settings)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of all runs."""
    return curves_table(rows, BASELINE, VARIANTS)
