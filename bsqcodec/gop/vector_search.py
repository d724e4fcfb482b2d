"""The last stage of the motion search: the field that costs least, its error and the coder's own bits together.

A block's vector is what later blocks of the field are predicted from, so a change counts with what it does to
their bits. Blocks that have no such block in common change at once; each change so lowers the cost of the whole field
(iterated conditional modes, Besag 1986). Only the few blocks at the top of the pyramid, which would take as many steps
as all the others, change at once although they may have.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..stream.group import MAX_VECTOR
from ..stream.motion_vectors import MISSING, VectorCoder, pyramid_steps
from .motion_search import Field

PASSES = 3  # over all blocks
SMALL_GROUP = 1 / 64  # of all blocks: groups that are smaller change together
_RING = np.array([(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx])


class _Grid(NamedTuple):
    """Blocks are numbered in raster order; number `blocks` stands for none."""

    groups: list[np.ndarray]  # blocks that change at once
    predictors: np.ndarray  # (4, blocks): what each block is predicted from
    beside: np.ndarray  # (8, blocks): the blocks around, itself beyond the edge
    child: np.ndarray  # the blocks that are predicted from block i are child[start[i] : start[i + 1]],
    slot: np.ndarray  # and it is their predictor number `slot`
    start: np.ndarray

    def children(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The blocks that are predicted from `block`. Of each pair: index in `block`, predicted block, its slot."""
        count = self.start[block + 1] - self.start[block]
        which = np.repeat(np.arange(len(block)), count)
        edge = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + self.start[block][which]
        return which, self.child[edge], self.slot[edge]


