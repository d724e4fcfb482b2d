"""The autoregressive prior: mean and scale of every coefficient, given all that was decoded, in exact integers.

Tokens are grouped in cells of 2x2 and decoded in four phases, (0,0) (1,1) (0,1) (1,0); inside a token the
coefficients come in up to six groups. A token of phase k is predicted from the tokens of earlier phases in its own
cell, from the prediction of the frame in the cell, and, through windowed attention, from what the tokens of phases
<= k of the cells around know; a group also from the groups before it. A frame so takes 4 * 6 vectorised steps,
whatever its size.
"""

import itertools
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .cuda_graphs import Graphs
from .layers import (
    ACT_BITS,
    RES_BITS,
    AttentionBlock,
    AttentionCache,
    Linear,
    Tensors,
    linear,
    normalise,
    of_some,
    scale,
)
from .patches import PHASES, cells, padded
from .quantiser import COEFFICIENTS, MEAN_BITS, SCALE_HIGH, SCALE_LOW, TABLE_ROWS, Coder, decide, groups
from .tokenizer import VIEW_BITS, VIEW_MAX, Condition, Context, Decoder, count, view_columns, whole_views

HEAD_BITS = 8  # of the sum that the last layer sees
HEAD_MAX = 1 << 20
HIDDEN_MAX = 511  # of the last layer's inputs, ACT_BITS
TABLE_BITS = 10  # of means and scales before they are rounded
TABLE_MAX = 1 << 22
MEAN_MAX = 1 << 19


class _Group(NamedTuple):
    """A step of the coding: its coefficients, the layer that sees those before it, the layer that speaks."""

    place: slice
    seen: Linear | None
    out: Linear


