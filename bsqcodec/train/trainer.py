"""Training: rate + lambda distortion with the prior in the loop; I, P and B frames and all qualities in one network.

Between two reports the host waits for nothing of the device: it draws what is random, has pixels cut there, and leaves
measures there. On a GPU a step is one CUDA graph, from the pixels to the average of the weights: one for images and one
for each order of a sequence, for each number of active coefficients. What is random, and the learning rate, are tensors
that a graph reads. The vectors of a sequence are none of its work: they are searched between source frames, so once for
a pair of frames and not once a step.
"""

import copy
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Hashable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.func import functional_call

from ..errors import BsqError
from ..gop.motion import BLOCK, TAPS
from ..gop.quality import P_OFFSETS
from ..model_files import find_file
from ..network.config import ModelConfig
from ..network.cuda_graphs import Graphs
from ..network.layers import bf16_is_fast
from ..network.losses import st_lpips
from ..network.objective import evenly, measure
from ..network.quantiser import log2_step
from ..network.unrounded import Mat, Norm, Unrounded, initialise, karhunen_loeve
from ..network.weights import read_network, save_model
from ..settings import TUNES
from .config import BANDS, TrainConfig
from .data import Incoming, load_images, load_videos, whole_strips
from .optimisers import Adam, Muon
from .sampler import Place, Sampler, on_device

log = logging.getLogger(__name__)
ALL_GRADED = 3  # frames of a sequence that all have gradients; of more, every second one: neighbours teach the same
COARSER_P = (0.0, 0.1, 0.2, 0.4)  # by which log2 of the steps of all P frames is above the I frame's, one of these,
# and by so much for each of the steps of quality that the encoder takes from one of them (order.py)
LOG2_STEP = float(log2_step(1) - log2_step(2))
COARSER_B = 0.9  # of a B frame's, at most
BOTH = 0.7  # share of the B frames that are predicted from the mean of both references; the others from one
STRIP_FRAMES = 7  # of strips that are cut from videos
TRANSFORM_TOKENS = 150_000  # that the transform is computed from, at most
MEASURES = ("cost", "bpp", "mse", "dssim", "colour", "border", "stlpips")
REPORT_SECONDS = 10.0
MOST_GRAPHS = 64  # they work in the same memory


def tap_table(device: torch.device) -> Tensor:
    """The filters of motion.py as matrices, (4, 16, 23): a row makes one pixel of a block, by the quarter pixel."""
    table = torch.zeros(4, BLOCK, BLOCK + 7)
    for fraction, taps in enumerate(TAPS):
        for i in range(BLOCK):
            table[fraction, i, i : i + 8] = torch.tensor(taps) / 64
    return table.to(device)


