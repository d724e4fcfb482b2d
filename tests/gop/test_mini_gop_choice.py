"""How far anchors lie apart follows from how well frames predict each other."""

import numpy as np
import pytest
import torch
from skimage import data

from bsqcodec.gop import mini_gop_choice
from bsqcodec.gop.encoder import GopEncoder
from bsqcodec.gop.mini_gop_choice import LONGEST, SHORT, USUAL, MiniGopChoice
from bsqcodec.settings import EncodeSettings
from bsqcodec.stream.group import parse_group

SIDE, STEP = 96, 48.0


def still(t):
    return data.astronaut()[40 : 40 + SIDE, 160 : 160 + SIDE]


def pan(t):
    return data.astronaut()[40 : 40 + SIDE, 160 + t // 2 : 160 + t // 2 + SIDE]


def noise(t):
    return np.random.default_rng(t).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)


def restless(t):
    return np.concatenate([still(t)[:, : SIDE // 2], noise(t)[:, SIDE // 2 :]], 1)


def sources(picture, frames):
    return {t: torch.from_numpy(picture(t).transpose(2, 0, 1)[None].copy()) for t in range(frames)}


def choice(shown, ending=False, step=STEP):
    return MiniGopChoice(0, step).length(shown, len(shown) - 1, ending)


@pytest.mark.parametrize(("picture", "length"), [(still, LONGEST), (pan, 8), (restless, SHORT), (noise, USUAL)])
def test_frames_that_follow_from_others_make_long_mini_gops(picture, length):
    assert choice(sources(picture, LONGEST + 1)) == length


def test_none_is_short_at_a_fine_quantiser_step():
    assert choice(sources(restless, USUAL + 1), step=8.0) == USUAL


@pytest.mark.parametrize(("first", "length"), [(12, 8), (8, 4), (6, 4), (5, 4), (4, 4), (1, 4)])
def test_a_mini_gop_ends_before_another_scene(first, length):
    other = torch.from_numpy(data.chelsea()[:SIDE, :SIDE].transpose(2, 0, 1)[None].copy())
    assert choice(sources(still, LONGEST + 1) | {t: other for t in range(first, LONGEST + 1)}) == length


def test_few_large_frames_wait(monkeypatch):
    monkeypatch.setattr(mini_gop_choice, "MANY_PIXELS", SIDE**2 - 1)
    assert choice(sources(still, USUAL + 1)) == USUAL


def test_the_end_of_a_group_is_never_passed():
    for last, length in enumerate((1, 2, 3, 4, 4, 4, 4, 8, 8), 1):
        assert choice(sources(still, last + 1), ending=True) == length


def test_it_waits_only_as_long_as_it_must():
    easy, hard = MiniGopChoice(0, STEP), MiniGopChoice(0, STEP)
    shown = sources(still, LONGEST + 1)
    assert [easy.length(shown, last, False) for last in range(1, LONGEST + 1)] == [None] * (LONGEST - 1) + [LONGEST]
    shown = sources(restless, USUAL + 1)
    assert [hard.length(shown, last, False) for last in range(1, USUAL + 1)] == [None] * (USUAL - 1) + [SHORT]


def test_a_group_has_several_lengths(tiny):
    frames = [still(t) for t in range(9)] + [restless(t) for t in range(9, 14)]
    encoder = GopEncoder(tiny, SIDE, SIDE, EncodeSettings())
    ready = [len(encoder.push(frame, 40)) for frame in frames]
    rest = encoder.flush()
    assert sum(ready) + len(rest) == len(frames)
    assert ready[:5] == [0] * 4 + [1]  # the first waits for those that it is filtered with
    headers = parse_group(encoder.finish(), len(frames)).headers
    assert [h.place.number for h in headers if h.place.after is None] == [0, 8, 10, 12, 13]
