"""Pictures and videos decoded in a part of their size."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

import bsqcodec
from bsqcodec.media.resample import reduced
from helpers import exit_status, moving, photo, psnr, same_pictures, write_video


def slow(picture, factor):
    """Means of pixels in floats, one by one; colours of a picture with alpha are weighted with it."""
    height, width = (-(-side // factor) for side in picture.shape[:2])
    found = np.zeros((height, width, picture.shape[2]))
    for y, x in np.ndindex(height, width):
        block = (
            picture[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
            .astype(float)
            .reshape(-1, picture.shape[2])
        )
        found[y, x] = block.mean(0)
        if picture.shape[2] == 4:
            alpha = block[:, 3:]
            found[y, x, :3] = (block[:, :3] * alpha).sum(0) / max(alpha.sum(), 1)
    return found


@pytest.mark.parametrize(("kind", "bits"), [(np.uint8, 8), (np.uint16, 12), (np.uint16, 16)])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("factor", [2, 4, 16])
def test_each_pixel_is_the_mean_of_those_it_covers(kind, bits, channels, factor):
    picture = np.random.default_rng(1).integers(0, 1 << bits, (37, 50, channels), kind, endpoint=False)
    if channels == 4:
        picture[:20, :20, 3] = 0
    found = reduced(picture, factor)
    assert found.dtype == kind and np.abs(found - slow(picture, factor)).max() <= 0.5


@pytest.mark.parametrize(("kind", "top"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (31, 17)])
def test_what_is_all_of_one_colour_stays_so(kind, top, size):
    for value in ((top, top, top), (top, 1, 0, top), (top, 1, 0, 1)):
        picture = np.full((*size, len(value)), value, kind)
        for factor in (1, 2, 4, 8, 16):
            assert np.array_equal(np.unique(reduced(picture, factor).reshape(-1, len(value)), axis=0), [value])


def test_edges_of_what_is_transparent_keep_their_colour():
    picture = np.zeros((4, 4, 4), np.uint8)
    picture[:, :3] = 200, 100, 50, 255
    assert reduced(picture, 2)[0].tolist() == [[200, 100, 50, 255], [200, 100, 50, 128]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("scale")
    Image.fromarray(photo(35, 50)).save(folder / "photo.png")
    write_video(
        folder / "clip.mkv", moving(4, 33, 47), [0, 40, 90, 200], audio=True, sample_aspect_ratio=Fraction(4, 3)
    )
    bsqcodec.encode_file(str(folder / "photo.png"), str(folder / "photo.bsq"), quality=90)
    bsqcodec.encode_file(str(folder / "clip.mkv"), str(folder / "clip.bsq"), quality=60, low_delay=True)
    return folder


@pytest.mark.parametrize(("scale", "size"), [("1", (50, 35)), ("1/2", (25, 18)), ("1/16", (4, 3))])
def test_a_picture_in_a_part_of_its_size(folder, tmp_path, scale, size, capsys):
    assert exit_status("decode", folder / "photo.bsq", tmp_path / "s.png", "--scale", scale, "--md5", "--quiet") == 0
    small = Image.open(tmp_path / "s.png")
    assert small.size == size
    whole = bsqcodec.decode_image((folder / "photo.bsq").read_bytes())
    assert np.array_equal(small, reduced(whole, Fraction(scale).denominator))
    assert exit_status("decode", folder / "photo.bsq", "--md5", "--quiet") == 0
    first, second = capsys.readouterr().out.split()
    assert first == second  # that of the frames in full size


def test_a_picture_that_lies_on_its_side_stays_turned(folder, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(20, 33)).save(tmp_path / "in.png", exif=exif)
    bsqcodec.encode_file(str(tmp_path / "in.png"), str(tmp_path / "in.bsq"))
    bsqcodec.decode_file(str(tmp_path / "in.bsq"), str(tmp_path / "out.png"), scale=Fraction(1, 4))
    out = Image.open(tmp_path / "out.png")
    assert out.size == (9, 5) and out.getexif()[0x0112] == 6


def test_a_video_in_a_part_of_its_size_keeps_times_sound_and_aspect(folder, tmp_path):
    clips = []
    for scale in ("1", "1/4"):
        assert exit_status("decode", folder / "clip.bsq", tmp_path / "out.mkv", "--crf", 0, "--scale", scale, "-f") == 0
        with av.open(str(tmp_path / "out.mkv")) as video:
            items = list(video.decode(video=0))
            assert [round(f.pts * f.time_base * 1000) for f in items] == [0, 40, 90, 200]
            assert video.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        with av.open(str(tmp_path / "out.mkv")) as video:
            assert sum(p.size for p in video.demux(audio=0)) > 1000
        clips.append([f.to_ndarray(format="rgb24") for f in items])
    assert clips[1][0].shape == (9, 12, 3)
    assert all(psnr(reduced(a, 4), b) > 35 for a, b in zip(*clips, strict=True))


def test_some_frames_as_numbered_pictures(folder, tmp_path):
    bsqcodec.decode_file(str(folder / "clip.bsq"), f"{tmp_path}/frames/", frames=(1, 3), scale="1/2")
    with open(folder / "clip.bsq", "rb") as file:
        expected = [reduced(frame.rgb, 2) for frame in bsqcodec.Decoder(file).frames(1, 3)]
    assert same_pictures([np.asarray(Image.open(p)) for p in sorted((tmp_path / "frames").iterdir())], expected)


@pytest.mark.parametrize("scale", ["1/3", "2", "0", "1/0", "half", 0.3])
def test_another_scale_is_refused(folder, tmp_path, scale):
    with pytest.raises(bsqcodec.BsqError, match=r"the scale is .*, not one of 1, 1/2, 1/4, 1/8, 1/16"):
        bsqcodec.decode_file(str(folder / "photo.bsq"), str(tmp_path / "out.png"), scale=scale)
    assert exit_status("decode", folder / "photo.bsq", tmp_path / "out.png", "--scale", scale) != 0
    assert not list(tmp_path.iterdir())
