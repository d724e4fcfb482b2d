"""A small prior of the tokens of a frame that takes any order of coding: what the ablations of the prior train.

Two streams share all weights (XLNet, arXiv 1906.08237): the content stream holds of a token its coefficients, too, the
query stream only its place and what is known before anything is coded. A content sees the contents of its own and of
earlier steps, a query those of earlier steps. So one pass gives the distribution of every token of a frame, whatever
the order; a decoder gets the same ones step by step. The order is an integer for each token: the step it is coded in.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsqcodec.network.patches import PHASES
from bsqcodec.network.tokenizer import FEATURES
from bsqcodec.network.unrounded import SCALE_MAX, SCALE_MIN, information
from bsqcodec.network.unrounded_layers import MASK, Mat, Norm, bounded, views

CODED = 192  # coefficients of a token
LEVELS = (6.0, 7.0, 8.0, 9.0)  # log2 of the quantiser steps, of the token class 0, in pixel values
WIDTH, BLOCKS, HEADS, MLP, HEAD_WIDTH = 128, 3, 4, 4, 256
HEAD = WIDTH // HEADS
MASKGIT_STEPS = 12
NEAR = 4  # integers on either side of a mean whose probabilities an entropy of a small scale adds up
RAREST = 1e-5  # mean magnitude of a coefficient, at least, that a training starts from, in quantiser steps
LEAST_UNIT, FAR = 0.5, 6  # what coefficients are divided by, in quantiser steps, and the bound of what comes of it
DECAY = (2.0, 1.0, 0.5, 0.25)  # by head: what a token of distance starts with less, in its score


class Given(NamedTuple):
    """What encoder and decoder know of frames before a token is coded.

    Attributes:
        features: of each token and its eight neighbours, (B, N, 9 * FEATURES).
        level: place in LEVELS of the quantiser step, int64 (B,).
        context: what is known of each token's coefficients, in quantiser steps, (B, N, CODED); None: nothing.
    """

    features: Tensor
    level: Tensor
    context: Tensor | None


class Block(nn.Module):
    """Attention to contents beside an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.n, self.q, self.kv = Norm(WIDTH), Mat(WIDTH, WIDTH), Mat(WIDTH, 2 * WIDTH)
        self.up, self.down = Mat(WIDTH, MLP * WIDTH), Mat((1 + MLP) * WIDTH, WIDTH, zero=True)

    def forward(self, rows: Tensor, content: Tensor, bias: Tensor, some: Tensor) -> Tensor:
        """Add the block to residual streams.

        rows: (B, R, WIDTH); content: the stream that they see, (B, N, WIDTH); bias: of the scores, (B, HEADS, R, N);
        some: 1 where a row sees any content, else 0, (B, R, 1).
        """
        b, r, _ = rows.shape
        x = self.n(rows)
        q = (self.q(x) * HEAD**-0.5).view(b, r, HEADS, HEAD).transpose(1, 2).flatten(0, 1)
        k, v = self.kv(self.n(content)).view(b, -1, 2, HEADS, HEAD).permute(2, 0, 3, 1, 4).flatten(1, 2)
        scores = torch.baddbmm(bias.flatten(0, 1), q, k.mT)
        mean = (scores.softmax(-1) @ v).view(b, HEADS, r, HEAD).transpose(1, 2).flatten(2) * some
        return rows + self.down(torch.cat([mean, bounded(self.up(x), 0)], -1))


