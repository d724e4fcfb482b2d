"""How far anchors lie apart follows from how well frames predict each other."""

import numpy as np
import pytest
import torch
from skimage import data

from bsqcodec.gop.encoder import GopEncoder
from bsqcodec.gop.mini_gop_choice import LONG, SHORT, USUAL, mini_gop_length
from bsqcodec.settings import EncodeSettings
from bsqcodec.stream.group import parse_group

SIDE, STEP = 96, 24.0


def still(t):
    return data.astronaut()[40 : 40 + SIDE, 160 : 160 + SIDE]


def pan(t):
    return data.astronaut()[40 : 40 + SIDE, 160 + 2 * t : 160 + 2 * t + SIDE]


def noise(t):
    return np.random.default_rng(t).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)


def sources(picture, frames):
    return {t: torch.from_numpy(picture(t).transpose(2, 0, 1)[None].copy()) for t in range(frames)}


@pytest.mark.parametrize(("picture", "length"), [(still, LONG), (pan, LONG), (noise, SHORT)])
def test_frames_that_follow_from_others_make_long_mini_gops(picture, length):
    assert mini_gop_length(sources(picture, LONG + 1), 0, LONG, STEP) == length


def test_what_changes_after_a_while_ends_a_mini_gop_before():
    other = torch.from_numpy(data.chelsea()[:SIDE, :SIDE].transpose(2, 0, 1)[None].copy())
    shown = sources(still, LONG + 1)
    assert mini_gop_length(shown | {t: other for t in range(USUAL + 1, LONG + 1)}, 0, LONG, STEP) == USUAL
    assert mini_gop_length(shown | {t: other for t in range(USUAL, LONG + 1)}, 0, LONG, STEP) == SHORT


def test_the_end_of_a_group_is_never_passed():
    for last in range(1, LONG):
        assert mini_gop_length(sources(still, last + 1), 0, last, STEP) == min(USUAL, last)


def test_a_group_has_several_lengths(tiny):
    frames = [still(t) for t in range(9)] + [noise(t) for t in range(5)]
    encoder = GopEncoder(tiny, SIDE, SIDE, EncodeSettings())
    ready = [len(encoder.push(frame, 40)) for frame in frames]
    rest = encoder.flush()
    assert sum(ready) + len(rest) == len(frames)
    assert ready[:4] == [0] * 4 and ready[4] == 1  # the first waits for those that it is filtered with
    headers = parse_group(encoder.finish(), len(frames)).headers
    assert [h.place.number for h in headers if h.place.after is None] == [0, 8, 10, 12, 13]
