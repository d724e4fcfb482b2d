"""Adaptive binary contexts: probabilities that follow the bits coded before, in exact integers."""

from collections.abc import Callable

import numpy as np

PROBABILITY_ONE = 65536  # stands for 1 in the probabilities of the range coder
MAX_EXPONENT = 11  # of a difference of two components of vectors, which lies within +-4094
PREFIXES = 6  # contexts of each unary code of an exponent
_FEW = 8  # bits are learnt one by one where there are so many times as many contexts
_OBSERVATION = 16  # weight of a bit that was coded, where the first counts of a context add up to 256

# Codes bits of given P(1) = p1 / 65536 and returns them: of an encoder those that it is given, of a decoder, which gets
# None, those that it reads.
CodeBits = Callable[[np.ndarray | None, np.ndarray], np.ndarray]


class Contexts:
    """Counts of the zeros and ones of each context, from which the probability of its next bit follows.

    Args:
        start: first P(1) of each context in 1/256, (contexts,), or its first counts, (2, contexts).
        max_count: sum of the two counts above which they are halved.

    Attributes:
        counts: int64 (2, contexts).
    """

    def __init__(self, start: np.ndarray, max_count: int):
        self.counts = (np.stack([256 - start, start]) if start.ndim == 1 else start).astype(np.int64)
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
        if not len(context):
            return np.zeros(0, np.int64)
        n0, n1 = self.counts[:, context]
        p1 = np.clip(PROBABILITY_ONE * n1 // (n0 + n1), 1, PROBABILITY_ONE - 1)
        p1 = np.where(context < 0, PROBABILITY_ONE // 2, p1)
        bits = code(None if bits is None else bits.astype(np.int64), p1)
        learnt = context >= 0
        self._learn(context[learnt], bits[learnt])
        return bits

    def _learn(self, context: np.ndarray, bits: np.ndarray) -> None:
        number = self.counts.shape[1]
        if _FEW * len(context) < number:
            np.add.at(self.counts, (bits, context), _OBSERVATION)
            those = context
        else:
            self.counts += _OBSERVATION * np.bincount(number * bits + context, minlength=2 * number).reshape(2, number)
            those = np.arange(number)
        while len(those := np.unique(those[self.counts[:, those].sum(0) > self._max_count])):
            self.counts[:, those] = (self.counts[:, those] + 1) >> 1


def code_differences(
    contexts: Contexts,
    d: np.ndarray | None,
    nonzero: np.ndarray,
    negative: np.ndarray,
    prefix: np.ndarray,
    suffix: int,
    code: CodeBits,
) -> np.ndarray:
    """Code integers within +-4094: whether it is not 0, the sign, then |d| = 2**e + suffix with e in unary.

    Args:
        contexts: those that are used, and learn.
        d: the integers (n,), None when decoding.
        nonzero, negative: numbers of the contexts of these decisions, (n,).
        prefix: number of the first of the `PREFIXES` contexts of e, (n,).
        suffix: number of the context of the suffix's high bit if e were 0; e is added.
        code: codes the bits with their probabilities.

    Returns:
        d, int64 (n,).
    """
    out = np.zeros(len(nonzero), np.int64)
    some = np.flatnonzero(contexts.code(None if d is None else d != 0, nonzero, code))
    if not len(some):
        return out
    size = exponent = None
    if d is not None:
        size = np.abs(d[some])
        exponent = np.frexp(size.astype(np.float64))[1] - 1  # floor(log2), exact
    sign = contexts.code(None if d is None else d[some] < 0, negative[some], code)
    e = np.zeros(len(some), np.int64)
    active = np.arange(len(some))
    for k in range(MAX_EXPONENT):
        more = None if exponent is None else exponent[active] > k
        more = contexts.code(more, prefix[some[active]] + min(k, PREFIXES - 1), code)
        active = active[more != 0]
        if not len(active):
            break
        e[active] += 1
    # the suffixes of all places one after the other, high bits first
    place = np.arange(e.sum()) - np.repeat(np.cumsum(e) - e, e)
    weight = np.repeat(e, e) - 1 - place
    context = np.where(place == 0, suffix + np.repeat(e, e), -1)
    bits = contexts.code(None if size is None else np.repeat(size, e) >> weight & 1, context, code)
    total = np.bincount(np.repeat(np.arange(len(e)), e), weights=bits << weight, minlength=len(e))
    magnitude = (1 << e) + total.astype(np.int64)
    out[some] = np.where(sign != 0, -magnitude, magnitude)
    return out
