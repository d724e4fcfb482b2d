"""Crops and sequences are cut as drawn, and their vectors are true."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from skimage import data as skdata

from bsqcodec.gop import motion
from bsqcodec.train.data import load_images
from bsqcodec.train.prediction import predict, tap_table
from bsqcodec.train.sampler import Sampler
from training import ORDER, strip


def test_what_is_drawn_repeats_exactly(shards: Path) -> None:
    images = load_images([str(shards / "photos.tar")], 64)
    a, b = (Sampler(images, [strip(4)]) for _ in range(2))
    b.sequences(np.random.default_rng(9), 3, 64, ORDER)  # what was searched before changes nothing
    draws: tuple[Callable[[Sampler, np.random.Generator], torch.Tensor], ...] = (
        lambda s, rng: s.crops(rng, 7, 64),
        lambda s, rng: s.sequences(rng, 5, 64, ORDER)[0],
    )
    for draw in draws:
        x, y = (draw(s, np.random.default_rng(3)) for s in (a, b))
        assert torch.equal(x, y) and not torch.equal(x, draw(a, np.random.default_rng(4)))
    (_, found), (_, again) = (s.sequences(np.random.default_rng(3), 5, 64, ORDER) for s in (a, b))
    assert all(torch.equal(found[key], again[key]) for key in ((1, 0), (2, 0), (2, 1)))


def test_photographs_move_exactly() -> None:
    """Where its vectors point into the reference, a block is predicted without an error."""
    sampler = Sampler([skdata.astronaut()[:, :300]], [])
    frames, vectors = sampler.sequences(np.random.default_rng(3), 6, 96, ORDER)
    assert frames.shape == (6, 3, 3, 96, 96) and frames.dtype == torch.uint8
    moved = 0
    for (a, b), v in vectors.items():
        predicted = motion.compensate(frames[:, b], motion.quartered(v))
        for n in range(6):
            dy, dx = (v[n, 0, 0] // 4).tolist()
            y, x = (slice(max(0, -d), 96 + min(0, -d)) for d in (dy, dx))
            assert torch.equal(predicted[n, :, y, x], frames[n, a, :, y, x].float())
            moved += bool(dy or dx)
    assert moved > 6


def test_vectors_of_clips_follow_their_mirrored_frames() -> None:
    """A clip that moves evenly is predicted well however it is mirrored and turned, from before and from after."""
    clip = strip(5, 160)
    for form in (clip, np.concatenate(np.split(clip, 5), 1)):
        sampler = Sampler([skdata.astronaut()], [form])
        seen = set()
        for seed in range(12):
            rng = np.random.default_rng(seed)
            frames, vectors = sampler._clips(rng, 2, 96, ORDER)
            for (a, b), v in vectors.items():
                inside = motion.compensate(frames[:, b], motion.quartered(v))[..., 16:-16, 16:-16]
                error = (inside - frames[:, a, :, 16:-16, 16:-16].float()).square().mean()
                assert error < 0.2 * (frames[:, b].float() - frames[:, a].float()).square().mean()
                seen.add((*torch.sign(v[0, 2, 2]).tolist(), bool(v[0, 2, 2].abs().argmax())))
        assert len(seen) == 8  # both directions of time, mirrored or not, turned or not


def test_crops_are_those_of_the_images() -> None:
    """A photograph of the crop's own size comes back as one of the square's symmetries, but for contrast."""
    picture = skdata.astronaut()[:256, :256]
    sampler = Sampler([picture])
    plain = sampler.plain(np.random.default_rng(0), 2, 256)
    assert all(np.array_equal(p.permute(1, 2, 0).numpy(), picture) for p in plain)
    assert sampler.crops(np.random.default_rng(3), 5, 96).shape == (5, 3, 96, 96)
    turned = [np.rot90(p, k) for p in (picture, picture[:, ::-1]) for k in range(4)]
    exact = 0
    for seed in range(6):
        crops = sampler.crops(np.random.default_rng(seed), 5, 256).permute(0, 2, 3, 1).numpy()
        assert crops.min() >= 0 and crops.max() <= 255 and np.array_equal(crops, np.rint(crops))
        exact += sum(any(np.array_equal(c, t) for t in turned) for c in crops[2:])
    assert 3 <= exact < 18


def test_crops_of_several_sizes_come_from_one_buffer() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((70, 64), (64, 90), (80, 80))]
    which, top, left = np.array([2, 0, 1]), np.array([16, 6, 0]), np.array([3, 0, 26])
    crops = Sampler(images).photos.cut(which, top, left, 64, 64).numpy()
    for crop, i, y, x in zip(crops, which, top, left, strict=True):
        assert np.array_equal(crop, images[i][y : y + 64, x : x + 64])
    beyond = Sampler(images).photos.cut(which[:1], top[:1] * 0 - 5, left[:1] * 0 + 50, 10, 40).numpy()[0]
    assert np.array_equal(beyond, np.pad(images[2][:5, 50:], ((5, 0), (0, 10), (0, 0)), "edge"))


def test_resampled_crops_keep_straight_lines() -> None:
    """On a photograph whose colours are its coordinates, every crop is a similarity of the plane."""
    y, x = np.mgrid[:400, :400]
    sampler = Sampler([np.stack([x // 2, y // 2, 0 * x], -1).astype(np.uint8)], [])
    crops = sampler._resampled(np.random.default_rng(0), 20, 64)[:, :2] * 2
    along_x, along_y = ((f[..., -1] - f[..., 0]).mean(-1) / 63 for f in (crops, crops.transpose(2, 3)))
    assert torch.allclose((along_x * along_y).sum(1), torch.zeros(20), atol=0.1)
    scales = along_x.norm(dim=1)
    assert torch.allclose(scales, along_y.norm(dim=1), atol=0.1)
    assert 0.65 < scales.min() < 0.95 and 1.2 < scales.max() < 1.55


def test_prediction_is_that_of_the_codec() -> None:
    rng = np.random.default_rng(0)
    reference = torch.from_numpy(rng.integers(0, 256, (2, 3, 64, 96))).float()
    vectors = torch.from_numpy(rng.integers(-90, 90, (2, 4, 6, 2), dtype=np.int32))
    expected, taps = motion.compensate(reference, motion.quartered(vectors)), tap_table(torch.device("cpu"))
    assert torch.equal(predict(reference, vectors, taps), expected)
    turned = vectors.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(predict(reference, turned, taps), expected)


def test_data_that_comes_later_is_as_good() -> None:
    """A sampler that was given more draws what one draws that had all from the start."""
    image, rng = skdata.astronaut(), np.random.default_rng
    photos, strips = [image[:300, :300], image[100:400, 50:]], [strip(5), strip(4)[::-1].copy()]
    whole, more = Sampler(photos, strips), Sampler(photos[:1], strips[:1])
    more.sequences(rng(0), 3, 96, ORDER)
    more.extend(photos[1:], strips[1:])
    assert torch.equal(whole.crops(rng(1), 9, 96), more.crops(rng(1), 9, 96))
    frames, vectors = whole.sequences(rng(2), 9, 96, ORDER)
    others, fields = more.sequences(rng(2), 9, 96, ORDER)
    assert torch.equal(frames, others) and all(torch.equal(vectors[key], fields[key]) for key in vectors)
