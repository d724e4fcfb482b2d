"""The autoregressive prior: mean and scale of every coefficient, given all that was decoded, in exact integers.

Read quantiser.py and tokenizer.py before it, network.py after it.

Tokens are grouped in cells of 2x2 and decoded in four phases, (0,0) (1,1) (0,1) (1,0); inside a token the
coefficients come in up to six groups. A token of phase k is predicted from the tokens of earlier phases in its own
cell, from the prediction of the frame in the cell, and, through windowed attention, from what the tokens of phases
<= k of the cells around know; a group also from the groups before it. A frame so takes 4 * 6 vectorised steps,
whatever its size.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .blocks import WINDOW, AttentionBlock
from .cuda_graphs import Graphs
from .layers import ACT_BITS, RES_BITS, Linear, Tensors, linear, normalise, of_nonzero, scale, stack_depth
from .patches import PHASES, cells, padded
from .quantiser import (
    COEFFICIENTS,
    GROUPS,
    MEAN_BITS,
    SCALE_BITS,
    SCALE_HIGH,
    SCALE_LOW,
    TABLE_ROWS,
    Coder,
    Quantiser,
    groups,
)
from .rdoq import round_to_cheaper
from .tokenizer import Condition, Context, features
from .views import VIEW_BITS, VIEW_MAX, ViewLayers, whole_views

HEAD_BITS = 8  # fractional bits of the sum that the last layer sees
HEAD_MAX = 1 << 20
HIDDEN_MAX = 511  # bound of the last layer's inputs, which have ACT_BITS
TABLE_BITS = 10  # fractional bits of means and scales before they are rounded
TABLE_MAX = 1 << 22
MEAN_MAX = 1 << 19
assert HEAD_BITS > ACT_BITS and RES_BITS > 0


class _Group(NamedTuple):
    """The layers of a group: one that sees the group before it, if there is any, one that gives its distributions."""

    seen: Linear | None
    out: Linear


class Prior:
    """The prior of a model, for all conditions.

    `run` both encodes and decodes: it says how likely the bits of a step are, a `Coder` writes or reads them, and what
    they are informs the next step. It keeps nothing from one frame to the next.

    Args:
        tensors: the integers of a model on their device.
        quantiser: its tables.
        graphs: what runs the blocks of a phase.
        dtype: float32, or int64 for the oracle.

    Attributes:
        phase: what the input of each phase gets, (4, width).
        table: means, then scales, that the last layer starts from, int64 (3 frame types, 2 tunes, TABLE_ROWS, 2 * 768).
    """

    def __init__(self, tensors: Tensors, quantiser: Quantiser, graphs: Graphs, dtype: torch.dtype):
        self.quantiser, self.graphs = quantiser, graphs
        self.see = ViewLayers(tensors, dtype)
        self.phase = tensors["p_phase"].to(dtype)
        self.table = tensors["p_bias"].to(torch.int64)
        self.feature = linear(tensors, "p_feature", dtype)
        depth = stack_depth(tensors, "prior16")
        self.blocks = [AttentionBlock(tensors, f"prior16.{i}", dtype, WINDOW // 2 * (i % 2)) for i in range(depth)]
        self.head = linear(tensors, "p_head", dtype, out_bits=HEAD_BITS, low=-HEAD_MAX, high=HEAD_MAX)

        def group(i: int) -> _Group:
            seen = None if not i else linear(
                tensors, f"p_seen.{i - 1}", dtype, in_bits=VIEW_BITS, in_max=VIEW_MAX,
                out_bits=HEAD_BITS, low=-HEAD_MAX, high=HEAD_MAX,
            )  # fmt: skip
            out = linear(
                tensors, f"p_out.{i}", dtype, in_max=HIDDEN_MAX, out_bits=TABLE_BITS, low=-TABLE_MAX, high=TABLE_MAX
            )
            return _Group(seen, out)

        self.groups = [group(i) for i in range(len(GROUPS))]

    @torch.inference_mode()
    def run(
        self, context: Context, condition: Condition, coder: Coder, y: Tensor | None = None, error_cost: float = 0.0,
        only: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Encode (`y` given) or decode the coefficients of one frame step by step.

        context: of one frame (B = 1). y: (1, H, W, n_coded), integers, or with `error_cost` real numbers, of which each
        is rounded when its distribution is known (`round_to_cheaper`). `coder` gets the probabilities of every step.
        only: with integers `y` the tokens that are coded, bool (1, H, W); the others are those of `y` as they are.
        Returns the coefficients that were coded, int32 (1, H, W, n_coded) on the model's device: 0 where the prior was
        certain of it.
        """
        n_coded = self.quantiser.n_coded[condition.quality - 1]
        _, height, width = context.classes.shape
        base = self._base(context, condition, n_coded)
        bias = self._bias(condition, n_coded).to(torch.int32)
        out = base.new_zeros((1, 2 * base.shape[1], 2 * base.shape[2], n_coded), dtype=torch.int32)
        given = None if y is None else y.to("cpu", torch.float32 if error_cost else torch.int64)
        known: list[Tensor] = []
        for k, (i, j) in enumerate(PHASES):
            head, *known = self.graphs.run(f"phase {k}", partial(self._phase, k), base + self.phase[k], *known)
            rows, columns = (height - i + 1) // 2, (width - j + 1) // 2  # cells whose token lies inside the grid
            if rows and columns:
                coded = out[:, i::2, j::2][:, :rows, :columns]
                here = None if given is None else given[:, i::2, j::2].flatten(0, 2)
                total = head[:, :rows, :columns].flatten(0, 2)
                if here is None or only is None:
                    values = self._code_phase(total, bias, coder, here, error_cost)
                else:
                    at, values = only[:, i::2, j::2].flatten().cpu(), here.to(torch.int32).to(out.device)
                    if at.any():
                        values[at] = self._code_phase(total[at], bias, coder, here[at], error_cost)
                coded.copy_(values.view(coded.shape))
            if k < len(PHASES) - 1:
                see = self.see(f"p_known.{k}", n_coded).stream
                base = base + of_nonzero(lambda y, see=see: [see(whole_views(y))], out[:, i::2, j::2])[0]
        return out[:, :height, :width].contiguous()

    def _base(self, context: Context, condition: Condition, n_coded: int) -> Tensor:
        """The residual stream of the cells that every phase starts from: features and prediction of their tokens."""
        _, height, width = context.classes.shape
        pad = (0, 0, 0, width % 2, 0, height % 2)
        # of an I frame no mean is known before its coefficients
        mean = context.mean if condition.frame_type else torch.zeros_like(context.mean)
        tokens = features(self.quantiser, condition, mean, context.classes)
        base = self.feature.stream(cells(padded(tokens, pad)).flatten(3))
        if context.views is not None:
            views = cells(padded(context.views, pad))
            for i in range(len(PHASES)):
                base = base + self.see(f"p_prediction.{i}", n_coded).stream(views[:, :, :, i])
        return base

    def _bias(self, condition: Condition, n_coded: int) -> Tensor:
        """Means and scales that the last layer starts from, (2, n_coded) of TABLE_BITS, interpolated by the quality."""
        table = self.table[condition.frame_type, condition.tune].view(TABLE_ROWS, 2, COEFFICIENTS)[..., :n_coded]
        n = (TABLE_ROWS - 1) * (100 - condition.quality)  # row, in 1/99
        row = min(n // 99, TABLE_ROWS - 2)
        part = n - 99 * row
        return (table[row] * (99 - part) + table[row + 1] * part + 49) // 99

    def _phase(self, phase: int, x: Tensor, *known: Tensor) -> list[Tensor]:
        """The blocks for one phase, x: (B, Hc, Wc, width). `known`: keys and values of the phases before, by block.

        Returns the sum that the last layer sees, and the keys and values with those of this phase.
        """
        keys_values: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x, k, v = block(x, phase, known[2 * i : 2 * i + 2])
            keys_values += k, v
        return [self.head(normalise(x)), *keys_values]

    def _code_phase(self, total: Tensor, bias: Tensor, coder: Coder, y: Tensor | None, error_cost: float) -> Tensor:
        """Code the tokens of a phase group by group; total: the sum that the last layer sees, (tokens, head)."""
        out = bias.new_zeros(len(total), bias.shape[1])
        nonzero = np.zeros(0, np.int64)  # tokens where the last group is not all 0: in the others it changes nothing
        before = slice(0)
        for place, group in zip(groups(bias.shape[1]), self.groups, strict=False):  # the last ones may not be coded
            if group.seen is not None and len(nonzero):
                at = torch.from_numpy(nonzero).to(out.device)
                seen = group.seen(whole_views(out[at, before]))
                total[at] = (total[at] + seen).clamp_(-HEAD_MAX, HEAD_MAX)
            hidden = scale(total, ACT_BITS - HEAD_BITS, 0, HIDDEN_MAX)
            # below 2**23: exact in float32
            mean, spread = (group.out(hidden).unflatten(-1, (2, -1)) + bias[:, place]).unbind(1)
            part = None if y is None else y[:, place]
            out[:, place], nonzero = self._code_group(mean, spread, coder, part, error_cost)
            before = place
        return out

    def _code_group(
        self, mean: Tensor, spread: Tensor, coder: Coder, y: Tensor | None, error_cost: float
    ) -> tuple[Tensor, np.ndarray]:
        """One group of all tokens of a phase: its coefficients, int32 (tokens, n), and the tokens where some are not 0.

        Of most coefficients the prior is certain; only the others come to the host. mean, spread: with TABLE_BITS.
        """
        mean = scale(mean, MEAN_BITS - TABLE_BITS, -MEAN_MAX, MEAN_MAX)
        spread = scale(spread, SCALE_BITS - TABLE_BITS, SCALE_LOW, SCALE_HIGH)
        at = self.quantiser.uncertain(mean, spread)
        uncertain = torch.stack([t.flatten()[at].to(torch.int32) for t in (mean, spread)] + [at.to(torch.int32)])
        means, scales, places = uncertain.cpu().numpy()
        chosen = None if y is None else y.numpy().ravel()[places]
        if chosen is not None and error_cost:
            chosen = round_to_cheaper(chosen, means, scales, error_cost)
        values = self.quantiser.code(means, scales, coder, chosen)
        out = torch.zeros(mean.shape, dtype=torch.int32, device=mean.device)
        out.view(-1)[at] = torch.from_numpy(values.astype(np.int32)).to(mean.device)
        return out, np.unique(places[values != 0] // mean.shape[1])
