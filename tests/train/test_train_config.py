"""Configurations of training runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from bsqcodec.errors import BsqError
from bsqcodec.train.config import TrainConfig


@pytest.mark.parametrize(
    "line",
    [
        "cropp = 64", "crop = 100", "images = 0\nsequences = 0", 'images = "12"', "steps = true", "share = [1, 0]",
        "psnr = 2.0", "orders = [[[0], [1, 1]]]", "orders = [[[0], [0, 0]]]", "orders = []", "photos = [1]", "a b",
        "[model]\nplanes = [1]", "[model]\nwidth = 0", "[objective]\nmssim = 1", "[objective]\nmse = -1.0",
    ],
)  # fmt: skip
def test_unknown_keys_and_impossible_runs(tmp_path: Path, line: str) -> None:
    (tmp_path / "c.toml").write_text(line)
    with pytest.raises(BsqError, match=r"c\.toml: "):
        TrainConfig.from_toml(tmp_path / "c.toml")


def test_data_lies_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('photos = ["a.tar", "/b.tar"]')
    assert TrainConfig.from_toml(tmp_path / "c.toml").photos == [str(tmp_path / "a.tar"), "/b.tar"]


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "models").glob("*.toml")), ids=lambda f: f.stem)
def test_the_shipped_configurations(file: Path) -> None:
    config = TrainConfig.from_toml(file)
    assert config.model.name == file.stem.split("-")[0]
    assert (config.model, config.objective) == (TrainConfig().model, TrainConfig().objective)
    if file.stem == "bsq1":  # but for its orders, which have no chains yet, what a run takes by default
        expected = replace(TrainConfig(), photos=config.photos, strips=config.strips, orders=config.orders)
        assert config == replace(expected, images=192, sequences=72, minutes=6.9, device="cuda")
    assert {Path(path).parent for path in config.photos + config.strips} == {file.parent}
