"""The blocks of the integer networks are the same however they are computed."""

from fractions import Fraction

import pytest
import torch

from bsqcodec.network import blocks, layers
from bsqcodec.network.blocks import WINDOW, AttentionBlock, ShiftBlock, attend
from bsqcodec.network.layers import RES_MAX
from bsqcodec.network.patches import PHASES
from helpers import half_up


def block_tensors(width: int, name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)

    def weight(rows, columns):
        return torch.randint(-127, 128, (rows, columns), generator=g).to(torch.int8)

    inner, outer = (7 * width, 5 * width) if name == "attention" else (3 * width, 3 * width)
    span = (2 * WINDOW - 1) ** 2 * len(PHASES) ** 2
    return {
        "x.a.w": weight(inner, width),
        "x.a.shift": torch.randint(8, 11, (inner,), generator=g).to(torch.int8),
        "x.b.w": weight(width, outer),
        "x.b.shift": torch.randint(9, 12, (width,), generator=g).to(torch.int8),
        "x.bias": torch.randint(-1000, 1000, (width // 32, span), generator=g).to(torch.int16),
    }


@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.parametrize("grid", [(1, 1), (5, 7), (8, 4)])
def test_attention_in_float32_and_int8_equals_int64(offset, grid, monkeypatch):
    """All four phases, windows whose cells lie outside the grid, one and many windows at once."""
    tensors = block_tensors(64, "attention")
    g = torch.Generator().manual_seed(1)
    x = torch.randint(-3000, 3000, (4, 2, *grid, 64), generator=g)
    x[0, 0, 0, 0] = RES_MAX

    def run(dtype):
        block = AttentionBlock(tensors, "x", dtype, offset)
        known, out = (), []
        for phase in range(len(PHASES)):
            y, *known = block(x[phase].to(dtype), phase, known)
            out.append(y.long())
        return torch.stack(out)

    expected = run(torch.int64)
    assert (expected - x).abs().max() > 100
    assert torch.equal(run(torch.float32), expected)
    monkeypatch.setattr(blocks, "_CHUNK_SCORES", 1)
    monkeypatch.setattr(layers, "_CHUNK_TOKENS", 3)
    assert torch.equal(run(torch.float32), expected)
    monkeypatch.setattr(layers, "int8_is_exact", lambda: False)
    assert torch.equal(run(torch.float32), expected)


def test_attention_against_the_definition():
    """One query, written out: r = max(0, 255 + floor((s - max) / 64)), e = floor(r r / 256), round(sum e v / sum e)."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randint(-127, 128, (1, 1, n, 32), generator=g) for n in (16, 64, 64))
    bias = torch.randint(-1000, 1000, (1, 16, 64), generator=g)
    got = attend(q.float(), k.float(), v.float(), bias.float(), None)[0, 0]
    for i in range(16):
        s = [
            sum(a * b for a, b in zip(q[0, 0, i].tolist(), key, strict=True)) + c
            for key, c in zip(k[0, 0].tolist(), bias[0, i].tolist(), strict=True)
        ]
        e = [max(0, 255 + (t - max(s)) // 64) ** 2 // 256 for t in s]
        for c in range(32):
            assert got[i, c] == half_up(
                Fraction(sum(w * row[c] for w, row in zip(e, v[0, 0].tolist(), strict=True)), sum(e))
            )


@pytest.mark.parametrize("grid", [(1, 1), (5, 7)])
def test_shift_block_in_float32_and_int8_equals_int64(grid, monkeypatch):
    tensors = block_tensors(38, "shift")
    x = torch.randint(-3000, 3000, (2, *grid, 38), generator=torch.Generator().manual_seed(1))
    expected = ShiftBlock(tensors, "x", torch.int64)(x.clone())
    assert not torch.equal(expected, x)
    monkeypatch.setattr(layers, "_CHUNK_TOKENS", 3)
    assert torch.equal(ShiftBlock(tensors, "x", torch.float32)(x.float()).long(), expected)
    monkeypatch.setattr(layers, "int8_is_exact", lambda: False)
    assert torch.equal(ShiftBlock(tensors, "x", torch.float32)(x.float()).long(), expected)
