"""Shared fixtures. Networks with random weights of a realistic scale exercise every layer, unlike freshly made ones."""

import math
import sys

import pytest
import torch

from bsqcodec.__main__ import main
from bsqcodec.config import ModelConfig
from bsqcodec.model import Model, load_model
from bsqcodec.network.export import integers
from bsqcodec.network.unrounded import Mat, Norm, Unrounded, initialise
from bsqcodec.objective import Objective

TINY = ModelConfig(
    name="tiny", fine_width=18, fine_blocks=1, width=36, blocks=1, prior_width=32, prior_blocks=1, prior_head=32
)


def random_network(config: ModelConfig = TINY) -> Unrounded:
    """A network with the 16x16 DCT as its transform; what its blocks add to a picture is noise, but not much."""
    generator = torch.Generator().manual_seed(1)
    network = Unrounded(config)
    initialise(network, *_cosines())
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, Norm):
                module.w.copy_(0.4 + 0.1 * torch.randn(module.w.shape, generator=generator))
            elif isinstance(module, Mat):
                small = 0.1 if name in ("e_out", "d_out") or name.startswith("p_out") else 1.0
                w = module.w
                w.copy_(small * torch.randn(w.shape, generator=generator) * w.shape[1] ** -0.5)
        for name, p in network.named_parameters():
            if name.endswith((".bias", "p_phase")):
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return network.requires_grad_(False)


def _cosines() -> tuple[torch.Tensor, torch.Tensor]:
    """A basis for `initialise`, a column a coefficient, and variances as of photographs, in falling order."""
    i = torch.arange(16)
    dct = torch.cos(math.pi * (i + 0.5) * i[:, None] / 16) * torch.where(i == 0, 0.25, 8**-0.5)[:, None]
    colours = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]])
    colours /= colours.norm(dim=1, keepdim=True)
    basis = torch.einsum("pc,ia,jb->pijcab", colours, dct, dct).reshape(768, 768)
    radius = (i[:, None] ** 2 + i**2).sqrt()
    power = torch.tensor([1.0, 0.1, 0.03])[:, None, None] * 4e5 / (1 + radius) ** 3
    variance, order = power.flatten().sort(descending=True)
    return basis[order].T.contiguous(), variance


def random_model(config: ModelConfig = TINY, name: str = "tiny") -> Model:
    return Model(config, integers(random_network(config)), Objective(), name)


@pytest.fixture(scope="session")
def model() -> Model:
    """The default model."""
    return load_model("bsq1")


@pytest.fixture(scope="session")
def tiny() -> Model:
    """A model of a random network: fast, and with every layer at work."""
    return random_model()


def exit_status(*words) -> int:
    """Run the command line in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bsqcodec", *map(str, words)])
        try:
            main()
        except SystemExit as e:
            return int(e.code or 0)
    return 0
