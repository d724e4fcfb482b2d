"""The plugin of Pillow: opening, seeking, loading and saving as Pillow's own formats do it."""

import copy
import io
import pickle
import subprocess
import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, ImageSequence, UnidentifiedImageError

import bsqcodec.decoder
import bsqcodec.pillow
from bsqcodec import Decoder, Encoder, MediaInfo
from helpers import mean_error, waves

ICC = b"\0" * 16 + b"RGB " + b"\0" * 108
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"


@pytest.fixture(autouse=True)
def _model(monkeypatch, tiny):
    monkeypatch.setattr(bsqcodec.pillow, "MODEL", tiny)


@pytest.fixture(scope="module")
def save(tiny):
    """Saves an image to bytes with the tiny model."""

    def saved(image, **options):
        file = io.BytesIO()
        image.save(file, "BSQ", model=tiny, **{"quality": 90, "low_delay": True, **options})
        return file.getvalue()

    return saved


@pytest.fixture(scope="module")
def still(save):
    return save(Image.fromarray(waves(1)[0]))


@pytest.fixture(scope="module")
def video(tiny):
    """Seven frames in groups of three, of 40 ms but for the last two."""
    file, info = io.BytesIO(), MediaInfo(48, 32, Fraction(1, 1000), Fraction(25), metadata={"loop": b"3"})
    with Encoder(file, info, model=tiny, quality=90, gop=3, low_delay=True) as encoder:
        for frame, t in zip(waves(7), (0, 40, 80, 120, 160, 200, 290), strict=True):
            encoder.write(frame, t, duration=15 if t == 290 else 0)
    return file.getvalue()


def decoded(data, tiny):
    return [frame.rgb for frame in Decoder(io.BytesIO(data), model=tiny).frames()]


@pytest.fixture(scope="module")
def frames(video, tiny):
    """Those of `video` as the decoder gives them."""
    return decoded(video, tiny)


def test_registered():
    Image.init()
    assert Image.registered_extensions()[".bsq"] == "BSQ" and Image.MIME["BSQ"] == "image/x-bsq"
    assert {"BSQ"} <= Image.SAVE.keys() & Image.SAVE_ALL.keys() & Image.OPEN.keys()


