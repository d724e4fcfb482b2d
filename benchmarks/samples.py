#!/usr/bin/env python3
"""A sheet of what the model makes up (`bsqcodec sample`), benchmarks/results/samples.jpg: half a minute on a core.

Rows, from above: I frames that are drawn at the qualities 10, 25, 40, 60 and 80, two at temperature 1 and two at 0.7;
photographs with a square hole that is drawn, at quality 25 and 50: as they are coded, the first candidate, the best of
8, the best of 64; frames 0, 4, 8 and 16 of a video that begins with a photograph, at quality 40 and temperature 1, then
at 0.7. `--figures 64` prints how well holes are filled, in two minutes more.
"""

import argparse
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data as skdata

from bsqcodec import encode_image, load_model, sample_frames, stream_to_arrays
from bsqcodec.network.tokenizer import Condition
from bsqcodec.network.weights import Model
from bsqcodec.sample.bits import BitSampler
from bsqcodec.stream.contrast import complete_classes

SIDE, GAP = 192, 4
QUALITIES = (10, 25, 40, 60, 80)
TEMPERATURES = (1.0, 0.7)
TIMES = (0, 4, 8, 16)
CANDIDATES = (1, 8, 64)
HOLE = slice(64, 128)
SMALL_HOLE, PHOTO_SIDE = slice(48, 80), 128  # where holes are measured: photographs, from these rows and columns on
PHOTOS = (
    ("chelsea", 20, 80), ("coffee", 100, 150), ("astronaut", 60, 150), ("rocket", 100, 200), ("astronaut", 300, 300),
    ("coffee", 200, 300), ("chelsea", 150, 200), ("astronaut", 380, 60), ("coffee", 20, 20),
)  # fmt: skip


def drawn(model: Model, quality: int) -> list[np.ndarray]:
    """I frames, two of each temperature."""
    chosen = [(seed, t) for t in TEMPERATURES for seed in (1, 2)]
    return [
        next(sample_frames((SIDE, SIDE), quality=quality, seed=seed, temperature=t, model=model)) for seed, t in chosen
    ]


def completed(model: Model, picture: np.ndarray, quality: int) -> list[np.ndarray]:
    """The coded picture, and completions of it."""
    mask = np.zeros(picture.shape[:2], bool)
    mask[HOLE, HOLE] = True
    coded = next(sample_frames(picture=picture, quality=quality, model=model))
    options = {"picture": picture, "mask": mask, "quality": quality, "model": model}
    return [coded, *(next(sample_frames(candidates=n, seed=1, **options)) for n in CANDIDATES)]


def continued(model: Model, picture: np.ndarray, temperature: float) -> list[np.ndarray]:
    """Frames of a video that begins with a picture."""
    options = {"quality": 40, "seed": 1, "temperature": temperature, "model": model}
    frames = list(sample_frames(picture=picture, frames=TIMES[-1], **options))
    return [frames[t] for t in TIMES]


def figures(model: Model, quality: int, n: int) -> str:
    """How well holes of 32x32 pixels in photographs are filled with the best of 1, 8 and 16 candidates, as means over
    choices among n of them: the step over the border, and the root mean squared distance from the coded picture."""
    rows = {k: [] for k in (1, 8, 16)}
    steps, random = [], np.random.default_rng(0)
    for seed, (photo, y, x) in enumerate(PHOTOS):
        picture = np.ascontiguousarray(getattr(skdata, photo)()[y : y + PHOTO_SIDE, x : x + PHOTO_SIDE])
        coded = next(sample_frames(picture=picture, quality=quality, model=model)).astype(float)
        steps.append(border_step(coded, SMALL_HOLE))
        found = np.array([*candidates(model, picture, quality, BitSampler(1000 + seed), n)])
        for k, means in rows.items():
            chosen = [random.choice(n, k, replace=False) for _ in range(400)]
            means.append(np.mean([found[those[np.argmin(found[those, 0])], 1:] for those in chosen], 0))
    told = [
        f"best of {k}: step {a:.1f}, distance {b:.1f}" for k, (a, b) in ((k, np.mean(m, 0)) for k, m in rows.items())
    ]
    better = sum(eight[1] < one[1] for one, eight in zip(rows[1], rows[8], strict=True))
    return (
        f"quality {quality}, {len(PHOTOS)} photographs, step as coded {np.mean(steps):.1f}; {'; '.join(told)}; "
        f"best of 8 closer than of 1 in {better}"
    )


