"""The trainer: it learns, it resumes exactly, several processes agree, and what is wrong is said in one line."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, random_network
from PIL import Image
from skimage import data as skdata

from bsqcodec import objective
from bsqcodec.data import Sampler, load_images, load_videos
from bsqcodec.errors import BsqError
from bsqcodec.exact import ConditionTable, freeze, set_kinds
from bsqcodec.model import load_model, save_model
from bsqcodec.network import Network
from bsqcodec.train import TrainConfig, Trainer, train


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
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
    strip = np.concatenate([image[3 * t : 3 * t + 130, 2 * t : 2 * t + 130] for t in range(4)])
    Image.fromarray(strip).save(folder / "strips" / "0.png")
    return folder


@pytest.fixture
def config(shards, tmp_path):
    return TrainConfig(
        photos=[str(shards / "photos.tar")], strips=[str(shards / "strips")], out=str(tmp_path / "run"),
        crop=64, late_crop=96, images=4, sequences=2, steps=4, minutes=60, warmup=1, bf16=0.5, model=TINY,
    )  # fmt: skip


def write(path, config):
    values = {k: v for k, v in asdict(config).items() if k != "model"}
    lines = [f"{k} = {json.dumps(v)}" for k, v in values.items()]
    model = [f"{k} = {json.dumps(v)}" for k, v in asdict(config.model).items()]
    path.write_text("\n".join([*lines, "[model]", *model]))
    return path


def weights(trainer):
    return {k: v.clone() for k, v in trainer.network.state_dict().items()}


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(config, tmp_path):
    whole = Trainer(config)
    whole.run()
    config = replace(config, out=str(tmp_path / "other"))
    part = Trainer(config)
    part.train_step, step = lambda batch: (setattr(part, "stop", part.step == 1), step(batch))[1], part.train_step
    part.run()
    assert part.step == 2
    rest = Trainer(config)
    assert rest.step == 2
    rest.run()
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(rest)[name]), name
    for name, value in whole.average.items():
        assert torch.equal(value, rest.average[name]), name


def test_a_run_gives_a_model_that_codes(config, tmp_path):
    path = write(tmp_path / "tiny.toml", config)
    assert TrainConfig.from_toml(path) == config
    said = train(str(path))
    assert "step 4" in said
    model = load_model(str(tmp_path / "run" / "tiny.safetensors"))
    from bsqcodec.api import decode_image, encode_image

    picture = skdata.astronaut()[:40, :56]
    data = encode_image(picture, 50, model)
    with pytest.raises(BsqError, match=model.id.hex()):
        decode_image(data)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2, 3, 4]
    assert all(set(row["kind"]) in ({0, 1}, {0, 1, 2}) for row in log) and any(2 in row["kind"] for row in log)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["crop"] == 64
    pytest.importorskip("matplotlib")
    from bsqcodec.train_plot import draw

    with open(draw(str(tmp_path / "run" / "log.jsonl")), "rb") as file:
        assert file.read(4) == b"\x89PNG"


def test_it_learns(config):
    """A few steps on one batch bring its cost down."""
    t = Trainer(replace(config, steps=1000, encoder_start=1.0))
    batch = t.batch(0, False)
    costs = []
    for _ in range(12):
        costs.append(np.mean(t.train_step(batch)["mse"]))
    assert costs[-1] < costs[0]


def test_broken_items_are_counted_and_skipped(shards, caplog):
    images = load_images([str(shards / "photos.tar")], 64)
    assert len(images) == 3 and "1 items were broken" in caplog.text


def test_sequences_move_and_repeat_exactly(shards):
    sampler = Sampler(load_images([str(shards / "photos.tar")], 64), [])
    a, b = (sampler.sequence(np.random.default_rng(3), 64, 3) for _ in range(2))
    assert a.shape == (3, 3, 64, 64) and torch.equal(a, b)


def test_crops_are_those_of_the_images():
    """A photograph and a clip of the crop's own size come back as one of the square's symmetries."""
    picture = skdata.astronaut()
    sampler = Sampler([picture], [picture[:, :256]])
    turned = [np.rot90(p, k) for p in (picture, picture[:, ::-1]) for k in range(4)]
    crop = sampler.photo(np.random.default_rng(0), 512).permute(1, 2, 0).numpy()
    assert any(np.array_equal(crop, p) for p in turned)
    clip = sampler.clip(np.random.default_rng(0), 256, 2).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(clip.reshape(512, 256, 3), picture[:, :256])
    assert sampler.photo(np.random.default_rng(3), 200).shape == (3, 200, 200)


def test_synthetic_motion_turns_and_zooms():
    """On a photograph whose colours are its coordinates, every frame is a similarity of the plane that moves evenly."""
    y, x = np.mgrid[:300, :500]
    sampler = Sampler([np.stack([x / 2, y / 2, 0 * x], -1).round().astype(np.uint8)], [])
    inside = 0
    for seed in range(40):
        frames = sampler._path(np.random.default_rng(seed), 64, 4)
        centres = frames[:, :2, 31:33, 31:33].mean((2, 3)) * 2
        low, high = centres.amin(0), centres.amax(0)
        if low.min() < 64 or high[0] > 500 - 64 or high[1] > 300 - 64:
            continue  # it may look over the edge
        inside += 1
        along_x, along_y = (2 * (f[..., -1] - f[..., 0]).mean(-1) / 63 for f in (frames, frames.transpose(2, 3)))
        assert torch.allclose(along_x[:, 0], along_y[:, 1], atol=0.1)
        assert torch.allclose(along_x[:, 1], -along_y[:, 0], atol=0.1)
        assert 0.7 < along_x[:, :2].norm(dim=1).min() and along_x[:, :2].norm(dim=1).max() < 2
        assert (centres.diff(dim=0) - centres.diff(dim=0).mean(0)).abs().max() < 2
    assert inside >= 10


@pytest.mark.parametrize(
    "line",
    ["cropp = 64", "msssim = 0.8\nstlpips = 0.3", "[model]\nplains = [1]", "[model]\nplanes = [1]\ngroups = [2]"],
)
def test_unknown_keys_and_impossible_models(tmp_path, line):
    (tmp_path / "c.toml").write_text(line)
    with pytest.raises(BsqError, match="unknown key|shares of|groups hold"):
        TrainConfig.from_toml(tmp_path / "c.toml")


@pytest.mark.parametrize("file", sorted((Path(__file__).parent.parent / "models").glob("*.toml")), ids=lambda f: f.stem)
def test_the_shipped_configurations(file):
    """They are read, and what they describe has no partial sum that could overflow."""
    config = TrainConfig.from_toml(file)
    network = Network(config.model)
    freeze(network)
    size = sum(p.numel() for p in network.parameters()) / 1e6
    assert config.model.name == file.stem and size < 25


def test_bad_data(config, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(BsqError, match="no training images"):
        Trainer(replace(config, photos=[str(tmp_path / "empty")]))
    with pytest.raises(BsqError, match="not a readable tar"):
        Trainer(replace(config, photos=[str(tmp_path / "no.tar")]))
    with pytest.raises(BsqError, match="not a readable tar"):
        Trainer(replace(config, photos=[str(tmp_path / "nowhere")]))


def test_a_checkpoint_of_another_architecture_is_refused(config):
    t = Trainer(config)
    t.save()
    with pytest.raises(BsqError, match="another architecture"):
        Trainer(replace(config, model=replace(TINY, prior_blocks=1)))
    t.checkpoint.write_bytes(b"x" * 100)
    with pytest.raises(BsqError, match="not a readable checkpoint"):
        Trainer(config)


def test_a_run_starts_from_a_model_that_codes_b_frames_as_p_frames(config, tmp_path):
    network = random_network()
    set_kinds(network, 2)
    save_model(network, tmp_path / "two.safetensors")
    t = Trainer(replace(config, start=str(tmp_path / "two.safetensors")))
    for module in t.network.modules():
        if isinstance(module, ConditionTable):
            assert len(module.anchors) == 3 and torch.equal(module.anchors[1], module.anchors[2])


def test_a_loss_that_is_not_a_number_stops_the_run(config, monkeypatch):
    t = Trainer(config)
    t.save()
    before = t.checkpoint.read_bytes()
    monkeypatch.setattr(objective, "msssim", lambda x, y: torch.full((len(x),), float("nan")) * x.mean())
    with pytest.raises(BsqError, match="nan at step 0"):
        t.run()
    assert t.checkpoint.read_bytes() == before


def test_a_full_disk_leaves_the_last_checkpoint(config, monkeypatch):
    t = Trainer(config)
    t.save()
    before = t.checkpoint.read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(BsqError, match="No space left"):
        t.save()
    assert t.checkpoint.read_bytes() == before
    assert sorted(p.name for p in t.out.iterdir()) == ["checkpoint.pt", "tiny.safetensors"]


def launch(path, *prefix):
    command = [sys.executable, *prefix, "-m", "bsqcodec.train", str(path)]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_sigterm_writes_a_checkpoint(config, tmp_path):
    process = launch(write(tmp_path / "c.toml", replace(config, steps=100000)))
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() or not log.read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0 and (tmp_path / "run" / "checkpoint.pt").exists()


def test_two_processes_train_one_model(config, tmp_path):
    """torchrun with gloo: the weights of both processes stay the same, though their data differ."""
    code = """
