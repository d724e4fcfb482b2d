"""The start of an untrained network: a transform that suits photographs, and the scales of its coefficients."""

import math

import torch
from torch import Tensor

from .patches import TOKEN, to_tokens
from .quantiser import COEFFICIENTS, TABLE_ROWS
from .quantiser_tables import FREQUENCY_EXPONENT
from .tokenizer import MID_GRAY
from .unrounded import LOWEST_LOG2_STEP, ROW_OCTAVES, Unrounded

LOG2_SCALE_MIN, LOG2_SCALE_MAX = -4, 7  # bounds of the scales that the prior starts from
LOG2_SCALE_REDUCTION = (0, 2.5, 3.0)  # log2 of the scales of I frames less those of I, P and B frames


@torch.no_grad()
def karhunen_loeve(photos: Tensor) -> tuple[Tensor, Tensor]:
    """The Karhunen-Loeve transform of photographs: its coefficients are uncorrelated over their tokens.

    Mid-gray is taken off before.

    photos: pixels 0..255 of any type, (N, 3, H, W), sides multiples of 16. Returns the variance of each coefficient in
    falling order, (768,), and the basis, (768, 768), a column for each coefficient; both float32 where `photos` is.
    """
    total = torch.zeros(COEFFICIENTS, COEFFICIENTS, dtype=torch.float64, device=photos.device)
    tokens = 0
    for photo in photos.split(1):
        x = to_tokens(photo.float() - MID_GRAY).flatten(0, 2)
        total += (x.T @ x).double()
        tokens += len(x)
    variance, basis = torch.linalg.eigh(total / tokens)
    return variance.flip(0).float(), basis.flip(1).float().contiguous()


@torch.no_grad()
def initialise(network: Unrounded, basis: Tensor, variance: Tensor) -> None:
    """Set the transform, the frequency of its coefficients, and the scales that the prior starts from.

    basis, variance: those of `karhunen_loeve`. A coefficient's frequency is the mean of the radius in the plane of
    16x16 frequencies, 0..22, weighted by energy; kept as log2((1 + f) / 3).
    """
    device = network.basis.device
    basis, variance = basis.to(device), variance.to(device)
    network.basis.copy_(basis)
    i = torch.arange(TOKEN)
    dct = torch.cos(math.pi * (i + 0.5) * i[:, None] / TOKEN) * torch.where(i == 0, 0.25, 8**-0.5)[:, None]
    dct, radius = dct.to(device), (i[:, None] ** 2 + i**2).float().sqrt().to(device)
    energy = torch.einsum("ia,kcab,jb->kcij", dct, basis.T.reshape(-1, 3, TOKEN, TOKEN), dct) ** 2
    network.frequency.copy_(torch.log2((1 + (energy * radius).sum((1, 2, 3))) / 3))
    levels = LOWEST_LOG2_STEP + torch.arange(TABLE_ROWS, device=device)[:, None] * ROW_OCTAVES
    less = torch.tensor(LOG2_SCALE_REDUCTION, device=device)[:, None, None]
    for tune, exponent in enumerate(FREQUENCY_EXPONENT):
        spread = torch.log2(variance.clamp(min=1e-3).sqrt()) - exponent * network.frequency
        row = (spread[None] - levels).clamp(LOG2_SCALE_MIN, LOG2_SCALE_MAX)
        network.p_bias[:, tune, :, COEFFICIENTS:] = row - less
