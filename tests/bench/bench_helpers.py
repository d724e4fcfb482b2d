"""What several tests of the benchmark need."""

from pathlib import Path

import click
import numpy as np
from click.testing import CliRunner

from bsqcodec.bench import anchors, datasets, runner
from bsqcodec.bench.codec import BenchSettings
from bsqcodec.bench.command import bench, compare
from bsqcodec.errors import BsqError


def noisy(image: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 255).round().astype(np.uint8)


def run(*arguments) -> tuple[int, str]:
    """Exit status and all output; a BsqError is status 1 and one line, as the program makes it."""
    try:
        group = click.Group(commands={"bench": bench, "compare": compare})
        result = CliRunner().invoke(group, [str(a) for a in arguments], catch_exceptions=False)
    except BsqError as error:
        return 1, str(error)
    return result.exit_code, result.output


def simple_tasks(folder: Path, points=(10, 90)) -> list[runner.Task]:
    listing = datasets.load(str(folder))
    codecs, _ = anchors.select(["jpeg", "identity"], BenchSettings())
    return runner.tasks_for(listing.items, codecs, {"jpeg": points}, ("psnr",), 1, 1)
