"""The quantisers that are compared, each with the code length of its symbols."""

import torch
from torch import Tensor, nn

from bsqcodec.network.quantiser_tables import GAMMA
from bsqcodec.network.unrounded import DEAD_ZONE, code_length, quantise

from .network import LOG2_STEPS, Quantised, Quantiser

PLANES_GROUPS = {192: (8, 24, 64, 96), 48: (8, 16, 24)}  # groups of coefficients, by their number


class Planes(Quantiser):
    """Bit planes with gains, the codec's: integers in steps that grow with the contrast of a token.

    A plane is a digit of balanced ternary, two bits; the bits of all planes under the logistic distribution that the
    prior gives cost together what the integer costs, so that is what counts.

    Args:
        spread: standard deviations of the coefficients, in pixel values, falling.
    """

    gains = True
    in_loss = True

    def __init__(self, spread: Tensor):
        super().__init__()
        self.groups = PLANES_GROUPS[len(spread)]
        self.outputs = tuple(2 * n for n in self.groups)
        scale = (torch.log2(spread) - torch.tensor(LOG2_STEPS)[:, None]).clamp(-4, 7)
        parts = [torch.stack([torch.zeros_like(s), s], 1).flatten(1) for s in scale.split(self.groups, 1)]
        self.start = nn.Parameter(torch.cat(parts, 1))  # of each group means, then log2 of scales

    def forward(self, z: Tensor, level: int, classes: Tensor) -> Quantised:
        gain = 2 ** (GAMMA[0] * classes).unsqueeze(-1)
        y = z / gain
        n = quantise(y.detach(), DEAD_ZONE[0])
        seen = y + (n - y).detach()
        return Quantised(seen, seen * gain, n.long(), z.new_zeros(()), y)

    def bits(self, q: Quantised, outputs: Tensor, level: int) -> Tensor:
        both = [part.unflatten(-1, (2, -1)) for part in outputs.split(self.outputs, -1)]
        mean, scale = torch.cat(both, -1).unbind(-2)
        return code_length(q.latents, q.seen, mean, scale, DEAD_ZONE[0], soft=self.training).sum(-1)

    def usage(self, symbols: Tensor, level: int) -> float:
        digit = symbols.flatten(0, -2).clamp(-1, 1)
        p = torch.stack([(digit == d).float().mean(0) for d in (-1, 0, 1)])
        return float((2 ** torch.special.entr(p).sum(0).div(0.6931471805599453) / 3).mean())