def predict(reference: Tensor, vectors: Tensor, taps: Tensor) -> Tensor:
    """`motion.compensate` for whole blocks, without waits for the device.

    reference: float32 (B, 3, H, W) holding integers 0..255; taps: `tap_table`.
    """
    b, c, h, w = reference.shape
    _, rows, columns, _ = vectors.shape
    device = reference.device
    v = vectors.long()
    span = torch.arange(BLOCK + 7, device=device) - 3
    y = torch.arange(rows, device=device)[:, None] * BLOCK + (v[..., 0] >> 2)
    x = torch.arange(columns, device=device) * BLOCK + (v[..., 1] >> 2)
    y, x = (y[..., None] + span).clamp(0, h - 1), (x[..., None] + span).clamp(0, w - 1)
    index = (y[..., :, None] * w + x[..., None, :]).reshape(b, 1, -1).expand(-1, c, -1)
    p = reference.flatten(2).gather(2, index).view(b, c, rows, columns, BLOCK + 7, BLOCK + 7)
    out = torch.einsum("bruik,bcrukl,brujl->bcriuj", taps[v[..., 0] & 3], p, taps[v[..., 1] & 3])
    return (out.reshape(b, c, h, w) + 0.5).floor().clamp(0, 255)


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
    """One run, from its data to its checkpoints. `sampler` stands for the configuration's data if that is loaded."""

    def __init__(self, config: TrainConfig, sampler: Sampler | None = None):
        self.config = config
        torch.manual_seed(config.seed)
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = choose_device(config.device)
        if self.world > 1:
            torch.distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.sampler = sampler or load_data(config, self.device)
        self.incoming = Incoming(config.incoming, config.crop, config.frames) if config.incoming else None
        self.images, self.sequences = config.images, config.sequences
        self.orders = [tuple(Place(place[0], tuple(place[1:])) for place in order) for order in config.orders]
        self.network = Unrounded(config.model).to(self.device)
        self.dtype = torch.bfloat16 if bf16_is_fast(self.device) else torch.float32
        self.taps = tap_table(self.device)
        self.step = 0
        self.elapsed = 0.0  # seconds
        self.trained = dict(self.network.named_parameters())
        # What products take is a copy in their type, made once a step; it has the gradients of all frames of the step.
        copied = {m.w for m in self.network.modules() if isinstance(m, Mat | Norm)}
        self.working = {
            k: p.detach().to(self.dtype, copy=True).requires_grad_() if p in copied else p
            for k, p in self.trained.items()
        }
        self.optimisers = self.make_optimisers()
        if self.checkpoint.exists():
            self.average: dict[str, Tensor] = {}
            self.load()
        else:
            self.start()
            self.average = {k: p.detach().clone() for k, p in self.trained.items()}
        self.graphs = Graphs(MOST_GRAPHS, trials=0, shared=True)
        self.pending: list[tuple[dict, Tensor]] = []  # measures that lie on the device still
        self.stop = False  # set by SIGTERM

    def start(self) -> None:
        """Weights to begin with, the same in all processes."""
        c = self.config
        if c.start:
            network, _ = read_network(find_file(c.start))
            if replace(network.config, name="") != replace(c.model, name=""):
                raise BsqError(f"{c.start} is a model of another architecture")
            self.network.load_state_dict(network.state_dict())
        else:
            rng = np.random.default_rng([c.seed, 1 << 40])
            crops = min(4 * len(self.sampler.photos), math.ceil(TRANSFORM_TOKENS / (c.crop // BLOCK) ** 2))
            variance, basis = karhunen_loeve(self.sampler.plain(rng, crops, c.crop))
            initialise(self.network, basis, variance)
        if self.world > 1:
            for t in self.network.state_dict().values():
                torch.distributed.broadcast(t, 0)

    def make_optimisers(self) -> list[Muon | Adam]:
        """Muon for matrices between dense activations; layers that see bits, heads and all else suit Adam."""
        c, sparse = self.config, self.network.sparse()
        matrices = {m.w for m in self.network.modules() if isinstance(m, Mat)} - sparse
        parameters = self.trained.values()
        return [
            Muon([p for p in parameters if p in matrices], c.muon_lr),
            Adam([p for p in parameters if p not in matrices], c.adam_lr),
        ]

    def progress(self) -> float:
        """How much of the run is over, 0..1."""
        c = self.config
        return min(1.0, self.step / c.steps if c.steps else self.elapsed / (60 * c.minutes))

    def learning_rate(self) -> float:
        """What the rates of all optimisers are multiplied by."""
        c = self.config
        return min(1.0, (self.step + 1) / c.warmup) * min(1.0, (1 - self.progress()) / c.decay + 0.005)

    def train_step(self) -> None:
        """One step: images or sequences, of qualities of one band."""
        c = self.config
        shared = np.random.default_rng([c.seed, self.step, 0])  # all processes draw the same
        rng = np.random.default_rng([c.seed, self.step, 1, self.rank])
        low, high, active = BANDS[shared.choice(len(BANDS), p=np.array(c.share) / sum(c.share))]
        sequences = self.sequences > 0 and (self.step % 2 == 0 or not self.images)
        n = self.sequences if sequences else self.images
        level = rng.uniform(low, high, n)
        tune = self.on_device((rng.random(n) < c.psnr).astype(np.float32))
        averaged = min(c.ema, (self.step + 1) / (self.step + 21))
        schedule = self.on_device(np.array([self.learning_rate(), 1 - averaged]))
        if not sequences:
            types = "I"
            x = [self.sampler.crops(rng, n, c.crop), self.on_device(level)]
            sums = self.run_step(self.image_step, active, schedule, tune, *x)
        else:
            order = self.orders[int(shared.integers(len(self.orders)))]
            first = int(shared.integers(2))  # frame with a gradient, if not all have one
            graded = tuple(len(order) <= ALL_GRADED or a % 2 == first for a in range(len(order)))
            types = "".join("IPB"[len(place.references)] for place, has in zip(order, graded) if has)
            frames, vectors = self.sampler.sequences(rng, n, c.crop, order)
            x = [frames, *self.draw_sequences(rng, order, level, high), *vectors.values()]
            sums = self.run_step(self.sequence_step, active, schedule, tune, *x, order=order, graded=graded)
        row = {"step": self.step + 1, "elapsed": round(self.elapsed, 1), "active": active}
        self.pending += [(row | {"type": t}, s) for t, s in zip(types, sums)]

    def run_step(self, step: Callable[..., list[Tensor]], active: int, *x: Tensor, **fixed: Hashable) -> list[Tensor]:
        """A step; as a graph, if one of the same `active` and `fixed` was done before."""
        if self.world > 1:  # gradients go from one process to another by calls that are in no graph
            return step(active, *x, **fixed)
        key = step.__name__, active, *fixed.values()
        return self.graphs.run(key, partial(step, active, **fixed), *x)

    def image_step(self, active: int, schedule: Tensor, tune: Tensor, source: Tensor, level: Tensor) -> list[Tensor]:
        """Learn from a batch of images. Returns the measures, as `loss`; level: log2 of the quantiser steps, (n,)."""
        self.copy_weights()
        loss, sums, _ = self.loss(source, level, tune, None, None, active)
        loss.backward()
        self.update(schedule)
        return [sums]

    def draw_sequences(
        self, rng: np.random.Generator, order: tuple[Place, ...], level: np.ndarray, high: float
    ) -> tuple[Tensor, Tensor]:
        """Of each frame of a batch of sequences: log2 of its quantiser step, and what says how a B frame is predicted;
        (frames, n) both.

        Half of the sequences have P frames of changing quality, as the encoder codes them.

        level: log2 of the quantiser steps of the I frames, (n,); high: the most that it may be.
        """
        n = len(level)
        coarser, first = rng.choice(COARSER_P, n), rng.integers(len(P_OFFSETS))
        swing = LOG2_STEP * rng.integers(2, size=n)
        more = np.zeros((len(order), n))
        for a, place in enumerate(order):
            if len(place.references) == 1:
                more[a] = coarser + swing * P_OFFSETS[(first + a) % len(P_OFFSETS)]
            elif place.references:
                more[a] = COARSER_B * rng.random(n)
        return self.on_device(np.minimum(level + more, high)), self.on_device(rng.random((len(order), n)))

    def sequence_step(
        self, active: int, schedule: Tensor, tune: Tensor, frames: Tensor, log2_steps: Tensor, which: Tensor,
        *vectors: Tensor, order: tuple[Place, ...], graded: tuple[bool, ...],
    ) -> list[Tensor]:  # fmt: skip
        """Learn from a batch of sequences, frame by frame: each is predicted from decoded ones, without a gradient.

        frames, vectors: those of `Sampler.sequences`; log2_steps, which: those of `draw_sequences`; graded: the frames
        whose loss counts. Returns the measures of each of these.
        """
        self.copy_weights()
        decoded: list[Tensor] = []
        measures, fields = [], iter(vectors)
        for a, place in enumerate(order):
            options = [predict(decoded[b], next(fields), self.taps) for b in place.references]
            prediction = options[0] if options else None
            if len(options) == 2:
                some = which[a][:, None, None, None]
                mean = ((options[0] + options[1] + 1) * 0.5).floor()
                one = torch.where(some < (1 + BOTH) / 2, options[0], options[1])
                prediction = torch.where(some < BOTH, mean, one)
            b_frame = torch.full_like(tune, float(len(options) == 2))
            x = frames[:, a].float(), log2_steps[a], tune, prediction, b_frame, active
            if graded[a]:
                loss, sums, pixels = self.loss(*x)
                loss.backward()
                measures.append(sums)
            else:
                pixels = self.network.reconstruct(*x, dtype=self.dtype)
            decoded.append(pixels.round().clamp(0, 255))
        self.update(schedule)
        return measures

    def loss(
        self, source: Tensor, log2_step: Tensor, tune: Tensor, prediction: Tensor | None, b_frame: Tensor | None,
        active: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """The loss of a batch of frames; the sums of `MEASURES` over the samples of each tune, and the number of these,
        (8, 2); and the decoded frames, as `Unrounded.forward` has them, without a gradient.

        The arguments are those of `Unrounded.forward`.
        """
        o, predicted = self.config.objective, prediction is not None
        x = source, log2_step, tune, prediction, b_frame, active
        decoded, rate = functional_call(self.network, self.working, x, {"soft": True, "dtype": self.dtype})
        m = measure(decoded, source)
        perceived = torch.zeros_like(rate)
        if o.stlpips and not predicted:
            # its network takes long: it sees a third of the pictures, which count three times
            n = max(1, len(source) // 3)
            far = st_lpips(decoded[-n:].clamp(0, 255), source[-n:]) * (len(source) / n)
            perceived = torch.cat([perceived[n:], far])
        cost = rate + o.distortion(m, log2_step, tune, predicted, perceived)
        cost = evenly(log2_step) * cost
        tunes = torch.stack([1 - tune, tune], 1)
        measures = torch.stack([cost, rate, *m, perceived]).detach()
        sums = torch.cat([measures @ tunes, tunes.sum(0, keepdim=True)])
        return cost.mean(), sums, decoded.detach()

    @torch.no_grad()
    def copy_weights(self) -> None:
        """Begin a step: what products take follows the weights."""
        torch._foreach_copy_(list(self.working.values()), list(self.trained.values()))

    def update(self, schedule: Tensor) -> None:
        """One step of the optimisers, and of the average. What is not a number in a gradient counts as 0.

        schedule: what the learning rates are multiplied by, and how far the average goes towards the weights, (2,).
        """
        by_type: dict[torch.dtype, dict[str, Tensor]] = {}
        for k, p in self.working.items():
            if p.grad is not None:
                by_type.setdefault(p.dtype, {})[k] = p.grad
        names = [k for several in by_type.values() for k in several]
        flat = torch.cat([torch.cat([g.flatten() for g in several.values()]).float() for several in by_type.values()])
        flat = torch.nan_to_num_(flat, 0.0, 0.0, 0.0)
        if self.world > 1:
            torch.distributed.all_reduce(flat)
            flat /= self.world
        flat *= (self.config.clip / flat.norm().clamp(min=1e-9)).clamp(max=1)
        for k, gradient in zip(names, flat.split([self.trained[k].numel() for k in names])):
            self.working[k].grad, self.trained[k].grad = None, gradient.view_as(self.trained[k])
        for o in self.optimisers:
            o.step(schedule[0])
            o.zero_grad(set_to_none=True)
        with torch.no_grad():
            averages = list(self.average.values())
            further = torch._foreach_sub(list(self.trained.values()), averages)
            torch._foreach_mul_(further, schedule[1])
            torch._foreach_add_(averages, further)

    def on_device(self, values: np.ndarray) -> Tensor:
        return on_device(self.device, values)

    def state(self) -> dict:
        return {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimisers": [o.state_dict() for o in self.optimisers],
            "step": self.step,
            "elapsed": self.elapsed,
            "model": self.config.model.to_dict(),
        }

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    @property
    def model_path(self) -> Path:
        return self.out / f"{self.config.model.name}.safetensors"

    def save(self) -> None:
        """Beside, then rename: a full disk or a kill leaves the last checkpoint whole."""
        if self.rank:
            return
        averaged = copy.deepcopy(self.network)
        averaged.load_state_dict(self.network.state_dict() | self.average)
        averaged = averaged.to("cpu")
        writers: list[tuple[Path, Callable[[Path], object]]] = [
            (self.checkpoint, lambda path: torch.save(self.state(), path)),
            (self.model_path, lambda path: save_model(averaged, path, self.config.objective)),
        ]
        for path, write in writers:
            partial = path.with_suffix(".partial")
            try:
                write(partial)
                os.replace(partial, path)
            except (OSError, RuntimeError, SafetensorError) as e:
                raise BsqError(f"cannot write {path}: {e}; the one before is kept") from e
            finally:
                partial.unlink(missing_ok=True)

    def load(self) -> None:
        """Go on from the checkpoint."""
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
        self.average = state["average"]
        for o, s in zip(self.optimisers, state["optimisers"]):
            o.load_state_dict(s)
        self.step, self.elapsed = state["step"], state["elapsed"]

    def run(self) -> None:
        """Train until the run is over, or until SIGTERM; then save."""
        c = self.config
        previous = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stop", True))
        tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        saved = told = last = time.monotonic()
        try:
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
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
            signal.signal(signal.SIGTERM, previous)

    def halve(self, error: Exception) -> None:
        """Go on with half the batch after a step that found no memory. Raises BsqError if it is one image already."""
        if self.images <= 1 and self.sequences <= 1:
            raise BsqError(f"{self.device} has too little memory for one image a step: {error}") from error
        self.images, self.sequences = ((n + 1) // 2 for n in (self.images, self.sequences))
        for p in [*self.trained.values(), *self.working.values()]:
            p.grad = None
        self.graphs.clear()
        torch.cuda.empty_cache()
        log.warning("out of memory: on with %d images or %d sequences a step", self.images, self.sequences)

    def take_up(self) -> None:
        """Train on what has come since the last call, too."""
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
        """Fetch the measures since the last report: lines for the log, and one on standard error.

        Raises BsqError if no cost among them is a number: the networks are then beyond repair.
        """
        if not self.pending:
            return
        every = torch.stack([sums for _, sums in self.pending]).double().cpu().numpy()
        rows = [row for row, _ in self.pending]
        self.pending = []
        with open(self.out / f"log{self.rank or ''}.jsonl", "a") as out:
            for row, sums in zip(rows, every):
                for i, tune in enumerate(TUNES):
                    if count := sums[-1, i]:
                        means = [round(x, 5) if math.isfinite(x) else None for x in sums[:-1, i] / count]
                        line = row | {"tune": tune, "samples": int(count)} | dict(zip(MEASURES, means))
                        out.write(json.dumps(line) + "\n")
        bad = sorted({row["step"] for row, sums in zip(rows, every) if not np.isfinite(sums).all()})
        if len(bad) == len({row["step"] for row in rows}):
            raise BsqError(f"the loss is not a number at step {bad[0]}; the last checkpoint is kept")
        if bad:
            log.warning("the loss is not a number at %d steps, the first of which is %d", len(bad), bad[0])
        if not self.rank:
            print(self.line(rows, np.nan_to_num(every)), file=sys.stderr, flush=True)

    def line(self, rows: list[dict], every: np.ndarray) -> str:
        """Where the run is, and rate, PSNR and MS-SSIM of the last steps, by frame type; their MSE is averaged."""
        parts = [f"step {self.step}, {100 * self.progress():.0f} %, {self.elapsed / 60:.1f} min"]
        for frame_type in "IPB":
            chosen = every[[row["type"] == frame_type for row in rows]].sum((0, 2))
            if chosen[-1]:
                m = dict(zip(MEASURES, chosen[:-1] / chosen[-1]))
                psnr = 10 * math.log10(255**2 / max(m["mse"], 1e-3))
                similarity = -10 * math.log10(max(m["dssim"], 1e-6))
                parts.append(
                    f"{frame_type} cost {m['cost']:.3f} {m['bpp']:.3f} bpp {psnr:.2f} dB MS-SSIM {similarity:.2f} dB"
                )
        return ", ".join(parts)


def choose_device(name: str) -> torch.device:
    """The device of that name; under torchrun each process has a GPU of its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise BsqError("the configuration asks for a GPU, and there is none: set device to cpu or auto")
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return torch.device(name)


def train(path: str, minutes: float | None = None, until: float | None = None) -> str:
    """Run a configuration, or go on with it. Returns a line that says what came of it.

    minutes: in place of the configuration's. until: the time at which to end, in seconds since 1970, in their place.

    The folder `out` then holds config.json, log.jsonl (a line for each step, frame and tune: means over the samples),
    checkpoint.pt, and MODEL.safetensors, the averaged weights ready to code with.
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
