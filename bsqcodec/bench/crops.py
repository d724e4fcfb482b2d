"""Crops of the source and of what the codecs make of it at equal rate, to be compared by eye."""

import functools
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from .codec import Codec
from .datasets import Item
from .frames import frames_of
from .metrics import psnr
from .results import Curve

CROP = 256  # side of the crops, pixels
CROP_ITEMS = 3  # items that are shown, spread over the set
CROP_TRIES = 4  # encodes spent to come near the rate


@dataclass(frozen=True)
class Crop:
    """One part of one item as the source has it and as each codec gives it.

    Attributes:
        item: name of the item.
        frame: number of the frame.
        images: (label, caption, PNG file), the source first.
    """

    item: str
    frame: int
    images: list[tuple[str, str, bytes]]


class _Encoding(NamedTuple):
    chunks: list[bytes]
    rate: float  # bits per pixel
    point: float


def make_crops(codecs: list[Codec], items: list[Item], curves: dict[str, Curve], frames: int) -> list[Crop]:
    """Crops of up to CROP_ITEMS items, each codec as near as it comes to the rate of the first codec's middle point.

    Args:
        codecs: the codec under test first.
        items: of which some are chosen.
        curves: codec name to curve, of all these codecs.
        frames: largest number of frames that are coded; 0 is all. The middle one is shown.
    """
    chosen = [items[i] for i in sorted({round(i) for i in np.linspace(0, len(items) - 1, CROP_ITEMS)})]
    crops = []
    for item in tqdm(chosen, desc="crops", unit="item", disable=None):
        rates = curves[codecs[0].name]["items"][item.name]["bpp"]
        target = rates[len(rates) // 2]
        source = list(frames_of(Path(item.path), frames or None))
        index = len(source) // 2
        box = _busiest(source[index])
        images = [("source", "", _png(source[index][box]))]
        for codec in codecs:
            found = _at_rate(codec, item, source, target, curves[codec.name])
            frames_back = codec.decode(found.chunks, item.height, item.width)
            decoded = next(frame for i, frame in enumerate(frames_back) if i == index)
            decibels = psnr(source[index], decoded)
            caption = f"{found.rate:.3f} bpp, {decibels:.2f} dB, {codec.parameter} {found.point:g}"
            images.append((codec.label, caption, _png(decoded[box])))
        crops.append(Crop(item.name, index, images))
    return crops


def _at_rate(codec: Codec, item: Item, source: list[np.ndarray], target: float, curve: Curve) -> _Encoding:
    """The encoding nearest to `target` bits per pixel, by bisection from the points of the item's curve."""
    pixels = item.width * item.height * len(source)
    points, rates = curve["points"], curve["items"][item.name]["bpp"]

    @functools.cache
    def encode(point: float) -> _Encoding:
        codec.load()
        chunks = codec.encode(iter(source), item.fps, point)
        return _Encoding(chunks, sum(map(len, chunks)) * 8 / pixels, point)

    def by_rate(point: float) -> float:
        return point if codec.rising else -point

    def distance(rate: float) -> float:
        return abs(math.log(rate / target))

    best = min(range(len(rates)), key=lambda i: distance(rates[i]))
    found = [encode(points[best])]
    below = max((p for p, r in zip(points, rates, strict=True) if r <= target), key=by_rate, default=None)
    above = min((p for p, r in zip(points, rates, strict=True) if r > target), key=by_rate, default=None)
    while below is not None and above is not None and abs(above - below) > 1 and len(found) <= CROP_TRIES:
        middle = round((below + above) / 2)
        found.append(encode(middle))
        if found[-1].rate <= target:
            below = middle
        else:
            above = middle
    return min(found, key=lambda f: distance(f.rate))


def _busiest(frame: np.ndarray) -> tuple[slice, slice]:
    """The CROP x CROP window, on a grid of half its side, with the most gradient."""
    luma = frame.astype(np.float32).mean(2)
    energy = np.abs(np.diff(luma, axis=0))[:, :-1] + np.abs(np.diff(luma, axis=1))[:-1]
    h, w = min(CROP, frame.shape[0]), min(CROP, frame.shape[1])
    corners = [
        (y, x) for y in range(0, frame.shape[0] - h + 1, CROP // 2) for x in range(0, frame.shape[1] - w + 1, CROP // 2)
    ]
    y, x = max(corners, key=lambda c: float(energy[c[0] : c[0] + h, c[1] : c[1] + w].sum()))
    return slice(y, y + h), slice(x, x + w)


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", optimize=True)
    return out.getvalue()
