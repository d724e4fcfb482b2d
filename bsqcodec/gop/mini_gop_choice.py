"""Chooses how far it is from an anchor to the next one, from the sources alone and before any of them is encoded.

B frames pay where frames follow from others: the better an anchor is predicted from the one before, the farther it may
be (x264's `b-adapt` and SVT-AV1's dynamic mini-GOPs decide by like estimates).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..network.patches import TOKEN
from .motion import compensate, flat, quartered
from .motion_search import SOURCE_LAMBDA, search_field

SHORT, USUAL, LONGEST = 2, 4, 16  # frames from one anchor to the next
# What the anchor costs that is `USUAL` frames away, in what it costs without prediction, from which on it is too far.
HARD = 0.4
COARSE = 40.0  # quantiser step, in pixel values, below which it never is: B frames then bring what they cost
OTHER_SCENE = 0.9  # from here on it shows another one, and the B frames before it follow from one side or the other
EASY = 0.12  # the same of one that is farther away, up to which it is not too far
MANY_PIXELS = 1 << 24  # of a frame, of which no more than for `USUAL` are kept waiting
NOISE = 0.3  # standard deviation of errors that cost next to nothing, in quantiser steps


class MiniGopChoice:
    """The choice of one mini-GOP's length. It looks no further ahead than it must, for every frame that waits is kept.

    Args:
        anchor: number of the frame before the mini-GOP.
        step: quantiser step in pixel values.
    """

    def __init__(self, anchor: int, step: float):
        self._anchor, self._step = anchor, step
        self._length = USUAL  # the best one so far
        self._share: float | None = None  # of the cost without prediction, what an anchor there costs

    def length(self, sources: dict[int, Tensor], last: int, ending: bool) -> int | None:
        """The number of frames of the mini-GOP: `SHORT`, `USUAL`, 8 or `LONGEST`; None as long as more must be seen.

        sources: frames by number, uint8 (1, 3, H, W), sides multiples of 16, from the anchor on up to `last`. ending:
        whether no more will come; then it may also be what is left of the frames, if that is less than `USUAL`.
        """
        left = last - self._anchor
        if self._share is None:
            if left < USUAL and not ending:
                return None
            if left <= SHORT:
                return left
            self._length = min(USUAL, left)
            self._share = self._cost_share(sources, self._length)
        if self._share > HARD:
            return SHORT if self._share < OTHER_SCENE and self._step >= COARSE else self._length
        longest = LONGEST if sources[self._anchor][0, 0].numel() <= MANY_PIXELS else USUAL
        while self._share <= EASY and self._length < longest:
            if left < 2 * self._length:
                return self._length if ending else None
            self._share = self._cost_share(sources, 2 * self._length)
            if self._share <= EASY:
                self._length *= 2
        return self._length

    def _cost_share(self, sources: dict[int, Tensor], distance: int) -> float:
        """What the frame costs that is so far from the anchor and predicted from it, in what it costs alone."""
        reference, frame = sources[self._anchor], sources[self._anchor + distance]
        vectors = search_field(frame, reference, SOURCE_LAMBDA).v
        moved = compensate(reference, quartered(vectors))
        return self._cost(frame - moved) / (self._cost(frame - flat(frame.float())) + 1e-9)

    def _cost(self, difference: Tensor) -> float:
        """What it costs to code a difference, (1, 3, H, W), in a unit of its own."""
        errors = F.avg_pool2d(difference.square().mean(1, keepdim=True), TOKEN)
        return float(torch.log2(1 + errors / (NOISE * self._step) ** 2).mean())
