"""Neural-network layers in exact integer arithmetic.

The prior and the synthesis half of the tokenizer must give the same integers on every machine. Here every
tensor holds integers. They are stored in float32, whose products and sums of integers are exact, in any order,
while every partial sum stays below 2**24; so any GEMM library, thread count, batch shape and device returns the
same values. The same code runs on int64 tensors: that is the oracle the tests compare against. Where a CPU multiplies
int8 into int32 faster, and shows at start that it does so exactly, frozen layers take their products there (`Matrix`).

Numbers are fixed point: an integer `n` with `f` fractional bits stands for n / 2**f. Activations have `ACT_BITS`
fractional bits and lie within +-127, the residual stream has `RES_BITS`. Rounding is always floor(x + 1/2).

Parameters are kept in real units and rounded to integers at use. With `rounding` off (early training) the same
graph runs without any rounding; with it on, training sees exactly what inference computes, and gradients pass
straight through the rounding (Bengio et al., arXiv 1308.3432).
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACT_BITS = 4
RES_BITS = 8
RES_MAX = 1 << 13  # of one branch; 8 branches of 256 channels still have an L1 norm within LIMIT
WEIGHT_BITS = 8
LIMIT = 1 << 24  # float32 holds every integer up to here
QUALITIES = 100
KINDS = 3  # of frames: I, P, B
ANCHORS = 10  # (kind, quality) tables are given at qualities 1, 12, 23, ... 100 and interpolated
ANCHOR_STEP = 11
MASKED = -float(1 << 22)
# On a CPU, where what is left between two steps then stays in the cache; elsewhere large steps are the fast ones.
_SCORES = 1 << 18  # of attention that are worked on at once
_CHUNK = 1024  # tokens that go through several layers together


class _Scale(torch.autograd.Function):
    """clamp(round(x * scale)), with a straight-through gradient inside the clamp."""

    @staticmethod
    def forward(ctx, x, scale, low, high, rounding):
        y = x * scale
        if rounding:
            y.add_(0.5).floor_()
        ctx.scale = scale
        ctx.save_for_backward((y >= low) & (y <= high))
        return y.clamp_(low, high)

    @staticmethod
    def backward(ctx, grad):
        (inside,) = ctx.saved_tensors
        return grad * inside * ctx.scale, None, None, None, None


def scale(x: Tensor, bits: int, low: float, high: float, rounding: bool = True) -> Tensor:
    """x * 2**bits, rounded to an integer and clamped to [low, high]; `bits` may be negative."""
    if not x.is_floating_point():
        y = x << bits if bits >= 0 else (x + (1 << (-bits - 1))).bitwise_right_shift_(-bits)
        return y.clamp_(int(low), int(high))
    if torch.is_grad_enabled() and x.requires_grad:
        return _Scale.apply(x, 2.0**bits, low, high, rounding)
    y = x * 2.0**bits
    if rounding and bits < 0:
        y.add_(0.5).floor_()
    return y.clamp_(low, high)


def divide(n: Tensor, d: Tensor, rounding: bool = True) -> Tensor:
    """round(n / d) for integers |n| < 2**51 and 0 < d < 2**51, as floor((2 n + d) / (2 d)).

    In float64 both operands are exact and one correctly rounded division cannot cross an integer, so the floor
    equals the integer division. Both operands are tensors on purpose: dividing by a Python number would let a
    device multiply by a rounded reciprocal.
    """
    if not n.is_floating_point():
        return torch.div(2 * n + d, 2 * d, rounding_mode="floor")
    if torch.is_grad_enabled() and n.requires_grad:
        q = n / d
        if not rounding:
            return q
        with torch.no_grad():
            exact = divide(n.double(), d.double())
        return exact.to(q.dtype) + (q - q.detach())
    if not rounding:
        return n / d
    n, d = n.double(), d.double()
    return torch.floor((2 * n + d) / (2 * d))


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
    """A frozen weight, integers (n_out, n_in) within +-2**13, for fast products with integers within +-127.

    On a CPU with `int8_is_exact` it is kept as int8, a larger one as 128 * high + low, and products are int32;
    elsewhere they are float32. Both hold the same integers, for no partial sum reaches 2**24. An int64 weight stays
    what it is: the oracle's.
    """

    def __init__(self, weight: Tensor):
        self.n_out = len(weight)
        self.weight: Tensor | None = None
        if weight.dtype == torch.int64 or weight.device.type != "cpu" or not int8_is_exact():
            self.weight = weight.contiguous()
            return
        weight = weight.to(torch.int32)
        low = weight if weight.numel() == 0 or weight.abs().max() <= 127 else ((weight + 64) & 127) - 64
        self.halves = low is not weight
        parts = torch.cat([low, (weight - low) >> 7]) if self.halves else low
        self.parts = _int8_matrix(parts.T)

    def product(self, x: Tensor) -> Tensor:
        """x: (..., n_in), integers within +-127 of any type. Returns (..., n_out), a tensor of its own."""
        if self.weight is not None:
            return x.to(self.weight.dtype).contiguous() @ self.weight.T
        y = torch._int_mm(_int8_matrix(x.reshape(-1, x.shape[-1])), self.parts)
        if self.halves:
            y = torch.add(y[:, : self.n_out], y[:, self.n_out :], alpha=128)
        return y.view(*x.shape[:-1], self.n_out)


class ExactModule(nn.Module):
    """Base of the integer layers.

    `formats` names the module's own parameters and their fixed-point form, (fractional bits, largest magnitude).
    `rounding` and `bf16` are for training; with `bf16`, matrix products are taken in bfloat16, which holds the
    integers up to 256 but rounds the sums. After `freeze` the integers are kept, and parameters must not change.
    """

    rounding = False
    bf16 = False

    def __init__(self):
        super().__init__()
        self.formats: dict[str, tuple[int, int]] = {}
        self.frozen: dict[str, Tensor] = {}

    def integer(self, name: str) -> Tensor:
        """The parameter `name` in integer units."""
        if name in self.frozen:
            return self.frozen[name]
        bits, limit = self.formats[name]
        y = getattr(self, name) * 2.0**bits
        if self.rounding:
            y = torch.floor(y + 0.5).detach() + (y - y.detach())
        return y.clamp(-limit, limit)

    def freeze(self, dtype: torch.dtype) -> None:
        """Keep the integer form of the parameters in `dtype` (float32, or int64 for the oracle)."""
        self.frozen = {}
        self.frozen = {name: self.integer(name).to(dtype) for name in self.formats}


def set_arithmetic(module: nn.Module, rounding: bool, bf16: bool = False) -> None:
    for m in module.modules():
        if isinstance(m, ExactModule):
            m.rounding, m.bf16 = rounding, bf16


def freeze(module: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Make `module` ready for exact inference."""
    set_arithmetic(module, True)
    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, ExactModule):
                m.freeze(dtype)


