"""Quantisers to bits, signs of a linear map of the coefficients: BSQ on one sphere, and LFQ.

A level codes the first bits of a token. The map starts as thermometers: a bit is whether a coefficient passes a
threshold. The next bit goes to the coefficient whose distortion it lowers most; all bits of one have thresholds at
equal distances, and a linear map takes the signs back to the coefficients (least squares on training tokens).

The bits of a token are coded one after the other: each has a logit from the prior, and beside it one from the bits
before it by a triangular matrix (a fully visible sigmoid belief network), without which a thermometer would cost all
its bits.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import LEVELS, LOG2_STEPS, Quantised, Quantiser
from .quantisers import bits_of, perplexity, straight_through

LEVEL_BITS = (48, 96, 192, 320, 480)  # of a token, by level; a prior codes them in a third to a half of that
MOST_BITS = 40  # of one coefficient, at the start
SURE = 5.0  # logit of a bit that others of its thermometer decide
UNIT = 0.05  # of what is learned of linear maps: their inputs are many, and have a variance of about 1


class Signs(Quantiser):
    """The bits, their linear maps and their code; what is rounded to a sign, and at what loss, is a subclass's.

    Args:
        spread: standard deviations of the coefficients, in pixel values, falling.
        weight: of the entropy terms in the loss.
        gamma: of the entropy of the mean, in the entropy of samples.
        inverse_temperature: of the soft assignment to codes: the logit of a bit is so often what is rounded.
    """

    def __init__(self, spread: Tensor, weight: float, gamma: float, inverse_temperature: float):
        super().__init__()
        n, channels = LEVEL_BITS[-1], len(spread)
        self.weight, self.gamma, self.inverse_temperature = weight, gamma, inverse_temperature
        self.groups = (LEVEL_BITS[0], *(b - a for a, b in pairwise(LEVEL_BITS)))
        self.outputs = self.groups
        self.register_buffer("unit", spread / 2 ** torch.tensor(LOG2_STEPS)[:, None])  # steps, (LEVELS, channels)
        self.unit: Tensor
        self.start = nn.Parameter(torch.zeros(LEVELS, n))
        self.project = nn.Parameter(torch.zeros(n, channels))  # in `project_unit`, added to the start
        self.threshold = nn.Parameter(torch.zeros(LEVELS, n))
        self.back = nn.Parameter(torch.zeros(LEVELS, 1 + n, channels))  # of 1 and of the signs; in UNIT, likewise
        self.register_buffer("back_start", torch.zeros(LEVELS, 1 + n, channels))
        self.back_start: Tensor
        self.coupling = nn.Parameter(torch.zeros(LEVELS, n, n))
        self.at, thresholds = thermometers(spread)
        own = spread[self.at][:, None]
        self.register_buffer("project_start", F.one_hot(torch.tensor(self.at), channels).float())
        self.register_buffer("project_unit", UNIT * (spread / own).clamp(max=1))
        self.project_start: Tensor
        self.project_unit: Tensor
        with torch.no_grad():
            self.threshold.copy_(thresholds)

    @torch.no_grad()
    def begin(self, coefficients: Tensor) -> None:
        x = coefficients / (self.unit[0] * 2 ** LOG2_STEPS[0])
        for level, n in enumerate(LEVEL_BITS):
            t, signs = self.threshold[level], F.pad(_signs(self._linear(x, level)), (1, 0), value=1.0)
            gram = signs.T @ signs + 1e-2 * len(x) * torch.eye(n + 1)
            self.back_start[level, : n + 1] = torch.linalg.solve(gram, signs.T @ x)
            for j in range(n):
                v, own = x[:, self.at[j]], [i for i in range(j) if self.at[i] == self.at[j]]
                low = max((i for i in own if t[i] < t[j]), key=lambda i: float(t[i]), default=None)
                high = min((i for i in own if t[i] > t[j]), key=lambda i: float(t[i]), default=None)
                inside = torch.ones(len(v), dtype=torch.bool)
                for i, sign in ((low, 1), (high, -1)):
                    if i is not None:
                        inside &= sign * (v - t[i]) > 0
                        self.coupling[level, j, i] = SURE / 2
                        self.start[level, j] -= sign * SURE / 2
                p = ((v > t[j]) & inside).sum() / inside.sum().clamp(min=1)
                self.start[level, j] += torch.logit(p, 0.02)

    def forward(self, z: Tensor, level: int, classes: Tensor) -> Quantised:
        v = self._linear(z / self.unit[level], level)
        signs, loss = self.rounded(v)
        seen = F.pad(signs, (0, LEVEL_BITS[-1] - signs.shape[-1]))
        return Quantised(seen, self._values(signs, level), (seen.detach() > 0).long(), loss)

    def rounded(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Signs of v, (..., bits), with the gradient of an estimator, and what is added to the loss."""
        raise NotImplementedError

    def restored(self, symbols: Tensor, level: int, classes: Tensor) -> tuple[Tensor, Tensor]:
        signs = 2.0 * symbols[..., : LEVEL_BITS[level]] - 1
        return F.pad(signs, (0, LEVEL_BITS[-1] - signs.shape[-1])), self._values(signs, level)

    def bits(self, q: Quantised, outputs: Tensor, level: int) -> Tensor:
        n = LEVEL_BITS[level]
        signs = q.seen[..., :n].detach()
        before = torch.tril(self.coupling[level, :n, :n], -1)
        return bits_of(F.logsigmoid(signs * (outputs[..., :n] + signs @ before.T)))

    def usage(self, symbols: Tensor, level: int) -> float:
        p = symbols[..., : LEVEL_BITS[level]].flatten(0, -2).float().mean(0)
        return perplexity(torch.stack([p, 1 - p], 1))

    def _linear(self, x: Tensor, level: int) -> Tensor:
        n = LEVEL_BITS[level]
        project = (self.project_start + self.project_unit * self.project)[:n]
        return x @ project.T - self.threshold[level, :n]

    def _values(self, signs: Tensor, level: int) -> Tensor:
        back = (self.back_start[level] + UNIT * self.back[level])[: 1 + LEVEL_BITS[level]]
        return F.pad(signs, (1, 0), value=1.0) @ back * self.unit[level]


