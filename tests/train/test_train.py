"""The trainer: it learns, it resumes exactly, several processes agree, and what is wrong is said in one line."""

import io
import json
import os
import shutil
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
from PIL import Image
from skimage import data as skdata

from bsqcodec.errors import BsqError
from bsqcodec.gop import motion
from bsqcodec.network import objective
from bsqcodec.network.config import ModelConfig
from bsqcodec.network.losses import ms_ssim
from bsqcodec.network.objective import Objective
from bsqcodec.network.weights import load_model
from bsqcodec.train.config import TrainConfig
from bsqcodec.train.data import load_images, load_videos
from bsqcodec.train.optimisers import Muon
from bsqcodec.train.sampler import Place, Sampler
from bsqcodec.train.trainer import MEASURES, Trainer, predict, tap_table, train

SMALL = ModelConfig(
    name="tiny", fine_width=18, fine_blocks=1, width=36, blocks=1, prior_width=32, prior_blocks=1, prior_head=32
)
ORDER = [Place(0, ()), Place(2, (0,)), Place(1, (0, 1))]


@pytest.fixture(autouse=True)
def one_thread():
    """As the processes of these tests: more would only wait for each other on networks so small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    Image.fromarray(strip(4)).save(folder / "strips" / "0.png")
    return folder


def strip(frames, side=130):
    image = skdata.astronaut()
    return np.concatenate([image[3 * t : 3 * t + side, 2 * t : 2 * t + side] for t in range(frames)])


@pytest.fixture
def config(shards, tmp_path):
    return TrainConfig(
        photos=[str(shards / "photos.tar")], strips=[str(shards / "strips")], out=str(tmp_path / "run"),
        crop=64, images=4, sequences=2, orders=[[[0], [2, 0], [1, 0, 1]]], steps=4, minutes=60, warmup=1,
        model=SMALL, objective=Objective(stlpips=0.0),
    )  # fmt: skip


def write(path, config):
    values = asdict(config)
    tables = {k: values.pop(k) for k in ("model", "objective")}
    lines = [f"{k} = {json.dumps(v)}" for k, v in values.items()]
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    path.write_text("\n".join(lines))
    return path


def weights(trainer):
    return {k: v.clone() for k, v in trainer.network.state_dict().items()}


def records(trainer):
    return [json.loads(line) for line in (trainer.out / "log.jsonl").read_text().splitlines()]


def stop_after(trainer, steps):
    step = trainer.train_step
    trainer.train_step = lambda: (setattr(trainer, "stop", trainer.step == steps - 1), step())


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(config, tmp_path):
    whole = Trainer(config)
    whole.run()
    config = replace(config, out=str(tmp_path / "other"))
    part = Trainer(config)
    stop_after(part, 2)
    part.run()
    assert part.step == 2
    rest = Trainer(config)
    assert rest.step == 2
    rest.run()
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(rest)[name]), name
    for name, value in whole.average.items():
        assert torch.equal(value, rest.average[name]), name
    without_time = [[{k: v for k, v in row.items() if k != "elapsed"} for row in records(t)] for t in (whole, rest)]
    assert without_time[0] == without_time[1]


def test_a_run_gives_a_model_that_codes(config, tmp_path):
    path = write(tmp_path / "tiny.toml", config)
    assert TrainConfig.from_toml(path) == config
    said = train(str(path))
    assert "step 4" in said
    model = load_model(str(tmp_path / "run" / "tiny.safetensors"))
    assert model.network.objective == config.objective
    from bsqcodec.api import decode_image, encode_image

    picture = skdata.astronaut()[:40, :56]
    data = encode_image(picture, quality=50, model=model)
    with pytest.raises(BsqError, match=model.id.hex()):
        decode_image(data)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {row["step"] for row in log} == {1, 2, 3, 4}
    types = ["".join(sorted({row["type"] for row in log if row["step"] == step})) for step in range(1, 5)]
    assert types == ["BIP", "I", "BIP", "I"]
    assert all(row["active"] in (192, 416, 768) and set(MEASURES) < set(row) for row in log)
    assert sum(row["samples"] for row in log if row["step"] == 2) == 4
    assert json.loads((tmp_path / "run" / "config.json").read_text())["crop"] == 64
    pytest.importorskip("matplotlib")
    from bsqcodec.train.plot import draw

    with open(draw(str(tmp_path / "run" / "log.jsonl")), "rb") as file:
        assert file.read(4) == b"\x89PNG"
    with pytest.raises(BsqError, match="not the log"):
        draw(str(path))


def test_it_learns(config, tmp_path):
    """A few steps on one batch bring its cost down, of pictures and of sequences."""
    for images, sequences, types in ((4, 0, "I"), (0, 2, "IPB")):
        out = str(tmp_path / types)
        t = Trainer(replace(config, out=out, images=images, sequences=sequences, steps=1000, share=[1.0, 0.0, 0.0]))
        for _ in range(10):
            t.train_step()
        t.report()
        costs = np.array([row["cost"] * row["samples"] for row in records(t)])
        assert {row["type"] for row in records(t)} == set(types)
        first, last = np.array_split(costs, 10)[0].sum(), np.array_split(costs, 10)[-1].sum()
        assert last < first


def test_types_of_products_give_nearly_the_same(config, monkeypatch):
    """Where bfloat16 is slow, steps run in float32."""
    found = []
    for fast in (True, False):
        monkeypatch.setattr("bsqcodec.train.trainer.bf16_is_fast", lambda device, fast=fast: fast)
        t = Trainer(replace(config, out=f"{config.out}{fast}"))
        assert t.dtype == (torch.bfloat16 if fast else torch.float32)
        for t.step in range(2):
            t.train_step()
        found.append(torch.stack([sums for _, sums in t.pending])[:, :2])
    assert torch.allclose(*found, rtol=0.05, atol=0.05)


def test_the_first_steps_turn_coefficients_into_a_picture(config):
    """Before any training, the transform and the prior's start make a codec of a kind: it is where training begins."""
    t = Trainer(config)
    x = t.sampler.plain(np.random.default_rng(0), 4, 64).float()
    level = torch.tensor([2.0, 3.0, 5.0, 7.0])
    with torch.no_grad():
        decoded, rate = t.network(x, level, torch.ones(4), dtype=torch.float32)
    errors = (decoded - x).square().mean((1, 2, 3)).sqrt() / 2**level
    assert (errors < 0.35).all(), "a uniform quantiser errs by 0.29 steps at most where all coefficients are large"
    assert (rate.diff() < 0).all() and rate[0] < 24


