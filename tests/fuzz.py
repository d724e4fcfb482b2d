"""A fuzzer of the decoder: mutated streams must decode or end in BsqError, in bounded time and memory.

    python tests/fuzz.py --files 100000 --seed 0 [--minutes 30] [--packaged [NAME]]

Streams are tiny, of a model with random weights (or of a packaged one). Half of the mutations change fields or
payloads and then mend the checksums, so that what lies behind these is reached. A group of pictures that was decoded
before, of the same size and with the same payload, is not decoded again. A file that fails is written to the folder of
--out with a name that tells its number; `--first N --files 1` runs it again.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import bsqcodec.pillow
from bsqcodec import decoder
from bsqcodec.api import Decoder, Encoder
from bsqcodec.describe import describe, lines
from bsqcodec.errors import BsqError
from bsqcodec.file_decoder import decode_file, verify_file
from bsqcodec.network.weights import Model, load_model
from bsqcodec.settings import DEFAULT_MODEL
from bsqcodec.types import MediaInfo, Packet, Track
from helpers import Pipe, random_model
from mutations import mutate

MAX_PIXELS = 1 << 13
OUTPUTS = (".mkv", ".mp4", ".mov", ".y4m", ".png", ".jpg", ".gif", ".webp", ".apng", ".avif", "/")
MAX_FRAMES = 24  # decoded of one file
MAX_KNOWN_GROUPS = 200  # groups of pictures whose frames are remembered
MAX_CPU_SECONDS = 20.0  # of computing for one file
MAX_SECONDS = 600.0  # by the clock for one file, on a machine with other work
MAX_GROWTH = 256 << 20  # bytes by which the process may grow
MAX_ERROR_LENGTH = 400  # characters
MAX_WARNINGS = 40  # lines
MAX_ADDRESS_SPACE = 2 << 30  # bytes beyond what the process has when it starts


class Hang(BaseException):
    """A file takes too long. No BsqError and no Exception, so that nothing in the package catches it."""


def corpus(model: Model) -> list[bytes]:
    """Streams that hold every type of chunk and of frame, alpha of both methods, and samples of 8 to 12 bits."""
    noise = np.random.default_rng(0)
    sound = Track("aac", Fraction(1, 48000), 48000, "mono", b"\x11\x88", language="eng", title="Sound")
    text = Track("subrip", Fraction(1, 1000), kind="subtitle", disposition=1)
    kept = {
        "tag:title": b"Some title", "chapters": b"0 40 One\n40 160 Two", "loop": b"2", "icc": bytes(36) + b"acsp",
        "exif": b"MM\0*\0\0\0\x08" + bytes(6), "xmp": b"<x/>", "mdcv": bytes(24), "clli": bytes(4),
    }  # fmt: skip

    def stream(
        height: int, width: int, pts: list[int], gop: int = 1, tracks: tuple[Track, ...] = (), depth: int = 8,
        alpha: str = "", **metadata: bytes,
    ) -> bytes:  # fmt: skip
        file = io.BytesIO()
        still = len(pts) == 1
        info = MediaInfo(
            width, height, frame_rate=None if still else Fraction(25), tracks=tracks, rotation=0 if still else 90,
            metadata=metadata, bit_depth=depth, alpha=bool(alpha),
        )  # fmt: skip
        encoder = Encoder(file, info, model=model, quality=60, gop=gop)
        picture = noise.integers(0, 256, (height, width, 3), np.uint8)
        plane = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8) * 4
        plane = plane if alpha == "slope" else plane // 50 * 60
        for i, t in enumerate(pts):
            frame = np.roll(picture, (i, 2 * i), (0, 1))
            frame = np.dstack([frame, np.roll(plane, i // 2, 1)]) if alpha else frame
            encoder.write(frame, t, 7 if depth > 8 else 0)
            for number, track in enumerate(tracks):
                data = b"text" if track.kind == "subtitle" else noise.bytes(5)
                encoder.write_packet(Packet(1920 * i, 1024, data, number))
        encoder.close()
        return file.getvalue()

    return [
        stream(16, 16, [0]),
        stream(1, 1, [0]),
        stream(15, 33, list(range(5)), 2, (sound,)),
        stream(20, 17, [0, 1, 5, 6], 4),
        stream(16, 16, [10 * t for t in range(6)]),
        stream(17, 20, [0], alpha="values", **{"exif": kept["exif"], "tag:title": b"Text"}),
        stream(18, 33, [0, 1, 2, 3], 2, alpha="slope", depth=10),
        stream(20, 18, [0, 3, 4], 2, (sound, text, sound, text), alpha="values", depth=12, **kept),
        stream(16, 17, [0, 2], 1, (text,), depth=9, **kept),
    ]


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """In the block, a group of pictures that was decoded before is not decoded again.

    What the decoder makes of a group depends on nothing but the arguments of `decode_group`, `decode_symbols` and
    `decode_alpha`.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("decode_group", "decode_symbols", "decode_alpha"):
            patch.setattr(decoder, name, _remembering(getattr(decoder, name)))
        yield


