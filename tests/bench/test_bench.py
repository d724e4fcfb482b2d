"""The benchmark: metrics, BD-rate, data sets, anchors, the runner and the commands, on generated and bundled images."""

import hashlib
import importlib.util
import io
import json
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage")
pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
pytest.importorskip("pytorch_msssim")

import click
import skimage.data
from click.testing import CliRunner
from PIL import Image

from bsqcodec import api
from bsqcodec.bench import anchors, bdrate, datasets, metrics, report, runner
from bsqcodec.bench.command import bench, compare
from bsqcodec.errors import BsqError
from bsqcodec.media import colour
from bsqcodec.network import weights as model
from bsqcodec.network.objective import Objective
from bsqcodec.stream import container as stream
from helpers import random_network

RATE = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
QUALITY = np.array([28.0, 30.5, 33.1, 35.8, 38.0])


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return skimage.data.astronaut()[:192, 100:308]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two images, 208x192 and 192x208."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(skimage.data.astronaut()[:192, 100:308]).save(folder / "one.png")
    Image.fromarray(skimage.data.chelsea()[50:258, 100:292]).save(folder / "two.png")
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Six raw 4:2:0 frames of 64x48 that pan over an image."""
    path = tmp_path_factory.mktemp("clip") / "pan_64x48_30.yuv"
    image = skimage.data.astronaut()
    with path.open("wb") as file:
        for i in range(6):
            yuv = colour.to_yuv(image[:48, 180 + 2 * i : 244 + 2 * i], "yuv420p")
            file.write(yuv.to_ndarray().tobytes())
    return path


def noisy(image: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 255).round().astype(np.uint8)


def run(*arguments) -> tuple[int, str]:
    """Exit status and all output; a BsqError is status 1 and one line, as the program makes it."""
    try:
        group = click.Group(commands={"bench": bench, "compare": compare})
        result = CliRunner().invoke(group, [str(a) for a in arguments], catch_exceptions=False)
    except BsqError as error:
        return 1, str(error)
    return result.exit_code, result.output


# ---------------------------------------------------------------------------------------------------------- BD-rate


@pytest.mark.parametrize("factor,shift", [(1.3, 0.0), (0.8, 0.4), (1.0, -1.0)])
def test_bd_agrees_with_bjontegaard(factor, shift):
    package = pytest.importorskip("bjontegaard")
    rate, quality = RATE * factor, QUALITY + shift + 0.1 * np.sin(np.arange(5))
    ours = bdrate.bd_rate(RATE, QUALITY, rate, quality)
    theirs = package.bd_rate(RATE, QUALITY, rate, quality, method="pchip", min_overlap=0)
    assert ours.value == pytest.approx(theirs, abs=1e-6)
    assert ours.low == max(QUALITY[0], quality[0]) and ours.high == min(QUALITY[-1], quality[-1])
    ours = bdrate.bd_quality(RATE, QUALITY, rate, quality)
    assert ours.value == pytest.approx(
        package.bd_psnr(RATE, QUALITY, rate, quality, method="pchip", min_overlap=0), abs=1e-6
    )


def test_bd_of_scaled_and_swapped_curves():
    forth = bdrate.bd_rate(RATE, QUALITY, RATE * 1.25, QUALITY)
    back = bdrate.bd_rate(RATE * 1.25, QUALITY, RATE, QUALITY)
    assert forth.value == pytest.approx(25) and back.value == pytest.approx(-20)
    assert forth.share == pytest.approx(1)
    gain = bdrate.bd_quality(RATE, QUALITY, RATE * 1.1, QUALITY + 0.3)
    loss = bdrate.bd_quality(RATE * 1.1, QUALITY + 0.3, RATE, QUALITY)
    assert gain.value == pytest.approx(-loss.value)


def test_bd_refuses_with_a_reason():
    with pytest.raises(bdrate.NoComparison, match="3 points; at least 4"):
        bdrate.bd_rate(RATE[:3], QUALITY[:3], RATE, QUALITY)
    with pytest.raises(bdrate.NoComparison, match="share no quality"):
        bdrate.bd_rate(RATE, QUALITY, RATE, QUALITY + 20)
    with pytest.raises(bdrate.NoComparison, match="share no rate"):
        bdrate.bd_quality(RATE, QUALITY, RATE * 100, QUALITY)
    with pytest.raises(bdrate.NoComparison, match="3 of 5 points"):
        bdrate.bd_rate(RATE, QUALITY, RATE, [28, 30, 29, 29, 31])
    with pytest.raises(bdrate.NoComparison):
        bdrate.bd_rate(RATE, QUALITY, RATE, [math.inf] * 5)


# ---------------------------------------------------------------------------------------------------------- metrics


def test_identity_is_perfect(astronaut):
    values = metrics.measure([astronaut], [astronaut], ("psnr", "psnr-yuv", "ms-ssim", "ssim"))
    assert values["psnr-rgb"] == values["psnr-yuv"] == math.inf
    assert values["ms-ssim-rgb"] == pytest.approx(1) and values["ssim-rgb"] == pytest.approx(1)
    assert metrics.METRICS["ms-ssim"].quality(1.0) == math.inf
    assert metrics.METRICS["ms-ssim"].quality(0.9) == pytest.approx(10)


def test_psnr_by_hand(astronaut):
    other = noisy(astronaut, 9)
    error = np.mean((astronaut.astype(float) - other) ** 2)
    assert metrics.psnr(astronaut, other) == pytest.approx(10 * math.log10(255**2 / error))


def test_psnr_yuv_against_swscale(astronaut):
    other = noisy(astronaut, 9)
    planes = []
    for image in (astronaut, other):
        yuv = colour.to_yuv(image, "yuv444p").to_ndarray().astype(float)
        y = (yuv[0] - 16) * 255 / 219
        chroma = (yuv[1:] - 128) * 255 / 224
        planes.append((y, *chroma.reshape(2, 96, 2, 104, 2).mean((2, 4))))
    by_hand = [10 * math.log10(255**2 / np.mean((p - q) ** 2)) for p, q in zip(*planes)]
    assert metrics.psnr_yuv(astronaut, other) == pytest.approx((6 * by_hand[0] + by_hand[1] + by_hand[2]) / 8, abs=0.05)


def test_ssim_against_pytorch_msssim(astronaut):
    import pytorch_msssim

    other = noisy(astronaut, 9)
    expected = float(pytorch_msssim.ssim(metrics._tensor(astronaut), metrics._tensor(other), data_range=255))
    assert metrics.ssim(astronaut, other) == pytest.approx(expected, abs=1e-4)


def test_ms_ssim_by_hand(astronaut):
    """The formula of Wang et al. 2003 with numpy and scipy."""
    from scipy.ndimage import correlate1d

    other = noisy(astronaut, 20)
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(x):
        return correlate1d(correlate1d(x, window, 0), window, 1)[5:-5, 5:-5]

    x, y = astronaut.astype(float), other.astype(float)
    product = np.ones(3)
    for i, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mx, my = blur(x), blur(y)
        vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
        contrast = (2 * vxy + 58.5225) / (vx + vy + 58.5225)
        value = contrast * (2 * mx * my + 6.5025) / (mx * mx + my * my + 6.5025) if i == 4 else contrast
        product *= value.mean((0, 1)) ** weight
        if i < 4:
            x, y = (v.reshape(v.shape[0] // 2, 2, v.shape[1] // 2, 2, 3).mean((1, 3)) for v in (x, y))
    assert metrics.ms_ssim(astronaut, other) == pytest.approx(product.mean(), abs=1e-4)


def test_small_frames_have_no_ms_ssim(astronaut):
    small = astronaut[:100, :100]
    assert math.isnan(metrics.measure([small], [small], ("ms-ssim",))["ms-ssim-rgb"])


@pytest.mark.skipif(importlib.util.find_spec("stlpips_pytorch") is None, reason="stlpips-pytorch is not installed")
def test_st_lpips(astronaut):
    crop = astronaut[:64, :64]
    assert metrics.st_lpips(crop, crop) == pytest.approx(0, abs=1e-6)
    assert metrics.st_lpips(crop, noisy(crop, 30)) > metrics.st_lpips(crop, noisy(crop, 10)) > 0
    assert "torchvision" not in sys.modules or importlib.util.find_spec("torchvision")
    other = noisy(crop, 30)
    expected = lpips_in_numpy(metrics._st_lpips_network().state_dict(), crop, other, blurred_pool)
    assert metrics.st_lpips(crop, other) == pytest.approx(expected, rel=1e-3)


@pytest.mark.skipif(metrics._missing_lpips() != "", reason="lpips or its weights are not here")
def test_lpips(astronaut):
    crop, other = astronaut[:64, :64], noisy(astronaut[:64, :64], 30)
    expected = lpips_in_numpy(metrics._lpips_network().state_dict(), crop, other, lambda x: max_pool(x)[:, ::2, ::2])
    assert metrics.lpips(crop, other) == pytest.approx(expected, rel=1e-3)
    assert metrics.lpips(crop, crop) == pytest.approx(0, abs=1e-6)


def lpips_in_numpy(weights, a: np.ndarray, b: np.ndarray, pool) -> float:
    """The distance of Zhang et al. 2018 on VGG's features; `pool` stands between its stages."""
    windows = np.lib.stride_tricks.sliding_window_view
    weights = {name: w.numpy() for name, w in weights.items()}
    both = []
    for image in (a, b):
        x = image.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
        x = (x - np.float32((-0.030, -0.088, -0.188))[:, None, None]) / np.float32((0.458, 0.448, 0.450))[:, None, None]
        both.append(x)
    total = 0.0
    for stage in range(5):
        prefix = f"net.slice{stage + 1}."
        layers = sorted(int(n.split(".")[2]) for n in weights if n.startswith(prefix) and n.endswith(".bias"))
        for i, x in enumerate(both):
            x = pool(x) if stage else x
            for layer in layers:
                shifted = windows(np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2))
                x = np.tensordot(weights[f"{prefix}{layer}.weight"], shifted, ((1, 2, 3), (0, 3, 4)))
                x = np.maximum(x + weights[f"{prefix}{layer}.bias"][:, None, None], 0)
            both[i] = x
        p, q = (x / np.sqrt((x * x).sum(0) + 1e-20) for x in both)
        linear = weights[f"lin{stage}.model.1.weight"].reshape(-1)
        total += float(np.tensordot(linear, (p - q) ** 2, 1).mean())
    return total


