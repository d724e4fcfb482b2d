"""Alpha planes: what the decoder gives is what the encoder said; what is lossless, and how far the rest is off."""

import contextlib
import functools

import numpy as np
import pytest
import reference_decoder
from PIL import Image, ImageDraw, ImageFilter

from bsqcodec.errors import FormatError
from bsqcodec.gop.alpha import GRAY, LEVELS, AlphaEncoder, decode_alpha, fill_transparent
from bsqcodec.gop.encoder import GopEncoder
from bsqcodec.model_files import find_file
from bsqcodec.settings import EncodeSettings
from helpers import photo, same_pictures

SIZES = [(1, 1), (17, 33), (32, 48)]


def disc(height=32, width=48, left=8, edges=4, blur=0.0) -> np.ndarray:
    """A disc, opaque on transparent, uint8 (H, W); edges: 1 for hard ones; blur: the radius of soft ones."""
    big = Image.new("L", (width * edges, height * edges))
    ImageDraw.Draw(big).ellipse([edges * one for one in (left, 4, left + 20, 24)], fill=255)
    small = big.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small.filter(ImageFilter.GaussianBlur(blur)) if blur else small).copy()


def check(model, frames, quality=None, method=LEVELS) -> tuple[bytes, list[np.ndarray]]:
    """The body of the frames, which is of this method, and the frames as they are decoded."""
    encoder = AlphaEncoder(model, *frames[0].shape, EncodeSettings(alpha_quality=quality))
    for frame in frames:
        encoder.push(frame)
    body, said = encoder.finish()
    assert body[0] == method
    decoded = list(decode_alpha(model, body, *frames[0].shape, len(frames)))
    assert same_pictures(decoded, said) and len(decoded) == len(frames) and decoded[0].dtype == np.uint8
    return body, decoded


def by_the_book(body, frames) -> list[np.ndarray]:
    """What the second decoder makes of a body, for as many frames of this size."""
    height, width = frames[0].shape
    model = second_model() if body[0] == GRAY else None
    return [plane[..., 0] for plane in reference_decoder.decode_alpha(model, body, len(frames), width, height)]


@functools.cache
def second_model():
    return reference_decoder.Model(find_file("bsq1"))


@pytest.mark.parametrize("size", SIZES)
def test_few_values_are_lossless(size, tiny):
    """As both decoders see it."""
    y, x = np.mgrid[: size[0], : size[1]]
    rng = np.random.default_rng(0)
    checkerboard = ((x + y) % 2 * 255).astype(np.uint8)
    flat = np.zeros(size, np.uint8)
    for frames in (
        [flat, flat],
        [flat + 90],
        [checkerboard],
        [np.where(x < 20, 0, 128).astype(np.uint8), np.where(x < 21, 0, 128).astype(np.uint8)],
        [rng.choice(np.array([0, 3, 90, 91, 255], np.uint8), size) for _ in range(2)],
    ):
        body, decoded = check(tiny, frames)
        assert same_pictures(decoded, frames)
        assert same_pictures(by_the_book(body, frames), frames)


def test_a_mask_that_moves_stays_and_changes():
    frames = [disc(left=left, edges=1) for left in (8, 9, 11, 11, 11)]
    changed = frames[-1].copy()
    changed[30, 40] = 255
    frames += [changed, changed, frames[0]]
    body, decoded = check(None, frames)
    assert same_pictures(decoded, frames) and len(body) < 200
    assert same_pictures(by_the_book(body, frames), frames)


def test_edges_are_rounded_to_fewer_values_or_are_lossless():
    frames = [disc(left=left, edges=8) for left in (8, 9, 9)]
    frames[2][3, 3] = 7
    sizes = []
    for quality, off in ((1, 32), (20, 19), (50, 8), (75, 4), (99, 2), (100, 0)):
        body, decoded = check(None, frames, quality)
        error = [np.abs(a.astype(int) - b) for a, b in zip(decoded, frames, strict=True)]
        assert np.max(error) <= off
        assert all((a[b == 255] == 255).all() and not a[b == 0].any() for a, b in zip(decoded, frames, strict=True))
        sizes.append(len(body))
        if quality in (1, 100):
            assert same_pictures(by_the_book(body, frames), decoded)
    assert sizes[0] < sizes[2] < sizes[-1]


def test_slopes_are_a_gray_video(model):
    frames = [disc(40, 56, left, blur=6) for left in (12, 13, 14)]
    body, decoded = check(model, frames, 60, GRAY)
    for a, b in zip(decoded, frames, strict=True):
        error = np.abs(a.astype(int) - b)
        assert error.mean() < 2 and error.max() < 16
        assert a[b == 0].max() < 10 and not a[32:, 40:].any()
    assert same_pictures(by_the_book(body, frames), decoded)
    assert same_pictures(check(model, frames, 100)[1], frames)


def test_what_is_opaque_needs_no_chunk():
    encoder = AlphaEncoder(None, 5, 7, EncodeSettings())
    for _ in range(2):
        encoder.push(np.full((5, 7), 255, np.uint8))
    body, decoded = encoder.finish()
    assert body == b"" and same_pictures(decoded, [np.full((5, 7), 255)] * 2)