def _remembering(decode: Callable) -> Callable:
    known: dict[tuple, list] = {}

    def run(model: Model, *coded: Any) -> Iterator:
        key, frames = (model.id, *coded), coded[-1]
        if key in known:
            yield from known[key]
            return
        seen = []
        for item in decode(model, *coded):
            seen.append(item)
            if len(seen) == frames and len(known) < MAX_KNOWN_GROUPS:  # nobody asks for what comes after the last one
                known[key] = seen
            yield item

    return run


@dataclass
class Outcome:
    """Counts of a run.

    Attributes:
        files, decoded, refused: files tried, those that ended well, those that ended in a BsqError.
        frames: frames decoded of those that ended well.
        inner: files of which a frame or the coded bits were reached.
        slowest: seconds of computing that one file took at most.
        grown: bytes by which the process grew.
        failures: one text per file that failed.
    """

    files: int = 0
    frames: int = 0
    decoded: int = 0
    refused: int = 0
    inner: int = 0
    slowest: float = 0.0
    grown: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.files} files ({self.inner} behind the checksums), {self.frames} frames: {self.decoded} decoded, "
            f"{self.refused} refused, {len(self.failures)} failed; slowest {self.slowest:.2f} s, "
            f"memory grew by {self.grown >> 20} MiB"
        )


def use(rng: random.Random, data: bytes, model: Model, outputs: float = 0.03) -> int:
    """Use a stream in one of the ways there are; returns the number of frames decoded.

    outputs: share of those that are files, decoded into other files.
    """
    way = rng.random()
    file = io.BufferedReader(Pipe(data, part=100)) if rng.random() < 0.3 else io.BytesIO(data)
    if way < outputs:
        return use_file(rng, data, model)
    way = (way - outputs) / (1 - outputs)
    if way < 0.02:
        return use_pillow(data, model)
    decoder = Decoder(file, "cpu", model, MAX_PIXELS)
    decoder.on_packet = lambda packet: None
    if way < 0.1:
        return sum(1 for _ in zip(decoder.symbols(), range(MAX_FRAMES), strict=False))  # the shorter of both
    start = rng.choice((0, 0, 0, 1, 3))
    last = None
    frames = 0
    for frame in decoder.frames(start, start + MAX_FRAMES, conceal=way < 0.5):
        deep = decoder.info.bit_depth > 8
        assert frame.rgb.shape == decoder.info.frame_format.shape and frame.rgb.dtype == (
            np.uint16 if deep else np.uint8
        )
        assert last is None or frame.pts > last, f"times {last} and {frame.pts}"
        last = frame.pts
        frames += 1
    return frames


