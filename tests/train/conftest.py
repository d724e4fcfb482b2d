"""Fixtures of the tests of training: small data, and a run of a few steps on them."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data as skdata

from bsqcodec.network.objective import Objective
from bsqcodec.train.config import TrainConfig
from helpers import TINY
from training import strip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the processes of these tests: more would only wait for each other on networks so small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in a tar, one of them broken, and strips of 4 frames in a folder."""
    folder = tmp_path_factory.mktemp("shards")
    image = skdata.astronaut()
    with tarfile.open(folder / "photos.tar", "w") as tar:
        for i in range(4):
            file = io.BytesIO()
            Image.fromarray(image[40 * i : 40 * i + 320, :300]).save(file, "JPEG")
            data = file.getvalue() if i else b"not a picture"
            member = tarfile.TarInfo(f"{i}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (folder / "strips").mkdir()
    Image.fromarray(strip(4)).save(folder / "strips" / "0.png")
    return folder


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> TrainConfig:
    """Four steps of images and of sequences I P B."""
    return TrainConfig(
        photos=[str(shards / "photos.tar")], strips=[str(shards / "strips")], out=str(tmp_path / "run"),
        crop=64, images=4, sequences=2, orders=[[[0], [2, 0], [1, 0, 1]]], steps=4, minutes=60, warmup=1,
        model=TINY, objective=Objective(stlpips=0.0),
    )  # fmt: skip
