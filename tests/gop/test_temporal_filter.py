"""What neighbours in time do not share goes from an anchor; what moves, appears or stands alone stays."""

import numpy as np
import pytest
import torch
from skimage import data

from bsqcodec.gop.encoder import GopEncoder
from bsqcodec.gop.temporal_filter import REACH, temporal_filter
from bsqcodec.settings import EncodeSettings

SIDE, STEP = 96, 24.0


def frame(shift, noise=0.0, seed=0):
    """A crop of a photograph, `shift` pixels further to the right, float32 (1, 3, SIDE, SIDE)."""
    crop = torch.from_numpy(data.astronaut()[40 : 40 + SIDE, 160 + shift : 160 + shift + SIDE]).permute(2, 0, 1)[None]
    rng = torch.Generator().manual_seed(seed)
    return (crop + noise * torch.randn(crop.shape, generator=rng)).round().clamp(0, 255)


def squared(a, b):
    return float((a - b).square().mean())


@pytest.mark.parametrize("speed", [0, 3])
def test_noise_goes_and_what_moves_stays(speed):
    sources = {t: frame(speed * t, 6.0, t).to(torch.uint8) for t in range(2 * REACH + 1)}
    clean = frame(speed * REACH)
    before, after = squared(sources[REACH].float(), clean), squared(temporal_filter(sources, REACH, STEP), clean)
    assert after < 0.5 * before


def test_a_neighbour_of_another_scene_changes_less_than_the_quantiser():
    other = torch.from_numpy(data.chelsea()[:SIDE, :SIDE]).permute(2, 0, 1)[None].contiguous()
    sources = {0: other, 1: frame(0).to(torch.uint8), 2: other}
    assert squared(temporal_filter(sources, 1, STEP), frame(0)) < STEP**2 / 48


def test_a_frame_alone_or_behind_a_gap_stays_as_it_is():
    now = frame(0, 6.0).to(torch.uint8)
    assert torch.equal(temporal_filter({5: now}, 5, STEP), now.float())
    assert torch.equal(temporal_filter({3: frame(0).to(torch.uint8), 5: now}, 5, STEP), now.float())


def test_a_fine_quantiser_step_keeps_the_noise():
    sources = {t: frame(0, 6.0, t).to(torch.uint8) for t in range(3)}
    assert squared(temporal_filter(sources, 1, 1.0), sources[1].float()) < 0.1


@pytest.mark.parametrize("mini_gop", [1, 2, 4, 6])
def test_frames_come_in_order_once_their_anchor_has_seen_ahead(tiny, mini_gop):
    frames = [frame(t).to(torch.uint8)[0].permute(1, 2, 0).numpy() for t in range(15)]
    settings = EncodeSettings(low_delay=mini_gop == 1)
    encoder = GopEncoder(tiny, SIDE, SIDE, settings, mini_gop)
    ready = [len(encoder.push(picture, 40)) for picture in frames]
    lookahead = 0 if mini_gop == 1 else REACH
    for t in range(len(frames)):
        anchors = max(0, t - lookahead + mini_gop) // mini_gop  # that are not beyond the frames that have been seen
        assert sum(ready[: t + 1]) == (1 + mini_gop * (anchors - 1) if anchors else 0)
    rest = encoder.flush()
    assert sum(ready) + len(rest) == len(encoder.stats) == len(frames)
    assert all(picture.shape == (SIDE, SIDE, 3) and picture.dtype == np.uint8 for picture in rest)
