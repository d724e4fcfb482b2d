"""The log of a training run: the costs of its steps, as lines of JSON and as one line for the terminal."""

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BsqError
from ..settings import TUNES
from .steps import MEASURES

log = logging.getLogger(__name__)


class MeasureLog:
    """Collects the measures of steps. They stay on the device until `write`, so that no step waits for them.

    Args:
        path: of the log, a line of JSON for each step, frame and tune: means over the samples.

    Attributes:
        pending: of every frame since the last `write`: what tells it from others, and the sums of `Steps.loss`.
    """

    def __init__(self, path: Path):
        self.path = path
        self.pending: list[tuple[dict[str, Any], Tensor]] = []

    def add(self, row: dict[str, Any], frame_types: str, sums: Iterable[Tensor]) -> None:
        """Take the measures of a training step, told by `row`: `sums` of each frame, `frame_types` such as "IPB"."""
        self.pending += [(row | {"type": t}, s) for t, s in zip(frame_types, sums, strict=True)]

    def write(self) -> list[str]:
        """Append all pending measures to the log. Returns their summary, a phrase for each frame type.

        Raises BsqError if no cost among them is a number: the networks are then beyond repair.
        """
        if not self.pending:
            return []
        every = torch.stack([sums for _, sums in self.pending]).double().cpu().numpy()
        rows = [row for row, _ in self.pending]
        self.pending = []
        with open(self.path, "a") as out:
            for row, sums in zip(rows, every, strict=True):
                for i, tune in enumerate(TUNES):
                    if count := sums[-1, i]:
                        means = [round(x, 5) if math.isfinite(x) else None for x in sums[:-1, i] / count]
                        line = row | {"tune": tune, "samples": int(count)} | dict(zip(MEASURES, means, strict=True))
                        out.write(json.dumps(line) + "\n")
        bad = sorted({row["step"] for row, sums in zip(rows, every, strict=True) if not np.isfinite(sums).all()})
        if len(bad) == len({row["step"] for row in rows}):
            raise BsqError(f"the loss is not a number at step {bad[0]}; the last checkpoint is kept")
        if bad:
            log.warning("the loss is not a number at %d steps, the first of which is %d", len(bad), bad[0])
        return _summary([row["type"] for row in rows], np.nan_to_num(every))


def _summary(frame_types: list[str], every: np.ndarray) -> list[str]:
    """Cost, rate, PSNR and MS-SSIM of each frame type; PSNR and MS-SSIM are those of the mean error.

    every: the sums of each frame, (frames, 8, 2).
    """
    phrases = []
    for frame_type in "IPB":
        chosen = every[[t == frame_type for t in frame_types]].sum((0, 2))
        if chosen[-1]:
            m = dict(zip(MEASURES, chosen[:-1] / chosen[-1], strict=True))
            psnr = 10 * math.log10(255**2 / max(m["mse"], 1e-3))
            similarity = -10 * math.log10(max(m["dssim"], 1e-6))
            phrases.append(
                f"{frame_type} cost {m['cost']:.3f} {m['bpp']:.3f} bpp {psnr:.2f} dB MS-SSIM {similarity:.2f} dB"
            )
    return phrases