class SphericalSigns(Signs):
    """BSQ, arXiv 2406.07548: the corner of the cube in the sphere that is nearest to u = v / |v|, sign(u) / sqrt(L).

    The straight-through estimator has the gradient of u. The soft assignment to the corners is a product over the
    bits, sigmoid(2 tau u / sqrt(L)); tau here is `inverse_temperature` times L / 2, so that the argument is this
    factor times u sqrt(L), which is of the order of 1 for any number of bits. The mean of the entropies of samples is
    exact so, the entropy of the mean is the bound that the paper takes for it; both count per bit.
    What is seen is sqrt(L) times the corner.
    """

    def rounded(self, v: Tensor) -> tuple[Tensor, Tensor]:
        u = F.normalize(v, dim=-1) * math.sqrt(v.shape[-1])
        logits = self.inverse_temperature * u
        return straight_through(u, _signs(u)), self.weight * entropy_loss(logits, self.gamma)


class LookupFreeSigns(Signs):
    """LFQ of MAGVIT-v2, arXiv 2310.05737: sign(v), with a commitment loss and entropy terms.

    The straight-through estimator is the identity. The soft assignment by distance to the codes, exp(-tau |v - c|**2),
    is a product over the bits, sigmoid(4 tau v). The paper takes the entropy of the mean over all 2**L codes; of 2**48
    and more that cannot be computed, so it is the sum of those of the bits, which is an upper bound of it.

    Args:
        commitment: weight of the mean of (v - sign(v))**2.
    """

    def __init__(self, spread: Tensor, weight: float, gamma: float, inverse_temperature: float, commitment: float):
        super().__init__(spread, weight, gamma, inverse_temperature)
        self.commitment = commitment

    def rounded(self, v: Tensor) -> tuple[Tensor, Tensor]:
        signs = _signs(v)
        loss = self.weight * entropy_loss(4 * self.inverse_temperature * v, self.gamma)
        return straight_through(v, signs), loss + self.commitment * (v - signs).square().mean()


def entropy_loss(logits: Tensor, gamma: float) -> Tensor:
    """Mean entropy of samples - gamma * entropy of the mean, in bits per bit of the code, of bits with these logits.

    logits: of independent bits, (..., bits); the mean is over all other axes.
    """
    p = torch.sigmoid(logits.flatten(0, -2))
    return (binary_entropy(p).mean(0) - gamma * binary_entropy(p.mean(0))).mean()


def binary_entropy(p: Tensor) -> Tensor:
    """Entropy, in bits, of bits with these probabilities, without an infinite gradient at 0 and 1."""
    p = p.clamp(1e-6, 1 - 1e-6)
    return bits_of(p * p.log() + (1 - p) * (1 - p).log())


def thermometers(spread: Tensor) -> tuple[list[int], Tensor]:
    """The coefficient of each bit, and its threshold in standard deviations by level, (LEVELS, bits).

    Coefficients count as Laplacian: the distance of thresholds is the best one for it, and the next bit is for the
    coefficient whose mean squared error it lowers most.
    """
    half = -torch.log1p(-(torch.arange(2000) + 0.5) / 2000) / math.sqrt(2)
    x = torch.cat([-half, half])  # quantiles of a Laplacian distribution of variance 1
    distances, errors = [0.0], [1.0]
    for n in range(1, MOST_BITS + 1):
        tried = []
        for distance in torch.linspace(0.1, 2.5, 49).tolist():
            step = (x / distance + (n + 1) / 2).floor().clamp(0, n) - n / 2
            tried.append((float((x - step * distance).square().mean()), distance))
        error, distance = min(tried)
        errors.append(error)
        distances.append(distance)
    gain = -torch.tensor(errors).diff()
    given, at = torch.zeros(len(spread), dtype=torch.long), []
    thresholds = torch.zeros(LEVELS, LEVEL_BITS[-1])
    for level, n in enumerate(LEVEL_BITS):
        while len(at) < n:
            best = int((spread**2 * F.pad(gain, (0, 1))[given]).argmax())
            at.append(best)
            given[best] += 1
        met = torch.zeros_like(given)
        for j, k in enumerate(at):  # the middle first: 0, -1, 1, -2, ... or .5, -.5, 1.5, ...
            r, odd = int(met[k]), int(given[k]) % 2
            place = (r + 1) // 2 * (-1 if r % 2 else 1) if odd else (r // 2 + 0.5) * (-1 if r % 2 else 1)
            thresholds[level, j] = place * distances[int(given[k])]
            met[k] += 1
    return at, thresholds


def _signs(v: Tensor) -> Tensor:
    return torch.where(v > 0, 1.0, -1.0)
