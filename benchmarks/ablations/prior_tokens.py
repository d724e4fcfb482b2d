"""The tokens that priors are trained and measured on in ablations: those of the packaged model, which stay fixed."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bsqcodec.model_files import find_file
from bsqcodec.network.layers import bf16_is_fast
from bsqcodec.network.patches import to_tokens
from bsqcodec.network.saving import read_network
from bsqcodec.network.tokenizer import MID_GRAY
from bsqcodec.network.unrounded import Batch, Unrounded
from bsqcodec.settings import DEFAULT_MODEL
from bsqcodec.train.prediction import predict, tap_table
from bsqcodec.train.sampler import Sampler, SequenceFrame

from .prior_network import CODED, LEVELS, Given

CHUNK = 8  # frames that are coded at once
PAIR = (SequenceFrame(0, ()), SequenceFrame(1, (0,)))  # an I frame and a P frame


class Tokens(NamedTuple):
    """Tokens of n frames, N of each, row by row.

    Attributes:
        q: the coefficients, integers in quantiser steps, int16 (n, N, CODED).
        features: of each token and its eight neighbours, (n, N, 9 * FEATURES); means are 0, as in I frames.
        means: the features of P frames with the means of the prediction; None of I frames.
        level: place in LEVELS of the quantiser step, int64 (n,).
        prediction: the prediction's coefficients, in quantiser steps, (n, N, CODED); None of I frames.
        before: likewise of the decoded frame before, in the same place, without motion.
    """

    q: Tensor
    features: Tensor
    level: Tensor
    means: Tensor | None = None
    prediction: Tensor | None = None
    before: Tensor | None = None

    def at(self, frames: Tensor) -> "Tokens":
        """The tokens of some frames; frames: their numbers, int64."""
        return Tokens(*(t if t is None else t[frames] for t in self))


def dtype_of(device: torch.device) -> torch.dtype:
    """The type of the activations of networks on a device."""
    return torch.bfloat16 if bf16_is_fast(device) else torch.float32


class Coder:
    """The packaged model's encoder and decoder on a device, for frames of the perceptual tune."""

    def __init__(self, device: torch.device):
        self.network: Unrounded = read_network(find_file(DEFAULT_MODEL))[0].to(device).requires_grad_(False)
        self.dtype = dtype_of(device)
        self.taps = tap_table(device)

    def _prepare(self, x: Tensor, level: Tensor, prediction: Tensor | None = None) -> Batch:
        steps = torch.tensor(LEVELS, device=x.device)[level]
        return self.network.prepare(x, steps, torch.zeros_like(steps), prediction, None, CODED, self.dtype)

    def _tokens(self, batch: Batch, level: Tensor) -> Tokens:
        q = self.network.quantise(self.network.coefficients(batch), batch)
        means = neighbourhood(batch.features)
        without = neighbourhood(batch.features * (torch.arange(batch.features.shape[-1], device=q.device) > 0))
        return Tokens(q.flatten(1, 2).short(), without, level, None if batch.prediction is None else means)

    @torch.no_grad()
    def images(self, x: Tensor, level: Tensor) -> Tokens:
        """Tokens of I frames. x: pixels 0..255, float (n, 3, H, W); level: that of `Tokens`."""
        return self._tokens(self._prepare(x, level), level)

    @torch.no_grad()
    def pairs(self, frames: Tensor, vectors: Tensor, level: Tensor) -> Tokens:
        """Tokens of P frames, predicted from decoded I frames of the same quantiser step.

        frames, vectors: of `Sampler.sequences` for PAIR; level: that of `Tokens`.
        """
        first, second = frames.float().unbind(1)
        batch = self._prepare(first, level)
        q = self.network.quantise(self.network.coefficients(batch), batch)
        decoded = self.network.decode(q, batch).round().clamp(0, 255)
        batch = self._prepare(second, level, predict(decoded, vectors, self.taps))
        assert batch.prediction is not None
        seen = {"prediction": batch.prediction, "before": to_tokens(decoded - MID_GRAY)}
        step, basis = batch.step * batch.weight, self.network.basis[:, :CODED]
        return self._tokens(batch, level)._replace(**{k: (x @ basis / step).flatten(1, 2) for k, x in seen.items()})


def neighbourhood(x: Tensor) -> Tensor:
    """Values of each token and its eight neighbours, 0 beyond the border, (B, h, w, C) to (B, h * w, 9 C)."""
    return F.unfold(x.permute(0, 3, 1, 2), 3, padding=1).mT


def tokens_of(sampler: Sampler, frames: int, side: int, moving: bool, plain: bool, seed: int) -> Tokens:
    """Tokens of crops; each level in LEVELS has as many.

    Args:
        sampler: what crops are drawn from.
        frames: their number, a multiple of CHUNK.
        side: of the crops in pixels.
        moving: P frames of `Coder.pairs`; else I frames.
        plain: photographs as they are, not turned, resampled, or of another contrast.
        seed: of what is drawn.
    """
    coder, rng, done = Coder(sampler.device), np.random.default_rng(seed), []
    for _ in range(frames // CHUNK):
        level = sampler.on_device(rng.permutation(CHUNK) % len(LEVELS))
        if moving:
            pixels, vectors = sampler.sequences(rng, CHUNK, side, PAIR)
            done.append(coder.pairs(pixels, vectors[1, 0], level))
        else:
            crops = sampler.plain(rng, CHUNK, side).float() if plain else sampler.crops(rng, CHUNK, side)
            done.append(coder.images(crops, level))
    return Tokens(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*done, strict=True)))


def given(tokens: Tokens, context: str = "none") -> Given:
    """What a prior is to know of tokens.

    context: "none"; "prediction", with the means of the prediction, too; "before", the frame before without motion.
    """
    if context == "prediction":
        assert tokens.means is not None
        return Given(tokens.means, tokens.level, tokens.prediction)
    return Given(tokens.features, tokens.level, tokens.before if context == "before" else None)
