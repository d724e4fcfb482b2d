"""A step of training on the device: the loss of images or sequences, its gradients, and the update of the weights.

The host waits for nothing in it. On a GPU a step is one CUDA graph, from the pixels to the average of the weights: one
for images and one for each order of a sequence, for each number of active coefficients. What is random, and the
learning rate, are tensors that a graph reads.
"""

from collections.abc import Callable, Hashable
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call

from ..network.cuda_graphs import Graphs
from ..network.losses import st_lpips
from ..network.objective import Objective, evenly, measure
from ..network.unrounded import Unrounded
from .parameters import Parameters
from .prediction import combine, predict, tap_table
from .sampler import SequenceFrame

MEASURES = ("cost", "bpp", "mse", "dssim", "colour", "border", "stlpips")  # rows of the sums that a step returns
MAX_GRAPHS = 64  # all of them work in the same memory
ST_LPIPS_SHARE = 3  # one picture in so many is seen by ST-LPIPS, whose network takes long


class Steps:
    """Steps that train a network.

    Args:
        network: which computes with `parameters`.
        parameters: those of the network.
        objective: what the loss weighs.

    Attributes:
        graphs: the CUDA graphs of the steps so far.
    """

    def __init__(self, network: Unrounded, parameters: Parameters, objective: Objective):
        self.network, self.parameters, self.objective = network, parameters, objective
        self.taps = tap_table(next(network.parameters()).device)
        self.graphs = Graphs(MAX_GRAPHS, trials=0, shared=True)

    def run(self, step: Callable[..., list[Tensor]], active: int, *x: Tensor, **fixed: Hashable) -> list[Tensor]:
        """A step, `images` or `sequences`; as a graph, if one of the same `active` and `fixed` was done before."""
        if self.parameters.processes > 1:  # gradients go from one process to another by calls that are in no graph
            return step(active, *x, **fixed)
        key = step.__name__, active, *fixed.values()
        return self.graphs.run(key, partial(step, active, **fixed), *x)

    def images(self, active: int, schedule: Tensor, tune: Tensor, source: Tensor, level: Tensor) -> list[Tensor]:
        """Learn from a batch of images. Returns the sums of the measures, those of `loss`.

        Args:
            active: coefficients of each token that are coded.
            schedule: as that of `Parameters.update`.
            tune: 0 perceptual, 1 psnr, (n,).
            source: pixels 0..255, (n, 3, H, W).
            level: log2 of the quantiser steps, (n,).
        """
        self.parameters.refresh()
        loss, sums, _ = self.loss(source, level, tune, None, None, active)
        loss.backward()
        self.parameters.update(schedule)
        return [sums]

    def sequences(
        self, active: int, schedule: Tensor, tune: Tensor, frames: Tensor, log2_steps: Tensor, draws: Tensor,
        *vectors: Tensor, order: tuple[SequenceFrame, ...], graded: tuple[bool, ...],
    ) -> list[Tensor]:  # fmt: skip
        """Learn from a batch of sequences, frame by frame: each is predicted from decoded ones, without a gradient.

        Args:
            active, schedule, tune: as those of `images`.
            frames, vectors: those of `Sampler.sequences`, in the order of coding.
            log2_steps: log2 of the quantiser step of each frame, (frames, n).
            draws: uniform in 0..1, for `combine`, (frames, n).
            order: the references of each frame.
            graded: the frames whose loss counts.

        Returns the sums of the measures, those of `loss`, of each graded frame.
        """
        self.parameters.refresh()
        decoded: list[Tensor] = []
        measures, fields = [], iter(vectors)
        for a, frame in enumerate(order):
            options = [predict(decoded[b], next(fields), self.taps) for b in frame.references]
            b_frame = torch.full_like(tune, float(len(options) == 2))
            x = frames[:, a].float(), log2_steps[a], tune, combine(options, draws[a]), b_frame, active
            if graded[a]:
                loss, sums, pixels = self.loss(*x)
                loss.backward()
                measures.append(sums)
            else:
                pixels = self.network.reconstruct(*x, dtype=self.parameters.dtype)
            decoded.append(pixels.round().clamp(0, 255))
        self.parameters.update(schedule)
        return measures

    def loss(
        self, source: Tensor, log2_step: Tensor, tune: Tensor, prediction: Tensor | None, b_frame: Tensor | None,
        active: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """The loss of a batch of frames.

        The arguments are those of `Unrounded.forward`. Returns the loss; for each tune the sums of `MEASURES` over its
        samples, and their number, (8, 2); and the decoded frames as `Unrounded.forward` has them, without a gradient.
        """
        predicted = prediction is not None
        x = source, log2_step, tune, prediction, b_frame, active
        options = {"soft": True, "dtype": self.parameters.dtype}
        decoded, rate = functional_call(self.network, self.parameters.working, x, options)
        m = measure(decoded, source)
        perceived = torch.zeros_like(rate)
        if self.objective.stlpips and not predicted:
            n = max(1, len(source) // ST_LPIPS_SHARE)
            # these count for the others, too
            far = st_lpips(decoded[-n:].clamp(0, 255), source[-n:]) * (len(source) / n)
            perceived = torch.cat([perceived[n:], far])
        cost = rate + self.objective.distortion(m, log2_step, tune, predicted, perceived)
        cost = evenly(log2_step) * cost
        tunes = torch.stack([1 - tune, tune], 1)
        measures = torch.stack([cost, rate, *m, perceived]).detach()
        sums = torch.cat([measures @ tunes, tunes.sum(0, keepdim=True)])
        return cost.mean(), sums, decoded.detach()
