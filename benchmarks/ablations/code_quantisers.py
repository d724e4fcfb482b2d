"""Quantisers to codes of a finite alphabet, whose code is categorical: FSQ, and VQ in stages.

The prior tilts a distribution of its own for each symbol, which starts as that of training tokens: of a code at x the
logit has a x + b x**2 added, with a and b, for each channel of x, from the prior's network. So a code that is like the
expected one is likely, too, which a logit of its own for each of 512 codes would have to learn code by code.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .binary_quantisers import UNIT
from .network import LEVELS, LOG2_STEPS, Quantised, Quantiser
from .quantisers import bits_of, perplexity, straight_through

ALPHABET_BITS = (32, 64, 112, 192, 320)  # of a token, by level: FSQ's; a prior codes them in two thirds of that
LARGEST = 65  # alphabet of FSQ
EXCLUDED = -1e4  # logit of what a level does not have
STAGES = (3, 4, 7, 11, 18)  # of VQ, by level
CODE_BITS, CODE_CHANNELS = 9, 8  # of a stage of VQ
KMEANS_STEPS = 3
NEAREST_AT_ONCE = 512  # tokens
DECAY = 0.99  # of the moving averages that codes are
# moving average of tokens of a batch that take a code, below which it starts again; with .1 no level changes by .1 dB
DEAD = 0.005


class FiniteScalars(Quantiser):
    """FSQ, arXiv 2309.15505: round((L - 1) / 2 tanh(v)), L odd, with the straight-through estimator and no other loss.

    v is a linear map of the coefficients, which starts as the first of them. A channel of a level has the odd alphabet
    of the size nearest to its standard deviation by one distance, such that the sizes make up the level's bits; below
    3 it is not coded. Undoing tanh takes the place of its expansion to steps; a linear map follows.

    Args:
        spread: standard deviations of the coefficients, in pixel values, falling.
        scale: of v at the start, in standard deviations.
    """

    def __init__(self, spread: Tensor, scale: float):
        super().__init__()
        sizes = alphabets(spread)
        counts = [int((row > 1).sum()) for row in sizes]
        n, channels = counts[-1], len(spread)
        self.counts, self.scale = counts, scale
        ends = sorted(set(counts))
        self.groups = (ends[0], *(b - a for a, b in pairwise(ends)))
        self.sizes = [int(part.max()) for part in sizes[:, :n].amax(0).split(self.groups)]
        self.outputs = tuple(2 * n for n in self.groups)
        self.register_buffer("bound", (sizes[:, :n] - 1) / 2)
        self.register_buffer("unit", spread / 2 ** torch.tensor(LOG2_STEPS)[:, None])
        self.bound: Tensor
        self.unit: Tensor
        self.start = nn.Parameter(torch.zeros(LEVELS, 2 * n))
        sizes_of_all = sum(a * b for a, b in zip(self.groups, self.sizes, strict=True))
        self.frequency = nn.Parameter(torch.zeros(LEVELS, sizes_of_all))  # natural logarithms
        # what is learned of the linear maps, added to the identity, in UNIT
        self.project = nn.Parameter(torch.zeros(n, channels))
        self.back = nn.Parameter(torch.zeros(LEVELS, n, channels))
        self.register_buffer("project_unit", UNIT * (spread / spread[:n, None]).clamp(max=1))
        self.project_unit: Tensor

    @torch.no_grad()
    def begin(self, coefficients: Tensor) -> None:
        for level in range(LEVELS):
            symbols = self(coefficients / 2 ** LOG2_STEPS[level], level, coefficients[:, 0]).symbols
            parts = []
            for s, size in zip(symbols.split(self.groups, -1), self.sizes, strict=True):
                p = F.one_hot(s + size // 2, size).float().mean(0)
                parts.append((p + 1e-3).log().flatten())
            self.frequency[level] = torch.cat(parts)

    def forward(self, z: Tensor, level: int, classes: Tensor) -> Quantised:
        n = self.counts[level]
        half = self.bound[level, :n]
        x = z / self.unit[level]
        v = x[..., :n] + x @ (self.project_unit * self.project)[:n].T
        y = half * torch.tanh(self.scale * v)
        q = straight_through(y, y.detach().round())
        return Quantised(*self._made(q, level), self._padded(q.detach().long()), z.new_zeros(()))

    def restored(self, symbols: Tensor, level: int, classes: Tensor) -> tuple[Tensor, Tensor]:
        return self._made(symbols[..., : self.counts[level]].float(), level)

    def bits(self, q: Quantised, outputs: Tensor, level: int) -> Tensor:
        cost = []
        counted = [a * b for a, b in zip(self.groups, self.sizes, strict=True)]
        parts = (
            q.symbols.split(self.groups, -1), outputs.split(self.outputs, -1),
            self.frequency[level].split(counted), self.sizes, self.bound[level].split(self.groups),
        )  # fmt: skip
        for symbols, tilts, frequency, size, half in zip(*parts, strict=True):
            place = torch.arange(size, device=outputs.device) - size // 2.0
            x = place / half.clamp(min=1).sqrt()[:, None]
            a, b = tilts.unflatten(-1, (2, -1, 1)).unbind(-3)
            logits = frequency.view(-1, size) + EXCLUDED * (place.abs() > half[:, None]) + a * x + b * x * x
            cost.append(bits_of(logits.log_softmax(-1).gather(-1, symbols.unsqueeze(-1) + size // 2).squeeze(-1)))
        return torch.cat(cost, -1)[..., : self.counts[level]]

    def usage(self, symbols: Tensor, level: int) -> float:
        flat, used = symbols.flatten(0, -2), []
        for j, half in enumerate(self.bound[level, : self.counts[level]].tolist()):
            p = torch.bincount(flat[:, j] + int(half), minlength=int(2 * half) + 1) / len(flat)
            used.append(perplexity(p[None]))
        return sum(used) / len(used)

    def _made(self, q: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """What is seen, q in -1..1, and the values."""
        n = q.shape[-1]
        half = self.bound[level, :n]
        v = torch.atanh(q / (half + 0.5)) / self.scale
        values = F.pad(v, (0, self.unit.shape[1] - n)) + UNIT * (v @ self.back[level, :n])
        return self._padded(q / half), values * self.unit[level]

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, self.counts[-1] - x.shape[-1]))


class Vectors(Quantiser):
    """VQ in stages (residual VQ): codes are moving averages of what takes them, arXiv 1711.00937, appendix.

    A stage codes 8 directions, the principal ones of what the stages before it left of training tokens, with one of
    512 codes, 9 bits; k-means of these tokens is the start. A level codes its first stages. A code that too few tokens
    take, which the moving average tells, starts again from a token of the batch.

    Args:
        spread: standard deviations of the coefficients, in pixel values, falling.
        commitment: weight of the squared distance of a token from its codes, in variances of a stage; the paper's beta.
    """

    def __init__(self, spread: Tensor, commitment: float):
        super().__init__()
        self.commitment, channels, codes = commitment, len(spread), 2**CODE_BITS
        stages = STAGES[-1]
        self.groups, self.outputs = (CODE_CHANNELS,) * stages, (2 * CODE_CHANNELS,) * stages
        self.start = nn.Parameter(torch.zeros(LEVELS, sum(self.outputs)))
        self.frequency = nn.Parameter(torch.zeros(LEVELS, stages, codes))  # natural logarithms
        for name, shape in (
            ("directions", (stages, channels, CODE_CHANNELS)),
            ("codes", (stages, codes, CODE_CHANNELS)),
            ("taken", (stages, codes)),
            ("deviation", (stages, CODE_CHANNELS)),
        ):
            self.register_buffer(name, torch.ones(shape))
        self.directions: Tensor
        self.codes: Tensor
        self.taken: Tensor
        self.deviation: Tensor

    @torch.no_grad()
    def begin(self, coefficients: Tensor) -> None:
        rest = coefficients.clone()
        for s in range(len(self.groups)):
            _, vectors = torch.linalg.eigh((rest.T @ rest).double() / len(rest))
            self.directions[s] = vectors.flip(1)[:, :CODE_CHANNELS].float()
            x = rest @ self.directions[s]
            self.deviation[s] = x.square().mean(0).sqrt()
            codes = x[torch.randperm(len(x))[: len(self.codes[s])]]
            for _ in range(KMEANS_STEPS):
                index = nearest(x, codes)
                n = torch.bincount(index, minlength=len(codes)).unsqueeze(-1)
                codes = torch.where(n > 0, torch.zeros_like(codes).index_add_(0, index, x) / n.clamp(min=1), codes)
            self.codes[s], index = codes, nearest(x, codes)
            self.frequency[:, s] = (torch.bincount(index, minlength=len(codes)) / len(x) + 1e-4).log()
            rest -= codes[index] @ self.directions[s].T

    def forward(self, z: Tensor, level: int, classes: Tensor) -> Quantised:
        rest = z.flatten(0, -2) * 2 ** LOG2_STEPS[level]
        seen, symbols, loss, coded = [], [], z.new_zeros(()), torch.zeros_like(rest)
        for s in range(STAGES[level]):
            x = (rest - coded) @ self.directions[s]
            index = nearest(x.detach(), self.codes[s])
            code = self.codes[s][index]
            loss = loss + ((x - code) / self.deviation[s]).square().mean()
            seen.append(straight_through(x, code) / self.deviation[s])
            coded = coded + code @ self.directions[s].T
            symbols.append(index)
            if self.training:
                self._learn(s, x.detach(), index)
        both = F.pad(torch.cat(seen, -1), (0, sum(self.groups) - len(seen) * CODE_CHANNELS))
        values = straight_through(z, (coded / 2 ** LOG2_STEPS[level]).view(z.shape))
        index = F.pad(torch.stack(symbols, -1), (0, len(self.groups) - len(symbols)))
        weight = self.commitment / len(symbols)
        return Quantised(both.view(*z.shape[:-1], -1), values, index.view(*z.shape[:-1], -1), weight * loss)

    def restored(self, symbols: Tensor, level: int, classes: Tensor) -> tuple[Tensor, Tensor]:
        n = STAGES[level]
        codes = [self.codes[s][symbols[..., s]] for s in range(n)]
        seen = torch.cat([code / self.deviation[s] for s, code in enumerate(codes)], -1)
        values = sum(code @ self.directions[s].T for s, code in enumerate(codes))
        return F.pad(seen, (0, sum(self.groups) - seen.shape[-1])), values / 2 ** LOG2_STEPS[level]

    def bits(self, q: Quantised, outputs: Tensor, level: int) -> Tensor:
        n = STAGES[level]
        x = self.codes[:n] / self.deviation[:n, None]
        tilts = outputs[..., : 2 * CODE_CHANNELS * n].unflatten(-1, (n, 2 * CODE_CHANNELS))
        logits = torch.einsum("...sd,scd->...sc", tilts, torch.cat([x, x * x], -1)) + self.frequency[level, :n]
        return bits_of(logits.log_softmax(-1).gather(-1, q.symbols[..., :n, None]).squeeze(-1))

    def usage(self, symbols: Tensor, level: int) -> float:
        flat = symbols[..., : STAGES[level]].flatten(0, -2)
        return perplexity(torch.stack([torch.bincount(s, minlength=2**CODE_BITS) / len(s) for s in flat.T]))

    @torch.no_grad()
    def _learn(self, s: int, x: Tensor, index: Tensor) -> None:
        """Move the codes of a stage to what takes them. x: (n, 8), index: (n,)."""
        one_hot = F.one_hot(index, len(self.codes[s])).float()
        n = one_hot.sum(0)
        taken = DECAY * self.taken[s]
        total = self.codes[s] * taken[:, None] + (1 - DECAY) * (one_hot.T @ x)
        taken = taken + (1 - DECAY) * n
        dead = taken < DEAD
        token = x[torch.randint(len(x), (len(dead),), device=x.device)]
        self.codes[s] = torch.where(dead[:, None], token, total / taken[:, None])
        self.taken[s] = torch.where(dead, 1.0, taken)


def alphabets(spread: Tensor) -> Tensor:
    """Sizes of the alphabets of the channels of each level, odd, falling, (LEVELS, channels)."""
    rows = []
    for bits in ALPHABET_BITS:
        low, high = 0.0, 20.0  # log2 of the standard deviation that has an alphabet of 1
        for _ in range(30):
            middle = (low + high) / 2
            sizes = (2 * ((spread / 2**middle - 1) / 2).round().clamp(min=0) + 1).clamp(max=LARGEST)
            low, high = (middle, high) if float(sizes.log2().sum()) > bits else (low, middle)
        rows.append(sizes)
    return torch.stack(rows)


def nearest(x: Tensor, codes: Tensor) -> Tensor:
    """Index of the code nearest to each of x, (n,) of (n, channels) and (codes, channels)."""
    size = codes.square().sum(-1)  # in parts, so that distances stay in the cache
    return torch.cat([torch.addmm(size, part, codes.T, alpha=-2).argmin(-1) for part in x.split(NEAREST_AT_ONCE)])
