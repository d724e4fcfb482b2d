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
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
import torch

from bsqcodec import api
from bsqcodec.api import Decoder, Encoder
from bsqcodec.describe import describe, lines
from bsqcodec.errors import BsqError
from bsqcodec.gop.quality import B_LEVEL_OFFSET
from bsqcodec.network.weights import Model, load_model
from bsqcodec.settings import DEFAULT_MODEL
from bsqcodec.stream.fields import Fields, signed, varint
from bsqcodec.stream.group import GROUP_HEADER
from bsqcodec.transcode import decode_file
from bsqcodec.types import AudioPacket, AudioTrack, MediaInfo
from helpers import random_model

MAX_PIXELS = 1 << 13
FRAMES = 24  # looked at in a file
KNOWN = 200  # groups of pictures that are remembered
SECONDS = 20.0  # of computing that a file may take
WAITING = 600.0  # and by the clock, on a machine with other work
MEMORY = 256 << 20  # bytes the process may grow
EDGES = (0, 1, 2, 3, 15, 16, 17, 127, 128, 255, 256, 65535, 65536, 1 << 28, 1 << 31, 1 << 32, 1 << 48, (1 << 62) - 1)

Chunk = tuple[bytes, bytes]  # type, body


class Hang(BaseException):
    """A file takes too long."""


def corpus(model: Model) -> list[bytes]:
    """Streams that hold every kind of chunk and of frame."""
    noise = np.random.default_rng(0)
    track = AudioTrack("aac", Fraction(1, 48000), 48000, "mono", b"\x11\x88")

    def stream(height: int, width: int, pts: list[int], gop: int, audio: bool = False) -> bytes:
        file = io.BytesIO()
        still = len(pts) == 1
        rate = None if still else Fraction(25)
        info = MediaInfo(width, height, frame_rate=rate, audio=track if audio else None, rotation=0 if still else 90)
        encoder = Encoder(file, info, model=model, quality=60, gop=gop)
        picture = noise.integers(0, 256, (height, width, 3), np.uint8)
        for i, t in enumerate(pts):
            encoder.write(np.roll(picture, (i, 2 * i), (0, 1)), t)
            if audio:
                encoder.write_audio(AudioPacket(1920 * i, 1024, noise.bytes(5)))
        encoder.close()
        return file.getvalue()

    return [
        stream(16, 16, [0], 1),
        stream(1, 1, [0], 1),
        stream(15, 33, list(range(5)), 2, audio=True),
        stream(20, 17, [0, 1, 5, 6], 4),
        stream(16, 16, [10 * t for t in range(6)], 1),
    ]


# ---------------------------------------------------------------- mutations


def split(data: bytes) -> tuple[list[int], bytes, list[Chunk]]:
    """Header fields, model id and chunks of an undamaged stream."""
    fields = Fields(data[6 : 6 + data[5]])
    model = fields.take(8)
    numbers = []
    while fields.rest():
        numbers.append(fields.varint())
    rest, chunks = Fields(data[10 + data[5] :]), []
    while rest.rest():
        chunks.append((rest.take(1), rest.block()))
        rest.take(4)
    return numbers, model, chunks


