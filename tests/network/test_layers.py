"""Exact integer arithmetic: the integers are the same however they are computed."""

from fractions import Fraction

import pytest
import torch

from bsqcodec.network import layers
from bsqcodec.network.layers import (
    ACT_BITS,
    ACT_MAX,
    LIMIT,
    RES_BITS,
    RES_MAX,
    Linear,
    Matrix,
    divide,
    in_parts,
    multiply_shift,
    normalise,
    of_nonzero,
    scale,
)
from helpers import half_up


def test_divide_rounds_half_up_exactly():
    n = torch.tensor([7, -7, 5, -5, 2**50 + 1, -(2**50) - 1, 3 * 2**40, 0])
    d = torch.tensor([2, 2, 3, 3, 2, 2, 2**41, 5])
    expected = [half_up(Fraction(a, b)) for a, b in zip(n.tolist(), d.tolist(), strict=True)]
    assert divide(n, d).tolist() == expected
    assert divide(n.double(), d.double()).tolist() == expected


def test_scale_agrees_with_integer_shift():
    x = torch.arange(-5000, 5000)
    for bits in (-1, -4, -8, 0, 3):
        expected = [min(max(half_up(Fraction(v) * Fraction(2) ** bits), -127), 127) for v in x.tolist()]
        assert scale(x, bits, -127, 127).tolist() == expected
        assert scale(x.float(), bits, -127, 127).tolist() == expected


def test_multiply_shift_is_exact_where_float32_is_not():
    g = torch.Generator().manual_seed(0)
    x = torch.cat(
        [torch.randint(-(1 << 24), 1 << 24, (2000,), generator=g), torch.tensor([1 << 24, -(1 << 24), 3, -3])]
    )
    factor = torch.cat(
        [torch.randint(1, 1 << 21, (2000,), generator=g), torch.tensor([1 << 21, 1 << 21, 1 << 17, 1 << 17])]
    )
    for bits in (18, 25):
        expected = torch.tensor(
            [half_up(Fraction(a * b, 1 << bits)) for a, b in zip(x.tolist(), factor.tolist(), strict=True)]
        )
        assert torch.equal(multiply_shift(x, factor, bits), expected)
        assert torch.equal(multiply_shift(x.float(), factor.double(), bits), expected.float())


@pytest.mark.parametrize("rows", [1, 2, 33])
def test_fast_products_are_exact_in_every_shape_and_layout(rows):
    g = torch.Generator().manual_seed(rows)
    for inner in (1, 2, 5, 192):
        for columns in (1, 3, 64):
            x = torch.randint(-127, 128, (rows, 2 * inner), generator=g)[:, ::2]
            for limit in (127, 1 << 13):
                weight = torch.randint(-limit, limit + 1, (2 * columns, inner), generator=g)[::2]
                weight[0], x[0] = limit, -127
                if inner * limit * 127 >= LIMIT:
                    weight = weight // 16
                for layout in (x, x.float(), x.to(torch.int8), x.T.contiguous().T):
                    for dtype in (torch.int64, torch.float32):
                        product = Matrix(weight.to(dtype)).product(layout)
                        assert torch.equal(product.long(), x @ weight.T)


@pytest.mark.parametrize("into", [dict(), dict(out_bits=ACT_BITS, low=0, high=ACT_MAX), dict(in_bits=6, in_max=120)])
def test_linear_is_the_same_in_int8_float32_and_int64(into, monkeypatch):
    """And rounds as rationals do; partial sums come close to 2**24."""
    g = torch.Generator().manual_seed(0)
    inner, outer = 1000, 40
    weight = torch.randint(-127, 128, (outer, inner), generator=g)
    weight[0], weight[1] = 127, -127
    shift = torch.randint(3, 19, (outer,), generator=g)
    shift[2], shift[3] = 3, 18
    in_max = into.get("in_max", ACT_MAX)
    x = torch.randint(-in_max, in_max + 1, (2, 5, 7, inner), generator=g)
    x[0, 0, 0], x[0, 0, 1] = in_max, -in_max
    right = shift + into.get("in_bits", ACT_BITS) - into.get("out_bits", RES_BITS)
    low, high = into.get("low", -RES_MAX), into.get("high", RES_MAX)
    expected = torch.tensor(
        [
            [min(max(half_up(Fraction(v, 1 << r)), low), high) for v, r in zip(row, right.tolist(), strict=True)]
            for row in (x.flatten(0, 2) @ weight.T).tolist()
        ]
    ).view(2, 5, 7, outer)
    assert layers.Linear(weight, shift, torch.int64, **into)(x).equal(expected)
    fast = Linear(weight, shift, torch.float32, **into)
    assert fast(x.float()).long().equal(expected) and fast.stream(x).equal(expected.float())
    monkeypatch.setattr(layers, "int8_is_exact", lambda: False)
    plain = Linear(weight, shift, torch.float32, **into)
    assert plain.matrix.weight is not None and plain(x.float()).equal(expected.float())
    assert plain(x.to(torch.int8)).equal(expected.float())


