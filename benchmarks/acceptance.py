"""Measures what the codec promises, on real files: exact round trips, size against the ideal code, monotone rate, drift
along a group of pictures, seconds and memory of whole processes.

    python benchmarks/acceptance.py --images kodak/ --videos BasketballPass_416x240_50fps.mkv park_joy.y4m
"""

import argparse
import io
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from bsqcodec.api import Encoder
from bsqcodec.media import open_source
from bsqcodec.network.weights import load_model
from bsqcodec.types import Frame, MediaInfo


def run(*words) -> tuple[str, float, int]:
    """The command in a process of its own: standard output, seconds, peak memory in MiB (Linux)."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "bsqcodec", *map(str, words)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        for file in (out, err):
            file.seek(0)
        if status:
            sys.exit(err.read())
        return out.read().strip(), seconds, usage.ru_maxrss // 1024


def psnr(a, b) -> float:
    return float(10 * np.log10(255**2 / np.square(np.subtract(a, b, dtype=np.float64)).mean()))


def round_trips(files, folder) -> None:
    """MD5 of what the encoder predicted from, with one thread, against what another process decodes, with two."""
    exact, bits = 0, 0
    for file in files:
        for quality in (20, 70):
            said, *_ = run("encode", file, folder / "a.bsq", "-f", "-q", quality, "--md5", "--threads", 1, "--no-audio")
            got, *_ = run("decode", folder / "a.bsq", "--md5", "--threads", 2)
            exact += said == got
            bits += 8 * (folder / "a.bsq").stat().st_size
    print(f"round trips: {exact} of {2 * len(files)} exact, {bits} coded bits")


def rates(images, model) -> None:
    """Every quality: the set's rate must rise; files against the ideal code length."""
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in images]
    means, excess = [], []
    for quality in range(1, 101):
        total = 0.0
        for picture in pictures:
            file = io.BytesIO()
            encoder = Encoder(file, MediaInfo(picture.shape[1], picture.shape[0]), model=model, quality=quality)
            encoder.write(picture)
            encoder.close()
            total += 8 * encoder.size / (picture.shape[0] * picture.shape[1])
            excess.append((8 * encoder.size, encoder.bits))
        means.append(total / len(pictures))
    rising = sum(b > a for a, b in zip(means, means[1:]))
    print(
        f"rate on {len(pictures)} images: {means[0]:.4f} to {means[-1]:.4f} bits a pixel, x{means[-1] / means[0]:.1f}"
    )
    print(f"{rising} of 99 steps of quality raise it")
    size, ideal = (sum(x) for x in zip(*excess))
    worst = max(a / b for a, b in excess)
    print(f"files are {100 * (size / ideal - 1):.3f} % longer than the ideal code (headers included), "
          f"at worst {100 * (worst - 1):.2f} %")  # fmt: skip


def drift(video, model) -> None:
    with open_source(str(video), audio=False) as source:
        frames = [item.rgb for item in itertools.islice((i for i in source if isinstance(i, Frame)), 32)]
        info = source.info
    for quality in (20, 40, 60, 80):
        encoder = Encoder(io.BytesIO(), info, model=model, quality=quality, gop=32, low_delay=True)
        decoded, bits = [], []
        for t, frame in enumerate(frames):
            decoded += encoder.write(frame, t)
            bits.append(encoder.stats.bits + encoder.stats.side_bits)
        which = (0, 1, len(frames) - 1)
        found = ", ".join(f"{psnr(frames[t], decoded[t]):.2f}" for t in which)
        share = np.mean(bits[1:]) / bits[0]
        print(f"{video.name}, quality {quality}: a P frame costs {share:.2f} of the I frame, PSNR of {which}: {found}")


def speed(image, folder) -> None:
    for name, words in (
        ("encode", (image, folder / "s.bsq", "-f", "-q", 50)),
        ("decode", (folder / "s.bsq", folder / "s.png", "-f")),
    ):
        seconds = sorted(run(name, *words)[1] for _ in range(5))
        print(f"{name} {image.name}, whole process: {seconds[2]:.2f} s (median of 5)")
    code = "import time; t = time.time(); import torch; print(time.time() - t)"
    runs = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(5))
    print(f"of which importing torch: {sorted(map(float, runs))[2]:.2f} s")


def memory(image, folder) -> None:
    """A pan over a picture in 1920x1080."""
    big = Image.open(image).convert("RGB").resize((2100, 1400), Image.Resampling.LANCZOS)
    for frames in (4, 16):
        clip = folder / f"{frames}"
        clip.mkdir()
        for t in range(frames):
            big.crop((5 * t, 3 * t, 5 * t + 1920, 3 * t + 1080)).save(clip / f"{t}.png")
        encode = run("encode", clip, folder / "m.bsq", "-f", "--gop", 8)[2]
        decode = run("decode", folder / "m.bsq", folder / "m.mp4", "-f")[2]
        print(f"1920x1080, {frames} frames: peak memory {encode} MiB to encode, {decode} MiB to decode")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of PNGs")
    parser.add_argument("--videos", type=Path, nargs="+", required=True)
    parser.add_argument("--every", type=int, default=6, help="rates of every n-th image only")
    arguments = parser.parse_args()
    images = sorted(arguments.images.glob("*.png"))
    model = load_model()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speed(images[0], folder)
        for video in arguments.videos:
            drift(video, model)
        rates(images[:: arguments.every], model)
        memory(images[0], folder)
        round_trips([*images, *arguments.videos], folder)


if __name__ == "__main__":
    main()
