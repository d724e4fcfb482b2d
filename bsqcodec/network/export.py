"""Weights in real numbers to the integers of a model file, and back.

A matrix is kept as int8; row r has shift[r] fractional bits, so many that its largest weights still fit. The gain of a
norm is folded into the matrix that follows it, and the unit of the views into those that see them. The encoder, which
need not be exact, is kept in the same way.
"""

import torch
from torch import Tensor

from .layers import ACT_BITS, ACT_MAX, LIMIT, RES_BITS
from .prior import HEAD_BITS, HIDDEN_MAX, TABLE_BITS
from .quantiser import WEIGHT_BITS, tables
from .tokenizer import CORRECTION_BITS, TRANSFORM_BITS, VIEW_BITS, VIEW_MAX, VIEW_ONE
from .unrounded import Mat, Norm, Unrounded

SHIFT_MAX = 18
_VIEWS = 2.0**VIEW_BITS / VIEW_ONE
_NORMS = {"e_norm": "e_out", "d_norm": "d_split", "d_last": "d_out", "p_norm": "p_head"}
_SEEING = ("d_in", "d_prediction", "p_known", "p_prediction", "p_seen")
_LEAST = {
    "d_out": CORRECTION_BITS - ACT_BITS + 1,
    "p_head": HEAD_BITS - ACT_BITS + 1,
    "p_out": TABLE_BITS - ACT_BITS + 1,
}


def _gains(network: Unrounded) -> dict[str, Norm]:
    """The norm in front of a matrix, by the matrix's name."""
    out = {}
    for name, module in network.named_modules():
        if isinstance(module, Norm):
            follower = _NORMS.get(name) or name.removesuffix(".n") + ".a"
            out[follower] = module
    return out


def _matrices(network: Unrounded) -> dict[str, Mat]:
    return {name: module for name, module in network.named_modules() if isinstance(module, Mat)}


def round_rows(w: Tensor, least: int, in_max: int = ACT_MAX) -> tuple[Tensor, Tensor]:
    """Integers within +-127 and the fractional bits of each row, at least `least`; w: (n_out, n_in) real.

    Of the bits that hold the largest weight and one more, those with the smaller squared error; less where a sum of
    products with inputs within +-`in_max` could pass what is exact, as it could if all weights of a row are alike.
    """
    w = w.detach().double()
    largest = w.abs().amax(1).clamp(min=2.0**-30)
    shift = torch.floor(torch.log2(127 / largest)).clamp(least, SHIFT_MAX)

    def rounded(shift: Tensor) -> Tensor:
        return torch.floor(w * 2 ** shift[:, None] + 0.5).clamp(-127, 127)

    def error(shift: Tensor) -> Tensor:
        return (rounded(shift) * 2 ** -shift[:, None] - w).square().sum(1)

    more = (shift + 1).clamp(max=SHIFT_MAX)
    shift = torch.where(error(more) < error(shift), more, shift)
    excess = rounded(shift).abs().sum(1) * (in_max / LIMIT)
    shift = (shift - torch.log2(excess).floor().add(1).clamp(min=0)).clamp(min=least)
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
        if stem in _SEEING:
            w = w * _VIEWS
        least = max(_LEAST.get(stem, 0), RES_BITS - 3)
        in_max = HIDDEN_MAX if stem == "p_out" else VIEW_MAX if stem in _SEEING else ACT_MAX
        out[f"{name}.w"], out[f"{name}.shift"] = round_rows(w, least, in_max)
    for name, bits, limit in _values(network):
        value = network.get_parameter(name).detach().double() * 2.0**bits
        out[name] = torch.floor(value + 0.5).clamp(-limit, limit - 1).to(torch.int16)
    out["basis"] = torch.floor(network.basis.double() * 2**TRANSFORM_BITS + 0.5).to(torch.int16)
    out |= tables(network.frequency)
    return {name: t.cpu().contiguous() for name, t in out.items()}


def _values(network: Unrounded) -> list[tuple[str, int, int]]:
    """Parameters that are no matrices: name, fractional bits, bound."""
    names = [name for name, _ in network.named_parameters() if name.endswith(".bias")]
    return [(name, 2 * ACT_BITS, 1 << 15) for name in names] + [
        ("p_phase", RES_BITS, 1 << 15),
        ("p_bias", TABLE_BITS, 1 << 15),
    ]


def _shapes(network: Unrounded) -> dict[str, torch.Size]:
    """Of the tensors that `integers` gives."""
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
        module.w.copy_(w / _VIEWS if name.split(".")[0] in _SEEING else w)
    for name, bits, _ in _values(network):
        network.get_parameter(name).copy_(stored[name].double() * 2.0**-bits)
    network.basis.copy_(stored["basis"].double() * 2.0**-TRANSFORM_BITS)
    network.frequency.copy_(torch.log2(stored["quantiser.weight"][0].double() * 2.0**-WEIGHT_BITS) / 0.3)


def decoding(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those that a decoder needs."""
    return {name: t for name, t in tensors.items() if not name.startswith("e")}
