"""Lossless coding of the motion between two frames: vectors of 16x16 blocks, some of them split into four.

The vectors are coded first (`motion_vectors`), then for each block whether it is split, then the vectors of the four
quarters of those blocks: that of the block, that of the block above or below, or left or right, whichever the quarter
touches, or a difference to that of the block. Each decision is coded for all blocks or quarters at once.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..errors import FormatError
from .contexts import MAX_EXPONENT, PREFIXES, CodeBits, Contexts, code_differences
from .group import MAX_VECTOR
from .motion_vectors import VectorCoder
from .range_coder import BitDecoder, BitEncoder, read_by, written_by

_MAX_COUNT = 1 << 14  # sum of the two counts of a context above which they are halved

# contexts: split (how many of four vectors differ 5), vector of its own (vectors beside that differ 3), that of the
# block above or below (horizontal one 3), left or right (2), zero flag (part 3), sign (2), prefix (exponent 6), suffix
_SPLIT, _OWN, _VERTICAL, _HORIZONTAL, _ZERO, _SIGN, _PREFIX, _SUFFIX = 0, 5, 8, 11, 13, 16, 18, 24
# first P(1) of each context in 1/256
# fmt: off
_START = np.array([
    1, 5, 14, 34, 56, 76, 141, 198, 105, 91, 218, 133, 110, 203, 165, 250, 130, 123,
    107, 138, 98, 110, 120, 128, 128, 126, 155, 163, 128, 128, 128, 128, 128, 128, 128, 128,
])
# fmt: on


class MotionField(NamedTuple):
    """The motion from a frame to one of its references, (dy, dx) in quarter pixels within +-2047.

    Attributes:
        vectors: of each block of 16x16 pixels, int32 (rows, columns, 2).
        quarters: of each block of 8x8, int32 (2 rows, 2 columns, 2): what a frame is predicted with.
    """

    vectors: np.ndarray
    quarters: np.ndarray

    @property
    def split(self) -> np.ndarray:
        """Which blocks have a quarter with another vector, bool (rows, columns)."""
        other = (self.quarters != unsplit(self.vectors)).any(-1)
        return other.reshape(len(self.vectors), 2, -1, 2).any((1, 3))


def unsplit(vectors: np.ndarray) -> np.ndarray:
    """The quarters, (2 rows, 2 columns, 2), of blocks of which none is split."""
    return vectors.repeat(2, 0).repeat(2, 1)


class Beside(NamedTuple):
    """Vectors that a quarter may have, (n, 2) each: of its block, and of those it touches; the block's at an edge."""

    own: np.ndarray
    vertical: np.ndarray
    horizontal: np.ndarray


