"""Integers and blocks of bytes as the header and the chunks of a .bsq file hold them."""

from fractions import Fraction

from ..errors import FormatError

MAX_NUMBER = (1 << 31) - 1  # of ratios: FFmpeg's hold no more
MAX_TIME = 1 << 62


def varint(n: int) -> bytes:
    """Unsigned LEB128: 7 bits per byte, low ones first, bit 7 set on all but the last. n in 0 .. 2**63 - 1.

    >>> varint(300).hex(), Fields(varint(300)).varint()
    ('ac02', 300)
    """
    if not 0 <= n < 1 << 63:
        raise ValueError(f"{n} is not in 0 .. 2**63 - 1")
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def signed(n: int) -> bytes:
    """Zigzag: 0, -1, 1, -2 .. as the varints 0, 1, 2, 3 .."""
    return varint(2 * n if n >= 0 else -2 * n - 1)


def block(data: bytes) -> bytes:
    """Bytes, and before them a varint that counts them."""
    return varint(len(data)) + data


class Fields:
    """Reads the fields of a header or chunk one after the other. Raises FormatError where they end too early."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        """The next n bytes."""
        part = self.data[self.at : self.at + n]
        if len(part) != n:
            raise FormatError("a field is cut short")
        self.at += n
        return part

    def varint(self, limit: int = (1 << 63) - 1) -> int:
        """The next integer, as `varint` writes it. Raises FormatError if it is above `limit`."""
        n = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            n |= (byte & 0x7F) << shift
            if byte < 0x80:
                if n > limit:
                    raise FormatError(f"a field holds {n}, more than {limit}")
                return n
        raise FormatError("an integer is longer than 63 bits")

    def signed(self) -> int:
        """The next integer, as `signed` writes it."""
        n = self.varint()
        return n >> 1 if n & 1 == 0 else -(n >> 1) - 1

    def block(self) -> bytes:
        """The next bytes that a varint before them counts."""
        return self.take(self.varint())

    def rest(self) -> bytes:
        """All bytes that are left; the position stays."""
        return self.data[self.at :]


def ratio(numerator: int, denominator: int) -> Fraction:
    """The quotient of two fields. Raises FormatError if either is 0."""
    if not numerator or not denominator:
        raise FormatError("a time base or frame rate is zero")
    return Fraction(numerator, denominator)
