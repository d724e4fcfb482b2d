"""`bsqcodec bench --speed`: where the time of encoding and decoding goes, beside other codecs on the same machine.

Every measurement runs in a process of its own, so that peaks of memory and settings of threads are its own.
"""

import contextlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BsqError

SIZES = ((416, 240), (640, 360), (1280, 720), (1920, 1080))
IMAGE = (768, 512)  # Kodak's
NEURAL = ("bmshj2018-hyperprior", "mbt2018", "cheng2020-anchor")  # of CompressAI
QUALITY = 40
POINTS = {"h264": 27, "hevc": 27, "av1": 35, "webp": 40, "avif": 40}
PARTS = ("read", "motion", "tokenizer", "prior", "range coder", "write")


def pictures(source: str, width: int, height: int, frames: int) -> list[np.ndarray]:
    """Frames of a file scaled to a size, or of a camera that pans over a photograph; uint8 (H, W, 3)."""
    from PIL import Image

    if source:
        from .datasets import frames_of

        found = [Image.fromarray(frame) for frame in frames_of(Path(source), frames)]
        found = [found[min(i, len(found) - 1)] for i in range(frames)]
        return [np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) for image in found]
    from skimage import data

    margin = 3 * frames
    wide = Image.fromarray(data.astronaut()).resize((width + margin, height + margin), Image.Resampling.BICUBIC)
    every = np.asarray(wide)
    return [np.ascontiguousarray(every[2 * t : 2 * t + height, 3 * t : 3 * t + width]) for t in range(frames)]


# ---------------------------------------------------------------- in the process that is measured


class _Clock:
    """Seconds spent in functions and iterators, by part; what is inside another part counts there alone.

    What threads do side by side adds up.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._threads: dict[int, list[float]] = defaultdict(list)

    @property
    def _within(self) -> list[float]:
        return self._threads[threading.get_ident()]

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._within.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] += spent - self._within.pop()
            if self._within:
                self._within[-1] += spent

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        function = getattr(owner, attribute)

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        setattr(owner, attribute, timed)

    def iterate(self, items: Any, name: str) -> Iterator[Any]:
        iterator = iter(items)
        while True:
            with self.part(name):
                item = next(iterator, None)
            if item is None:
                return
            yield item


def watched(network: Any) -> _Clock:
    """A clock of what coding with these networks spends, by part; it is not taken off again."""
    from ..gop import encoder, references
    from ..stream import contrast
    from ..stream.motion_vectors import VectorCoder
    from ..stream.range_coder import BitDecoder, BitEncoder

    clock = _Clock()
    for owner, attribute, part in (
        (encoder, "search_field", "motion"), (encoder, "cheapest_vectors", "motion"),
        (references, "compensate", "motion"),
        (network, "classes", "tokenizer"), (network, "context", "tokenizer"), (network, "encode", "tokenizer"),
        (network, "decode", "tokenizer"), (network, "code", "prior"),
        (BitEncoder, "encode", "range coder"), (BitDecoder, "decode", "range coder"),
        (VectorCoder, "encode", "range coder"), (VectorCoder, "decode", "range coder"),
        (contrast, "encode_classes", "range coder"), (contrast, "decode_classes", "range coder"),
    ):  # fmt: skip
        clock.watch(owner, attribute, part)
    return clock


def _ours(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds a frame of one encode and one decode, file to file, by part; and a megapixel, without the files."""
    import torch

    from .. import media
    from ..api import Decoder, Encoder
    from ..network.weights import device_of, load_model
    from .runner import _peak, _reset_peak

    torch.set_num_threads(job["threads"])
    start = time.perf_counter()
    model = load_model(job["model"], device_of(job["device"]))
    load = time.perf_counter() - start
    clock = watched(model.network)
    result: dict[str, Any] = {"load": load, "parts": {}}
    for what in ("encode", "decode"):
        totals, parts = [], []
        _reset_peak()
        for _ in range(job["repeats"]):
            clock.seconds.clear()
            start = time.perf_counter()
            with contextlib.ExitStack() as files:
                if what == "encode":
                    with clock.part("read"):
                        source = files.enter_context(media.open_source(job["input"]))
                    encoder = Encoder(
                        files.enter_context(open(job["stream"], "wb")), source.info, model=model, quality=QUALITY
                    )
                    for item in clock.iterate(source, "read"):
                        encoder.write(*item)
                    with clock.part("write"):
                        encoder.close()
                else:
                    decoder = Decoder(files.enter_context(open(job["stream"], "rb")), model=model)
                    with clock.part("write"):
                        sink = files.enter_context(media.open_sink(job["output"], decoder.info))
                    for frame in decoder.frames():
                        with clock.part("write"):
                            sink.write(*frame)
                with clock.part("write"):
                    files.close()
            totals.append((time.perf_counter() - start) / job["frames"])
            parts.append({name: clock.seconds[name] / job["frames"] for name in PARTS if name in clock.seconds})
        middle = statistics.median_low(totals)
        result[what] = middle
        result["parts"][what] = found = parts[totals.index(middle)]
        alone = middle - found.get("read", 0) - found.get("write", 0)
        result[f"{what} a megapixel"] = alone / (source.info.width * source.info.height / 1e6)
        result[f"{what} peak MiB"] = _peak()
    result["bytes"] = os.path.getsize(job["stream"])
    return result


