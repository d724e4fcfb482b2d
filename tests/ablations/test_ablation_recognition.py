"""The linear probe of benchmarks/ablations/recognition.py: its folds, its features, and the probe itself."""

import io

import numpy as np
import pytest
import torch

from ablations import recognition
from ablations.data import Data, Settings
from bsqcodec import encode_image, stream_to_arrays
from bsqcodec.network.weights import load_model
from bsqcodec.tokens.digits import from_digits

CPU = Settings(1, torch.device("cpu"))
NOTHING = Data(None, [], [])


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def toy():
    """Two classes of 30 points in 300 dimensions, which one direction tells apart, and folds."""
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 2
    x = rng.normal(size=(60, 300))
    x[:, 7] += 40 * labels
    return x, labels, recognition.stratified(labels, rng)


# ---------------------------------------------------------------- pictures and folds


def test_no_picture_is_learnt_from_and_named():
    for pictures in (recognition.faces(), recognition.textures()):
        fold = pictures.folds(np.random.default_rng(0))
        for few in (False, True):
            for train, test in recognition.splits(fold, few):
                assert not (train & test).any() and (train | test).all()
                for part in (train, test):
                    counts = np.bincount(pictures.labels[part])
                    assert counts.min() == counts.max() > 0
    assert len(np.unique(fold)) == 2


def test_no_two_crops_of_a_texture_share_a_pixel_and_halves_are_halves():
    corners, side = recognition.texture_corners(), recognition.SIDE
    seen = np.zeros((512, 512), int)
    for y, x in corners:
        seen[y : y + side, x : x + side] += 1
    assert seen.max() == 1 and seen.sum() == len(corners) * side**2
    pictures = recognition.textures()
    fold = pictures.folds(np.random.default_rng(3))
    for label in range(3):
        first = [corners[fold[pictures.labels == label] == k] for k in (0, 1)]
        # along one of the axes all of one fold lies beyond the middle, and all of the other before it
        sides = [(c[:, axis] // 256).tolist() for axis in (0, 1) for c in first]
        assert any(len(set(a)) == len(set(b)) == 1 and a[0] != b[0] for a, b in (sides[:2], sides[2:]))
    assert (pictures.folds(np.random.default_rng(3)) == fold).all()
    assert any((pictures.folds(np.random.default_rng(n)) != fold).any() for n in range(4))


# ---------------------------------------------------------------- features


def test_tokens_are_those_of_encode_image_and_their_bits_give_them_back(model):
    gray = recognition.faces().pixels[:1]
    tokens = recognition.encode(model, gray, 40)
    stream = encode_image(np.repeat(gray[0][..., None], 3, 2), model=model, quality=40)
    archive = io.BytesIO()
    stream_to_arrays(io.BytesIO(stream), archive, model=model)
    archive.seek(0)
    arrays = np.load(archive)
    n_coded = tokens.coefficients.shape[-1]
    assert (arrays["frame0.coefficients"][..., :n_coded] == tokens.coefficients[0]).all()
    weights = tokens.units[0] / arrays["frame0.steps"][..., None]
    assert np.ptp(weights, (0, 1)).max() < 1e-5 < weights.min()  # but for the step, a coefficient has one weight
    assert arrays["bits"].sum() == pytest.approx(tokens.bits) and 0 < 8 * len(stream) - tokens.bits < 700
    bits = recognition.digit_bits(tokens.coefficients)
    assert bits.any((0, 1, 2, 3, 4)).all() and not bits.all(-1).any()
    assert (from_digits(bits[..., 0].astype(np.int8) - bits[..., 1]) == tokens.coefficients).all()


def test_values_are_near_the_linear_transform_at_a_high_quality(model):
    gray = recognition.faces().pixels[:1]
    tokens = recognition.encode(model, gray, 100)
    values = tokens.coefficients * tokens.units
    klt = recognition.transformed(model, gray, "klt")[..., : values.shape[-1]]
    assert np.square(klt - values).sum() < 1e-3 * np.square(klt).sum()


def test_transforms_keep_energy_and_signs_are_split_without_loss(model):
    gray = recognition.textures().pixels[:2]
    x = recognition.blocks(gray)
    for name, copies in (("dct", 1), ("klt", 3)):
        y = recognition.transformed(model, gray, name)
        assert np.square(y).sum() == pytest.approx(copies * np.square(x).sum(), rel=2e-3)
    parts = recognition.split_signs(y)
    assert (parts >= 0).all() and (parts[..., 0] - parts[..., 1] == y).all()


# ---------------------------------------------------------------- the probe


def test_what_can_be_separated_is_separated_and_random_labels_are_not(toy):
    x, labels, fold = toy
    gram = recognition.gram_matrix(x)
    assert recognition.accuracy(gram, labels, fold) == recognition.accuracy(gram, labels, fold, few=True) == 1
    rng = np.random.default_rng(2)
    chance = []
    for _ in range(20):
        drawn = rng.permutation(labels)
        chance.append(recognition.accuracy(gram, drawn, recognition.stratified(drawn, rng)))
    assert 0.42 < np.mean(chance) < 0.55


def test_labels_of_what_is_named_are_not_read(toy):
    x, labels, fold = toy
    gram = recognition.gram_matrix(x)
    for train, test in recognition.splits(fold):
        false = np.where(test, 1 - labels, labels)
        named = recognition.predict(gram, labels, train, test)
        assert (named == recognition.predict(gram, false, train, test)).all()


def test_the_probe_is_ridge_regression_with_the_regulariser_that_leaving_one_out_chooses():
    rng = np.random.default_rng(4)
    labels = np.arange(40) % 3
    x = rng.normal(size=(40, 60)) + 0.8 * np.eye(60)[labels] + 5
    train = np.arange(40) < 25
    y = np.eye(3)[labels]

    def scores(learnt, asked, ridge):
        a, mean = x[learnt] - x[learnt].mean(0), y[learnt].mean(0)
        return (x[asked] - x[learnt].mean(0)) @ np.linalg.solve(
            a.T @ a + ridge * np.eye(60), a.T @ (y[learnt] - mean)
        ) + mean

    a = x[train] - x[train].mean(0)
    ridges = recognition.RIDGES * np.square(a).sum() / 25
    alone = np.eye(40, dtype=bool)[train]
    errors = [sum(np.square(y[one] - scores(train & ~one, one, r)).sum() for one in alone) for r in ridges]
    best = int(np.argmin(errors))
    assert 0 < best < len(ridges) - 1
    expected = scores(train, ~train, ridges[best]).argmax(1)
    assert (recognition.predict(recognition.gram_matrix(x), labels, train, ~train) == expected).all()


def test_runs_of_a_seed_are_alike_and_make_a_table(monkeypatch):
    monkeypatch.setattr(recognition, "REPEATS", 2)
    rows = [{"variant": "dct", "seed": n, **recognition.run("dct", n, NOTHING, CPU)} for n in (0, 0, 1)]
    assert rows[0] == rows[1] != {**rows[2], "seed": 0}
    lines = recognition.table(rows).splitlines()
    assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1 and "`dct`" in lines[2]
