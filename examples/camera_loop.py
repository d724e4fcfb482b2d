"""Encode live: every frame is encoded when it comes, and its decoded picture is there at once.

python examples/camera_loop.py live.bsq --source /dev/video0 --format v4l2      # a camera, on Linux
python examples/camera_loop.py - --source talk.mp4 | bsqcodec decode - live.mkv
"""

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from bsqcodec import Encoder, MediaInfo


def pattern(height: int = 120, width: int = 160) -> Iterator[np.ndarray]:
    """Waves that move without end: frames, uint8 (height, width, 3)."""
    y, x = np.mgrid[:height, :width] / 10
    for t in itertools.count():
        waves = np.stack([np.sin(x + 0.2 * t), np.sin(y + 0.1 * t), np.sin(x + y)], axis=2)
        yield (128 + 100 * waves).astype(np.uint8)


def captured(source: str, format: str | None) -> Iterator[np.ndarray]:
    """Frames of a camera or a video, uint8 (height, width, 3)."""
    with av.open(source, format=format) as container:
        yield from (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))


def main() -> None:
    parser = argparse.ArgumentParser(description="Encode frames as they come, without delay.")
    parser.add_argument("out", help="the .bsq file, or - for a pipe")
    parser.add_argument("--source", help="camera or video; default: a pattern that is made here")
    parser.add_argument("--format", help="FFmpeg's name of the input format, for example v4l2")
    parser.add_argument("--frames", type=int, default=10, help="how many to encode, default 10")
    parser.add_argument("--rate", type=Fraction, default=Fraction(25), help="frames per second, default 25")
    parser.add_argument("--quality", type=int, default=40, help="1..100, default 40")
    options = parser.parse_args()

    frames = captured(options.source, options.format) if options.source else pattern()
    first = next(frames)
    info = MediaInfo(first.shape[1], first.shape[0], time_base=1 / options.rate, frame_rate=options.rate)
    with contextlib.ExitStack() as stack:
        file = sys.stdout.buffer if options.out == "-" else stack.enter_context(open(options.out, "wb"))
        encoder = stack.enter_context(Encoder(file, info, quality=options.quality, low_delay=True))
        for pts, frame in enumerate(itertools.islice(itertools.chain([first], frames), options.frames)):
            bits, began = encoder.bits, time.perf_counter()
            (shown,) = encoder.write(frame, pts)  # as every decoder will show it; low_delay: no frame waits for another
            seconds, error = time.perf_counter() - began, np.abs(shown.astype(int) - frame).mean()
            print(f"frame {pts}: {encoder.bits - bits:.0f} bits, error {error:.2f}, {seconds:.2f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