def _anchor(job: dict[str, Any]) -> dict[str, Any]:
    """A codec of `anchors`."""
    from .anchors import CODECS, Settings

    codec = CODECS[job["codec"]](Settings(32, "low-delay", "yuv420p", "", "cpu"))
    missing = codec.missing()
    if missing:
        return {"missing": missing}
    width, height = job["size"]
    frames = pictures(job["source"], width, height, job["frames"])
    chunks = codec.encode(frames, 25.0, POINTS[job["codec"]])
    return _medians(
        lambda: codec.encode(frames, 25.0, POINTS[job["codec"]]),
        lambda: list(codec.decode(chunks, height, width)),
        job,
    ) | {"bytes": sum(map(len, chunks)), "options": codec.options()}


def _neural(job: dict[str, Any]) -> dict[str, Any]:
    """A codec of CompressAI with random weights, of the quality whose networks are the smallest."""
    import torch

    torch.set_num_threads(job["threads"])
    try:
        import compressai
        from compressai.zoo import models
    except Exception as error:  # it imports many packages, each of which may not fit
        return {"missing": f"CompressAI cannot be imported: {error}".splitlines()[0]}
    model = models[job["codec"]](quality=1, pretrained=False).eval()
    model.update()
    width, height = job["size"]
    picture = pictures(job["source"], width, height, 1)[0]
    x = torch.from_numpy(picture.transpose(2, 0, 1)[None] / np.float32(255))
    with torch.inference_mode():
        coded = model.compress(x)
        found = _medians(lambda: model.compress(x), lambda: model.decompress(coded["strings"], coded["shape"]), job)
    return found | {"options": f"CompressAI {compressai.__version__}, quality 1, random weights"}