def test_open_and_load(still, tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Image.open(io.BytesIO(still)) as image:
            assert (image.format, image.mode, image.size) == ("BSQ", "RGB", (48, 32))
            assert image.format_description and image.get_format_mimetype() == "image/x-bsq"
            assert (image.n_frames, image.is_animated, image.tell()) == (1, False, 0)
            assert "duration" not in image.info and "loop" not in image.info
            image.load()
            assert np.array_equal(image, decoded(still, tiny)[0])
            assert mean_error(image, waves(1)[0]) < 8
            with pytest.raises(EOFError):
                image.seek(1)


def test_files_are_closed(tmp_path, still):
    (tmp_path / "a.bsq").write_bytes(still)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        image = Image.open(tmp_path / "a.bsq")
        file = image._fp
        image.load()
        assert file.closed
        with Image.open(tmp_path / "a.bsq") as image:
            file = image._fp
        assert file.closed
        with pytest.raises(ValueError, match="closed"):
            image.load()
    with open(tmp_path / "a.bsq", "rb") as file:
        Image.open(file).load()
        assert not file.closed  # which is the caller's


def test_nothing_of_torch_is_loaded_before_pixels_are(tmp_path, video):
    (tmp_path / "a.bsq").write_bytes(video)
    code = (
        "import sys, bsqcodec.pillow; from PIL import Image; Image.init(); image = Image.open(sys.argv[1]);"
        "image.seek(image.n_frames - 1); assert image.info['duration'] == 15; image.verify();"
        "print([m for m in ('torch', 'av', 'constriction') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.bsq"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_frames_of_a_video(video, frames):
    with Image.open(io.BytesIO(video)) as image:
        assert image.n_frames == 7 and image.is_animated and image.info["loop"] == 3
        durations = []
        for i, frame in enumerate(ImageSequence.Iterator(image)):
            assert image.tell() == i and np.array_equal(frame, frames[i])
            durations.append(frame.info["duration"])
        assert durations == [40, 40, 40, 40, 40, 90, 15]
        for i in (6, 0, 4, 5, 2):
            image.seek(i)
            assert np.array_equal(image, frames[i]) and image.info["duration"] == durations[i]
        for i in (7, -1):
            with pytest.raises(EOFError):
                image.seek(i)
        assert image.tell() == 2 and np.array_equal(image, frames[2])


def test_seeking_decodes_only_what_it_needs(video, monkeypatch):
    groups, decode = [], bsqcodec.decoder.decode_group
    monkeypatch.setattr(bsqcodec.decoder, "decode_group", lambda *a: groups.append(a[1]) or decode(*a))
    with Image.open(io.BytesIO(video)) as image:
        for frame, count in ((4, 1), (5, 1), (6, 2), (0, 3), (2, 3), (1, 4)):
            image.seek(frame)
            image.load()
            assert len(groups) == count


@pytest.mark.parametrize("data", [b"BSQ\x1a", b"BSQ\x1a" + bytes(60), b"not an image"])
def test_garbage_is_not_identified(data):
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(data))


def test_damage(still, video, frames):
    with Image.open(io.BytesIO(still[:-20])) as image:
        assert image.size == (48, 32) and image.n_frames == 1
        for _ in range(2):
            with pytest.raises(OSError, match="cut short"):
                image.load()
    with Image.open(io.BytesIO(video[: len(video) - 60])) as image:  # in the last group
        assert image.n_frames == 6
        image.seek(5)
        assert np.array_equal(image, frames[5])
        with pytest.raises(EOFError):
            image.seek(6)
    broken = bytearray(video)
    broken[len(video) // 2] ^= 1
    with Image.open(io.BytesIO(broken)) as image:
        assert image.n_frames == 7
        image.load()
        image.seek(4)
        with pytest.raises(OSError, match="damaged"):
            image.load()


def test_verify(still):
    image = Image.open(io.BytesIO(still))
    image.verify()
    assert image.fp is None
    with pytest.raises(OSError, match="damaged"):
        Image.open(io.BytesIO(still[:80] + b"!" + still[81:])).verify()


def test_a_model_that_is_not_there(still, monkeypatch):
    monkeypatch.setattr(bsqcodec.pillow, "MODEL", None)
    with Image.open(io.BytesIO(still)) as image, pytest.raises(OSError, match="model"):
        image.load()


def test_large_pictures_are_a_matter_of_pillows_limit(still, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(still))


def test_copies(video, frames):
    with Image.open(io.BytesIO(video)) as image:
        image.seek(3)
        for other in (image.copy(), copy.copy(image), pickle.loads(pickle.dumps(image))):
            assert np.array_equal(other, frames[3]) and other.info["loop"] == 3
        assert pickle.loads(pickle.dumps(image)).n_frames == 1


def test_settings_are_save_options(tmp_path, still, tiny):
    image = Image.fromarray(waves(1)[0])
    image.save(tmp_path / "a.bsq", quality=20, tune="psnr", model=tiny)
    assert (tmp_path / "a.bsq").stat().st_size < len(still) / 1.5
    for options in ({"quality": 0}, {"tune": "x"}, {"effort": -1}):
        with pytest.raises(ValueError, match="not"):
            image.save(tmp_path / "b.bsq", model=tiny, **options)
    with pytest.raises(OSError, match="no model"):
        image.save(tmp_path / "b.bsq", model="x")
    assert not (tmp_path / "b.bsq").exists()


def test_modes(save):
    rgb = Image.fromarray(waves(1)[0])
    for mode in ("1", "P", "CMYK"):
        image = rgb.quantize(64) if mode == "P" else rgb.convert(mode)
        with Image.open(io.BytesIO(save(image))) as back:
            assert back.mode == "RGB" and mean_error(back, image.convert("RGB")) < (40 if mode == "1" else 10)
    gray = np.asarray(rgb.convert("L")).astype(np.uint16) * 257
    for image in (Image.fromarray(gray), Image.fromarray(gray.astype(np.int32))):
        with Image.open(io.BytesIO(save(image))) as back:
            assert mean_error(back.convert("L"), gray / 257) < 8
    with pytest.raises(OSError, match="mode F"):
        save(Image.fromarray(gray.astype(np.float32)))
    with pytest.raises(OSError, match="mode I"):
        save(Image.fromarray(gray.astype(np.int32) - 70000))


def test_profile_exif_and_xmp(save):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "somebody"
    exif[ExifTags.Base.Orientation] = 6
    image = Image.fromarray(waves(1)[0])
    data = save(image, exif=exif, icc_profile=ICC, xmp=XMP.decode())
    with Image.open(io.BytesIO(data)) as back:
        assert back.info["icc_profile"] == ICC and back.info["xmp"] == XMP
        assert back.size == (48, 32) and dict(back.getexif()) == dict(exif)
        assert ImageOps.exif_transpose(back).size == (32, 48)
        again = save(back, exif=back.info["exif"])  # the profile is kept as other formats of Pillow keep it
        with Image.open(io.BytesIO(again)) as second:
            assert second.info["icc_profile"] == ICC and dict(second.getexif()) == dict(exif)
            assert "xmp" not in second.info
    with Image.open(io.BytesIO(save(image, icc_profile=ICC.replace(b"RGB ", b"CMYK")))) as back:
        assert not back.info  # of other pixels than those that are written


@pytest.mark.parametrize("orientation", [2, 4, 5, 7, 8])
def test_every_orientation_is_kept(save, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.fromarray(waves(1)[0])
    with Image.open(io.BytesIO(save(image, exif=exif.tobytes()))) as back:
        shown = ImageOps.exif_transpose(back)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    assert mean_error(shown, ImageOps.exif_transpose(image)) < 8


def test_animations(save, video):
    frames = [Image.fromarray(frame) for frame in waves(4)]
    data = save(frames[0], save_all=True, append_images=iter(frames[1:]), duration=[40, 50.5, 60, 70], loop=0, gop=2)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 4 and image.info["loop"] == 0
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(image)] == [40, 50, 60, 70]
        assert all(mean_error(a, b) < 8 for a, b in zip(ImageSequence.Iterator(image), frames, strict=True))
        image.seek(2)
        with Image.open(io.BytesIO(save(image))) as back:
            assert back.n_frames == 1 and mean_error(back, image) < 8
    with Image.open(io.BytesIO(video)) as image:
        image.seek(1)
        again = save(image, save_all=True)
        assert image.tell() == 1
        with Image.open(io.BytesIO(again)) as back:
            found = [frame.info["duration"] for frame in ImageSequence.Iterator(back)]
            assert found == [40, 40, 40, 40, 40, 90, 15] and back.info["loop"] == 3
    with Image.open(io.BytesIO(save(frames[0], save_all=True, append_images=frames[1:2]))) as image:
        assert image.info["duration"] == 100
    with pytest.raises(ValueError, match="frame 1 has 10x10"):
        save(frames[0], save_all=True, append_images=[Image.new("RGB", (10, 10))])


def test_a_gif_becomes_a_stream_and_back(save):
    frames, gif = [Image.fromarray(frame) for frame in waves(3)], io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:], duration=[30, 60, 90], loop=2)
    data, back = save(Image.open(gif), save_all=True), io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["loop"] == 3  # a GIF counts what comes after the first
        image.save(back, "WEBP", save_all=True, loop=image.info["loop"])
    with Image.open(back) as image:
        assert image.n_frames == 3


def test_alpha(save):
    rgba = np.dstack([waves(1)[0], np.full((32, 48), 255, np.uint8)])
    rgba[8:24, 8:24, 3] = 0
    clear, half = Image.fromarray(rgba), Image.fromarray(np.where(rgba > 0, rgba, 100))
    opaque = clear.convert("RGB")
    palette = opaque.quantize(20)
    palette.info["transparency"] = 3
    for images in ([clear], [half], [opaque, clear], [palette], [clear.convert("LA")]):
        with Image.open(io.BytesIO(save(images[0], save_all=True, append_images=images[1:]))) as back:
            assert back.mode == "RGBA" and back.n_frames == len(images)
            for found, image in zip(ImageSequence.Iterator(back), images, strict=True):
                alpha = np.asarray(image.convert("RGBA").getchannel("A"))
                assert mean_error(found.getchannel("A"), alpha) < 8
