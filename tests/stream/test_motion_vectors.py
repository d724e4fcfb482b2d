"""Vector fields: exact round trips of every shape, the rate of smooth fields, and damaged data."""

import numpy as np
import pytest

from bsqcodec.errors import FormatError
from bsqcodec.stream.group import MAX_VECTOR
from bsqcodec.stream.motion_vectors import _START, VectorCoder
from bsqcodec.stream.range_coder import BitDecoder, BitEncoder


def encoded(fields: list[np.ndarray]) -> tuple[bytes, float]:
    coder, enc = VectorCoder(), BitEncoder()
    for field in fields:
        coder.encode(field, enc)
    return enc.finish(), enc.bits


def decoded(data: bytes, fields: list[np.ndarray]) -> list[np.ndarray]:
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
    for a, b in zip(decoded(data, fields), fields):
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
        try:
            assert all(np.abs(field).max() <= MAX_VECTOR for field in decoded(broken, fields))
        except FormatError:
            pass


def test_out_of_range_is_refused() -> None:
    with pytest.raises(FormatError):
        for _ in range(50):  # noise soon leaves the range
            decoded(np.random.default_rng(_).bytes(4000), smooth(20, 20, 4))
    bad = (np.full((2, 2, 2), MAX_VECTOR + 1), np.zeros((2, 2)), np.zeros((2, 2, 2)), np.zeros((0, 2, 2), int))
    for field in bad:
        with pytest.raises(ValueError):
            VectorCoder().encode(field, BitEncoder())


def by_the_book(hb: int, wb: int, before: np.ndarray | None, n: list[list[int]], dec: BitDecoder) -> np.ndarray:
    """A field decoded one block at a time as bitstream_spec.md states it; `n` holds the counts (n0, n1)."""

    def plane(contexts: list[int | None]) -> list[int]:
        k = [32768 if c is None else min(max(65536 * n[c][1] // sum(n[c]), 1), 65535) for c in contexts]
        bits = dec.decode(np.array(k, np.int64)).tolist()
        for c, bit in zip(contexts, bits):
            if c is not None:
                n[c][bit] += 16
        for counts in n:
            while sum(counts) > 16384:
                counts[:] = [(i + 1) // 2 for i in counts]
        return bits

    def classify(value: int, limits: tuple[int, ...]) -> int:
        return sum(value >= limit for limit in limits)

    field = np.zeros((hb, wb, 2), int)
    s = 1
    while 2 * s < max(hb, wb):
        s *= 2
    cells = [(y, x) for y in range(hb) for x in range(wb)]
    steps = [(0, [(y, x) for y, x in cells if y % s == 0 and x % s == 0], [])]
    while s > 1:
        h = s // 2
        grid = [(y, x) for y, x in cells if y % h == 0 and x % h == 0]
        diagonal, cross = [(-1, -1), (-1, 1), (1, -1), (1, 1)], [(-1, 0), (1, 0), (0, -1), (0, 1)]
        steps.append((h, [(y, x) for y, x in grid if y // h % 2 and x // h % 2], diagonal))
        steps.append((h, [(y, x) for y, x in grid if (y // h + x // h) % 2], cross))
        s = h
    for h, blocks, offsets in steps:
        part = [0] * len(blocks)
        for c in (0, 1):
            guess, spread, near, side = [], [], [], []
            for y, x in blocks:
                old = None if before is None else int(before[y, x, c])
                places = [(y + i * h, x + j * h) for i, j in offsets]
                around = [field[p] for p in places if 0 <= p[0] < hb and 0 <= p[1] < wb]
                if around:
                    v = sorted(int(a[c]) for a in around)
                    low, high = v[(len(v) - 1) // 2], v[len(v) // 2]
                    guess.append(low if old is None or abs(low - old) <= abs(high - old) else high)
                    apart = sum(max(a[i] for a in around) - min(a[i] for a in around) for i in (0, 1))
                    spread.append(classify(apart, (1, 3, 9, 33)))
                else:
                    guess.append(old or 0)
                    spread.append(4)
                near.append(3 if old is None else classify(abs(old - guess[-1]), (1, 3)))
                side.append(1 if old is None else int(np.sign(old - guess[-1])) + 1)
            all_blocks = range(len(blocks))
            some = plane([(5 * part[i] + spread[i]) * 4 + near[i] for i in all_blocks])
            chosen = [i for i in all_blocks if some[i]]
            negative = plane([60 + side[i] for i in chosen])
            e = [0] * len(chosen)
            active = list(range(len(chosen)))
            for j in range(11):
                more = plane([63 + 6 * spread[chosen[i]] + min(j, 5) for i in active])
                active = [i for i, bit in zip(active, more) if bit]
                for i in active:
                    e[i] += 1
            suffix = iter(plane([93 + k if first == 0 else None for k in e for first in range(k)]))
            difference = [0] * len(blocks)
            for i, block in enumerate(chosen):
                size = 1
                for _ in range(e[i]):
                    size = 2 * size + next(suffix)
                difference[block] = -size if negative[i] else size
            for i, (y, x) in enumerate(blocks):
                field[y, x, c] = guess[i] + difference[i]
            part = [1 + (d != 0) for d in difference]
    return field


@pytest.mark.parametrize("shape", [(1, 2), (7, 10), (15, 26)])
def test_decodes_by_the_book(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    fields = [*smooth(*shape, 12), rng.integers(-MAX_VECTOR, MAX_VECTOR + 1, (*shape, 2)), *smooth(*shape, 12)]
    dec = BitDecoder(encoded(fields)[0])
    counts = [[256 - int(p), int(p)] for p in _START]
    before = None
    for field in fields:
        before = by_the_book(*shape, before, counts, dec)
        assert np.array_equal(before, field)
