"""Perceptual measures of distortion that networks are trained for: MS-SSIM and ST-LPIPS."""

import functools
import importlib.util
import sys
import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BsqError

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.3695)  # of MS-SSIM (Wang et al. 2003), the last two joined
LUMINANCE_CONSTANT, CONTRAST_CONSTANT = 0.01**2, 0.03**2  # keep the quotients finite (Wang et al. 2003)


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """MS-SSIM (Wang et al. 2003) with box windows of 8x8 at every fourth pixel, (B,).

    x, y: pixels 0..255, (B, 3, H, W), sides of at least 8. It has four scales, which need sides of 64, and else as many
    as fit.
    """
    weights = SCALE_WEIGHTS[: (min(x.shape[2:]) // 8).bit_length()]
    x, y = x / 255, y / 255
    scales = []
    for i in range(len(weights)):
        if i:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        scales.append(F.avg_pool2d(torch.cat([x, y, torch.addcmul(x * x, y, y), x * y], 1), 8, 4).flatten(2))
    sizes = [scale.shape[2] for scale in scales]
    mx, my, squares, xy = torch.cat(scales, 2).split(3, 1)
    product, means = mx * my, torch.addcmul(mx * mx, my, my)
    structure = ((2 * (xy - product) + CONTRAST_CONSTANT) / (squares - means + CONTRAST_CONSTANT)).split(sizes, 2)
    luminance = (2 * product[..., -sizes[-1] :] + LUMINANCE_CONSTANT) / (means[..., -sizes[-1] :] + LUMINANCE_CONSTANT)
    similar = torch.stack([s.mean((1, 2)) for s in (*structure[:-1], structure[-1] * luminance)]).clamp(min=1e-4)
    powers = [s ** (weight / sum(weights)) for s, weight in zip(similar.unbind(), weights, strict=True)]
    return functools.reduce(torch.mul, powers)


def st_lpips(x: Tensor, y: Tensor, net: str = "alex") -> Tensor:
    """Shift-tolerant LPIPS (Ghildyal and Liu, arXiv 2207.13686), (B,), with a gradient everywhere.

    x, y: pixels 0..255, (B, 3, H, W). Raises BsqError if stlpips-pytorch is not installed.
    """
    return st_lpips_of_features(st_lpips_features(x, net), st_lpips_features(y, net), net)


def st_lpips_features(x: Tensor, net: str = "alex") -> list[Tensor]:
    """What the network of `st_lpips` sees in pictures, which may be compared with others more than once."""
    network: Any = st_lpips_network(net).to(x.device)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=torch.is_grad_enabled()):
        features: list[Tensor] = network.net(network.scaling_layer(x / 127.5 - 1))
    return features


def st_lpips_of_features(x: list[Tensor], y: list[Tensor], net: str = "alex") -> Tensor:
    """The distance of pictures, of which `st_lpips_features` gave x and y, (B,)."""
    network: Any = st_lpips_network(net)
    total = torch.zeros(len(x[0]), device=x[0].device)
    with torch.autocast(x[0].device.type, torch.bfloat16, enabled=torch.is_grad_enabled()):
        for layer, a, b in zip(network.lins, x, y, strict=True):
            total = total + layer((_unit(a) - _unit(b)).square()).float().mean((1, 2, 3))
    return total


def _unit(features: Tensor) -> Tensor:
    """Features of length 1. The package's own code takes the root of sums that may be 0, where it has no gradient."""
    return features / (features.float().square().sum(1, keepdim=True) + 1e-6).sqrt()


@functools.lru_cache
def st_lpips_network(net: str) -> nn.Module:
    """The metric's network, `net` being "alex" or "vgg"; its weights lie in the package."""
    if importlib.util.find_spec("stlpips_pytorch") is None:
        raise BsqError("ST-LPIPS needs stlpips-pytorch: pip install --no-deps stlpips-pytorch")
    # the package imports these for its other networks and for printing; none of it is used here
    unused = [name for name in ("torchvision", "IPython", "torchsummary") if importlib.util.find_spec(name) is None]
    for name in unused:
        module = types.ModuleType(name)
        vars(module).update(models=None, embed=None, summary=None)
        sys.modules[name] = module
    try:
        from stlpips_pytorch import stlpips
    finally:
        for name in unused:
            del sys.modules[name]
    return stlpips.LPIPS(net=net, variant="shift_tolerant", verbose=False).requires_grad_(False)
