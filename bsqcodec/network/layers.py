"""Exact integer arithmetic for neural networks: fixed-point numbers, matrix products, linear layers, the L1 norm.

The prior and the decoder, whose blocks (blocks.py) are made of these, must give the same integers on every machine.
Here every tensor holds integers. They are stored in float32, whose products and sums of integers are exact, in any
order, while every partial sum stays below 2**24; so any GEMM library, thread count, batch shape and device returns the
same values. The same code runs on int64 tensors: that is the oracle the tests compare against. Where a CPU multiplies
int8 into int32 faster, and shows at start that it does so exactly, products are taken there (`Matrix`).

Numbers are fixed point: an integer n with f fractional bits stands for n / 2**f. Activations have `ACT_BITS`
fractional bits and lie within +-127, the residual stream has `RES_BITS`. Rounding is always floor(x + 1/2).
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

ACT_BITS = 5  # fractional bits of activations
ACT_MAX = 127
RES_BITS = 6  # fractional bits of the residual stream
RES_MAX = 1 << 15  # so that the L1 norm of 511 channels stays below LIMIT
LIMIT = 1 << 24  # float32 holds every integer up to here
INT8_MAX = 127
# tokens that go through several layers together on a CPU: what lies between the layers then stays in the cache
_CHUNK_TOKENS = 1024

Tensors = Mapping[str, Tensor]


def scale(x: Tensor, bits: int, low: float, high: float) -> Tensor:
    """x * 2**bits, rounded to an integer and clamped to [low, high]; `bits` may be negative."""
    if not x.is_floating_point():
        y = x << bits if bits >= 0 else (x + (1 << (-bits - 1))).bitwise_right_shift_(-bits)
        return y.clamp_(int(low), int(high))
    y = x * 2.0**bits
    if bits < 0:
        y.add_(0.5).floor_()
    return y.clamp_(low, high)


def divide(n: Tensor, d: Tensor) -> Tensor:
    """round(n / d) for integers |n| < 2**51 and 0 < d < 2**51, as floor((2 n + d) / (2 d)); float64 or int64.

    In float64 both operands are exact and one correctly rounded division cannot cross an integer, so the floor
    equals the integer division. Both operands are tensors on purpose: dividing by a Python number would let a
    device multiply by a rounded reciprocal.
    """
    if not n.is_floating_point():
        return torch.div(2 * n + d, 2 * d, rounding_mode="floor")
    n, d = n.double(), d.double()
    return torch.floor((2 * n + d) / (2 * d))


def multiply_shift(x: Tensor, factor: Tensor, bits: int) -> Tensor:
    """round(x * factor / 2**bits) for |x * factor| < 2**52: exact in float64 and int64."""
    if not x.is_floating_point():
        return (x * factor + (1 << (bits - 1))) >> bits
    return x.double().mul_(factor.double() * 2.0**-bits).add_(0.5).floor_().float()


@functools.cache
def int8_is_exact() -> bool:
    """Whether `torch._int_mm` may take the place of float32 products on the CPU: it is fast, and right on this machine.

    Without the instructions of VNNI, int8 products may be summed in int16, which overflows: the extremes tell.
    """
    if not getattr(torch.cpu, "_is_vnni_supported", lambda: False)():
        return False
    generator = torch.Generator().manual_seed(0)
    shapes = (1, 1, 1), (3, 1, 40), (2, 40, 1), (3, 37, 5), (65, 192, 64), (104, 768, 33), (33, 6176, 17)
    try:
        for rows, inner, columns in shapes:
            a = torch.randint(-127, 128, (rows, inner), generator=generator)
            b = torch.randint(-127, 128, (inner, columns), generator=generator)
            a[0], b[:, 0] = 127, -127
            a[-1], b[:, -1] = -127, -127
            if not torch.equal(torch._int_mm(a.to(torch.int8), b.to(torch.int8)).long(), a @ b):
                return False
    except (RuntimeError, NotImplementedError):
        return False
    return True


def bf16_is_fast(device: torch.device) -> bool:
    """Whether bfloat16 products take less time than float32 there. They are for what need not be exact."""
    return device.type == "cuda" or getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()


def _int8_matrix(x: Tensor) -> Tensor:
    """A matrix in int8, row by row. `contiguous` keeps the strides of a single row or column, which mislead _int_mm."""
    if x.dtype == torch.int8 and x.stride() == (x.shape[1], 1):
        return x
    return torch.empty(x.shape, dtype=torch.int8).copy_(x)


class Matrix:
    """Integers (n_out, n_in) within +-2**13, for products with integers within +-`in_max`.

    On a CPU with `int8_is_exact` it is kept as int8, a larger one as 128 * high + low, and products are int32; so are
    inputs if in_max > 127. Elsewhere they are float32. Both hold the same integers, for no partial sum reaches 2**24.
    An int64 weight stays what it is: the oracle's.

    Raises AssertionError if a partial sum could reach 2**24.

    Attributes:
        n_out: rows.
        in_dtype: type that a product takes without a conversion; what is kept for one is best kept so.
    """

    def __init__(self, weight: Tensor, in_max: int = ACT_MAX):
        bound = (weight.abs().double() * in_max).sum(1).amax().item()
        assert bound < LIMIT, f"a partial sum could reach {bound:.0f}"
        self.n_out = len(weight)
        self.weight: Tensor | None = None
        self.in_dtype = weight.dtype
        self.wide = in_max > INT8_MAX
        if weight.dtype == torch.int64 or weight.device.type != "cpu" or not int8_is_exact():
            self.weight = weight.contiguous()
            return
        weight = weight.to(torch.int32)
        low = weight if weight.abs().max() <= INT8_MAX else ((weight + 64) & 127) - 64
        self.halves = low is not weight
        parts = torch.cat([low, (weight - low) >> 7]) if self.halves else low
        self.parts, self.in_dtype = _int8_matrix(parts.T), torch.int8

    def product(self, x: Tensor) -> Tensor:
        """x: (..., n_in), integers of any type. Returns (..., n_out), a tensor of its own, int32, float32 or int64."""
        if self.weight is not None:
            return x.to(self.weight.dtype).contiguous() @ self.weight.T
        rows = x.reshape(-1, x.shape[-1])
        if self.wide:
            rows = torch.cat([rows & 127, rows >> 7])
        y = torch._int_mm(_int8_matrix(rows), self.parts)
        if self.wide:
            low, high = y.chunk(2)
            y = torch.add(low, high, alpha=128)
        if self.halves:
            y = torch.add(y[:, : self.n_out], y[:, self.n_out :], alpha=128)
        return y.view(*x.shape[:-1], self.n_out)


class Linear:
    """round(W x) in fixed point; row r of the weight has `shift[r]` fractional bits.

    Args:
        weight, shift: integers (n_out, n_in) and (n_out,).
        in_bits, in_max: fractional bits and largest magnitude of the input.
        out_bits, low, high: fractional bits and bounds of the output.
        dtype: float32, or int64 for the oracle.
    """

    def __init__(
        self, weight: Tensor, shift: Tensor, dtype: torch.dtype, in_bits: int = ACT_BITS,
        in_max: int = ACT_MAX, out_bits: int = RES_BITS, low: int = -RES_MAX, high: int = RES_MAX,
    ):  # fmt: skip
        self.matrix = Matrix(weight.to(dtype), in_max)
        self.low, self.high = low, high
        right = shift.to(torch.int64) + in_bits - out_bits
        assert right.min() >= 1 and right.max() <= 24, "a row of a weight has an impossible shift"
        self.right, self.half = right, (1 << right) >> 1
        self.right32, self.half32 = right.to(torch.int32), self.half.to(torch.int32)
        self.factor = torch.ldexp(torch.ones_like(right, dtype=torch.float32), -right)

    def __call__(self, x: Tensor) -> Tensor:
        """x: (..., n_in). Returns (..., n_out): int32, float32 or int64, as the product is."""
        y = self.matrix.product(x)
        if y.dtype == torch.float32:
            return y.mul_(self.factor).add_(0.5).floor_().clamp_(self.low, self.high)
        right, half = (self.right32, self.half32) if y.dtype == torch.int32 else (self.right, self.half)
        return y.add_(half).bitwise_right_shift_(right).clamp_(self.low, self.high)

    def stream(self, x: Tensor) -> Tensor:
        """The result as a part of the residual stream: float32, or int64 in the oracle."""
        y = self(x)
        return y.float() if y.dtype == torch.int32 else y


def linear(tensors: Tensors, name: str, dtype: torch.dtype, columns: Tensor | None = None, **formats: int) -> Linear:
    """The layer `name` of a model's tensors.

    columns: inputs that exist, if not all do. formats: bits and bounds, as for `Linear`.
    """
    weight = tensors[f"{name}.w"]
    return Linear(weight if columns is None else weight[:, columns], tensors[f"{name}.shift"], dtype, **formats)


def stack_depth(tensors: Tensors, stack: str) -> int:
    """Number of blocks in the stack of this name, such as "d16"."""
    return len({name.split(".")[1] for name in tensors if name.startswith(f"{stack}.")})


def of_nonzero(layers: Callable[..., list[Tensor]], x: Tensor, *more: Tensor) -> list[Tensor]:
    """Apply `layers`, which make 0 of 0, to the tokens of x, (..., C), that are not all 0; to all if `at_once`."""
    if at_once(x) or (some := x.abs().amax(-1) > 0).all():
        return layers(x, *more)
    out = []
    for y in layers(x[some], *(t[some] for t in more)):
        out.append(y.new_zeros((*x.shape[:-1], y.shape[-1])))
        out[-1][some] = y
    return out


def normalise(x: Tensor) -> Tensor:
    """Activations x / mean|x| over the channels. x: (..., width), the residual stream.

    An L1 norm needs no square root: y = round(x * width * 2**ACT_BITS / sum|x|) is one exact division.
    """
    x = x.clamp(-RES_MAX, RES_MAX)
    unit = x.shape[-1] << ACT_BITS
    if not x.is_floating_point():
        return divide(x * unit, x.abs().sum(-1, keepdim=True).clamp_(min=1)).clamp_(-ACT_MAX, ACT_MAX)
    # The quotient + 1/2 is a multiple of 1 / (2 total), and total < 2**24: what is raised by 2**-33 keeps its floor.
    # The two products are wrong by less than that, 2 * 2**-53 of at most 2**14.
    total = x.abs().sum(-1, keepdim=True).clamp_(min=1).double()
    y = x.double().mul_(total.reciprocal_().mul_(unit)).add_(0.5 + 2.0**-33)
    return y.clamp_(-ACT_MAX, ACT_MAX + 0.5).floor_().float()


def at_once(x: Tensor) -> bool:
    """Whether all tokens of x are worked on at once: everywhere but on a CPU, which has a cache to keep within."""
    return x.device.type != "cpu"


def parts(*x: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors (B, H, W, ...) into a few rows at a time, if not `at_once`."""
    rows = max(1, x[0].shape[1] if at_once(x[0]) else _CHUNK_TOKENS // (x[0].shape[0] * x[0].shape[2]))
    return zip(*(t.split(rows, 1) for t in x), strict=True)


def in_parts(layers: Callable[..., Any], *x: Tensor) -> Any:
    """Apply `layers`, which work token by token on (B, H, W, ...) and return one tensor or several, to `parts` of x."""
    done = [layers(*part) for part in parts(*x)]
    if len(done) == 1:
        return done[0]
    if isinstance(done[0], Tensor):
        return torch.cat(done, 1)
    return [torch.cat(part, 1) for part in zip(*done, strict=True)]
