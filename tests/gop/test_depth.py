"""Frames of more than 8 bits a sample: shown beside those of the loop, the same on every path."""

import io
from fractions import Fraction

import numpy as np
import pytest

from bsqcodec import Decoder, Encoder, MediaInfo
from bsqcodec.gop.decoder import decode_gop
from bsqcodec.gop.encoder import GopEncoder
from bsqcodec.jobs import workers
from bsqcodec.settings import EncodeSettings
from bsqcodec.types import Frame, FrameFormat, rescaled
from helpers import moving, same_pictures


def encode(model, frames, depth=8):
    """The payload of a group of an I, a P and B frames, and its frames as they will decode."""
    encoder = GopEncoder(model, *frames.shape[1:3], EncodeSettings(), 3, depth)
    decoded = [picture for frame in frames for picture in encoder.push(frame, 60)] + encoder.flush()
    return encoder.finish(), decoded


@pytest.mark.parametrize("depth", [9, 10, 12])
def test_more_bits_are_shown_and_change_nothing_in_the_loop(model, depth):
    """What 8 bits show is what they would without; the others are the same pictures, with finer steps."""
    x = moving(4, 37, 45, left=180, step=(1, 2))
    payload, decoded = encode(model, x)
    same, deep = encode(model, x, depth)
    assert same == payload
    assert same_pictures(decode_gop(model, payload, 37, 45, 4, depth), deep)
    assert same_pictures(decode_gop(model, payload, 37, 45, 4), decoded)
    steps = 1 << (depth - 8)
    for fine, coarse in zip(deep, decoded, strict=True):
        assert fine.dtype == np.uint16 and fine.shape == coarse.shape and fine.max() < 256 * steps
        difference = fine.astype(int) - rescaled(coarse, 8, depth)
        assert np.abs(difference).max() <= 3 * steps and np.abs(difference).mean() < 0.4 * steps
        assert len(np.unique(difference)) > steps


def test_black_and_white_are_the_ends_of_the_range(model):
    """As of 8 bits: 255 becomes 1023 of 10 bits, not 1020."""
    x = np.zeros((1, 32, 64, 3), np.uint8)
    x[:, :, 32:] = 255
    payload, _ = encode(model, x)
    for depth in (8, 10, 12, 16):
        [picture] = decode_gop(model, payload, 32, 64, 1, depth)
        assert np.median(picture[:, :16]) < 0.01 * (1 << depth) and np.median(picture[:, -16:]) > 0.99 * (1 << depth)


def test_workers_give_as_many_bits_as_are_asked_for(tiny):
    frames = [Frame(rgb, t) for t, rgb in enumerate(moving(3, 32, 48))]
    deep = FrameFormat(32, 48, bit_depth=10)
    group = workers._encode(tiny, frames, EncodeSettings(), deep)
    pictures, error = workers._decode(tiny, group.payload, b"", deep, 3, 3)
    assert not error and pictures[0].dtype == np.uint16 and same_pictures(pictures, group.decoded)


@pytest.fixture
def stream(tiny):
    """A stream of three frames of 10 bits, in two groups, and its frames."""
    file, info = io.BytesIO(), MediaInfo(48, 32, frame_rate=Fraction(25), bit_depth=10)
    with Encoder(file, info, model=tiny, gop=2) as encoder:
        decoded = [x for t, frame in enumerate(moving(3, 32, 48)) for x in encoder.write(frame, t)] + encoder.close()
    return file.getvalue(), decoded


def test_a_decoder_shows_the_bits_of_the_header_or_others(stream, tiny):
    data, decoded = stream
    decoder = Decoder(io.BytesIO(data), model=tiny)
    assert decoder.info.bit_depth == 10 and same_pictures((f.rgb for f in decoder.frames()), decoded)
    for depth in (8, 9, 11, 12, 16):
        decoder = Decoder(io.BytesIO(data), model=tiny, depth=depth)
        pictures = [frame.rgb for frame in decoder.frames()]
        assert decoder.info.bit_depth == depth and pictures[0].dtype == (np.uint8 if depth == 8 else np.uint16)
        near = np.abs(np.stack(pictures) / ((1 << depth) - 1) - np.stack(decoded) / 1023)
        assert near.mean() < 1 / 500 and near.max() < 1 / 64
    for depth in (7, 13, 17):
        with pytest.raises(ValueError, match=f"of {depth} bits"):
            Decoder(io.BytesIO(data), model=tiny, depth=depth)


def test_what_is_lost_is_gray_of_as_many_bits(stream, tiny):
    data = bytearray(stream[0])
    data[60] ^= 1
    decoder = Decoder(io.BytesIO(data), model=tiny)
    first = next(decoder.frames(conceal=True)).rgb
    assert first.dtype == np.uint16 and (first == 514).all()


def test_rescaled_is_the_nearest():
    for depth, target in ((8, 16), (10, 16), (16, 8), (12, 10)):
        x = np.arange(1 << depth, dtype=np.uint8 if depth == 8 else np.uint16)
        y = rescaled(x, depth, target)
        assert y.dtype == (np.uint8 if target == 8 else np.uint16)
        exact = x.astype(float) * ((1 << target) - 1) / ((1 << depth) - 1)
        assert np.abs(y - exact).max() <= 0.5 and y[0] == 0 and y[-1] == (1 << target) - 1
