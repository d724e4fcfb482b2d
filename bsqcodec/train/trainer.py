"""Training: rate + lambda distortion with the prior in the loop; I, P and B frames and all qualities in one network.

Between two reports the host waits for nothing of the device: it draws what is random, has pixels cut there, and leaves
measures there. The vectors of a sequence are no work of a step: they are searched between source frames, so once for
each pair of frames and not in every step.
"""

import contextlib
import copy
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from ..errors import BsqError
from ..gop.motion import BLOCK
from ..model_files import find_file
from ..network.config import ModelConfig
from ..network.initialise import initialise, karhunen_loeve
from ..network.saving import read_network, save_model
from ..network.unrounded import Unrounded
from ..network.weights import device_of
from ..output import replacing
from .config import BANDS, TrainConfig
from .data import Incoming, load_images, load_videos, whole_strips
from .measure_log import MeasureLog
from .parameters import Parameters
from .qualities import draw_quantiser_steps
from .sampler import Sampler, SequenceFrame
from .steps import Steps

log = logging.getLogger(__name__)
MAX_ALL_GRADED = 3  # frames of a sequence that all get gradients; of more, every second: neighbours teach the same
STRIP_FRAMES = 7  # least number of frames of strips that are cut from videos
TRANSFORM_TOKENS = 150_000  # largest number of tokens that the transform is computed from
REPORT_SECONDS = 10.0  # from one report to the next
LAST_RATE = 0.005  # the learning rate at the end of the run, as a part of its largest
YOUNG_AVERAGE = 20  # steps after which an average of all steps begins to span as many as `ema` says


def load_data(config: TrainConfig, device: torch.device) -> Sampler:
    """The photographs and strips of a configuration. Raises BsqError where there are none."""
    photos = load_images(config.photos, config.crop)
    strips = load_images(config.strips, config.crop) if config.strips else []
    if config.videos:
        strips += load_videos(config.videos, config.crop, max(config.frames, STRIP_FRAMES))
    whole = whole_strips(strips, config.frames)
    log.info("%d photographs, %d strips", len(photos), len(whole))
    return Sampler(photos, whole, device)


