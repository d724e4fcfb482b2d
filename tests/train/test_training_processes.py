"""The trainer as a process, or several: it ends when asked, and all train one model."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bsqcodec.train.config import TrainConfig
from training import write_config


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_sigterm_writes_a_checkpoint(config: TrainConfig, tmp_path: Path) -> None:
    path = write_config(tmp_path / "c.toml", replace(config, steps=100000))
    process = subprocess.Popen(
        [sys.executable, "-m", "bsqcodec.train", path],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 600  # on a core with much other work
    while not log.exists() or not log.read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    assert process.returncode == 0 and (tmp_path / "run" / "checkpoint.pt").exists()


def test_two_processes_train_one_model(config: TrainConfig, tmp_path: Path) -> None:
    """torchrun with gloo: the weights of both processes stay the same, though their data differ."""
    code = """
import sys, torch
from bsqcodec.train.config import TrainConfig
from bsqcodec.train.trainer import Trainer
t = Trainer(TrainConfig.from_toml(sys.argv[1]))
seen, loss = [], t.steps.loss
t.steps.loss = lambda x, *rest: (seen.append(x.double().sum()), loss(x, *rest))[1]
t.run()
total = sum(p.double().sum() for p in t.parameters.trained.values())
every = [torch.zeros(2, dtype=torch.float64) for _ in range(2)]
torch.distributed.all_gather(every, torch.stack([total, seen[0]]).detach())
torch.distributed.barrier()
torch.distributed.destroy_process_group()
assert t.step == 2 and every[0][0] == every[1][0] and every[0][1] != every[1][1], every
"""
    (tmp_path / "two.py").write_text(code)
    path = write_config(tmp_path / "c.toml", replace(config, steps=2))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "two.py"), str(path)],
        capture_output=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert sorted(p.name for p in (tmp_path / "run").glob("log*")) == ["log.jsonl", "log1.jsonl"]


def test_the_trainer_needs_few_packages() -> None:
    """Nothing beyond torch, numpy, pillow and safetensors."""
    code = """
import sys
for name in ("av", "click", "constriction", "matplotlib", "scipy", "skimage", "tqdm"):
    sys.modules[name] = None
import bsqcodec.train.lease.command, bsqcodec.train.plot, bsqcodec.train.trainer
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == 0
