"""Weights in real numbers to integers, and back."""

import pytest
import torch

from bsqcodec.network.export import integers, restore, round_rows
from bsqcodec.network.layers import LIMIT
from bsqcodec.network.unrounded import Unrounded
from helpers import TINY


@pytest.mark.parametrize("inputs", [1, 384, 511, 2304])
@pytest.mark.parametrize("in_max", [127, 511])
def test_weights_that_are_all_alike_stay_exact(inputs, in_max):
    """As they are after a few steps of Adam from 0."""
    w = torch.tensor([[0.001], [-0.0123], [0.0]]).expand(3, inputs)
    integers, shift = round_rows(w, 0, in_max)
    assert integers.double().abs().sum(1).max() * in_max < LIMIT
    assert torch.allclose(integers * 2.0 ** -shift.double()[:, None], w.double(), atol=6e-4)
    assert inputs > 1 or integers.abs().max() > 63


def test_restored_integers_are_the_same(model, tiny):
    for stored in (tiny.network._tensors, model.network._tensors):
        config = tiny.network.config if stored is tiny.network._tensors else model.network.config
        network = Unrounded(config)
        restore(network, stored)
        again = integers(network)
        assert again.keys() == stored.keys()
        for name, t in stored.items():
            if name.endswith((".w", ".shift")):
                continue
            assert torch.equal(again[name].long(), t.long()), name
        for name, t in stored.items():
            if name.endswith(".w"):  # a row of even integers may be kept with one bit less
                shift = f"{name[:-2]}.shift"
                a = again[name].double() * 2.0 ** -again[shift].double()[:, None]
                assert torch.equal(a, t.double() * 2.0 ** -stored[shift].double()[:, None]), name


def test_other_tensors_are_refused(tiny):
    stored = dict(tiny.network._tensors)
    for wrong in (
        {k: t for k, t in stored.items() if k != "p_phase"},
        stored | {"more": torch.zeros(1)},
        stored | {"p_phase": stored["p_phase"][:, :-1]},
    ):
        with pytest.raises(ValueError, match="other tensors"):
            restore(Unrounded(TINY), wrong)


def test_rows_are_rounded_to_their_best_bits():
    g = torch.Generator().manual_seed(0)
    w = torch.randn(50, 40, generator=g) * 2 ** (8 * torch.rand(50, 1, generator=g) - 6)
    w[0] = 0
    whole, shift = round_rows(w, 3)
    assert whole.dtype == shift.dtype == torch.int8 and whole.abs().max() <= 127 and shift.min() >= 3
    assert shift.max() <= 18
    error = (whole * 2.0 ** -shift[:, None] - w).abs()
    fits = w.abs().amax(1) * 2.0**shift <= 127.5
    assert (error[fits] <= 2.0 ** -shift[fits, None] / 2 + 1e-9).all() and fits.float().mean() > 0.5
