"""Training on a lent GPU, as it goes on this machine: everything arrives and comes back whole, and calls repeat."""

import contextlib
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as skdata

from bsqcodec.network.saving import save_model
from bsqcodec.network.weights import load_model
from bsqcodec.train.config import TrainConfig
from bsqcodec.train.trainer import Trainer
from helpers import TINY, random_network

pytest.importorskip("fcntl")
SCRIPT = Path(__file__).parents[2] / "benchmarks/lease.py"
MAX_MEGABYTES = 24  # of a folder; the model of the conformance streams has 22.5
PHOTOS, STRIPS = 40, 8
CONFIG = """
photos = ["photos.tar"]
strips = ["clips.tar"]
start = "{start}"
crop = 64
images = 2
sequences = 1
orders = [[[0], [2, 0], [1, 0, 1]]]
device = "{device}"
[model]
name = "tiny"
fine_width = 18
fine_blocks = 1
width = 36
blocks = 1
prior_width = 32
prior_blocks = 1
prior_head = 32
[objective]
stlpips = 0.0
"""


def lease(*words: Any) -> str:
    """What a stage prints, in this process."""
    out, path = io.StringIO(), list(sys.path)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
        patch.setattr(sys, "path", path)
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return out.getvalue()


def refused(*words: Any) -> str:
    """The only line of error of a stage that fails."""
    with pytest.raises(SystemExit) as raised:
        lease(*words)
    said = raised.value.code
    assert isinstance(said, str) and "\n" not in said
    return said


def shard(path: Path, pictures: Iterable[np.ndarray]) -> None:
    """A tar of pictures that all have one name."""
    with tarfile.open(path, "w") as tar:
        for picture in pictures:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "PNG", compress_level=0)
            member = tarfile.TarInfo("same.png")
            member.size = len(file.getvalue())
            tar.addfile(member, io.BytesIO(file.getvalue()))


