"""Measures our codec on short clips, against what the same command measured before: what a part of the codec is worth.

    python benchmarks/video.py BasketballPass_416x240_50fps.mkv --out after.json --against before.json

The clips: those that are given, the one among the tests, and three photographs that move (a pan with a slow zoom; an
object that crosses a still background; a slow drift under noise). The table shows BD-rates in percent, MS-SSIM and
PSNR, of every clip and their mean; without `--low-delay` a group has B frames. With `--strip` a picture shows frames of
the tests' clip around an I frame, the source above, ours below: what flickers, or moves in quality from frame to frame,
is seen there.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data
from tqdm import tqdm

from bsqcodec import load_model
from bsqcodec.bench.bdrate import NoComparison, bd_rate
from bsqcodec.bench.frames import frames_of
from bsqcodec.bench.metrics import ms_ssim, psnr
from bsqcodec.gop.encoder import GopEncoder
from bsqcodec.settings import DEFAULT_MODEL, TUNES, EncodeSettings

TESTS_CLIP = Path(__file__).parent.parent / "tests/data/plants.mp4"
MOVING = {"pan": "astronaut", "crossing": "chelsea", "drift": "coffee"}
SIDE = 256
METRICS = {"MS-SSIM": ms_ssim, "PSNR": psnr}
STRIP_GOP, STRIP = 12, slice(8, 17)  # frames of a group, and those that are shown
CROP = slice(64, 192)


def window(photo: torch.Tensor, zoom: float, y: float, x: float) -> torch.Tensor:
    """A part of a photograph around (y, x), -1..1, resampled to (1, 3, SIDE, SIDE)."""
    grid = F.affine_grid(torch.tensor([[[zoom, 0, x], [0, zoom, y]]]), [1, 3, SIDE, SIDE], align_corners=False)
    return F.grid_sample(photo, grid, mode="bicubic", align_corners=False)


def moving_photograph(name: str, frames: int) -> list[np.ndarray]:
    """Frames of 256x256 pixels that show a photograph of scikit-image in motion."""
    photo = torch.from_numpy(getattr(data, MOVING[name])()).permute(2, 0, 1)[None].float()
    out = []
    for t in range(frames):
        if name == "pan":
            zoom, y, x = 0.55 - 0.002 * t, -0.35 + 0.0061 * t, 0.25 - 0.0093 * t
            frame = window(photo, zoom, y, x)
        elif name == "drift":
            noise = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(t))
            frame = window(photo[:, :, :, 100:500], 0.5, 0.001 * t, 0.002 * t) + 2 * noise
        else:
            frame = photo[:, :, 20 : 20 + SIDE, 60 : 60 + SIDE].clone()
            frame[:, :, 90:170, 10 + 5 * t : 74 + 5 * t] = photo[:, :, 110:190, 100:164].flip(1)
        out.append(frame.round().clamp(0, 255)[0].permute(1, 2, 0).to(torch.uint8).numpy())
    return out


def clip(name: str, frames: int) -> list[np.ndarray]:
    """Frames of a file, or of a photograph that moves."""
    return moving_photograph(name, frames) if name in MOVING else list(frames_of(Path(name), frames))


def point(settings: EncodeSettings, frames: int, job: tuple[str, int]) -> dict[str, float]:
    """Bits per pixel and means of the metrics of a clip, encoded as one group at a quality."""
    torch.set_num_threads(1)
    name, quality = job
    source = clip(name, frames)
    height, width, _ = source[0].shape
    encoder = GopEncoder(load_model(settings.model), height, width, settings)
    decoded = [out for frame in source for out in encoder.push(frame, quality)] + encoder.flush()
    pixels = height * width * len(source)
    means = {k: np.mean([f(a, b) for a, b in zip(source, decoded, strict=True)]) for k, f in METRICS.items()}
    types = {t: sum(f.bits + f.side_bits for f in encoder.stats if f.frame_type == t) / pixels for t in "IPB"}
    side = sum(f.side_bits for f in encoder.stats if f.frame_type != "I") / pixels
    return {"bpp": 8 * len(encoder.finish()) / pixels, **means, **types, "vectors": side}


def strip(settings: EncodeSettings) -> Image.Image:
    """Crops of consecutive frames of the tests' clip around an I frame, the source above, ours below."""
    source = clip(str(TESTS_CLIP), STRIP.stop + STRIP_GOP)
    height, width, _ = source[0].shape
    model, decoded = load_model(settings.model), []
    for first in range(0, len(source), STRIP_GOP):
        encoder = GopEncoder(model, height, width, settings)
        for frame in source[first : first + STRIP_GOP]:
            decoded += encoder.push(frame, settings.quality)
        decoded += encoder.flush()
    rows = [np.concatenate([frame[CROP, CROP] for frame in frames[STRIP]], 1) for frames in (source, decoded)]
    return Image.fromarray(np.concatenate(rows))


def decibels(point: dict[str, float], metric: str) -> float:
    """A metric of a point in dB."""
    return -10 * np.log10(1 - point[metric]) if metric == "MS-SSIM" else point[metric]


def main() -> None:
    """Measure, write the points to a file, and compare them with those of another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*")
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--qualities", default="15,30,45,60")
    parser.add_argument("--low-delay", action="store_true")
    parser.add_argument("--tune", choices=TUNES, default=TUNES[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out")
    parser.add_argument("--against", help="what --out wrote before")
    parser.add_argument("--strip", help="write a picture of some frames, at the first of the qualities, and end")
    options = parser.parse_args()
    qualities = [int(q) for q in options.qualities.split(",")]
    settings = EncodeSettings(qualities[0], low_delay=options.low_delay, tune=options.tune, model=options.model)
    if options.strip:
        strip(settings).save(options.strip)
        return
    names = [*options.clips, str(TESTS_CLIP), *MOVING]
    jobs = [(name, quality) for name in names for quality in qualities]
    with ProcessPoolExecutor(options.jobs) as pool:
        points = list(tqdm(pool.map(partial(point, settings, options.frames), jobs), total=len(jobs), disable=None))
    curves: dict[str, list[dict[str, float]]] = {Path(name).stem: [] for name in names}
    for (name, _), measured in zip(jobs, points, strict=True):
        curves[Path(name).stem].append(measured)
    if options.out:
        Path(options.out).write_text(json.dumps(curves, indent=1))
    if not options.against:
        return
    before = json.loads(Path(options.against).read_text())
    table: dict[str, list[float]] = {}
    for name, curve in curves.items():
        for metric in METRICS:
            a, b = (([p["bpp"] for p in c], [decibels(p, metric) for p in c]) for c in (before[name], curve))
            try:
                table.setdefault(name, []).append(bd_rate(*a, *b).value)
            except NoComparison as e:
                print(f"{name}, {metric}: {e}")
                table.setdefault(name, []).append(float("nan"))
    table["mean"] = list(np.nanmean(list(table.values()), 0))
    width = max(map(len, table))
    for name, (first, second) in table.items():
        print(f"{name:{width}}  {first:+6.1f}  {second:+6.1f}")


if __name__ == "__main__":
    main()
