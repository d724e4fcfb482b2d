"""Takes noise off the source of an anchor, with the help of its neighbours in time, before it is encoded.

Noise costs bits in the anchor and, since it does not repeat, once more in every frame that is predicted from it. This
is the filter of the test models of HEVC and VVC (P. Wennersten et al., "Encoder-only GOP-based temporal filter",
JVET-O0549, 2019): the neighbours, moved by vectors, are averaged with the anchor, each pixel the less the more the
neighbour differs around it. How well they agree also tells what of the anchor later frames will inherit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .motion import compensate, quartered
from .motion_search import SOURCE_LAMBDA, search_field

REACH = 4  # frames on either side
STRENGTH = (0.6, 0.4, 0.29, 0.23)  # weight of a neighbour that agrees, where the anchor has 1, by its distance
DEVIATION = 0.5  # standard deviation of the differences that count as noise, in quantiser steps
_WINDOW = 5  # pixels across which differences are averaged


def temporal_filter(sources: dict[int, Tensor], number: int, step: float) -> Tensor:
    """The frame `number` without what its neighbours in time do not share.

    sources: frames by number, uint8 (1, 3, H, W), sides multiples of 16; those within `REACH` of `number` count, as far
    as there is no gap. step: quantiser step in pixel values. Returns integers 0..255, float32 (1, 3, H, W).
    """
    now = sources[number]
    x = now.float()
    total, weights = x.clone(), torch.ones_like(x[:, :1])
    for direction in (-1, 1):
        vectors = None
        for distance, strength in enumerate(STRENGTH, 1):
            neighbour = sources.get(number + direction * distance)
            if neighbour is None:
                break
            start: Tensor | None = None if vectors is None else vectors * distance // (distance - 1)
            vectors = search_field(now, neighbour, SOURCE_LAMBDA, start, start is None).v
            moved = compensate(neighbour, quartered(vectors))
            difference = (moved - x).square_().mean(1, keepdim=True)
            difference = F.avg_pool2d(difference, _WINDOW, 1, _WINDOW // 2, count_include_pad=False)
            weight = strength * torch.exp(difference / (-2 * (DEVIATION * step) ** 2))
            total += weight * moved
            weights += weight
    return (total / weights).round_()
