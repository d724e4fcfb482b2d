"""Pictures of few values come back from their bits, whatever they are; no bytes give other values, or no end."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bsqcodec.errors import FormatError
from bsqcodec.stream.levels import LevelCoder
from bsqcodec.stream.range_coder import BitDecoder, BitEncoder

SIZES = [(1, 1), (2, 1), (1, 300), (17, 33), (16, 16)]


def encode(frames: list[np.ndarray], values: int) -> tuple[bytes, BitEncoder]:
    encoder, coder = BitEncoder(), LevelCoder(*frames[0].shape, values)
    for frame in frames:
        coder.encode(frame, encoder)
    return encoder.finish(), encoder


def check(frames: list[np.ndarray], values: int) -> float:
    """Bytes of the frames, which come back."""
    data, encoder = encode(frames, values)
    decoder, coder = BitDecoder(data), LevelCoder(*frames[0].shape, values)
    for frame in frames:
        decoded = coder.decode(decoder)
        assert decoded.dtype == np.uint8 and np.array_equal(decoded, frame)
    assert decoder.count == encoder.count and decoder.bits == pytest.approx(encoder.bits)
    return len(data)


def drawn(width: int, height: int, smooth: bool = False) -> np.ndarray:
    """White shapes on black, uint8: an ellipse, a polygon, letters."""
    k = 4 if smooth else 1
    picture = Image.new("L", (width * k, height * k))
    draw = ImageDraw.Draw(picture)
    w, h = width * k, height * k
    draw.ellipse((w // 10, h // 10, w // 2, h - h // 10), fill=255)
    draw.polygon([(w * 0.6, h * 0.1), (w * 0.9, h * 0.5), (w * 0.7, h * 0.9)], fill=255)
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("values", [2, 3, 256])
def test_pictures_come_back(size, values):
    rng = np.random.default_rng(values)
    y, x = np.mgrid[: size[0], : size[1]]
    noise = rng.integers(0, values, size).astype(np.uint8)
    part = noise.copy()
    part[: size[0] // 4] = 0
    slope = ((x + 2 * y) % values).astype(np.uint8)
    flat, full = np.zeros(size, np.uint8), np.full(size, values - 1, np.uint8)
    checkerboard = ((x + y) % 2 * (values - 1)).astype(np.uint8)
    check([noise, noise, part, slope, full, flat, checkerboard], values)


def test_masks_are_small():
    """Against what a mask takes as packed bits in zlib, and as PNG and lossless WebP."""
    mask = (drawn(480, 270) > 127).astype(np.uint8)
    size, others = check([mask], 2), [len(zlib.compress(np.packbits(mask), 9))]
    for picture, options in ((Image.fromarray(mask > 0), {"format": "png"}), (Image.fromarray(mask * 255), {})):
        file = io.BytesIO()
        picture.convert(picture.mode if options else "RGB").save(
            file, **(options or {"format": "webp", "lossless": True, "quality": 100})
        )
        others.append(file.tell())
    assert size < 350 and 2.5 * size < min(others)


def test_what_stays_costs_nothing_and_what_changes_little():
    mask = (drawn(160, 96) > 127).astype(np.uint8)
    changed = mask.copy()
    changed[20:24, 30:60] ^= 1
    one = check([mask], 2)
    assert check([mask] * 5, 2) <= one + 2
    assert check([mask, changed, mask, changed], 2) < one + 90
    edges = drawn(160, 96, smooth=True)
    values, levels = np.unique(edges, return_inverse=True)
    levels = levels.reshape(edges.shape).astype(np.uint8)
    changed = levels.copy()
    changed[20:24, 30:60] = 0
    one = check([levels], len(values))
    assert check([levels, changed, levels], len(values)) < one + 120


@pytest.mark.parametrize("values", [2, 3, 19, 256])
def test_hostile_bytes_are_refused_or_give_values(values):
    rng = np.random.default_rng(values)
    refused = 0
    for n in range(9):
        data = [rng.bytes(30 * n), bytes([27 * n]) * 80, b"\xff" * n][n % 3]
        decoder, coder = BitDecoder(data), LevelCoder(17, 40, values)
        try:
            for _ in range(2):
                frame = coder.decode(decoder)
                assert frame.shape == (17, 40) and frame.max() < values
        except FormatError:
            refused += 1
    assert refused


def test_a_value_out_of_range_is_refused():
    """An encoder that is told to write one: three bits tell which of the five between it is."""
    picture = np.arange(28, dtype=np.uint8).reshape(4, 7) % 7
    picture[2, 3] = 8
    encoder, coder = BitEncoder(), LevelCoder(4, 7, 7)
    with pytest.raises(FormatError, match="out of range"):
        coder.encode(picture, encoder)
    decoder, coder = BitDecoder(encoder.finish()), LevelCoder(4, 7, 7)
    with pytest.raises(FormatError, match="out of range"):
        coder.decode(decoder)
