"""Muon and Adam, whose steps can be recorded in a CUDA graph."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by Newton-Schulz steps (K. Jordan 2024, kellerjordan.github.io/posts/muon).

    Matrices of one shape, or its transpose, are orthogonalised together, in bfloat16: it need not be exact.

    Args:
        parameters: matrices.
        lr: learning rate.
        momentum: what the mean of the gradients keeps of itself in a step.
        weight_decay: share of the weights that a step takes away, in learning rates.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.03):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for p in self.param_groups[0]["params"]:
            self.state[p]["momentum"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self, schedule: Tensor) -> None:  # type: ignore[override]
        """Change the parameters that have a gradient.

        schedule: what the learning rate is multiplied by, a tensor without dimensions: a CUDA graph may read it.
        """
        for group in self.param_groups:
            rate = group["lr"] * schedule
            trained = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in trained]
            momenta = [self.state[p]["momentum"] for p in trained]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = list(torch._foreach_lerp(gradients, momenta, group["momentum"]))
            by_shape: dict[tuple, list[int]] = {}
            for i, p in enumerate(trained):
                by_shape.setdefault(tuple(sorted(p.shape)), []).append(i)
            for several in by_shape.values():
                wide = torch.stack([updates[i] if _is_wide(updates[i]) else updates[i].T for i in several])
                for i, update in zip(several, orthogonalise(wide), strict=True):
                    updates[i] = update if _is_wide(trained[i]) else update.T
            torch._foreach_mul_(updates, [max(1.0, p.shape[0] / p.shape[1]) ** 0.5 for p in trained])
            torch._foreach_mul_(updates, -rate)
            torch._foreach_mul_(trained, 1 - group["weight_decay"] * rate)
            torch._foreach_add_(trained, updates)


def _is_wide(x: Tensor) -> bool:
    return x.shape[0] <= x.shape[1]


class Adam(torch.optim.Optimizer):
    """Adam (Kingma and Ba, arXiv 1412.6980). PyTorch's own either waits for the device or does not run on every one.

    Steps are counted for all parameters together: what only P and B frames train starts a little more slowly.

    Args:
        parameters: of any shape.
        lr: learning rate.
        betas: what the means of the gradients and of their squares keep of themselves in a step.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.98)):
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": 1e-8})
        for group in self.param_groups:
            group["steps"] = torch.zeros((), device=group["params"][0].device)
            for p in group["params"]:
                self.state[p] = {"mean": torch.zeros_like(p), "square": torch.zeros_like(p)}

    @torch.no_grad()
    def step(self, schedule: Tensor) -> None:  # type: ignore[override]
        """Change the parameters that have a gradient; `schedule` is that of `Muon.step`."""
        for group in self.param_groups:
            first, second = group["betas"]
            group["steps"] += 1
            trained = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in trained]
            means, squares = ([self.state[p][key] for p in trained] for key in ("mean", "square"))
            torch._foreach_lerp_(means, gradients, 1 - first)
            torch._foreach_mul_(squares, second)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
            roots = torch._foreach_sqrt(squares)
            torch._foreach_mul_(roots, (1 - second ** group["steps"]) ** -0.5)
            torch._foreach_add_(roots, group["eps"])
            update = torch._foreach_div(means, roots)
            torch._foreach_mul_(update, -group["lr"] * schedule / (1 - first ** group["steps"]))
            torch._foreach_add_(trained, update)


def orthogonalise(g: Tensor) -> Tensor:
    """Matrices near the given ones whose singular values are all near 1, by five Newton-Schulz steps.

    g: (N, rows, columns), no more rows than columns.
    """
    x = (g / (g.norm(dim=(1, 2), keepdim=True) + 1e-9)).bfloat16()
    for _ in range(5):
        a = x @ x.mT
        # Jordan's coefficients: they bring small values near 1 soonest
        x = torch.baddbmm(x, torch.baddbmm(a, a, a, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x.to(g.dtype)
