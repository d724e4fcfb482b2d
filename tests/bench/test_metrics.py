"""The metrics: against their formulas, other implementations, and stand-ins for programs that are not here."""

import importlib.util
import math
import stat
import sys

import numpy as np
import pytest

pytest.importorskip("pytorch_msssim")

from bench_helpers import noisy

from bsqcodec.bench import metrics
from bsqcodec.errors import BsqError
from bsqcodec.media import colour


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
    by_hand = [10 * math.log10(255**2 / np.mean((p - q) ** 2)) for p, q in zip(*planes, strict=True)]
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
