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

SHORT, USUAL, LONG = 2, 4, 8  # frames from one anchor to the next
MOTION_LAMBDA = 4.0  # luma SAD that a bit of the vectors is worth here
# From this part of what frames cost without prediction on, one `USUAL` frames ahead is too far to predict from.
HARD = 0.35
EASY = 0.2  # up to this part of it, `LONG` frames are tried
# What one mini-GOP of `LONG` frames may cost, in the cost of two of `USUAL` ones.
GAIN = 0.93
NOISE = 0.3  # standard deviation of errors that cost next to nothing, in quantiser steps


def mini_gop_length(sources: dict[int, Tensor], anchor: int, last: int, step: float) -> int:
    """The number of frames from an anchor to the next one, `SHORT`, `USUAL` or `LONG`; fewer at the end of a group.

    sources: frames by number, uint8 (1, 3, H, W), sides multiples of 16, from `anchor` on up to `last`, of which those
    beyond `anchor` + `LONG` do not count. step: quantiser step in pixel values.
    """
    length = min(USUAL, last - anchor)
    if length <= SHORT:
        return length
    now, middle = sources[anchor], sources[anchor + length]
    before = _moved(now, middle)
    cost = _cost(middle - before, step)
    flat = F.interpolate(F.avg_pool2d(middle.float(), TOKEN), scale_factor=float(TOKEN))
    alone = _cost(middle - flat, step)
    if cost > HARD * alone:
        return SHORT
    if cost > EASY * alone or anchor + LONG > last:
        return length
    far = sources[anchor + LONG]
    two = cost + _cost(far - _moved(middle, far), step)
    after = _moved(far, middle)
    between = [_errors(middle - option) for option in (before, after, mean(before, after))]
    one = _cost(far - _moved(now, far), step) + _bits(torch.stack(between).amin(0), step)
    return LONG if one <= GAIN * two else length


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