def use_file(rng: random.Random, data: bytes, model: Model) -> int:
    """Describe or verify a stream that is a file, or decode it into another file; returns the number of frames."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "in.bsq")
        with open(path, "wb") as out:
            out.write(data)
        way = rng.random()
        if way < 0.1:
            found = describe(path, max_pixels=MAX_PIXELS)
            assert all(line.isprintable() for line in lines(found))
            json.dumps(found)
            return found["frames"]
        if way < 0.15:
            return verify_file(path, "cpu", model, MAX_PIXELS).frames
        # few frames, for x264 takes long to open
        target = os.path.join(folder, "o" + rng.choice(OUTPUTS))
        conceal = way < 0.5
        scale = rng.choice((1, 1, 1, 0.5, 0.0625))
        try:
            result = decode_file(
                path, target, (0, 6), model, "cpu", max_pixels=MAX_PIXELS, conceal=conceal, keep_partial=not conceal,
                scale=scale,
            )  # fmt: skip
        except BsqError as e:
            if os.path.exists(target) and "what comes before is kept" not in str(e):
                raise AssertionError("there is an output") from e
            raise
        finally:
            assert not [name for name in os.listdir(folder) if name.startswith(".")]
        assert all(line.isprintable() and len(line) <= MAX_ERROR_LENGTH for line in result.warnings), result.warnings
        assert len(result.warnings) < MAX_WARNINGS and os.path.exists(target)
        return result.frames


def use_pillow(data: bytes, model: Model) -> int:
    """Open a stream with Pillow, load its frames, and check it; returns the number of frames."""
    bsqcodec.pillow.MODEL = model
    frames = 0
    try:
        with Image.open(io.BytesIO(data), formats=["BSQ"]) as image:
            if image.width * image.height > MAX_PIXELS:
                return 0
            image.getexif()
            for frame in itertools.islice(ImageSequence.Iterator(image), MAX_FRAMES):
                frame.load()
                frames += 1
        with Image.open(io.BytesIO(data), formats=["BSQ"]) as image:
            image.verify()
    except OSError as e:  # as Pillow's own formats
        raise BsqError(str(e)) from e
    return frames


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raises Hang in the block when it has computed for MAX_CPU_SECONDS, or lasted MAX_SECONDS by the clock."""

    def alarm(*_: object) -> None:
        raise Hang

    before = {number: signal.signal(number, alarm) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def try_stream(rng: random.Random, data: bytes, model: Model, outcome: Outcome, outputs: float) -> str:
    """Use a stream and count what comes of it in `outcome`; returns what is wrong, "" if nothing is."""
    try:
        with time_limit():
            frames = use(rng, data, model, outputs)
    except BsqError as e:
        outcome.refused += 1
        outcome.inner += "frames " in str(e)
        return f"an error of more than a line: {e}" if "\n" in str(e) or len(str(e)) > MAX_ERROR_LENGTH else ""
    except Hang:
        return f"hangs: {traceback.format_exc()}"
    except Exception:
        return traceback.format_exc()
    outcome.frames += frames
    outcome.decoded += 1
    outcome.inner += frames > 0
    return ""


@remembered()
def run(
    model: Model,
    files: int,
    seed: int,
    first: int = 0,
    minutes: float = 1e9,
    out: str | None = None,
    outputs: float = 0.03,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Try mutations number `first` to `first + files - 1`; those that fail are written into the folder `out`.

    outputs: share that is decoded into files.
    """
    streams = corpus(model)
    for stream in streams:
        for _ in range(3):  # so that memory is at its height
            list(Decoder(io.BytesIO(stream), "cpu", model).frames())
    outcome, began = Outcome(), time.monotonic()
    base = peak()
    for i in range(first, first + files):
        if time.monotonic() - began > 60 * minutes:
            break
        rng = random.Random(f"{seed}/{i}")
        data = mutate(rng, streams)
        start = time.process_time()
        problem = try_stream(rng, data, model, outcome, outputs)
        outcome.files += 1
        outcome.slowest = max(outcome.slowest, time.process_time() - start)
        grown = peak() - base
        if grown > outcome.grown + MAX_GROWTH:
            problem = f"memory grew by {grown >> 20} MiB"
        outcome.grown = max(outcome.grown, grown)
        if problem:
            outcome.failures.append(f"file {i}: {problem}")
            say(outcome.failures[-1])
            if out:
                Path(out).mkdir(parents=True, exist_ok=True)
                Path(out, f"seed{seed}-{i}.bsq").write_bytes(data)
        if outcome.files % 1000 == 0:
            say(f"{outcome.files} in {time.monotonic() - began:.0f} s: {outcome}")
    return outcome


def peak() -> int:
    """Largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument(
        "--packaged", nargs="?", const=DEFAULT_MODEL, metavar="NAME", help="a packaged model, not a tiny one"
    )
    parser.add_argument("--outputs", type=float, default=0.03, help="share that is decoded into files [0.03]")
    parser.add_argument("--out", default="fuzz-failures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(options.packaged) if options.packaged else random_model()
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    # an allocation beyond this is a MemoryError, whether its pages are touched or not
    resource.setrlimit(resource.RLIMIT_AS, (size + MAX_ADDRESS_SPACE, resource.RLIM_INFINITY))
    outcome = run(model, options.files, options.seed, options.first, options.minutes, options.out, options.outputs)
    print(outcome)
    sys.exit(bool(outcome.failures))


if __name__ == "__main__":
    main()
