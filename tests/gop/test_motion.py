"""Motion compensation against a plain integer oracle, and the search on known motion."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bsqcodec.gop.motion import BLOCK, TAPS, compensate, quartered
from bsqcodec.gop.motion_search import search_field
from bsqcodec.stream.group import MAX_VECTOR
from helpers import photo, psnr


def search(cur: Tensor, ref: Tensor, lam: float, start: Tensor | None = None) -> Tensor:
    """The motion vectors from frames to their references, (n, rows, columns, 2)."""
    return search_field(cur, ref, lam, start).v


def picture(height: int, width: int, top: int = 100, left: int = 90) -> Tensor:
    """A crop of a photograph, uint8 (1, 3, height, width)."""
    return torch.from_numpy(photo(height, width, top, left)).permute(2, 0, 1)[None]


def oracle(ref: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The prediction of one frame, int64 (3, H, W), one tap of rows and columns at a time."""
    _, h, w = ref.shape
    y, x = np.mgrid[:h, :w]
    v = vectors[y // (BLOCK // 2), x // (BLOCK // 2)]
    top, left = y + (v[..., 0] >> 2), x + (v[..., 1] >> 2)
    taps = np.array(TAPS)
    total = np.zeros(ref.shape, np.int64)
    for i in range(8):
        for j in range(8):
            p = ref[:, np.clip(top + i - 3, 0, h - 1), np.clip(left + j - 3, 0, w - 1)].astype(np.int64)
            total += taps[v[..., 0] & 3, i] * taps[v[..., 1] & 3, j] * p
    return np.clip((total + 2048) >> 12, 0, 255)


@pytest.mark.parametrize("size", [(48, 64), (37, 50), (5, 3), (16, 270)])
def test_compensation_is_exact(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    ref = rng.integers(0, 256, (2, 3, *size), dtype=np.uint8)
    ref[0] = np.where(ref[0] < 128, 0, 255)  # the largest sums
    rows, columns = -(-size[0] // BLOCK), -(-size[1] // BLOCK)
    vectors = rng.integers(-90, 91, (2, rows, columns, 2)).repeat(2, 1).repeat(2, 2)
    vectors[1, 0, 0] = (-MAX_VECTOR, MAX_VECTOR)
    some = rng.random(vectors.shape[:3]) < 0.3
    vectors[some] = rng.integers(-12, 13, (int(some.sum()), 2))
    expected = torch.from_numpy(np.stack([oracle(r, v) for r, v in zip(ref, vectors, strict=True)]))
    found = compensate(torch.from_numpy(ref), torch.from_numpy(vectors))
    assert found.dtype == torch.float32 and torch.equal(found.long(), expected)
    again = compensate(torch.from_numpy(ref[1:]).float(), torch.from_numpy(vectors[1:]).int())
    assert torch.equal(found[1:], again)  # alone or in a batch, uint8 or float32
    if torch.cuda.is_available():
        assert torch.equal(compensate(torch.from_numpy(ref).cuda(), torch.from_numpy(vectors).cuda()).cpu(), found)


def test_zero_and_whole_vectors_copy() -> None:
    ref = picture(64, 80)
    assert torch.equal(compensate(ref, torch.zeros(1, 8, 10, 2, dtype=torch.int32)), ref.float())
    moved = compensate(ref, torch.tensor([8, -12]).expand(1, 8, 10, 2))
    assert torch.equal(moved[..., :-2, 3:], ref[..., 2:, :-3].float())


def test_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"vectors are \(1, 4, 5, 2\), not \(1, 8, 10, 2\)"):
        compensate(picture(64, 80), torch.zeros(1, 4, 5, 2))


@pytest.mark.parametrize("shift", [(3, -5), (-14, 20), (0, 0)])
def test_search_finds_a_pan(shift: tuple[int, int]) -> None:
    dy, dx = shift
    ref, cur = picture(96, 128), picture(96, 128, 100 + dy, 90 + dx)
    vectors = search(cur, ref, 4.0)
    assert vectors.shape == (1, 6, 8, 2) and vectors.dtype == torch.int32
    inner = vectors[:, 1:-1, 2:-2].reshape(-1, 2)
    assert (inner == torch.tensor([4 * dy, 4 * dx])).all(1).float().mean() > 0.9


def test_search_finds_quarters_and_smooth_fields() -> None:
    ref = picture(90, 120)
    truth = torch.tensor([-6, 9]).expand(1, 6, 8, 2)
    cur = compensate(ref, quartered(truth)).to(torch.uint8)
    found = search(cur, ref, 4.0)
    assert (found == truth).all(-1).float().mean() > 0.9
    assert psnr(compensate(ref, quartered(found)), cur) > 40
    rough = (search(cur, picture(90, 120, 250, 60), 0.0).diff(dim=2) != 0).float().mean()
    smooth = (search(cur, picture(90, 120, 250, 60), 64.0).diff(dim=2) != 0).float().mean()
    assert smooth < 0.8 * rough


def test_search_of_a_batch_is_that_of_its_parts() -> None:
    ref = torch.cat([picture(64, 64), picture(64, 64, 30, 200)])
    cur = torch.cat([picture(64, 64, 104, 87), picture(64, 64, 27, 206)])
    both = search(cur, ref, 8.0)
    assert torch.equal(both, torch.cat([search(cur[i : i + 1], ref[i : i + 1], 8.0) for i in (0, 1)]))


def test_search_tries_the_start() -> None:
    """Motion beyond the range of the exhaustive search is found from the last frame's vectors."""
    ref, cur = picture(64, 400), picture(64, 400, 100, 20)
    start = torch.tensor([0, -280]).expand(1, 4, 25, 2)
    assert (search(cur, ref, 4.0, start)[:, :, 6:] == torch.tensor([0, -280])).all(-1).float().mean() > 0.9


def test_search_of_tiny_frames_and_wild_starts() -> None:
    for size in ((1, 1), (3, 40), (17, 16)):
        vectors = search(picture(*size), picture(*size, 120, 130), 4.0)
        assert compensate(picture(*size, 120, 130), quartered(vectors)).shape == (1, 3, *size)
    wild = torch.full((1, 4, 4, 2), 30000)
    assert search(picture(64, 64), picture(64, 64), 4.0, wild).abs().max() <= MAX_VECTOR
