"""The ablations' script: variants train from the same start, are measured, and one table comes of it."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

from bsqcodec.motion import compensate

pytest.importorskip("pytorch_msssim")
pytest.importorskip("scipy")
skdata = pytest.importorskip("skimage.data")

FILE = Path(__file__).parent.parent / "benchmarks" / "ablations.py"


@pytest.fixture(scope="module")
def ablations():
    spec = importlib.util.spec_from_file_location("ablations", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def words(ablations, monkeypatch, tmp_path):
    """Two photographs and two strips in folders; the second of each is trained on. A small start."""
    image = skdata.astronaut()
    for name in ("photos", "strips"):
        (tmp_path / name).mkdir()
    for i in range(2):
        Image.fromarray(image[: 300 + i, 100 * i :]).save(tmp_path / "photos" / f"{i}.png")
        strip = np.concatenate([image[3 * t : 3 * t + 192, 2 * t + i : 2 * t + i + 192] for t in range(3)])
        Image.fromarray(strip).save(tmp_path / "strips" / f"{i}.png")
    crops = torch.from_numpy(image[:256].reshape(4, 64, 8, 64, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 64, 64))
    reference = compensate(crops, torch.zeros(32, 4, 4, 2, dtype=torch.int64))
    monkeypatch.setitem(ablations.Ablation.started, 0, (crops.float(), (crops.float(), reference)))
    return [
        "--photos", str(tmp_path / "photos"), "--strips", str(tmp_path / "strips"), "--out", str(tmp_path / "out"),
        "--steps", "2", "--crops", "2", "--side", "192", "--qualities", "10,30,50,70",
    ]  # fmt: skip


def test_a_table_of_two_variants(ablations, words, tmp_path, capsys, monkeypatch):
    model = replace(TINY, step_fine=0.5)  # so that its few bits a token suffice at every quality
    base = replace(ablations.BASE, model=model, crop=64, late_crop=64, images=2, sequences=1, threads=0)
    ablations.main([*words, "baseline"], base)
    ablations.main([*words, "flat-256", "adamw"], base)
    records = [json.loads(line) for line in (tmp_path / "out" / "ablations.jsonl").read_text().splitlines()]
    assert [r["name"] for r in records] == ["baseline", "flat-256", "adamw"]
    assert all(len(r["points"][kind]["bpp"]) == 4 for r in records for kind in "IP")
    assert all(b > a for r in records for a, b in zip(r["points"]["I"]["bpp"], r["points"]["I"]["bpp"][1:]))
    assert records[1]["points"]["I"]["psnr"][-1] > 20  # several trits a coefficient: the flat one is a codec, too
    text = (tmp_path / "out" / "ablations.md").read_text()
    rows = [row.split(" | ") for row in text.splitlines()]
    assert len(rows) == 5 and {len(row) for row in rows[2:]} == {11}
    assert rows[2][8] == "" and rows[4][8] == "`baseline`"
    assert "%" in rows[4][10]
    monkeypatch.setattr(ablations, "run", None)  # what is done is not run again
    capsys.readouterr()
    ablations.main([*words, "baseline", "adamw"], base)
    assert capsys.readouterr().out == text + "\n"


def test_unknown_variants(ablations, words):
    with pytest.raises(SystemExit):
        ablations.main([*words, "nothing"])


def test_every_variant_builds(ablations):
    for name, variant in ablations.VARIANTS.items():
        model = replace(ablations.BASE.model, **variant.model)
        assert sum(model.planes) == sum(model.groups), name
        assert variant.against in ablations.VARIANTS