class Trainer:
    """One run, from its data to its checkpoints.

    It goes on from the checkpoint in the folder `config.out`, if there is one. Under torchrun it is one of several
    processes, which train one network on samples of their own.

    Args:
        config: what to train, and for how long.
        sampler: the configuration's data, if that is loaded.

    Attributes:
        network, parameters, steps: what is trained, how its weights change, and what a training step computes.
        step, elapsed: steps and seconds so far, those before the checkpoint included.
        images, sequences: samples per step; halved when memory runs out.
        measures: the log.
        stop: whether to end after the step under way; set by SIGTERM.

    Raises BsqError for data, a checkpoint, a model to start from or a device that is missing or unfit.
    """

    def __init__(self, config: TrainConfig, sampler: Sampler | None = None):
        self.config = config
        torch.manual_seed(config.seed)
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = process_device(config.device)
        if self.world > 1:
            torch.distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.sampler = sampler or load_data(config, self.device)
        self.incoming = Incoming(config.incoming, config.crop, config.frames) if config.incoming else None
        self.images, self.sequences = config.images, config.sequences
        self.orders = [tuple(SequenceFrame(f[0], tuple(f[1:])) for f in order) for order in config.orders]
        self.network = Unrounded(config.model).to(self.device)
        resumed = self.checkpoint.exists()
        if not resumed:
            self.start()
        self.parameters = Parameters(self.network, config, self.world)
        self.steps = Steps(self.network, self.parameters, config.objective)
        self.step = 0
        self.elapsed = 0.0
        if resumed:
            self.load()
        self.measures = MeasureLog(self.out / f"log{self.rank or ''}.jsonl")
        self.stop = False

    def start(self) -> None:
        """Give the network the weights to begin with, the same in all processes."""
        c = self.config
        if c.start:
            network, _ = read_network(find_file(c.start))
            if replace(network.config, name="") != replace(c.model, name=""):
                raise BsqError(f"{c.start} is a model of another architecture")
            self.network.load_state_dict(network.state_dict())
        else:
            rng = np.random.default_rng([c.seed, 1 << 40])  # apart from those of all steps
            crops = min(4 * len(self.sampler.photos), math.ceil(TRANSFORM_TOKENS / (c.crop // BLOCK) ** 2))
            variance, basis = karhunen_loeve(self.sampler.plain(rng, crops, c.crop))
            initialise(self.network, basis, variance)
        if self.world > 1:
            for t in self.network.state_dict().values():
                torch.distributed.broadcast(t, 0)

    def progress(self) -> float:
        """Part of the run that is over, 0..1."""
        c = self.config
        return min(1.0, self.step / c.steps if c.steps else self.elapsed / (60 * c.minutes))

    def learning_rate(self) -> float:
        """Factor of the learning rates of all optimisers at this step, 0..1."""
        c = self.config
        return min(1.0, (self.step + 1) / c.warmup) * min(1.0, (1 - self.progress()) / c.decay + LAST_RATE)

    def train_step(self) -> None:
        """Run one training step on images or sequences, of qualities of one band."""
        c = self.config
        shared = np.random.default_rng([c.seed, self.step, 0])  # all processes draw the same
        rng = np.random.default_rng([c.seed, self.step, 1, self.rank])
        low, high, active = BANDS[shared.choice(len(BANDS), p=np.array(c.share) / sum(c.share))]
        sequences = self.sequences > 0 and (self.step % 2 == 0 or not self.images)
        n = self.sequences if sequences else self.images
        level = rng.uniform(low, high, n)
        on_device = self.sampler.on_device
        tune = on_device((rng.random(n) < c.psnr).astype(np.float32))
        averaged = min(c.ema, (self.step + 1) / (self.step + 1 + YOUNG_AVERAGE))
        schedule = on_device(np.array([self.learning_rate(), 1 - averaged]))
        if not sequences:
            frame_types = "I"
            x = [self.sampler.crops(rng, n, c.crop), on_device(level)]
            sums = self.steps.run(self.steps.images, active, schedule, tune, *x)
        else:
            order = self.orders[int(shared.integers(len(self.orders)))]
            first = int(shared.integers(2))  # frame with a gradient, if not all have one
            graded = tuple(len(order) <= MAX_ALL_GRADED or a % 2 == first for a in range(len(order)))
            frame_types = "".join("IPB"[len(f.references)] for f, has in zip(order, graded, strict=True) if has)
            frames, vectors = self.sampler.sequences(rng, n, c.crop, order)
            log2_steps = on_device(draw_quantiser_steps(rng, order, level, high))
            x = [frames, log2_steps, on_device(rng.random((len(order), n))), *vectors.values()]
            sums = self.steps.run(self.steps.sequences, active, schedule, tune, *x, order=order, graded=graded)
        row = {"step": self.step + 1, "elapsed": round(self.elapsed, 1), "active": active}
        self.measures.add(row, frame_types, sums)

    @property
    def checkpoint(self) -> Path:
        """The file that a run goes on from."""
        return self.out / "checkpoint.pt"

    @property
    def model_path(self) -> Path:
        """The model file: the averaged weights, ready to code with."""
        return self.out / f"{self.config.model.name}.safetensors"

    def state(self) -> dict[str, Any]:
        """The contents of a checkpoint."""
        return {
            "network": self.network.state_dict(),
            "average": self.parameters.average,
            "optimisers": [o.state_dict() for o in self.parameters.optimisers],
            "step": self.step,
            "elapsed": self.elapsed,
            "model": self.config.model.to_dict(),
        }

    def save(self) -> None:
        """Write checkpoint and model file; the first of several processes does it.

        Raises BsqError if they cannot be written: those before are then still there.
        """
        if self.rank:
            return
        averaged = copy.deepcopy(self.network)
        averaged.load_state_dict(self.network.state_dict() | self.parameters.average)
        with _one_line(self.checkpoint), replacing(self.checkpoint) as part, open(part, "wb") as file:
            torch.save(self.state(), file)
        with _one_line(self.model_path):
            save_model(averaged.to("cpu"), self.model_path, self.config.objective)

    def load(self) -> None:
        """Go on from the checkpoint. Raises BsqError if it is damaged or of another architecture."""
        path = self.checkpoint
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as e:
            raise BsqError(f"{path} is not a readable checkpoint") from e
        try:
            if ModelConfig.from_dict(state["model"]) != self.config.model:
                raise ValueError
            self.network.load_state_dict(state["network"])
        except (KeyError, ValueError, RuntimeError):
            raise BsqError(f"{path} is a checkpoint of another architecture") from None
        self.parameters.average = state["average"]
        for o, s in zip(self.parameters.optimisers, state["optimisers"], strict=True):
            o.load_state_dict(s)
        self.step, self.elapsed = state["step"], state["elapsed"]

    def run(self) -> None:
        """Train until the run is over, or until SIGTERM; then save.

        Raises BsqError where memory does not suffice for one sample, the loss is not a number, or a file cannot be
        written.
        """
        c = self.config
        previous = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stop", True))
        saved = told = last = time.monotonic()
        try:
            with _tf32():
                while self.progress() < 1 and not self.stopped():
                    try:
                        self.train_step()
                    except torch.cuda.OutOfMemoryError as e:
                        self.halve(e)
                        continue
                    self.step += 1
                    now = time.monotonic()
                    self.elapsed += now - last
                    last = now
                    due = now - saved > 60 * c.checkpoint_minutes
                    if due or now - told > REPORT_SECONDS or self.step == 1:
                        self.report()
                        self.take_up()
                        told = now
                    if due:
                        self.save()
                        saved = last = time.monotonic()
                self.report()
                self.save()
        finally:
            signal.signal(signal.SIGTERM, previous)

    def halve(self, error: Exception) -> None:
        """Go on with half the batch after a step that found no memory. Raises BsqError if it is one image already."""
        if self.images <= 1 and self.sequences <= 1:
            raise BsqError(f"{self.device} has too little memory for one image per step: {error}") from error
        self.images, self.sequences = ((n + 1) // 2 for n in (self.images, self.sequences))
        self.parameters.forget_gradients()
        self.steps.graphs.clear()
        torch.cuda.empty_cache()
        log.warning("out of memory: on with %d images or %d sequences a step", self.images, self.sequences)

    def take_up(self) -> None:
        """Train on the data that came into the folder `config.incoming` since the last call, too."""
        if self.incoming:
            photos, strips = self.incoming.arrived()
            if photos or strips:
                self.sampler.extend(photos, strips)
                log.info("on with %d photographs, %d strips", len(self.sampler.photos), len(self.sampler.lengths))

    def stopped(self) -> bool:
        """Whether to end now: by a signal, or because the time is over. All processes agree."""
        stop = self.stop or self.elapsed >= 60 * self.config.minutes
        if self.world > 1:
            flag = torch.tensor([float(stop), self.elapsed], device=self.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            stop, self.elapsed = bool(flag[0]), float(flag[1])
        return stop

    def report(self) -> None:
        """Write the measures since the last report to the log, and a line on where the run is to standard error."""
        phrases = self.measures.write()
        if phrases and not self.rank:
            where = f"step {self.step}, {100 * self.progress():.0f} %, {self.elapsed / 60:.1f} min"
            print(", ".join([where, *phrases]), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turns any error of writing a file into a BsqError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as e:
        raise BsqError(f"cannot write {path}: {e}; the one before is kept") from e


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    """Allows TF32 in products of float32 on a GPU; what was allowed before holds again afterwards."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def process_device(name: str) -> torch.device:
    """The device that a configuration names; under torchrun each process has a GPU of its own.

    Raises BsqError if it is not there.
    """
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise BsqError("the configuration asks for a GPU, and there is none: set device to cpu or auto")
    device = device_of(name)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return device


def train(path: str, minutes: float | None = None, until: float | None = None) -> str:
    """Run a configuration, or go on with it. Returns a line that says what came of it.

    The folder `out` of the configuration then holds config.json, log.jsonl (see `MeasureLog`), checkpoint.pt, and
    MODEL.safetensors, the averaged weights ready to code with.

    Args:
        path: of the configuration, a TOML file with the keys of `TrainConfig`.
        minutes: length of the run, in place of the configuration's.
        until: the time at which to end, in seconds since 1970, in place of both.

    Raises BsqError as `TrainConfig.from_toml`, `Trainer` and `Trainer.run`.
    """
    config = TrainConfig.from_toml(path)
    if minutes:
        config.minutes = minutes
    if config.threads:
        torch.set_num_threads(config.threads)
    trainer = Trainer(config)
    if until:
        config.minutes = (trainer.elapsed + until - time.time()) / 60
    if not trainer.rank:
        (trainer.out / "config.json").write_text(json.dumps(asdict(config), indent=1))
    trainer.run()
    if trainer.world > 1:
        torch.distributed.barrier()  # no process leaves while another still talks to it
        torch.distributed.destroy_process_group()
    return f"step {trainer.step}, {trainer.elapsed / 60:.1f} minutes: {trainer.model_path}"
