"""Quality of a decoded frame against its source. Both are uint8 (H, W, 3) RGB.

Every metric is the mean over frames of its value for each frame, except VMAF, which its library pools.
"""

import functools
import importlib.util
import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..errors import BsqError

MS_SSIM_MINIMUM = 161  # shorter side in pixels: five scales of an 11x11 window
SSIM_MINIMUM = 11  # shorter side in pixels: one window


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR over all RGB samples, dB; infinite for equal frames."""
    from skimage.metrics import peak_signal_noise_ratio

    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(a, b, data_range=255))


def psnr_yuv(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR in YUV, (6 PSNR(Y) + PSNR(U) + PSNR(V)) / 8 in dB; planes as `yuv_planes` makes them."""
    from skimage.metrics import peak_signal_noise_ratio

    with np.errstate(divide="ignore"):
        pairs = zip(yuv_planes(a), yuv_planes(b), strict=True)
        y, u, v = (float(peak_signal_noise_ratio(p, q, data_range=255)) for p, q in pairs)
    return (6 * y + u + v) / 8


def yuv_planes(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Full-range BT.709 Y (H, W), U and V (H/2, W/2), float64, not rounded; chroma is the mean of 2x2 pixels."""
    x = np.pad(rgb, ((0, rgb.shape[0] % 2), (0, rgb.shape[1] % 2), (0, 0)), mode="edge").astype(np.float64)
    luma = x @ (0.2126, 0.7152, 0.0722)
    quarter = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, 3).mean((1, 3))
    mean = quarter @ (0.2126, 0.7152, 0.0722)
    u, v = (quarter[..., 2] - mean) / 1.8556, (quarter[..., 0] - mean) / 1.5748
    return luma[: rgb.shape[0], : rgb.shape[1]], u, v


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """MS-SSIM, the mean over R, G and B, 0..1. NaN if a side is shorter than MS_SSIM_MINIMUM."""
    import pytorch_msssim

    if min(a.shape[:2]) < MS_SSIM_MINIMUM:
        return math.nan
    with torch.inference_mode():
        return float(pytorch_msssim.ms_ssim(_tensor(a), _tensor(b), data_range=255))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM (Gaussian window, sigma 1.5), the mean over R, G and B. NaN if a side is shorter than SSIM_MINIMUM."""
    from skimage.metrics import structural_similarity

    if min(a.shape[:2]) < SSIM_MINIMUM:
        return math.nan
    return float(
        structural_similarity(
            a, b, data_range=255, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def st_lpips(a: np.ndarray, b: np.ndarray) -> float:
    """Shift-tolerant LPIPS (VGG); 0 is equal."""
    return _distance(_st_lpips_network(), a, b)


def lpips(a: np.ndarray, b: np.ndarray) -> float:
    """LPIPS (VGG, version 0.1); 0 is equal."""
    return _distance(_lpips_network(), a, b)


def _tensor(x: np.ndarray) -> torch.Tensor:
    """float32 (1, 3, H, W), 0..255."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))[None].float()


def _distance(network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], a: np.ndarray, b: np.ndarray) -> float:
    with torch.inference_mode():
        return float(network(_tensor(a) / 127.5 - 1, _tensor(b) / 127.5 - 1))


@functools.lru_cache(1)
def _st_lpips_network() -> torch.nn.Module:
    from ..network.losses import st_lpips_network

    return _remember(st_lpips_network("vgg"))


@functools.lru_cache(1)
def _lpips_network() -> torch.nn.Module:
    import lpips as package

    return _remember(package.LPIPS(net="vgg", verbose=False))


def _remember(network: Any) -> torch.nn.Module:
    """Let an LPIPS network keep the features of two pictures: all points of a curve are compared with one source."""
    # more than twice as fast on a CPU than with planes of channels
    network = network.requires_grad_(False).to(memory_format=torch.channels_last)
    forward = network.net.forward

    @functools.lru_cache(2)
    def features(data: bytes, shape: tuple[int, ...]) -> Any:
        x = torch.frombuffer(bytearray(data), dtype=torch.float32).view(shape)
        return forward(x.contiguous(memory_format=torch.channels_last))

    network.net.forward = lambda x: features(x.contiguous().numpy().tobytes(), tuple(x.shape))
    return network


def _missing_modules(*names: str) -> str:
    """The command that installs those of the modules that are missing, or ""."""
    missing = [n for n in names if importlib.util.find_spec(n) is None]
    packages = [{"skimage": "scikit-image"}.get(n, n).replace("_", "-") for n in missing]
    return f"pip install {' '.join(packages)}" if missing else ""


def _missing_lpips() -> str:
    missing = _missing_modules("lpips", "torchvision")
    if missing:
        return missing
    if not list(Path(torch.hub.get_dir(), "checkpoints").glob("vgg16-*.pth")):
        return "its VGG weights are not in torch's cache"
    return ""


def _missing_vmaf() -> str:
    if not shutil.which("ffmpeg"):
        return "there is no ffmpeg on the PATH"
    filters = subprocess.run(["ffmpeg", "-hide_banner", "-filters"], capture_output=True, text=True).stdout
    return "" if "libvmaf" in filters else "the ffmpeg on the PATH has no libvmaf"


class Accumulator(Protocol):
    """A metric of two videos, computed frame by frame.

    Attributes:
        last: the metric of the last frame alone; NaN if there is none.
    """

    @property
    def last(self) -> float: ...

    def add(self, source: np.ndarray, decoded: np.ndarray) -> None:
        """Take the next frame of both, uint8 (H, W, 3)."""

    def value(self) -> float:
        """The metric over all frames."""


class _Mean:
    """Mean of a metric of single frames."""

    def __init__(self, function: Callable[[np.ndarray, np.ndarray], float]):
        self.function = function
        self.values: list[float] = []

    def add(self, source: np.ndarray, decoded: np.ndarray) -> None:
        self.values.append(self.function(source, decoded))

    @property
    def last(self) -> float:
        return self.values[-1] if self.values else math.nan

    def value(self) -> float:
        return float(np.mean(self.values))


class _Vmaf:
    """VMAF by ffmpeg, which compares both videos as 4:2:0 BT.709; they wait as raw RGB in a temporary folder."""

    last = math.nan  # its library looks at all frames at once

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="bsqcodec-vmaf-")
        self.paths = [Path(self.folder.name, name) for name in ("decoded.rgb", "source.rgb")]
        self.files = [path.open("wb") for path in self.paths]
        self.size = ""

    def add(self, source: np.ndarray, decoded: np.ndarray) -> None:
        self.size = f"{source.shape[1]}x{source.shape[0]}"
        for file, frame in zip(self.files, (decoded, source), strict=True):
            file.write(frame.tobytes())

    def value(self) -> float:
        for file in self.files:
            file.close()
        inputs = [["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", self.size, "-i", str(p)] for p in self.paths]
        convert = "scale=out_color_matrix=bt709:flags=bicubic+accurate_rnd+full_chroma_inp,format=yuv420p"
        graph = f"[0:v]{convert}[d];[1:v]{convert}[s];[d][s]libvmaf=log_fmt=json:log_path=vmaf.json"
        command = ["ffmpeg", "-v", "error", *inputs[0], *inputs[1], "-lavfi", graph, "-f", "null", "-"]
        done = subprocess.run(command, cwd=self.folder.name, capture_output=True, text=True)
        if done.returncode:
            raise BsqError(f"ffmpeg's libvmaf failed: {(done.stderr.splitlines() or ['no message'])[0]}")
        with self.folder:
            return float(json.loads(Path(self.folder.name, "vmaf.json").read_text())["pooled_metrics"]["vmaf"]["mean"])


@dataclass(frozen=True)
class Metric:
    """A metric: how it is computed and shown.

    Attributes:
        key: its name in result files, CompressAI's where CompressAI has one.
        label: for tables and axes.
        make: gives a new accumulator.
        missing: gives the reason why it cannot be computed here, or "".
        decibels: whether -10 log10(1 - x) is the scale on which it is plotted and compared.
        lower_is_better: whether it is a distance.
    """

    key: str
    label: str
    make: Callable[[], Accumulator]
    missing: Callable[[], str]
    decibels: bool = False
    lower_is_better: bool = False

    def quality(self, value: float) -> float:
        """`value` on the scale for plots and BD-rate, where higher is better."""
        if self.decibels:
            return math.inf if value >= 1 else -10 * math.log10(1 - value)
        return -value if self.lower_is_better else value


METRICS = {
    "psnr": Metric("psnr-rgb", "PSNR RGB, dB", lambda: _Mean(psnr), lambda: _missing_modules("skimage")),
    "psnr-yuv": Metric("psnr-yuv", "PSNR YUV 6:1:1, dB", lambda: _Mean(psnr_yuv), lambda: _missing_modules("skimage")),
    "ms-ssim": Metric(
        "ms-ssim-rgb", "MS-SSIM, dB", lambda: _Mean(ms_ssim), lambda: _missing_modules("pytorch_msssim"), decibels=True
    ),
    "ssim": Metric("ssim-rgb", "SSIM, dB", lambda: _Mean(ssim), lambda: _missing_modules("skimage"), decibels=True),
    "st-lpips": Metric(
        "st-lpips",
        "ST-LPIPS (VGG), negated",
        lambda: _Mean(st_lpips),
        lambda: _missing_modules("stlpips_pytorch"),
        lower_is_better=True,
    ),
    "lpips": Metric("lpips", "LPIPS (VGG), negated", lambda: _Mean(lpips), _missing_lpips, lower_is_better=True),
    "vmaf": Metric("vmaf", "VMAF", _Vmaf, _missing_vmaf),
}
BY_KEY = {m.key: m for m in METRICS.values()}


def select(names: Iterable[str]) -> tuple[tuple[str, ...], list[str]]:
    """Names of metrics that can be computed here, and a line for each that cannot.

    Raises BsqError for an unknown name.
    """
    chosen, skipped = [], []
    for name in dict.fromkeys(names):
        if name not in METRICS:
            raise BsqError(f"no metric called {name}; known metrics: {', '.join(METRICS)}")
        missing = METRICS[name].missing()
        if missing:
            skipped.append(f"metric {name} skipped: {missing}")
        else:
            chosen.append(name)
    return tuple(chosen), skipped


Look = Callable[[np.ndarray, np.ndarray, dict[str, float]], None]


def measure(
    source: Iterable[np.ndarray], decoded: Iterable[np.ndarray], names: Iterable[str], look: Look | None = None
) -> dict[str, float]:
    """Compare two sequences of frames.

    Args:
        source, decoded: uint8 (H, W, 3) RGB each.
        names: keys of METRICS.
        look: called with each frame of both, and its own metrics; NaN for those that a frame alone does not have.

    Returns:
        Key in result files to value; NaN where frames are too small for a metric.

    Raises:
        BsqError: sizes or numbers of frames differ.
    """
    running = {METRICS[name].key: METRICS[name].make() for name in names}
    count = 0
    try:
        for a, b in zip(source, decoded, strict=True):
            if a.shape != b.shape:
                raise BsqError(f"sizes differ: {a.shape[1]}x{a.shape[0]} and {b.shape[1]}x{b.shape[0]}")
            for metric in running.values():
                metric.add(a, b)
            if look:
                look(a, b, {key: metric.last for key, metric in running.items()})
            count += 1
    except ValueError as error:
        if "zip()" not in str(error):
            raise
        raise BsqError(f"numbers of frames differ: one ends after {count}, the other goes on") from None
    if not count:
        raise BsqError("no frame to compare")
    return {key: metric.value() for key, metric in running.items()}
