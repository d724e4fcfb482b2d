"""The trainer: it learns, it resumes exactly, and what is wrong is said in one line."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from skimage import data as skdata

from bsqcodec.errors import BsqError
from bsqcodec.network import objective
from bsqcodec.network.losses import ms_ssim
from bsqcodec.network.objective import Objective
from bsqcodec.network.weights import load_model
from bsqcodec.train.config import TrainConfig
from bsqcodec.train.steps import MEASURES
from bsqcodec.train.trainer import Trainer, train
from helpers import TINY
from training import records, weights, write_config


def stop_after(trainer: Trainer, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a run as SIGTERM does, in the step that makes so many."""
    train_step = trainer.train_step

    def last_step() -> None:
        trainer.stop = trainer.step == steps - 1
        train_step()

    monkeypatch.setattr(trainer, "train_step", last_step)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Trainer(config)
    whole.run()
    config = replace(config, out=str(tmp_path / "other"))
    part = Trainer(config)
    stop_after(part, 2, monkeypatch)
    part.run()
    assert part.step == 2
    rest = Trainer(config)
    assert rest.step == 2
    rest.run()
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(rest)[name]), name
    for name, value in whole.parameters.average.items():
        assert torch.equal(value, rest.parameters.average[name]), name
    without_time = [[{k: v for k, v in row.items() if k != "elapsed"} for row in records(t)] for t in (whole, rest)]
    assert without_time[0] == without_time[1]


def test_a_run_gives_a_model_that_codes(config: TrainConfig, tmp_path: Path) -> None:
    path = write_config(tmp_path / "tiny.toml", config)
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


def test_it_learns(config: TrainConfig, tmp_path: Path) -> None:
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


def test_types_of_products_give_nearly_the_same(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bfloat16 is slow, steps run in float32."""
    found = []
    for fast in (True, False):
        monkeypatch.setattr("bsqcodec.train.parameters.bf16_is_fast", lambda device, fast=fast: fast)
        t = Trainer(replace(config, out=f"{config.out}{fast}"))
        assert t.parameters.dtype == (torch.bfloat16 if fast else torch.float32)
        for t.step in range(2):
            t.train_step()
        found.append(torch.stack([sums for _, sums in t.measures.pending])[:, :2])
    assert torch.allclose(found[0], found[1], rtol=0.05, atol=0.05)


def test_the_first_steps_turn_coefficients_into_a_picture(config: TrainConfig) -> None:
    """Before any training, the transform and the prior's start make a codec of a kind: it is where training begins."""
    t = Trainer(config)
    x = t.sampler.plain(np.random.default_rng(0), 4, 64).float()
    level = torch.tensor([2.0, 3.0, 5.0, 7.0])
    with torch.no_grad():
        decoded, rate = t.network(x, level, torch.ones(4), dtype=torch.float32)
    errors = (decoded - x).square().mean((1, 2, 3)).sqrt() / 2**level
    assert (errors < 0.35).all(), "a uniform quantiser errs by 0.29 steps at most where all coefficients are large"
    assert (rate.diff() < 0).all() and rate[0] < 24


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(config: TrainConfig) -> None:
    with pytest.raises(BsqError, match="asks for a GPU"):
        Trainer(replace(config, device="cuda"))


def test_a_checkpoint_of_another_architecture_is_refused(config: TrainConfig) -> None:
    t = Trainer(config)
    t.save()
    with pytest.raises(BsqError, match="another architecture"):
        Trainer(replace(config, model=replace(TINY, prior_blocks=2)))
    t.checkpoint.write_bytes(b"x" * 100)
    with pytest.raises(BsqError, match="not a readable checkpoint"):
        Trainer(config)


def test_a_loss_that_is_never_a_number_stops_the_run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    t = Trainer(config)
    t.save()
    before = t.checkpoint.read_bytes()
    monkeypatch.setattr(objective, "ms_ssim", lambda x, y: torch.full((len(x),), float("nan")) * x.mean())
    with pytest.raises(BsqError, match="not a number at step 1"):
        t.run()
    assert t.checkpoint.read_bytes() == before


def test_a_gradient_that_is_no_number_changes_no_weight_to_none(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def sometimes(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ms_ssim(x, y) * (float("nan") if t.step == 1 else 1.0)

    monkeypatch.setattr(objective, "ms_ssim", sometimes)
    t = Trainer(replace(config, steps=3))
    t.run()
    assert all(v.isfinite().all() for v in weights(t).values())
    assert "not a number at 1 steps, the first of which is 2" in caplog.text
    assert {row["step"] for row in records(t) if row["cost"] is None} == {2}


def test_a_full_disk_leaves_the_last_checkpoint(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    t = Trainer(config)
    t.save()
    before = t.checkpoint.read_bytes()

    def full(state: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(BsqError, match="No space left"):
        t.save()
    assert t.checkpoint.read_bytes() == before
    assert sorted(p.name for p in t.out.iterdir()) == ["checkpoint.pt", "tiny.safetensors"]


def test_st_lpips_is_part_of_the_loss_of_i_frames(config: TrainConfig) -> None:
    pytest.importorskip("stlpips_pytorch")
    costs = []
    for weight in (0.0, 0.5):
        run = Trainer(replace(config, out=f"{config.out}{weight}", psnr=0.0, objective=Objective(stlpips=weight)))
        run.train_step()
        run.report()
        assert all(v.isfinite().all() for v in weights(run).values())
        costs.append({row["type"]: row["cost"] for row in records(run)})
    assert costs[1]["I"] > costs[0]["I"] and costs[1]["P"] == costs[0]["P"]


def test_a_run_goes_on_from_a_model_file(config: TrainConfig, tmp_path: Path) -> None:
    first = Trainer(replace(config, steps=1))
    first.run()
    on = Trainer(replace(config, start=str(first.model_path), out=str(tmp_path / "on")))
    assert on.step == 0
    for name, value in first.parameters.average.items():
        assert (value - on.network.state_dict()[name]).abs().max() < 0.02 * value.abs().max() + 0.02, name
    wider = replace(config.model, width=72)
    with pytest.raises(BsqError, match="architecture"):
        Trainer(replace(config, model=wider, start=str(first.model_path), out=str(tmp_path / "wider")))


def test_a_run_ends_by_the_clock(config: TrainConfig, tmp_path: Path) -> None:
    path = write_config(tmp_path / "c.toml", replace(config, steps=0))
    began = time.time()
    assert "step" in train(str(path), until=began + 2)
    assert began + 1.8 < time.time() < began + 30
    assert "step" in train(str(path), until=began)  # which is over: it only writes what it has


@pytest.mark.parametrize("enough", [1, 0])
def test_out_of_memory_halves_the_batch(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, enough: int
) -> None:
    """And what was learnt before stays; one image that is too many ends the run in one line."""
    trainer = Trainer(replace(config, steps=3))
    loss = trainer.steps.loss

    def narrow(source: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
        if len(source) > enough:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return loss(source, *rest)

    monkeypatch.setattr(trainer.steps, "loss", narrow)
    if enough:
        trainer.run()
        assert trainer.step == 3 and (trainer.images, trainer.sequences) == (1, 1)
        assert "on with 2 images or 1 sequences a step" in caplog.text
        assert load_model(str(trainer.model_path)).name == TINY.name
    else:
        with pytest.raises(BsqError, match="too little memory for one image"):
            trainer.run()
