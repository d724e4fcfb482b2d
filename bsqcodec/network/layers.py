"""Neural-network layers in exact integer arithmetic.

The prior and the decoder must give the same integers on every machine. Here every tensor holds integers. They are
stored in float32, whose products and sums of integers are exact, in any order, while every partial sum stays below
2**24; so any GEMM library, thread count, batch shape and device returns the same values. The same code runs on int64
tensors: that is the oracle the tests compare against. Where a CPU multiplies int8 into int32 faster, and shows at start
that it does so exactly, products are taken there (`Matrix`).

Numbers are fixed point: an integer n with f fractional bits stands for n / 2**f. Activations have `ACT_BITS`
fractional bits and lie within +-127, the residual stream has `RES_BITS`. Rounding is always floor(x + 1/2).
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ACT_BITS = 5
ACT_MAX = 127
RES_BITS = 6
RES_MAX = 1 << 15  # so that the L1 norm of 511 channels stays below LIMIT
LIMIT = 1 << 24  # float32 holds every integer up to here
MASKED = -float(1 << 22)
HEAD = 32  # channels of an attention head
# On a CPU, where what is left between two steps then stays in the cache; elsewhere large steps are the fast ones.
_SCORES = 1 << 18  # of attention that are worked on at once
_CHUNK = 1024  # tokens that go through several layers together

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
    """

    def __init__(self, weight: Tensor, in_max: Tensor | int = ACT_MAX):
        bound = (weight.abs().double() * in_max).sum(1).amax().item()
        assert bound < LIMIT, f"a partial sum could reach {bound:.0f}"
        self.n_out = len(weight)
        self.weight: Tensor | None = None
        self.kind = weight.dtype  # that the product takes: what is kept for it is best kept so
        self.wide = int(torch.as_tensor(in_max).max()) > ACT_MAX
        if weight.dtype == torch.int64 or weight.device.type != "cpu" or not int8_is_exact():
            self.weight = weight.contiguous()
            return
        weight = weight.to(torch.int32)
        low = weight if weight.abs().max() <= 127 else ((weight + 64) & 127) - 64
        self.halves = low is not weight
        parts = torch.cat([low, (weight - low) >> 7]) if self.halves else low
        self.parts, self.kind = _int8_matrix(parts.T), torch.int8

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
        in_max: Tensor | int = ACT_MAX, out_bits: int = RES_BITS, low: int = -RES_MAX, high: int = RES_MAX,
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


def linear(tensors: Tensors, name: str, dtype: torch.dtype, columns: Tensor | None = None, **formats) -> Linear:
    """The layer `name` of a model's tensors; `columns`: of its inputs, those that exist."""
    weight = tensors[f"{name}.w"]
    return Linear(weight if columns is None else weight[:, columns], tensors[f"{name}.shift"], dtype, **formats)


def of_some(layers: Callable, x: Tensor, *more: Tensor) -> list[Tensor]:
    """`layers`, which make 0 of 0, applied to the tokens of x, (..., C), that are not all 0; to all if `at_once`."""
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
    """Whether all of x is worked on at once: where there is no cache to keep within."""
    return x.device.type != "cpu"


