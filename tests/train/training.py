"""What several tests of training need: a strip of frames, and what a run leaves."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage import data as skdata

from bsqcodec.train.config import TrainConfig, write_toml
from bsqcodec.train.sampler import SequenceFrame
from bsqcodec.train.trainer import Trainer

ORDER = [SequenceFrame(0, ()), SequenceFrame(2, (0,)), SequenceFrame(1, (0, 1))]  # I P B


def strip(frames: int, side: int = 130) -> np.ndarray:
    """Square crops of a photograph along a path, one above the other, uint8 (frames * side, side, 3)."""
    image = skdata.astronaut()
    return np.concatenate([image[3 * t : 3 * t + side, 2 * t : 2 * t + side] for t in range(frames)])


def write_config(path: Path, config: TrainConfig) -> Path:
    """Write a configuration file; returns its path."""
    write_toml(path, asdict(config))
    return path


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """A copy of the weights as they are."""
    return {k: v.clone() for k, v in trainer.network.state_dict().items()}


def records(trainer: Trainer) -> list[dict[str, Any]]:
    """The lines of the log."""
    return [json.loads(line) for line in (trainer.out / "log.jsonl").read_text().splitlines()]