def checked(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def join(numbers: list[int], model: bytes, chunks: list[Chunk]) -> bytes:
    body = (model + b"".join(map(varint, numbers)))[:255]
    head = checked(b"BSQ\x1a\x01" + bytes([len(body)]) + body)
    return head + b"".join(checked(kind + varint(len(body)) + body) for kind, body in chunks)


def raw(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Damage that knows nothing of the format."""
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    match rng.randrange(6):
        case 0 | 1:
            out = bytearray(data)
            for _ in range(rng.choice((1, 1, 1, 2, 8))):
                out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
            return bytes(out)
        case 2:
            return data[:a]
        case 3:
            return data[:a] + data[b:]
        case 4:
            return data[:a] + rng.randbytes(rng.choice((1, 4, 100))) + data[a:]
        case _:
            return data[:a] + other[rng.randrange(len(other)) :]


def number(rng: random.Random, n: int) -> int:
    return min(max(0, rng.choice((n + 1, n - 1, 2 * n, rng.choice(EDGES), rng.randrange(300)))), (1 << 63) - 1)


def bytes_of(rng: random.Random, body: bytes) -> bytes:
    """A body with bytes changed, lost, or added."""
    match rng.randrange(5):
        case 0:
            return body[: rng.randrange(len(body) + 1)]
        case 1:
            return body + rng.randbytes(rng.randrange(1, 40))
        case 2:
            return rng.randbytes(rng.randrange(60))
        case _:
            out = bytearray(body)
            for _ in range(rng.choice((1, 1, 3, 10)) if out else 0):
                out[rng.randrange(len(out))] = rng.randrange(256)
            return bytes(out)


def gop_fields(rng: random.Random, body: bytes) -> bytes:
    """A group of pictures with its numbers changed, or with another header for another number of frames."""
    fields = Fields(body)
    first, frames, start = fields.varint(), fields.varint(), fields.signed()
    step = fields.varint() if frames > 1 else 1
    payload = fields.rest()
    match rng.randrange(5):
        case 0:
            first = number(rng, first)
        case 1:
            frames = number(rng, frames)
        case 2:
            start = rng.choice((1, -1)) * number(rng, abs(start)) // 2
        case 3:
            step = number(rng, step)
        case _:
            frames, mini = rng.randrange(1, 30), rng.choice((1, 2, 4, 16, rng.randrange(20)))
            more = rng.choice((0, 0, 3))
            anchors = 1 + -(-(frames - 1) // max(1, mini))
            kinds = [rng.randrange(1, 101) | rng.choice((0, 128)) * (i > 0) for i in range(anchors)]
            header = bytes(
                [mini, rng.choice((B_LEVEL_OFFSET, 0, rng.randrange(256))), rng.choice((0, 1, 0, 1, 2)), more]
            )
            header += b"".join(bytes([kind]) + rng.randbytes(more) for kind in kinds)
            payload = header + rng.choice((payload, payload[GROUP_HEADER + 1 :], rng.randbytes(rng.randrange(80)), b""))
    return varint(first) + varint(frames) + signed(start) + (varint(step) if frames > 1 else b"") + payload


def structured(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Changed fields and chunks under checksums that hold."""
    numbers, model, chunks = split(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        i = rng.randrange(len(chunks)) if chunks else 0
        match rng.randrange(9) if chunks else 0:
            case 0:
                k = rng.randrange(len(numbers))
                numbers[k] = number(rng, numbers[k])
            case 1:
                numbers[rng.randrange(2)] = rng.randrange(1, 100)
            case 2:
                chunks.pop(i)
            case 3:
                chunks.insert(i, rng.choice(chunks + split(other)[2]))
            case 4:
                k = rng.randrange(len(chunks))
                chunks[i], chunks[k] = chunks[k], chunks[i]
            case 5:
                chunks[i] = (rng.choice((b"G", b"A", b"P", b"E", b"Z")), chunks[i][1])
            case 6 | 7 if chunks[i][0] == b"G":
                try:
                    chunks[i] = (b"G", gop_fields(rng, chunks[i][1]))
                except BsqError:  # changed before
                    pass
            case _:
                chunks[i] = (chunks[i][0], bytes_of(rng, chunks[i][1]))
    if rng.random() < 0.01:
        model = rng.randbytes(8)
    return join(numbers, model, chunks)


def mutate(rng: random.Random, streams: list[bytes]) -> bytes:
    data, other = rng.choice(streams), rng.choice(streams)
    kind = rng.random()
    if kind < 0.4:
        return raw(rng, data, other)
    data = structured(rng, data, other)
    return raw(rng, data, other) if kind < 0.5 else data


# ---------------------------------------------------------------- running


class Pipe(io.RawIOBase):
    """Gives its bytes once, some at a time."""

    def __init__(self, data: bytes):
        self.inner = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        part = self.inner.read(min(len(buffer), 100))
        buffer[: len(part)] = part
        return len(part)


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """What the decoder makes of a group is a function of these arguments: those that were seen are not run again."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("decode_gop", "decode_symbols"):
            patch.setattr(api, name, _remembering(getattr(api, name)))
        yield


def _remembering(decode: Callable) -> Callable:
    known: dict[tuple, list] = {}

    def run(model: Model, payload: bytes, height: int, width: int, frames: int) -> Iterator:
        key = model.id, payload, height, width, frames
        if key in known:
            yield from known[key]
            return
        seen = []
        for item in decode(model, payload, height, width, frames):
            seen.append(item)
            if len(seen) == frames and len(known) < KNOWN:  # nobody asks for what comes after the last one
                known[key] = seen
            yield item

    return run


@dataclass
class Outcome:
    """What a run did: files tried and frames decoded, how many files ended well, in an error, and in a failure."""

    files: int = 0
    frames: int = 0
    decoded: int = 0
    refused: int = 0
    inner: int = 0  # files of which a frame or the coded bits were reached
    slowest: float = 0.0
    grown: int = 0  # bytes
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.files} files ({self.inner} behind the checksums), {self.frames} frames: {self.decoded} decoded, "
            f"{self.refused} refused, {len(self.failures)} failed; slowest {self.slowest:.2f} s, "
            f"memory grew by {self.grown >> 20} MiB"
        )


def look(rng: random.Random, data: bytes, model: Model) -> int:
    """Use a stream in one of the ways there are; returns the frames seen."""
    way = rng.random()
    file = io.BufferedReader(Pipe(data)) if rng.random() < 0.3 else io.BytesIO(data)
    if way < 0.03:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "in.bsq")
            with open(path, "wb") as out:
                out.write(data)
            if way < 0.01:
                found = describe(path, max_pixels=MAX_PIXELS)
                lines(found)
                return found["frames"]
            # few frames, for x264 takes long to open
            target = os.path.join(folder, rng.choice(("o.mkv", "o.mp4", "o.y4m", "o.png", "o/")))
            broken = {"conceal": True} if way < 0.02 else {"keep_partial": True}
            return decode_file(path, target, (0, 6), model, "cpu", max_pixels=MAX_PIXELS, **broken).frames
    decoder = Decoder(file, "cpu", model, MAX_PIXELS)
    decoder.audio = lambda packet: None
    if way < 0.1:
        return sum(1 for _, _ in zip(decoder.symbols(), range(FRAMES)))
    start = rng.choice((0, 0, 0, 1, 3))
    last = None
    frames = 0
    for frame in decoder.frames(start, start + FRAMES, conceal=way < 0.5):
        assert frame.rgb.shape == (decoder.info.height, decoder.info.width, 3) and frame.rgb.dtype == np.uint8
        assert last is None or frame.pts > last, f"times {last} and {frame.pts}"
        last = frame.pts
        frames += 1
    return frames


@remembered()
def run(
    model: Model,
    files: int,
    seed: int,
    first: int = 0,
    minutes: float = 1e9,
    out: str | None = None,
    say: Callable = print,
) -> Outcome:
    """Try mutations number `first` to `first + files - 1`; those that fail are written into the folder `out`."""
    streams = corpus(model)
    for stream in streams:
        for _ in range(3):  # so that memory is at its height
            list(Decoder(io.BytesIO(stream), "cpu", model).frames())
    outcome, began = Outcome(), time.monotonic()
    base = peak()

    def alarm(*_):
        raise Hang

    clocks = {signal.ITIMER_PROF: (signal.SIGPROF, SECONDS), signal.ITIMER_REAL: (signal.SIGALRM, WAITING)}
    before = {number: signal.signal(number, alarm) for number, _ in clocks.values()}
    try:
        for i in range(first, first + files):
            if time.monotonic() - began > 60 * minutes:
                break
            rng = random.Random(f"{seed}/{i}")
            data = mutate(rng, streams)
            problem = None
            start = time.process_time()
            for clock, (_, seconds) in clocks.items():
                signal.setitimer(clock, seconds)
            try:
                frames = look(rng, data, model)
                outcome.frames += frames
                outcome.decoded += 1
                outcome.inner += frames > 0
            except BsqError as e:
                outcome.refused += 1
                outcome.inner += "frames " in str(e)
                if "\n" in str(e) or len(str(e)) > 400:
                    problem = f"an error of more than a line: {e}"
            except Hang:
                problem = f"hangs: {traceback.format_exc()}"
            except Exception:
                problem = traceback.format_exc()
            finally:
                for clock in clocks:
                    signal.setitimer(clock, 0)
            outcome.files += 1
            outcome.slowest = max(outcome.slowest, time.process_time() - start)
            grown = peak() - base
            if grown > outcome.grown + MEMORY:
                problem = f"memory grew by {grown >> 20} MiB"
            outcome.grown = max(outcome.grown, grown)
            if problem:
                outcome.failures.append(f"file {i}: {problem}")
                say(outcome.failures[-1])
                if out:
                    os.makedirs(out, exist_ok=True)
                    with open(os.path.join(out, f"seed{seed}-{i}.bsq"), "wb") as file:
                        file.write(data)
            if outcome.files % 1000 == 0:
                say(f"{outcome.files} in {time.monotonic() - began:.0f} s: {outcome}")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
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
    parser.add_argument("--out", default="fuzz-failures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(options.packaged) if options.packaged else random_model()
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    # an allocation beyond this is a MemoryError, whether its pages are touched or not
    resource.setrlimit(resource.RLIMIT_AS, (size + (2 << 30), resource.RLIM_INFINITY))
    outcome = run(model, options.files, options.seed, options.first, options.minutes, options.out)
    print(outcome)
    sys.exit(bool(outcome.failures))


if __name__ == "__main__":
    main()
