"""Decode under every setting that changes how floats are summed, and count bits and mismatches.

    python tests/exactness.py [--device cuda]                 # the conformance streams and the int64 oracle (selftest)
    python tests/exactness.py a.bsq b.bsq [--oracle 4]        # these streams
    python tests/exactness.py --drift 250 a.mp4               # one group of 250 P frames, encoded from this video
    python tests/exactness.py ... --settings 0,8,21           # some of the settings

Each setting is a process of its own, for the libraries read theirs once. All decoded frames of a stream must have one
MD5 under all settings. A wrong bit or pixel anywhere changes what follows, so that then the largest difference of any
pixel, after any number of P frames, is 0. `--oracle N` also runs the networks on the first N frames in int64.
"""

import argparse
import copy
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile

import torch
from tqdm import tqdm

from bsqcodec.api import Decoder, Encoder
from bsqcodec.media import open_source
from bsqcodec.network.weights import Model, device_of, find_model
from bsqcodec.settings import EncodeSettings
from bsqcodec.stream.reader import StreamReader
from bsqcodec.types import Frame

SELFTEST = """
import sys, torch
torch.set_float32_matmul_precision(sys.argv.pop(1))
from bsqcodec.__main__ import main
main()
"""
SETTINGS: list[dict[str, str]] = [
    {},
    *({"threads": n} for n in ("1", "2", "3")),
    *({"OMP_NUM_THREADS": n} for n in ("1", "2", "5")),
    *({"precision": name} for name in ("high", "medium")),
    *({"MKL_ENABLE_INSTRUCTIONS": name} for name in ("SSE4_2", "AVX2", "AVX512")),
    *({"MKL_CBWR": name} for name in ("COMPATIBLE", "AVX2", "AUTO,STRICT")),
    *({"ONEDNN_MAX_CPU_ISA": name} for name in ("SSE41", "AVX2", "AVX512_CORE")),
    *({"ATEN_CPU_CAPABILITY": name} for name in ("default", "avx2", "avx512")),
    {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
    {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "threads": "2"},
]


def run_under(setting: dict[str, str], *words: str) -> subprocess.CompletedProcess:
    """Run Python with these arguments and the environment variables of a setting (those in capital letters)."""
    variables = {k: v for k, v in setting.items() if k.isupper()}
    return subprocess.run([sys.executable, *words], env=os.environ | variables, capture_output=True, text=True)


def selftest(setting: dict[str, str], device: str) -> tuple[str, int, bool]:
    """Output of `bsqcodec selftest` under a setting, the number of bits decoded, and whether all were exact."""
    words = ["selftest", "--device", device]
    words += ["--threads", setting["threads"]] if "threads" in setting else []
    done = run_under(setting, "-c", SELFTEST, setting.get("precision", "highest"), *words)
    counted = re.search(r"([0-9]+) bits", done.stdout)
    return (done.stdout + done.stderr).strip(), int(counted[1]) if counted else 0, done.returncode == 0


def streams(setting: dict[str, str], device: str, paths: list[str], expected: list[str]) -> tuple[str, int, bool]:
    """A summary of decoding streams under a setting, the number of bits decoded, and whether all were exact.

    expected: the MD5 of each stream's frames, filled in by the first setting.
    """
    words = ["--here", "--device", device, "--threads", setting.get("threads", "0")]
    done = run_under(setting, __file__, *paths, *words, "--precision", setting.get("precision", "highest"))
    if done.returncode:
        return (done.stdout + done.stderr).strip(), 0, False
    found = json.loads(done.stdout)
    digests = [f["md5"] for f in found]
    if not expected:
        expected += digests
    frames, bits = (sum(f[key] for f in found) for key in ("frames", "bits"))
    same = digests == expected
    return f"{frames} frames, {bits} bits, {'the same' if same else 'OTHER'} frames", bits, same


def decode(path: str, device: str, max_frames: int | None = None, oracle: bool = False) -> dict:
    """MD5 of the frames, their number, and the number of bits that were decoded."""
    digest, frames, bits = hashlib.md5(), 0, 0
    with open(path, "rb") as file:
        model = find_model(StreamReader(file).model, device_of(device))
    with open(path, "rb") as file:
        for frame in Decoder(file, device, in_integers(model) if oracle else model).frames(0, max_frames):
            digest.update(frame.rgb.tobytes())
            frames += 1
    with open(path, "rb") as file:
        for stats in itertools.islice(Decoder(file, device, model).symbols(), max_frames):
            bits += stats.count
    return {"md5": digest.hexdigest(), "frames": frames, "bits": bits}


def drift(video: str, frames: int, quality: int, device: str, path: str) -> None:
    """One group of an I frame and `frames` P frames; a video that is too short is played forth and back."""
    with open_source(video, audio=False) as source:
        pictures = [item.rgb for item in itertools.islice(source, frames + 1) if isinstance(item, Frame)]
        info = source.info
    there_and_back = itertools.cycle(range(2 * len(pictures) - 2)) if len(pictures) > 1 else itertools.repeat(0)
    with open(path, "wb") as file:
        encoder = Encoder(file, info, EncodeSettings(quality, frames + 1, low_delay=True), device=device)
        types = ""
        for pts, i in enumerate(tqdm(itertools.islice(there_and_back, frames + 1), "encode", frames + 1)):
            encoder.write(pictures[min(i, 2 * len(pictures) - 2 - i)], pts)
            assert encoder.stats
            types += encoder.stats.frame_type
        encoder.close()
    print(f"{os.path.basename(video)}, quality {quality}: {types.count('I')} I frame, {types.count('P')} P frames")


def in_integers(model: Model) -> Model:
    """The same model, whose networks compute in int64."""
    model = copy.copy(model)
    model.network, model.device = model.network.oracle(), torch.device("cpu")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("streams", nargs="*")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--settings", help="numbers of settings, as in 0,8,21  [default: all]")
    parser.add_argument("--oracle", type=int, default=0, metavar="FRAMES")
    parser.add_argument("--drift", type=int, metavar="FRAMES", help="P frames of a group to be made")
    parser.add_argument("--quality", type=int, default=60, help="of --drift")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="highest", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        torch.set_float32_matmul_precision(options.precision)
        torch.set_num_threads(options.threads or torch.get_num_threads())
        print(json.dumps([decode(path, options.device) for path in options.streams]))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.drift:
            path = os.path.join(folder, "drift.bsq")
            drift(options.streams[0], options.drift, options.quality, options.device, path)
            options.streams = [path]
        sys.exit(check(options))


def check(options: argparse.Namespace) -> bool:
    """Returns whether anything differs."""
    bits = wrong = 0
    expected: list[str] = []
    chosen = [SETTINGS[int(i)] for i in options.settings.split(",")] if options.settings else SETTINGS
    for setting in chosen:
        if options.streams:
            said, count, well = streams(setting, options.device, options.streams, expected)
        else:
            said, count, well = selftest(setting, options.device)
        bits += count
        wrong += not well
        name = ", ".join(f"{k}={v}" for k, v in setting.items()) or "default"
        print(f"{name}: {said}", flush=True)
    for path in options.streams if options.oracle else []:
        float32, int64 = (decode(path, options.device, options.oracle, oracle) for oracle in (False, True))
        same = float32 == int64
        wrong += not same
        print(f"{os.path.basename(path)}, int64 oracle: {int64['frames']} frames, {int64['bits']} bits, "
              f"{'the same' if same else 'OTHER'} frames", flush=True)  # fmt: skip
    print(f"{len(chosen)} settings, torch {torch.__version__}: {bits} bits decoded, {wrong} with a mismatch")
    return bool(wrong)


if __name__ == "__main__":
    main()
