"""Still images, animations and folders of images as inputs and outputs."""

import os
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from bsqcodec.errors import BsqError
from bsqcodec.media import open_sink, open_source
from helpers import CLIP, mean_error, read_media, waves, write_media


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_still_image(tmp_path, name, rotation):
    [picture] = waves(1, 47, 33)
    write_media(tmp_path / name, [picture], replace(CLIP, rotation=rotation))
    info, found, _ = read_media(tmp_path / name)
    assert info.image and info.frame_rate is None and info.rotation == rotation and info.matrix == 0
    assert (info.width, info.height, len(found), found[0].pts) == (47, 33, 1, 0)
    assert mean_error(found[0].rgb, picture) < (4 if rotation or name != "a.png" else 0.1)
    with open_sink(str(tmp_path / "b.png"), info) as sink:
        sink.write(picture, 0)
        with pytest.raises(BsqError, match="folder"):
            sink.write(picture, 1)


def test_mirrored_images_are_turned_over(tmp_path):
    [picture] = waves(1)
    exif = Image.Exif()
    exif[0x0112] = 2
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    info, [frame], _ = read_media(tmp_path / "a.png")
    assert info.rotation == 0 and np.array_equal(frame.rgb, picture[:, ::-1])


def test_images_of_16_bits_are_reduced(tmp_path):
    gray = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1390
    Image.fromarray(gray).save(tmp_path / "a.png")
    with open_source(str(tmp_path / "a.png")) as source:
        assert source.info.bit_depth == 12 and "of the 16 bits" in source.warnings[0]
        [frame] = source
    assert np.abs(frame.rgb[..., 0] - gray / 257).max() <= 0.5


def test_folder_and_pattern(tmp_path):
    frames = waves(12)
    (tmp_path / "in").mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "in" / f"frame{i}.png")
    (tmp_path / "in" / "notes.txt").write_text("not a frame")
    for path in (tmp_path / "in", tmp_path / "in" / "*.png"):
        info, found, _ = read_media(path)
        assert info.frame_rate == 25 and not info.image
        assert [f.pts * info.time_base for f in found] == [Fraction(i, 25) for i in range(12)]
        assert all(np.array_equal(f.rgb, g) for f, g in zip(found, frames, strict=True))
    found = read_media(tmp_path / "in", start=0.2, duration=0.1)[1]
    assert len(found) == 3 and found[0].pts == 0 and np.array_equal(found[0].rgb, frames[5])

    write_media(f"{tmp_path}/out/", frames[:3])
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    assert sorted(os.listdir(tmp_path / "out")) == ["000000.png", "000001.png", "000002.png"]
    assert all(np.array_equal(f.rgb, g) for f, g in zip(read_media(tmp_path / "out")[1], frames[:3], strict=True))
    with pytest.raises(BsqError, match="empty folder"):
        write_media(tmp_path / "out", frames)
    (tmp_path / "empty").mkdir()
    write_media(tmp_path / "empty", frames[:1], replace(CLIP, rotation=90))
    assert np.array_equal(read_media(tmp_path / "empty")[1][0].rgb, np.rot90(frames[0], -1))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animation(tmp_path, suffix):
    frames, durations = waves(4), [40, 80, 40, 100]
    first, *rest = [Image.fromarray(f) for f in frames]
    lossless = {"lossless": True} if suffix == "webp" else {}
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=rest, duration=durations, **lossless)
    info, found, _ = read_media(tmp_path / f"a.{suffix}")
    assert not info.image and info.frame_rate == Fraction(4000, 260)
    assert [f.pts * info.time_base for f in found] == [Fraction(t, 1000) for t in (0, 40, 120, 160)]
    assert all(mean_error(f.rgb, g) < 8 for f, g in zip(found, frames, strict=True))


def test_what_else_is_in_a_folder_is_told(tmp_path):
    for i, picture in enumerate(waves(2)):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    (tmp_path / ".hidden").write_bytes(b"")
    with open_source(str(tmp_path)) as source:
        assert source.warnings == [] and source.total == 2
    Image.fromarray(waves(1)[0]).save(tmp_path / "b.gif")
    with open_source(str(tmp_path)) as source:
        assert source.warnings == [f"{tmp_path}: another file in the folder is passed over, such as b.gif"]
    (tmp_path / "c.txt").write_bytes(b"")
    with open_source(str(tmp_path)) as source:
        assert source.warnings == [f"{tmp_path}: 2 other files in the folder are passed over, such as b.gif"]
        assert len(list(source)) == 2


def test_images_of_several_sizes_are_refused_with_the_way_out(tmp_path):
    Image.fromarray(waves(1)[0]).save(tmp_path / "0.png")
    Image.fromarray(waves(1, 33, 47)[0]).save(tmp_path / "1.png")
    for path, each in ((str(tmp_path), f"{tmp_path}/*"), (f"{tmp_path}/*.png", f"{tmp_path}/*.png")):
        with pytest.raises(BsqError) as error:
            read_media(path)
        size = "1.png is 33x47, not 48x32 like the images before it"
        assert f"{size}; to encode each for itself: bsqcodec encode {each} --to OUT" in str(error.value)