import sys, torch
from bsqcodec.train import Trainer, TrainConfig
t = Trainer(TrainConfig.from_toml(sys.argv[1]))
t.run()
total = sum(p.double().sum() for p in t.trained.values())
batch = t.batch(0, False).double().sum()
every = [torch.zeros(2, dtype=torch.float64) for _ in range(2)]
torch.distributed.all_gather(every, torch.stack([total, batch]).detach())
assert every[0][0] == every[1][0] and every[0][1] != every[1][1], every
"""
    (tmp_path / "two.py").write_text(code)
    path = write(tmp_path / "c.toml", replace(config, steps=2))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29531"]
    done = subprocess.run(
        [*command, str(tmp_path / "two.py"), str(path)],
        capture_output=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()


def test_the_trainer_needs_neither_av_nor_constriction(tmp_path):
    code = "import sys; sys.modules['av'] = sys.modules['constriction'] = None; import bsqcodec.train"
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0


def test_the_discriminator_waits_for_its_time_then_learns_and_is_restored(config):
    config = replace(config, adversarial=0.5, adversarial_start=0.5, steps=4)
    run = Trainer(config)
    before = {k: v.clone() for k, v in run.discriminator.state_dict().items()}
    run.train_step, step = lambda batch: (setattr(run, "stop", run.step == 1), step(batch))[1], run.train_step
    run.run()
    assert all(torch.equal(v, run.discriminator.state_dict()[k]) for k, v in before.items())
    rest = Trainer(config)
    rest.run()
    assert any(not torch.equal(v, rest.discriminator.state_dict()[k]) for k, v in before.items())
    again = Trainer(config)
    for k, v in rest.discriminator.state_dict().items():
        assert torch.equal(v, again.discriminator.state_dict()[k])


def test_st_lpips_is_part_of_the_loss(config):
    pytest.importorskip("stlpips_pytorch")
    costs = []
    for share in (0.0, 0.5):
        run = Trainer(replace(config, out=f"{config.out}{share}", msssim=0.0, stlpips=share))
        records = run.train_step(run.batch(0, False))
        costs.append(np.array(records["cost"]))
        assert np.isfinite(costs[-1]).all()
    assert (costs[0] != costs[1]).all()


def test_a_run_goes_on_from_a_model_file(config, tmp_path):
    first = Trainer(replace(config, steps=1))
    first.run()
    on = Trainer(replace(config, start=str(first.model_path), out=str(tmp_path / "on")))
    assert on.step == 0
    for name, value in load_model(str(first.model_path)).network.decoder.state_dict().items():
        assert torch.equal(value, on.network.decoder.state_dict()[name]), name
    wider = replace(config.model, detail_blocks=config.model.detail_blocks + 1)
    with pytest.raises(BsqError, match="architecture"):
        Trainer(replace(config, model=wider, start=str(first.model_path), out=str(tmp_path / "wider")))


def test_strips_from_a_folder_of_videos(tmp_path):
    pytest.importorskip("av")
    from bsqcodec.media import open_source

    plants = Path(__file__).parent / "data" / "plants.mp4"  # 21 frames, 254 wide, 256 high
    (tmp_path / "plants.mp4").write_bytes(plants.read_bytes())
    (tmp_path / "broken.mp4").write_bytes(plants.read_bytes()[:500])
    strips = load_videos([str(tmp_path)], 64, 5)
    assert [s.shape for s in strips] == [(5 * 254, 254, 3)] * 4
    with open_source(str(plants), audio=False) as source:
        frames = [frame.rgb for frame in source]
    for strip, first in ((strips[0], 0), (strips[-1], 16)):
        whole = frames[first : first + 5]
        assert any(np.array_equal(strip, np.concatenate([f[y : y + 254] for f in whole])) for y in range(3))
    with pytest.raises(BsqError, match="no training videos"):
        load_videos([str(tmp_path)], 4000, 5)
