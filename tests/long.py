"""Encode and decode a long video in separate processes, and see whether their memory grows with its length.

    python tests/long.py --frames 100000 [--width 32 --height 32] [--model bsq1]

The video goes through pipes (y4m), so that it is nowhere on the disk. The resident size of each process is sampled all
along; the first fifth, in which caches fill, is left out, and a line is fitted to the rest. The exit status says
whether the line rises by more than `MAX_GROWTH` over the run, or a frame comes back other than the encoder promised.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import numpy as np
from skimage import data
from tqdm import tqdm

from bsqcodec.network.saving import save_model
from helpers import random_network

MAX_GROWTH = 2 << 20  # bytes by which the fitted line may rise
SAMPLES = 500  # of the resident size, over the whole video


def command(*words: str | Path) -> list[str]:
    """The command line `bsqcodec WORDS` with one thread, which prints nothing but the MD5 of the frames."""
    return [sys.executable, "-m", "bsqcodec", *map(str, words), "--threads", "1", "--md5", "--quiet"]


def resident(process: int) -> int:
    """Resident size of a process in bytes."""
    with open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[1]) * 4096


class Memory:
    """Resident size of a process over the frames that went through it."""

    def __init__(self, process: int, frames: int, what: str):
        self._process, self._total, self._what = process, frames, what
        self._every = max(1, frames // SAMPLES)
        self.samples: list[tuple[int, int]] = []
        self._bar = tqdm(total=frames, desc=what, unit="frame")

    def frame(self, number: int) -> None:
        self._bar.update()
        if number % self._every == 0 and (size := resident(self._process)):  # 0 once the process has ended
            self.samples.append((number, size))

    def verdict(self) -> bool:
        """Print the line that fits the samples; returns whether it is flat."""
        self._bar.close()
        x, y = np.array([s for s in self.samples if s[0] > self._total / 5], dtype=float).T
        slope = np.polyfit(x, y, 1)[0]
        most, first, last = (f"{n / 2**20:.1f} MiB" for n in (y.max(), y[0], y[-1]))
        found = f"at most {most}; {first} after a fifth, {last} at the end: {slope:.1f} bytes per frame"
        print(f"{self._what}: {self._total} frames, {found}", flush=True)
        return slope * (x[-1] - x[0]) < MAX_GROWTH


def write(pipe: IO[bytes], memory: Memory, frames: int, height: int, width: int) -> None:
    """A window that wanders over a photograph, in y4m, with a cut now and then."""
    picture = data.astronaut()[..., 1]
    down, right = picture.shape[0] - height, picture.shape[1] - width
    gray = bytes([128]) * (2 * height * width)
    pipe.write(f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C444\n".encode())
    for t in range(frames):
        scene = t // 1000
        y, x = (97 * scene + t) % down, (61 * scene + 2 * t) % right
        pipe.write(b"FRAME\n" + picture[y : y + height, x : x + width].tobytes() + gray)
        memory.frame(t)
    pipe.close()


def read(pipe: IO[bytes], memory: Memory, height: int, width: int) -> int:
    """Read y4m to its end; returns the number of frames."""
    pipe.readline()
    count = 0
    while pipe.readline():
        pipe.read(3 * height * width)
        memory.frame(count)
        count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--height", type=int, default=32)
    parser.add_argument("--model", help="name or file of a model [default: a tiny one of random weights]")
    options = parser.parse_args()
    size = options.height, options.width
    with tempfile.TemporaryDirectory() as name:
        model = options.model or str(Path(name, "tiny.safetensors"))
        if not options.model:
            save_model(random_network(), model)
        stream = Path(name, "long.bsq")
        encoder = subprocess.Popen(
            command("encode", "-", stream, "--model", model), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert encoder.stdin and encoder.stdout
        memory = Memory(encoder.pid, options.frames, "encode")
        write(encoder.stdin, memory, options.frames, *size)
        promised = encoder.stdout.read().decode().strip()
        flat = memory.verdict()
        length = stream.stat().st_size
        decoder = subprocess.Popen(
            command("decode", stream, "-", "--model", model), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert decoder.stdout and decoder.stderr
        memory = Memory(decoder.pid, options.frames, "decode")
        count = read(decoder.stdout, memory, *size)
        found = decoder.stderr.read().decode().strip()
        flat &= memory.verdict()
        ended = encoder.wait() == decoder.wait() == 0
    same = ended and count == options.frames and found == promised
    print(f"{count} frames of {options.width}x{options.height} in {length} bytes, MD5 {promised}"
          f"{' both times' if same else f', decoded: {found}'}")  # fmt: skip
    sys.exit(not (flat and same))


if __name__ == "__main__":
    main()