class FieldCoder:
    """Codes the fields of one group of pictures in order, like `VectorCoder`; make a new one at each I frame.

    Attributes:
        vectors: the coder of the vectors of 16x16 blocks.
    """

    def __init__(self) -> None:
        self.vectors = VectorCoder()
        self._contexts = Contexts(_START, _MAX_COUNT)

    def encode(self, field: MotionField, enc: BitEncoder, used: np.ndarray | None = None) -> MotionField:
        """Append a field. Raises ValueError for one that is none, or beyond +-2047.

        used: which blocks are coded, bool (Hb, Wb); all if there is none. The others get what is guessed, unsplit.

        Returns the field as it will decode.
        """
        if field.quarters.shape != unsplit(field.vectors).shape or np.abs(field.quarters).max() > MAX_VECTOR:
            raise ValueError(f"not the vectors of quarters of blocks: {field.quarters.shape}")
        return self._run(self.vectors.encode(field.vectors, enc, used), field, used, written_by(enc))

    def decode(self, hb: int, wb: int, dec: BitDecoder, used: np.ndarray | None = None) -> MotionField:
        """The next field, of hb x wb blocks; `used` as for `encode`. Raises FormatError if a vector is out of range."""
        vectors = self.vectors.decode(hb, wb, dec, used)
        return self._run(vectors, None, used, read_by(dec))

    def copy(self) -> "FieldCoder":
        """A coder of its own in the same state."""
        other = FieldCoder()
        other.vectors = self.vectors.copy()
        other._contexts.counts = self._contexts.counts.copy()
        return other

    def split_bits(self, vectors: np.ndarray) -> np.ndarray:
        """Estimated bits of telling that a block is not split, or is, (2, rows * columns), by what was seen so far."""
        return self._bits()[:, _SPLIT + _differing(vectors)]

    def quarter_bits(self) -> Callable[[np.ndarray, Beside], np.ndarray]:
        """A function that estimates the bits of vectors of quarters, (n, 2), of split blocks."""
        zero, one = self._bits()
        exponents = np.arange(MAX_EXPONENT + 1)
        context = _PREFIX + np.minimum(exponents, PREFIXES - 1)
        prefix = np.cumsum(one[context]) - one[context] + zero[context] + exponents

        def bits(vector: np.ndarray, beside: Beside) -> np.ndarray:
            other, v, h = _contexts_of(beside)
            d = vector - beside.own
            some = d != 0
            size = np.where(some, 1 + prefix[np.frexp(np.maximum(abs(d), 1).astype(float))[1] - 1], 0)
            part = np.stack([np.zeros(len(d), np.int64), 2 - some[:, 0]], 1)
            new = (np.where(some, one[_ZERO + part], zero[_ZERO + part]) + size).sum(1)
            is_h = (vector == beside.horizontal).all(1)
            rest = np.where(h < 0, new, np.where(is_h, one[_HORIZONTAL + h], zero[_HORIZONTAL + h] + new))
            is_v = (vector == beside.vertical).all(1)
            rest = np.where(v < 0, rest, np.where(is_v, one[_VERTICAL + v], zero[_VERTICAL + v] + rest))
            return np.where(some.any(1), one[_OWN + other] + rest, zero[_OWN + other])

        return bits

    def _bits(self) -> np.ndarray:
        return -np.log2(self._contexts.counts / self._contexts.counts.sum(0))

    def _run(
        self, vectors: np.ndarray, field: MotionField | None, used: np.ndarray | None, code: CodeBits
    ) -> MotionField:
        """Code what follows the vectors of blocks; `field` is None when decoding."""
        split = np.ones(vectors.shape[:2], bool) if used is None else used.copy()
        truth = None if field is None else field.split[split]
        split[split] = self._contexts.code(truth, _SPLIT + _differing(vectors)[split.ravel()], code)
        places = np.flatnonzero(split.repeat(2, 0).repeat(2, 1))
        beside = beside_quarters(vectors, places)
        quarters = unsplit(vectors).reshape(-1, 2)
        if len(places):
            wanted = None if field is None else field.quarters.reshape(-1, 2)[places].astype(np.int64)
            quarters[places] = found = self._quarters(wanted, beside, code)
            if field is None and np.abs(found).max() > MAX_VECTOR:
                raise FormatError("a motion vector is out of range")
        return MotionField(vectors, quarters.reshape(unsplit(vectors).shape))

    def _quarters(self, truth: np.ndarray | None, beside: Beside, code: CodeBits) -> np.ndarray:
        """The vectors of quarters, (n, 2), of which `truth` is None when decoding."""
        other, v, h = _contexts_of(beside)
        out = beside.own.copy()

        def choose(among: np.ndarray, option: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Which of those have the vector `option`, and which do not."""
            same = None if truth is None else (truth[among] == option[among]).all(1)
            same = self._contexts.code(same, context[among], code) != 0
            out[among[same]] = option[among[same]]
            return among[same], among[~same]

        differs = None if truth is None else (truth != beside.own).any(1)
        left = np.flatnonzero(self._contexts.code(differs, _OWN + other, code))
        for option, context, first in ((beside.vertical, v, _VERTICAL), (beside.horizontal, h, _HORIZONTAL)):
            possible = context[left] >= 0
            _, others = choose(left[possible], option, first + context)
            left = np.union1d(left[~possible], others)
        part = np.zeros(len(left), np.int64)
        for c in (0, 1):
            d = None if truth is None else truth[left, c] - out[left, c]
            sign, prefix = np.full(len(left), _SIGN + c), np.full(len(left), _PREFIX)
            d = code_differences(self._contexts, d, _ZERO + part, sign, prefix, _SUFFIX, code)
            out[left, c] += d
            part = 2 - (d != 0)
        return out


def beside_quarters(vectors: np.ndarray, places: np.ndarray) -> Beside:
    """What the quarters with these numbers, (n,) in raster order, may have from the vectors of blocks."""
    rows, columns = vectors.shape[:2]
    y, x = np.divmod(places, 2 * columns)
    up, left = (y // 2 + y % 2 * 2 - 1).clip(0, rows - 1), (x // 2 + x % 2 * 2 - 1).clip(0, columns - 1)
    own, vertical, horizontal = vectors[y // 2, x // 2], vectors[up, x // 2], vectors[y // 2, left]
    return Beside(*(a.astype(np.int64) for a in (own, vertical, horizontal)))


def _contexts_of(beside: Beside) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What chooses the contexts of quarters, (n,): of whether they differ, of the choice of the vertical vector, and of
    that of the horizontal one. Negative where that is no choice."""
    own, vertical, horizontal = beside
    v, h = ((vector != own).any(1).astype(np.int64) for vector in (vertical, horizontal))
    alike = (vertical == horizontal).all(1)
    return v + h, np.where(v, h + h * alike, -1), np.where(h * ~alike, v, -1)


def _differing(vectors: np.ndarray) -> np.ndarray:
    """How many of the blocks above, below, left and right of each block have another vector, (rows * columns,)."""
    n = np.zeros(vectors.shape[:2], np.int64)
    down, right = (vectors[1:] != vectors[:-1]).any(-1), (vectors[:, 1:] != vectors[:, :-1]).any(-1)
    n[1:] += down
    n[:-1] += down
    n[:, 1:] += right
    n[:, :-1] += right
    return n.ravel()
