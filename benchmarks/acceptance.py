"""Measures what the codec promises, on real files: exact round trips, a rate that rises with quality and is close to
the ideal code length, and how quality moves along a group of pictures. Times and memory: `bsqcodec bench --speed`.

    python benchmarks/acceptance.py --images kodak/ --videos BasketballPass_416x240_50fps.mkv park_joy.y4m
"""

import argparse
import io
import itertools
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from bsqcodec import Encoder, MediaInfo, Model, load_model
from bsqcodec.bench.frames import frames_of
from bsqcodec.bench.metrics import psnr
from bsqcodec.settings import MAX_QUALITY, MIN_QUALITY

GOP = 32
ROUND_TRIP_QUALITIES = (20, 70)
DRIFT_QUALITIES = (20, 40, 60, 80)


def md5(*words: object) -> str:
    """MD5 of all frames, as the command states it in a process of its own."""
    command = [sys.executable, "-m", "bsqcodec", *map(str, words), "--md5"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.strip()


def round_trips(files: list[Path], stream: Path) -> None:
    """Compare what an encoder with one thread predicts from with what a decoder with two decodes."""
    exact, bits = 0, 0
    for file, quality in itertools.product(files, ROUND_TRIP_QUALITIES):
        predicted = md5("encode", file, stream, "-f", "-q", quality, "--threads", 1, "--no-audio")
        exact += predicted == md5("decode", stream, "--threads", 2)
        bits += 8 * stream.stat().st_size
    print(f"round trips: {exact} of {len(ROUND_TRIP_QUALITIES) * len(files)} exact, {bits} coded bits")


def rates(images: list[Path], model: Model) -> None:
    """Encode a set at every quality: its mean rate, and its files against the ideal code length."""
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in images]
    means, sizes, ideals = [], [], []
    for quality in range(MIN_QUALITY, MAX_QUALITY + 1):
        total = 0.0  # bits per pixel
        for picture in pictures:
            height, width, _ = picture.shape
            with Encoder(io.BytesIO(), MediaInfo(width, height), model=model, quality=quality) as encoder:
                encoder.write(picture)
            total += 8 * encoder.size / (height * width)
            sizes.append(8 * encoder.size)
            ideals.append(encoder.bits)
        means.append(total / len(pictures))
    ratio = means[-1] / means[0]
    rising = sum(b > a for a, b in itertools.pairwise(means))
    excess = 100 * (sum(sizes) / sum(ideals) - 1)
    worst = 100 * (max(size / ideal for size, ideal in zip(sizes, ideals, strict=True)) - 1)
    print(f"rate on {len(pictures)} images: {means[0]:.4f} to {means[-1]:.4f} bits per pixel, x{ratio:.1f}")
    print(f"{rising} of {len(means) - 1} steps of quality raise it")
    print(f"files are {excess:.3f} % longer than the ideal code (headers included), at worst {worst:.2f} %")


def drift(video: Path, model: Model) -> None:
    """Encode one group of P frames at several qualities: what they cost, and PSNR at its start and end."""
    frames = list(frames_of(video, GOP))
    height, width, _ = frames[0].shape
    info = MediaInfo(width, height, frame_rate=Fraction(25))
    shown = (0, 1, len(frames) - 1)
    for quality in DRIFT_QUALITIES:
        decoded, bits = [], [0.0]
        with Encoder(io.BytesIO(), info, model=model, quality=quality, gop=GOP, low_delay=True) as encoder:
            for t, frame in enumerate(frames):
                decoded += encoder.write(frame, t)
                bits.append(encoder.bits)
        i_frame, *p_frames = np.diff(bits)
        found = ", ".join(f"{psnr(frames[t], decoded[t]):.2f}" for t in shown)
        share = np.mean(p_frames) / i_frame
        print(f"{video.name}, quality {quality}: a P frame costs {share:.2f} of the I frame, PSNR of {shown}: {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of PNGs")
    parser.add_argument("--videos", type=Path, nargs="+", required=True)
    parser.add_argument("--every", type=int, default=6, help="rates of every n-th image only")
    arguments = parser.parse_args()
    images = sorted(arguments.images.glob("*.png"))
    model = load_model()
    for video in arguments.videos:
        drift(video, model)
    rates(images[:: arguments.every], model)
    with tempfile.TemporaryDirectory() as folder:
        round_trips([*images, *arguments.videos], Path(folder, "a.bsq"))


if __name__ == "__main__":
    main()
