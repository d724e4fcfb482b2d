"""The weights of a network while they are trained: copies in the type of products, optimisers, and their average."""

import torch
from torch import Tensor

from ..network.layers import bf16_is_fast
from ..network.unrounded import Unrounded
from ..network.unrounded_layers import Mat, Norm
from .config import TrainConfig
from .optimisers import Adam, Muon


class Parameters:
    """The parameters of a network, and how a training step changes them.

    Args:
        network: whose parameters are trained, in place.
        config: learning rates, and the bound of the gradient's norm.
        processes: that train together, each on samples of its own.

    Attributes:
        dtype: of matrix products: bfloat16 where the device is fast at it, else float32.
        trained: the parameters by name, float32.
        working: what the network computes with, and what collects the gradients of a step: the parameters themselves,
            but of those that products take a copy in `dtype`, made in every step.
        average: the exponential moving average of `trained`, which becomes the model.
        optimisers: one for the matrices, one for all else.
    """

    def __init__(self, network: Unrounded, config: TrainConfig, processes: int = 1):
        self.processes, self.clip = processes, config.clip
        self.trained: dict[str, Tensor] = dict(network.named_parameters())
        self.dtype = torch.bfloat16 if bf16_is_fast(next(iter(self.trained.values())).device) else torch.float32
        copied = {m.w for m in network.modules() if isinstance(m, Mat | Norm)}
        self.working = {
            k: p.detach().to(self.dtype, copy=True).requires_grad_() if p in copied else p
            for k, p in self.trained.items()
        }
        self.average = {k: p.detach().clone() for k, p in self.trained.items()}
        # Muon for matrices between dense activations; layers that see bits, heads and all else suit Adam
        matrices = {m.w for m in network.modules() if isinstance(m, Mat)} - network.sparse()
        self.optimisers: list[Muon | Adam] = [
            Muon([p for p in self.trained.values() if p in matrices], config.muon_lr),
            Adam([p for p in self.trained.values() if p not in matrices], config.adam_lr),
        ]

    @torch.no_grad()
    def refresh(self) -> None:
        """Begin a training step: copy the weights to what products take."""
        torch._foreach_copy_(list(self.working.values()), list(self.trained.values()))

    def update(self, schedule: Tensor) -> None:
        """One step of the optimisers, and of the average. What is not a number in a gradient counts as 0.

        schedule: what the learning rates are multiplied by, and how far the average goes towards the weights, (2,).
        """
        by_type: dict[torch.dtype, dict[str, Tensor]] = {}
        for k, p in self.working.items():
            if p.grad is not None:
                by_type.setdefault(p.dtype, {})[k] = p.grad
        names = [k for several in by_type.values() for k in several]
        flat = torch.cat([torch.cat([g.flatten() for g in several.values()]).float() for several in by_type.values()])
        flat = torch.nan_to_num_(flat, 0.0, 0.0, 0.0)
        if self.processes > 1:
            torch.distributed.all_reduce(flat)
            flat /= self.processes
        flat *= (self.clip / flat.norm().clamp(min=1e-9)).clamp(max=1)
        for k, gradient in zip(names, flat.split([self.trained[k].numel() for k in names]), strict=True):
            self.working[k].grad, self.trained[k].grad = None, gradient.view_as(self.trained[k])
        for o in self.optimisers:
            o.step(schedule[0])
            o.zero_grad(set_to_none=True)
        with torch.no_grad():
            averages = list(self.average.values())
            further = torch._foreach_sub(list(self.trained.values()), averages)
            torch._foreach_mul_(further, schedule[1])
            torch._foreach_add_(averages, further)

    def forget_gradients(self) -> None:
        """Drop the gradients that a training step which was broken off has left."""
        for p in [*self.trained.values(), *self.working.values()]:
            p.grad = None
