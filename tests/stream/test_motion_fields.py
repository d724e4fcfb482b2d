"""Fields with split blocks: exact round trips, the rate, and damaged data."""

import contextlib

import numpy as np
import pytest

from bsqcodec.errors import FormatError
from bsqcodec.stream.group import MAX_VECTOR
from bsqcodec.stream.motion_fields import FieldCoder, MotionField, beside_quarters, unsplit
from bsqcodec.stream.range_coder import BitDecoder, BitEncoder


def field(shape: tuple[int, int], share: float, reach: int, seed: int = 0) -> MotionField:
    """Noise: a share of the quarters has a vector of its own, another that of a block beside."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-reach, reach + 1, (*shape, 2)).astype(np.int32)
    vectors[rng.random(shape) < 0.5] = (reach, -reach)  # so that some blocks are alike
    quarters = unsplit(vectors).reshape(-1, 2)
    beside = beside_quarters(vectors, np.arange(len(quarters)))
    draw = rng.random(len(quarters))
    for i, those in enumerate((beside.vertical, beside.horizontal, rng.integers(-reach, reach + 1, quarters.shape))):
        chosen = (draw >= i * share) & (draw < (i + 1) * share)
        quarters[chosen] = those[chosen]
    return MotionField(vectors, quarters.reshape(2 * shape[0], 2 * shape[1], 2))


def encoded(fields: list[MotionField]) -> tuple[bytes, float]:
    """The fields of one group of pictures as bytes, and how many bits they ideally take."""
    coder, enc = FieldCoder(), BitEncoder()
    for one in fields:
        coder.encode(one, enc)
    return enc.finish(), enc.bits


def decoded(data: bytes, fields: list[MotionField]) -> list[MotionField]:
    """As many fields as `fields` has, of their shapes, decoded from bytes."""
    coder, dec = FieldCoder(), BitDecoder(data)
    return [coder.decode(*one.vectors.shape[:2], dec) for one in fields]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 4), (15, 26)])
def test_round_trip(shape: tuple[int, int]) -> None:
    cases = ((0.0, 9), (0.05, 9), (0.05, 300), (0.3, 2), (0.3, 9), (0.3, MAX_VECTOR))
    fields = [field(shape, *case, seed=i) for i, case in enumerate(cases)]
    assert not fields[0].split.any()
    assert fields[-1].split.any() or shape == (1, 1)
    for a, b in zip(decoded(encoded(fields)[0], fields), fields, strict=True):
        for x, y in zip(a, b, strict=True):
            assert x.dtype == np.int32 and np.array_equal(x, y)


def test_blocks_without_use_take_what_is_guessed() -> None:
    one, used = field((15, 26), 0.3, 20), np.random.default_rng(1).random((15, 26)) < 0.6
    bits = []
    for which in (used, None):
        coder, enc = FieldCoder(), BitEncoder()
        known = coder.encode(one, enc, which)
        found = FieldCoder().decode(15, 26, BitDecoder(enc.finish()), which)
        assert all(np.array_equal(a, b) for a, b in zip(known, found, strict=True))
        bits.append(enc.bits)
    assert bits[0] < 0.9 * bits[1]
    coder, enc = FieldCoder(), BitEncoder()
    known = coder.encode(one, enc, used)
    assert not known.split[~used].any() and np.array_equal(known.split[used], one.split[used])
    for a, b in ((known.vectors, one.vectors), (known.quarters, one.quarters)):
        those = used.repeat(len(a) // 15, 0).repeat(len(a) // 15, 1)
        assert np.array_equal(a[those], b[those])


def test_what_is_not_split_is_cheap() -> None:
    """In a field without motion, less than a hundredth of a bit a block; and a copy knows what its original learnt."""
    still = field((30, 40), 0, 0)
    coder = FieldCoder()
    for _ in range(4):
        coder.encode(still, BitEncoder())
    bits = []
    for one in (coder.copy(), coder):
        enc = BitEncoder()
        one.encode(still, enc)
        bits.append(enc.bits)
    assert bits[0] == bits[1] < 0.02 * 30 * 40


def test_the_bits_that_the_search_goes_by_are_those_of_the_coder() -> None:
    one, coder = field((30, 40), 0.1, 40), FieldCoder()
    for seed in range(5):
        coder.encode(field((30, 40), 0.1, 40, seed), BitEncoder())
    enc = BitEncoder()
    coder.vectors.copy().encode(one.vectors, enc)
    alone, split = enc.bits, one.split
    guess = coder.split_bits(one.vectors)[split.ravel().astype(int), np.arange(split.size)].sum()
    places = np.flatnonzero(split.repeat(2, 0).repeat(2, 1))
    beside = beside_quarters(one.vectors, places)
    guess += coder.quarter_bits()(one.quarters.reshape(-1, 2)[places].astype(np.int64), beside).sum()
    enc = BitEncoder()
    coder.encode(one, enc)
    assert enc.bits - alone == pytest.approx(guess, rel=0.05)


def test_damaged_data_end() -> None:
    rng = np.random.default_rng(2)
    fields = [field((15, 26), 0.1, 30, seed) for seed in range(4)]
    data, _ = encoded(fields)
    for broken in [b"", data[: len(data) // 2], b"\xff" * 400] + [rng.bytes(4000) for _ in range(10)]:
        with contextlib.suppress(FormatError):
            assert all(np.abs(one.quarters).max() <= MAX_VECTOR for one in decoded(broken, fields))


def test_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.full((2, 2, 2), MAX_VECTOR, np.int32)
    for component in (MAX_VECTOR + 1, -MAX_VECTOR - 1):
        quarters = unsplit(vectors)
        quarters[1, 2, 0] = component
        with pytest.raises(ValueError, match="not the vectors of quarters"):
            FieldCoder().encode(MotionField(vectors, quarters), BitEncoder())
        with monkeypatch.context() as patch:  # an encoder that is told to write it
            patch.setattr("bsqcodec.stream.motion_fields.MAX_VECTOR", MAX_VECTOR + 1)
            data, _ = encoded([MotionField(vectors, quarters)])
        with pytest.raises(FormatError, match="a motion vector is out of range"):
            FieldCoder().decode(2, 2, BitDecoder(data))
    with pytest.raises(ValueError, match="not the vectors of quarters"):
        FieldCoder().encode(MotionField(vectors, vectors), BitEncoder())
