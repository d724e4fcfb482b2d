"""Shared fixtures. Networks with random weights of a realistic scale exercise every layer, unlike freshly made ones."""

import sys

import pytest
import torch

from bsqcodec.__main__ import main
from bsqcodec.config import ModelConfig
from bsqcodec.network import Network

TINY = ModelConfig(
    name="tiny",
    planes=(2, 8, 16),
    groups=(10, 4, 12),
    encoder_width=32,
    encoder_blocks=1,
    decoder_width=32,
    decoder_blocks=2,
    detail_width=36,
    detail_blocks=1,
    prior_width=32,
    prior_blocks=2,
    prior_head=32,
)


def random_network(config: ModelConfig = TINY) -> Network:
    torch.manual_seed(1)
    network = Network(config)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if name.endswith(("gain.anchors", "levels")) or "thresholds" in name:
                p.mul_(1 + 0.2 * torch.randn_like(p))
            elif p.dim() > 1:
                p.copy_(torch.randn_like(p) * p.shape[-1] ** -0.5)
            else:
                p.copy_(torch.randn_like(p) * 0.3)
        network.prior.active[:, :50] //= 2  # so that some bits are not coded
    return network.requires_grad_(False)


@pytest.fixture
def network() -> Network:
    return random_network()


def exit_status(*words) -> int:
    """Run the command line in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bsqcodec", *map(str, words)])
        try:
            main()
        except SystemExit as e:
            return int(e.code or 0)
    return 0
