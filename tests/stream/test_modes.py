"""Modes of blocks: every field comes back from its bits, whatever it is, and no bytes give others than 0, 1, 2."""

import contextlib

import numpy as np
import pytest

from bsqcodec.errors import FormatError
from bsqcodec.stream.group import BOTH, FIRST, SECOND
from bsqcodec.stream.modes import ModeCoder, used
from bsqcodec.stream.motion_vectors import VectorCoder
from bsqcodec.stream.range_coder import BitDecoder, BitEncoder

GRIDS = [(1, 1), (1, 2), (2, 1), (1, 17), (17, 1), (3, 5), (8, 8), (9, 16), (33, 31)]


def fields(rows: int, columns: int) -> list[np.ndarray]:
    """Modes, each (rows, columns): random, constant, alternating, and two halves."""
    rng = np.random.default_rng(rows * 100 + columns)
    i, j = np.mgrid[:rows, :columns]
    constant = [np.full((rows, columns), mode) for mode in (BOTH, FIRST, SECOND)]
    return [rng.integers(0, 3, (rows, columns)), *constant, 1 + (i + j) % 2, np.where(j < columns // 2, FIRST, SECOND)]


@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_modes_come_back(rows: int, columns: int) -> None:
    """Several frames in one stream, from a coder that learns."""
    encoder, coder = BitEncoder(), ModeCoder()
    for modes in fields(rows, columns):
        coder.encode(modes, encoder)
    decoder, coder = BitDecoder(encoder.finish()), ModeCoder()
    for modes in fields(rows, columns):
        decoded = coder.decode(rows, columns, decoder)
        assert decoded.dtype == np.int64 and np.array_equal(decoded, modes)
    assert decoder.count == encoder.count


def test_frames_of_one_mode_cost_next_to_nothing() -> None:
    for mode, limit in ((BOTH, 0.01), (FIRST, 0.1), (SECOND, 0.1)):
        encoder, coder = BitEncoder(), ModeCoder()
        for _ in range(8):
            coder.encode(np.full((15, 26), mode), encoder)
        assert encoder.bits < limit * 8 * 15 * 26


def test_the_cheapest_modes_are_those_that_gain_more_than_their_bits() -> None:
    modes = fields(9, 16)[5]
    costs = np.where(np.arange(3) == modes[..., None], 0.0, 100.0)
    assert np.array_equal(ModeCoder().cheapest(costs), modes)
    costs[4, 7, modes[4, 7]] = 100.0  # none is better than the others
    noisy = np.random.default_rng(0).random((9, 16, 3)) * 1e-6
    assert ModeCoder().cheapest(costs + noisy)[4, 7] in (FIRST, SECOND) and not ModeCoder().cheapest(noisy).any()


def test_a_copy_learns_alone() -> None:
    coder = ModeCoder()
    first, second = BitEncoder(), BitEncoder()
    coder.copy().encode(fields(9, 16)[0], first)
    coder.encode(fields(9, 16)[0], second)
    assert first.finish() == second.finish()


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (9, 16)])
def test_vectors_without_use_are_not_coded(shape: tuple[int, int]) -> None:
    """Those of use come back; the others are what the coder guesses, on both sides."""
    rng = np.random.default_rng(0)
    wanted = [rng.integers(-40, 41, (*shape, 2)) for _ in range(4)]
    modes = [*fields(*shape)[:2], *fields(*shape)[4:]]
    encoder, coder = BitEncoder(), VectorCoder()
    written = [coder.encode(v, encoder, used(m, i % 2)) for i, (v, m) in enumerate(zip(wanted, modes, strict=True))]
    decoder, coder = BitDecoder(encoder.finish()), VectorCoder()
    for i, (v, m) in enumerate(zip(wanted, modes, strict=True)):
        mask = used(m, i % 2)
        decoded = coder.decode(*shape, decoder, mask)
        assert np.array_equal(decoded, written[i]) and np.array_equal(decoded[mask], v[mask])
    assert decoder.count == encoder.count
    nothing = BitEncoder()
    assert not VectorCoder().encode(wanted[0], nothing, np.zeros(shape, bool)).any() and not nothing.count


def test_which_blocks_use_a_reference() -> None:
    modes = np.array([[BOTH, FIRST, SECOND]])
    assert used(modes, 0).tolist() == [[True, True, False]] and used(modes, 1).tolist() == [[True, False, True]]
    assert used(None, 0) is None


def test_hostile_bytes_are_refused_or_give_modes() -> None:
    rng = np.random.default_rng(0)
    for n in range(100):
        data = [rng.bytes(n), bytes([n]) * 80, b"\xff" * n][n % 3]
        with contextlib.suppress(FormatError):
            modes = ModeCoder().decode(*GRIDS[n % len(GRIDS)], BitDecoder(data))
            assert modes.min() >= BOTH and modes.max() <= SECOND
    with pytest.raises(FormatError):
        ModeCoder().decode(8, 8, BitDecoder(b"\xff" * 40))
