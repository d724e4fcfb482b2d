"""The measurements of speed.py, in the process that is measured: `python -m bsqcodec.bench.speed_jobs JOB`.

JOB is a `speed.Job` as JSON; so is the result, on the last line of standard output.
"""

import contextlib
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..api import Decoder, Encoder
from ..media import open_sink, open_source
from ..network.weights import Model, device_of, load_model
from ..types import Frame
from .anchors import CODECS
from .clock import PARTS, Clock, watched
from .codec import BenchSettings
from .machine import peak_memory, reset_peak_memory
from .speed import QUALITY, Job, pictures

ANCHOR_POINTS = {"h264": 27, "hevc": 27, "av1": 35, "webp": 40, "avif": 40}
VIDEO_RATE = 25.0  # frames per second that the video anchors are told


def ours(job: Job) -> dict[str, Any]:
    """Seconds per frame of our codec, file to file, by part; and per megapixel, without the files."""
    torch.set_num_threads(job.threads)
    start = time.perf_counter()
    model = load_model(job.model, device_of(job.device))
    result: dict[str, Any] = {"load": time.perf_counter() - start, "parts": {}}
    clock = watched(model.network)
    for what, function in (("encode", _encode), ("decode", _decode)):
        reset_peak_memory()
        seconds, parts = _median_run(functools.partial(function, job, model, clock), clock, job)
        result[what], result["parts"][what] = seconds, parts
        alone = seconds - parts.get("read", 0) - parts.get("write", 0)
        result[f"{what} a megapixel"] = alone / (job.size[0] * job.size[1] / 1e6)
        result[f"{what} peak MiB"] = peak_memory()
    return result | {"bytes": os.path.getsize(job.paths[1])}


def _median_run(function: Callable[[], None], clock: Clock, job: Job) -> tuple[float, dict[str, float]]:
    """Seconds per frame of the median run, and of its parts."""
    runs = []
    for _ in range(job.repeats):
        clock.seconds.clear()
        start = time.perf_counter()
        function()
        seconds = (time.perf_counter() - start) / job.frames
        runs.append((seconds, {part: clock.seconds[part] / job.frames for part in PARTS if part in clock.seconds}))
    middle = statistics.median_low(seconds for seconds, _ in runs)
    return next(run for run in runs if run[0] == middle)


def _encode(job: Job, model: Model, clock: Clock) -> None:
    input_path, stream_path, _ = job.paths
    with clock.part("read"):
        source = open_source(input_path)
    with source, open(stream_path, "wb") as file:
        encoder = Encoder(file, source.info, model=model, quality=QUALITY)
        for item in clock.iterate(source, "read"):
            if isinstance(item, Frame):
                encoder.write(*item)
        with clock.part("write"):
            encoder.close()


def _decode(job: Job, model: Model, clock: Clock) -> None:
    _, stream_path, output_path = job.paths
    with open(stream_path, "rb") as file, contextlib.ExitStack() as output:
        decoder = Decoder(file, model=model, depth=8)
        with clock.part("write"):
            sink = output.enter_context(open_sink(output_path, decoder.info))
        for frame in decoder.frames():
            with clock.part("write"):
                sink.write(*frame)
        with clock.part("write"):
            output.close()


def anchor(job: Job) -> dict[str, Any]:
    """Seconds per frame of a codec of anchors.py, in memory, or why it is missing."""
    codec = CODECS[job.codec](BenchSettings())
    missing = codec.missing()
    if missing:
        return {"missing": missing}
    width, height = job.size
    frames = pictures(job.source, width, height, job.frames)
    point = ANCHOR_POINTS[job.codec]
    chunks = codec.encode(frames, VIDEO_RATE, point)
    return _medians(
        lambda: codec.encode(frames, VIDEO_RATE, point), lambda: list(codec.decode(chunks, height, width)), job
    ) | {"bytes": sum(map(len, chunks)), "options": codec.options()}


def neural(job: Job) -> dict[str, Any]:
    """Seconds of a codec of CompressAI with random weights, of the quality whose networks are the smallest."""
    torch.set_num_threads(job.threads)
    try:
        import compressai
        from compressai.zoo import models
    except Exception as error:  # it imports many packages, each of which may not fit
        return {"missing": f"CompressAI cannot be imported: {error}".splitlines()[0]}
    model = models[job.codec](quality=1, pretrained=False).eval()
    model.update()
    picture = pictures(job.source, *job.size, 1)[0]
    x = torch.from_numpy(picture.transpose(2, 0, 1)[None] / np.float32(255))
    with torch.inference_mode():
        coded = model.compress(x)
        found = _medians(lambda: model.compress(x), lambda: model.decompress(coded["strings"], coded["shape"]), job)
    return found | {"options": f"CompressAI {compressai.__version__}, quality 1, random weights"}


def _medians(encode: Callable[[], object], decode: Callable[[], object], job: Job) -> dict[str, Any]:
    """Median seconds per frame of both."""
    found = {}
    for what, function in (("encode", encode), ("decode", decode)):
        times = []
        for _ in range(job.repeats):
            start = time.perf_counter()
            function()
            times.append((time.perf_counter() - start) / job.frames)
        found[what] = statistics.median(times)
    return found


def main() -> None:
    """Run the job of the command line, and print its result."""
    job = Job(**json.loads(sys.argv[1]))
    print(json.dumps({"ours": ours, "anchor": anchor, "neural": neural}[job.measure](job)))


if __name__ == "__main__":
    main()