def test_int8_products_are_made_where_a_cpu_has_them(monkeypatch):
    """Whatever this machine has: the path is taken, through a product that is right."""
    monkeypatch.setattr(layers, "int8_is_exact", lambda: True)
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: a.int() @ b.int())
    g = torch.Generator().manual_seed(0)
    for most in (127, 1 << 13):
        weight = torch.randint(-most, most + 1, (9, 15), generator=g)
        x = torch.randint(-127, 128, (4, 15), generator=g)
        matrix = Matrix(weight.float())
        assert matrix.weight is None and matrix.halves == (most > 127)
        product = matrix.product(x.to(matrix.in_dtype))
        assert product.dtype == torch.int32 and torch.equal(product.long(), x @ weight.T)
    wide = 4 * x.to(torch.int32) - 3
    weight = weight >> 6
    assert torch.equal(Matrix(weight.float(), 511).product(wide).long(), wide.long() @ weight.T)


def test_a_wrong_int8_product_is_found_out(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.int() @ b.int()).clamp(-(1 << 15), (1 << 15) - 1))
    assert not layers.int8_is_exact.__wrapped__()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_overflow_is_refused_when_weights_are_loaded(dtype):
    n = LIMIT // (127 * 127)
    Matrix(torch.full((3, n), 127, dtype=dtype))
    with pytest.raises(AssertionError, match="partial sum"):
        Matrix(torch.full((3, n + 1), -127, dtype=dtype))
    with pytest.raises(AssertionError, match="partial sum"):
        Linear(torch.full((1, 2000), 127), torch.tensor([7]), dtype, in_max=511)
    for shift in (0, 31):
        with pytest.raises(AssertionError, match="impossible shift"):
            Linear(torch.ones(1, 8, dtype=torch.int64), torch.tensor([shift]), dtype)


@pytest.mark.parametrize("width", [18, 96, 192, 384, 511])
def test_normalise_equals_python_integers(width):
    """Also where the quotient is an integer and a half, for all-zero rows, and for sums up to 2**24."""
    g = torch.Generator().manual_seed(width)
    rows = [torch.zeros(1, width, dtype=torch.int64), torch.full((1, width), RES_MAX), torch.full((1, width), -RES_MAX)]
    for largest in (1, 2, 3, 50, RES_MAX, 2 * RES_MAX):
        rows.append(torch.randint(-largest, largest + 1, (30, width), generator=g))
        rows.append(largest * torch.eye(width, dtype=torch.int64)[:5])
        few = torch.randint(-largest, largest + 1, (30, width), generator=g)
        rows.append(few * (torch.rand(30, width, generator=g) < 0.05))
    # halves: width * 32 * a / total with total = 64 * width, a odd
    halves = torch.zeros(40, width, dtype=torch.int64)
    halves[:, 0] = torch.arange(-20, 20) * 2 + 1
    halves[:, 1] = 64 * width - halves[:, 0].abs()
    halves[:, 1].clamp_(max=RES_MAX)
    halves[:, 2] = 64 * width - halves[:, 0].abs() - halves[:, 1]
    x = torch.cat([*rows, halves])
    expected = []
    for row in x.clamp(-RES_MAX, RES_MAX).tolist():
        total = max(1, sum(map(abs, row)))
        expected.append([min(max((2 * v * width * 32 + total) // (2 * total), -127), 127) for v in row])
    assert normalise(x).tolist() == expected
    assert normalise(x.float()).tolist() == expected


def test_a_few_rows_at_a_time_give_what_all_do(monkeypatch):
    x = torch.arange(2 * 7 * 3 * 4).view(2, 7, 3, 4)
    monkeypatch.setattr(layers, "_CHUNK_TOKENS", 12)
    assert torch.equal(in_parts(lambda a: 2 * a, x), 2 * x)
    a, b = in_parts(lambda a, b: [a + b, a - b], x, x[..., :1])
    assert torch.equal(a, x + x[..., :1]) and torch.equal(b, x - x[..., :1])


def test_tokens_that_are_0_are_left_out():
    x = torch.tensor([[[0, 0], [0, -1]], [[2, 0], [0, 0]]])
    seen = []

    def layers(x: torch.Tensor, more: torch.Tensor) -> list[torch.Tensor]:
        seen.append(len(x))
        return [3 * x, x[..., :1] + x[..., 1:] * more]

    for every in x, x + 5:
        a, b = of_nonzero(layers, every, every[..., :1] + 2)
        assert torch.equal(a, 3 * every)
        assert torch.equal(b, every[..., :1] + every[..., 1:] * (every[..., :1] + 2))
    assert seen == [2, 2]  # tokens of two, rows of all
