"""`bsqcodec bench --speed`: where the time of encoding and decoding goes, beside other codecs on the same machine.

Every measurement runs in a process of its own (speed_jobs.py), so that peaks of memory and numbers of threads are its
own.
"""

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import BsqError
from ..network import layers
from .clock import PARTS
from .machine import processor

KODAK_SIZE = (768, 512)
NEURAL_CODECS = ("bmshj2018-hyperprior", "mbt2018", "cheng2020-anchor")  # models of CompressAI
IMAGE_ANCHORS = ("webp", "avif")
VIDEO_ANCHORS = ("h264", "hevc", "av1")
QUALITY = 40  # of our codec
ASTRONAUT_STEP = (3, 2)  # pixels to the right and down that the synthetic camera moves per frame

Tell = Callable[[str], None]


@dataclass(frozen=True)
class SpeedOptions:
    """Options of the measurement of speed.

    Attributes:
        source: a picture or video that is scaled to every size; "" makes a pan over a photograph.
        sizes: of the videos, (width, height) in pixels.
        threads: each number of threads of our codec that is tried; peers run on one.
        frames: of each video.
        repeats: number of runs, of which the median counts.
        model: name or path of our model.
        device: of our codec: "auto", "cpu" or "cuda".
        peers: whether other codecs are measured too.
    """

    source: str
    sizes: tuple[tuple[int, int], ...]
    threads: tuple[int, ...]
    frames: int
    repeats: int
    model: str
    device: str
    peers: bool


@dataclass(frozen=True)
class Job:
    """One measurement, as it is handed to its process.

    Attributes:
        measure: "ours", "anchor" (a codec of anchors.py) or "neural" (one of CompressAI).
        size: width and height in pixels.
        frames, repeats, source, model, device: as in `SpeedOptions`.
        threads: of torch.
        codec: name of the anchor or of CompressAI's model.
        paths: of the input, the stream and the output of our codec.
    """

    measure: str
    size: tuple[int, int]
    frames: int
    threads: int
    repeats: int
    source: str
    model: str
    device: str
    codec: str
    paths: tuple[str, ...]


def pictures(source: str, width: int, height: int, frames: int) -> list[np.ndarray]:
    """Frames of a file scaled to a size, or of a camera that pans over a photograph ("").

    uint8 (H, W, 3) RGB each. A file that ends early repeats its last frame. Raises BsqError for a broken file.
    """
    if source:
        from .frames import frames_of

        found = [Image.fromarray(frame) for frame in frames_of(Path(source), frames)]
        found = [found[min(i, len(found) - 1)] for i in range(frames)]
        return [np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) for image in found]
    from skimage import data

    right, down = ASTRONAUT_STEP
    margin = max(right, down) * frames
    wide = Image.fromarray(data.astronaut()).resize((width + margin, height + margin), Image.Resampling.BICUBIC)
    every = np.asarray(wide)
    return [
        np.ascontiguousarray(every[down * t : down * t + height, right * t : right * t + width]) for t in range(frames)
    ]


def run(options: SpeedOptions, tell: Tell) -> dict[str, Any]:
    """Measure everything; `tell` is called with a line before each measurement.

    Returns what goes into the JSON file: seconds per frame, unless a key says otherwise. Raises BsqError.
    """
    result: dict[str, Any] = {"ours": [], "peers": [], "process": {}, "problems": []}
    with tempfile.TemporaryDirectory(prefix="bsqcodec-speed-") as folder:
        videos = ((size, options.frames, ".mkv") for size in options.sizes)
        for size, frames, suffix in ((KODAK_SIZE, 1, ".png"), *videos):
            name = str(Path(folder, f"{size[0]}x{size[1]}"))
            paths = (name + suffix, name + ".bsq", name + ".out" + suffix)
            _write(paths[0], pictures(options.source, *size, frames))
            for threads in options.threads:
                tell(f"ours {size[0]}x{size[1]}, {frames} frames, {threads} threads")
                found = _measure(_job(options, "ours", size, frames, threads, paths=paths))
                result["ours"].append({"size": size, "frames": frames, "threads": threads} | found)
            if suffix == ".png":
                tell("whole processes")
                result["process"] = _processes(options, *paths)
    if options.peers:
        _add_peers(options, result, tell)
    return result


def _job(
    options: SpeedOptions,
    measure: str,
    size: tuple[int, int],
    frames: int,
    threads: int = 1,
    codec: str = "",
    paths: tuple[str, ...] = (),
) -> Job:
    common = (options.repeats, options.source, options.model, options.device)
    return Job(measure, size, frames, threads, *common, codec, paths)


def _write(path: str, frames: list[np.ndarray]) -> None:
    """Write frames to a picture or a video of 25 frames per second."""
    from ..media import open_sink
    from ..types import MediaInfo

    height, width, _ = frames[0].shape
    with open_sink(path, MediaInfo(width, height, Fraction(1, 25), Fraction(25))) as sink:
        for t, picture in enumerate(frames):
            sink.write(picture, t)


