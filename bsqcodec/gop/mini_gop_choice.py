"""Chooses how far it is from an anchor to the next one, from the sources alone and before any of them is encoded.

B frames pay where the frames between two anchors follow from these: the more they do, the longer a mini-GOP may be
(x264's `b-adapt` and SVT-AV1's dynamic mini-GOPs decide by like estimates).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..network.patches import TOKEN
from .motion import compensate, mean
from .motion_search import search_field

SHORT, USUAL, LONGEST = 2, 4, 16  # frames from one anchor to the next
MOTION_LAMBDA = 4.0  # luma SAD that a bit of the vectors is worth here
# From this part on of what an anchor costs without prediction, it is predicted from too far away.
HARD = 0.35
EASY = 0.2  # up to this part of it, twice the length is tried
GAIN = 0.93  # what one mini-GOP of twice the length may cost, in the cost of two
NOISE = 0.3  # standard deviation of errors that cost next to nothing, in quantiser steps


class MiniGopChoice:
    """The choice of one mini-GOP's length. It looks no further ahead than it must, for every frame that waits is kept.

    Args:
        anchor: number of the frame before the mini-GOP.
        step: quantiser step in pixel values.
    """

    def __init__(self, anchor: int, step: float):
        self._anchor, self._step = anchor, step
        self._length = USUAL  # that is known to be better than a shorter one, once there is a cost
        self._cost = 0.0  # of its anchor
        self._easy: bool | None = None  # whether a longer one is to be tried

    def length(self, sources: dict[int, Tensor], last: int, ending: bool) -> int | None:
        """The number of frames of the mini-GOP: `SHORT`, `USUAL`, 8 or `LONGEST`; None as long as more must be seen.

        sources: frames by number, uint8 (1, 3, H, W), sides multiples of 16, from the anchor on up to `last`. ending:
        whether no more will come; then it may also be what is left of the frames, if that is less than `USUAL`.
        """
        left = last - self._anchor
        if self._easy is None:
            if left < USUAL and not ending:
                return None
            if left <= SHORT:
                return left
            self._length = min(USUAL, left)
            self._cost, share = self._predicted(sources, self._length)
            if share > HARD:
                return SHORT
            self._easy = share <= EASY and self._length == USUAL
        while self._easy and self._length < LONGEST:
            if 2 * self._length > left:
                return self._length if ending else None
            self._try_twice(sources)
        return self._length

    def _try_twice(self, sources: dict[int, Tensor]) -> None:
        """Compare a mini-GOP of twice the length with two of this one."""
        now, middle, far = (sources[self._anchor + i * self._length] for i in range(3))
        two = self._cost + _cost(far - _moved(middle, far), self._step)
        cost, share = self._predicted(sources, 2 * self._length)
        before, after = _moved(now, middle), _moved(far, middle)
        between = [_errors(middle - option) for option in (before, after, mean(before, after))]
        self._easy = cost + _bits(torch.stack(between).amin(0), self._step) <= GAIN * two
        if self._easy:
            self._length, self._cost, self._easy = 2 * self._length, cost, share <= EASY

    def _predicted(self, sources: dict[int, Tensor], distance: int) -> tuple[float, float]:
        """What the frame costs that is so far from the anchor and predicted from it, and its part of what it costs
        without prediction."""
        frame = sources[self._anchor + distance]
        flat = F.interpolate(F.avg_pool2d(frame.float(), TOKEN), scale_factor=float(TOKEN))
        cost = _cost(frame - _moved(sources[self._anchor], frame), self._step)
        return cost, cost / (_cost(frame - flat, self._step) + 1e-9)


def _moved(reference: Tensor, frame: Tensor) -> Tensor:
    """The prediction of a frame from a reference, float32."""
    vectors = search_field(frame, reference, MOTION_LAMBDA).v
    return compensate(reference, vectors.repeat_interleave(2, 1).repeat_interleave(2, 2))


def _errors(difference: Tensor) -> Tensor:
    """Mean squared error of each token."""
    return F.avg_pool2d(difference.square().mean(1, keepdim=True), TOKEN)


def _bits(errors: Tensor, step: float) -> float:
    """What errors of tokens cost, in a unit of its own."""
    return float(torch.log2(1 + errors / (NOISE * step) ** 2).mean())


def _cost(difference: Tensor, step: float) -> float:
    return _bits(_errors(difference), step)
