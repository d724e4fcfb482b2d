"""The search for blocks that are better split."""

import numpy as np
import pytest
import torch

from bsqcodec.gop.motion import compensate
from bsqcodec.gop.motion_search import Field, search_field
from bsqcodec.gop.split_search import cheapest_split, split_bits
from bsqcodec.stream.motion_fields import FieldCoder, MotionField, unsplit
from bsqcodec.stream.range_coder import BitEncoder
from helpers import photo


def frame_and_reference(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two frames: a still picture before which another moves, whose borders lie within blocks."""
    before, now = photo(height, width, 90, 80), photo(height, width, 90, 80)
    part = photo(height, width, 200, 180)
    top, left = height // 4 // 16 * 16 + 8, width // 4 // 16 * 16 + 8
    before[top : top + 48, left + 3 : left + 67] = part[:48, :64][: height - top, : max(0, width - left - 3)]
    now[top : top + 48, left : left + 64] = part[:48, :64][: height - top, : max(0, width - left)]
    cur, ref = (torch.from_numpy(x).permute(2, 0, 1)[None] for x in (now, before))
    return cur, ref


def cost(field: Field, motion: MotionField, lam: float) -> float:
    """What is left to code, and the bits of the field times `lam`."""
    enc = BitEncoder()
    FieldCoder().encode(motion, enc)
    numbers = np.arange(motion.quarters.size // 2)
    return float(field.quarters().cost(numbers, motion.quarters.reshape(-1, 2), lam).sum()) + lam * enc.bits


@pytest.mark.parametrize("lam", [5.0, 100.0, 1000.0])
def test_a_split_field_costs_less(lam: float) -> None:
    cur, ref = frame_and_reference(160, 224)
    field = search_field(cur, ref, 8.0)
    vectors = field.v[0].numpy()
    motion = cheapest_split(field, FieldCoder(), vectors, lam)
    assert motion.split.any() and np.array_equal(motion.vectors, vectors) and motion.quarters.dtype == np.int32
    assert cost(field, motion, lam) < cost(field, MotionField(vectors, unsplit(vectors)), lam)


def test_borders_of_what_moves_are_found() -> None:
    cur, ref = frame_and_reference(160, 224)
    field = search_field(cur, ref, 8.0)
    motion = cheapest_split(field, FieldCoder(), field.v[0].numpy(), 10.0)
    error = (compensate(ref, torch.from_numpy(motion.quarters)[None]) - cur.float()).square().mean((0, 1))
    assert motion.split.sum() >= 8
    assert error[40 + 8 : 88 - 8, 56 : 56 + 56].mean() < 1 and error[:32].mean() < 1


def test_bits_of_splits_are_those_of_the_coder() -> None:
    field, coder = search_field(*frame_and_reference(160, 224), 8.0), FieldCoder()
    motion = cheapest_split(field, coder, field.v[0].numpy(), 10.0)
    bits, guess = [], split_bits(motion, coder)
    for one in (coder.copy(), coder.copy().vectors):
        enc = BitEncoder()
        one.encode(motion if isinstance(one, FieldCoder) else motion.vectors, enc)
        bits.append(enc.bits)
    assert guess.shape == (10, 14) and guess.sum() == pytest.approx(bits[0] - bits[1], rel=0.3)
    assert guess[motion.split].min() > guess[~motion.split].max()


def test_blocks_of_no_weight_are_not_split() -> None:
    field = search_field(*frame_and_reference(160, 224), 8.0)
    vectors, weights = field.v[0].numpy(), np.ones((10, 14))
    weights[:, :7] = 0
    motion = cheapest_split(field, FieldCoder(), vectors, 10.0, weights)
    whole = cheapest_split(field, FieldCoder(), vectors, 10.0)
    assert whole.split[:, :7].any() and not motion.split[:, :7].any()
    assert np.array_equal(whole.quarters[:, 14:], motion.quarters[:, 14:])


@pytest.mark.parametrize("size", [(1, 1), (16, 270), (270, 16), (40, 33)])
def test_any_size(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    cur, ref = (torch.from_numpy(rng.integers(0, 256, (1, 3, *size), dtype=np.uint8)) for _ in range(2))
    coder = FieldCoder()
    for lam in (0.1, 10.0, 1e9):
        field = search_field(cur, ref, 4.0)
        motion = cheapest_split(field, coder, field.v[0].numpy(), lam)
        assert motion.quarters.shape == (2 * -(-size[0] // 16), 2 * -(-size[1] // 16), 2)
        assert lam < 1e9 or not motion.split.any()
        coder.encode(motion, BitEncoder())
