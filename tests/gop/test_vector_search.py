"""The search for vectors by what their coder takes for them."""

import numpy as np
import pytest
import torch

from bsqcodec.gop.motion_search import Field, search_field
from bsqcodec.gop.vector_search import _grid, cheapest_vectors
from bsqcodec.stream.motion_vectors import VectorCoder
from bsqcodec.stream.range_coder import BitEncoder
from helpers import photo


def frame_and_reference(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two frames: noise over a picture of which one half moves, so that errors alone make a rough field."""
    rng = np.random.default_rng(0)
    before, now = photo(height, width, 90, 80), photo(height, width, 93, 82)
    now[: height // 2] = before[: height // 2]
    noisy = (np.clip(x + rng.normal(0, 12, x.shape), 0, 255).astype(np.uint8) for x in (now, before))
    cur, ref = (torch.from_numpy(x).permute(2, 0, 1)[None] for x in noisy)
    return cur, ref


def code(coder: VectorCoder, vectors: np.ndarray) -> float:
    """Bits that a field takes, which changes the state of its coder."""
    out = BitEncoder()
    coder.encode(vectors, out)
    return out.bits


def error_cost(field: Field, vectors: np.ndarray, lam: float) -> float:
    return float(field.cost(np.arange(vectors.size // 2), vectors.reshape(-1, 2), lam).sum())


def estimate(coder: VectorCoder, vectors: np.ndarray) -> float:
    """Bits of a whole field by `VectorCoder.bits_of`."""
    rows, columns = vectors.shape[:2]
    grid = _grid(rows, columns)
    v = np.concatenate([vectors.reshape(-1, 2), [(1 << 20,) * 2]])
    return float(coder.bits_of()(v[:-1], v[grid.predictors], coder.expected(rows, columns)).sum())


@pytest.mark.parametrize("later", [False, True])
def test_the_bits_that_it_goes_by_are_those_of_the_coder(later: bool) -> None:
    cur, ref = frame_and_reference(160, 224)
    vectors = search_field(cur, ref, 8.0).v[0].numpy()
    coder = VectorCoder()
    if later:
        code(coder, -search_field(ref, cur, 8.0).v[0].numpy())
    guessed = estimate(coder, vectors)
    assert code(coder, vectors) == pytest.approx(guessed, rel=0.1)  # the coder learns while it codes


@pytest.mark.parametrize("lam", [1000.0, 5000.0])
def test_a_field_costs_less(lam: float) -> None:
    cur, ref = frame_and_reference(160, 224)
    first = search_field(cur, ref, 8.0)
    field, coder = search_field(cur, ref, 8.0), VectorCoder()
    vectors = cheapest_vectors(field, coder, lam)
    assert vectors.dtype == np.int32 and vectors.shape == (10, 14, 2)
    before = error_cost(first, first.v[0].numpy(), lam) + lam * estimate(coder, first.v[0].numpy())
    after = error_cost(first, vectors, lam) + lam * estimate(coder, vectors)
    assert after < before
    assert code(VectorCoder(), vectors) < 0.8 * code(VectorCoder(), first.v[0].numpy())


def test_a_large_error_costs_less_than_it_is_and_a_part_of_an_error_less_than_the_whole() -> None:
    field, block = search_field(*frame_and_reference(96, 112), 8.0), np.arange(6)
    v = field.v[0].numpy().reshape(-1, 2)[:6]
    error = field.error(torch.from_numpy(block), torch.from_numpy(v), squared=True).numpy()
    assert np.allclose(field.cost(block, v, 1e6, 0.25), 0.25 * error, rtol=1e-3)
    part, whole = field.cost(block, v, 1.0, 0.25), field.cost(block, v, 1.0)
    assert (0.25 * whole < part).all() and (part < whole).all() and (whole < error).all()


def test_no_single_change_to_a_neighbours_vector_is_better_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it adds up of a change, its own bits and those of the blocks predicted from it, is the whole of it."""
    monkeypatch.setattr("bsqcodec.gop.vector_search.PASSES", 50)
    cur, ref = frame_and_reference(96, 112)
    field, coder, lam = search_field(cur, ref, 8.0), VectorCoder(), 200.0
    vectors = cheapest_vectors(field, coder, lam)

    def cost(v: np.ndarray) -> float:
        return error_cost(field, v, lam) + lam * estimate(coder, v)

    least = cost(vectors)
    for y in range(6):
        for x in range(7):
            for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= ny < 6 and 0 <= nx < 7:
                    changed = vectors.copy()
                    changed[y, x] = vectors[ny, nx]
                    assert cost(changed) >= least - 1e-6 * least


@pytest.mark.parametrize("size", [(1, 1), (16, 270), (270, 16), (40, 33)])
def test_any_size(size: tuple[int, int]) -> None:
    cur, ref = frame_and_reference(*size)
    coder = VectorCoder()
    for _ in range(2):
        vectors = cheapest_vectors(search_field(cur, ref, 4.0), coder, 100.0)
        assert vectors.shape == (-(-size[0] // 16), -(-size[1] // 16), 2)
        code(coder, vectors)