def held(*folders: Path) -> dict[str, int]:
    """Members of the tars in folders, by how the tars' names begin."""
    found = {"photos": 0, "clips": 0}
    for folder in folders:
        for path in folder.glob("*.tar"):
            with tarfile.open(path) as tar:
                found[path.name.split("-")[0]] += len(tar.getmembers())
    return found


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A dry run in "dry" of a folder, without packages that the lent machine lacks, and what it printed."""
    folder = tmp_path_factory.mktemp("lease")
    image = skdata.astronaut()
    shard(folder / "photos.tar", [np.roll(image, i, 1) for i in range(PHOTOS)])
    shard(folder / "clips.tar", [np.concatenate([image[i : i + 130, :130]] * 4) for i in range(STRIPS)])
    save_model(random_network(TINY), folder / "tiny.safetensors")
    (folder / "tiny.toml").write_text(CONFIG.format(start=folder / "tiny.safetensors", device="cpu"))
    with zipfile.ZipFile(folder / "x-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("x.py", "")
    for name in ("av", "click", "tqdm"):
        (folder / "lacking").mkdir(exist_ok=True)
        (folder / f"lacking/{name}.py").write_text("raise ImportError")
    words = "--config", folder / "tiny.toml", "--out", folder / "dry", "--most", MAX_MEGABYTES
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder / "lacking"), prepend=os.pathsep)
        said = lease("--dry-run", *words, "--wheels", folder / "x-1-py3-none-any.whl")
    return folder, said


def test_all_stages_here(dry: tuple[Path, str]) -> None:
    folder, said = dry
    folder = folder / "dry"
    folders = sorted((folder / "lease").iterdir())
    stages = [line.split(",")[0] for line in said.splitlines()]
    assert stages[:4] == ["prepare", "start", "feed", "feed"] and len(folders) == 3
    assert stages[4:] == ["finish", "bench", "join", str(folder / "bench.json")]
    assert all(sum(p.stat().st_size for p in f.rglob("*") if p.is_file()) < MAX_MEGABYTES * 1e6 for f in folders)
    assert (folder / "work/site/x.py").exists()
    every = {"photos": PHOTOS, "clips": STRIPS}
    assert held(*folders) == every == held(folder / "work/first", folder / "work/incoming")
    for some in map(held, folders[:2]):
        assert 1 < some["clips"] < STRIPS and abs(some["photos"] / PHOTOS - some["clips"] / STRIPS) <= 1 / STRIPS
    assert load_model(str(folder / "joined/tiny.safetensors")).network.config.name == "tiny"
    config = TrainConfig.from_toml(folder / "work/run.toml")
    config.start, config.out, config.incoming, config.steps = "", str(folder / "joined"), "", 11
    run = Trainer(config)
    assert run.step == 10
    run.run()
    assert run.step == 11 and all(p.isfinite().all() for p in run.parameters.average.values())


def test_the_machine_is_measured(dry: tuple[Path, str]) -> None:
    found = json.loads((dry[0] / "dry/bench.json").read_text())
    assert found["conformance"]["differences"] == [] and found["conformance"]["streams"] == 22
    for what in ("encode", "decode"):
        speed = found["speed 64x48"][what]
        assert speed["frames a second"] == pytest.approx(1 / speed["seconds a frame"])
        assert {"motion", "tokenizer", "prior", "range coder"} <= set(speed["parts"])
        assert sum(speed["parts"].values()) <= speed["seconds a frame"] and speed["warm-up"] > 0
    assert found["exactness"]["differences"] == [] and found["exactness"]["bits"] >= 1e4
    assert found["machine"]["steps"] == 10 and "CPU" in found["machine"]["device"]


def test_a_folder_that_was_cut_off_is_refused_until_it_is_mended(dry: tuple[Path, str], tmp_path: Path) -> None:
    folder = dry[0] / "dry"
    shutil.copytree(folder / "lease/1", tmp_path / "1")
    path = tmp_path / "1/photos-1.tar"
    (tmp_path / "work/code").mkdir(parents=True)
    words = "feed", "--from", tmp_path / "1", "--work", tmp_path / "work"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    assert "photos-1.tar is cut off" in refused(*words)
    path.unlink()
    assert "photos-1.tar is missing" in refused(*words)
    path.write_bytes(whole)
    assert "2 files are new" in lease(*words)
    assert "0 files are new" in lease(*words)
    assert held(tmp_path / "work/incoming") == held(tmp_path / "1")


def test_join_names_the_slice_that_is_missing(dry: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(dry[0] / "dry/out-0", tmp_path / "out")
    (tmp_path / "out/state.00").unlink()
    words = "join", "--from", tmp_path / "out", "--out", tmp_path / "joined"
    assert "--from-slice 3 brings it" in refused(*words)


def until(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + 600
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_run_that_is_fed_and_stopped(dry: tuple[Path, str], tmp_path: Path) -> None:
    """A second start changes nothing, a killed trainer is started again, and finish asks it to stop."""
    folder, work = dry[0], tmp_path / "work"
    shutil.copytree(folder / "dry/lease/0", tmp_path / "0")
    config = tmp_path / "0/config.toml"
    config.write_text(config.read_text().replace("steps = 10", "steps = 0"))
    manifest = json.loads((tmp_path / "0/manifest.json").read_text())
    del manifest["files"]["config.toml"]
    (tmp_path / "0/manifest.json").write_text(json.dumps(manifest))
    words = "start", "--from", tmp_path / "0", "--work", work, "--minutes", 5
    assert "the trainer runs" in lease(*words)
    state, pid = (work / "lease.json").read_text(), (work / "pid").read_text()
    assert "running already" in lease(*words)
    assert ((work / "lease.json").read_text(), (work / "pid").read_text()) == (state, pid)
    until((work / "run/checkpoint.pt").exists)
    subprocess.run(["kill", "-9", pid], check=True)
    until(lambda: "the trainer runs" in lease(*words))
    assert (work / "lease.json").read_text() == state and (work / "pid").read_text() != pid
    lease("feed", "--from", folder / "dry/lease/1", "--work", work)
    count = held(work / "first", work / "incoming")
    until(lambda: f"on with {count['photos']} photographs, {count['clips']} strips" in (work / "log.txt").read_text())
    words = "finish", "--work", work, "--out", tmp_path / "out", "--wait", 0
    assert "asked to stop" in lease(*words)
    assert "ended already" in lease("start", "--from", tmp_path / "0", "--work", work, "--minutes", 5)
    assert "checkpoint of step" in lease("join", "--from", tmp_path / "out", "--out", tmp_path / "joined")
    steps = [json.loads(line)["step"] for line in (tmp_path / "joined/log.jsonl").read_text().splitlines()]
    assert set(range(2, steps[-1])) <= set(steps)


def test_what_cannot_be_is_one_line(dry: tuple[Path, str], tmp_path: Path) -> None:
    folder = dry[0]
    config, out = tmp_path / "c.toml", tmp_path / "out"
    config.write_text(CONFIG.format(start="", device="cuda"))
    words = "prepare", "--config", config, "--out", out, "--most"
    (tmp_path / "photos.tar").write_bytes((folder / "photos.tar").read_bytes()[:5000])
    assert "photos.tar: not a readable tar" in refused(*words, MAX_MEGABYTES)
    assert "code, wheels and weights have" in refused(*words, 0.1, "--data", folder)
    assert not out.exists()
    for name in ("photos", "clips"):
        shard(tmp_path / f"{name}.tar", [skdata.astronaut()])
    lease(*words, MAX_MEGABYTES)
    import torch

    if not torch.cuda.is_available():
        said = refused("start", "--from", out / "0", "--work", tmp_path / "w", "--minutes", 1)
        assert "there is none" in said
