"""What a step of training costs, counted and not timed: operations, bytes, kernels, and the least time on a GPU.

    python benchmarks/steps.py [--images 128 --sequences 40] [--tflops 790 --tbytes 3.0 --microseconds 2]

For the default sizes, and for all widths doubled (more than `ModelConfig` allows: their sums could pass what float32
holds). A step is run on the CPU with three and with six crops; what it costs grows linearly with them. Every operation
counts as a kernel that reads its arguments and writes its results once; on a GPU a few are two or three.
"""

import argparse
import tempfile
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from skimage import data
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from bsqcodec.network.config import ModelConfig
from bsqcodec.network.unrounded import Unrounded
from bsqcodec.train import trainer
from bsqcodec.train.config import CHAIN, ORDERS, TrainConfig
from bsqcodec.train.sampler import Sampler

# sizes of a model, which are doubled
WIDTHS = ("fine_width", "width", "prior_width", "prior_head")
STEPS = {"images": [[[0]]], "I P B": [ORDERS[1]], "chain of 11": [CHAIN]}


class Count(TorchDispatchMode):
    """Kernels, and the bytes that they read and write."""

    kernels = bytes = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = operation(*arguments, **(options or {}))
        read, written = ([t for t in tree_flatten(x)[0] if isinstance(t, torch.Tensor)] for x in (arguments, result))
        places = {t.untyped_storage().data_ptr() for t in read}
        in_place = operation.overloadpacket.__name__.endswith("_")
        if in_place or any(t.untyped_storage().data_ptr() not in places for t in written):  # else it is a view
            self.kernels += 1
            self.bytes += sum(t.numel() * t.element_size() for t in read + written)
        return result


def step(config: Any, name: str, n: int) -> np.ndarray:
    """Operations, bytes and kernels of a step, one of `STEPS`, with n crops of 256x256, 192 coefficients per token."""
    picture = np.concatenate([data.astronaut(), data.astronaut()[::-1]])
    strip = np.concatenate([picture[3 * t : 3 * t + 256, 2 * t : 2 * t + 256] for t in range(7)])
    sequences = name != "images"
    with tempfile.TemporaryDirectory() as folder, patch.object(trainer, "Unrounded", lambda _: Unrounded(config)):
        settings = TrainConfig(
            images=0 if sequences else n, sequences=n if sequences else 0, orders=STEPS[name], share=[1.0, 0.0, 0.0],
            out=folder, device="cpu",
        )  # fmt: skip
        run = trainer.Trainer(settings, Sampler([picture], [strip]))
        run.train_step()  # which searches the vectors of its frames
        with Count() as count, FlopCounterMode(display=False) as operations:
            run.train_step()
    return np.array([operations.get_total_flops(), count.bytes, count.kernels], dtype=float)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--sequences", type=int, default=40)
    parser.add_argument("--tflops", type=float, default=790, help="of products in bfloat16")
    parser.add_argument("--tbytes", type=float, default=3.0, help="terabytes per second of the memory")
    parser.add_argument("--microseconds", type=float, default=2, help="a kernel takes, at least")
    options = parser.parse_args()
    sizes = asdict(ModelConfig())
    print(f"{'':24}{'parameters':>12}{'TFLOP':>8}{'GB':>8}{'kernels':>9}{'ms of each':>20}{'sum, ms':>9}")
    for factor in (1, 2):
        config: Any = SimpleNamespace(**sizes | {name: factor * sizes[name] for name in WIDTHS})
        parameters = sum(p.numel() for p in Unrounded(config).parameters()) / 1e6
        for name in STEPS:
            n = options.images if name == "images" else options.sequences
            few, more = step(config, name, 3), step(config, name, 6)  # ST-LPIPS sees every third
            operations, size, kernels = few + (n - 3) / 3 * (more - few)
            times = operations / options.tflops / 1e9, size / options.tbytes / 1e9, kernels * options.microseconds / 1e3
            each = " + ".join(f"{t:.0f}" for t in times)
            label = f"{n} {name}, widths x {factor}"
            print(
                f"{label:28}{parameters:6.1f} M{operations / 1e12:9.2f}{size / 1e9:8.1f}{kernels:9.0f}"
                f"{each:>20}{sum(times):9.0f}", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
