"""The command of the ablations: what is held out, runs that go on, tables; and the comparison of curves."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from skimage import data as skdata

from ablations import data, measures, network
from ablations.command import EXPERIMENTS, main

CURVE = [[0.1, 25.0, 8.0, 0.3], [0.2, 27.0, 10.0, 0.2], [0.4, 29.0, 12.0, 0.1], [0.8, 31.0, 14.0, 0.05]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 21 pictures, of which the first and the last are held out."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(21):
        Image.fromarray(skdata.astronaut()[i : i + 300, 2 * i : 2 * i + 300]).save(folder / f"{i:02}.png")
    return folder


def ablate(*arguments: object) -> str:
    """Run the command; returns what it prints."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_what_measures_is_never_trained_on(photos: Path):
    loaded = data.load([str(photos)], [], torch.device("cpu"))
    pictures = [skdata.astronaut()[i : i + 300, 2 * i : 2 * i + 300] for i in range(21)]
    assert len(loaded.photos) == 2 and len(loaded.train.photos) == 19
    np.testing.assert_array_equal(loaded.photos, [pictures[0], pictures[20]])
    trained = loaded.train.photos.values.view(19, 300, 300, 3).numpy()
    np.testing.assert_array_equal(trained, pictures[1:20])


def test_a_run_is_done_once_and_the_same_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(network, "TRANSFORM_TOKENS", 2000)
    arguments = ["quantisers", "--variant", "planes", "--photos", photos, "--steps", 2, "--seeds", 1]
    text = ablate(*arguments, "--out", tmp_path / "a")
    path = tmp_path / "a" / "quantisers-planes-0.json"
    row = json.loads(path.read_text())
    assert [row[k] for k in ("variant", "seed", "steps")] == ["planes", 0, 2]
    rates, psnrs = np.array(row["points"])[:, :2].T
    assert (np.diff(rates) > 0).all() and (np.diff(psnrs) > 0).all()  # finer levels cost more and are better
    written = path.stat().st_mtime_ns
    assert ablate(*arguments, "--out", tmp_path / "a") == text and path.stat().st_mtime_ns == written
    assert (tmp_path / "a" / "quantisers.png").stat().st_size > 1000
    for name, other in (("planes-1", {"seed": 1, "steps": 3}), ("gone-0", {"variant": "gone"})):
        path.with_name(f"quantisers-{name}.json").write_text(json.dumps(row | other))
    assert ablate(*arguments, "--out", tmp_path / "a") == text  # of other steps, and of a variant that is no more
    ablate(*arguments, "--out", tmp_path / "b")
    assert json.loads((tmp_path / "b" / path.name).read_text())["points"] == row["points"]


@pytest.mark.parametrize("experiment", ["shapes", "prior-cost"])
def test_the_product_is_measured(experiment: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    variant = {"shapes": "1to16", "prior-cost": "25"}[experiment]
    monkeypatch.setattr(EXPERIMENTS[experiment], "PICTURES", 1)
    ablate(experiment, "--variant", variant, "--photos", photos, "--seeds", 1, "--out", tmp_path)
    row = json.loads((tmp_path / f"{experiment}-{variant}-0.json").read_text())
    if experiment == "shapes":
        rates, _, similar, distances = np.array(row["points"]).T
        assert (np.diff(rates) > 0).all() and (np.diff(distances) < 0).all() and np.isnan(similar).all()
    else:
        assert row["bits"]["prior"] < row["bits"]["static"] and row["seconds"]["prior"] > 0
        assert 10_000 < row["multiplications"]["prior"] < 30_000


def test_data_that_are_not_there_end_in_one_line(tmp_path: Path):
    result = CliRunner().invoke(main, ["shapes", "--photos", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and result.output.startswith("Error: no training images")


def test_an_experiment_asks_for_the_data_that_it_needs(tmp_path: Path, photos: Path):
    for arguments, missing in ([["shapes"], "--photos"], [["backbones", "--photos", str(photos)], "--clips"]):
        result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "out")])
        assert result.exit_code == 2 and f"give {missing}" in result.output and not (tmp_path / "out").exists()
    result = CliRunner().invoke(main, ["recognition", "--variant", "pixel", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and "no variant pixel in recognition" in result.output


def test_a_curve_of_twice_the_rate_costs_a_hundred_percent():
    double = [[2 * rate, *rest] for rate, *rest in CURVE]
    for measure in (1, 2, 3):
        assert measures.against(double, CURVE, measure) == pytest.approx((100, 1))
    worthless = [[rate, 5.0, 1.0, 0.9] for rate, *_ in CURVE]
    assert math.isnan(measures.against(worthless, CURVE, 1)[0])


def test_runs_are_compared_with_the_baseline_of_their_seed():
    rows = [
        {"variant": variant, "seed": seed, "points": [[factor * rate, *rest] for rate, *rest in CURVE]}
        for variant, seed, factor in (("a", 0, 1.0), ("a", 1, 1.1), ("b", 0, 1.5), ("b", 1, 1.5))
    ]
    compared = measures.compared(rows, "a")
    assert [row["against"][0][0] for row in compared] == pytest.approx([0, 10, 50, 100 * (1.5 / 1.1 - 1)])
