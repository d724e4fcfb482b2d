"""Lossless coding of a field of motion vectors: interlaced prediction, adaptive binary contexts, exact integers.

Blocks are coded on a pyramid. First every `s`-th block of every `s`-th row, s the largest power of two below the
field's longer side; then, for h = s/2, s/4 .. 1, the blocks at (odd, odd) multiples of h, predicted from their
diagonal neighbours at distance h, and then those at (odd, even) and (even, odd) multiples, from the neighbours above,
below, left and right. All blocks of a step are coded together, one binary decision (plane) after the other, so that
a field takes a few hundred vectorised operations whatever its size.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..errors import FormatError
from .contexts import MAX_EXPONENT, PREFIXES, CodeBits, Contexts, code_differences
from .group import MAX_VECTOR
from .range_coder import BitDecoder, BitEncoder, read_by, written_by

MISSING = 1 << 20  # in place of a component of a vector that is not known
_SPREADS = np.array([1, 3, 9, 33])  # limits of the classes of neighbours' disagreement, quarter pixels
_MAX_COUNT = 1 << 14  # sum of the two counts of a context above which they are halved

# contexts: zero flag (part 3, spread 5, temporal 4), sign (3), prefix (spread 5, exponent 6), first suffix bit
_ZERO, _SIGN, _PREFIX, _SUFFIX = 0, 60, 63, 93
# first P(1) of each context in 1/256, fitted on the vectors that the search gives for real clips
# fmt: off
_START = np.array([
    4, 38, 63, 13, 38, 62, 73, 54, 64, 111, 101, 91, 64, 148, 137, 115, 94, 167, 192, 161,
    3, 30, 31, 8, 34, 64, 59, 52, 52, 117, 96, 87, 54, 143, 120, 105, 60, 142, 145, 113,
    45, 147, 205, 138, 45, 81, 108, 65, 82, 138, 135, 117, 100, 182, 177, 154, 149, 200, 215, 198,
    139, 107, 117,
    182, 188, 190, 190, 150, 112,
    70, 75, 128, 145, 133, 107,
    130, 95, 81, 107, 132, 110,
    191, 162, 135, 113, 87, 102,
    227, 220, 213, 199, 175, 119,
    128, 71, 82, 85, 76, 98, 89, 96, 21, 64, 128, 128,
])
# fmt: on


class VectorCoder:
    """Codes the fields of one group of pictures in order; make a new one at each I frame.

    The state is the field that is expected, which is the last one unless `expect` says otherwise, and, for every
    context, two counts. Both sides update it alike.
    """

    def __init__(self) -> None:
        self._contexts = Contexts(_START, _MAX_COUNT)
        self._expected: np.ndarray | None = None

    def encode(self, field: np.ndarray, enc: BitEncoder, used: np.ndarray | None = None) -> np.ndarray:
        """Append a field, integers (Hb, Wb, 2) within +-2047. Raises ValueError for anything else.

        used: which vectors are coded, bool (Hb, Wb); all if there is none. The others get what is guessed.

        Returns the field as it will decode, int32 (Hb, Wb, 2).
        """
        field = np.asarray(field)
        if field.ndim != 3 or field.shape[2] != 2 or not field.size or field.dtype.kind not in "iu":
            raise ValueError(f"not a field of vectors: {field.dtype} {field.shape}")
        field = field.astype(np.int64)
        if np.abs(field).max() > MAX_VECTOR:
            raise ValueError(f"a vector is beyond +-{MAX_VECTOR} quarter pixels")
        return self._run(field.shape[0], field.shape[1], field.reshape(-1, 2), used, written_by(enc)).astype(np.int32)

    def decode(self, hb: int, wb: int, dec: BitDecoder, used: np.ndarray | None = None) -> np.ndarray:
        """The next field, int32 (hb, wb, 2); `used` as for `encode`. Raises FormatError if a vector is out of range."""
        return self._run(hb, wb, None, used, read_by(dec)).astype(np.int32)

    def expect(self, field: np.ndarray | None) -> None:
        """Set the vectors that are expected in the next field, integers (hb, wb, 2) within +-2047; None: none are."""
        self._expected = field

    def copy(self) -> "VectorCoder":
        """A coder of its own in the same state."""
        other = VectorCoder()
        other._contexts.counts, other._expected = self._contexts.counts.copy(), self._expected
        return other

    def expected(self, hb: int, wb: int) -> np.ndarray | None:
        """The vectors that are expected, (hb * wb, 2), if there is a field of this size."""
        field = self._expected
        return field.reshape(-1, 2) if field is not None and field.shape == (hb, wb, 2) else None

    @staticmethod
    def predict(
        around: np.ndarray, expected: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Predict n vectors from what is known before they are coded.

        Args:
            around: (4, n, 2), the neighbours' vectors, MISSING where there is none.
            expected: (n, 2), the vectors that are expected at these places.

        Returns:
            The guess, (n, 2), and what chooses the contexts: spread (n,), temporal and side (n, 2).
        """
        around = np.sort(around, axis=0)
        n = (around[:, :, 0] < MISSING).sum(0)
        first = n == 0
        every = np.arange(around.shape[1])
        # the two values in the middle, the same one twice if their number is odd
        low, high = around[(n - 1) // 2, every], around[n // 2, every]
        low, high = np.where(first[:, None], 0, low), np.where(first[:, None], 0, high)
        spread = np.where(first, MISSING, (around[n - 1, every] - around[0]).sum(1))
        if expected is None:
            guess, temporal = low, np.full(low.shape, 3)
            side = np.ones_like(low)
        else:
            guess = np.where(abs(low - expected) <= abs(high - expected), low, high)
            guess = np.where(first[:, None], expected, guess)
            far = expected - guess
            temporal = np.digitize(abs(far), [1, 3])
            side = np.sign(far) + 1
        return guess, np.digitize(spread, _SPREADS), temporal, side

    def bits_of(self) -> Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]:
        """A function that estimates the bits of n vectors, (n,), from these, (n, 2), and the arguments of `predict`.

        It goes by what the contexts have seen so far.
        """
        zero, one = -np.log2(self._contexts.counts / self._contexts.counts.sum(0))
        exponents = np.arange(MAX_EXPONENT + 1)
        context = _PREFIX + np.arange(5)[:, None] * PREFIXES + np.minimum(exponents, PREFIXES - 1)
        # of exponent e: e times "more", then "no more" unless it is the last, then e bits
        more = np.cumsum(one[context], 1) - one[context]
        prefix = more + np.where(exponents < MAX_EXPONENT, zero[context], 0) + exponents
        exponent = np.frexp(np.arange(1, 2 * MAX_VECTOR + 1).astype(np.float64))[1] - 1
        size = np.concatenate([np.zeros((5, 1)), prefix[:, exponent]], 1)  # of spread and |d|

        def bits(vector: np.ndarray, around: np.ndarray, expected: np.ndarray | None) -> np.ndarray:
            guess, spread, temporal, side = self.predict(around, expected)
            d = vector - guess
            some = d != 0
            part = np.stack([np.zeros(len(d), np.int64), 1 + some[:, 0]], 1)
            flag = _ZERO + (part * 5 + spread[:, None]) * 4 + temporal
            sign = np.where(d < 0, one[_SIGN + side], zero[_SIGN + side])
            rest = sign + size[spread[:, None], np.minimum(abs(d), 2 * MAX_VECTOR)]
            return np.where(some, one[flag] + rest, zero[flag]).sum(1)

        return bits

    def _run(self, hb: int, wb: int, truth: np.ndarray | None, used: np.ndarray | None, code: CodeBits) -> np.ndarray:
        coded = np.ones(hb * wb, bool) if used is None else used.ravel()
        field = np.full((hb * wb + 1, 2), MISSING, np.int64)
        expected = self.expected(hb, wb)
        for step in pyramid_steps(hb, wb):
            block = step.blocks
            guess, spread, temporal, side = self.predict(
                field[step.predictors], None if expected is None else expected[block]
            )
            field[block] = guess
            those = coded[block]
            block, guess, spread, temporal, side = (a[those] for a in (block, guess, spread, temporal, side))
            if not len(block):
                continue
            part = np.zeros(len(block), np.int64)
            for c in (0, 1):
                d = None if truth is None else truth[block, c] - guess[:, c]
                zero = _ZERO + (part * 5 + spread) * 4 + temporal[:, c]
                prefix = _PREFIX + PREFIXES * spread
                d = code_differences(self._contexts, d, zero, _SIGN + side[:, c], prefix, _SUFFIX, code)
                field[block, c] += d
                part = 1 + (d != 0)
            if truth is None and np.abs(field[block]).max() > MAX_VECTOR:
                raise FormatError("a motion vector is out of range")
        self._expected = field[:-1].reshape(hb, wb, 2)
        return self._expected


