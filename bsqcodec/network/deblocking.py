"""The deblocking filter: softens the borders of tokens, which else would show as blocks. Part of every decoder."""

import torch
from torch import Tensor

from .layers import scale
from .patches import TOKEN

EDGE = 6  # times the bound: a step at a border that is as steep as this is an edge of the picture's own
REACH = 3  # pixels on each side of a border that are looked at


def smooth(x: Tensor, bound: int, depth: int = 8) -> Tensor:
    """Change the pixels on each side of every border of tokens by at most `bound`, 0..2; exact in every type.

    x: pixels of `depth` bits, integers (B, 3, H, W), which is used up; of more than 8 bits the bound is that of 8,
    scaled. First along rows, then along columns; p2 p1 p0 | q0 q1 q2 are the pixels around a border. Steeper
    differences than blocks make stay as they are (compare ITU-T H.264, 8.7.2).
    """
    bound <<= depth - 8
    if not bound:
        return x
    for axis in (3, 2):
        size = x.shape[axis] - TOKEN + REACH  # from the first border's p2 on
        if x.shape[axis] < 2 * TOKEN:
            continue
        borders = x.narrow(axis, TOKEN - REACH, size).unfold(axis, 2 * REACH, TOKEN)
        p2, p1, p0, q0, q1, q2 = borders.clone().unbind(-1)
        soft = (p0 - q0).abs() < EDGE * bound
        d = scale(4 * (q0 - p0) + p1 - q1, -3, -bound, bound) * soft
        half = bound >> 1
        more_p = scale(p2 + p0 - 2 * p1 + 2 * d, -2, -half, half) * soft
        more_q = scale(q2 + q0 - 2 * q1 - 2 * d, -2, -half, half) * soft
        borders.copy_(torch.stack([p2, p1 + more_p, p0 + d, q0 - d, q1 + more_q, q2], -1))
    return x.clamp_(0, (1 << depth) - 1)
