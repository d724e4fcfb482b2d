"""Lossless coding of how each block of a frame with two references is predicted: adaptive binary contexts, exact.

The blocks are coded on the pyramid of the motion vectors (`motion_vectors.pyramid_steps`): of each whether it is
predicted from both references, and if not, from which; by what is known of the blocks around it.
"""

import numpy as np

from .contexts import CodeBits, Contexts
from .group import BOTH, FIRST, SECOND
from .motion_vectors import pyramid_steps
from .range_coder import BitDecoder, BitEncoder, read_by, written_by

_NEIGHBOURS = 4
# contexts: one reference only (how many neighbours have one, none known), which (the one that more of them have)
_WHICH = _NEIGHBOURS + 2
# first P(1) of each context in 1/256, fitted on what the encoder chooses for real clips
_START = np.array([12, 66, 124, 176, 226, 64, 40, 128, 216])
_MAX_COUNT = 1 << 12  # sum of the two counts of a context above which they are halved


def used(modes: np.ndarray | None, reference: int) -> np.ndarray | None:
    """Which blocks are predicted from a reference, 0 or 1, also where from both; None, which is all, without modes."""
    return None if modes is None else modes != (SECOND, FIRST)[reference]


class ModeCoder:
    """Codes the modes of the frames of one group of pictures in order, and learns; make a new one at each I frame."""

    def __init__(self) -> None:
        self._contexts = Contexts(_START, _MAX_COUNT)

    def encode(self, modes: np.ndarray, encoder: BitEncoder) -> None:
        """Append the modes of a frame, integers 0..2, (rows, columns)."""
        rows, columns = modes.shape
        self._run(rows, columns, modes.astype(np.int64).ravel(), written_by(encoder))

    def decode(self, rows: int, columns: int, decoder: BitDecoder) -> np.ndarray:
        """The modes of the next frame, int64 (rows, columns)."""
        return self._run(rows, columns, None, read_by(decoder))

    def cheapest(self, costs: np.ndarray) -> np.ndarray:
        """The modes that cost least, block after block in the order of coding, int64 (rows, columns).

        costs: of each mode without its own bits, in bits, (rows, columns, 3).
        """
        rows, columns, _ = costs.shape
        zero, one = -np.log2(self._contexts.counts / self._contexts.counts.sum(0))
        modes = np.full(rows * columns + 1, -1)
        for step in pyramid_steps(rows, columns):
            single, which = _contexts(modes[step.predictors])
            bits = np.stack([zero[single], one[single] + zero[which], one[single] + one[which]], -1)
            modes[step.blocks] = (costs.reshape(-1, 3)[step.blocks] + bits).argmin(-1)
        return modes[:-1].reshape(rows, columns)

    def copy(self) -> "ModeCoder":
        """A coder of its own in the same state."""
        other = ModeCoder()
        other._contexts.counts = self._contexts.counts.copy()
        return other

    def _run(self, rows: int, columns: int, truth: np.ndarray | None, code: CodeBits) -> np.ndarray:
        modes = np.full(rows * columns + 1, -1)
        for step in pyramid_steps(rows, columns):
            single, which = _contexts(modes[step.predictors])
            wanted = None if truth is None else truth[step.blocks]
            found = self._contexts.code(None if wanted is None else wanted != BOTH, single, code).copy()
            some = np.flatnonzero(found)
            found[some] += self._contexts.code(None if wanted is None else wanted[some] == SECOND, which[some], code)
            modes[step.blocks] = found
        return modes[:-1].reshape(rows, columns)


def _contexts(around: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The contexts of both decisions, (n,) each, by the modes of the neighbours, (4, n), -1 for none."""
    first, second = (around == FIRST).sum(0), (around == SECOND).sum(0)
    single = np.where((around < 0).all(0), _NEIGHBOURS + 1, first + second)
    return single, _WHICH + 1 + np.sign(second - first)
