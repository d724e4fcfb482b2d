"""The prior is causal: what is coded later informs nothing before it, and all that is coded informs what is later."""

import numpy as np
import pytest

from bsqcodec.network.patches import PHASES
from bsqcodec.network.quantiser import groups
from helpers import CONDITIONS, random_frame


def by_step(monkeypatch, network, context, condition, y):
    """The means and scales of every step: what all its probabilities follow from."""
    seen = []
    those = network.quantiser.uncertain

    def watched(mean, scale):
        seen.append((mean.numpy().ravel().copy(), scale.numpy().ravel().copy()))
        return those(mean, scale)

    with monkeypatch.context() as patch:
        patch.setattr(network.quantiser, "uncertain", watched)
        network.code(context, condition, lambda p, bits: bits, y)
    return seen


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_prior_is_causal(tiny, monkeypatch, condition):
    """Changing the coefficients of a group changes no mean and no scale of a step at or before its own."""
    network = tiny.network
    context, y = random_frame(network, condition, 8, 8)
    before = by_step(monkeypatch, network, context, condition, y)
    places = groups(y.shape[-1])
    assert len(before) == 4 * len(places)
    later = 0
    for k, (i, j) in enumerate(PHASES):
        for n, place in enumerate(places):
            other = y.clone()
            other[:, i::2, j::2, place] = 3 - other[:, i::2, j::2, place]
            after = by_step(monkeypatch, network, context, condition, other)
            same = [
                np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in zip(before, after, strict=True)
            ]
            now = k * len(places) + n
            assert all(same[: now + 1])
            later += not all(same[now + 1 :])
    assert later == 4 * len(places) - 1  # every step but the last informs a later one


@pytest.mark.parametrize("condition", CONDITIONS[:2])
def test_one_token_tells_nothing_before_it(tiny, monkeypatch, condition):
    network = tiny.network
    context, y = random_frame(network, condition, 8, 8)
    before = by_step(monkeypatch, network, context, condition, y)
    count = len(groups(y.shape[-1]))
    for row, column in ((0, 0), (3, 5), (4, 7), (7, 2)):
        other = y.clone()
        other[0, row, column] += 2
        phase = PHASES.index((row % 2, column % 2))
        after = by_step(monkeypatch, network, context, condition, other)
        first = phase * count + 1
        for a, b in zip(before[:first], after[:first], strict=True):
            assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
        # within its phase the groups after it differ for the token alone
        token = row // 2 * 4 + column // 2
        for a, b in zip(before[first : first + count - 1], after[first : first + count - 1], strict=True):
            wrong = (a[0] != b[0]).reshape(16, -1).any(1) | (a[1] != b[1]).reshape(16, -1).any(1)
            assert set(np.flatnonzero(wrong)) <= {token}


def test_the_prediction_informs_the_prior(tiny, monkeypatch):
    condition = CONDITIONS[1]
    context, y = random_frame(tiny.network, condition, 4, 4)
    darker = tiny.network.context(condition, (context.prediction + 128) // 2, None)
    a = by_step(monkeypatch, tiny.network, context, condition, y)[0]
    b = by_step(monkeypatch, tiny.network, darker, condition, y)[0]
    assert not np.array_equal(a[0], b[0])
