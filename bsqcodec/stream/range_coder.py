"""Range coder for bits with given probabilities: a thin layer over `constriction` that fixes the byte format.

P(bit = 1) = k / 65536. With such probabilities every step inside constriction's Bernoulli model is exact, so the
coder can be stated in integers (bitstream_spec.md): of 2**24 parts symbol 0 has

    w0 = (((65536 - k) * (2**24 - 2)) >> 16) + 1

and symbol 1 the rest, above it. The stream is a sequence of 32-bit words, little-endian. A decoder reads zeros after
its end, so an encoder leaves out zero words at the end and the low zero bytes of the last word: 1 to 3 bytes that
remain when the length is no multiple of 4 are the high bytes of a word, also little-endian.
"""

import constriction
import numpy as np

from ..errors import FormatError
from .contexts import PROBABILITY_ONE, CodeBits

_BERNOULLI = constriction.stream.model.Bernoulli(perfect=False)


def _probabilities(p1: np.ndarray) -> np.ndarray:
    """P(1) of each bit. Raises ValueError for probabilities out of range."""
    if p1.size and (p1.min() < 1 or p1.max() >= PROBABILITY_ONE):
        raise ValueError("probabilities must lie in 1..65535")
    return p1 * (1.0 / PROBABILITY_ONE)


def _cost(symbols: np.ndarray, p: np.ndarray) -> float:
    """-sum log2 P of symbols 0/1 with P(1) = p."""
    q = np.abs(symbols - 1 + p)
    # of products of 32, which are 2**-512 or more: a logarithm takes much longer than a multiplication
    whole = len(q) // 32 * 32
    return -float(np.log2(q[:whole].reshape(32, -1).prod(0)).sum() + np.log2(q[whole:]).sum())


class BitEncoder:
    """Collects bits. `bits` is the ideal code length so far, -sum log2 P, in bits; `count` is how many they are."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()
        self.bits = 0.0
        self.count = 0

    def encode(self, bits: np.ndarray, p1: np.ndarray) -> None:
        """Append bits (0/1, any integer type) with P(1) = p1 / 65536, p1 integers in 1..65535 of the same size."""
        p1 = np.asarray(p1).ravel()
        symbols = np.asarray(bits).ravel().astype(np.int32)
        if symbols.size != p1.size:
            raise ValueError(f"{symbols.size} bits but {p1.size} probabilities")
        if not symbols.size:
            return
        if symbols.min() < 0 or symbols.max() > 1:
            raise ValueError("bits must be 0 or 1")
        self.count += symbols.size
        p = _probabilities(p1)
        self._coder.encode(symbols, _BERNOULLI, p)
        self.bits += _cost(symbols, p)

    def finish(self) -> bytes:
        """The stream; empty if nothing was encoded.

        Any point of the final interval [lower, lower + range) decodes to the same bits. The sealed stream ends with
        its smallest multiple of 2**32, perhaps followed by a zero word. A larger one that is still inside may end
        in more zero bytes, which are left out because the decoder reads zeros after the end.
        """
        words = self._coder.get_compressed()
        if not len(words):
            return b""
        _, (lower, width) = self._coder.pos()
        seal = -(-lower // 2**32)
        if 0 < seal < 2**32:  # else the last word is zero already (2**32 carries into the words before)
            words = words[:-1] if words[-1] == 0 else words
            for zeros in (24, 16, 8):
                rounded = -(-seal >> zeros) << zeros
                if rounded < 2**32 and rounded << 32 < lower + width:
                    words[-1] = rounded
                    break
        big_endian = words.astype(">u4").tobytes().rstrip(b"\0")
        whole = len(big_endian) // 4 * 4
        return np.frombuffer(big_endian[:whole], ">u4").astype("<u4").tobytes() + big_endian[whole:][::-1]


class BitDecoder:
    """Gives the bits back, asked for with the probabilities that they were encoded with.

    Data that end too early read as zeros: a truncated stream gives wrong bits or a FormatError, and never an
    endless loop, for the caller decides how many bits are read. `bits` is the ideal code length read so far, `count`
    how many bits were.
    """

    def __init__(self, data: bytes) -> None:
        data = bytes(data)
        whole = len(data) // 4 * 4
        data = data[:whole] + bytes(-len(data) % 4) + data[whole:]
        words = np.frombuffer(data, dtype="<u4").astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)
        self.bits = 0.0
        self.count = 0

    def decode(self, p1: np.ndarray) -> np.ndarray:
        """The next `p1.size` bits, uint8 0/1. Raises FormatError where no encoder could have made the data."""
        p1 = np.asarray(p1).ravel()
        self.count += p1.size
        p = _probabilities(p1)
        try:
            symbols = self._coder.decode(_BERNOULLI, p)
        except AssertionError as e:
            raise FormatError("the coded bits are damaged") from e
        self.bits += _cost(symbols, p)
        return symbols.astype(np.uint8)


def written_by(encoder: BitEncoder) -> CodeBits:
    """What appends the bits of contexts to a stream."""

    def code(bits: np.ndarray | None, p1: np.ndarray) -> np.ndarray:
        assert bits is not None
        encoder.encode(bits, p1)
        return bits

    return code


def read_by(decoder: BitDecoder) -> CodeBits:
    """What reads the bits of contexts from a stream."""
    return lambda _, p1: decoder.decode(p1).astype(np.int64)
