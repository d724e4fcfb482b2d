"""Which blocks of a field are split into four, and the vectors of their quarters."""

import numpy as np

from ..stream.motion_fields import FieldCoder, MotionField, beside_quarters, unsplit
from .motion_search import Field

_BIT_WEIGHT = 3.0  # of the bits of split blocks: their vectors are of use to no other block
_RING = np.array([(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx])
_DISTANCES = (1, 2, 4)  # from the vector of the block, in quarter pixels, of vectors to try
_NEAR_DISTANCES = (2, 1)  # and then from the best so far


def cheapest_split(
    field: Field, coder: FieldCoder, vectors: np.ndarray, lam: float, weights: np.ndarray | None = None
) -> MotionField:
    """Split those blocks of a frame that cost less so, for `coder` to encode next.

    Args:
        field: of one frame, as `search_field` leaves it.
        vectors: of its blocks, int32 (Hb, Wb, 2).
        lam: squared error of luma, summed over a block, that one bit is worth, > 0.
        weights: of the blocks' squared errors, (Hb, Wb); 1 if there are none. Where they are 0, no block is split.
    """
    lam *= _BIT_WEIGHT
    rows, columns, _ = vectors.shape
    parts, quarters = field.quarters(), unsplit(vectors)
    weights = np.ones((rows, columns)) if weights is None else weights
    weight = _of_quarters(weights)
    alone = parts.cost(np.arange(4 * rows * columns), quarters.reshape(-1, 2), lam, weight)
    no, yes = lam * coder.split_bits(vectors).reshape(2, rows, columns)
    unsplit_cost = _of_blocks(alone, columns) + no
    may = (weights > 0) & (unsplit_cost > yes)  # else nothing can be gained
    places = np.flatnonzero(_of_quarters(may))
    if not len(places):
        return MotionField(vectors, quarters)
    v, cost = _best_quarters(parts, coder, vectors, places, lam, alone[places], weight[places])
    alone[places] = cost
    split = may & (_of_blocks(alone, columns) + yes < unsplit_cost)
    kept = _of_quarters(split)[places]
    quarters.reshape(-1, 2)[places[kept]] = v[kept]
    return MotionField(vectors, quarters)


def split_bits(motion: MotionField, coder: FieldCoder) -> np.ndarray:
    """Estimated bits of telling whether each block is split, and how, (Hb, Wb), by what `coder` has seen so far."""
    split, (rows, columns, _) = motion.split, motion.vectors.shape
    bits = np.where(split, *coder.split_bits(motion.vectors).reshape(2, rows, columns)[::-1])
    places = np.flatnonzero(_of_quarters(split))
    of_quarters = np.zeros(4 * rows * columns)
    beside = beside_quarters(motion.vectors, places)
    of_quarters[places] = coder.quarter_bits()(motion.quarters.reshape(-1, 2)[places].astype(np.int64), beside)
    return bits + _of_blocks(of_quarters, columns)


def _of_blocks(quarters: np.ndarray, columns: int) -> np.ndarray:
    """Sums over the four quarters of each block, (rows, columns)."""
    return quarters.reshape(-1, 2, columns, 2).sum((1, 3))


def _of_quarters(blocks: np.ndarray) -> np.ndarray:
    """Of each quarter, (4 rows columns,), what holds for its block."""
    return blocks.repeat(2, 0).repeat(2, 1).ravel()


def _best_quarters(
    field: Field,
    coder: FieldCoder,
    vectors: np.ndarray,
    places: np.ndarray,
    lam: float,
    alone: np.ndarray,
    weight: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of quarters, (n, 2), if their blocks are split, and what they cost, (n,)."""
    beside, bits_of = beside_quarters(vectors, places), coder.quarter_bits()
    low, high = (x.cpu().numpy().reshape(-1, 2)[places] for x in (field.low, field.high))
    v = beside.own.copy()
    cost = alone + lam * bits_of(v, beside)

    def attempt(vector: np.ndarray) -> None:
        vector = vector.clip(low, high)
        bits = lam * bits_of(vector, beside)
        those = np.flatnonzero((bits < cost) & (vector != v).any(1))
        if len(those):
            total = field.cost(places[those], vector[those], lam, weight[those]) + bits[those]
            better = total < cost[those]
            v[those[better]], cost[those[better]] = vector[those[better]], total[better]

    for vector in beside[1:]:
        attempt(vector)
    for start, distances in ((beside.own, _DISTANCES), (v, _NEAR_DISTANCES)):
        for distance in distances:
            centre = start.copy()
            for offset in _RING:
                attempt(centre + distance * offset)
    return v, cost
