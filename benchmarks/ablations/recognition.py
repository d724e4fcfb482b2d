"""What a linear classifier finds in the tokens of the packaged model, against pixels, DCT and KLT of the same pictures.

Nothing is trained but the probe: ridge regression to one-hot labels, on centred features. Its regulariser is chosen,
for each fold anew, by the leave-one-out error within the training part (Allen's PRESS, in closed form). Features are
not brought to equal variance: with few labels a coefficient that is hardly ever coded would outweigh all others. So any
orthogonal transform of the pixels, a DCT or KLT, is the same to the probe as the pixels; what differs from them differs
by the quantiser, or because it is no linear function of them.

The pictures are those that scikit-image's wheel holds, gray, so that R = G = B:

    faces       `lfw_subset`: 100 faces and 100 crops of backgrounds of Labeled Faces in the Wild, 25x25, here resized
                to 48x48 (bicubic); 5 folds, stratified. 160 labels: each fold is named after the others are learnt.
                40 labels: the others are named after it is learnt
    textures    brick, grass, gravel: 100 crops of 48x48 of each, none of which overlap; 2 folds, which are halves of
                each picture, left and right or upper and lower

The backgrounds are so much smoother than the faces that one number, `detail`, all but tells them apart. It is no linear
function of pixels; nor is what tells textures apart. So there are two sorts of controls: that number, and coefficients
that no network has seen, as two features each, as a bit plane has two bits for each.

A seed stands for `REPEATS` draws of the folds. Means and standard deviations are over draws: the pictures stay the
same, so that with 200 or 300 others the accuracy would vary more: by 1.5 % where 95 % are right, 3 % where 65 % are.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.fft import dctn
from skimage import data as samples

from bsqcodec.gop.encoder import ERROR_BITS
from bsqcodec.gop.references import Motion
from bsqcodec.gop.symbol_encoder import SymbolEncoder
from bsqcodec.network.patches import TOKEN
from bsqcodec.network.quantiser import STEP_BITS, WEIGHT_BITS
from bsqcodec.network.tokenizer import MID_GRAY, Condition
from bsqcodec.network.weights import Model, load_model
from bsqcodec.settings import DEFAULT_MODEL
from bsqcodec.stream.group import Place
from bsqcodec.tokens.digits import to_digits

from .data import Data, Settings

SIDE = 48  # of a picture, in pixels: 3x3 tokens
PER_QUADRANT = 5  # rows and columns of crops in a quarter of a texture
FACES, FOLDS, REPEATS = 100, 5, 10
QUALITIES = (10, 25, 40, 70)
RIDGES = 10.0 ** np.arange(-5, 4)  # regularisers, in the mean eigenvalue of the centred Gram matrix
KINDS = {
    "values": "the tokens' coefficients as numbers, in pixel values",
    "digits": "the tokens' bits, above and below, of every plane of every coefficient",
    "klt-digits": "the same bits of the `klt`, rounded with the same steps: without the encoder's network and choice",
}
VARIANTS = {
    "detail": "one number, the mean of absolute second differences along rows",
    "pixels": "the pixels",
    "dct": "DCT of blocks of 16x16 pixels, all coefficients",
    "dct-split": "the same, each as two numbers, its positive and its negative part",
    "klt": "the model's linear transform alone, not quantised",
    "klt-split": "the same, each as two numbers",
    **{f"{kind}-{quality}": f"quality {quality}: {text}" for quality in QUALITIES for kind, text in KINDS.items()},
}


class Pictures(NamedTuple):
    """Labelled pictures.

    Attributes:
        pixels: uint8 (N, SIDE, SIDE), gray.
        labels: int64 (N,), from 0.
        folds: draws the number of the fold of each picture, int64 (N,), from 0.
    """

    pixels: np.ndarray
    labels: np.ndarray
    folds: Callable[[np.random.Generator], np.ndarray]


class Tokens(NamedTuple):
    """What the encoder makes of pictures.

    Attributes:
        coefficients: in quantiser steps, int32 (N, 3, 3, n_coded).
        units: what one of a coefficient is in pixel values, step times weight, float32 (N, 3, 3, n_coded).
        bits: ideal code length of a picture, its mean.
    """

    coefficients: np.ndarray
    units: np.ndarray
    bits: float


def stratified(labels: np.ndarray, rng: np.random.Generator, folds: int = FOLDS) -> np.ndarray:
    """The fold of each picture: drawn, with as many of each class in each fold, or one more."""
    fold = np.zeros_like(labels)
    for label in np.unique(labels):
        at = rng.permutation(np.flatnonzero(labels == label))
        fold[at] = np.arange(len(at)) % folds
    return fold


def halves(rows: np.ndarray, columns: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The fold of each crop, 0 or 1: of each class all of one half of its picture, across or upright, are in one.

    rows, columns: 0 in the upper or left half, 1 in the other.
    """
    fold = np.zeros_like(labels)
    for label in np.unique(labels):
        across, swapped = rng.integers(2, size=2)
        at = labels == label
        fold[at] = (rows if across else columns)[at] ^ swapped
    return fold