class Linear(ExactModule):
    """y = W x + b on integers; the result has `in_bits + weight_bits` fractional bits and is not yet rounded.

    Args:
        in_bits: fractional bits of the input.
        in_max: largest magnitude of an input integer (or of each, (n_in,)), for the overflow check.
        weight_max: largest magnitude of a weight integer.
    Raises AssertionError at `freeze` if any partial sum could reach 2**24.
    """

    def __init__(self, n_in, n_out, in_bits=ACT_BITS, weight_bits=WEIGHT_BITS, in_max=127, weight_max=127, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) * n_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        self.in_max: Tensor | int = in_max
        self.out_bits = in_bits + weight_bits
        self.formats["weight"] = (weight_bits, weight_max)
        if bias:
            self.formats["bias"] = (self.out_bits, 1 << 22)
        self.matrix: Matrix | None = None

    def freeze(self, dtype):
        super().freeze(dtype)
        self.matrix = None
        if dtype == torch.float32 and int(torch.as_tensor(self.in_max).max()) <= 127:
            weight = self.frozen["weight"]
            if weight.device.type == "cpu" and weight.abs().max() <= 127 and int8_is_exact():
                self.matrix = Matrix(weight)
        bound = (self.frozen["weight"].abs() * self.in_max).sum(1)
        if self.bias is not None:
            bound = bound + self.frozen["bias"].abs()
        assert bound.max() < LIMIT, f"a partial sum could reach {bound.max():.0f}"

    def forward(self, x: Tensor) -> Tensor:
        if self.matrix is not None and self.frozen:  # the weights of a copy may be thawed
            y = self.matrix.product(x).float()
            return y if self.bias is None else y.add_(self.frozen["bias"])
        return self.product(x, *self.integers())

    def rounded(self, x: Tensor, bits: int, low: int, high: int) -> Tensor:
        """scale(self(x), -bits, low, high) for bits >= 0; int32 or float32."""
        if self.matrix is None or not self.frozen:
            return scale(self(x), -bits, low, high, self.rounding)
        y = self.matrix.product(x)  # int32: there is no matrix otherwise
        half = (1 << bits) >> 1
        if self.bias is not None:
            y += self.frozen["bias"].to(torch.int32) + half
        elif half:
            y += half
        return (y.bitwise_right_shift_(bits) if bits else y).clamp_(low, high)

    def residual(self, x: Tensor) -> Tensor:
        """The result as a branch of the residual stream."""
        y = self.rounded(x, self.out_bits - RES_BITS, -RES_MAX, RES_MAX)
        return y.float() if y.dtype == torch.int32 else y

    def narrow(self, x: Tensor) -> Tensor:
        """Integers within +-127 in the type that the product takes: less to move about before it."""
        return x.to(torch.int8) if self.matrix is not None and self.frozen else x

    def integers(self) -> tuple[Tensor, Tensor | None]:
        return self.integer("weight"), None if self.bias is None else self.integer("bias")

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """The product with a part of `integers()`, for layers that are applied group by group."""
        if self.bf16:
            # as a matrix: a copy of the weight for each token is made for some strides
            y = F.linear(x.bfloat16().reshape(-1, x.shape[-1]), w.bfloat16()).float().view(*x.shape[:-1], len(w))
        elif x.is_floating_point():
            return F.linear(x.contiguous(), w, b)
        else:
            y = x @ w.T
        return y if b is None else y + b