@torch.inference_mode()
def candidates(
    model: Model, picture: np.ndarray, quality: int, sampler: BitSampler, n: int
) -> Iterator[tuple[float, float, float]]:
    """Of n fillings of a hole: bits of the rest, step over the border, distance."""
    network, condition, side = model.network, Condition(0, quality, 0), PHOTO_SIDE // 16
    archive = io.BytesIO()
    stream_to_arrays(io.BytesIO(encode_image(picture, quality=quality, model=model)), archive, model=model)
    arrays = np.load(io.BytesIO(archive.getvalue()))
    classes = arrays["frame0.classes"].astype(np.int64)
    known = torch.from_numpy(arrays["frame0.coefficients"])[None, ..., : network.n_coded(quality)]
    drawn = np.zeros((side, side), bool)
    drawn[SMALL_HOLE.start // 16 : SMALL_HOLE.stop // 16, SMALL_HOLE.start // 16 : SMALL_HOLE.stop // 16] = True
    only = torch.from_numpy(drawn)[None]
    coded = None
    for i in range(n + 1):
        sampler.weighed = 0
        some = complete_classes(np.ma.masked_array(classes, drawn & (i > 0)), sampler.complete)
        context = network.context(condition, None, torch.from_numpy(some)[None].to(model.device))
        values = network.code(context, condition, sampler.draw, known, only=only) if i else known.to(model.device)
        pixels = network.decode(values, context, condition)[0][0].permute(1, 2, 0).cpu().numpy().astype(float)
        if coded is None:  # the first round draws nothing
            coded = pixels
            continue
        network.code(context, condition, sampler.weigh, values, only=~only)
        shown = coded.copy()
        shown[SMALL_HOLE, SMALL_HOLE] = pixels[SMALL_HOLE, SMALL_HOLE]
        distance = float(np.sqrt(((shown - coded)[SMALL_HOLE, SMALL_HOLE] ** 2).mean()))
        yield sampler.weighed / 65536, border_step(shown, SMALL_HOLE), distance


def border_step(picture: np.ndarray, hole: slice) -> float:
    """Mean absolute difference of the pixels on both sides of the hole's border."""
    turned = (picture, picture[::-1], picture.transpose(1, 0, 2), picture[:, ::-1].transpose(1, 0, 2))
    return float(np.mean([np.abs(p[hole.start, hole] - p[hole.start - 1, hole]).mean() for p in turned]))


def sheet(rows: list[list[np.ndarray]]) -> Image.Image:
    """Pictures of one size, row by row, on white."""
    out = np.full((len(rows) * (SIDE + GAP) - GAP, len(rows[0]) * (SIDE + GAP) - GAP, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(islice(row, len(rows[0]))):
            y, x = i * (SIDE + GAP), j * (SIDE + GAP)
            out[y : y + SIDE, x : x + SIDE] = picture
    return Image.fromarray(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results/samples.jpg"))
    parser.add_argument("--figures", type=int, default=0, help="candidates of each hole to measure them with")
    arguments = parser.parse_args()
    model = load_model()
    cat = np.ascontiguousarray(skdata.chelsea()[20 : 20 + SIDE, 80 : 80 + SIDE])
    cup = np.ascontiguousarray(skdata.coffee()[100 : 100 + SIDE, 150 : 150 + SIDE])
    rows = [drawn(model, quality) for quality in QUALITIES]
    rows += [completed(model, cat, 25), completed(model, cup, 50)]
    rows += [continued(model, cat, temperature) for temperature in TEMPERATURES]
    sheet(rows).save(arguments.out, quality=80)
    for quality in (25, 50) if arguments.figures else ():
        print(figures(model, quality, arguments.figures), flush=True)


if __name__ == "__main__":
    main()
