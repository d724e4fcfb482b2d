"""The last stage of lease.py: what the lent machine says of the codec. Conformance streams against their MD5, frames a
second with their parts, and bits compared between GPU and CPU, in one JSON file."""

import argparse
import functools
import hashlib
import importlib.util
import io
import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from bsqcodec.errors import BsqError
from bsqcodec.train.config import read_toml
from lease import beside, copy, last_lines, running

QUALITIES = (15, 30, 45, 60, 75, 90)


def bench(options: argparse.Namespace) -> None:
    """Conformance, speed and exactness on this machine, each kept as soon as it is known."""
    work, out = Path(options.work), Path(options.out)
    if running(work):
        raise BsqError("the trainer is still running")
    if not importlib.util.find_spec("av"):
        # files of other codecs are not touched here, but the library imports PyAV for them
        sys.modules["av"] = sys.modules["av.stream"] = MagicMock()
    import torch

    from bsqcodec.bench.speed import watched
    from bsqcodec.network.weights import load_model
    from bsqcodec.selftest import selftest

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = read_toml(work / "run.toml").get("model", {}).get("name", "bsq1")
    models = {place: load_model(str(work / f"run/{name}.safetensors"), place) for place in {"cpu", device}}
    clock = watched(models[device].network)
    parts: dict[str, Callable[[], Any]] = {
        "machine": lambda: machine(work, device),
        "conformance": lambda: asdict(selftest(device)),
    }
    for frame in options.sizes:
        parts[f"speed {frame}"] = functools.partial(speed, models[device], clock, frame, options.frames)
    parts["exactness"] = lambda: exactness(models["cpu"], models[device], options.bits, options.seconds)
    path = work / "bench.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    out.mkdir(parents=True, exist_ok=True)
    for part, measure in parts.items():
        if part not in found:
            began = time.monotonic()
            found[part] = measure()
            beside(path, json.dumps(found, indent=1).encode())
            print(f"{part}: {time.monotonic() - began:.1f} s", flush=True)
        copy(path, out / "bench.json")
    differ = len(found["conformance"]["differences"]) + len(found["exactness"]["differences"])
    print(f"{out / 'bench.json'}: {differ} differences")


def machine(work: Path, device: str) -> dict[str, Any]:
    import torch

    log = (work / "run/log.jsonl").read_text().splitlines()
    first, last = json.loads(log[0]), json.loads(log[-1])
    span = last["elapsed"] - first["elapsed"]
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU: there is no GPU",
        "steps": last["step"],
        "steps a second": (last["step"] - first["step"]) / span if span > 0 else None,  # without those that warm up
        "log": last_lines(work, 20),
    }


def speed(model: Any, clock: Any, size: str, frames: int) -> dict[str, Any]:
    """Seconds a frame of encode and decode in memory, by part: of the first run, which warms up, and of the second."""
    from bsqcodec.api import Decoder, Encoder
    from bsqcodec.bench.speed import QUALITY, pictures

    width, height = map(int, size.split("x"))
    several, info, stream = pictures("", width, height, frames), video(height, width), io.BytesIO()

    def encode() -> None:
        nonlocal stream
        stream = io.BytesIO()
        encoder = Encoder(stream, info, model=model, quality=QUALITY)
        for t, picture in enumerate(several):
            encoder.write(picture, t)
        encoder.close()

    def decode() -> None:
        for _ in Decoder(io.BytesIO(stream.getvalue()), model=model).frames():
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
    return result | {"bytes": len(stream.getvalue())}


def video(height: int, width: int) -> Any:
    from bsqcodec.types import MediaInfo

    return MediaInfo(width, height, Fraction(1, 25), Fraction(25))


def exactness(cpu: Any, other: Any, bits: float, seconds: float) -> dict[str, Any]:
    """Encode groups of pictures on one device and decode them on both, until so many bits are compared."""
    from bsqcodec.api import Encoder
    from bsqcodec.bench.speed import pictures
    from bsqcodec.selftest import checksums
    from bsqcodec.settings import TUNES

    result: dict[str, Any] = {"devices": [str(other.device), str(cpu.device)], "streams": 0, "frames": 0, "bits": 0}
    result["differences"] = []
    began = time.monotonic()
    # several sizes, of which most are no multiples of a token; each at all qualities and tunes
    settings = ((i, quality, tune) for i in itertools.count() for quality in QUALITIES for tune in TUNES)
    while result["bits"] < bits and (time.monotonic() - began < seconds or not result["streams"]):
        i, quality, tune = next(settings)
        width, height = 320 + 37 * (i % 7), 192 + 29 * (i % 5)
        stream, predicted = io.BytesIO(), hashlib.md5()
        encoder = Encoder(stream, video(height, width), model=other, quality=quality, tune=tune)
        several = [encoder.write(picture, t) for t, picture in enumerate(pictures("", width, height, 5))]
        for picture in itertools.chain(*several, encoder.close()):
            predicted.update(picture.tobytes())
        (found, count), (wanted, _) = (checksums(stream.getvalue(), model) for model in (other, cpu))
        for key in ("frames", "bits", "pictures"):
            if found[key] != wanted[key]:
                result["differences"].append(f"{width}x{height}, quality {quality}, {tune}: other {key}")
        if predicted.hexdigest() != wanted["pictures"]:
            result["differences"].append(f"{width}x{height}, quality {quality}, {tune}: not what the encoder predicts")
        for key, value in (("streams", 1), ("frames", found["frames"]), ("bits", count)):
            result[key] += value
    return result
