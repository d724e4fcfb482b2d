"""Data sets: found by name and path, downloaded, and read frame by frame."""

import hashlib
import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import skimage.data
from bench_helpers import run
from PIL import Image

from bsqcodec.bench import datasets, metrics, registry
from bsqcodec.bench.frames import frames_of, raw_format
from bsqcodec.errors import BsqError
from bsqcodec.media import colour


@pytest.mark.parametrize(
    ("name", "size", "fps", "pixels"),
    [
        ("BasketballPass_416x240_50.yuv", "416x240", "50", "yuv420p"),
        ("Beauty_1920x1080_120fps_420_8bit_YUV.yuv", "1920x1080", "120", "yuv420p"),
        ("videoSRC01_1920x1080_30.yuv", "1920x1080", "30", "yuv420p"),
        ("Park_3840x2160_60fps_444_10bit.yuv", "3840x2160", "60", "yuv444p10le"),
        ("x_352x288_420.yuv", "352x288", "25", "yuv420p"),
    ],
)
def test_raw_names(name, size, fps, pixels):
    expected = {"video_size": size, "framerate": fps, "pixel_format": pixels}
    assert raw_format(Path(name)) == expected


def test_raw_video(clip):
    item = datasets.probe(clip)
    assert (item.width, item.height, item.fps, item.kind) == (64, 48, 30, "video")
    frames = list(frames_of(clip))
    assert len(frames) == 6 and len(list(frames_of(clip, 2))) == 2
    source = skimage.data.astronaut()[:48, 180:244]
    assert metrics.psnr(source, frames[0]) > 35
    with pytest.raises(BsqError, match="size in the name"):
        next(frames_of(clip.rename(clip.parent / "nameless.yuv")))
    (clip.parent / "nameless.yuv").rename(clip)


@pytest.mark.parametrize(("name", "codec"), [("a.y4m", "wrapped_avframe"), ("a.mkv", "ffv1"), ("a.mp4", "libx264")])
@pytest.mark.parametrize("matrix", [colour.BT709, colour.BT601])
def test_video_files(name, codec, matrix, astronaut, tmp_path):
    with av.open(str(tmp_path / name), "w", format="yuv4mpegpipe" if name == "a.y4m" else None) as container:
        video = container.add_stream(codec, rate=Fraction(30000, 1001), options={"crf": "0"} if codec[0] == "l" else {})
        context = video.codec_context
        context.width, context.height, context.pix_fmt = 64, 48, "yuv444p"
        context.colorspace, context.color_range = matrix, 1
        for i in range(3):
            # y4m cannot state its matrix; of a picture as small as this, BT.601 is assumed
            used = colour.BT601 if name == "a.y4m" else matrix
            frame = colour.to_yuv(astronaut[i : i + 48, :64], "yuv444p", used)
            frame.pts = i
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    item = datasets.probe(tmp_path / name)
    assert (item.width, item.height, item.kind) == (64, 48, "video") and item.fps == pytest.approx(29.97, abs=1e-3)
    frames = list(frames_of(Path(item.path)))
    assert len(frames) == 3
    assert all(metrics.psnr(astronaut[i : i + 48, :64], frame) > 45 for i, frame in enumerate(frames))


def test_colour_round_trip(astronaut):
    assert metrics.psnr(astronaut, colour.to_rgb(colour.to_yuv(astronaut, "yuv444p"))) > 50
    gray = np.full((16, 16, 3), 200, np.uint8)
    assert abs(colour.to_rgb(colour.to_yuv(gray, "yuv420p")).astype(int) - 200).max() <= 1


def test_folder_of_frames_is_a_video(tmp_path, astronaut):
    for i in range(3):
        (tmp_path / "walk").mkdir(exist_ok=True)
        Image.fromarray(astronaut[i : i + 64, :64]).save(tmp_path / "walk" / f"{i:03d}.png")
    listing = datasets.load(str(tmp_path))
    assert listing.kind == "video" and [i.name for i in listing.items] == ["walk"]
    assert len(list(frames_of(Path(listing.items[0].path)))) == 3


def test_registry_counts():
    for known in registry.REGISTRY.values():
        assert len(known.items) in (0, known.count)
        assert known.source.startswith("https://") and known.note
        assert len(known.sha256) == (known.count if known.url else 0)
        for item in known.items:
            assert item.width * item.height and (item.fps and item.frames > 1) == (known.kind == "video")
    assert {i.fps for i in registry.REGISTRY["mcl-jcv"].items} == {24, 25, 30}


def test_registered_set_in_a_root(tmp_path):
    folder = tmp_path / "hevc-d"
    folder.mkdir()
    (folder / "RaceHorses_416x240_30.yuv").write_bytes(bytes(416 * 240 * 3 // 2))
    (folder / "RaceHorsesX_416x240_30.yuv").write_bytes(b"")
    listing = datasets.load("hevc-d", str(tmp_path))
    assert [i.name for i in listing.items] == ["RaceHorses_416x240_30"]
    assert listing.problems == ("hevc-d lacks BasketballPass, BlowingBubbles, BQSquare",)
    (folder / "RaceHorses_416x240_30.yuv").rename(folder / "RaceHorses_416x240.yuv")  # no rate: the registered one
    (folder / "BQSquare_240x416_60.yuv").write_bytes(bytes(416 * 240 * 3 // 2))
    listing = datasets.load("hevc-d", str(tmp_path))
    assert [i.fps for i in listing.items] == [30]
    assert listing.problems[1] == "BQSquare_240x416_60 is 240x416; in hevc-d it is 416x240"


def test_missing_set_exits_2(tmp_path):
    status, output = run("bench", "--dataset", "uvg", "--root", tmp_path)
    assert status == 2 and "ultravideo.fi" in output and str(tmp_path / "uvg") in output
    assert len(output.splitlines()) == 1
    assert run("bench", "--dataset", "tecnick", "--root", tmp_path, "--download")[0] == 1


def test_download_checks_what_it_gets(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.urllib.request, "urlopen", lambda *a, **k: io.BytesIO(b"not an image"))
    with pytest.raises(BsqError, match="SHA-256 differs"):
        datasets.load("kodak", str(tmp_path), download=True)
    assert not list((tmp_path / "kodak").iterdir())


def test_download_fetches_what_is_missing(tmp_path, monkeypatch):
    data = {}
    for i in (1, 2):
        file = io.BytesIO()
        Image.fromarray(np.full((8, 16, 3), 50 * i, np.uint8)).save(file, "PNG")
        data[f"https://example.org/{i}.png"] = file.getvalue()
    fetched = []
    monkeypatch.setattr(
        datasets.urllib.request, "urlopen", lambda url, timeout: fetched.append(url) or io.BytesIO(data[url])
    )
    known = registry.DataSet(
        *("two", "image", "https://example.org", "2 images", 2),
        tuple(registry.RegisteredItem(name, 16, 8) for name in "12"),
        "https://example.org/{name}.png",
        tuple(hashlib.sha256(d).hexdigest()[:16] for d in data.values()),
    )
    monkeypatch.setitem(registry.REGISTRY, "two", known)
    listing = datasets.load("two", str(tmp_path), download=True)
    assert [i.name for i in listing.items] == ["1", "2"] and not listing.problems and fetched == list(data)
    (tmp_path / "two" / "2.png").unlink()
    datasets.load("two", str(tmp_path), download=True)
    assert fetched[2:] == ["https://example.org/2.png"]
    (tmp_path / "two" / "1.png").write_bytes(data["https://example.org/2.png"])
    with pytest.raises(BsqError, match="delete it to fetch it"):
        datasets.load("two", str(tmp_path), download=True)
