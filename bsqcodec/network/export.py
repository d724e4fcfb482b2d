"""Weights in real numbers to the integers of a model file, and back.

A matrix is kept as int8; row r has shift[r] fractional bits, so many that its largest weights still fit. The gain of a
norm is folded into the matrix that follows it, and the unit of the views into those that see them. The encoder, which
need not be exact, is kept in the same way.
"""

import torch
from torch import Tensor

from .layers import ACT_BITS, ACT_MAX, INT8_MAX, LIMIT, RES_BITS
from .prior import HEAD_BITS, HIDDEN_MAX, TABLE_BITS
from .quantiser import WEIGHT_BITS
from .quantiser_tables import FREQUENCY_EXPONENT, tables
from .tokenizer import CORRECTION_BITS, RING_BITS, TRANSFORM_BITS
from .unrounded import Unrounded
from .unrounded_layers import Mat, Norm
from .views import VIEW_BITS, VIEW_MAX, VIEW_ONE

SHIFT_MAX = 18
VIEW_SCALE = 2.0**VIEW_BITS / VIEW_ONE  # of matrices that see views: these are in 1/VIEW_ONE, as if in 1/2**VIEW_BITS
VIEW_MATRICES = ("d_in", "d_prediction", "p_known", "p_prediction", "p_seen")
NORM_FOLLOWERS = {"e_norm": "e_out", "d_norm": "d_split", "d_last": "d_out", "p_norm": "p_head"}
# A sum of products with i-bit inputs is shifted by shift + i - o to o bits, at least by 1 (`Linear`)
MIN_SHIFT = RES_BITS - RING_BITS + 1
MIN_SHIFTS = {
    "d_out": CORRECTION_BITS - ACT_BITS + 1,
    "p_head": HEAD_BITS - ACT_BITS + 1,
    "p_out": TABLE_BITS - ACT_BITS + 1,
}


def _gains(network: Unrounded) -> dict[str, Norm]:
    """The norm in front of a matrix, by the matrix's name."""
    out = {}
    for name, module in network.named_modules():
        if isinstance(module, Norm):
            follower = NORM_FOLLOWERS.get(name) or name.removesuffix(".n") + ".a"
            out[follower] = module
    return out


def _matrices(network: Unrounded) -> dict[str, Mat]:
    return {name: module for name, module in network.named_modules() if isinstance(module, Mat)}


def round_rows(w: Tensor, min_shift: int, in_max: int = ACT_MAX) -> tuple[Tensor, Tensor]:
    """Integers within +-127 and the fractional bits of each row, at least `min_shift`; w: (n_out, n_in) real.

    Of the bits that hold the largest weight and one more, those with the smaller squared error; less where a sum of
    products with inputs within +-`in_max` could pass what is exact, as it could if all weights of a row are alike.
    """
    w = w.detach().double()
    largest = w.abs().amax(1).clamp(min=2.0**-30)
    shift = torch.floor(torch.log2(INT8_MAX / largest)).clamp(min_shift, SHIFT_MAX)

    def rounded(shift: Tensor) -> Tensor:
        return torch.floor(w * 2 ** shift[:, None] + 0.5).clamp(-INT8_MAX, INT8_MAX)

    def error(shift: Tensor) -> Tensor:
        return (rounded(shift) * 2 ** -shift[:, None] - w).square().sum(1)

    more = (shift + 1).clamp(max=SHIFT_MAX)
    shift = torch.where(error(more) < error(shift), more, shift)
    excess = rounded(shift).abs().sum(1) * (in_max / LIMIT)
    shift = (shift - torch.log2(excess).floor().add(1).clamp(min=0)).clamp(min=min_shift)
    return rounded(shift).to(torch.int8), shift.to(torch.int8)


@torch.no_grad()
def integers(network: Unrounded) -> dict[str, Tensor]:
    """All integers of a model: what decoder and prior need and, under names that begin with "e", the encoder."""
    gains, out = _gains(network), {}
    for name, module in _matrices(network).items():
        w = module.w.detach().double()
        if name in gains:
            w = w * gains[name].w.double()
        stem = name.split(".")[0]
        if stem in VIEW_MATRICES:
            w = w * VIEW_SCALE
        min_shift = MIN_SHIFTS.get(stem, MIN_SHIFT)
        in_max = HIDDEN_MAX if stem == "p_out" else VIEW_MAX if stem in VIEW_MATRICES else ACT_MAX
        out[f"{name}.w"], out[f"{name}.shift"] = round_rows(w, min_shift, in_max)
    for name, bits, limit in _values(network):
        value = network.get_parameter(name).detach().double() * 2.0**bits
        out[name] = torch.floor(value + 0.5).clamp(-limit, limit - 1).to(torch.int16)
    out["basis"] = torch.floor(network.basis.double() * 2**TRANSFORM_BITS + 0.5).to(torch.int16)
    out |= tables(network.frequency)
    return {name: t.cpu().contiguous() for name, t in out.items()}


def _values(network: Unrounded) -> list[tuple[str, int, int]]:
    """Parameters that are neither matrices nor norms: name, fractional bits, bound."""
    names = [name for name, _ in network.named_parameters() if name.endswith(".bias")]
    return [(name, 2 * ACT_BITS, 1 << 15) for name in names] + [
        ("p_phase", RES_BITS, 1 << 15),
        ("p_bias", TABLE_BITS, 1 << 15),
    ]


def _shapes(network: Unrounded) -> dict[str, torch.Size]:
    """The shapes of the tensors that `integers` gives."""
    out = {name: t.shape for name, t in tables(network.frequency).items()}
    for name, module in _matrices(network).items():
        out[f"{name}.w"], out[f"{name}.shift"] = module.w.shape, module.w.shape[:1]
    out |= {name: network.get_parameter(name).shape for name, _, _ in _values(network)}
    return out | {"basis": network.basis.shape}


@torch.no_grad()
def restore(network: Unrounded, stored: dict[str, Tensor]) -> None:
    """Fill a network from the integers of `integers`. Raises ValueError if they are not those of its configuration."""
    if {name: t.shape for name, t in stored.items()} != _shapes(network):
        raise ValueError("other tensors than the configuration asks for")
    gains = _gains(network)
    for name, module in _matrices(network).items():
        w = stored[f"{name}.w"].double() * 2.0 ** -stored[f"{name}.shift"].double()[:, None]
        if name in gains:
            w = w / gains[name].w.double()
        module.w.copy_(w / VIEW_SCALE if name.split(".")[0] in VIEW_MATRICES else w)
    for name, bits, _ in _values(network):
        network.get_parameter(name).copy_(stored[name].double() * 2.0**-bits)
    network.basis.copy_(stored["basis"].double() * 2.0**-TRANSFORM_BITS)
    weight = stored["quantiser.weight"][0].double() * 2.0**-WEIGHT_BITS
    network.frequency.copy_(torch.log2(weight) / FREQUENCY_EXPONENT[0])