def parts(*x: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A few rows at a time of tensors (B, H, W, ...), if not `at_once`."""
    step = max(1, x[0].shape[1] if at_once(x[0]) else _CHUNK // (x[0].shape[0] * x[0].shape[2]))
    return zip(*(t.split(step, 1) for t in x))


def in_parts(layers: Callable, *x: Tensor) -> Any:
    """`layers`, which work token by token on (B, H, W, ...) and return one tensor or several, applied to `parts`."""
    done = [layers(*part) for part in parts(*x)]
    if len(done) == 1:
        return done[0]
    if isinstance(done[0], Tensor):
        return torch.cat(done, 1)
    return [torch.cat(part, 1) for part in zip(*done)]


class ShiftBlock:
    """Feed-forward block on (B, H, W, C): norm, nine groups of channels from the 3x3 neighbours (ShiftViT,
    arXiv 2201.10801), an MLP with a ReLU. Beyond the grid is 0."""

    def __init__(self, tensors: Tensors, name: str, dtype: torch.dtype):
        self.inner = linear(tensors, f"{name}.a", dtype, out_bits=ACT_BITS, low=0, high=ACT_MAX)
        self.outer = linear(tensors, f"{name}.b", dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """x: residual stream, which becomes the result."""
        b, h, w, c = x.shape
        padded = x.new_zeros((b, h + 2, w + 2, c), dtype=self.inner.matrix.kind)
        for part, inside in parts(x, padded[:, 1:-1, 1:-1]):
            inside.copy_(normalise(part))
        n = c // 9
        groups = padded.split([n] * 4 + [c - 8 * n] + [n] * 4, -1)
        moved = [t[:, i // 3 : i // 3 + h, i % 3 : i % 3 + w] for i, t in enumerate(groups)]
        for part, *near in parts(x, *moved):
            part.add_(self.outer.stream(self.inner(torch.cat(near, -1))))
        return x


class AttentionCache:
    """Keys and values of the phases decoded so far in one frame, one pair for every attention layer."""

    def __init__(self, phase: int, store: dict["AttentionBlock", tuple[Tensor, Tensor]]):
        self.phase, self.store = phase, store

    def append(self, layer: "AttentionBlock", k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v: (windows, heads, cells, d) of the present phase; returns all, phase after phase."""
        if self.phase:
            before_k, before_v = self.store[layer]
            k, v = torch.cat([before_k, k], 2), torch.cat([before_v, v], 2)
        self.store[layer] = (k, v)
        return k, v


class AttentionBlock:
    """Windowed attention beside an MLP, from one norm: one product in (C to 7 C), one out (5 C to C).

    The windows hold WINDOW x WINDOW cells of four phases; those of odd blocks are shifted by half (Swin, arXiv
    2103.14030). Where softmax has exp(s), this has a squared ramp: r = max(0, 255 + floor((s - max) / 64)),
    e = floor(r * r / 256), out = round(sum e v / sum e). Scores have 2 * ACT_BITS fractional bits.
    """

    WINDOW, PHASES = 4, 4
    SCORE_SHIFT = 2 * ACT_BITS - 4

    def __init__(self, tensors: Tensors, name: str, dtype: torch.dtype, offset: int):
        self.width = width = tensors[f"{name}.b.w"].shape[0]
        self.heads, self.offset = width // HEAD, offset
        self.inner = linear(tensors, f"{name}.a", dtype, out_bits=ACT_BITS, low=-ACT_MAX, high=ACT_MAX)
        self.outer = linear(tensors, f"{name}.b", dtype)
        window, phases = self.WINDOW, self.PHASES
        assert 254 * ACT_MAX * window * window * phases < LIMIT
        span = 2 * window - 1
        cell = torch.arange(window, device=tensors[f"{name}.b.w"].device)
        y, x = (t.flatten() for t in torch.meshgrid(cell, cell, indexing="ij"))
        distance = (y[:, None] - y[None] + window - 1) * span + x[:, None] - x[None] + window - 1
        table = tensors[f"{name}.bias"].to(dtype).view(self.heads, span * span, phases, phases)[:, distance]
        # for each phase k of the queries (heads, cells, (k + 1) * cells): keys come phase after phase
        n = window * window
        self.tables = [
            table[:, :, :, k, : k + 1].transpose(2, 3).reshape(self.heads, n, (k + 1) * n) for k in range(phases)
        ]

    def __call__(self, x: Tensor, cache: AttentionCache) -> Tensor:
        """x: residual stream (B, H, W, C) of the cache's phase. Returns the same after the block."""
        b, h, w, c = x.shape
        window, d, top = self.WINDOW, HEAD, self.offset
        bottom, right = -(h + top) % window, -(w + top) % window
        rows, columns = (h + top + bottom) // window, (w + top + right) // window
        y = in_parts(lambda x: self.inner(normalise(x)).to(self.outer.matrix.kind), x)
        qkv, hidden = y.split([3 * c, y.shape[-1] - 3 * c], -1)
        padded = top or bottom or right
        if padded:
            qkv = F.pad(qkv, (0, 0, top, right, top, bottom))
        qkv = qkv.view(b, rows, window, columns, window, 3, self.heads, d).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = qkv.reshape(3, b * rows * columns, self.heads, window * window, d).unbind(0)
        k, v = cache.append(self, k, v)
        bias = self.tables[cache.phase]
        outside = None
        if padded:
            outside = _outside(h, w, window, top, x.device).repeat(b, cache.phase + 1)[:, None, None].to(bias.dtype)
        step = len(q) if at_once(q) else max(1, _SCORES // bias.numel())
        done = []
        for i in range(0, len(q), step):
            at = slice(i, i + step)
            done.append(self._attend(q[at], k[at], v[at], bias, None if outside is None else outside[at]))
        o = torch.cat(done) if len(done) > 1 else done[0]
        o = o.view(b, rows, columns, self.heads, window, window, d).permute(0, 1, 4, 2, 5, 3, 6)
        o = o.reshape(b, rows * window, columns * window, c)[:, top : top + h, top : top + w]
        return in_parts(lambda x, o, u: x + self.outer.stream(torch.cat([o, u.clamp(min=0)], -1)), x, o, hidden)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, outside: Tensor | None) -> Tensor:
        """q, k, v: (windows, heads, tokens, d); bias, outside: to add to the scores. Returns the type of q."""
        kind = q.dtype
        if kind == torch.int8:
            q, k, v = q.float(), k.float(), v.float()
        s = (q @ k.transpose(-1, -2)).add_(bias)
        if outside is not None:
            s.add_(outside)
        m = s.amax(-1, keepdim=True)
        if not s.is_floating_point():
            r = (255 + ((s - m) >> self.SCORE_SHIFT)).clamp(min=0)
            e = (r * r) >> 8
            return divide(e @ v, e.sum(-1, keepdim=True))
        e = s.sub_(m).mul_(2.0**-self.SCORE_SHIFT).add_(255).floor_().clamp_(min=0).square_().mul_(1 / 256).floor_()
        n, d = (e @ v).double(), e.sum(-1, keepdim=True).double()
        return n.add_(d * 0.5).div_(d).floor_().to(kind)


@functools.lru_cache(32)
@torch.inference_mode(False)
def _outside(height: int, width: int, window: int, offset: int, device: torch.device) -> Tensor:
    """MASKED for the cells of each window that lie outside a grid, else 0: float32 (windows, window**2)."""
    inside = torch.zeros((height, width), device=device)
    pad = (offset, -(width + offset) % window, offset, -(height + offset) % window)
    inside = F.pad(inside, pad, value=MASKED)
    rows, columns = inside.shape
    inside = inside.view(rows // window, window, columns // window, window).transpose(1, 2)
    return inside.reshape(-1, window * window)
