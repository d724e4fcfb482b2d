"""The form in which the networks see coefficients: three bounded views of each value, which fit int8.

A value in quantiser steps is seen itself within +-1, as a quarter within +-1, and as a twentieth within +-2. Views are
integers in units of 1/60, which 4 and 20 divide; a matrix that sees them is kept times 64/60, as if they had VIEW_BITS
fractional bits.
"""

import torch
from torch import Tensor

from .layers import Linear, Tensors, linear
from .quantiser import COEFFICIENTS

VIEW_BITS = 6
VIEW_ONE, VIEW_MAX = 60, 120
VALUE_MAX = 20 * VIEW_MAX  # larger values look alike


def views(y: Tensor) -> Tensor:
    """The views of values in units of 1/60 step, (..., C) to (..., 3 C), within +-120; quotients are rounded."""
    if y.is_floating_point():
        fourth, twentieth = ((y + 2) * 0.25).floor_(), ((y + 10) * 0.05).floor_()
    else:
        fourth, twentieth = (y + 2) >> 2, torch.div(y + 10, 20, rounding_mode="floor")
    near, middle, far = y.clamp(-VIEW_ONE, VIEW_ONE), fourth.clamp_(-VIEW_ONE, VIEW_ONE), twentieth
    return torch.cat([near, middle, far.clamp_(-VIEW_MAX, VIEW_MAX)], -1)


def whole_views(y: Tensor) -> Tensor:
    """The views of whole steps, integers (..., C): the same as `views` of 60 y, in fewer operations."""
    # 60, a fourth and a twentieth of it
    return torch.cat([y.clamp(-1, 1) * 60, y.clamp(-4, 4) * 15, y.clamp(-40, 40) * 3], -1)


class ViewLayers:
    """The layers of a model that see views. Where fewer than all coefficients are coded a layer has fewer columns.

    Each is made when it is needed first, and kept.

    Args:
        tensors: the integers of a model on their device.
        dtype: float32, or int64 for the oracle.
    """

    def __init__(self, tensors: Tensors, dtype: torch.dtype):
        self._tensors, self._dtype = tensors, dtype
        self._made: dict[tuple[str, int], Linear] = {}

    def __call__(self, name: str, n_coded: int) -> Linear:
        """The layer `name` for the three views of the first `n_coded` coefficients."""
        key = name, n_coded
        if key not in self._made:
            k = torch.arange(n_coded, device=self._tensors[f"{name}.w"].device)
            columns = torch.cat([k, k + COEFFICIENTS, k + 2 * COEFFICIENTS])
            self._made[key] = linear(self._tensors, name, self._dtype, columns, in_bits=VIEW_BITS, in_max=VIEW_MAX)
        return self._made[key]