def _medians(encode: Callable[[], Any], decode: Callable[[], Any], job: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for what, function in (("encode", encode), ("decode", decode)):
        times = []
        for _ in range(job["repeats"]):
            start = time.perf_counter()
            function()
            times.append((time.perf_counter() - start) / job["frames"])
        found[what] = statistics.median(times)
    return found


# ---------------------------------------------------------------- in the process that asks


def _measure(kind: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run a job in a process of its own. Raises BsqError with its last words."""
    environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"]), "SVT_LOG": "1"}
    command = [sys.executable, "-m", "bsqcodec.bench.speed", kind, json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise BsqError(f"{kind}: {(done.stderr.strip().splitlines() or ['it died'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _whole(words: list[str], threads: int, repeats: int) -> float:
    """Median seconds of a whole process of the command line."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "bsqcodec", *words],
            capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        times.append(time.perf_counter() - start)
        if done.returncode:
            raise BsqError(f"bsqcodec {words[0]}: {(done.stderr.strip().splitlines() or ['it died'])[-1]}")
    return statistics.median(times)


def run(
    source: str, sizes: tuple[tuple[int, int], ...], threads: tuple[int, ...], frames: int, repeats: int,
    model: str, device: str, peers: bool, tell: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Measure everything.

    Args:
        source: a picture or video that is scaled to every size; "" synthesises one.
        sizes: of the videos, (width, height) in pixels.
        threads: each number of threads of our codec that is tried; peers run on one.
        frames: of each video.
        repeats: of which the median counts.
        tell: called with a line for each measurement before it starts.

    Returns what goes into the JSON file: seconds a frame, unless a key says otherwise. Raises BsqError.
    """
    from .. import media
    from ..types import MediaInfo

    result: dict[str, Any] = {"ours": [], "peers": [], "process": {}, "problems": []}
    base = {"source": source, "repeats": repeats, "model": model, "device": device}
    with tempfile.TemporaryDirectory(prefix="bsqcodec-speed-") as folder:
        for suffix, size, count in ((".png", IMAGE, 1), *((".mkv", size, frames) for size in sizes)):
            name = str(Path(folder, f"{size[0]}x{size[1]}"))
            names = {"input": name + suffix, "stream": name + ".bsq", "output": name + ".out" + suffix}
            info = MediaInfo(*size, Fraction(1, 25), Fraction(25))
            with media.open_sink(names["input"], info) as sink:
                for t, picture in enumerate(pictures(source, *size, count)):
                    sink.write(picture, t)
            for n in threads:
                tell(f"ours {size[0]}x{size[1]}, {count} frames, {n} threads")
                job = base | names | {"threads": n, "frames": count}
                result["ours"].append({"size": size, "frames": count, "threads": n} | _measure("ours", job))
            if suffix == ".png":
                words = ["--threads", str(threads[0]), "-f", "--quiet", "--device", device]
                tell("whole processes")
                result["process"] = {
                    "help": _whole(["--help"], threads[0], repeats),
                    "encode": _whole(["encode", names["input"], names["stream"], *words], threads[0], repeats),
                    "decode": _whole(["decode", names["stream"], names["output"], *words], threads[0], repeats),
                }
                result["process"] |= {"size": size, "threads": threads[0]}
    neural = NEURAL if importlib.util.find_spec("compressai") else ()
    if peers and not neural:
        result["problems"].append("CompressAI is not installed: pip install compressai")
    jobs = [("neural", name, IMAGE, 1) for name in neural]
    jobs += [("anchor", name, IMAGE, 1) for name in ("webp", "avif")]
    jobs += [("anchor", name, sizes[0], frames) for name in ("h264", "hevc", "av1")]
    for kind, name, size, count in jobs if peers else ():
        tell(f"{name} {size[0]}x{size[1]}")
        found = _measure(kind, base | {"codec": name, "size": size, "frames": count, "threads": 1})
        if "missing" in found:
            result["problems"].append(f"{name} is left out: {found['missing']}")
            continue
        entry = {"codec": name, "size": size, "frames": count} | found
        ours = next(x for x in result["ours"] if x["size"] == size and x["threads"] == threads[0])
        entry |= {f"{what} / ours": found[what] / ours[what] for what in ("encode", "decode")}
        result["peers"].append(entry)
    return result


def machine(device: str) -> dict[str, Any]:
    import torch

    from ..network import layers
    from .report import machine as described

    found = {"machine": described(), "python": platform.python_version(), "torch": torch.__version__}
    return found | {"device": device, "int8 products": layers.int8_is_exact()}


def growth(result: dict[str, Any], what: str, threads: int) -> str:
    """How seconds a megapixel, reading and writing left out, change with the size; all of as many frames."""
    same = [x for x in result["ours"] if x["threads"] == threads and x["frames"] == result["ours"][-1]["frames"]]
    costs = [x[f"{what} a megapixel"] for x in same]
    middle = (max(costs) + min(costs)) / 2
    each = ", ".join(f"{x['size'][0]}x{x['size'][1]} {cost:.3f}" for x, cost in zip(same, costs))
    return f"{what}, {threads} thr., s/megapixel: {each}: +-{100 * (max(costs) / middle - 1):.0f} %"


def table(result: dict[str, Any]) -> str:
    """For the terminal."""
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


if __name__ == "__main__":
    print(json.dumps({"ours": _ours, "anchor": _anchor, "neural": _neural}[sys.argv[1]](json.loads(sys.argv[2]))))
