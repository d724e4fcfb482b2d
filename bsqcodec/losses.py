"""Measures of distortion that are trained for, beside the squared error."""

import functools
import importlib.util
import sys
import types

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import BsqError


def ssim_terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(luminance * structure, structure) of SSIM, mean per image, over 8x8 boxes at every fourth pixel."""
    x, y = x / 255, y / 255
    pool = lambda t: F.avg_pool2d(t, 8, 4)  # noqa: E731
    mx, my = pool(x), pool(y)
    vx, vy, cov = pool(x * x) - mx * mx, pool(y * y) - my * my, pool(x * y) - mx * my
    structure = (2 * cov + 0.03**2) / (vx + vy + 0.03**2)
    luminance = (2 * mx * my + 0.01**2) / (mx * mx + my * my + 0.01**2)
    return (luminance * structure).mean((1, 2, 3)), structure.mean((1, 2, 3))


def msssim(x: Tensor, y: Tensor) -> Tensor:
    """MS-SSIM (Wang et al. 2003) with box windows, (B,); x, y: (B, 3, H, W) pixels 0..255, sides of at least 8.

    It has four scales, which need sides of 64, and else as many as fit.
    """
    weights = (0.0448, 0.2856, 0.3001, 0.3695)[: (min(x.shape[2:]) // 8).bit_length()]
    weights = tuple(w / sum(weights) for w in weights)
    out = torch.ones(len(x), device=x.device)
    for i, w in enumerate(weights):
        full, structure = ssim_terms(x, y)
        out = out * (full if i == len(weights) - 1 else structure).clamp(min=1e-4) ** w
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return out


def st_lpips(x: Tensor, y: Tensor, net: str = "alex") -> Tensor:
    """Shift-tolerant LPIPS (Ghildyal and Liu, arXiv 2207.13686), (B,); x, y: (B, 3, H, W) pixels 0..255.

    Raises BsqError if stlpips-pytorch is not installed.
    """
    network = st_lpips_network(net).to(x.device)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=torch.is_grad_enabled()):
        return network(x / 127.5 - 1, y / 127.5 - 1).flatten().float()


@functools.lru_cache
def st_lpips_network(net: str) -> nn.Module:
    """The metric's network, `net` being "alex" or "vgg"; its weights lie in the package."""
    if importlib.util.find_spec("stlpips_pytorch") is None:
        raise BsqError("ST-LPIPS needs stlpips-pytorch: pip install --no-deps stlpips-pytorch")
    # the package imports these for its other networks and for printing; none of it is used here
    unused = [name for name in ("torchvision", "IPython", "torchsummary") if importlib.util.find_spec(name) is None]
    for name in unused:
        module = types.ModuleType(name)
        module.models = module.embed = module.summary = None  # type: ignore[attr-defined]
        sys.modules[name] = module
    try:
        from stlpips_pytorch import stlpips
    finally:
        for name in unused:
            del sys.modules[name]
    return stlpips.LPIPS(net=net, variant="shift_tolerant", verbose=False).requires_grad_(False)


class Discriminator(nn.Module):
    """Patch discriminator (Isola et al., arXiv 1611.07004): a logit for each patch of 70x70 pixels.

    It judges a picture beside a blurred source: whether the detail is credible there. Pixels 0..255 (B, 3, H, W) in,
    (B, 1, H/8 - 2, W/8 - 2) out.
    """

    def __init__(self, width: int = 48):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(6, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(3):
            stride = 2 if i < 2 else 1
            layers += [
                nn.Conv2d(width << i, width << (i + 1), 4, stride, 1, bias=False),
                nn.GroupNorm(8, width << (i + 1)),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width << 3, 1, 4, 1, 1))

    def forward(self, x: Tensor, blurred: Tensor) -> Tensor:
        return self.layers(torch.cat([x, blurred], 1) / 127.5 - 1)

    def loss(self, real: Tensor, decoded: Tensor) -> Tensor:
        """Hinge loss for the discriminator."""
        blurred = blur(real)
        return F.relu(1 - self(real, blurred)).mean() + F.relu(1 + self(decoded, blurred)).mean()

    def realism(self, real: Tensor, decoded: Tensor) -> Tensor:
        """What the decoder gains by, (B,)."""
        return self(decoded, blur(real)).mean((1, 2, 3))


def blur(x: Tensor) -> Tensor:
    """The picture as an eighth of its size holds it."""
    return F.interpolate(F.avg_pool2d(x, 8), scale_factor=8.0, mode="bilinear")
