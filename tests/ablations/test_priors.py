"""Priors of the ablations: what each distribution sees, orders that a decoder can follow, and code lengths."""

import json
import math

import numpy as np
import pytest
import torch
from skimage import data as skdata

from ablations import groups, orders, temporal
from ablations.data import Data, Settings
from ablations.prior_network import (
    CODED,
    MASKGIT_STEPS,
    Given,
    Prior,
    bits,
    by_confidence,
    entropy,
    fixed_order,
    quadratic_groups,
    random_order,
    set_sizes,
)
from ablations.prior_tokens import given, tokens_of
from ablations.prior_training import measure, measure_by_confidence
from bsqcodec.network.tokenizer import FEATURES
from bsqcodec.train.sampler import Sampler

SIDE, N = 4, 16
CPU = torch.device("cpu")


def prior_of(groups: int = 3, context: bool = False) -> Prior:
    """A prior whose weights are all at random, also those that a training starts from 0."""
    torch.manual_seed(0)
    prior = Prior(SIDE, quadratic_groups(groups), context)
    for p in prior.parameters():
        torch.nn.init.normal_(p, 0, 0.05)
    return prior


def inputs(frames: int = 2) -> tuple[torch.Tensor, Given]:
    """Coefficients of random frames, and what else is known."""
    generator = torch.Generator().manual_seed(1)
    q = (torch.randn(frames, N, CODED, generator=generator) * 2).round()
    features = torch.randn(frames, N, 9 * FEATURES, generator=generator)
    return q, Given(features, torch.arange(frames), torch.randn(frames, N, CODED, generator=generator))


def orders_of(name: str) -> torch.Tensor:
    """An order for two frames; sets at random differ from frame to frame."""
    if name == "maskgit":
        return torch.from_numpy(random_order(np.random.default_rng(0), 2, N))
    return torch.from_numpy(fixed_order(name, SIDE)).expand(2, -1)


@pytest.mark.parametrize("name", ["none", "phases", "raster", "maskgit"])
def test_a_token_sees_the_tokens_of_earlier_steps_and_no_others(name):
    """What changes with a token: all that is coded after it, of its own frame; and groups after its first."""
    prior, (q, known), order = prior_of(), inputs(), orders_of(name)
    with torch.no_grad():
        before = torch.stack(prior(q, known, order, torch.float32), -1)
        for token in range(N):
            changed = q.clone()
            changed[0, token] += 3
            after = torch.stack(prior(changed, known, order, torch.float32), -1)
            differs = (after - before).abs().amax((-1, -2)) > 1e-6
            expected = order[0] > order[0, token]
            expected[token] = True  # its later groups
            assert torch.equal(differs[0], expected) and not differs[1].any()


def test_a_group_sees_the_groups_before_it_and_no_others():
    prior, (q, known), order = prior_of(4), inputs(), orders_of("none")
    ends = np.cumsum(prior.groups)
    before = torch.stack(prior(q, known, order, torch.float32), -1)
    for i, (size, end) in enumerate(zip(prior.groups, ends, strict=True)):
        changed = q.clone()
        changed[..., end - size : end] += 3
        differs = (torch.stack(prior(changed, known, order, torch.float32), -1) != before).any(-1).flatten(0, 1).any(0)
        assert not differs[:end].any() and (i == len(ends) - 1 or differs[end:].all())


def test_what_is_not_known_of_a_token_is_expected():
    """A step by confidence looks at distributions before any value is known: those of the rounded means."""
    prior = prior_of(2)
    t, level = torch.randn(1, 3, prior.head.w.shape[0]), torch.zeros(1, dtype=torch.int64)
    mean, scale = prior.distributions(t, level)
    again = prior.distributions(t, level, mean.round())
    assert torch.equal(mean, again[0]) and torch.equal(scale, again[1])


def test_a_decoder_finds_the_order_by_confidence_and_all_values():
    """The decoder knows of the frame only what it was told at the places that it asked for, in the order it asks."""
    prior, (q, known) = prior_of(), inputs()
    told = []

    def encode(places, t):
        told.append((places, t, q.gather(1, places.unsqueeze(-1).expand(-1, -1, CODED))))
        return told[-1][2]

    coded, order = by_confidence(prior, known, N, torch.float32, encode)
    assert torch.equal(coded, q) and order.max() < MASKGIT_STEPS
    stream = iter(told)

    def decode(places, t):
        expected, seen, values = next(stream)
        assert torch.equal(places, expected) and torch.equal(t, seen)
        return values

    decoded, found = by_confidence(prior, known, N, torch.float32, decode)
    assert torch.equal(decoded, q) and torch.equal(found, order)
    # the frames' contents matter for the order, which is not raster, and not the same in both frames
    other = by_confidence(prior, known, N, torch.float32, lambda places, t: torch.full((2, len(places[0]), CODED), 9.0))
    assert not torch.equal(other[1], order) and not torch.equal(order[0], order[1])
    # in one pass with that order the distributions are those that were coded with
    t = prior.trunk(q, known, order, torch.float32)
    for places, seen, _ in told:
        torch.testing.assert_close(t.gather(1, places.unsqueeze(-1).expand_as(seen)), seen)


