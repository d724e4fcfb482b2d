"""Vector fields: exact round trips of every shape, the rate of smooth fields, and damaged data."""

import contextlib

import numpy as np
import pytest

from bsqcodec.errors import FormatError
from bsqcodec.stream.group import MAX_VECTOR
from bsqcodec.stream.motion_vectors import _START, VectorCoder
from bsqcodec.stream.range_coder import BitDecoder, BitEncoder

Step = tuple[int, list[tuple[int, int]], list[tuple[int, int]]]  # distance, blocks, directions of neighbours


def encoded(fields: list[np.ndarray]) -> tuple[bytes, float]:
    """The fields of one group of pictures as bytes, and how many bits they ideally take."""
    coder, enc = VectorCoder(), BitEncoder()
    for field in fields:
        coder.encode(field, enc)
    return enc.finish(), enc.bits


def decoded(data: bytes, fields: list[np.ndarray]) -> list[np.ndarray]:
    """As many fields as `fields` has, of their shapes, decoded from bytes."""
    coder, dec = VectorCoder(), BitDecoder(data)
    return [coder.decode(*field.shape[:2], dec) for field in fields]


def smooth(hb: int, wb: int, frames: int) -> list[np.ndarray]:
    """A pan with an object that moves otherwise, and a little noise."""
    rng = np.random.default_rng(0)
    fields = []
    for i in range(frames):
        field = np.full((hb, wb, 2), (3, -17 - i))
        field[hb // 3 : hb // 2, wb // 4 + i : wb // 2 + i] = (-20, 30)
        noisy = rng.random((hb, wb)) < 0.1
        field[noisy] += rng.integers(-2, 3, (int(noisy.sum()), 2))
        fields.append(field)
    return fields


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 9), (3, 3), (15, 26), (16, 17), (33, 2), (68, 120)])
def test_round_trip(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    fields = [
        rng.integers(-MAX_VECTOR, MAX_VECTOR + 1, (*shape, 2)),
        np.zeros((*shape, 2), np.int32),
        np.where(rng.random((*shape, 2)) < 0.5, -MAX_VECTOR, MAX_VECTOR).astype(np.int16),  # the largest differences
        *smooth(*shape, 3),
    ]
    data, _ = encoded(fields)
    for a, b in zip(decoded(data, fields), fields, strict=True):
        assert a.dtype == np.int32 and np.array_equal(a, b)


def test_smooth_fields_are_cheap() -> None:
    fields = smooth(15, 26, 8)
    assert encoded(fields)[1] < 8 * 15 * 26 * 1.5
    still = [np.zeros((15, 26, 2), int)] * 8
    assert encoded(still)[1] < 8 * 15 * 26 * 0.1


def test_coders_share_nothing() -> None:
    fields = smooth(5, 7, 2)
    assert encoded(fields) == encoded(fields)


def test_damaged_data_end() -> None:
    rng = np.random.default_rng(2)
    fields = smooth(15, 26, 4)
    data, _ = encoded(fields)
    for broken in [b"", data[: len(data) // 2], b"\xff" * 400] + [rng.bytes(2000) for _ in range(10)]:
        with contextlib.suppress(FormatError):
            assert all(np.abs(field).max() <= MAX_VECTOR for field in decoded(broken, fields))


def test_noise_is_refused() -> None:
    def decode_noise() -> None:
        for seed in range(50):
            decoded(np.random.default_rng(seed).bytes(4000), smooth(20, 20, 4))

    with pytest.raises(FormatError):
        decode_noise()


def test_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for component in (MAX_VECTOR + 1, -MAX_VECTOR - 1):
        field = np.full((3, 3, 2), component)
        with monkeypatch.context() as patch:  # an encoder that is told to write it
            patch.setattr("bsqcodec.stream.motion_vectors.MAX_VECTOR", MAX_VECTOR + 1)
            data, _ = encoded([field])
            assert np.array_equal(decoded(data, [field])[0], field)
        with pytest.raises(FormatError, match="a motion vector is out of range"):
            decoded(data, [field])
    with pytest.raises(ValueError, match="a vector is beyond"):
        VectorCoder().encode(np.full((2, 2, 2), MAX_VECTOR + 1), BitEncoder())
    for field in (np.zeros((2, 2)), np.zeros((2, 2, 2)), np.zeros((0, 2, 2), int)):
        with pytest.raises(ValueError, match="not a field of vectors"):
            VectorCoder().encode(field, BitEncoder())


class BookDecoder:
    """Decodes fields one block at a time as bitstream_spec.md states it.

    counts: (n0, n1) of each context; all fields of a group of pictures share them.
    """

    def __init__(self, dec: BitDecoder) -> None:
        self.dec = dec
        self.counts = [[256 - int(p), int(p)] for p in _START]

    def plane(self, contexts: list[int | None]) -> list[int]:
        """One decision for many blocks, in the contexts with these numbers; None is P(1) = 1/2."""
        n = self.counts
        k = [32768 if c is None else min(max(65536 * n[c][1] // sum(n[c]), 1), 65535) for c in contexts]
        bits = self.dec.decode(np.array(k, np.int64)).tolist()
        for c, bit in zip(contexts, bits, strict=True):
            if c is not None:
                n[c][bit] += 16
        for counts in n:
            while sum(counts) > 16384:
                counts[:] = [(i + 1) // 2 for i in counts]
        return bits

    def differences(self, part: list[int], spread: list[int], near: list[int], side: list[int]) -> list[int]:
        """One component of the blocks of a step minus its guess, from what chooses the contexts of each block."""
        every = range(len(part))
        nonzero = self.plane([(5 * part[i] + spread[i]) * 4 + near[i] for i in every])
        chosen = [i for i in every if nonzero[i]]
        negative = self.plane([60 + side[i] for i in chosen])
        e = [0] * len(chosen)
        active = list(range(len(chosen)))
        for j in range(11):
            more = self.plane([63 + 6 * spread[chosen[i]] + min(j, 5) for i in active])
            active = [i for i, bit in zip(active, more, strict=True) if bit]
            for i in active:
                e[i] += 1
        suffix = iter(self.plane([93 + k if first == 0 else None for k in e for first in range(k)]))
        found = [0] * len(part)
        for i, block in enumerate(chosen):
            size = 1
            for _ in range(e[i]):
                size = 2 * size + next(suffix)
            found[block] = -size if negative[i] else size
        return found

    def field(self, rows: int, columns: int, before: np.ndarray | None) -> np.ndarray:
        """The next field, (rows, columns, 2); before: the vectors that are expected."""
        field = np.zeros((rows, columns, 2), int)
        for h, blocks, offsets in pyramid(rows, columns):
            part = [0] * len(blocks)
            for c in (0, 1):
                known = []
                for y, x in blocks:
                    old = None if before is None else int(before[y, x, c])
                    places = [(y + i * h, x + j * h) for i, j in offsets]
                    around = [field[p].tolist() for p in places if 0 <= p[0] < rows and 0 <= p[1] < columns]
                    known.append(prediction(around, c, old))
                guess, spread, near, side = (list(values) for values in zip(*known, strict=True))
                differences = self.differences(part, spread, near, side)
                for i, (y, x) in enumerate(blocks):
                    field[y, x, c] = guess[i] + differences[i]
                part = [1 + (d != 0) for d in differences]
        return field


def pyramid(rows: int, columns: int) -> list[Step]:
    """The steps in which the blocks of a field are coded."""
    s = 1
    while 2 * s < max(rows, columns):
        s *= 2
    cells = [(y, x) for y in range(rows) for x in range(columns)]
    diagonal, cross = [(-1, -1), (-1, 1), (1, -1), (1, 1)], [(-1, 0), (1, 0), (0, -1), (0, 1)]
    steps: list[Step] = [(0, [(y, x) for y, x in cells if y % s == 0 and x % s == 0], [])]
    while s > 1:
        h = s // 2
        grid = [(y, x) for y, x in cells if y % h == 0 and x % h == 0]
        steps.append((h, [(y, x) for y, x in grid if y // h % 2 and x // h % 2], diagonal))
        steps.append((h, [(y, x) for y, x in grid if (y // h + x // h) % 2], cross))
        s = h
    return [step for step in steps if step[1]]


def prediction(around: list[list[int]], c: int, old: int | None) -> tuple[int, int, int, int]:
    """The guess for component c of a block, and what chooses its contexts: spread, near and side.

    around: the vectors of the neighbours; old: the component that is expected, None if none is.
    """

    def classify(value: int, limits: tuple[int, ...]) -> int:
        return sum(value >= limit for limit in limits)

    if around:
        v = sorted(vector[c] for vector in around)
        low, high = v[(len(v) - 1) // 2], v[len(v) // 2]
        guess = low if old is None or abs(low - old) <= abs(high - old) else high
        apart = sum(max(vector[i] for vector in around) - min(vector[i] for vector in around) for i in (0, 1))
        spread = classify(apart, (1, 3, 9, 33))
    else:
        guess, spread = old or 0, 4
    if old is None:
        return guess, spread, 3, 1
    return guess, spread, classify(abs(old - guess), (1, 3)), int(np.sign(old - guess)) + 1


@pytest.mark.parametrize("shape", [(1, 2), (7, 10), (15, 26)])
def test_decodes_by_the_book(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    fields = [*smooth(*shape, 12), rng.integers(-MAX_VECTOR, MAX_VECTOR + 1, (*shape, 2)), *smooth(*shape, 12)]
    book = BookDecoder(BitDecoder(encoded(fields)[0]))
    before = None
    for field in fields:
        before = book.field(*shape, before)
        assert np.array_equal(before, field)