class Prior:
    """The prior for all conditions.

    Args:
        tensors: the integers of a model on their device.
        decoder: whose features and quantiser it shares.
        dtype: float32, or int64 for the oracle.
    """

    def __init__(self, tensors: Tensors, decoder: Decoder, dtype: torch.dtype):
        self.decoder, self.quantiser, self.dtype = decoder, decoder.quantiser, dtype
        self.device = decoder.device
        self.graphs = Graphs()
        self._tensors = tensors
        self._cut: dict = {}
        self.phase = tensors["p_phase"].to(dtype)
        self.table = tensors["p_bias"].to(torch.int64)  # (3, 2, TABLE_ROWS, 2 * COEFFICIENTS)
        self.feature = linear(tensors, "p_feature", dtype)
        self.blocks = [
            AttentionBlock(tensors, f"prior16.{i}", dtype, AttentionBlock.WINDOW // 2 * (i % 2))
            for i in range(count(tensors, "prior16"))
        ]
        self.head = linear(tensors, "p_head", dtype, out_bits=HEAD_BITS, low=-HEAD_MAX, high=HEAD_MAX)

    def _view(self, name: str, n_coded: int) -> Linear:
        found = self._cut.get((name, n_coded))
        if found is None:
            columns = view_columns(n_coded, self.device)
            found = linear(self._tensors, name, self.dtype, columns, in_bits=VIEW_BITS, in_max=VIEW_MAX)
            self._cut[name, n_coded] = found
        return found

    def _groups(self, n_coded: int) -> list[_Group]:
        found = self._cut.get(("groups", n_coded))
        if found is None:
            found = []
            for i, place in enumerate(groups(n_coded)):
                seen = None
                if i:
                    seen = linear(
                        self._tensors, f"p_seen.{i - 1}", self.dtype, in_bits=VIEW_BITS, in_max=VIEW_MAX,
                        out_bits=HEAD_BITS, low=-HEAD_MAX, high=HEAD_MAX,
                    )  # fmt: skip
                out = linear(
                    self._tensors, f"p_out.{i}", self.dtype, in_max=HIDDEN_MAX,
                    out_bits=TABLE_BITS, low=-TABLE_MAX, high=TABLE_MAX,
                )  # fmt: skip
                found.append(_Group(place, seen, out))
            self._cut["groups", n_coded] = found
        return found

    def bias(self, condition: Condition, n_coded: int) -> Tensor:
        """What the last layer starts from, (2, n_coded): means, then scales, TABLE_BITS; interpolated by the quality."""
        table = self.table[condition.frame_type, condition.tune].view(TABLE_ROWS, 2, COEFFICIENTS)[..., :n_coded]
        n = (TABLE_ROWS - 1) * (100 - condition.quality)
        row = min(n // 99, TABLE_ROWS - 2)
        part = n - 99 * row
        return (table[row] * (99 - part) + table[row + 1] * part + 49) // 99

    def _phase(self, phase: int, x: Tensor, *known: Tensor) -> list[Tensor]:
        """The blocks for one phase, x: (B, Hc, Wc, width). `known`: keys and values of the phases before, by block.

        Returns the sum that the last layer sees, and the keys and values with those of this phase.
        """
        cache = AttentionCache(phase, dict(zip(self.blocks, zip(known[0::2], known[1::2]))))
        for block in self.blocks:
            x = block(x, cache)
        head = self.head(normalise(x))
        return [head, *itertools.chain.from_iterable(cache.store.values())]

    @torch.inference_mode()
    def run(
        self, context: Context, condition: Condition, coder: Coder, y: Tensor | None = None, worth: float = 0.0
    ) -> Tensor:
        """Encode (`y` given) or decode the coefficients of one frame step by step.

        context: of one frame (B = 1). y: (1, H, W, n_coded), integers, or with `worth` real numbers, of which each is
        rounded when its distribution is known (`quantiser.decide`). `coder` is told the probabilities of every step.
        Returns the coefficients that were coded, int32 (1, H, W, n_coded) on the model's device.
        """
        n_coded = self.quantiser.n_coded[condition.quality - 1]
        _, height, width = context.classes.shape
        pad = (0, 0, 0, width % 2, 0, height % 2)
        mean = context.mean if condition.frame_type else torch.zeros_like(context.mean)
        features = self.decoder.features(condition, mean, context.classes)
        base = self.feature.stream(cells(padded(features, pad)).flatten(3))
        if context.views is not None:
            views = cells(padded(context.views, pad))
            for i in range(4):
                base = base + self._view(f"p_prediction.{i}", n_coded).stream(views[:, :, :, i])
        hc, wc = base.shape[1:3]
        bias = self.bias(condition, n_coded).to(torch.int32)
        steps = self._groups(n_coded)
        out = torch.zeros((1, 2 * hc, 2 * wc, n_coded), dtype=torch.int32, device=self.device)
        truth = None if y is None else y.to("cpu", torch.float32 if worth else torch.int64)
        known_keys: list[Tensor] = []
        for k, (i, j) in enumerate(PHASES):
            rows, columns = (height - i + 1) // 2, (width - j + 1) // 2  # cells whose token lies inside the grid
            head, *known_keys = self.graphs.run(
                f"phase {k}", partial(self._phase, k), base + self.phase[k], *known_keys
            )
            total = head[:, :rows, :columns].flatten(0, 2)
            now = out[:, i::2, j::2][:, :rows, :columns]
            here = None if truth is None else truth[:, i::2, j::2].flatten(0, 2)
            new, some = total[:, :0], np.zeros(0, np.int64)
            for place, seen, speak in steps if len(total) else []:
                if seen is not None and len(some):  # in most tokens all are 0 and change nothing
                    at = torch.from_numpy(some).to(self.device)
                    total[at] = (total[at] + seen(whole_views(new[at]))).clamp_(-HEAD_MAX, HEAD_MAX)
                part = None if here is None else here[:, place]
                new, some = self._code(speak, total, bias[:, place], coder, part, worth)
                now[..., place] = new.view(*now.shape[:3], -1)
            if k < 3:
                see = self._view(f"p_known.{k}", n_coded).stream
                base = base + of_some(lambda y, see=see: [see(whole_views(y))], out[:, i::2, j::2])[0]
        return out[:, :height, :width].contiguous()

    def _code(
        self, speak: Linear, total: Tensor, bias: Tensor, coder: Coder, y: Tensor | None, worth: float
    ) -> tuple[Tensor, np.ndarray]:
        """One group of all tokens of a phase: its coefficients, int32 (tokens, n), and the tokens where some are not 0.

        Of most coefficients the prior is certain; only the others come to the host.
        """
        hidden = scale(total, ACT_BITS - HEAD_BITS, 0, HIDDEN_MAX)
        m, spread = (speak(hidden).unflatten(-1, (2, -1)) + bias).unbind(1)  # below 2**23: exact in float32
        m = scale(m, MEAN_BITS - TABLE_BITS, -MEAN_MAX, MEAN_MAX)
        spread = scale(spread, 3 - TABLE_BITS, SCALE_LOW, SCALE_HIGH)
        at = self.quantiser.coded(m, spread)
        some = torch.stack([t.flatten()[at].to(torch.int32) for t in (m, spread)] + [at.to(torch.int32)])
        mean, scales, places = some.cpu().numpy()
        chosen = None if y is None else y.numpy().ravel()[places]
        if chosen is not None and worth:
            chosen = decide(chosen, mean, scales, worth)
        values = self.quantiser.code(mean, scales, coder, chosen)
        new = torch.zeros(m.shape, dtype=torch.int32, device=m.device)
        new.view(-1)[at] = torch.from_numpy(values.astype(np.int32)).to(m.device)
        return new, np.unique(places[values != 0] // m.shape[1])


assert HEAD_BITS > ACT_BITS and RES_BITS > 0