def test_wrong_planes_are_refused():
    encoder = AlphaEncoder(None, 5, 7, EncodeSettings())
    for plane in (np.zeros((5, 6), np.uint8), np.zeros((5, 7), np.uint16), np.zeros((5, 7, 1), np.uint8)):
        with pytest.raises(ValueError, match="alpha is"):
            encoder.push(plane)
    for quality in (0, 101):
        with pytest.raises(ValueError, match="quality"):
            EncodeSettings(alpha_quality=quality)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"\3\0\xff",
        bytes([LEVELS]),
        bytes([LEVELS, 1, 0]),  # one of two values
        bytes([LEVELS, 1, 5, 5]),
        bytes([LEVELS, 2, 0, 255, 5]),
        bytes([GRAY]),
        bytes([GRAY, 1, 4, 1, 6, 0, 0]),
    ],
)
def test_broken_bodies_are_format_errors(body, tiny):
    with pytest.raises(FormatError):
        list(decode_alpha(tiny, body, 5, 7, 2))


def test_damage_decodes_or_is_refused(tiny):
    rng = np.random.default_rng(0)
    for frames, method in (([disc(edges=4), disc(left=9)], LEVELS), ([disc(blur=6)], GRAY)):
        body, _ = check(tiny, frames, method=method)
        for n in range(15):
            bad = bytearray(body)
            if n % 3 == 2:
                bad = bad[: int(rng.integers(len(bad)))]
            else:
                bad[int(rng.integers(len(bad) if n % 3 else 20))] ^= 1 << int(rng.integers(8))
            with contextlib.suppress(FormatError):
                assert len(list(decode_alpha(tiny, bytes(bad), 32, 48, len(frames)))) == len(frames)


def test_colours_that_nobody_sees_cost_little(model):
    """Visible pixels stay as they are; noise, black and white around them cost more than what is filled in."""
    alpha = disc(80, 96, 30, blur=2)
    alpha[30:70, 50:90] = 255
    picture, sizes = photo(80, 96), []
    noise = np.random.default_rng(0).integers(0, 256, (80, 96, 3)).astype(np.uint8)
    for hidden in (noise, 0 * noise, 0 * noise + 255):
        rgba = np.dstack([np.where(alpha[..., None] > 0, picture, hidden), alpha])
        filled = fill_transparent(rgba)
        assert filled.dtype == np.uint8 and np.array_equal(filled[alpha > 0], picture[alpha > 0])
        sizes.append([len(encoded(model, one)) for one in (rgba[..., :3], filled)])
    assert len({after for _, after in sizes}) == 1  # whatever was hidden
    assert all(after < 0.9 * before for before, after in sizes) and sizes[0][1] < 0.3 * sizes[0][0]


def encoded(model, picture) -> bytes:
    encoder = GopEncoder(model, *picture.shape[:2], EncodeSettings())
    encoder.push(picture, 70)
    encoder.flush()
    return encoder.finish()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2), (17, 33)])
def test_filling_pictures_of_any_size(size):
    rgba = np.random.default_rng(0).integers(0, 256, (*size, 4)).astype(np.uint8)
    for alpha in (0, 255, np.random.default_rng(1).integers(0, 2, size)):
        rgba[..., 3] = alpha
        filled = fill_transparent(rgba)
        seen = rgba[..., 3] > 0
        assert filled.shape == (*size, 3) and np.array_equal(filled[seen], rgba[..., :3][seen])
    rgba[..., :3], rgba[..., 3] = 77, 0
    rgba[0, 0, 3] = 1
    filled = fill_transparent(rgba)
    assert (filled[:16, :16] == 77).all() and (filled[16:] == 128).all() and (filled[:, 16:] == 128).all()


@pytest.mark.parametrize(("height", "width", "waves", "shift"), [(64, 96, 90, 1), (33, 150, 40, 1), (17, 9, 200, 2)])
def test_slopes_are_coded_smaller(model, height, width, waves, shift):
    """As a gray video of fewer pixels where that is as good; of any size, and as the second decoder has it."""
    y, x = np.mgrid[:height, :width]
    frames = [(127 + 127 * np.sin((y + x + 3 * t) / waves)).astype(np.uint8) for t in range(2)]
    body, decoded = check(model, frames, 40, GRAY)
    assert body[1] == shift and same_pictures(by_the_book(body, frames), decoded)
    assert np.mean(np.abs(np.stack(decoded).astype(int) - np.stack(frames))) < 2


def test_edges_in_slopes_have_values(model):
    """A title with a shadow: its edges stay sharp though the shadow is a gray video of fewer pixels."""
    frames = []
    for t in range(2):
        shadow = disc(96, 128, 44 + t, blur=9).astype(int) * 2 // 3
        frames.append(np.maximum(disc(96, 128, 40 + t), shadow).astype(np.uint8))
    body, decoded = check(model, frames, 40, GRAY)
    assert body[1] > 0 and same_pictures(by_the_book(body, frames), decoded)
    off = np.abs(np.stack(decoded).astype(int) - np.stack(frames))
    assert off.max() < 25 and off.mean() < 1 and not off[np.stack(frames) == 255].any()


def test_a_gray_video_that_is_too_small_is_refused(tiny):
    with pytest.raises(FormatError, match=r"reduced 2\*\*5 times"):
        list(decode_alpha(tiny, bytes([GRAY, 5]) + bytes(20), 16, 16, 1))
