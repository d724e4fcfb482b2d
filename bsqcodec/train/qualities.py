"""Qualities of the frames of a sequence in training, drawn so that they are as varied as an encoder makes them."""

from collections.abc import Sequence

import numpy as np

from ..gop.quality import P_OFFSETS
from ..network.quantiser import log2_step
from .sampler import SequenceFrame

# log2 of the quantiser step of all P frames over that of the I frame; one is drawn
P_STEP_OFFSETS = (0.0, 0.1, 0.2, 0.4)
B_STEP_OFFSET = 0.9  # bound of the same of each B frame, which is evenly distributed from 0
LOG2_PER_QUALITY = float(log2_step(1) - log2_step(2))  # by which log2 of the quantiser step falls per unit of quality


def draw_quantiser_steps(
    rng: np.random.Generator, order: Sequence[SequenceFrame], level: np.ndarray, high: float
) -> np.ndarray:
    """log2 of the quantiser step of every frame of a batch of sequences, (frames, n), frames in the order of coding.

    In half of the sequences the quality of the P frames changes from one to the next, as the encoder's does.

    Args:
        level: log2 of the quantiser steps of the I frames, (n,).
        high: the largest value that any frame gets.
    """
    n = len(level)
    offset, first = rng.choice(P_STEP_OFFSETS, n), rng.integers(len(P_OFFSETS))
    swing = LOG2_PER_QUALITY * rng.integers(2, size=n)
    offsets = np.zeros((len(order), n))
    for a, frame in enumerate(order):
        if len(frame.references) == 1:
            offsets[a] = offset + swing * P_OFFSETS[(first + a) % len(P_OFFSETS)]
        elif frame.references:
            offsets[a] = B_STEP_OFFSET * rng.random(n)
    return np.minimum(level + offsets, high)