def max_pool(x: np.ndarray) -> np.ndarray:
    """Over 2x2, at every position."""
    x = np.maximum(x[:, 1:], x[:, :-1])
    return np.maximum(x[:, :, 1:], x[:, :, :-1])


def blurred_pool(x: np.ndarray) -> np.ndarray:
    """Zhang 2019: a maximum at every position, a binomial filter, every other sample; two more on each side."""
    x = np.pad(max_pool(x), ((0, 0), (2, 2), (2, 2)), "reflect")
    x = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
    x = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
    return x[:, ::2, ::2] / 16


def test_vmaf_through_ffmpeg(astronaut, tmp_path, monkeypatch):
    """With a stand-in for ffmpeg that checks what it is given."""
    fake = tmp_path / "ffmpeg"
    fake.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "if '-filters' in sys.argv: print('libvmaf')\n"
        "else:\n"
        "    files = [sys.argv[i + 1] for i, a in enumerate(sys.argv) if a == '-i']\n"
        "    assert [os.path.getsize(f) for f in files] == [2 * 208 * 192 * 3] * 2\n"
        "    assert 'decoded' in files[0] and '208x192' in sys.argv and 'libvmaf' in ' '.join(sys.argv)\n"
        "    json.dump({'pooled_metrics': {'vmaf': {'mean': 93.5}}}, open('vmaf.json', 'w'))\n"
    )
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert metrics.select(["vmaf"]) == (("vmaf",), [])
    assert metrics.measure([astronaut] * 2, [astronaut] * 2, ("vmaf",)) == {"vmaf": 93.5}
    monkeypatch.setenv("PATH", "")
    assert metrics.select(["vmaf"]) == ((), ["metric vmaf skipped: there is no ffmpeg on the PATH"])


