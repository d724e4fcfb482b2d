"""Prior and decoder give the same integers however they are computed."""

import numpy as np
import pytest
import torch

from bsqcodec.network.export import integers
from bsqcodec.network.objective import Objective
from bsqcodec.network.weights import Model
from bsqcodec.selftest import oracle
from helpers import CONDITIONS, TINY, random_frame, random_network


def steps(network, context, condition, y):
    """Every call of the coder: probabilities and bits."""
    seen = []

    def coder(p, bits):
        seen.append((p.copy(), bits.copy()))
        return bits

    coded = network.code(context, condition, coder, y)
    assert coded.shape == y.shape
    return seen, coded


def test_prior_and_decoder_equal_the_int64_oracle(model, tiny):
    """I, P and B, both tunes, on a grid with odd sides."""
    assert oracle(model) == [] and oracle(tiny) == []


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 5), (6, 1), (3, 8)])
def test_small_and_odd_grids_equal_the_oracle(tiny, rows, columns):
    exact = tiny.network.oracle()
    for condition, depth in zip(CONDITIONS, (8, 10, 12), strict=True):
        results = []
        for network in (tiny.network, exact):
            context, y = random_frame(network, condition, rows, columns)
            seen, coded = steps(network, context, condition, y)
            results.append((seen, coded, network.decode(coded, context, condition, depth)))
        (a, x, p), (b, y, q) = results
        assert all(np.array_equal(s[0], t[0]) and np.array_equal(s[1], t[1]) for s, t in zip(a, b, strict=True))
        assert torch.equal(x, y) and all(map(torch.equal, p, q)) and len(p) == 1 + (depth > 8)
        assert all(t.shape == (1, 3, 16 * rows, 16 * columns) for t in p)


def test_the_oracle_finds_a_wrong_integer():
    tensors = integers(random_network())
    broken = Model(TINY, tensors, Objective(), "broken")
    broken.network.prior.phase[1, 3] += 1 << 8
    broken.network.decoder.unit[2] += 9
    found = oracle(broken)
    assert any("prior" in line for line in found) and any("decoder" in line for line in found)


def test_probabilities_are_possible_and_decoding_asks_for_the_same(tiny):
    for condition in CONDITIONS:
        context, y = random_frame(tiny.network, condition, 5, 7)
        seen, coded = steps(tiny.network, context, condition, y)
        given = iter(seen)

        def decode(p, bits, given=given):
            expected, known = next(given)
            assert bits is None and np.array_equal(p, expected)
            return known

        assert all(not p.size or (p.min() >= 1 and p.max() < 65536) for p, _ in seen)
        assert torch.equal(tiny.network.code(context, condition, decode), coded)
        assert next(given, None) is None


def test_one_thread_equals_many(tiny):
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            context, y = random_frame(tiny.network, CONDITIONS[1], 9, 12)
            seen, coded = steps(tiny.network, context, CONDITIONS[1], y)
            results.append(
                (np.concatenate([p for p, _ in seen]), tiny.network.decode(coded, context, CONDITIONS[1])[0])
            )
    finally:
        torch.set_num_threads(threads)
    for p, picture in results[1:]:
        assert np.array_equal(p, results[0][0]) and torch.equal(picture, results[0][1])
