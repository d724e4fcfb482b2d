"""No blocks: what a decoded picture changes by across the borders of tokens is what it changes by inside them.

python tests/gop/test_blocks.py KODAK/kodim05.png ...    # the ratio of each picture at 0.1, 0.2 and 0.4 bits per pixel
"""

import sys

import numpy as np
import pytest
from PIL import Image
from skimage import data

from bsqcodec.gop.encoder import GopEncoder
from bsqcodec.network.weights import Model, load_model
from bsqcodec.rate import find_quality
from bsqcodec.settings import EncodeSettings

RATES = 0.1, 0.2, 0.4  # bits per pixel
MAX_RATIO = {"perceptual": 1.15, "psnr": 1.25}  # times the ratio of the source


def border_ratio(picture: np.ndarray) -> float:
    """Mean absolute gradient across the borders of tokens over that elsewhere. picture: (H, W, 3), sides above 32."""
    across = inside = 0.0
    for axis in (0, 1):
        change = np.abs(np.diff(picture.astype(float), axis=axis)).mean((1 - axis, 2))
        border = np.arange(len(change)) % 16 == 15
        across += change[border].mean()
        inside += change[~border].mean()
    return across / inside


def at_rate(model: Model, picture: np.ndarray, bpp: float, tune: str) -> tuple[float, np.ndarray]:
    """A picture at the highest quality that takes at most `bpp` bits per pixel: bits per pixel, decoded (H, W, 3)."""
    pixels = picture.shape[0] * picture.shape[1]

    def code(quality: int) -> tuple[float, np.ndarray]:
        encoder = GopEncoder(model, picture.shape[0], picture.shape[1], EncodeSettings(tune=tune), 1)
        (shown,) = encoder.push(picture, quality)
        return 8 * len(encoder.finish()) / pixels, shown

    return code(find_quality(lambda quality: code(quality)[0] * pixels, bpp * pixels, 8))


@pytest.mark.parametrize("tune", ["perceptual", "psnr"])
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_borders_do_not_show(model, name, tune):
    picture = getattr(data, name)()[40:232, 60:316]
    for bpp in (0.1, 0.3):
        _, shown = at_rate(model, picture, bpp, tune)
        assert border_ratio(shown) <= MAX_RATIO[tune] * border_ratio(picture)


def main() -> None:
    model = load_model()
    for path in sys.argv[1:]:
        picture = np.asarray(Image.open(path).convert("RGB"))
        for tune in ("perceptual", "psnr"):
            found = [at_rate(model, picture, bpp, tune) for bpp in RATES]
            ratios = [border_ratio(shown) / border_ratio(picture) for _, shown in found]
            print(
                path,
                tune,
                " ".join(f"{bpp:.3f} bpp {r:.3f}" for (bpp, _), r in zip(found, ratios, strict=True)),
                flush=True,
            )


if __name__ == "__main__":
    main()
