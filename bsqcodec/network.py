"""The three networks of a model and their start: a transform codec that the training then improves on."""

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .exact import ANCHOR_STEP, ANCHORS, QUALITIES, in_parts
from .prior import Prior
from .tokenizer import STEP_BITS, TOKEN, Decoder, Encoder, patches

GRAY = 128.0  # the reference of an I frame


class Network(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.prior = Prior(config)

    def step(self, quality: Tensor) -> Tensor:
        """Quantiser step in pixel values, float32, of qualities 1..100 (any shape)."""
        return self.decoder.steps[quality - 1] / 2.0**STEP_BITS

    def bits(self, frame: Tensor, reference: Tensor, condition) -> Tensor:
        """Encode: (B, 3, H, W) pixels 0..255, sides multiples of 16, to (B, H/16, W/16, L) of 0.0 and 1.0."""
        quality = condition[1]
        y, widen = self.encoder.coefficients(frame, reference, condition, self.step(quality))
        active = self.prior.active_mask(quality)[:, None, None]
        return in_parts(lambda y, widen: self.encoder.quantise(y, widen, active), y, widen)


@torch.no_grad()
def initialise(network: Network, photos: Tensor, pairs: tuple[Tensor, Tensor] | None) -> None:
    """Start as a transform codec: Karhunen-Loeve transform, dead-zone quantiser, zero-order bit statistics.

    photos: (N, 3, H, W) pixels 0..255. pairs: P frames and their references, alike, for the statistics of P frames.
    """
    config = network.config
    x = patches(photos - GRAY, TOKEN).flatten(0, 2).double() / 255
    variance, basis = torch.linalg.eigh(x.T @ x / len(x))
    variance, basis = variance.flip(0)[: config.coefficients], basis.flip(1)[:, : config.coefficients].float()
    network.encoder.analysis.copy_(basis.T)
    network.decoder.synthesis.weight.copy_(basis)
    sigma = variance.clamp(min=0).sqrt()
    for q in range(1, QUALITIES + 1):
        level = sigma * 255 / network.step(torch.tensor(q))
        for j, n in enumerate(config.planes):
            unit = 3.0 ** (len(config.planes) - 1 - j)
            network.prior.active[j, q - 1] = int((level[:n] > 0.05 * unit).sum())
    count_bits(network, photos[:80], pairs)


@torch.no_grad()
def count_bits(network: Network, photos: Tensor, pairs: tuple[Tensor, Tensor] | None) -> None:
    """Set the prior's bias to the zero-order statistics of the bits. Arguments as those of `initialise`."""
    statistics = [(photos, torch.full_like(photos, GRAY))] + ([pairs] if pairs else [])
    for kind, (frames, reference) in enumerate(statistics):
        for a in range(ANCHORS):
            step = network.step(torch.tensor(1 + a * ANCHOR_STEP))
            y = patches(frames - reference, TOKEN) @ network.encoder.analysis.T / step
            every = torch.ones((1, network.config.bits), dtype=torch.bool, device=y.device)
            ones = network.encoder.quantise(y, torch.zeros_like(y), every).flatten(0, 2)
            p = (ones.sum(0) + 0.3) / (len(ones) + 0.6)
            network.prior.logit_bias.anchors[kind, a] = torch.logit(p)
    network.prior.logit_bias.anchors[2] = network.prior.logit_bias.anchors[1]