class PyramidStep(NamedTuple):
    """Blocks that are coded together. They are numbered in raster order.

    Attributes:
        blocks: (n,), numbers of the blocks.
        predictors: (4, n), numbers of the neighbours that each is predicted from; that of no block, hb * wb, for none.
        distance: of the neighbours.
        diagonal: whether that is along a diagonal.
    """

    blocks: np.ndarray
    predictors: np.ndarray
    distance: int
    diagonal: bool


@lru_cache(maxsize=2)
def pyramid_steps(hb: int, wb: int) -> list[PyramidStep]:
    """The steps in which a field of hb x wb blocks is coded. The blocks of the first one have no predictors."""
    s = 1
    while s * 2 < max(hb, wb):
        s *= 2
    rows, columns = np.arange(hb)[:, None], np.arange(wb)[None]
    first = np.flatnonzero((rows % s == 0) & (columns % s == 0))
    found = [PyramidStep(first, np.full((4, len(first)), hb * wb), s, False)]
    while s > 1:
        h, s = s // 2, s // 2
        grid = (rows % h == 0) & (columns % h == 0)
        odd = rows // h % 2 + columns // h % 2
        for wanted, offsets in (
            (2, ((-1, -1), (-1, 1), (1, -1), (1, 1))),
            (1, ((-1, 0), (0, -1), (0, 1), (1, 0))),
        ):
            y, x = np.nonzero(grid & (odd == wanted))
            if len(y):
                ny, nx = (np.stack([at + h * o[i] for o in offsets]) for i, at in enumerate((y, x)))
                inside = (ny >= 0) & (ny < hb) & (nx >= 0) & (nx < wb)
                found.append(PyramidStep(y * wb + x, np.where(inside, ny * wb + nx, hb * wb), h, wanted == 2))
    return found