def test_measure_refuses_what_does_not_match(astronaut):
    with pytest.raises(BsqError, match="208x192 and 208x100"):
        metrics.measure([astronaut], [astronaut[:100]], ("psnr",))
    with pytest.raises(BsqError, match="one ends after 1"):
        metrics.measure([astronaut], [astronaut] * 2, ("psnr",))


# -------------------------------------------------------------------------------------------------------- data sets


@pytest.mark.parametrize(
    "name,size,fps,pixels",
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
    assert datasets.raw_format(Path(name)) == expected


def test_raw_video(clip):
    item = datasets.probe(clip)
    assert (item.width, item.height, item.fps, item.kind) == (64, 48, 30, "video")
    frames = list(datasets.frames_of(clip))
    assert len(frames) == 6 and len(list(datasets.frames_of(clip, 2))) == 2
    source = skimage.data.astronaut()[:48, 180:244]
    assert metrics.psnr(source, frames[0]) > 35
    with pytest.raises(BsqError, match="size in the name"):
        next(datasets.frames_of(clip.rename(clip.parent / "nameless.yuv")))
    (clip.parent / "nameless.yuv").rename(clip)


@pytest.mark.parametrize("name,codec", [("a.y4m", "wrapped_avframe"), ("a.mkv", "ffv1"), ("a.mp4", "libx264")])
@pytest.mark.parametrize("matrix", [colour.BT709, colour.BT601])
def test_video_files(name, codec, matrix, astronaut, tmp_path):
    import av

    with av.open(str(tmp_path / name), "w", format="yuv4mpegpipe" if name == "a.y4m" else None) as container:
        video = container.add_stream(codec, rate=Fraction(30000, 1001), options={"crf": "0"} if codec[0] == "l" else {})
        context = video.codec_context
        context.width, context.height, context.pix_fmt = 64, 48, "yuv444p"
        context.colorspace, context.color_range = matrix, 1
        for i in range(3):
            # y4m cannot tell its matrix
            used = colour.BT709 if name == "a.y4m" else matrix
            frame = colour.to_yuv(astronaut[i : i + 48, :64], "yuv444p", used)
            frame.pts = i
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    item = datasets.probe(tmp_path / name)
    assert (item.width, item.height, item.kind) == (64, 48, "video") and item.fps == pytest.approx(29.97, abs=1e-3)
    frames = list(datasets.frames_of(Path(item.path)))
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
    assert len(list(datasets.frames_of(Path(listing.items[0].path)))) == 3


def test_registry_counts():
    for known in datasets.REGISTRY.values():
        assert len(known.items) in (0, known.count)
        assert known.source.startswith("https://") and known.note
        assert len(known.sha256) == (known.count if known.url else 0)
        for item in known.items:
            assert item.width * item.height and (item.fps and item.frames > 1) == (known.kind == "video")
    assert {i.fps for i in datasets.REGISTRY["mcl-jcv"].items} == {24, 25, 30}


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
    known = datasets.DataSet(
        *("two", "image", "https://example.org", "2 images", 2),
        tuple(datasets.Sequence(name, 16, 8) for name in "12"),
        "https://example.org/{name}.png",
        tuple(hashlib.sha256(d).hexdigest()[:16] for d in data.values()),
    )
    monkeypatch.setitem(datasets.REGISTRY, "two", known)
    listing = datasets.load("two", str(tmp_path), download=True)
    assert [i.name for i in listing.items] == ["1", "2"] and not listing.problems and fetched == list(data)
    (tmp_path / "two" / "2.png").unlink()
    datasets.load("two", str(tmp_path), download=True)
    assert fetched[2:] == ["https://example.org/2.png"]
    (tmp_path / "two" / "1.png").write_bytes(data["https://example.org/2.png"])
    with pytest.raises(BsqError, match="delete it to fetch it"):
        datasets.load("two", str(tmp_path), download=True)


# ---------------------------------------------------------------------------------------------------------- anchors


@pytest.mark.parametrize("name", ["jpeg", "jpeg2000", "webp", "avif"])
def test_image_anchors(name, astronaut):
    (codec,), skipped = anchors.select([name], anchors.Settings())
    assert not skipped and codec.options()
    points = codec.points[1], codec.points[-2]
    sizes, quality = [], []
    for point in points:
        chunks = codec.encode([astronaut[:100, :101]], 0, point)
        (decoded,) = codec.decode(chunks, 100, 101)
        sizes.append(len(chunks[0]))
        quality.append(metrics.psnr(astronaut[:100, :101], decoded))
    assert (sizes[0] < sizes[1]) == codec.rising
    assert (quality[0] < quality[1]) == codec.rising and min(quality) > 20


@pytest.mark.parametrize("name", ["h264", "hevc", "av1"])
@pytest.mark.parametrize("mode", ["low-delay", "random-access"])
def test_video_anchors(name, mode, astronaut):
    import av
    from av.video.frame import PictureType

    codec = anchors.CODECS[name](anchors.Settings(gop=3, mode=mode))
    if codec.missing():
        pytest.skip(codec.missing())
    frames = [astronaut[i : i + 71, i : i + 97] for i in range(6)]  # odd sizes
    chunks = codec.encode(iter(frames), 25, 24)
    decoded = list(codec.decode(chunks, 71, 97))
    assert len(decoded) == 6 and decoded[0].shape == (71, 97, 3)
    assert metrics.psnr(frames[0], decoded[0]) > 26 and metrics.psnr(frames[5], decoded[5]) > 26
    with av.open(io.BytesIO(chunks[0]), format=codec.format) as container:
        pictures = list(container.decode(video=0))
    kinds = [PictureType(p.pict_type).name for p in pictures]
    if mode == "low-delay":
        assert kinds == ["I", "P", "P"] * 2
    for word in (b"x264", b"x265"):
        assert word not in chunks[0]


def test_codec_that_is_missing_is_skipped(monkeypatch):
    monkeypatch.setattr(anchors.H264, "encoder", "libnothing")
    chosen, skipped = anchors.select(["h264", "jpeg"], anchors.Settings())
    assert [c.name for c in chosen] == ["jpeg"]
    assert skipped == ["codec h264 skipped: this FFmpeg build has no libnothing"]
    _, skipped = anchors.select(["av1"], anchors.Settings(pixel_format="yuv444p"))
    assert skipped == ["codec av1 skipped: libsvtav1 cannot encode yuv444p"] or "no libsvtav1" in skipped[0]


# ------------------------------------------------------------------------------------------------- runner, commands


def simple_tasks(folder: Path, points=(10, 90)) -> list[runner.Task]:
    listing = datasets.load(str(folder))
    codecs, _ = anchors.select(["jpeg", "identity"], anchors.Settings())
    return runner.tasks_for(listing.items, codecs, {"jpeg": points}, ("psnr",), 1, 1)


def test_runner_resumes_after_an_interrupt(pictures, tmp_path, monkeypatch):
    tasks = simple_tasks(pictures)
    done = []

    def interrupted(task):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(task.key)
        return runner.__dict__["_original"](task)

    monkeypatch.setattr(runner, "_original", runner.run_task, raising=False)
    monkeypatch.setattr(runner, "run_task", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.run(tasks, tmp_path)
    with (tmp_path / runner.CACHE).open("a") as file:
        file.write('{"key": "torn')
    assert len(runner.read_cache(tmp_path / runner.CACHE)) == 3
    monkeypatch.setattr(runner, "run_task", lambda task: done.append(task.key) or runner._original(task))
    records = runner.run(tasks, tmp_path)
    assert sorted(done) == sorted(t.key for t in tasks) and len(set(done)) == len(tasks) == 6
    assert [r["key"] for r in records] == [t.key for t in tasks]
    assert len(runner.read_cache(tmp_path / runner.CACHE)) == 6
    more = [runner.Task(**(t.__dict__ | {"metrics": ("ssim",)})) for t in tasks]
    records = runner.run(more, tmp_path)
    assert len(done) == 12 and all({"psnr-rgb", "ssim-rgb"} <= r["metrics"].keys() for r in records)


def test_runner_in_processes_and_on_dask_gives_the_same(pictures, tmp_path):
    tasks = simple_tasks(pictures)[:4]
    expected = [(r["bytes"], r["metrics"]) for r in runner.run(tasks, tmp_path / "1")]
    assert [(r["bytes"], r["metrics"]) for r in runner.run(tasks, tmp_path / "2", jobs=2)] == expected
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        records = runner.run(tasks, tmp_path / "3", dask=cluster.scheduler_address)
    assert [(r["bytes"], r["metrics"]) for r in records] == expected


def test_a_worker_that_differs_refuses(pictures):
    (task, *_) = simple_tasks(pictures)
    error = runner.run_task(replace(task, options="Pillow 0.1"))["error"]
    assert error.startswith("the worker would run Pillow ") and error.endswith(", not Pillow 0.1")


class Fatal(anchors.Identity):
    """Ends its process."""

    def encode(self, frames, fps, point):
        os._exit(1)


def test_a_worker_that_dies(pictures, tmp_path):
    items = datasets.load(str(pictures)).items
    with pytest.raises(BsqError, match="a worker process died"):
        runner.run(runner.tasks_for(items, [Fatal()], {}, ("psnr",), 1, 1), tmp_path, jobs=2)


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("jobs", [1, 2])
def test_interrupted_command(pictures, tmp_path, jobs):
    """Ctrl-C ends all processes in one line; what was finished is not run again."""
    base = ["--dataset", str(pictures), "--codecs", "webp", "--metrics", "psnr", "--no-crops", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "bsqcodec", "bench", *base, "--jobs", str(jobs)]
    command += ["--points", "webp=" + ",".join(f"{i / 9:.4f}" for i in range(900))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    cache = tmp_path / runner.CACHE
    while process.poll() is None and not (cache.exists() and cache.read_bytes().count(b"\n") > 2):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    # which waits for the end of every process that has the pipe, so no worker is left behind
    assert process.communicate(timeout=120)[1].splitlines()[-1] == "bsqcodec: interrupted"
    assert process.returncode == 130
    before = cache.read_bytes()
    done = [r["point"] for r in runner.read_cache(cache).values() if r["item"] == "one"]
    assert done and before.count(b"\n") < 1800
    points = "webp=" + ",".join(f"{p:.4f}" for p in done)
    assert run("bench", *base, "--items", "one", "--points", points)[0] == 0
    assert cache.read_bytes() == before


def test_identity_codec(pictures, tmp_path):
    task = simple_tasks(pictures)[2]
    (record,) = runner.run([task], tmp_path)
    assert record["codec"] == "identity" and record["bpp"] == 24 and record["metrics"]["psnr-rgb"] == math.inf
    base = ["--dataset", pictures, "--codecs", "identity", "--metrics", "psnr,ms-ssim", "--no-crops"]
    assert run("bench", *base, "--out", tmp_path)[0] == 0
    results = json.loads((tmp_path / f"{pictures.stem}-identity.json").read_text())["results"]
    assert results["psnr-rgb"] == [math.inf] and results["ms-ssim-rgb"] == [pytest.approx(1)]


def test_averages(pictures, tmp_path):
    tasks = [t for t in simple_tasks(pictures) if t.codec.name == "jpeg"]
    records = runner.run(tasks, tmp_path)
    result = runner.results(tasks[0].codec, [t.item for t in tasks[::2]], records, ("psnr",))
    assert result["points"] == [10, 90] and result["results"]["bpp"] == sorted(result["results"]["bpp"])
    by_hand = np.mean([r["metrics"]["psnr-rgb"] for r in records if r["point"] == 90])
    assert result["results"]["psnr-rgb"][1] == pytest.approx(by_hand)
    assert set(result["items"]) == {"one", "two"}


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--codecs", "mpeg2"], "no codec called mpeg2; known codecs: bsq, bsq-low-delay, bsq-search"),
        (["--points", "mpeg2=1,2"], "no codec called mpeg2"),
        (["--metrics", "beauty"], "no metric called beauty; known metrics: psnr"),
        (["--items", "nobody"], "no item of"),
        (["--published", "nowhere"], "no published results in nowhere"),
    ],
)
def test_unknown_names(pictures, arguments, message):
    base = ["--dataset", pictures, "--codecs", "jpeg"]
    status, output = run("bench", *base, *arguments)
    assert status == 1 and message in output and len(output.splitlines()) == 1


def test_unknown_data_set():
    status, output = run("bench", "--dataset", "kodk")
    assert status == 1 and "known data sets: kodak, clic2020" in output


def test_broken_image_is_reported_and_the_rest_goes_on(pictures, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(pictures, folder)
    (folder / "broken.png").write_bytes((pictures / "one.png").read_bytes()[:2000])
    base = ["--dataset", folder, "--codecs", "jpeg", "--points", "jpeg=50", "--metrics", "psnr", "--no-crops"]
    status, output = run("bench", *base, "--out", tmp_path / "out")
    assert status == 1 and "broken.png is broken" in output
    assert set(json.loads((tmp_path / "out" / "set-jpeg.json").read_text())["items"]) == {"one", "two"}
    assert "broken.png" in (tmp_path / "out" / "set.html").read_text()


def test_failing_triple_is_reported_and_the_rest_goes_on(pictures, tmp_path, monkeypatch):
    encode = anchors.PillowCodec.encode

    def fail(self, frames, fps, point):
        frames = list(frames)
        if frames[0].shape[0] == 192:
            raise MemoryError("too large")
        return encode(self, frames, fps, point)

    monkeypatch.setattr(anchors.PillowCodec, "encode", fail)
    base = ["--dataset", pictures, "--codecs", "jpeg", "--points", "jpeg=50", "--metrics", "psnr", "--no-crops"]
    status, output = run("bench", *base, "--out", tmp_path)
    assert status == 1 and "one, jpeg: MemoryError: too large" in output
    assert len(runner.read_cache(tmp_path / runner.CACHE)) == 1


def test_bench_writes_results_that_can_be_read_back(pictures, tmp_path):
    base = ["bench", "--dataset", pictures, "--codecs", "webp,jpeg,h264", "--metrics", "psnr,ms-ssim", "--no-crops"]
    points = ["--points", "webp=10,40,70,90", "--points", "jpeg=10,30,60,90", "--points", "h264=20,30"]
    status, output = run(*base, *points, "--out", tmp_path / "a")
    assert status == 0 and "BD-rate" in output
    saved = json.loads((tmp_path / "a" / "pictures0-webp.json".replace("pictures0", pictures.stem)).read_text())
    assert {"name", "description", "results", "meta", "points", "items"} <= saved.keys()
    assert {"bpp", "psnr-rgb", "ms-ssim-rgb", "encoding_time", "decoding_time"} == saved["results"].keys()
    assert all(len(v) == 4 for v in saved["results"].values())
    text = "".join(p.read_text() for p in (tmp_path / "a").glob("*.json"))
    assert str(tmp_path) not in text and str(pictures.parent) not in text
    assert f"--dataset {pictures.name}" in saved["meta"]["command"]
    for suffix in ("png", "svg"):
        assert (tmp_path / "a" / f"{pictures.stem}-psnr-rgb.{suffix}").stat().st_size > 1000
    published = tmp_path / "a" / f"{pictures.stem}-webp.json"
    assert curve_as_compressai_reads_it(published, "ms-ssim-rgb")["xs"] == saved["results"]["bpp"]
    tables = json.loads((tmp_path / "a" / f"{pictures.stem}-bd.json").read_text())["webp, each item"]["psnr-rgb"]
    for kind in ("bd-rate-percent", "bd-quality"):
        assert set(tables[kind]) == {"one", "two"} and {"value", "low", "high"} <= tables[kind]["one"]["jpeg"].keys()
        assert "2 points" in tables[kind]["one"]["h264"]["refused"]
    status, output = run(*base, *points, "--published", published, "--out", tmp_path / "a")
    assert status == 0
    page = (tmp_path / "a" / f"{pictures.stem}.html").read_text()
    assert f"{pictures.stem}-webp (published)" in page and "2 points; at least 4 are needed" in page


def curve_as_compressai_reads_it(path: Path, metric: str) -> dict:
    """What compressai.utils.plot does with a file."""
    data = json.loads(path.read_text())
    if "results" not in data or "bpp" not in data["results"] or metric not in data["results"]:
        raise ValueError(path)
    return {"name": data.get("name", path.stem), "xs": data["results"]["bpp"], "ys": data["results"][metric]}


def test_published_formats(tmp_path):
    results = {"bitrate": [2488.32, 4976.64], "psnr-rgb": [30, 31]}
    (tmp_path / "x264.json").write_text(json.dumps({"name": "x264", "results": results}))
    (tmp_path / "table.json").write_text(json.dumps({"rows": []}))
    curves, notes = report.read_published(tmp_path, "uvg")
    assert curves["x264 (published)"]["results"]["bpp"] == pytest.approx([0.01, 0.02])
    assert notes == ["published table.json skipped: not in CompressAI's format"]
    curves, notes = report.read_published(tmp_path, "kodak")
    assert not curves and len(notes) == 2
    for i, lists in enumerate(({"psnr-rgb": [30]}, {"psnr-rgb": [30, "x"]}, {"psnr-rgb": 30}, {})):
        text = json.dumps({"results": {"bpp": [1, 2], "ms-ssim-rgb": [0.9, 0.95]} | lists})
        (tmp_path / f"odd{i}.json").write_text(text)
    curves, notes = report.read_published(tmp_path, "kodak")
    assert list(curves) == ["odd3 (published)"] and "odd0.json skipped: its lists" in notes[0]
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BsqError, match="is not JSON"):
        report.read_published(tmp_path, "kodak")
    assert report.quality({"ms-ssim-db-rgb": [12.0]}, "ms-ssim-rgb") == [12.0]
    assert report.quality({"st-lpips": [0.25]}, "st-lpips") == [-0.25]
    assert report.quality({"psnr-rgb": [30]}, "vmaf") is None


def test_compare(pictures, clip, tmp_path):
    Image.open(pictures / "one.png").save(tmp_path / "one.jpg", quality=50)
    status, output = run("compare", pictures / "one.png", tmp_path / "one.jpg")
    assert status == 0 and "psnr-rgb" in output and "ms-ssim-rgb" in output and "dB" in output
    assert "inf" in run("compare", clip, clip, "--metrics", "psnr", "--frames", 2)[1]
    assert run("compare", pictures / "one.png", pictures / "two.png") == (
        1,
        "sizes differ: 208x192 and 192x208",
    )
    assert "no such file" in run("compare", clip, "nothing.png")[1]
    (tmp_path / "bad.mkv").write_bytes(b"nothing in here")
    assert "broken or not a video" in run("compare", clip, tmp_path / "bad.mkv")[1]


# ------------------------------------------------------------------------------------------------------------- ours


@pytest.fixture
def ours(tmp_path_factory, monkeypatch) -> Iterator[Path]:
    """The file of a model that is found by its path, and by its id."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    model.save_model(random_network(), path)
    loads = []
    monkeypatch.setattr(anchors, "load_model", lambda name, device: loads.append(name) or model.load_model(name))
    monkeypatch.setattr(api, "find_model", lambda identity, device: model.load_model(str(path)))
    anchors._model.cache_clear()
    anchors._digest.cache_clear()
    yield path
    assert loads == [str(path)]  # once a process
    anchors._model.cache_clear()
    anchors._digest.cache_clear()


def test_ours_is_a_file(ours, pictures, clip, tmp_path):
    codec = anchors.Bsq(anchors.Settings(gop=2, model=str(ours)))
    listing = datasets.load(str(clip))
    (record,) = runner.run(runner.tasks_for(listing.items, [codec], {"bsq": (50,)}, ("psnr",), 3, 1), tmp_path)
    assert record["frames"] == 3 and record["load_seconds"] > 0 and math.isfinite(record["metrics"]["psnr-rgb"])
    assert record["device"] == "cpu" and record["threads"] == 1
    source = list(datasets.frames_of(clip, 3))
    (data,) = codec.encode(iter(source), 30, 50)
    assert len(data) == record["bytes"]
    decoder = api.Decoder(io.BytesIO(data))
    assert decoder.info.frame_rate == 30 and [e.first for e in decoder.index()] == [0, 2]
    decoded = list(codec.decode([data], 48, 64))
    assert all(np.array_equal(a.rgb, b) for a, b in zip(decoder.frames(), decoded, strict=True))
    (tmp_path / "pan.bsq").write_bytes(data)
    status, output = run("compare", clip, tmp_path / "pan.bsq", "--metrics", "psnr", "--frames", 3)
    assert status == 0 and float(output.split()[1]) == pytest.approx(record["metrics"]["psnr-rgb"], abs=1e-4)

    picture = np.asarray(Image.open(pictures / "one.png"))[:40, :33]
    (data,) = codec.encode(iter([picture]), 0, 50)
    assert data == api.encode_image(picture, quality=50, model=str(ours))
    with pytest.raises(BsqError, match="not a whole number"):
        codec.encode(iter([picture]), 0, 50.5)


def test_key_of_ours_tells_weights_and_versions_apart(ours, pictures, monkeypatch):
    def key() -> str:
        anchors._digest.cache_clear()
        codec = anchors.Bsq(anchors.Settings(model=str(ours)))
        (task,) = runner.tasks_for(datasets.load(str(pictures / "one.png")).items, [codec], {"bsq": (50,)}, (), 1, 1)
        return task.key

    network, identity = model.read_network(ours)
    keys = [key(), key()]
    assert keys[0] == keys[1] and identity.hex() in keys[0] and "model tiny" in keys[0]
    network.e_in.w.data.view(-1)[0] += 1
    assert model.save_model(network, ours) == identity
    keys.append(key())
    assert model.save_model(network, ours, Objective(mse=0.08)) == identity
    keys.append(key())
    monkeypatch.setattr(stream, "VERSION", stream.VERSION + 1)
    keys.append(key())
    assert len(set(keys)) == 4
