"""Quantisers to integers, with the rate in the loss: the codec's bit planes, and plain rounding."""

import math

import torch
from torch import Tensor, nn

from bsqcodec.network.quantiser import GROUPS
from bsqcodec.network.quantiser_tables import GAMMA
from bsqcodec.network.unrounded import DEAD_ZONE, SCALE_MAX, SCALE_MIN, code_length, information, quantise
from bsqcodec.network.unrounded_layers import bounded

from .network import LOG2_STEPS, Quantised, Quantiser

COEFFICIENT_GROUPS = {192: GROUPS[:4], 48: (8, 16, 24)}  # groups of coefficients, by their number


class Integers(Quantiser):
    """Integers with a logistic distribution each, whose mean and scale the prior gives.

    Args:
        spread: standard deviations of the coefficients, in pixel values, falling.
    """

    in_loss = True

    def __init__(self, spread: Tensor):
        super().__init__()
        self.groups = COEFFICIENT_GROUPS[len(spread)]
        self.outputs = tuple(2 * n for n in self.groups)
        scale = (torch.log2(spread) - torch.tensor(LOG2_STEPS)[:, None]).clamp(-4, 7)
        parts = [torch.stack([torch.zeros_like(s), s], 1).flatten(1) for s in scale.split(self.groups, 1)]
        self.start = nn.Parameter(torch.cat(parts, 1))  # of each group means, then log2 of scales

    def mean_and_scale(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Of the distribution of each coefficient: mean, and log2 of the scale, in steps."""
        both = [part.unflatten(-1, (2, -1)) for part in outputs.split(self.outputs, -1)]
        mean, scale = torch.cat(both, -1).unbind(-2)
        return mean, scale

    def usage(self, symbols: Tensor, level: int) -> float:
        """As in `Quantiser`, of the digits of the finest plane, -1, 0 and 1; larger integers count as these."""
        digit = symbols.flatten(0, -2).clamp(-1, 1)
        return perplexity(torch.stack([(digit == d).float().mean(0) for d in (-1, 0, 1)], 1))


class Planes(Integers):
    """Bit planes with gains, the codec's: integers in steps that grow with the contrast of a token.

    A plane is a digit of balanced ternary, two bits; the bits of all planes under the logistic distribution that the
    prior gives cost together what the integer costs, so that is what counts.

    Args:
        spread: as for `Integers`.
        gamma: exponent of the gains; 0: all tokens have the step of the level.
    """

    def __init__(self, spread: Tensor, gamma: float = GAMMA[0]):
        super().__init__(spread)
        self.gamma, self.gains = gamma, gamma != 0

    def forward(self, z: Tensor, level: int, classes: Tensor) -> Quantised:
        gain = self._gain(classes)
        y = z / gain
        n = quantise(y.detach(), DEAD_ZONE[0])
        seen = y + (n - y).detach()
        return Quantised(seen, seen * gain, n.long(), z.new_zeros(()), y)

    def restored(self, symbols: Tensor, level: int, classes: Tensor) -> tuple[Tensor, Tensor]:
        seen = symbols.float()
        return seen, seen * self._gain(classes)

    def bits(self, q: Quantised, outputs: Tensor, level: int) -> Tensor:
        y = q.seen if q.latents is None else q.latents
        return code_length(y, q.seen, *self.mean_and_scale(outputs), DEAD_ZONE[0], soft=self.training)

    def _gain(self, classes: Tensor) -> Tensor:
        return 2 ** (self.gamma * classes).unsqueeze(-1)


class Rounding(Integers):
    """Rounding, for which uniform noise stands in training: Balle et al., arXiv 1802.01436, and Minnen et al., arXiv
    1809.02736, there with a Gaussian distribution.

    In training the rate is that of z + U(-1/2, 1/2): a distribution convolved with the noise. Otherwise z is rounded.
    It has neither gains nor a dead zone. If decoder and prior see the noise, too, the linear path hands it on to the
    pixels, a whole step of it where a coefficient would round to 0, as most do at coarse levels, so that the decoder
    learns to take off what is not there afterwards.

    Args:
        spread: as for `Integers`.
        noise: whether decoder and prior see the noise in training; else they see rounded values, with the
            straight-through estimator, and only the rate is that of noise (Minnen and Singh, arXiv 2007.08739).
    """

    def __init__(self, spread: Tensor, noise: bool):
        super().__init__(spread)
        self.noise = noise

    def forward(self, z: Tensor, level: int, classes: Tensor) -> Quantised:
        n = z.detach().round()
        noisy = z + torch.rand_like(z) - 0.5 if self.training else n
        seen = noisy if self.noise else straight_through(z, n)
        return Quantised(seen, seen, n.long(), z.new_zeros(()), noisy)

    def restored(self, symbols: Tensor, level: int, classes: Tensor) -> tuple[Tensor, Tensor]:
        return symbols.float(), symbols.float()

    def bits(self, q: Quantised, outputs: Tensor, level: int) -> Tensor:
        mean, scale = self.mean_and_scale(outputs)
        value = q.seen if q.latents is None else q.latents
        return information(value, mean, torch.exp2(-bounded(scale, SCALE_MIN, SCALE_MAX)))


def perplexity(p: Tensor) -> float:
    """Perplexity by size of the alphabet, mean over symbols. p: probabilities, (symbols, alphabet)."""
    return float((torch.special.entr(p).sum(1).exp() / p.shape[1]).mean())


def straight_through(z: Tensor, quantised: Tensor) -> Tensor:
    """The value of `quantised` with the gradient of z (Bengio et al., arXiv 1308.3432)."""
    return z + (quantised - z).detach()


def bits_of(log_likelihood: Tensor) -> Tensor:
    """Code length, in bits, of natural logarithms of probabilities."""
    return -log_likelihood / math.log(2)
