"""The commands `bench` and `compare`, on small pictures and videos."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
pytest.importorskip("pytorch_msssim")

from bench_helpers import run, simple_tasks

from bsqcodec.bench import anchors, runner


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("jobs", [1, 2])
def test_interrupted_command(pictures, tmp_path, jobs):
    """Ctrl-C ends all processes in one line; what was finished is not run again."""
    base = ["--dataset", str(pictures), "--codecs", "webp", "--metrics", "psnr", "--no-crops", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "bsqcodec", "bench", *base, "--jobs", str(jobs)]
    command += ["--points", "webp=" + ",".join(f"{i / 9:.4f}" for i in range(900))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    cache = tmp_path / runner.CACHE
    while process.poll() is None and not (cache.exists() and cache.read_bytes().count(b"\n") > 2):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    # which waits for the end of every process that has the pipe, so no worker is left behind
    assert process.communicate(timeout=600)[1].splitlines()[-1] == "bsqcodec: interrupted"
    assert process.returncode == 130
    before = cache.read_bytes()
    done = [r["point"] for r in runner.read_cache(cache).values() if r["item"] == "one"]
    assert done and before.count(b"\n") < 1800
    points = "webp=" + ",".join(f"{p:.4f}" for p in done)
    assert run("bench", *base, "--items", "one", "--points", points)[0] == 0
    assert cache.read_bytes() == before


def test_identity_codec(pictures, tmp_path):
    task = simple_tasks(pictures)[2]
    (record,) = runner.run([task], tmp_path)
    assert record["codec"] == "identity" and record["bpp"] == 24 and record["metrics"]["psnr-rgb"] == math.inf
    base = ["--dataset", pictures, "--codecs", "identity", "--metrics", "psnr,ms-ssim", "--no-crops"]
    assert run("bench", *base, "--out", tmp_path)[0] == 0
    results = json.loads((tmp_path / f"{pictures.stem}-identity.json").read_text())["results"]
    assert results["psnr-rgb"] == [math.inf] and results["ms-ssim-rgb"] == [pytest.approx(1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--codecs", "mpeg2"], "no codec called mpeg2; known codecs: bsq, bsq-low-delay, bsq-search"),
        (["--points", "mpeg2=1,2"], "no codec called mpeg2"),
        (["--metrics", "beauty"], "no metric called beauty; known metrics: psnr"),
        (["--items", "nobody"], "no item of"),
        (["--published", "nowhere"], "no published results in nowhere"),
    ],
)
def test_unknown_names(pictures, arguments, message):
    base = ["--dataset", pictures, "--codecs", "jpeg"]
    status, output = run("bench", *base, *arguments)
    assert status == 1 and message in output and len(output.splitlines()) == 1


def test_unknown_data_set():
    status, output = run("bench", "--dataset", "kodk")
    assert status == 1 and "known data sets: kodak, clic2020" in output


def test_broken_image_is_reported_and_the_rest_goes_on(pictures, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(pictures, folder)
    (folder / "broken.png").write_bytes((pictures / "one.png").read_bytes()[:2000])
    base = ["--dataset", folder, "--codecs", "jpeg", "--points", "jpeg=50", "--metrics", "psnr", "--no-crops"]
    status, output = run("bench", *base, "--out", tmp_path / "out")
    assert status == 1 and "broken.png is broken" in output
    assert set(json.loads((tmp_path / "out" / "set-jpeg.json").read_text())["items"]) == {"one", "two"}
    assert "broken.png" in (tmp_path / "out" / "set.html").read_text()


def test_failing_triple_is_reported_and_the_rest_goes_on(pictures, tmp_path, monkeypatch):
    encode = anchors.PillowCodec.encode

    def fail(self, frames, fps, point):
        frames = list(frames)
        if frames[0].shape[0] == 192:
            raise MemoryError("too large")
        return encode(self, frames, fps, point)

    monkeypatch.setattr(anchors.PillowCodec, "encode", fail)
    base = ["--dataset", pictures, "--codecs", "jpeg", "--points", "jpeg=50", "--metrics", "psnr", "--no-crops"]
    status, output = run("bench", *base, "--out", tmp_path)
    assert status == 1 and "one, jpeg: MemoryError: too large" in output
    assert len(runner.read_cache(tmp_path / runner.CACHE)) == 1


def test_bench_writes_results_that_can_be_read_back(pictures, tmp_path):
    base = ["bench", "--dataset", pictures, "--codecs", "webp,jpeg,h264", "--metrics", "psnr,ms-ssim", "--no-crops"]
    points = ["--points", "webp=10,40,70,90", "--points", "jpeg=10,30,60,90", "--points", "h264=20,30"]
    status, output = run(*base, *points, "--out", tmp_path / "a")
    assert status == 0 and "BD-rate" in output
    saved = json.loads((tmp_path / "a" / "pictures0-webp.json".replace("pictures0", pictures.stem)).read_text())
    assert {"name", "description", "results", "meta", "points", "items"} <= saved.keys()
    assert {"bpp", "psnr-rgb", "ms-ssim-rgb", "encoding_time", "decoding_time"} == saved["results"].keys()
    assert all(len(v) == 4 for v in saved["results"].values())
    text = "".join(p.read_text() for p in (tmp_path / "a").glob("*.json"))
    assert str(tmp_path) not in text and str(pictures.parent) not in text
    assert f"--dataset {pictures.name}" in saved["meta"]["command"]
    for suffix in ("png", "svg"):
        assert (tmp_path / "a" / f"{pictures.stem}-psnr-rgb.{suffix}").stat().st_size > 1000
    published = tmp_path / "a" / f"{pictures.stem}-webp.json"
    assert curve_as_compressai_reads_it(published, "ms-ssim-rgb")["xs"] == saved["results"]["bpp"]
    tables = json.loads((tmp_path / "a" / f"{pictures.stem}-bd.json").read_text())["webp, each item"]["psnr-rgb"]
    for kind in ("bd-rate-percent", "bd-quality"):
        assert set(tables[kind]) == {"one", "two"} and {"value", "low", "high"} <= tables[kind]["one"]["jpeg"].keys()
        assert "2 points" in tables[kind]["one"]["h264"]["refused"]
    status, output = run(*base, *points, "--published", published, "--out", tmp_path / "a")
    assert status == 0
    page = (tmp_path / "a" / f"{pictures.stem}.html").read_text()
    assert f"{pictures.stem}-webp (published)" in page and "2 points; at least 4 are needed" in page


def curve_as_compressai_reads_it(path: Path, metric: str) -> dict:
    """What compressai.utils.plot does with a file."""
    data = json.loads(path.read_text())
    if "results" not in data or "bpp" not in data["results"] or metric not in data["results"]:
        raise ValueError(path)
    return {"name": data.get("name", path.stem), "xs": data["results"]["bpp"], "ys": data["results"][metric]}


def test_compare(pictures, clip, tmp_path):
    Image.open(pictures / "one.png").save(tmp_path / "one.jpg", quality=50)
    status, output = run("compare", pictures / "one.png", tmp_path / "one.jpg")
    assert status == 0 and "psnr-rgb" in output and "ms-ssim-rgb" in output and "dB" in output
    assert "inf" in run("compare", clip, clip, "--metrics", "psnr", "--frames", 2)[1]
    Image.new("RGB", (48, 32)).save(tmp_path / "small.png")
    small = run("compare", tmp_path / "small.png", tmp_path / "small.png", "--metrics", "ms-ssim")
    assert small == (0, "ms-ssim-rgb  the frames are too small for it\n")
    assert run("compare", pictures / "one.png", pictures / "two.png") == (
        1,
        "sizes differ: 208x192 and 192x208",
    )
    assert "no such file" in run("compare", clip, "nothing.png")[1]
    (tmp_path / "bad.mkv").write_bytes(b"nothing in here")
    assert "bad.mkv is not a media file that can be read" in run("compare", clip, tmp_path / "bad.mkv")[1]