@lru_cache(maxsize=4)
def _grid(rows: int, columns: int) -> _Grid:
    """The blocks of a field, by what is predicted from what."""
    n = rows * columns
    predictors = np.full((4, n), n)
    groups = []
    for i, (blocks, those, h, diagonal) in enumerate(pyramid_steps(rows, columns)):
        predictors[:, blocks] = those
        y, x = np.divmod(blocks, columns)
        if i == 0:
            colour = np.arange(len(blocks))
        elif diagonal:  # like the fields of a chessboard
            colour = (y // (2 * h) + x // (2 * h)) % 2
        else:
            colour = y // h % 2 if h > 1 else np.zeros_like(y)
        groups += [blocks[colour == c] for c in np.unique(colour)]
    large = [group for group in groups if len(group) >= SMALL_GROUP * n]
    small = [group for group in groups if len(group) < SMALL_GROUP * n]
    groups = ([np.concatenate(small)] if small else []) + large
    slot, child = np.nonzero(predictors < n)
    parent = predictors[slot, child]
    by_parent = np.argsort(parent, kind="stable")
    y, x = np.divmod(np.arange(n), columns)
    beside = [np.clip(y + dy, 0, rows - 1) * columns + np.clip(x + dx, 0, columns - 1) for dy, dx in _RING]
    start = np.searchsorted(parent[by_parent], np.arange(n + 1))
    return _Grid(groups[::-1], predictors, np.stack(beside), child[by_parent], slot[by_parent], start)


def cheapest_vectors(field: Field, coder: VectorCoder, lam: float, weights: np.ndarray | None = None) -> np.ndarray:
    """The vectors of one frame, int32 (Hb, Wb, 2), for `coder` to encode next.

    Args:
        field: of one frame, as `search_field` leaves it: where the descent begins.
        lam: squared error of luma, summed over a block, that one bit is worth, > 0.
        weights: of the blocks' squared errors, (Hb, Wb); 1 if there are none.
    """
    descent = _Descent(field, coder, lam, weights)
    stale = np.ones(len(descent.v), bool)  # blocks around which something has changed since they had their turn
    for _ in range(PASSES):
        for group in descent.grid.groups:
            group = group[stale[group]]
            if len(group):
                stale[descent.improve(group)] = True
                stale[group] = False
    return descent.v[:-1].reshape(field.rows, field.columns, 2).astype(np.int32)


def vector_bits(vectors: np.ndarray, coder: VectorCoder) -> np.ndarray:
    """Bits of the vectors of each block, (Hb, Wb), by what `coder` has seen so far."""
    rows, columns, _ = vectors.shape
    v = np.concatenate([vectors.reshape(-1, 2), [(MISSING, MISSING)]]).astype(np.int64)
    around = v[_grid(rows, columns).predictors]
    return coder.bits_of()(v[:-1], around, coder.expected(rows, columns)).reshape(rows, columns)


class _Descent:
    """A field on its way to a lower cost. `v` has one row more than there are blocks: the vector of none."""

    def __init__(self, field: Field, coder: VectorCoder, lam: float, weights: np.ndarray | None):
        n = field.rows * field.columns
        self.grid = _grid(field.rows, field.columns)
        self.v = np.concatenate([field.v.cpu().numpy().reshape(n, 2), [(MISSING, MISSING)]]).astype(np.int64)
        self._field, self._lam = field, lam
        self._weights = np.ones(n) if weights is None else weights.ravel()
        self._predict, self._bits = coder.predict, coder.bits_of()
        self._expected = coder.expected(field.rows, field.columns)
        self._low, self._high = (x.cpu().numpy().reshape(n, 2).astype(np.int64) for x in (field.low, field.high))
        self._errors = field.cost(np.arange(n), self.v[:n], lam, self._weights)

    def improve(self, group: np.ndarray) -> np.ndarray:
        """Give each block of the group the vector that lowers the cost most; returns the blocks this may matter to."""
        place, vector = self._candidates(group)
        v = self.v[group]
        now = self._errors[group] + self._lam * (self._own_bits(group, v) + self._bits_of_others(group, v))
        block = group[place]
        total = self._field.cost(block, vector, self._lam, self._weights[block])
        error = total.copy()
        for more in (self._own_bits, self._bits_of_others):  # what is too much already need not be counted on
            cheaper = total < now[place]
            place, vector, error = place[cheaper], vector[cheaper], error[cheaper]
            total = total[cheaper] + self._lam * more(group[place], vector)
        best = np.lexsort((total, place))
        best = best[np.unique(place[best], return_index=True)[1]]
        best = best[total[best] < now[place[best]]]
        changed = group[place[best]]
        self.v[changed], self._errors[changed] = vector[best], error[best]
        children, predictors = self.grid.children(changed)[1], self.grid.predictors
        near = self.grid.beside[:, changed], predictors[:, changed], children, predictors[:, children]
        return np.concatenate([blocks.ravel() for blocks in near])

    def _candidates(self, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors to try: (m,), which block of the group each is for, and (m, 2); each once, none that it has."""
        around = self.v[self.grid.predictors[:, group]]
        expected = self._expected_at(group)
        zero = np.zeros((1, len(group), 2), np.int64)
        proposed = [self.v[self.grid.beside[:, group]], self.v[group] + _RING[:, None], zero]
        proposed.append(np.where(around < MISSING, around, 0))
        proposed.append(self._predict(around, expected)[0][None])
        if expected is not None:
            proposed.append(expected[None])
        vector = np.clip(np.concatenate(proposed), self._low[group], self._high[group])
        new = (vector != self.v[group]).any(-1)
        place = np.broadcast_to(np.arange(len(group)), vector.shape[:2])
        # as one number each, which are sorted much faster than rows
        span = 2 * MAX_VECTOR + 1
        shifted = vector[new] + MAX_VECTOR
        number = np.unique((place[new] * span + shifted[:, 0]) * span + shifted[:, 1])
        place, y, x = number // span**2, number // span % span, number % span
        return place, np.stack([y, x], -1) - MAX_VECTOR

    def _expected_at(self, block: np.ndarray) -> np.ndarray | None:
        """The vectors that are expected at the blocks, if any are."""
        return None if self._expected is None else self._expected[block]

    def _own_bits(self, block: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """Bits of the blocks with these vectors."""
        return self._bits(vector, self.v[self.grid.predictors[:, block]], self._expected_at(block))

    def _bits_of_others(self, block: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """Bits of the blocks that are predicted from these blocks, if these have these vectors."""
        which, child, slot = self.grid.children(block)
        if not len(which):
            return np.zeros(len(block))
        around = self.v[self.grid.predictors[:, child]]
        around[slot, np.arange(len(child))] = vector[which]
        return np.bincount(which, self._bits(self.v[child], around, self._expected_at(child)), len(block))
