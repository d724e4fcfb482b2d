"""Checks of a machine with a model: conformance streams against their MD5, speed, bits of its GPU against its CPU."""

import functools
import hashlib
import io
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..api import Decoder, Encoder
from ..network.weights import Model, load_model
from ..selftest import checksums, selftest
from ..settings import TUNES
from ..types import MediaInfo
from .clock import Clock, watched
from .speed import QUALITY, pictures

QUALITIES = (15, 30, 45, 60, 75, 90)
STREAM_FRAMES = 5  # frames of a stream that is compared


def checks(
    model: Path, sizes: Sequence[str], frames: int, bits: float, seconds: float
) -> dict[str, Callable[[], dict[str, Any]]]:
    """Parts of the check by name, each a function that measures it, on the GPU if there is one.

    Args:
        model: the model file.
        sizes: sizes of the videos whose speed is measured, each as "1280x720".
        frames: number of frames of each of these videos.
        bits: number of bits to compare between GPU and CPU.
        seconds: duration of that comparison, at most; it has one stream at least.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {place: load_model(str(model), place) for place in {"cpu", device}}
    clock = watched(models[device].network)
    found: dict[str, Callable[[], dict[str, Any]]] = {"conformance": lambda: asdict(selftest(device))}
    for size in sizes:
        found[f"speed {size}"] = functools.partial(_speed, models[device], clock, size, frames)
    found["exactness"] = functools.partial(_exactness, models["cpu"], models[device], bits, seconds)
    return found


def _speed(model: Model, clock: Clock, size: str, frames: int) -> dict[str, Any]:
    """Seconds per frame of encoding and decoding in memory, by part: of a first run, which warms up, and of a second.

    clock: that of `watched` for this model.
    """
    width, height = map(int, size.split("x"))
    several, stream = pictures("", width, height, frames), b""

    def encode() -> None:
        nonlocal stream
        file = io.BytesIO()
        encoder = Encoder(file, _video(width, height), model=model, quality=QUALITY)
        for t, picture in enumerate(several):
            encoder.write(picture, t)
        encoder.close()
        stream = file.getvalue()

    def decode() -> None:
        for _ in Decoder(io.BytesIO(stream), model=model).frames():
            pass

    result: dict[str, Any] = {"frames": frames, "quality": QUALITY}
    for function in (encode, decode):
        seconds = []
        for _ in range(2):
            clock.seconds.clear()
            began = time.perf_counter()
            function()
            seconds.append((time.perf_counter() - began) / frames)
        parts = {part: spent / frames for part, spent in clock.seconds.items()}
        found = {"frames a second": 1 / seconds[1], "seconds a frame": seconds[1], "warm-up": seconds[0]}
        result[function.__name__] = found | {"parts": parts}
    return result | {"bytes": len(stream)}


def _exactness(cpu: Model, other: Model, bits: float, seconds: float) -> dict[str, Any]:
    """Encode groups of pictures on one device and decode them on both, until so many bits are compared."""
    result: dict[str, Any] = {"devices": [str(other.device), str(cpu.device)], "streams": 0, "frames": 0, "bits": 0}
    result["differences"] = []
    began = time.monotonic()
    # several sizes, of which most are no multiples of a token; each at all qualities and tunes
    settings = ((i, quality, tune) for i in itertools.count() for quality in QUALITIES for tune in TUNES)
    while result["bits"] < bits and (time.monotonic() - began < seconds or not result["streams"]):
        i, quality, tune = next(settings)
        width, height = 320 + 37 * (i % 7), 192 + 29 * (i % 5)
        stream, predicted = io.BytesIO(), hashlib.md5()
        encoder = Encoder(stream, _video(width, height), model=other, quality=quality, tune=tune)
        several = [encoder.write(picture, t) for t, picture in enumerate(pictures("", width, height, STREAM_FRAMES))]
        picture: np.ndarray
        for picture in itertools.chain(*several, encoder.close()):
            predicted.update(picture.tobytes())
        (found, count), (expected, _) = (checksums(stream.getvalue(), model) for model in (other, cpu))
        for key in ("frames", "bits", "pictures"):
            if found[key] != expected[key]:
                result["differences"].append(f"{width}x{height}, quality {quality}, {tune}: other {key}")
        if predicted.hexdigest() != expected["pictures"]:
            result["differences"].append(f"{width}x{height}, quality {quality}, {tune}: not what the encoder predicts")
        for key, value in (("streams", 1), ("frames", found["frames"]), ("bits", count)):
            result[key] += value
    return result


def _video(width: int, height: int) -> MediaInfo:
    return MediaInfo(width, height, Fraction(1, 25), Fraction(25))
