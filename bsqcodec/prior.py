"""The autoregressive prior: P(bit | all decoded bits), in exact integers.

Tokens are grouped in cells of 2x2 and decoded in four phases, (0,0) (1,1) (0,1) (1,0); inside a token the bits come
in G groups. The token of phase k is predicted from the bits of the earlier phases in its own cell, from the previous
frame's bits in the cell, and, through windowed attention, from what the tokens of phases <= k of the cells around
know. A frame so takes 4 G vectorised steps, whatever its size. The prior sees integers only: bits, frame kind,
quality; never pixels.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .exact import (
    ACT_BITS,
    LIMIT,
    QUALITIES,
    RES_BITS,
    WEIGHT_BITS,
    Attention,
    AttentionBlock,
    AttentionCache,
    ConditionTable,
    ExactModule,
    Linear,
    Matrix,
    Norm,
    scale,
)
from .graphs import Graphs

PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
LOGIT_BITS = 6
LOGIT_MAX = 710  # sigmoid(710 / 64) is 65535/65536 to the nearest step
PROBABILITY_BITS = 16
_KEPT = 16  # qualities whose weights are kept sorted out

# Called once for every group of every phase with P(bit = 1) * 65536 of the active bits, int32 (tokens, n), and, when
# encoding, with the bits themselves, uint8; returns the bits, uint8, same shape. Tokens come in the order (batch, row,
# column). All of it lies on the CPU, so that a step on another device waits for one transfer.
Coder = Callable[[Tensor, Tensor | None], Tensor]


def cells(x: Tensor) -> Tensor:
    """(B, H, W, C) tokens -> (B, H/2, W/2, 4, C) in phase order; H and W even."""
    return torch.stack([x[:, i::2, j::2] for i, j in PHASES], 3)


def tokens(x: Tensor) -> Tensor:
    """Inverse of `cells`."""
    b, h, w, _, c = x.shape
    out = x.new_empty(b, 2 * h, 2 * w, c)
    for k, (i, j) in enumerate(PHASES):
        out[:, i::2, j::2] = x[:, :, :, k]
    return out


def pad_even(x: Tensor) -> Tensor:
    """Zero tokens at the bottom and right of (B, H, W, C) until both sides are even."""
    return F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))


def probability_table() -> Tensor:
    """round(65536 sigmoid(i / 64)), i = -710..710, in 1..65535. Shipped with the weights, not computed at load."""
    i = torch.arange(-LOGIT_MAX, LOGIT_MAX + 1, dtype=torch.float64)
    return torch.round(torch.sigmoid(i / 2**LOGIT_BITS) * 2**PROBABILITY_BITS).clamp(1, 2**PROBABILITY_BITS - 1).long()


class _Group(NamedTuple):
    """What a step of the coding needs: the place of its bits among the active ones, their runs among all, weights."""

    place: slice
    runs: list[slice]
    logits: Matrix
    within: Matrix


class Prior(ExactModule):
    active: Tensor
    table: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        width, head, bits = config.prior_width, config.prior_head, config.bits
        self.previous = Linear(4 * bits, width, 0, WEIGHT_BITS, 1)
        self.phase = nn.Parameter(torch.randn(4, width) * 0.1)
        self.earlier = nn.ModuleList(Linear(bits, width, 0, WEIGHT_BITS, 1, bias=False) for _ in range(3))
        self.blocks = nn.ModuleList(
            AttentionBlock(width, 4 * width, config.window // 2, 4, i % 2 == 1) for i in range(config.prior_blocks)
        )
        self.norm = Norm(width)
        self.head = Linear(width, head)
        self.within = Linear(bits, head, 0, ACT_BITS + WEIGHT_BITS, 1, 1 << 13, bias=False)
        self.logits = Linear(head, bits)
        nn.init.zeros_(self.logits.weight)
        for layer in (self.previous, *self.earlier, self.within):
            nn.init.normal_(layer.weight, std=0.02)
        self.logit_bias = ConditionTable(bits, 0.0, ACT_BITS + WEIGHT_BITS)
        # the first active[j, q - 1] coefficients of plane j are coded at quality q, the others' bits are 0
        self.register_buffer("active", torch.tensor(config.planes, dtype=torch.int32)[:, None].repeat(1, QUALITIES))
        self.register_buffer("table", probability_table().int())
        self.formats["phase"] = (RES_BITS, 1 << 14)
        start, self.group_slices = 0, []
        for n in config.groups:
            for side in (0, bits // 2):
                self.group_slices.append(slice(side + start, side + start + n))
            start += n
        self.active_groups: dict[int, tuple[Tensor, list[_Group]]] = {}

    def freeze(self, dtype):
        super().freeze(dtype)
        self.active_groups = {}
        self.graphs = Graphs()

    def groups(self, quality: int) -> tuple[Tensor, list[_Group]]:
        """The active bits of a quality in the order of coding, int64 (n,), and the groups that hold any."""
        found = self.active_groups.get(quality)
        if found is None:
            mask = self.active_mask(torch.tensor(quality, device=self.active.device))
            indices = [mask[group].nonzero().squeeze(1) + group.start for group in self.group_slices]
            (logits, _), (within, _) = self.logits.integers(), self.within.integers()
            groups, start = [], 0
            for index in indices:
                if len(index):
                    place = slice(start, start + len(index))
                    ends = (index.diff() > 1).nonzero().squeeze(1).tolist() + [len(index) - 1]
                    firsts = [0] + [end + 1 for end in ends[:-1]]
                    runs = [slice(int(index[first]), int(index[end]) + 1) for first, end in zip(firsts, ends)]
                    groups.append(_Group(place, runs, Matrix(logits[index]), Matrix(within[:, index])))
                    start += len(index)
            found = torch.cat(indices), groups
            # a new one, for another thread may be reading the old
            self.active_groups = dict([*self.active_groups.items()][1 - _KEPT :] + [(quality, found)])
        return found

    def active_mask(self, quality: Tensor) -> Tensor:
        """bool (..., L): which bits are coded at `quality`, int64 (...)."""
        counts = self.active[:, quality - 1]
        one = [torch.arange(n, device=counts.device) < c.unsqueeze(-1) for n, c in zip(self.config.planes, counts)]
        return torch.cat(one * 2, -1)

    def inputs(self, previous: Tensor) -> Tensor:
        """previous: (B, Hc, Wc, 4, L) bits of the frame before (zeros: none). Returns (B, Hc, Wc, width)."""
        return self.previous.residual(previous.flatten(3))

    def trunk(self, x: Tensor, condition, cache=None) -> Tensor:
        for block in self.blocks:
            x = block(x, condition, cache)
        return self.norm(x, condition)

    def phase_trunk(self, phase: int, x: Tensor, kind: Tensor, quality: Tensor, *known: Tensor) -> list[Tensor]:
        """The trunk for one phase, x: (B, Hc, Wc, width). `known`: keys and values of the phases before, of each block.

        Returns what it makes of x, and the keys and values with those of this phase.
        """
        layers = [m for m in self.blocks.modules() if isinstance(m, Attention)]
        cache = AttentionCache(phase, dict(zip(layers, zip(known[0::2], known[1::2]))))
        x = self.trunk(x.unsqueeze(3), (kind, quality), cache).squeeze(3)
        return [x, *itertools.chain.from_iterable(cache.store.values())]

    def group_logits(self, total: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Logits of one group, ACT_BITS + WEIGHT_BITS fractional bits, from its part of the last layer."""
        hidden = scale(total, -WEIGHT_BITS, 0, 127, self.rounding)
        return self.logits.product(hidden, weight, None) + bias

    def forward(self, bits: Tensor, previous: Tensor, condition) -> Tensor:
        """Training: logits (real units) of every bit at once.

        bits, previous: (B, H, W, L), H and W even; condition: (kind, quality), int64 (B,).
        """
        now = cells(bits)
        base = self.inputs(cells(previous)).unsqueeze(3)
        known = [torch.zeros_like(base[:, :, :, 0])]
        for k, layer in enumerate(self.earlier):
            known.append(known[-1] + layer(now[:, :, :, k]))
        x = base + torch.stack(known, 3) + self.integer("phase")
        # the head's sum keeps its fraction until all groups seen so far are added
        total = self.head(self.trunk(x, condition))
        bias = self.logit_bias(*condition).view(-1, 1, 1, 1, self.config.bits)
        out = [torch.empty(0)] * len(self.group_slices)
        within, _ = self.within.integers()
        weight, offset = self.logits.integers()
        assert offset is not None
        for i, group in enumerate(self.group_slices):
            out[i] = self.group_logits(total, weight[group], offset[group] + bias[..., group])
            total = total + self.within.product(now[..., group], within[:, group], None)
        order = out[0::2] + out[1::2]
        return tokens(torch.cat(order, -1)) * 2.0 ** -(ACT_BITS + WEIGHT_BITS)

    @torch.inference_mode()
    def run(self, previous: Tensor, kind: int, quality: int, coder: Coder, bits: Tensor | None = None) -> Tensor:
        """Encode (`bits` given) or decode one frame step by step; `coder` is told the probabilities of every step.

        previous, bits: (B, H, W, L), the bits of the frame before and of this one. Returns the frame's bits, which
        are 0 where `active_mask` is. Needs `freeze`.
        """
        assert self.frozen, "freeze the prior before coding"
        b, height, width, _ = previous.shape
        device = previous.device
        condition = (torch.full((b,), kind, device=device), torch.full((b,), quality, device=device))
        active, groups = self.groups(quality)
        bits_before = self.previous.narrow(previous)
        kind_of_bits = bits_before.dtype
        base = self.inputs(cells(pad_even(bits_before)))
        hc, wc = base.shape[1:3]
        _, offset = self.logits.integers()
        assert offset is not None
        bias = (self.logit_bias(*condition)[0] + offset)[active]
        if kind_of_bits == torch.int8:
            bias = bias.to(torch.int32)
        out = base.new_zeros((b, 2 * hc, 2 * wc, self.config.bits), dtype=kind_of_bits)
        if bits is not None:
            bits = bits.to("cpu", torch.uint8)
        known_keys: list[Tensor] = []
        for k, (i, j) in enumerate(PHASES):
            rows, columns = (height - i + 1) // 2, (width - j + 1) // 2  # cells whose token lies inside the grid
            x = base + self.integer("phase")[k]
            x, *known_keys = self.graphs.run(f"phase {k}", partial(self.phase_trunk, k), x, *condition, *known_keys)
            x = x[:, :rows, :columns]
            total = self.head.rounded(x.flatten(0, 2), 0, -LIMIT, LIMIT)
            hidden = self.hidden(total)
            now = out[:, i::2, j::2][:, :rows, :columns]
            known = None if bits is None else bits[:, i::2, j::2].flatten(0, 2)
            for group in groups:
                p = self.probabilities(group.logits.product(hidden).add_(bias[group.place]))
                truth = None if known is None else torch.cat([known[:, run] for run in group.runs], 1)
                new = coder(p.cpu(), truth).view(p.shape)
                # in most tokens all bits are 0 and change nothing
                at = new.any(1).nonzero().squeeze(1)
                if not len(at):
                    continue
                at, new = at.to(device), new.to(device)
                widths = [run.stop - run.start for run in group.runs]
                for run, part in zip(group.runs, new.view(*now.shape[:3], -1).split(widths, -1)):
                    now[..., run] = part
                more = total[at] + group.within.product(new[at].to(kind_of_bits))
                total[at], hidden[at] = more, self.hidden(more)
            if k < 3:
                base = base + self.earlier[k](out[:, i::2, j::2])
        return out[:, :height, :width].to(previous.dtype)

    def hidden(self, total: Tensor) -> Tensor:
        """Activations of the last layer from their sum, in the type that its product takes."""
        return self.logits.narrow(scale(total, -WEIGHT_BITS, 0, 127))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Integer logits -> P(1) * 65536, int32 in 1..65535."""
        i = scale(logits, LOGIT_BITS - ACT_BITS - WEIGHT_BITS, -LOGIT_MAX, LOGIT_MAX)
        return self.table.index_select(0, i.flatten().to(torch.int32) + LOGIT_MAX).view(i.shape)
