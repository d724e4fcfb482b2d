"""Animations as outputs: pictures, durations, loops, alpha; what a format cannot hold, and what is refused."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from bsqcodec.errors import BsqError
from bsqcodec.media import animation_sinks, max_depth, open_sink
from helpers import CLIP, exit_status, mean_error, photo, read_media, sound, waves, write_media

Image.init()
HAS_AVIF = "AVIF" in Image.SAVE_ALL
AVIF = pytest.mark.skipif(not HAS_AVIF, reason="this installation of Pillow writes no AVIF")
NAMES = ["a.gif", "a.webp", "a.apng", *["a.avif"] * HAS_AVIF]
MS = replace(CLIP, time_base=Fraction(1, 1000))


def frames_of(path, mode="RGB"):
    """The frames of an animation, uint8 (H, W, C) each, their durations in ms, and how often it is shown."""
    with Image.open(path) as image:
        found, durations = [], []
        for i in range(image.n_frames):
            image.seek(i)
            found.append(np.asarray(image.convert(mode)))
            durations.append(image.info.get("duration"))
        return found, durations, image.info.get("loop")


def save(path, frames, info=MS, pts=(), duration=0, **options):
    """Write an animation; returns the warnings."""
    info = replace(info, width=frames[0].shape[1], height=frames[0].shape[0])
    with open_sink(str(path), info, **options) as sink:
        for frame, t in zip(frames, pts or range(len(frames)), strict=True):
            sink.write(frame, t)
        sink.duration = duration
    return sink.warnings


@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_durations(tmp_path, name):
    frames = waves(4)
    assert save(tmp_path / name, frames, MS, (5, 45, 165, 195), 250) == []
    found, durations, _ = frames_of(tmp_path / name)
    assert durations == [40, 120, 30, 250]
    assert all(mean_error(a, b) < (0.1 if name == "a.apng" else 5) for a, b in zip(found, frames, strict=True))
    save(tmp_path / name, frames, MS, (5, 45, 165, 195))
    assert frames_of(tmp_path / name)[1] == [40, 120, 30, 30]  # the last like the one before


@pytest.mark.parametrize("name", NAMES)
def test_rotation_makes_upright_pixels(tmp_path, name):
    frames = waves(2)
    save(tmp_path / name, frames, replace(CLIP, rotation=90))
    found, _, _ = frames_of(tmp_path / name)
    assert all(mean_error(a, np.rot90(b, -1)) < 5 for a, b in zip(found, frames, strict=True))


@pytest.mark.parametrize(
    ("name", "loop", "written"),
    [
        ("a.gif", None, 0),
        ("a.gif", b"0", 0),
        ("a.gif", b"1", None),
        ("a.gif", b"3", 2),  # which are those after the first
        ("a.webp", b"3", 3),
        ("a.webp", None, 0),
        ("a.webp", b"700000", 65535),
        ("a.apng", b"3", 3),
        ("a.apng", b"x", 0),
        pytest.param("a.avif", b"0", None, marks=AVIF),
    ],
)
def test_loop(tmp_path, name, loop, written):
    info = replace(CLIP, metadata={"loop": loop} if loop else {})
    assert save(tmp_path / name, waves(2), info) == []
    assert frames_of(tmp_path / name)[2] == written


@AVIF
def test_avif_says_that_it_repeats(tmp_path):
    [line] = save(tmp_path / "a.avif", waves(2), replace(CLIP, metadata={"loop": b"2"}))
    assert "for ever, not 2 times" in line


def test_durations_are_rounded_without_drift(tmp_path):
    frames = waves(9)
    assert save(tmp_path / "a.gif", frames, replace(CLIP, time_base=Fraction(1, 30)), duration=1) == []
    assert frames_of(tmp_path / "a.gif")[1] == [30, 40, 30] * 3  # 33.3 ms
    assert save(tmp_path / "a.webp", frames, replace(CLIP, time_base=Fraction(1, 30)), duration=1) == []
    assert frames_of(tmp_path / "a.webp")[1] == [33, 34, 33] * 3
    [line] = save(tmp_path / "a.gif", frames, replace(CLIP, time_base=Fraction(1, 60)), duration=12)
    assert frames_of(tmp_path / "a.gif")[1] == [20] * 8 + [170] and "up to 27 ms" in line  # and so ends in time
    [line] = save(tmp_path / "a.apng", frames[:2], MS, (0, 70_000), 10)
    assert frames_of(tmp_path / "a.apng")[1][0] == 65535 and "65535 ms" in line


@pytest.mark.parametrize("name", [*NAMES, "b.png", "b.jpg"])
def test_one_frame_is_a_still_image(tmp_path, name):
    [picture] = waves(1)
    assert save(tmp_path / name, [picture], replace(CLIP, rotation=90)) == []
    with Image.open(tmp_path / name) as image:
        assert not getattr(image, "is_animated", False)
        turned = name == "a.gif" or image.getexif().get(0x0112, 1) == 1
        assert mean_error(image.convert("RGB"), np.rot90(picture, -1) if turned else picture) < 5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 3])
def test_alpha(tmp_path, name, count):
    """A shape that moves, so that pixels become transparent again."""
    frames = []
    for t, picture in enumerate(waves(count)):
        alpha = np.zeros((32, 48, 1), np.uint8)
        alpha[8:24, 6 + 9 * t : 20 + 9 * t] = 255
        alpha[12:16, 6 + 9 * t : 20 + 9 * t] = 60
        frames.append(np.dstack([picture, alpha]))
    warnings = save(tmp_path / name, frames, replace(CLIP, alpha=True))
    assert ["partly transparent" in line for line in warnings] == ([True] if name == "a.gif" else [])
    found, _, _ = frames_of(tmp_path / name, "RGBA")
    for a, b in zip(found, frames, strict=True):
        alpha = b[..., 3] if name != "a.gif" else 255 * (b[..., 3] > 127)
        assert np.abs(a[..., 3].astype(int) - alpha).max() <= (60 if name == "a.avif" else 0)
        opaque = b[..., 3] == 255
        assert mean_error(a[opaque][:, :3], b[opaque][:, :3]) < 8


def test_a_palette_is_made_for_each_frame(tmp_path):
    """Colours of one frame do not spoil another, smooth gray stays smooth, and few colours stay exact."""
    gray = np.broadcast_to(np.arange(0, 192, dtype=np.uint8)[None, :, None], (128, 192, 3))
    flat = np.zeros((128, 192, 3), np.uint8)
    flat[5:9, 7:11], flat[60:64, 100:104] = (255, 0, 7), (9, 200, 31)
    save(tmp_path / "a.gif", [photo(128, 192), np.ascontiguousarray(gray), flat])
    found, _, _ = frames_of(tmp_path / "a.gif")
    assert mean_error(found[0], photo(128, 192)) < 5 and mean_error(found[1], gray) < 2
    assert np.array_equal(found[2], flat)
    assert (tmp_path / "a.gif").stat().st_size < 60_000


def test_what_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(animation_sinks, "MAX_BYTES", 3 * 48 * 32 * 4)
    assert save(tmp_path / "a.webp", waves(3)) == []
    assert save(tmp_path / "a.gif", waves(6), CLIP) == []  # takes a byte per pixel
    with pytest.raises(BsqError, match=r"more than 3 frames.* give a video"):
        save(tmp_path / "b.webp", waves(4))
    assert not (tmp_path / "b.webp").exists()


def test_refusals(tmp_path, monkeypatch):
    still = waves(1) * 2
    with pytest.raises(BsqError, match=r"longer than 655\.35 s"):
        save(tmp_path / "a.gif", still, MS, (0, 500_000), 500_000)
    with pytest.raises(BsqError, match=r"one image.*\.apng"):
        save(tmp_path / "a.png", waves(2))
    monkeypatch.delitem(Image.SAVE_ALL, "AVIF", raising=False)
    with pytest.raises(BsqError, match="cannot write AVIF"):
        save(tmp_path / "a.avif", waves(2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_profile_exif_and_xmp(tmp_path, name):
    exif = Image.Exif()
    exif[0x013B] = "somebody"
    metadata = {
        "icc": b"\0" * 16 + b"RGB " + b"\0" * 108,
        "exif": exif.tobytes().removeprefix(b"Exif\0\0"),
        "xmp": b"<x/>",
    }
    warnings = save(tmp_path / name, waves(2), replace(CLIP, metadata=metadata))
    with Image.open(tmp_path / name) as image:
        image.load()
        if name == "a.gif":
            assert "ICC profile, EXIF and XMP" in warnings[0]
        else:
            assert warnings == [] and image.info["icc_profile"] == metadata["icc"]
            assert image.getexif()[0x013B] == "somebody" and image.info["xmp"] == b"<x/>"


def test_samples_have_8_bits():
    assert {max_depth(name) for name in ("a.gif", "a.webp", "a.apng", "a.avif")} == {8}


def test_sound_is_left_out_with_a_warning(tmp_path):
    [line] = save(tmp_path / "a.gif", waves(2), replace(CLIP, tracks=(sound()[0],)))
    assert "audio" in line


@pytest.mark.parametrize("name", ["a.webp", pytest.param("a.avif", marks=AVIF)])
def test_quality(tmp_path, name):
    sizes = []
    for quality in (30, 95):
        save(tmp_path / name, [photo(64, 96), photo(64, 96, 120)], image_quality=quality)
        sizes.append((tmp_path / name).stat().st_size)
    assert sizes[1] > 2 * sizes[0]


def test_from_the_command_line(tmp_path):
    """A GIF is encoded, decoded to every animation, and keeps its times."""
    write_media(tmp_path / "in.gif", waves(3), CLIP)
    assert exit_status("encode", tmp_path / "in.gif", tmp_path / "a.bsq", "--quiet") == 0
    for name in NAMES:
        assert exit_status("decode", tmp_path / "a.bsq", tmp_path / name, "--quiet") == 0
        assert frames_of(tmp_path / name)[1] == [40] * 3
    assert read_media(tmp_path / "a.gif")[0].frame_rate == 25