def faces() -> Pictures:
    """Faces and what is none."""
    small = np.rint(255 * samples.lfw_subset()).astype(np.uint8)
    pixels = [np.asarray(Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for p in small]
    labels = (np.arange(len(small)) >= FACES).astype(np.int64)
    return Pictures(np.stack(pixels), labels, lambda rng: stratified(labels, rng))


def texture_corners() -> np.ndarray:
    """Upper left corners of the crops of a picture of 512x512, int64 (100, 2); none crosses its middle lines."""
    half = 256
    margin = (half - PER_QUADRANT * SIDE) // 2
    along = (np.arange(2)[:, None] * half + margin + SIDE * np.arange(PER_QUADRANT)).ravel()
    return np.stack(np.meshgrid(along, along, indexing="ij"), -1).reshape(-1, 2)


def textures() -> Pictures:
    """Brick, grass and gravel."""
    pictures, corners = (samples.brick(), samples.grass(), samples.gravel()), texture_corners()
    pixels = np.stack([p[y : y + SIDE, x : x + SIDE] for p in pictures for y, x in corners])
    labels = np.repeat(np.arange(len(pictures)), len(corners))
    rows, columns = np.tile(corners // 256, (len(pictures), 1)).T
    return Pictures(pixels, labels, lambda rng: halves(rows, columns, labels, rng))


def encode(model: Model, pixels: np.ndarray, quality: int) -> Tokens:
    """The tokens of gray pictures, (N, SIDE, SIDE), each coded alone, as `encode_image` codes it."""
    network, condition = model.network, Condition(0, quality, 0)
    found, bits = [], 0.0
    for gray in pixels:
        x = torch.from_numpy(gray).to(model.device, torch.float32).expand(1, 3, -1, -1)
        encoder = SymbolEncoder(model, *gray.shape)
        with torch.inference_mode():
            classes = network.classes(x)
            coded, _ = encoder.add(
                Place(0, 0), condition, Motion({}), classes[0].cpu().numpy(),
                lambda context, x=x: network.encode(x, context, condition),
                error_bits=ERROR_BITS["perceptual"][False], decoded=False,
            )  # fmt: skip
        step = network.quantiser.steps(quality, condition.tune, classes).unsqueeze(-1) / (1 << STEP_BITS)
        weight = network.quantiser.weight[condition.tune, : coded.shape[-1]] / (1 << WEIGHT_BITS)
        found.append([t[0].cpu().numpy() for t in (coded, step * weight)])
        bits += encoder.bits
    return Tokens(*(np.stack(arrays) for arrays in zip(*found, strict=True)), bits / len(pixels))


def blocks(pixels: np.ndarray) -> np.ndarray:
    """Pictures as blocks of the tokens' size, from mid-gray, float32 (N, 3, 3, 16, 16)."""
    n, rows = len(pixels), SIDE // TOKEN
    return (pixels.astype(np.float32) - MID_GRAY).reshape(n, rows, TOKEN, rows, TOKEN).swapaxes(2, 3)


def transformed(model: Model, pixels: np.ndarray, name: str) -> np.ndarray:
    """The coefficients of a linear transform of the blocks, "dct" or "klt", float32 (N, 3, 3, n)."""
    x = blocks(pixels)
    if name == "dct":
        return dctn(x, axes=(3, 4), norm="ortho").reshape(*x.shape[:3], -1)
    rgb = np.repeat(x[:, :, :, None], 3, 3).reshape(*x.shape[:3], -1)
    return rgb @ model.network.unrounded.basis.cpu().numpy()


def digit_bits(coefficients: np.ndarray) -> np.ndarray:
    """The two bits of each plane, "above" and "below", bool (..., planes, 2); "below" is 0 where "above" is 1."""
    digits = to_digits(coefficients)
    return np.stack([digits > 0, digits < 0], -1)


def split_signs(x: np.ndarray) -> np.ndarray:
    """Positive and negative parts, (..., 2)."""
    return np.stack([x, -x], -1).clip(min=0)


def gram_matrix(features: np.ndarray) -> np.ndarray:
    """Inner products of the features of each two pictures, float64 (N, N), from any type and shape (N, ...)."""
    x = features.reshape(len(features), -1)
    x = x[:, (x != x[0]).any(0)].astype(np.float64)
    x -= x.mean(0)  # of no effect on what is centred again, but for its accuracy
    return x @ x.T


def predict(gram: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The labels of the pictures `test` by ridge regression on the pictures `train`, int64 (n,).

    Weights are found in the space of the training pictures, of which there are fewer than features. For features
    centred on them, with Gram matrix U diag(s) U' and regulariser l, the hat matrix is H = 1 / n + U diag(t) U' with
    t = s / (s + l), and a picture's error when it is left out is its residual over 1 - H_ii.

    gram: `gram_matrix` of all pictures. labels: int64 (N,), from 0. train, test: bool (N,); no other labels are read.
    """
    targets = np.eye(labels[train].max() + 1)[labels[train]]
    offset = targets.mean(0)
    inner, across = gram[np.ix_(train, train)], gram[np.ix_(test, train)]
    mean = inner.mean(0)
    across = across - across.mean(1, keepdims=True) - mean + mean.mean()
    s, u = np.linalg.eigh(inner - mean - mean[:, None] + mean.mean())
    s, y = s.clip(0), u.T @ (targets - offset)
    best, answer = np.inf, np.zeros(0, np.int64)
    for ridge in RIDGES * s.mean():
        kept = s / (s + ridge)
        residual = targets - offset - u @ (kept[:, None] * y)
        error = np.square(residual / (1 - 1 / len(s) - u**2 @ kept)[:, None]).mean()
        if error < best:
            best, answer = error, (across @ u @ (y / (s + ridge)[:, None]) + offset).argmax(1)
    return answer


def splits(fold: np.ndarray, few: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each fold the places of the pictures to learn from, then of those to name, bool (N,) both.

    few: learn from the one fold and name the others, instead of the reverse.
    """
    for k in np.unique(fold):
        one = fold == k
        yield (one, ~one) if few else (~one, one)


def accuracy(gram: np.ndarray, labels: np.ndarray, fold: np.ndarray, few: bool = False) -> float:
    """Part of the pictures that are named rightly, 0..1; `splits` says from which, and which.

    gram: `gram_matrix` of the pictures. labels, fold: int64 (N,), from 0.
    """
    right = [predict(gram, labels, train, test) == labels[test] for train, test in splits(fold, few)]
    return float(np.concatenate(right).mean())


@lru_cache
def _sets() -> dict[str, Pictures]:
    return {"faces": faces(), "textures": textures()}


@lru_cache
def _tokens(device: str, name: str, quality: int) -> Tokens:
    return encode(load_model(DEFAULT_MODEL, device), _sets()[name].pixels, quality)


def features_of(variant: str, name: str, device: str) -> tuple[np.ndarray, float]:
    """Features of the pictures of a set, "faces" or "textures", (N, ...), and bits a picture, 0 where none are coded.

    variant: one of VARIANTS.
    """
    model, pixels = load_model(DEFAULT_MODEL, device), _sets()[name].pixels
    if variant == "pixels":
        return pixels, 0.0
    if variant == "detail":
        return np.abs(np.diff(pixels.astype(np.float32), 2)).mean((1, 2)), 0.0
    kind, _, last = variant.rpartition("-")
    if not last.isdigit():
        x = transformed(model, pixels, variant[:3])
        return split_signs(x) if kind else x, 0.0
    tokens = _tokens(device, name, int(last))
    if kind == "values":
        return tokens.coefficients * tokens.units, tokens.bits
    if kind == "digits":
        return digit_bits(tokens.coefficients), tokens.bits
    klt = transformed(model, pixels, "klt")[..., : tokens.units.shape[-1]]
    return digit_bits(np.rint(klt / tokens.units).astype(np.int64)), 0.0


def run(variant: str, seed: int, data: Data | None, settings: Settings) -> dict[str, Any]:
    """Accuracies of the probe on both sets, one for each draw of the folds, which the seed picks.

    Of `settings` only the device counts; `data` is not looked at, for nothing but the probe is trained.
    """
    result: dict[str, Any] = {}
    for name, pictures in _sets().items():
        features, bits = features_of(variant, name, str(settings.device))
        rng = np.random.default_rng(seed)
        folds = [pictures.folds(rng) for _ in range(REPEATS)]
        gram = gram_matrix(features)
        result[name] = {"bits": bits, "accuracy": [accuracy(gram, pictures.labels, fold) for fold in folds]}
        if name == "faces":
            result[name]["few"] = [accuracy(gram, pictures.labels, fold, few=True) for fold in folds]
    return result


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: bits a picture, and the accuracy of each variant, mean ± deviation over the draws of its seeds."""
    lines = [
        "| features | faces: bits | 160 labels | 40 labels | textures: bits | 150 labels |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for variant, text in VARIANTS.items():
        those = [row for row in rows if row["variant"] == variant]
        if not those:
            continue
        cells = [f"`{variant}`: {text}"]
        for name in ("faces", "textures"):
            bits = those[0][name]["bits"]
            cells.append(f"{bits:,.0f}" if bits else "")
            for key in ("accuracy", "few"):
                if key in those[0][name]:
                    draws = 100 * np.array([a for row in those for a in row[name][key]])
                    cells.append(f"{draws.mean():.1f} ± {draws.std(ddof=1):.1f} %")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
