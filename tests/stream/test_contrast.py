"""The classes of contrast come back from their bits, whatever they are, and no bytes give others than -3..3."""

import numpy as np
import pytest

from bsqcodec.errors import FormatError
from bsqcodec.stream.contrast import MAX_CLASS, MIN_CLASS, decode_classes, encode_classes
from bsqcodec.stream.range_coder import BitDecoder, BitEncoder

GRIDS = [(1, 1), (1, 2), (2, 1), (1, 17), (17, 1), (3, 5), (8, 8), (9, 16), (33, 31)]


def fields(rows: int, columns: int) -> list[np.ndarray]:
    """Classes of contrast, each (rows, columns): random, constant, alternating, smooth, and smooth with noise."""
    rng = np.random.default_rng(rows * 100 + columns)
    i, j = np.mgrid[:rows, :columns]
    smooth = np.rint(3 * np.sin(i / 4) * np.cos(j / 5)).astype(np.int64)
    return [
        rng.integers(MIN_CLASS, MAX_CLASS + 1, (rows, columns)),
        np.zeros((rows, columns), np.int64),
        np.full((rows, columns), MIN_CLASS),
        np.full((rows, columns), MAX_CLASS),
        np.where((i + j) % 2, MIN_CLASS, MAX_CLASS),
        smooth,
        np.clip(smooth + rng.integers(-1, 2, (rows, columns)), MIN_CLASS, MAX_CLASS),
    ]


@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_classes_come_back(rows, columns):
    """Several frames in one stream, with other bits around them."""
    encoder = BitEncoder()
    encoder.encode(np.array([1, 0]), np.array([100, 200]))
    for classes in fields(rows, columns):
        encode_classes(classes, encoder)
    encoder.encode(np.array([0, 1]), np.array([100, 200]))
    decoder = BitDecoder(encoder.finish())
    assert decoder.decode(np.array([100, 200])).tolist() == [1, 0]
    for classes in fields(rows, columns):
        decoded = decode_classes(rows, columns, decoder)
        assert decoded.dtype == np.int64 and np.array_equal(decoded, classes)
    assert decoder.decode(np.array([100, 200])).tolist() == [0, 1]
    assert decoder.count == encoder.count and decoder.bits == pytest.approx(encoder.bits)


def test_types_and_layouts_do_not_matter():
    classes = fields(9, 16)[6]
    streams = set()
    for same in (classes, classes.astype(np.int8), np.asfortranarray(classes), np.repeat(classes, 2, 1)[:, ::2]):
        encoder = BitEncoder()
        encode_classes(same, encoder)
        streams.add(encoder.finish())
    assert len(streams) == 1


def test_what_is_smooth_or_flat_is_cheap():
    costs = []
    for classes in fields(40, 40):
        encoder = BitEncoder()
        encode_classes(classes, encoder)
        costs.append(encoder.bits / classes.size)
    random, zero, low, high, _, smooth, noisy = costs
    assert max(zero, low, high) < 0.1 and smooth < 1.2 and smooth < noisy < random < 3.5


def test_hostile_bytes_are_refused_or_give_classes():
    rng = np.random.default_rng(0)
    refused = 0
    for n in range(150):
        data = [rng.bytes(n), bytes([n % 256]) * 80, b"\xff" * n][n % 3]
        rows, columns = GRIDS[n % len(GRIDS)]
        try:
            classes = decode_classes(rows, columns, BitDecoder(data))
        except FormatError:
            refused += 1
            continue
        assert classes.shape == (rows, columns) and classes.min() >= MIN_CLASS and classes.max() <= MAX_CLASS
    assert 0 < refused < 150


def test_a_class_out_of_range_is_refused():
    """An encoder that is told to write one: the decoder does not take it."""
    classes = np.zeros((4, 4), np.int64)
    classes[1, 2] = MAX_CLASS + 1
    encoder = BitEncoder()
    try:
        encode_classes(classes, encoder)
    except FormatError:
        pass
    else:
        raise AssertionError("it was written")
    with pytest.raises(FormatError, match="out of range"):
        decode_classes(4, 4, BitDecoder(encoder.finish()))


def test_damage_is_refused_or_gives_classes():
    classes = fields(9, 16)[6]
    encoder = BitEncoder()
    encode_classes(classes, encoder)
    data = encoder.finish()
    for i in range(8 * len(data)):
        bad = bytearray(data)
        bad[i // 8] ^= 1 << i % 8
        try:
            found = decode_classes(9, 16, BitDecoder(bytes(bad)))
        except FormatError:
            continue
        assert found.shape == (9, 16) and found.min() >= MIN_CLASS and found.max() <= MAX_CLASS
