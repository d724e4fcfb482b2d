"""The range coder: exact round trips, its integer definition, and damaged data."""

import contextlib

import numpy as np
import pytest

from bsqcodec.errors import FormatError
from bsqcodec.stream.range_coder import BitDecoder, BitEncoder

MASK = 2**64 - 1


class IntegerDecoder:
    """The coder as bitstream_spec.md states it, in plain integers."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0  # the last word may lack its low bytes: they come first, hence rjust
        self.lower, self.range = 0, MASK
        self.point = self.word() << 32 | self.word()

    def word(self) -> int:
        word = int.from_bytes(self.data[self.at : self.at + 4].rjust(4, b"\0"), "little")
        self.at += 4
        return word

    def bit(self, k: int) -> int:
        w0 = (((65536 - k) * (2**24 - 2)) >> 16) + 1
        scale = self.range >> 24
        offset = (self.point - self.lower) & MASK
        bit = int(offset >= scale * w0)
        if bit:
            self.lower = (self.lower + scale * w0) & MASK
        self.range = scale * (2**24 - w0 if bit else w0)
        if self.range < 2**32:
            self.range <<= 32
            self.lower = self.lower << 32 & MASK
            self.point = (self.point << 32 | self.word()) & MASK
        return bit


def sample(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n random bits and their probabilities, P(1) in 1/65536, some of them the extreme ones."""
    rng = np.random.default_rng(seed)
    k = rng.integers(1, 65536, n)
    k[rng.random(n) < 0.1] = 1
    k[rng.random(n) < 0.1] = 65535
    return (rng.random(n) < k / 65536).astype(np.uint8), k


def encoded(bits: np.ndarray, k: np.ndarray) -> bytes:
    coder = BitEncoder()
    coder.encode(bits, k)
    return coder.finish()


def test_round_trip_in_parts() -> None:
    bits, k = sample(20000, 0)
    coder = BitEncoder()
    for part in np.array_split(np.arange(len(bits)), [0, 1, 7, 500, 501, 9000]):
        coder.encode(bits[part], k[part])
    data = coder.finish()
    assert 0 <= len(data) * 8 - coder.bits < 40
    decoder = BitDecoder(data)
    assert np.array_equal(np.concatenate([decoder.decode(k[:1234]), decoder.decode(k[1234:])]), bits)
    expected = -np.log2(np.where(bits, k, 65536 - k) / 65536).sum()
    assert coder.bits == pytest.approx(expected)


def test_integer_definition() -> None:
    bits, k = sample(20000, 1)
    decoder = IntegerDecoder(encoded(bits, k))
    assert [decoder.bit(int(i)) for i in k] == bits.tolist()


def test_runs_of_equal_probabilities() -> None:
    rng = np.random.default_rng(4)
    lengths = np.r_[1, 511, 512, 513, 2000, 3, 512, 512, rng.integers(1, 1200, 40)]
    k = np.repeat(np.r_[1, 1, 65535, 32768, 1, 7, 40000, 40001, rng.integers(1, 65536, 40)], lengths)
    bits = (rng.random(len(k)) < k / 65536).astype(np.uint8)
    coder = BitEncoder()
    coder.encode(bits, k)
    data = coder.finish()
    assert coder.bits == pytest.approx(-np.log2(np.where(bits, k, 65536 - k) / 65536).sum())
    assert np.array_equal(BitDecoder(data).decode(k), bits)
    decoder = IntegerDecoder(data)
    assert [decoder.bit(int(i)) for i in k] == bits.tolist()
    for broken in (data[:100], b"\xff" * 5000):
        with contextlib.suppress(FormatError):
            assert BitDecoder(broken).decode(k).size == k.size


def test_every_probability_matches_its_weight() -> None:
    k = np.arange(1, 65536, 3)
    for bits in (np.zeros(len(k), np.uint8), np.ones(len(k), np.uint8)):
        decoder = IntegerDecoder(encoded(bits, k))
        assert [decoder.bit(int(i)) for i in k] == bits.tolist()


def test_short_streams_end_right() -> None:
    """Every way in which a stream can end, with much decoded from each."""
    sizes = []
    for seed in range(3000):
        bits, k = sample(1 + seed % 40, seed)
        if seed % 3 == 0:
            bits = 1 - bits  # improbable bits: long streams
        data = encoded(bits, k)
        assert np.array_equal(BitDecoder(data).decode(k), bits), seed
        sizes.append(len(data) * 8 + np.log2(np.where(bits, k, 65536 - k) / 65536).sum())
    assert -1e-9 <= np.mean(sizes) < 14


def test_carries() -> None:
    """Intervals that straddle a word for long: the encoder holds words back."""
    rng = np.random.default_rng(5)
    for n in range(40, 400, 7):
        k = np.full(n, 32768)
        bits = np.r_[0, np.ones(n - 1, int)]
        bits[-(n % 5 + 1) :] = rng.integers(0, 2, n % 5 + 1)
        k[1 : n // 3] = 32769
        assert np.array_equal(BitDecoder(encoded(bits, k)).decode(k), bits)


def test_empty() -> None:
    coder = BitEncoder()
    coder.encode(np.zeros(0, np.uint8), np.zeros(0, np.int64))
    assert coder.finish() == b"" and coder.bits == 0
    assert BitDecoder(b"").decode(np.zeros(0, np.int32)).shape == (0,)


def test_damaged_streams_end() -> None:
    bits, k = sample(5000, 2)
    data = encoded(bits, k)
    rng = np.random.default_rng(3)
    wrong = [data[:n] for n in (0, 1, 5, len(data) // 2)] + [rng.bytes(n) for n in (3, 50, 1000)] + [b"\xff" * 600]
    for broken in wrong:
        with contextlib.suppress(FormatError):
            assert BitDecoder(broken).decode(k).size == k.size


def test_wrong_arguments() -> None:
    for bits, k, message in (
        ([2], [5], "bits must be 0 or 1"),
        ([0], [0], "probabilities must lie in 1"),
        ([0], [65536], "probabilities must lie in 1"),
        ([0, 1], [5], "2 bits but 1 probabilities"),
    ):
        with pytest.raises(ValueError, match=message):
            BitEncoder().encode(np.array(bits), np.array(k))
    with pytest.raises(ValueError, match="probabilities must lie in 1"):
        BitDecoder(b"").decode(np.array([0]))
