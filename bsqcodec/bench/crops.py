"""Crops of the source and of what the codecs make of it at equal rate, to be compared by eye."""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from .codec import Codec
from .datasets import Item
from .frames import frames_of
from .html_parts import Slider, largest_window, png
from .metrics import psnr
from .results import Curve

CROP = 256  # side of the crops, pixels
CROP_ITEMS = 3  # items that are shown, spread over the set
CROP_TRIES = 4  # encodes spent to come near the rate


class _Encoding(NamedTuple):
    chunks: list[bytes]
    rate: float  # bits per pixel
    point: float


def make_crops(codecs: list[Codec], items: list[Item], curves: dict[str, Curve], frames: int) -> list[Slider]:
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
        images = [("source", "", png(source[index][box]))]
        for codec in codecs:
            found = _at_rate(codec, item, source, target, curves[codec.name])
            frames_back = codec.decode(found.chunks, item.height, item.width)
            decoded = next(frame for i, frame in enumerate(frames_back) if i == index)
            decibels = psnr(source[index], decoded)
            caption = f"{found.rate:.3f} bpp, {decibels:.2f} dB, {codec.parameter} {found.point:g}"
            images.append((codec.label, caption, png(decoded[box])))
        title = f"{item.name}, frame {index}" if index else item.name
        crops.append(Slider(title, images, 1, min(2, len(images) - 1)))
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
    """The CROP x CROP window with the most gradient."""
    luma = frame.astype(np.float32).mean(2)
    energy = np.abs(np.diff(luma, axis=0))[:, :-1] + np.abs(np.diff(luma, axis=1))[:-1]
    return largest_window(np.pad(energy, ((0, 1), (0, 1))), CROP)