def test_each_set_has_the_size_of_the_cosine_schedule():
    for tokens in N, 256:
        sizes = set_sizes(tokens)
        assert sum(sizes) == tokens and len(sizes) == MASKGIT_STEPS and min(sizes) >= tokens // 256
        left = 1 - np.cumsum(sizes) / tokens
        assert np.abs(left - np.cos(np.pi / 2 * np.arange(1, len(sizes) + 1) / len(sizes))).max() < 1 / tokens
        order = random_order(np.random.default_rng(0), 3, tokens)
        assert all(np.bincount(row).tolist() == sizes for row in order)
    assert fixed_order("phases", 4).reshape(4, 4)[:2, :2].tolist() == [[0, 2], [3, 1]]
    assert sorted(fixed_order("raster", 4)) == list(range(N))


def test_groups_hold_all_coefficients():
    assert [sum(quadratic_groups(n)) for n in groups.COUNTS] == [CODED] * len(groups.COUNTS)
    assert all(min(quadratic_groups(n)) >= 1 for n in groups.COUNTS)


@pytest.mark.parametrize("log2_scale", [-5.0, -2.0, -0.51, -0.49, 1.0, 3.0])
def test_a_code_length_is_that_of_the_distribution(log2_scale):
    """Probabilities add up to 1, and the entropy is the mean code length under them, by which sets are chosen."""
    scale, n = torch.tensor(log2_scale), torch.arange(-400.0, 401)
    for mean in 0.0, 0.3, -1.5:
        cost = bits(n, torch.tensor(mean), scale)
        p = torch.exp2(-cost.double()) * (cost < 29)  # beyond, a probability is raised to the least one
        assert abs(float(p.sum()) - 1) < 1e-3
        assert abs(float((p * cost).sum()) - float(entropy(torch.tensor(mean), scale))) < 0.05
    if log2_scale == 3:  # of a wide logistic distribution log2(e**2 scale)
        assert abs(float(entropy(torch.tensor(0.0), scale)) - (3 + 2 / math.log(2))) < 1e-6


def small_data(side: int) -> Data:
    """One photograph, and a strip of a moving one."""
    image = skdata.astronaut()[: side + 64, : side + 64]
    strip = np.concatenate([image[t : t + side, 2 * t : 2 * t + side] for t in range(3)])
    return Data(Sampler([image], [strip], CPU), [image[::-1].copy()], [strip])


def test_tokens_of_p_frames_come_with_what_was_decoded_before():
    side = 64
    tokens = tokens_of(small_data(side).train, 8, side, True, True, 0)
    assert tokens.q.shape == (8, N, CODED) and tokens.q.any()
    assert sorted(tokens.level.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert tokens.prediction.shape == tokens.before.shape == (8, N, CODED)
    assert not torch.equal(tokens.prediction, tokens.before)
    without = given(tokens).features.view(8, N, FEATURES, 9)
    with_means = given(tokens, "prediction").features.view(8, N, FEATURES, 9)
    assert not without[:, :, 0].any() and with_means[:, :, 0].any()  # the means tell of the frame before
    assert torch.equal(without[:, :, 1:], with_means[:, :, 1:])
    images = tokens_of(small_data(side).train, 8, side, False, True, 0)
    assert not given(images).features.view(8, N, FEATURES, 9)[:, :, 0].any()  # nobody knows them before decoding


def test_a_measure_by_confidence_is_that_of_one_pass():
    """Where no token sees another, every order costs the same."""
    tokens = tokens_of(small_data(64).train, 8, 64, False, True, 0)
    prior = prior_of()
    torch.nn.init.zeros_(prior.known.w)
    for block in prior.blocks:
        torch.nn.init.zeros_(block.down.w)
    sets = measure_by_confidence(prior, tokens)["bpp"]
    alone = measure(prior, tokens, lambda rng, n: np.zeros((n, N), np.int64))["bpp"]
    assert abs(sets / alone - 1) < 1e-3


@pytest.mark.parametrize(("experiment", "variant"), [(orders, "maskgit"), (groups, "5"), (temporal, "before")])
def test_an_experiment_runs_and_one_repeats(experiment, variant, monkeypatch):
    monkeypatch.setattr("ablations.prior_training.TEST_FRAMES", 8)
    small, settings = small_data(64), Settings(3, CPU, 32)
    row = experiment.run(variant, 0, small, settings)
    assert row["bpp"] > 0 and json.dumps(row)
    assert f"{row['bpp']:.4f}" in experiment.table([row | {"variant": variant, "seed": 0}])
    if variant == "maskgit":
        again = experiment.run(variant, 0, small, settings)
        assert [again[key] for key in ("bpp", "bpp of random sets", "training bpp")] == [
            row[key] for key in ("bpp", "bpp of random sets", "training bpp")
        ]
