"""Curves: averages of records, and files of others."""

import json
from pathlib import Path

import numpy as np
import pytest
from bench_helpers import simple_tasks

from bsqcodec.bench import results, runner
from bsqcodec.errors import BsqError


def test_averages(pictures, tmp_path):
    tasks = [t for t in simple_tasks(pictures) if t.codec.name == "jpeg"]
    records = runner.run(tasks, tmp_path)
    result = results.averaged(tasks[0].codec, [t.item for t in tasks[::2]], records, ("psnr",))
    assert result["points"] == [10, 90] and result["results"]["bpp"] == sorted(result["results"]["bpp"])
    by_hand = np.mean([r["metrics"]["psnr-rgb"] for r in records if r["point"] == 90])
    assert result["results"]["psnr-rgb"][1] == pytest.approx(by_hand)
    assert set(result["items"]) == {"one", "two"}


def test_published_formats(tmp_path):
    published = {"bitrate": [2488.32, 4976.64], "psnr-rgb": [30, 31]}
    (tmp_path / "x264.json").write_text(json.dumps({"name": "x264", "results": published}))
    (tmp_path / "table.json").write_text(json.dumps({"rows": []}))
    curves, notes = results.read_published(tmp_path, "uvg")
    assert curves["x264 (published)"]["results"]["bpp"] == pytest.approx([0.01, 0.02])
    assert notes == ["published table.json skipped: not in CompressAI's format"]
    curves, notes = results.read_published(tmp_path, "kodak")
    assert not curves and len(notes) == 2
    for i, lists in enumerate(({"psnr-rgb": [30]}, {"psnr-rgb": [30, "x"]}, {"psnr-rgb": 30}, {})):
        text = json.dumps({"results": {"bpp": [1, 2], "ms-ssim-rgb": [0.9, 0.95]} | lists})
        (tmp_path / f"odd{i}.json").write_text(text)
    curves, notes = results.read_published(tmp_path, "kodak")
    assert list(curves) == ["odd3 (published)"] and "odd0.json skipped: its lists" in notes[0]
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BsqError, match="is not JSON"):
        results.read_published(tmp_path, "kodak")
    assert results.quality({"ms-ssim-db-rgb": [12.0]}, "ms-ssim-rgb") == [12.0]
    assert results.quality({"st-lpips": [0.25]}, "st-lpips") == [-0.25]
    assert results.quality({"psnr-rgb": [30]}, "vmaf") is None


def test_results_in_the_repository_can_be_read_back():
    folder = Path(__file__).parents[2] / "benchmarks" / "results"
    curves, notes = results.read_published(folder, "kodak")
    assert {"kodak-bsq (published)", "kodak-avif (published)"} <= set(curves)
    assert all("-bd.json" in note or "lease" in note for note in notes)