class Prior(nn.Module):
    """Logistic distributions of the coefficients of tokens, in an order that each call gives.

    Args:
        side: of the frames in tokens; a frame has N = side**2.
        groups: numbers of coefficients that are coded together, CODED in all: a group of a token sees those before it.
        context: whether `Given.context` is seen.
    """

    def __init__(self, side: int, groups: Sequence[int], context: bool = False):
        super().__init__()
        assert sum(groups) == CODED
        self.groups = list(groups)
        self.places = [slice(end - size, end) for size, end in zip(groups, itertools.accumulate(groups), strict=True)]
        self.place = nn.Parameter(torch.randn(side * side, WIDTH) * 0.02)
        self.feature, self.known = Mat(9 * FEATURES, WIDTH), Mat(CODED, WIDTH)
        self.context = Mat(3 * CODED, WIDTH) if context else None
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        line = torch.arange(side)
        at = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).view(-1, 2)
        apart = at[:, None] - at + side - 1
        self.register_buffer("distance", apart[..., 0] * (2 * side - 1) + apart[..., 1], persistent=False)
        self.distance: Tensor
        far = torch.arange(1.0 - side, side)
        far = torch.hypot(far[:, None], far).flatten()
        self.bias = nn.Parameter(-torch.tensor(DECAY)[:, None] * far)  # of scores, by the distance of two tokens
        self.norm, self.head = Norm(WIDTH), Mat(WIDTH, HEAD_WIDTH)
        self.seen = nn.ModuleList(Mat(g, HEAD_WIDTH, std=0.02) for g in self.groups[:-1])
        self.out = nn.ModuleList(Mat(HEAD_WIDTH, 2 * g, zero=True) for g in self.groups)
        self.table = nn.Parameter(torch.zeros(len(LEVELS), 2, CODED))  # means and scales to start from
        self.register_buffer("unit", torch.ones(len(LEVELS), CODED))  # of coefficients that are seen, and of means
        self.unit: Tensor

    @torch.no_grad()
    def start(self, q: Tensor, level: Tensor) -> None:
        """Begin with the scales of the coefficients q, (n, N, CODED), at each level; level: (n,).

        A logistic distribution of scale s is not 0 about as often as 2 exp(-1 / 2s), which tells that of rare values;
        of others the mean magnitude is 2 ln 2 s.
        """
        for i in range(len(LEVELS)):
            size = q[level == i].float().abs().mean((0, 1)).clamp(min=RAREST)
            scale = torch.where(size < 0.5, 0.5 / torch.log(2 / size.clamp(max=0.5)), size / (2 * math.log(2)))
            self.table[i, 1], self.unit[i] = torch.log2(scale), scale.clamp(min=LEAST_UNIT)

    def forward(self, q: Tensor, given: Given, order: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Mean and log2 of the scale of each coefficient's distribution, (B, N, CODED) each; it sees of q what is coded
        before it.

        Args:
            q: the coefficients, integers in quantiser steps, (B, N, CODED).
            given: what is known besides.
            order: the step in which each token is coded, int64 (B, N).
            dtype: of the activations.
        """
        return self.distributions(self.trunk(q, given, order, dtype), given.level, q)

    def trunk(self, q: Tensor, given: Given, order: Tensor, dtype: torch.dtype) -> Tensor:
        """What each token knows of those of earlier steps, (B, N, HEAD_WIDTH); the arguments are those of `forward`."""
        base = self.feature(given.features.to(dtype)) + self.place.to(dtype)
        if self.context and given.context is not None:
            base = base + self.context(views(given.context).to(dtype))
        tokens = base.shape[1]
        own, others = order.unsqueeze(-1), order.unsqueeze(1)
        seen = torch.cat([others <= own, others < own], 1)  # by contents and by queries, (B, 2 N, N)
        some = seen.any(-1, keepdim=True).to(dtype)
        bias = self.bias[:, self.distance].to(dtype).repeat(1, 2, 1) + (~seen * MASK).to(dtype).unsqueeze(1)
        content, query = base + self.known(_seen(q, self.unit[given.level].unsqueeze(1)).to(dtype)), base
        for block in self.blocks[:-1]:
            content, query = block(torch.cat([content, query], 1), content, bias, some).split(tokens, 1)
        query = self.blocks[-1](query, content, bias[:, :, tokens:], some[:, tokens:])
        return self.head(self.norm(query))

    def distributions(self, t: Tensor, level: Tensor, q: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log2 of the scale of each coefficient of tokens that know `t`, (B, n, HEAD_WIDTH).

        level: that of `Given`. q: the coefficients, (B, n, CODED); None: not known, and each group takes what is
        expected for those before it.
        """
        unit, start, out = self.unit[level].unsqueeze(1), self.table[level].unsqueeze(1), []
        for i, place in enumerate(self.places):
            mean, scale = (self.out[i](F.relu(t)).float().unflatten(-1, (2, -1)) + start[..., place]).unbind(-2)
            mean = mean * unit[..., place]
            out.append(torch.stack([mean, scale], -2))
            if i < len(self.seen):
                t = t + self.seen[i](_seen(mean.round() if q is None else q[..., place], unit[..., place]).to(t.dtype))
        mean, scale = torch.cat(out, -1).unbind(-2)
        return mean, bounded(scale, SCALE_MIN, SCALE_MAX)


def _seen(x: Tensor, unit: Tensor) -> Tensor:
    """Coefficients as a prior sees them: in their unit, bounded."""
    return bounded(x / unit, -FAR, FAR)


def bits(q: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Code length of the integers q under logistic distributions; scale: log2 of it. All of one shape."""
    return information(q, mean, torch.exp2(-scale))


def entropy(mean: Tensor, scale: Tensor) -> Tensor:
    """Bits that an integer of each distribution costs on average, within 0.05; scale: log2 of it. All of one shape.

    The sum over the integers near the mean; of larger scales, which reach further, that of the density.
    """
    borders = mean.round().unsqueeze(-1) + torch.arange(-NEAR - 0.5, NEAR + 1, device=mean.device)
    p = torch.sigmoid((borders - mean.unsqueeze(-1)) * torch.exp2(-scale).unsqueeze(-1)).diff(dim=-1)
    near = torch.special.entr(p).sum(-1) / math.log(2)
    return torch.where(scale > -0.5, scale + 2 / math.log(2), near)


def quadratic_groups(n: int) -> list[int]:
    """Sizes of n groups of the CODED coefficients that grow evenly, as those of the product about do."""
    ends = [round(CODED * (i / n) ** 2) for i in range(n + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]


def set_sizes(tokens: int, steps: int = MASKGIT_STEPS) -> list[int]:
    """Tokens that each step codes so that cos(pi s / 2 S) of them are left after step s of S (MaskGIT, arXiv
    2202.04200)."""
    ends = [math.ceil(tokens * (1 - math.cos(math.pi * s / (2 * steps))) - 1e-9) for s in range(steps + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]


def fixed_order(name: str, side: int) -> np.ndarray:
    """The step of each token of a frame, int64 (side**2,), row by row.

    name: "none", all at once; "phases", the product's four of a cell of 2x2; "raster", one token after the other.
    """
    if name == "none":
        return np.zeros(side * side, np.int64)
    if name == "raster":
        return np.arange(side * side)
    y, x = np.indices((side, side))
    cell = np.zeros((2, 2), np.int64)
    for step, at in enumerate(PHASES):
        cell[at] = step
    return cell[y % 2, x % 2].reshape(-1)


def random_order(rng: np.random.Generator, n: int, tokens: int) -> np.ndarray:
    """Sets of random tokens, of the sizes of `set_sizes`, one after the other, for n frames: int64 (n, tokens)."""
    steps = np.repeat(np.arange(MASKGIT_STEPS), set_sizes(tokens))
    return rng.permuted(np.tile(steps, (n, 1)), axis=1)


@torch.no_grad()
def by_confidence(
    prior: Prior, given: Given, tokens: int, dtype: torch.dtype, code: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Code frames in sets of the tokens whose expected cost is least, given those of the sets before.

    Encoder and decoder both run this: the order depends on nothing but what is coded.

    Args:
        prior, given, dtype: as those of `Prior.forward`.
        tokens: of a frame, N.
        code: called in each step with the places of its tokens, int64 (B, n), and what they know, (B, n, HEAD_WIDTH),
            that `Prior.distributions` makes distributions of. Returns the coefficients, (B, n, CODED): an encoder's are
            those that it codes, a decoder's those that it decodes.

    Returns the coefficients, (B, N, CODED), and the step of each token, int64 (B, N).
    """
    frames, device = len(given.level), given.level.device
    sizes = set_sizes(tokens)
    q = torch.zeros(frames, tokens, CODED, device=device)
    order = torch.full((frames, tokens), len(sizes), device=device)
    for step, size in enumerate(sizes):
        t = prior.trunk(q, given, order.clamp(max=step), dtype)
        cost = entropy(*prior.distributions(t, given.level)).sum(-1)
        chosen = cost.masked_fill(order < step, torch.inf).topk(size, largest=False).indices
        known = t.gather(1, chosen.unsqueeze(-1).expand(-1, -1, HEAD_WIDTH))
        q.scatter_(1, chosen.unsqueeze(-1).expand(-1, -1, CODED), code(chosen, known))
        order.scatter_(1, chosen, step)
    return q, order
