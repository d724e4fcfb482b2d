"""Muon."""

import torch

from bsqcodec.train.optimisers import Muon


def test_muon_steps_are_orthogonal() -> None:
    torch.manual_seed(0)
    several = [torch.nn.Parameter(torch.zeros(s)) for s in ((32, 16), (16, 40), (32, 16))]
    for p in several:
        p.grad = torch.randn_like(p) @ torch.diag(torch.linspace(0.2, 3, p.shape[1]))
    Muon(several, 1.0).step(torch.tensor(1.0))
    for p in several:
        values = torch.linalg.svdvals(p.detach()) / max(1, p.shape[0] / p.shape[1]) ** 0.5
        assert values.min() > 0.4 and values.max() < 1.4
