"""Fixtures of the benchmark's tests: small pictures and a short raw video."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from bsqcodec.media import colour


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return skimage.data.astronaut()[:192, 100:308]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two images, 208x192 and 192x208."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(skimage.data.astronaut()[:192, 100:308]).save(folder / "one.png")
    Image.fromarray(skimage.data.chelsea()[50:258, 100:292]).save(folder / "two.png")
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Six raw 4:2:0 frames of 64x48 that pan over an image."""
    path = tmp_path_factory.mktemp("clip") / "pan_64x48_30.yuv"
    image = skimage.data.astronaut()
    with path.open("wb") as file:
        for i in range(6):
            yuv = colour.to_yuv(image[:48, 180 + 2 * i : 244 + 2 * i], "yuv420p")
            file.write(yuv.to_ndarray().tobytes())
    return path
