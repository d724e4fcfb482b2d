"""The last stage of the motion search: the field that costs least, its squared error and the coder's own bits together.

A block's vector is what later blocks of the field are predicted from, so a change counts with what it does to
their bits. Blocks that have no such block in common change at once; each change so lowers the cost of the whole field
(iterated conditional modes, Besag 1986). Only the few blocks at the top of the pyramid, which would take as many steps
as all the others, change at once although they may have.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from ..stream.motion_vectors import MISSING, VectorCoder, steps
from .motion_search import Field

PASSES = 3
FEW = 1 / 64  # of all blocks: groups that are smaller change together
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
        """What is predicted from the blocks: for each pair, which of `block` it is, the other block, the slot."""
        count = self.start[block + 1] - self.start[block]
        which = np.repeat(np.arange(len(block)), count)
        edge = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + self.start[block][which]
        return which, self.child[edge], self.slot[edge]


@lru_cache(maxsize=4)
def _grid(rows: int, columns: int) -> _Grid:
    n = rows * columns
    predictors = np.full((4, n), n)
    groups = []
    for i, (blocks, those, h, diagonal) in enumerate(steps(rows, columns)):
        predictors[:, blocks] = those
        y, x = np.divmod(blocks, columns)
        if i == 0:
            colour = np.arange(len(blocks))
        elif diagonal:  # like the fields of a chessboard
            colour = (y // (2 * h) + x // (2 * h)) % 2
        else:
            colour = y // h % 2 if h > 1 else np.zeros_like(y)
        groups += [blocks[colour == c] for c in np.unique(colour)]
    large = [group for group in groups if len(group) >= FEW * n]
    small = [group for group in groups if len(group) < FEW * n]
    groups = ([np.concatenate(small)] if small else []) + large
    slot, child = np.nonzero(predictors < n)
    parent = predictors[slot, child]
    by_parent = np.argsort(parent, kind="stable")
    y, x = np.divmod(np.arange(n), columns)
    beside = [np.clip(y + dy, 0, rows - 1) * columns + np.clip(x + dx, 0, columns - 1) for dy, dx in _RING]
    start = np.searchsorted(parent[by_parent], np.arange(n + 1))
    return _Grid(groups[::-1], predictors, np.stack(beside), child[by_parent], slot[by_parent], start)


def refine(field: Field, coder: VectorCoder, lam: float) -> np.ndarray:
    """The vectors of one frame, int32 (Hb, Wb, 2), for `coder` to encode next.

    Args:
        field: of one frame, as `motion.find` leaves it: where the descent begins.
        lam: squared error of luma, summed over a block, that one bit is worth.
    """
    rows, columns = field.rows, field.columns
    n = rows * columns
    grid, bits = _grid(rows, columns), coder.bits_of()
    expected = coder.expected(rows, columns)
    low, high = (x.cpu().numpy().reshape(n, 2).astype(np.int64) for x in (field.low, field.high))
    v = np.concatenate([field.v.cpu().numpy().reshape(n, 2), [(MISSING, MISSING)]]).astype(np.int64)

    def at(block: np.ndarray) -> np.ndarray | None:
        """What is expected at the blocks."""
        return None if expected is None else expected[block]

    def error(block: np.ndarray, vector: np.ndarray) -> np.ndarray:
        numbers, vectors = (torch.from_numpy(a).to(field.v.device) for a in (block, vector.astype(np.int32)))
        return field.error(numbers, vectors, squared=True).cpu().numpy().astype(np.float64)

    def own(block: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """Bits of the blocks with these vectors."""
        return bits(vector, v[grid.predictors[:, block]], at(block))

    def others(block: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """Bits of the blocks that are predicted from them."""
        which, child, slot = grid.children(block)
        if not len(which):
            return np.zeros(len(block))
        around = v[grid.predictors[:, child]]
        around[slot, np.arange(len(child))] = vector[which]
        return np.bincount(which, bits(v[child], around, at(child)), len(block))

    errors = error(np.arange(n), v[:n])
    stale = np.ones(n + 1, bool)  # blocks around which something has changed since they had their turn
    for _ in range(PASSES):
        for group in grid.groups:
            group = group[stale[group]]
            if not len(group):
                continue
            proposed = [v[grid.beside[:, group]], v[group] + _RING[:, None], np.zeros((1, len(group), 2), np.int64)]
            around = v[grid.predictors[:, group]]
            proposed.append(np.where(around < MISSING, around, 0))
            proposed.append(coder.predict(around, at(group))[0][None])
            if expected is not None:
                proposed.append(expected[group][None])
            vector = np.clip(np.concatenate(proposed), low[group], high[group])
            # each once, and none that changes nothing
            place = np.broadcast_to(np.arange(len(group)), vector.shape[:2])
            key = (place << 26) + (vector[..., 0] + 4096 << 13) + vector[..., 1] + 4096
            key = np.unique(key[(vector != v[group]).any(-1)])
            place, vector = key >> 26, np.stack([(key >> 13 & 8191) - 4096, (key & 8191) - 4096], -1)
            now = errors[group] + lam * (own(group, v[group]) + others(group, v[group]))
            total = error(group[place], vector)
            e = total.copy()
            for more in (own, others):  # what is too much already need not be counted on
                worth = total < now[place]
                place, vector, e = place[worth], vector[worth], e[worth]
                total = total[worth] + lam * more(group[place], vector)
            best = np.lexsort((total, place))
            best = best[np.unique(place[best], return_index=True)[1]]
            best = best[total[best] < now[place[best]]]
            changed = group[place[best]]
            v[changed], errors[changed] = vector[best], e[best]
            children = grid.children(changed)[1]
            for near in grid.beside[:, changed], grid.predictors[:, changed], children, grid.predictors[:, children]:
                stale[near] = True
            stale[group] = False
    return v[:n].reshape(rows, columns, 2).astype(np.int32)
