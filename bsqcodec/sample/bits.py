"""Bits that are drawn, each with the probability that a decoder would use for it, in integers from end to end.

A range decoder that reads random bytes does nearly the same; here every bit is one comparison of integers, so that a
seed means the same bits on every machine, and a temperature can sharpen or flatten the probabilities.
"""

import decimal
from decimal import Decimal
from functools import lru_cache

import numpy as np

from ..stream.contexts import PROBABILITY_ONE
from ..stream.range_coder import BitDecoder

SEEDS = 1 << 64
_DIGITS = 20  # of decimal numbers; what they are rounded to has 5
_COST_BITS = 16  # fractional bits of costs


@lru_cache(maxsize=4)
def tempered(temperature: Decimal) -> np.ndarray:
    """What each probability p / 65536 becomes at a temperature T > 0, int64 (65537,), in units of 1/65536.

    odds(q) = odds(p)**(1 / T): T = 1 changes nothing, below it the likelier value of a bit is likelier still, above it
    both come closer. q(65536 - p) = 65536 - q(p). Logarithm and exponential are those of `decimal`, which are correctly
    rounded: the table is the same everywhere.
    """
    if temperature == 1:
        return np.arange(PROBABILITY_ONE + 1, dtype=np.int64)
    with decimal.localcontext(decimal.Context(prec=_DIGITS)):
        # below 1/2 the logarithm of the odds is negative, and what is too small for a Decimal becomes 0
        odds = [(log / temperature).exp() for log in _log_odds()]
        low = [0, *(int(PROBABILITY_ONE * o / (1 + o) + Decimal("0.5")) for o in odds), PROBABILITY_ONE // 2]
    q = np.array(low, np.int64)
    return np.concatenate([q, PROBABILITY_ONE - q[-2::-1]])


@lru_cache(maxsize=1)
def _log_odds() -> list[Decimal]:
    """Logarithms of the odds of the probabilities below 1/2 but 0, in the context of their caller."""
    return [(Decimal(p) / (PROBABILITY_ONE - p)).ln() for p in range(1, PROBABILITY_ONE // 2)]


@lru_cache(maxsize=1)
def costs() -> np.ndarray:
    """-log2(p / 65536) of each probability, rounded up, int64 (65537,), in units of 2**-16 bits; of p = 0 that of 1.

    The logarithm is found bit by bit, by squaring: the table is the same everywhere.
    """
    p = np.arange(PROBABILITY_ONE + 1).clip(1)
    exponent = np.frexp(p.astype(np.float64))[1].astype(np.uint64) - np.uint64(1)  # floor(log2), exact
    x = p.astype(np.uint64) << (np.uint64(31) - exponent)  # 1 <= x / 2**31 < 2
    log2 = exponent.astype(np.int64)
    for _ in range(_COST_BITS):
        x = x * x >> np.uint64(31)
        high = x >> np.uint64(32)
        x >>= high
        log2 = 2 * log2 + high.astype(np.int64)
    return (16 << _COST_BITS) - log2


class BitSampler(BitDecoder):
    """Draws the bits that a decoder would read.

    The random numbers are those of Philox 4x64-10 (Salmon et al., 2011), as NumPy's `Philox(key=seed)` counts them: of
    each number of 64 bits the highest 16 are an integer r, and a bit is 1 if r < q(p), from `tempered`.

    Args:
        seed: 0..2**64 - 1.
        temperature: above 0.

    Raises ValueError for others.

    Attributes:
        bits, count: ideal code length of what was drawn, -sum log2 P as a decoder has it, and how many bits it is.
        weighed: -log2 P of the bits that were given and not drawn, an integer in units of 2**-16 bits.
    """

    def __init__(self, seed: int, temperature: Decimal = Decimal(1)):
        if not 0 <= seed < SEEDS:
            raise ValueError(f"seed {seed} is not in 0..2**64 - 1")
        if not (temperature.is_finite() and temperature > 0):
            raise ValueError(f"temperature {temperature} is not a number above 0")
        super().__init__(b"")
        self._random = np.random.Philox(key=seed)
        self._table = tempered(temperature)
        self.weighed = 0

    def decode(self, p1: np.ndarray) -> np.ndarray:
        """Draw bits, uint8 0/1, where a decoder reads them with P(1) = p1 / 65536."""
        p1 = np.asarray(p1).ravel()
        r = (self._random.random_raw(p1.size) >> np.uint64(48)).astype(np.int64)
        bits = r < self._table[p1]
        self.count += p1.size
        self.bits += _cost(bits, p1) / (1 << _COST_BITS)
        return bits.view(np.uint8)

    def draw(self, p: np.ndarray, _: np.ndarray | None) -> np.ndarray:
        """Draw bits of coefficients, a `Coder`."""
        return self.decode(p).view(bool)

    def weigh(self, p: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        """Weigh bits of coefficients that are given, a `Coder`."""
        assert bits is not None
        self.weighed += _cost(bits, p)
        return bits

    def complete(self, bits: np.ndarray | None, p1: np.ndarray) -> np.ndarray:
        """Draw those bits of contexts that are masked, and weigh the others, `CodeBits`."""
        assert bits is not None
        drawn = np.ma.getmaskarray(bits)
        out: np.ndarray = np.ma.getdata(bits).astype(np.int64)
        out[drawn] = self.decode(p1[drawn])
        self.weighed += _cost(out[~drawn], p1[~drawn])
        return out


def _cost(bits: np.ndarray, p1: np.ndarray) -> int:
    return int(costs()[np.where(bits, p1, PROBABILITY_ONE - p1)].sum())
