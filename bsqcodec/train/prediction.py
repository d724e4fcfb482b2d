"""Predictions of P and B frames in training: the pixels of gop/motion.py, made without a wait for the device."""

import torch
from torch import Tensor

from ..gop.motion import BLOCK, TAPS, mean

BIDIRECTIONAL_SHARE = 0.7  # of the B frames; the others are predicted from one of their references
FILTER_REACH = 7  # pixels that a row of a block needs beyond its 16, 3 of them before it


def tap_table(device: torch.device) -> Tensor:
    """The interpolation filters of gop/motion.py as matrices, float32 (4, 16, 23), by the fraction in quarter pixels.

    A row makes one pixel of a block from the 23 pixels around the block.
    """
    table = torch.zeros(4, BLOCK, BLOCK + FILTER_REACH)
    for fraction, taps in enumerate(TAPS):
        for i in range(BLOCK):
            table[fraction, i, i : i + len(taps)] = torch.tensor(taps) / 64
    return table.to(device)


def predict(reference: Tensor, vectors: Tensor, taps: Tensor) -> Tensor:
    """Motion-compensated frames, equal to those of `gop.motion.compensate`, for frames of whole blocks.

    Args:
        reference: float32 (B, 3, H, W) holding integers 0..255; H and W are multiples of 16.
        vectors: (B, H / 16, W / 16, 2), any integer type, (dy, dx) in quarter pixels.
        taps: `tap_table` of the device.

    Returns:
        float32 (B, 3, H, W) holding integers 0..255.
    """
    b, c, h, w = reference.shape
    _, rows, columns, _ = vectors.shape
    device = reference.device
    v = vectors.long()
    span = torch.arange(BLOCK + FILTER_REACH, device=device) - 3
    y = torch.arange(rows, device=device)[:, None] * BLOCK + (v[..., 0] >> 2)
    x = torch.arange(columns, device=device) * BLOCK + (v[..., 1] >> 2)
    y, x = (y[..., None] + span).clamp(0, h - 1), (x[..., None] + span).clamp(0, w - 1)
    index = (y[..., :, None] * w + x[..., None, :]).reshape(b, 1, -1).expand(-1, c, -1)
    p = reference.flatten(2).gather(2, index).view(b, c, rows, columns, len(span), len(span))
    out = torch.einsum("bruik,bcrukl,brujl->bcriuj", taps[v[..., 0] & 3], p, taps[v[..., 1] & 3])
    return (out.reshape(b, c, h, w) + 0.5).floor().clamp(0, 255)


def combine(options: list[Tensor], draw: Tensor) -> Tensor | None:
    """The prediction of each frame of a batch: the only one there is, or for B frames one of three by lot.

    The encoder takes the one of the three that costs least (gop/encoder.py), and training meets each of them.

    Args:
        options: the prediction from each reference, (B, 3, H, W) each: none for I frames, two for B frames.
        draw: uniform in 0..1, (B,): below `BIDIRECTIONAL_SHARE` the mean of both, then the first, then the second.
    """
    if len(options) < 2:
        return options[0] if options else None
    draw = draw[:, None, None, None]
    single = torch.where(draw < (1 + BIDIRECTIONAL_SHARE) / 2, options[0], options[1])
    return torch.where(draw < BIDIRECTIONAL_SHARE, mean(*options), single)