class ConditionTable(ExactModule):
    """A row of `width` integers for each frame kind (0 = I, 1 = P, 2 = B) and quality (1..100).

    Rows are given at `ANCHORS` qualities and interpolated linearly in integers. Older models have two kinds: they code
    B frames as P frames.
    """

    def __init__(self, width: int, initial: float, bits: int):
        super().__init__()
        self.anchors = nn.Parameter(torch.full((KINDS, ANCHORS, width), float(initial)))
        self.formats["anchors"] = (bits, 1 << 18)

    def freeze(self, dtype):
        super().freeze(dtype)
        every = torch.arange(KINDS * QUALITIES, device=self.anchors.device)
        self.frozen["rows"] = self(every // QUALITIES, every % QUALITIES + 1).view(KINDS, QUALITIES, -1)

    def forward(self, kind: Tensor, quality: Tensor) -> Tensor:
        """kind, quality: int64 (B,). Returns (B, width)."""
        if "rows" in self.frozen:
            return self.frozen["rows"][kind, quality - 1]
        a = self.integer("anchors")
        kind = kind.clamp(max=len(a) - 1)
        i = torch.div(quality - 1, ANCHOR_STEP, rounding_mode="floor")
        r = ((quality - 1) - i * ANCHOR_STEP).to(a.dtype).unsqueeze(-1)
        n = a[kind, i] * (ANCHOR_STEP - r) + a[kind, (i + 1).clamp(max=ANCHORS - 1)] * r
        return divide(n, torch.full_like(n, ANCHOR_STEP), self.rounding).to(a.dtype)


def set_kinds(module: nn.Module, kinds: int) -> None:
    """Let all tables tell so many kinds of frames apart: 3, or 2 in older models. A new kind begins as the last one."""
    for table in module.modules():
        if isinstance(table, ConditionTable):
            rows = torch.arange(kinds).clamp(max=len(table.anchors) - 1)
            table.anchors = nn.Parameter(table.anchors.detach()[rows])


def _round_quotient(n: Tensor, d: Tensor) -> Tensor:
    """`divide` for float64 tensors, in place in n."""
    return n.add_(d * 0.5).div_(d).floor_()


class Norm(ExactModule):
    """x / mean|x| over the channels, then a gain and an offset that depend on frame kind and quality.

    An L1 norm needs no square root: y = round(x * gain / sum|x|) + offset is one exact division.
    """

    def __init__(self, width: int):
        super().__init__()
        self.gain = ConditionTable(width, 1.0, 11)
        self.offset = ConditionTable(width, 0.0, ACT_BITS)
        self.width = width
        self.result = torch.float32  # int8 where products are taken in it

    def freeze(self, dtype):
        super().freeze(dtype)
        on_cpu = self.gain.anchors.device.type == "cpu"
        self.result = torch.int8 if dtype == torch.float32 and on_cpu and int8_is_exact() else torch.float32
        largest = (self.gain.integer("anchors").abs().max() * self.width / 128).item()
        assert largest < 1 << 17, f"a norm could reach {largest:.0f}"

    def forward(self, x: Tensor, condition: tuple[Tensor, Tensor]) -> Tensor:
        """x: (B, ..., width), a sum of at most 8 branches. Returns activations within +-127."""
        shape = (x.shape[0],) + (1,) * (x.dim() - 2) + (self.width,)
        gain, offset = self.gain(*condition).view(shape), self.offset(*condition).view(shape)
        unit = self.width << ACT_BITS
        if not x.is_floating_point():
            y = divide(x * gain * unit, x.abs().sum(-1, keepdim=True).clamp(min=1) << 11)
            return (y + offset).clamp(-127, 127)
        if torch.is_grad_enabled() and x.requires_grad:
            n, d = x * gain * (unit / 2048), x.abs().sum(-1, keepdim=True).clamp(min=1)
            y = n / d
            if self.rounding:
                with torch.no_grad():
                    exact = self._divide(x, gain, torch.zeros_like(offset), unit).floor_()
                y = exact.to(y.dtype) + (y - y.detach())
            return (y + offset).clamp(-127, 127)
        if not self.rounding:
            return (x * gain * (unit / 2048) / x.abs().sum(-1, keepdim=True).clamp(min=1) + offset).clamp_(-127, 127)
        return self._divide(x, gain, offset, unit).clamp_(-127, 127.5).floor_().to(self.result)

    @staticmethod
    def _divide(x: Tensor, gain: Tensor, offset: Tensor, unit: int) -> Tensor:
        """divide(x * gain * unit, total * 2048) + offset before the floor, float64, made of cheaper steps.

        The quotient + 1/2 is a multiple of 1 / (2**8 total), and total < 2**24: what is raised by 2**-33 keeps its
        floor. The three products are wrong by less than that, 3 * 2**-53 of at most 2**17.
        """
        total = x.abs().sum(-1, keepdim=True).clamp_(min=1).double()
        y = x.double().mul_(total.reciprocal_()).mul_(gain.double() * (unit / 2048))
        return y.add_(offset.double() + (0.5 + 2.0**-33))


class Attention(ExactModule):
    """Multi-head attention inside windows of `window` x `window` cells with `phases` tokens each.

    Where softmax has exp(s), this has a squared ramp: r = max(0, 255 + floor((s - max) / 16)), e = floor(r*r / 256).
    It needs no table and no float: out = round(sum e v / sum e).
    """

    index: Tensor
    future: Tensor

    def __init__(self, width: int, heads: int, window: int, phases: int, offset: int):
        super().__init__()
        self.heads, self.window, self.phases, self.offset = heads, window, phases, offset
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        span = 2 * window - 1
        self.bias = nn.Parameter(torch.zeros(heads, span * span * phases * phases))
        cell = torch.arange(window)
        y, x, p = (t.flatten() for t in torch.meshgrid(cell, cell, torch.arange(phases), indexing="ij"))
        dy, dx = y[:, None] - y[None] + window - 1, x[:, None] - x[None] + window - 1
        self.register_buffer("index", ((dy * span + dx) * phases + p[:, None]) * phases + p[None], persistent=False)
        self.register_buffer("future", p[None] > p[:, None], persistent=False)
        self.formats["bias"] = (2 * ACT_BITS, 1 << 18)
        assert 254 * 127 * window * window * phases < LIMIT

    def freeze(self, dtype):
        super().freeze(dtype)
        self.frozen["table"] = table = self.bias_table()
        n = self.window**2
        table = table.view(self.heads, n, self.phases, n, self.phases)
        for k in range(self.phases):
            part = table[:, :, k, :, : k + 1].transpose(2, 3)
            self.frozen[f"table {k}"] = part.reshape(self.heads, n, (k + 1) * n)

    def bias_table(self) -> Tensor:
        """(heads, queries, keys): relative position bias; keys of later phases are masked out."""
        return self.integer("bias")[:, self.index].masked_fill(self.future, MASKED)

    def forward(self, x: Tensor, cache: "AttentionCache | None" = None) -> Tensor:
        """x: activations (B, H, W, P, C), P = all phases; with a cache (after `freeze`), P = 1, the next phase of each
        cell. Returns a branch of the residual stream."""
        b, h, w, p, c = x.shape
        win, d = self.window, c // self.heads
        top = self.offset
        bottom, right = -(h + top) % win, -(w + top) % win
        nh, nw = (h + top + bottom) // win, (w + top + right) // win
        qkv = self.qkv.rounded(x, WEIGHT_BITS, -127, 127)
        qkv = self.out.narrow(qkv)
        padded = top or bottom or right
        if padded:
            qkv = F.pad(qkv, (0, 0, 0, 0, top, right, top, bottom))
        qkv = qkv.view(b, nh, win, nw, win, p, 3, self.heads, d).permute(6, 0, 1, 3, 7, 2, 4, 5, 8)
        q, k, v = qkv.reshape(3, b * nh * nw, self.heads, win * win * p, d).unbind(0)
        if cache is not None:
            k, v = cache.append(self, k, v)
            bias = self.frozen[f"table {cache.phase}"]
        else:
            bias = self.frozen["table"] if self.frozen else self.bias_table()
        outside = None
        if padded:
            outside = _outside(h, w, win, top, x.device)
            # keys come as (cell, phase), in a cache as (phase, cell)
            outside = outside.repeat(b, cache.phase + 1) if cache else outside.repeat_interleave(p, 1).repeat(b, 1)
            outside = outside[:, None, None].to(bias.dtype)
        step = len(q) if at_once(q) else max(1, _SCORES // bias.numel())
        parts = []
        for i in range(0, len(q), step):
            at = slice(i, i + step)
            parts.append(self.attend(q[at], k[at], v[at], bias, None if outside is None else outside[at]))
        o = torch.cat(parts) if len(parts) > 1 else parts[0]
        o = o.view(b, nh, nw, self.heads, win, win, p, d).permute(0, 1, 4, 2, 5, 6, 3, 7)
        o = o.reshape(b, nh * win, nw * win, p, c)[:, top : top + h, top : top + w]
        return self.out.residual(o)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, outside: Tensor | None) -> Tensor:
        """q, k, v: (windows, heads, tokens, d); bias, outside: to add to the scores. Returns the type of q."""
        kind = q.dtype
        if kind == torch.int8:
            q, k, v = q.float(), k.float(), v.float()
        s = (q @ k.transpose(-1, -2)).add_(bias)
        if outside is not None:
            s.add_(outside)
        return self.mix(s, v).to(kind)

    def mix(self, s: Tensor, v: Tensor) -> Tensor:
        """What the scores s select of v; s is used up."""
        m = s.detach().amax(-1, keepdim=True)
        if not s.is_floating_point():
            r = (255 + ((s - m) >> 4)).clamp(min=0)
            e = (r * r) >> 8
            return divide(e @ v, e.sum(-1, keepdim=True))
        if torch.is_grad_enabled() and s.requires_grad:
            e = _Ramp.apply(s - m, self.rounding)
            n, d = e @ v, e.sum(-1, keepdim=True)
            return divide(n, d, self.rounding)
        s = s.sub_(m.sub_(255 * 16)).mul_(1 / 16)
        e = (s.floor_() if self.rounding else s).clamp_(min=0).square_().mul_(1 / 256)
        if not self.rounding:
            return (e @ v).div_(e.sum(-1, keepdim=True))
        e.floor_()
        return _round_quotient((e @ v).double(), e.sum(-1, keepdim=True).double()).float()


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


class _Ramp(torch.autograd.Function):
    """The squared ramp of `Attention` on scores <= 0, with the gradient of the unrounded function."""

    @staticmethod
    def forward(ctx, s, rounding):
        r = s * (1 / 16)
        if rounding:
            r.floor_()
        r.add_(255).clamp_(min=0)
        ctx.save_for_backward(r)
        e = r * r
        e.mul_(1 / 256)
        return e.floor_() if rounding else e

    @staticmethod
    def backward(ctx, grad):
        (r,) = ctx.saved_tensors
        return grad * r * (2 / (256 * 16)), None


class AttentionCache:
    """Keys and values of the phases decoded so far in one frame, for every attention layer."""

    def __init__(self, phase: int, store: dict[Attention, tuple[Tensor, Tensor]]):
        self.phase, self.store = phase, store

    def append(self, layer: Attention, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v: (windows, heads, cells, d) of the present phase; returns all, phase after phase."""
        if self.phase:
            before_k, before_v = self.store[layer]
            k, v = torch.cat([before_k, k], 2), torch.cat([before_v, v], 2)
        self.store[layer] = (k, v)
        return k, v


class FeedForward(ExactModule):
    """width -> hidden -> width with a ReLU; the result has the residual stream's fractional bits."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.inner = Linear(width, hidden)
        self.out = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner.rounded(x, WEIGHT_BITS, 0, 127)
        return self.out.residual(hidden)


def at_once(x: Tensor) -> bool:
    """Whether all of x is worked on at once: for training, and where there is no cache to keep within."""
    return torch.is_grad_enabled() or x.device.type != "cpu"


def in_parts(layers: Callable, *x: Tensor) -> Any:
    """`layers`, which work token by token on (B, H, ...) and return one tensor or several, applied to a few rows at a
    time, if not `at_once`."""
    rows, step = x[0].shape[1], max(1, _CHUNK // x[0][:, 0, ..., 0].numel())
    if at_once(x[0]) or rows <= step:
        return layers(*x)
    parts = [layers(*part) for part in zip(*(t.split(step, 1) for t in x))]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts, 1)
    return [torch.cat(part, 1) for part in zip(*parts)]


class AttentionBlock(ExactModule):
    """Pre-norm transformer block on (B, H, W, P, C); odd blocks shift their windows by half (Swin, 2103.14030)."""

    def __init__(self, width: int, hidden: int, window: int, phases: int, shifted: bool):
        super().__init__()
        self.norm1, self.norm2 = Norm(width), Norm(width)
        self.attention = Attention(width, width // 32, window, phases, window // 2 if shifted else 0)
        self.feed_forward = FeedForward(width, hidden)

    def forward(self, x, condition, cache=None):
        x = x + self.attention(in_parts(lambda x: self.norm1(x, condition), x), cache)
        return in_parts(lambda x: x + self.feed_forward(self.norm2(x, condition)), x)


class ShiftBlock(ExactModule):
    """Feed-forward block on (B, H, W, C) whose nine channel groups come from 3x3 neighbours (ShiftViT, 2201.10801)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        assert width % 9 == 0
        self.norm, self.feed_forward = Norm(width), FeedForward(width, hidden)

    def forward(self, x, condition):
        y = in_parts(lambda x: self.norm(x, condition), x)
        _, h, w, c = y.shape
        padded = F.pad(y, (0, 0, 1, 1, 1, 1))
        n = c // 9
        y = torch.cat([padded[:, i // 3 : i // 3 + h, i % 3 : i % 3 + w, i * n : (i + 1) * n] for i in range(9)], -1)
        return in_parts(lambda x, y: x + self.feed_forward(y), x, y)