def test_broken_items_are_counted_and_skipped(shards, caplog):
    images = load_images([str(shards / "photos.tar")], 64)
    assert len(images) == 3 and "1 items were broken" in caplog.text


def test_what_is_drawn_repeats_exactly(shards):
    images = load_images([str(shards / "photos.tar")], 64)
    a, b = (Sampler(images, [strip(4)]) for _ in range(2))
    b.sequences(np.random.default_rng(9), 3, 64, ORDER)  # what was searched before changes nothing
    for draw in (lambda s, rng: s.crops(rng, 7, 64), lambda s, rng: s.sequences(rng, 5, 64, ORDER)[0]):
        x, y = (draw(s, np.random.default_rng(3)) for s in (a, b))
        assert torch.equal(x, y) and not torch.equal(x, draw(a, np.random.default_rng(4)))
    (_, x), (_, y) = (s.sequences(np.random.default_rng(3), 5, 64, ORDER) for s in (a, b))
    assert all(torch.equal(x[key], y[key]) for key in ((1, 0), (2, 0), (2, 1)))


def test_photographs_move_exactly():
    """Where its vectors point into the reference, a block is predicted without an error."""
    sampler = Sampler([skdata.astronaut()[:, :300]], [])
    frames, vectors = sampler.sequences(np.random.default_rng(3), 6, 96, ORDER)
    assert frames.shape == (6, 3, 3, 96, 96) and frames.dtype == torch.uint8
    moved = 0
    for (a, b), v in vectors.items():
        predicted = motion.compensate(frames[:, b], v)
        for n in range(6):
            dy, dx = (v[n, 0, 0] // 4).tolist()
            y, x = (slice(max(0, -d), 96 + min(0, -d)) for d in (dy, dx))
            assert torch.equal(predicted[n, :, y, x], frames[n, a, :, y, x].float())
            moved += bool(dy or dx)
    assert moved > 6


def test_vectors_of_clips_follow_their_mirrored_frames():
    """A clip that moves evenly is predicted well however it is mirrored and turned, from before and from after."""
    clip = strip(5, 160)
    for form in (clip, np.concatenate(np.split(clip, 5), 1)):
        sampler = Sampler([skdata.astronaut()], [form])
        seen = set()
        for seed in range(12):
            rng = np.random.default_rng(seed)
            frames, vectors = sampler._clips(rng, 2, 96, ORDER)
            for (a, b), v in vectors.items():
                inside = motion.compensate(frames[:, b], v.contiguous())[..., 16:-16, 16:-16]
                error = (inside - frames[:, a, :, 16:-16, 16:-16].float()).square().mean()
                assert error < 0.2 * (frames[:, b].float() - frames[:, a].float()).square().mean()
                seen.add(tuple(torch.sign(v[0, 2, 2]).tolist()) + (bool(v[0, 2, 2].abs().argmax()),))
        assert len(seen) == 8  # both directions of time, mirrored or not, turned or not


def test_crops_are_those_of_the_images():
    """A photograph of the crop's own size comes back as one of the square's symmetries, but for contrast."""
    picture = skdata.astronaut()[:256, :256]
    sampler = Sampler([picture])
    plain = sampler.plain(np.random.default_rng(0), 2, 256)
    assert all(np.array_equal(p.permute(1, 2, 0).numpy(), picture) for p in plain)
    assert sampler.crops(np.random.default_rng(3), 5, 96).shape == (5, 3, 96, 96)
    turned = [np.rot90(p, k) for p in (picture, picture[:, ::-1]) for k in range(4)]
    exact = 0
    for seed in range(6):
        crops = sampler.crops(np.random.default_rng(seed), 5, 256).permute(0, 2, 3, 1).numpy()
        assert crops.min() >= 0 and crops.max() <= 255 and np.array_equal(crops, np.rint(crops))
        exact += sum(any(np.array_equal(c, t) for t in turned) for c in crops[2:])
    assert 3 <= exact < 18


def test_crops_of_several_sizes_come_from_one_buffer():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((70, 64), (64, 90), (80, 80))]
    which, top, left = np.array([2, 0, 1]), np.array([16, 6, 0]), np.array([3, 0, 26])
    crops = Sampler(images).photos.cut(which, top, left, 64, 64).numpy()
    for crop, i, y, x in zip(crops, which, top, left):
        assert np.array_equal(crop, images[i][y : y + 64, x : x + 64])
    beyond = Sampler(images).photos.cut(which[:1], top[:1] * 0 - 5, left[:1] * 0 + 50, 10, 40).numpy()[0]
    assert np.array_equal(beyond, np.pad(images[2][:5, 50:], ((5, 0), (0, 10), (0, 0)), "edge"))


