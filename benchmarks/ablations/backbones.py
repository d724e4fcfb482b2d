"""Blocks of encoder and decoder on groups of frames, (B, T, h, w, channels)."""

from torch import Tensor, nn

from bsqcodec.network.unrounded_layers import ShiftBlock

COARSE_MLP = 4


class FrameShift(ShiftBlock):
    """The codec's shift block, frame by frame."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, h, w, channels). Returns it with what the block adds."""
        return super().forward(x.flatten(0, 1)).view(x.shape)


def stack(backbone: str, mask: str, channels: int, blocks: int) -> nn.ModuleList:
    """The blocks of a network."""
    return nn.ModuleList(FrameShift(channels, COARSE_MLP) for _ in range(blocks))
