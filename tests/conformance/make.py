"""Write the conformance streams of every packaged model that has none yet into bsqcodec/conformance.

Run it when a model is released. Streams that are there stay as they are: what was released once must decode forever.
Until 1.0 there is one model, and its streams are made anew with it: empty the folder first.

    python tests/conformance/make.py
"""

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from skimage import data

import bsqcodec
from bsqcodec.model_files import packaged_ids
from bsqcodec.network.weights import Model, find_model
from bsqcodec.selftest import checksums
from bsqcodec.types import MediaInfo

FOLDER = Path(bsqcodec.__file__).parent / "conformance"
MAX_BYTES = 150_000  # of all streams of a model together


def pan(picture: np.ndarray, frames: int, height: int, width: int) -> list[np.ndarray]:
    """Crops of a picture along a straight path, each uint8 (height, width, 3)."""
    return [picture[2 * t : 2 * t + height, 3 * t : 3 * t + width] for t in range(frames)]


def with_disc(pictures: list[np.ndarray], edge: float) -> list[np.ndarray]:
    """The pictures with the alpha of a disc that moves, with an edge so many pixels wide."""
    y, x = np.mgrid[: pictures[0].shape[0], : pictures[0].shape[1]]
    far = [np.hypot(y - 40 - t, x - 50 - 2 * t) for t in range(len(pictures))]
    alphas = [np.clip((30 - f) * 255 / edge + 128, 0, 255).astype(np.uint8) for f in far]
    return [np.dstack(pair) for pair in zip(pictures, alphas, strict=True)]


def contents() -> dict[str, tuple[list[np.ndarray], list[int], int]]:
    """Frames, quality of each, and length of a group, by name."""
    astronaut, cat, coffee = data.astronaut(), data.chelsea(), data.coffee()
    gray = np.repeat(data.camera()[100:196, 200:296, None], 3, axis=2)
    still = {
        "photo-q1": (astronaut[0:160, 140:332], 1),
        "photo-q50": (astronaut[0:160, 140:332], 50),
        "photo-q100": (astronaut[0:160, 140:332], 100),
        "psnr-q45": (astronaut[0:160, 140:332], 45),
        "odd-q75": (cat[60:161, 120:253], 75),
        "gray-q30": (gray, 30),
        "pixel-q90": (coffee[200:201, 300:301], 90),
        "15x17-q60": (coffee[200:217, 300:315], 60),
        "flat-q10": (np.full((40, 72, 3), 200, np.uint8), 10),
        "noise-q100": (np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8), 100),
    }
    found = {name: ([picture], [quality], 1) for name, (picture, quality) in still.items()}
    walk = pan(astronaut[100:], 6, 80, 112)
    cut = pan(astronaut, 3, 64, 64) + pan(cat, 3, 64, 64)
    found["motion-q40"] = (walk, [40] * 6, 4)
    found["low-delay-q40"] = (walk, [40] * 6, 4)
    found["psnr-motion-q55"] = (walk, [55] * 6, 6)
    found["motion-odd-q85"] = (pan(coffee[150:, 200:], 4, 33, 47), [85] * 4, 32)
    found["cut-scene-q60"] = (cut, [60] * 6, 32)
    restless = np.repeat(cat[None, 60:92, 120:168], 13, axis=0)
    restless[9:, :, 32:] = np.random.default_rng(1).integers(0, 256, (4, 32, 16, 3))
    found["mini-gops-q45"] = (list(restless), [45] * 13, 32)  # of 8 frames, then of 2
    found["10-bits-q30"] = (walk[:4], [30] * 4, 4)
    found["12-bits-q90"] = ([cat[60:101, 120:173]], [90], 1)
    found["alpha-mask-q50"] = (with_disc(walk[:3], 0.01), [50] * 3, 3)
    found["alpha-edge-q20"] = (with_disc(walk[:3], 3), [20] * 3, 3)
    found["10-bits-alpha-slope-q40"] = (with_disc(walk[:3], 50), [40] * 3, 2)
    found["many-qualities"] = (pan(cat[50:], 34, 16, 32), list(range(1, 101, 3)), 20)
    return found


def main() -> None:
    listed = FOLDER / "streams.json"
    streams = json.loads(listed.read_text()) if listed.exists() else []
    for identity in packaged_ids().keys() - {bytes.fromhex(stream["model"]) for stream in streams}:
        streams += make(find_model(identity))
    listed.write_text(json.dumps(streams, indent=1) + "\n")
    print(f"{len(streams)} streams")


def make(model: Model) -> list[dict[str, Any]]:
    """Write the streams of a model; returns their entries of `selftest.conformance_streams`."""
    made = []
    size = bits = 0
    for name, (frames, qualities, gop) in contents().items():
        file = io.BytesIO()
        height, width = frames[0].shape[:2]
        rate = None if len(frames) == 1 else Fraction(25)
        low_delay, depth = name.startswith("low-delay"), 8
        if "-bits" in name:
            depth = int(name.partition("-")[0])
        info = MediaInfo(width, height, frame_rate=rate, bit_depth=depth, alpha=frames[0].shape[2] == 4)
        tune = "psnr" if name.startswith("psnr") else "perceptual"
        encoder = bsqcodec.Encoder(file, info, model=model, gop=gop, low_delay=low_delay, tune=tune)
        for pts, (frame, quality) in enumerate(zip(frames, qualities, strict=True)):
            encoder.quality = quality
            encoder.write(frame, pts)
        encoder.close()
        content = file.getvalue()
        entry, count = checksums(content, model)
        name = f"{model.id.hex()}-{name}.bsq"
        (FOLDER / name).write_bytes(content)
        made.append({"file": name, **entry})
        size, bits = size + len(content), bits + count
    print(f"model {model.name}: {len(made)} streams, {size} bytes, {bits} bits")
    assert size < MAX_BYTES
    return made


if __name__ == "__main__":
    main()