def test_resampled_crops_keep_straight_lines():
    """On a photograph whose colours are its coordinates, every crop is a similarity of the plane."""
    y, x = np.mgrid[:400, :400]
    sampler = Sampler([np.stack([x // 2, y // 2, 0 * x], -1).astype(np.uint8)], [])
    crops = sampler._resampled(np.random.default_rng(0), 20, 64)[:, :2] * 2
    along_x, along_y = ((f[..., -1] - f[..., 0]).mean(-1) / 63 for f in (crops, crops.transpose(2, 3)))
    assert torch.allclose((along_x * along_y).sum(1), torch.zeros(20), atol=0.1)
    scales = along_x.norm(dim=1)
    assert torch.allclose(scales, along_y.norm(dim=1), atol=0.1)
    assert 0.65 < scales.min() < 0.95 and 1.2 < scales.max() < 1.55


def test_prediction_is_that_of_the_codec():
    rng = np.random.default_rng(0)
    reference = torch.from_numpy(rng.integers(0, 256, (2, 3, 64, 96))).float()
    vectors = torch.from_numpy(rng.integers(-90, 90, (2, 4, 6, 2), dtype=np.int32))
    expected, taps = motion.compensate(reference, vectors), tap_table(torch.device("cpu"))
    assert torch.equal(predict(reference, vectors, taps), expected)
    turned = vectors.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(predict(reference, turned, taps), expected)


def test_muon_steps_are_orthogonal():
    torch.manual_seed(0)
    several = [torch.nn.Parameter(torch.zeros(s)) for s in ((32, 16), (16, 40), (32, 16))]
    for p in several:
        p.grad = torch.randn_like(p) @ torch.diag(torch.linspace(0.2, 3, p.shape[1]))
    Muon(several, 1.0).step(torch.tensor(1.0))
    for p in several:
        values = torch.linalg.svdvals(p.detach()) / max(1, p.shape[0] / p.shape[1]) ** 0.5
        assert 0.4 < values.min() and values.max() < 1.4


@pytest.mark.parametrize(
    "line",
    [
        "cropp = 64", "crop = 100", "images = 0\nsequences = 0", 'images = "12"', "steps = true", "share = [1, 0]",
        "psnr = 2.0", "orders = [[[0], [1, 1]]]", "orders = [[[0], [0, 0]]]", "orders = []", "photos = [1]", "a b",
        "[model]\nplanes = [1]", "[model]\nwidth = 0", "[objective]\nmssim = 1", "[objective]\nmse = -1.0",
    ],
)  # fmt: skip
def test_unknown_keys_and_impossible_runs(tmp_path, line):
    (tmp_path / "c.toml").write_text(line)
    with pytest.raises(BsqError, match="c.toml: "):
        TrainConfig.from_toml(tmp_path / "c.toml")


def test_data_lies_beside_the_configuration(tmp_path):
    (tmp_path / "c.toml").write_text('photos = ["a.tar", "/b.tar"]')
    assert TrainConfig.from_toml(tmp_path / "c.toml").photos == [str(tmp_path / "a.tar"), "/b.tar"]


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "models").glob("*.toml")), ids=lambda f: f.stem)
def test_the_shipped_configurations(file):
    config = TrainConfig.from_toml(file)
    assert config.model.name == file.stem.split("-")[0]
    assert (config.model, config.objective) == (TrainConfig().model, TrainConfig().objective)
    if file.stem == "bsq1":  # but for its orders, which have no chains yet, what a run takes by default
        data = {"photos": config.photos, "strips": config.strips, "orders": config.orders}
        assert config == replace(TrainConfig(), **data, images=192, sequences=72, minutes=6.9, device="cuda")
    assert {Path(path).parent for path in config.photos + config.strips} == {file.parent}


def test_bad_data(config, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(BsqError, match="no training images"):
        Trainer(replace(config, photos=[str(tmp_path / "empty")]))
    with pytest.raises(BsqError, match="not a readable tar"):
        Trainer(replace(config, photos=[str(tmp_path / "no.tar")]))
    with pytest.raises(BsqError, match="not a readable tar"):
        Trainer(replace(config, photos=[str(tmp_path / "nowhere")]))


def test_strips_that_are_too_short_are_left_out(config, caplog):
    t = Trainer(replace(config, orders=[[[0], [4, 0]]]))
    assert t.sampler.frames is None and "1 strips have not 5 square frames" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(config):
    with pytest.raises(BsqError, match="asks for a GPU"):
        Trainer(replace(config, device="cuda"))


def test_a_checkpoint_of_another_architecture_is_refused(config):
    t = Trainer(config)
    t.save()
    with pytest.raises(BsqError, match="another architecture"):
        Trainer(replace(config, model=replace(SMALL, prior_blocks=2)))
    t.checkpoint.write_bytes(b"x" * 100)
    with pytest.raises(BsqError, match="not a readable checkpoint"):
        Trainer(config)


def test_a_loss_that_is_never_a_number_stops_the_run(config, monkeypatch):
    t = Trainer(config)
    t.save()
    before = t.checkpoint.read_bytes()
    monkeypatch.setattr(objective, "ms_ssim", lambda x, y: torch.full((len(x),), float("nan")) * x.mean())
    with pytest.raises(BsqError, match="not a number at step 1"):
        t.run()
    assert t.checkpoint.read_bytes() == before


def test_a_gradient_that_is_no_number_changes_no_weight_to_none(config, monkeypatch, caplog):
    def sometimes(x, y):
        return ms_ssim(x, y) * (float("nan") if t.step == 1 else 1.0)

    monkeypatch.setattr(objective, "ms_ssim", sometimes)
    t = Trainer(replace(config, steps=3))
    t.run()
    assert all(v.isfinite().all() for v in weights(t).values())
    assert "not a number at 1 steps, the first of which is 2" in caplog.text
    assert {row["step"] for row in records(t) if row["cost"] is None} == {2}


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
from bsqcodec.train.config import TrainConfig
from bsqcodec.train.trainer import Trainer
t = Trainer(TrainConfig.from_toml(sys.argv[1]))
seen, loss = [], t.loss
t.loss = lambda x, *rest: (seen.append(x.double().sum()), loss(x, *rest))[1]
t.run()
total = sum(p.double().sum() for p in t.trained.values())
every = [torch.zeros(2, dtype=torch.float64) for _ in range(2)]
torch.distributed.all_gather(every, torch.stack([total, seen[0]]).detach())
torch.distributed.barrier()
torch.distributed.destroy_process_group()
assert t.step == 2 and every[0][0] == every[1][0] and every[0][1] != every[1][1], every
"""
    (tmp_path / "two.py").write_text(code)
    path = write(tmp_path / "c.toml", replace(config, steps=2))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "two.py"), str(path)],
        capture_output=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert sorted(p.name for p in (tmp_path / "run").glob("log*")) == ["log.jsonl", "log1.jsonl"]


def test_the_trainer_needs_neither_av_nor_constriction(tmp_path):
    code = "import sys; sys.modules['av'] = sys.modules['constriction'] = None; import bsqcodec.train"
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0


def test_st_lpips_is_part_of_the_loss_of_i_frames(config):
    pytest.importorskip("stlpips_pytorch")
    costs = []
    for weight in (0.0, 0.5):
        run = Trainer(replace(config, out=f"{config.out}{weight}", psnr=0.0, objective=Objective(stlpips=weight)))
        run.train_step()
        run.report()
        assert all(v.isfinite().all() for v in weights(run).values())
        costs.append({row["type"]: row["cost"] for row in records(run)})
    assert costs[1]["I"] > costs[0]["I"] and costs[1]["P"] == costs[0]["P"]


def test_st_lpips_has_a_gradient_where_nothing_is_seen():
    pytest.importorskip("stlpips_pytorch")
    from bsqcodec.network.losses import st_lpips, st_lpips_network

    flat = torch.zeros((1, 3, 64, 64), requires_grad=True)
    st_lpips(flat, torch.full_like(flat, 3.0)).sum().backward()
    assert flat.grad.isfinite().all()
    x = torch.from_numpy(skdata.astronaut()[:64, :128].copy()).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        ours, theirs = st_lpips(x, 200 - x / 2), st_lpips_network("alex")(x / 127.5 - 1, (200 - x / 2) / 127.5 - 1)
    assert torch.allclose(ours, theirs.flatten(), rtol=1e-3)


def test_the_objective():
    """What the tunes weigh, at a step of 1; in pictures of any size."""
    o = Objective()
    level, rate, tune = torch.zeros(2), torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0])
    for height in (16, 32, 160):
        source = 100 + 20 * torch.randn(2, 3, height, 64, generator=torch.Generator().manual_seed(0))
        perceptual, psnr = o.cost(source + 2, source, rate, level, tune, False).tolist()
        assert psnr == pytest.approx(1 + 20 * 4)
        dssim = float(1 - ms_ssim(source[:1] + 2, source[:1]))
        assert perceptual == pytest.approx(1 + 42240 * (0.93 * dssim + 0.07 * 4 / 1700), rel=1e-3) and dssim > 0
    assert torch.allclose(
        o.cost(source + 2, source, rate, level, tune, True) - 1, 0.7 * torch.tensor([perceptual - 1, 80])
    )
    finer = o.cost(source + 2, source, rate, level + 1, tune, False)
    assert torch.allclose((finer - 1) * 4, torch.tensor([perceptual - 1, 80.0]))
    red = source.clone()
    red[:, 0] += 2
    m = objective.measure(red, source)
    assert m.colour.tolist() == pytest.approx([4.0, 4.0]) and m.border.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    blocks = source.clone()
    blocks[..., 16:32] += 3
    assert objective.measure(blocks, source).border.tolist() == pytest.approx([6.0, 6.0])
    assert Objective.from_dict(o.to_dict()) == o


def test_a_run_goes_on_from_a_model_file(config, tmp_path):
    first = Trainer(replace(config, steps=1))
    first.run()
    on = Trainer(replace(config, start=str(first.model_path), out=str(tmp_path / "on")))
    assert on.step == 0
    for name, value in first.average.items():
        assert (value - on.network.state_dict()[name]).abs().max() < 0.02 * value.abs().max() + 0.02, name
    wider = replace(config.model, width=72)
    with pytest.raises(BsqError, match="architecture"):
        Trainer(replace(config, model=wider, start=str(first.model_path), out=str(tmp_path / "wider")))


def test_data_that_comes_later_is_as_good(config):
    """A sampler that was given more draws what one draws that had all from the start."""
    image, rng = skdata.astronaut(), np.random.default_rng
    photos, strips = [image[:300, :300], image[100:400, 50:]], [strip(5), strip(4)[::-1].copy()]
    whole, more = Sampler(photos, strips), Sampler(photos[:1], strips[:1])
    more.sequences(rng(0), 3, 96, ORDER)
    more.extend(photos[1:], strips[1:])
    assert torch.equal(whole.crops(rng(1), 9, 96), more.crops(rng(1), 9, 96))
    frames, vectors = whole.sequences(rng(2), 9, 96, ORDER)
    others, fields = more.sequences(rng(2), 9, 96, ORDER)
    assert torch.equal(frames, others) and all(torch.equal(vectors[key], fields[key]) for key in vectors)


def test_shards_that_come_during_a_run_are_taken_up(config, shards, tmp_path, caplog):
    caplog.set_level("INFO")
    config = replace(config, incoming=str(tmp_path / "incoming"), steps=1)
    trainer = Trainer(config)
    trainer.take_up()  # the folder need not be there
    (tmp_path / "incoming").mkdir()
    shutil.copy(shards / "photos.tar", tmp_path / "incoming/photos-1.tar")
    (tmp_path / "incoming/photos-2.tar").write_bytes((shards / "photos.tar").read_bytes()[:700])
    (tmp_path / "incoming/photos-3.tar.partial").write_bytes(b"on its way")
    with tarfile.open(tmp_path / "incoming/clips-1.tar", "w") as tar:
        tar.add(shards / "strips/0.png", "0.png")
    deadline = time.monotonic() + 60
    while len(trainer.sampler.photos) < 6 or len(trainer.sampler.lengths) < 2 or "left out" not in caplog.text:
        assert time.monotonic() < deadline
        trainer.take_up()
        time.sleep(0.01)
    for trainer.step in range(3):
        trainer.train_step()
    trainer.take_up()
    assert len(trainer.sampler.photos) == 6 and len(trainer.sampler.lengths) == 2


def test_a_run_ends_by_the_clock(config, tmp_path):
    path = write(tmp_path / "c.toml", replace(config, steps=0))
    began = time.time()
    assert "step" in train(str(path), until=began + 2)
    assert began + 1.8 < time.time() < began + 30
    assert "step" in train(str(path), until=began)  # which is over: it only writes what it has


@pytest.mark.parametrize("enough", [1, 0])
def test_out_of_memory_halves_the_batch(config, monkeypatch, caplog, enough):
    """And what was learnt before stays; one image that is too many ends the run in one line."""
    trainer = Trainer(replace(config, steps=3))
    loss = trainer.loss

    def narrow(source, *rest, **more):
        if len(source) > enough:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return loss(source, *rest, **more)

    monkeypatch.setattr(trainer, "loss", narrow)
    if enough:
        trainer.run()
        assert trainer.step == 3 and (trainer.images, trainer.sequences) == (1, 1)
        assert "on with 2 images or 1 sequences a step" in caplog.text
        assert load_model(str(trainer.model_path)).name == SMALL.name
    else:
        with pytest.raises(BsqError, match="too little memory for one image"):
            trainer.run()


def test_strips_from_a_folder_of_videos(tmp_path):
    pytest.importorskip("av")
    from bsqcodec.media import open_source

    plants = Path(__file__).parents[1] / "data" / "plants.mp4"  # 21 frames, 254 wide, 256 high
    (tmp_path / "plants.mp4").write_bytes(plants.read_bytes())
    (tmp_path / "broken.mp4").write_bytes(plants.read_bytes()[:500])
    strips = load_videos([str(tmp_path)], 64, 5)
    assert [s.shape for s in strips] == [(5 * 254, 254, 3)] * 4
    with open_source(str(plants), audio=False) as source:
        frames = [frame.rgb for frame in source]
    for piece, first in ((strips[0], 0), (strips[-1], 16)):
        whole = frames[first : first + 5]
        assert any(np.array_equal(piece, np.concatenate([f[y : y + 254] for f in whole])) for y in range(3))
    with pytest.raises(BsqError, match="no training videos"):
        load_videos([str(tmp_path)], 4000, 5)
