"""Transparency from files to frames, and from frames to files."""

from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image

from bsqcodec import BsqError
from bsqcodec.media import open_sink, open_source
from bsqcodec.types import MediaInfo, rescaled
from helpers import CLIP, waves

HEIGHT, WIDTH = 24, 32


def rgba(t: int = 0) -> np.ndarray:
    """A picture whose alpha is a ramp, with pixels that are wholly transparent and wholly opaque."""
    alpha = np.clip(np.arange(WIDTH) * 12 - 60 + 10 * t, 0, 255).astype(np.uint8)
    return np.dstack([waves(t + 1, WIDTH, HEIGHT)[t], np.broadcast_to(alpha, (HEIGHT, WIDTH))])


def read(path, **options):
    with open_source(str(path), **options) as source:
        return source.info, [item.rgb for item in source if hasattr(item, "rgb")], source.warnings


def visible_error(a, b):
    """Largest difference where a picture is seen, of premultiplied colours, and of alpha."""
    a, b = a.astype(float), b.astype(float)
    colours = np.abs(a[..., :3] * a[..., 3:] - b[..., :3] * b[..., 3:]).max() / 255
    return max(colours, np.abs(a[..., 3] - b[..., 3]).max())


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "avif"])
def test_pictures_have_alpha(tmp_path, suffix):
    Image.fromarray(rgba()).save(tmp_path / f"a.{suffix}", lossless=True, quality=100)
    info, (frame,), warnings = read(tmp_path / f"a.{suffix}")
    assert info.alpha and info.image and not warnings
    assert visible_error(frame, rgba()) < (16 if suffix == "avif" else 1)


def test_gray_and_palette_pictures_have_alpha(tmp_path):
    image = Image.fromarray(rgba())
    image.convert("LA").save(tmp_path / "gray.png")
    assert read(tmp_path / "gray.png")[0].alpha
    palette = Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 4, "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    palette.save(tmp_path / "palette.png", transparency=2)
    info, (frame,), _ = read(tmp_path / "palette.png")
    assert info.alpha and set(frame[..., 3].ravel()) == {0, 255}


def test_a_picture_that_is_opaque_has_none(tmp_path):
    opaque = rgba()
    opaque[..., 3] = 255
    Image.fromarray(opaque).save(tmp_path / "a.png")
    info, (frame,), _ = read(tmp_path / "a.png")
    assert not info.alpha and np.array_equal(frame, opaque[..., :3])


def test_alpha_that_is_multiplied_into_the_colours_is_divided_out_and_told(tmp_path):
    """A TIFF with associated alpha, made by hand: Pillow writes none."""
    colours = np.array([[[50, 100, 25, 128]]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    at = data.index(b"\x52\x01\x03\x00\x01\x00\x00\x00\x02")  # ExtraSamples, a short: 2, unassociated alpha
    (tmp_path / "a.tif").write_bytes(data[: at + 8] + b"\x01" + data[at + 9 :])
    info, (frame,), warnings = read(tmp_path / "a.tif")
    assert info.alpha and np.abs(frame[0, 0].astype(int) - [100, 199, 50, 128]).max() <= 1
    assert warnings == ["alpha is not multiplied into the colours any more, as it was in the source"]


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_animations_have_alpha_if_any_frame_has(tmp_path, suffix):
    frames = [Image.fromarray(rgba(t)) for t in range(3)]
    frames[0].putalpha(255)
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    info, found, _ = read(tmp_path / f"a.{suffix}")
    assert info.alpha and [f.shape for f in found] == [(HEIGHT, WIDTH, 4)] * 3
    assert found[0][..., 3].min() == 255 and found[1][..., 3].min() == 0


def test_a_gif_has_alpha(tmp_path):
    frames = [Image.fromarray(np.uint8([[0, 1], [1, i]]), "P") for i in (0, 1)]
    for frame in frames:
        frame.putpalette([0, 0, 0, 200, 100, 50])
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], transparency=0, disposal=2)
    info, found, _ = read(tmp_path / "a.gif")
    assert info.alpha and [f[..., 3].tolist() for f in found] == [[[0, 255], [255, 0]], [[0, 255], [255, 255]]]


def test_folders_have_alpha_if_any_picture_has(tmp_path):
    for t in range(3):
        Image.fromarray(rgba(t) if t == 1 else rgba(t)[..., :3]).save(tmp_path / f"{t}.png")
    info, found, _ = read(tmp_path)
    assert info.alpha and [int(f[..., 3].min()) for f in found] == [255, 0, 255]


def write_video(path, codec, pixel_format, frames, options=None):
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, 25)
        stream.width, stream.height, stream.pix_fmt, stream.options = WIDTH, HEIGHT, pixel_format, options or {}
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgba").reformat(format=pixel_format)))
        file.mux(stream.encode(None))


