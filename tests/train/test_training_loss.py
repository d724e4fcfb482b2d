"""What training minimises."""

import pytest
import torch
from skimage import data as skdata

from bsqcodec.network import objective
from bsqcodec.network.losses import ms_ssim
from bsqcodec.network.objective import Objective


def test_the_objective() -> None:
    """What the tunes weigh, at a step of 1; in pictures of any size."""
    o = Objective()
    level, rate, tune = torch.zeros(2), torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0])
    for height in (16, 32, 160):
        source = 100 + 20 * torch.randn(2, 3, height, 64, generator=torch.Generator().manual_seed(0))
        perceptual, psnr = o.cost(source + 2, source, rate, level, tune, False).tolist()
        assert psnr == pytest.approx(1 + 20 * 4)
        dssim = float(1 - ms_ssim(source[:1] + 2, source[:1]))
        assert perceptual == pytest.approx(1 + 42240 * (0.93 * dssim + 0.07 * 4 / 1700), rel=1e-3) and dssim > 0
    assert torch.allclose(
        o.cost(source + 2, source, rate, level, tune, True) - 1, 0.7 * torch.tensor([perceptual - 1, 80])
    )
    finer = o.cost(source + 2, source, rate, level + 1, tune, False)
    assert torch.allclose((finer - 1) * 4, torch.tensor([perceptual - 1, 80.0]))
    red = source.clone()
    red[:, 0] += 2
    m = objective.measure(red, source)
    assert m.colour.tolist() == pytest.approx([4.0, 4.0]) and m.border.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    blocks = source.clone()
    blocks[..., 16:32] += 3
    assert objective.measure(blocks, source).border.tolist() == pytest.approx([6.0, 6.0])
    assert Objective.from_dict(o.to_dict()) == o


def test_st_lpips_has_a_gradient_where_nothing_is_seen() -> None:
    pytest.importorskip("stlpips_pytorch")
    from bsqcodec.network.losses import st_lpips, st_lpips_network

    flat = torch.zeros((1, 3, 64, 64), requires_grad=True)
    st_lpips(flat, torch.full_like(flat, 3.0)).sum().backward()
    assert flat.grad is not None and flat.grad.isfinite().all()
    x = torch.from_numpy(skdata.astronaut()[:64, :128].copy()).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        ours, theirs = st_lpips(x, 200 - x / 2), st_lpips_network("alex")(x / 127.5 - 1, (200 - x / 2) / 127.5 - 1)
    assert torch.allclose(ours, theirs.flatten(), rtol=1e-3)
