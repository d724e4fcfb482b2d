"""The comparison of quantisers: the same networks, data, seeds and steps.

What differs with the quantiser is the loss, too. The rate of planes and of rounding reaches the encoder. Those of bits
and codes have a number of symbols for each level, and losses of their papers; the rate trains their priors alone. Rates
count all that a decoder needs: the classes of contrast, too, where steps follow them.

Knobs were tried with 60 steps, after which the result is still worse than the linear start. The weight of the entropy
terms of BSQ (0, .1) and of LFQ (.02, .1, with a commitment of .05, .25) moved no level by more than .06 dB of PSNR; FSQ
at a scale of 1 takes 6 to 15 % more bits and loses .3 to 1.1 dB against .75. VQ has the commitment of its paper. What
quantisers have before they are trained, `--steps 1` tells: VQ, whose codes follow an encoder that moves, then has more
at its finer levels than after 600 steps (32.3 dB of PSNR at the finest, not 30.6).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from .binary_quantisers import LookupFreeSigns, SphericalSigns
from .code_quantisers import FiniteScalars, Vectors
from .data import Data, Settings
from .measures import curves_table
from .network import Quantiser, Shape
from .quantisers import Planes, Rounding
from .training import run_autoencoder

BASELINE = "planes"
VARIANTS = {
    "planes": "BSQ in bit planes with gains: the codec's",
    "planes-without-gains": "the same with one step for all tokens of a level",
    "rounding": "rounding, with uniform noise in training and the rate in the loss; no gains",
    "rounding-mixed": "the same, but decoder and prior see rounded values in training, and only the rate sees noise",
    "bsq": "BSQ on one sphere (arXiv 2406.07548), 48 to 480 bits a token before they are coded",
    "lfq": "LFQ (MAGVIT-v2, arXiv 2310.05737), as many bits",
    "fsq": "FSQ (arXiv 2309.15505), alphabets that make up 32 to 320 bits",
    "vq": "VQ in 3 to 18 stages of 9 bits with moving averages as codes",
}
MAKERS: dict[str, Callable[[Tensor], Quantiser]] = {
    "planes": Planes,
    "planes-without-gains": partial(Planes, gamma=0.0),
    "rounding": partial(Rounding, noise=True),
    "rounding-mixed": partial(Rounding, noise=False),
    "bsq": partial(SphericalSigns, weight=0.1, gamma=1.0, inverse_temperature=2.0),
    "lfq": partial(LookupFreeSigns, weight=0.1, gamma=1.0, inverse_temperature=1.0, commitment=0.25),
    "fsq": partial(FiniteScalars, scale=0.75),
    "vq": partial(Vectors, commitment=0.25),
}


def run(variant: str, seed: int, data: Data, settings: Settings) -> dict[str, Any]:
    """Train and measure the autoencoder with one quantiser."""
    return run_autoencoder(Shape(), MAKERS[variant], seed, data, settings)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of all runs. The rates are the code length of the prior."""
    return curves_table(rows, BASELINE, VARIANTS)