def _measure(job: Job) -> dict[str, Any]:
    """Run a job in a process of its own. Raises BsqError with its last line."""
    environment = os.environ | {"OMP_NUM_THREADS": str(job.threads), "SVT_LOG": "1"}
    command = [sys.executable, "-m", "bsqcodec.bench.speed_jobs", json.dumps(asdict(job))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise BsqError(f"{job.measure}: {_last_line(done.stderr)}")
    return json.loads(done.stdout.splitlines()[-1])


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it died"])[-1]


def _processes(options: SpeedOptions, input: str, stream: str, output: str) -> dict[str, Any]:
    """Median seconds of whole processes of the command line with the picture."""
    threads = options.threads[0]
    words = ["--threads", str(threads), "-f", "--quiet", "--device", options.device]
    commands = {
        "help": ["--help"],
        "encode": ["encode", input, stream, *words],
        "decode": ["decode", stream, output, *words],
    }
    found: dict[str, Any] = {}
    for name, command in commands.items():
        times = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "bsqcodec", *command],
                capture_output=True,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            )
            times.append(time.perf_counter() - start)
            if done.returncode:
                raise BsqError(f"bsqcodec {command[0]}: {_last_line(done.stderr)}")
        found[name] = statistics.median(times)
    return found | {"size": KODAK_SIZE, "threads": threads}


def _add_peers(options: SpeedOptions, result: dict[str, Any], tell: Tell) -> None:
    """Measure the other codecs, and set them beside ours of the same size; what is missing becomes a problem."""
    neural = NEURAL_CODECS if importlib.util.find_spec("compressai") else ()
    if not neural:
        result["problems"].append("CompressAI is not installed: pip install compressai")
    jobs = [_job(options, "neural", KODAK_SIZE, 1, codec=name) for name in neural]
    jobs += [_job(options, "anchor", KODAK_SIZE, 1, codec=name) for name in IMAGE_ANCHORS]
    jobs += [_job(options, "anchor", options.sizes[0], options.frames, codec=name) for name in VIDEO_ANCHORS]
    for job in jobs:
        tell(f"{job.codec} {job.size[0]}x{job.size[1]}")
        found = _measure(job)
        if "missing" in found:
            result["problems"].append(f"{job.codec} is left out: {found['missing']}")
            continue
        entry = {"codec": job.codec, "size": job.size, "frames": job.frames} | found
        ours = next(x for x in result["ours"] if x["size"] == job.size and x["threads"] == options.threads[0])
        entry |= {f"{what} / ours": found[what] / ours[what] for what in ("encode", "decode")}
        result["peers"].append(entry)


def environment(device: str) -> dict[str, Any]:
    """The machine and the software that the times depend on."""
    found = {"machine": processor(), "python": platform.python_version(), "torch": torch.__version__}
    return found | {"device": device, "int8 products": layers.int8_is_exact()}


def growth(result: dict[str, Any], what: str, threads: int) -> str:
    """A line on how seconds per megapixel, without reading and writing, change with the size of the videos."""
    same = [x for x in result["ours"] if x["threads"] == threads and x["frames"] == result["ours"][-1]["frames"]]
    costs = [x[f"{what} a megapixel"] for x in same]
    middle = (max(costs) + min(costs)) / 2
    each = ", ".join(f"{x['size'][0]}x{x['size'][1]} {cost:.3f}" for x, cost in zip(same, costs, strict=True))
    return f"{what}, {threads} thr., s/megapixel: {each}: +-{100 * (max(costs) / middle - 1):.0f} %"


def table(result: dict[str, Any]) -> str:
    """The result of `run` for a terminal."""
    lines = [f"{'':24}{'frames/s':>9}{'ms/frame':>9}" + "".join(f"{part:>12}" for part in (*PARTS, "peak MiB"))]
    for x in result["ours"]:
        for what in ("encode", "decode"):
            parts = "".join(f"{1000 * x['parts'][what].get(part, 0):12.1f}" for part in PARTS)
            name = f"{what} {x['size'][0]}x{x['size'][1]}, {x['threads']} thr."
            peak = x[f"{what} peak MiB"]
            lines.append(f"{name:26}{1 / x[what]:7.2f}{1000 * x[what]:9.1f}{parts}{peak or 0:12.0f}")
    for what in ("encode", "decode"):
        lines += [growth(result, what, n) for n in dict.fromkeys(x["threads"] for x in result["ours"])]
    process = result["process"]
    words = ", ".join(f"{what} {process[what]:.2f} s" for what in ("help", "encode", "decode"))
    lines.append(f"whole process, {process['size'][0]}x{process['size'][1]}, {process['threads']} thread: {words}")
    lines.append(f"model load: {1000 * result['ours'][0]['load']:.0f} ms")
    for x in result["peers"]:
        times = (
            f"{what} {1000 * x[what]:.1f} ms/frame, {x[f'{what} / ours']:.3g} x ours" for what in ("encode", "decode")
        )
        lines.append(f"{x['codec']:22} {x['size'][0]}x{x['size'][1]}: {'; '.join(times)}")
    return "\n".join([*lines, *result["problems"]])
