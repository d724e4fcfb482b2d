"""Adaptive binary contexts: probabilities that follow the bits coded before, in exact integers."""

from collections.abc import Callable

import numpy as np

PROBABILITY_ONE = 65536  # stands for 1 in the probabilities of the range coder
_OBSERVATION = 16  # weight of a bit that was coded, where the first counts of a context add up to 256

# Codes bits of given P(1) = p1 / 65536 and returns them: of an encoder those that it is given, of a decoder, which gets
# None, those that it reads.
CodeBits = Callable[[np.ndarray | None, np.ndarray], np.ndarray]


class Contexts:
    """Counts of the zeros and ones of each context, from which the probability of its next bit follows.

    Args:
        start: first P(1) of each context in 1/256.
        max_count: sum of the two counts above which they are halved.

    Attributes:
        counts: int64 (2, contexts).
    """

    def __init__(self, start: np.ndarray, max_count: int):
        self.counts = np.stack([256 - start, start]).astype(np.int64)
        self._max_count = max_count

    def code(self, bits: np.ndarray | None, context: np.ndarray, code: CodeBits) -> np.ndarray:
        """Code one decision for many places at once, then learn from it.

        Args:
            bits: 0/1 (n,), None when decoding.
            context: of each bit (n,); -1 is an even chance, of which nothing is learnt.
            code: codes the bits with their probabilities.

        Returns:
            The bits, int64 (n,).
        """
        n0, n1 = self.counts[:, context]
        p1 = np.clip(PROBABILITY_ONE * n1 // (n0 + n1), 1, PROBABILITY_ONE - 1)
        p1 = np.where(context < 0, PROBABILITY_ONE // 2, p1)
        bits = code(None if bits is None else bits.astype(np.int64), p1)
        learnt = context >= 0
        for value in (0, 1):
            seen = np.bincount(context[learnt & (bits == value)], minlength=self.counts.shape[1])
            self.counts[value] += _OBSERVATION * seen
        while (full := self.counts.sum(0) > self._max_count).any():
            self.counts[:, full] = (self.counts[:, full] + 1) >> 1
        return bits
