"""The clip that the tests of this folder have coded in one process and in several."""

import pytest
from PIL import Image
from skimage import data

import bsqcodec


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder of 7 frames, and what one process makes of it in groups of 2."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "in").mkdir()
    picture = data.astronaut()
    for i in range(7):
        Image.fromarray(picture[100 + 3 * i : 148 + 3 * i, 200:280]).save(folder / "in" / f"{i}.png")
    result = bsqcodec.encode_file(str(folder / "in"), str(folder / "one.bsq"), gop=2)
    return folder, result