VIDEOS = [
    ("prores_ks", "yuva444p10le", "mov"), ("ffv1", "bgra", "mkv"), ("qtrle", "argb", "mov"), ("png", "rgba", "mov"),
    ("libvpx-vp9", "yuva420p", "webm"), ("libvpx", "yuva420p", "webm"),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "pixel_format", "suffix"), VIDEOS)
def test_videos_have_alpha(tmp_path, codec, pixel_format, suffix):
    path = tmp_path / f"a.{suffix}"
    lossy = {"crf": "4", "b:v": "2M", "auto-alt-ref": "0"} if "vpx" in codec else {}
    write_video(path, codec, pixel_format, [rgba(t) for t in range(3)], lossy)
    info, found, _ = read(path)
    assert info.alpha and len(found) == 3
    limit = 40 if "vpx" in codec else 8 if "prores" in codec else 1
    assert all(visible_error(frame, rgba(t)) < limit for t, frame in enumerate(found))
    assert found[0][:, 0, 3].max() < limit and found[0][:, -1, 3].min() > 255 - limit


@pytest.mark.parametrize(("codec", "pixel_format", "suffix"), VIDEOS[:3])
@pytest.mark.parametrize("transparent", [False, True])
def test_videos_whose_first_frames_are_opaque(tmp_path, codec, pixel_format, suffix, transparent):
    frames = [rgba(t) for t in range(4)]
    for frame in frames[: 3 if transparent else 4]:
        frame[..., 3] = 255
    write_video(tmp_path / f"a.{suffix}", codec, pixel_format, frames)
    info, found, _ = read(tmp_path / f"a.{suffix}")
    assert info.alpha == transparent and [f.shape[2] for f in found] == [4 if transparent else 3] * 4


def test_alpha_is_dropped_or_composited(tmp_path):
    Image.fromarray(rgba()).save(tmp_path / "a.png")
    info, (frame,), _ = read(tmp_path / "a.png", alpha=False)
    assert not info.alpha and np.array_equal(frame, rgba()[..., :3])
    for colour, value in (("white", (255, 255, 255)), ("#102030", (16, 32, 48))):
        info, (frame,), _ = read(tmp_path / "a.png", background=colour)
        behind = Image.new("RGBA", (WIDTH, HEIGHT), value)
        behind.alpha_composite(Image.fromarray(rgba()))
        assert not info.alpha and np.abs(frame.astype(int) - np.asarray(behind)[..., :3]).max() <= 1
    with pytest.raises(BsqError, match=r"'grün' is not a colour such as white or #ff8000"):
        read(tmp_path / "a.png", background="grün")


def write(path, frames, info, **options):
    with open_sink(str(path), info, **options) as sink:
        for t, frame in enumerate(frames):
            sink.write(frame, t)
    return sink.warnings


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_pictures_are_written_with_alpha(tmp_path, suffix):
    info = MediaInfo(WIDTH, HEIGHT, alpha=True)
    assert not write(tmp_path / f"a.{suffix}", [rgba()], info, image_quality=100)
    _, (frame,), _ = read(tmp_path / f"a.{suffix}")
    assert visible_error(frame, rgba()) < (1 if suffix == "png" else 12)


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("name", ["a.mov", "a.mkv", "a/"])
def test_videos_are_written_with_alpha(tmp_path, name, depth):
    frames = [rgba(t) for t in range(4)]
    given = frames if depth == 8 else [rescaled(frame, 8, depth) for frame in frames]
    info = replace(CLIP, width=WIDTH, height=HEIGHT, alpha=True, bit_depth=depth)
    assert not write(f"{tmp_path}/{name}", given, info)
    found_info, found, _ = read(tmp_path / name)
    assert found_info.alpha and found_info.bit_depth == {"a.mkv": depth, "a.mov": 12}.get(name, 8 if depth == 8 else 12)
    assert all(visible_error(a, b) < (8 if name == "a.mov" else 2) for a, b in zip(found, frames, strict=True))


@pytest.mark.parametrize("name", ["a.jpg", "a.mp4", "a.y4m"])
def test_outputs_without_alpha_show_a_background_and_say_so(tmp_path, name):
    info = (
        MediaInfo(WIDTH, HEIGHT, alpha=True)
        if name == "a.jpg"
        else replace(CLIP, width=WIDTH, height=HEIGHT, alpha=True)
    )
    (warning,) = write(tmp_path / name, [rgba()], info)
    assert warning.endswith("which this output cannot hold; the background is black, if none is chosen")
    (tmp_path / name).unlink()
    assert not write(tmp_path / name, [rgba()], info, background="red")
    _, (frame,), _ = read(tmp_path / name)
    assert np.abs(frame[:, 0].astype(int) - [255, 0, 0]).max() < 30
    opaque = rgba()
    opaque[..., 3] = 255
    assert not write(tmp_path / f"b{name}", [opaque], info)
