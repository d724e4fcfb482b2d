"""Training: rate + lambda distortion with the prior in the loop, I and P frames, all qualities in one network."""

import json
import logging
import math
import os
import signal
import sys
import time
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from .config import ModelConfig
from .data import Sampler, load_images, load_videos
from .errors import BsqError
from .exact import KINDS, QUALITIES, ConditionTable, Linear, set_arithmetic, set_kinds
from .losses import Discriminator, st_lpips
from .model import find_file, read_network, save_model
from .motion import MOTION_LAMBDA, VECTOR_LAMBDA, compensate, find, mean, search
from .network import GRAY, Network, initialise
from .objective import Weights, cost, half_way, high, measure
from .order import DROP, Place, coding_order
from .tokenizer import TOKEN, to_pixels

log = logging.getLogger(__name__)
STLPIPS_SCALE = 700.0  # brings it to the mean squared error that it typically comes with
CHANGES = (-12, -6, 0, 0, 0, 4)  # by which an encoder changes the quality of P frames
ANY_LAMBDA = 8.0  # luma SAD that a bit of vectors may cost where one search serves all qualities
STLPIPS_SIDE = 96  # pixels of the window that it looks at: its network takes longer than ours


@dataclass
class TrainConfig:
    """One run. `photos` and `strips` are tar shards or folders of images, `videos` are folders of videos."""

    photos: list[str] = field(default_factory=list)
    strips: list[str] = field(default_factory=list)  # images of frames, square, one above the other
    videos: list[str] = field(default_factory=list)
    out: str = "runs/small"
    start: str = ""  # a packaged model or a model file to go on from; otherwise from nothing
    minutes: float = 30.0
    steps: int = 0  # if not 0, the schedule runs over so many steps and `minutes` only bounds the run
    seed: int = 0
    crop: int = 128
    late_crop: int = 128  # crop of the last `late` of the run
    late: float = 0.4
    images: int = 14  # samples a step; all are coded as I frames
    sequences: int = 5  # of which so many go on as P and B frames
    unroll: int = 3  # frames of a sequence
    mini_gops: list[int] = field(default_factory=lambda: [1, 4])  # of which a step draws; 1: no B frames
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    table_lr: float = 5e-3
    encoder_start: float = 0.4  # the encoder waits for decoder and prior until so much of the run is over
    encoder_muon_lr: float = 0.005  # lower than the others': its gradients are only straight-through
    encoder_adam_lr: float = 1e-4
    warmup: int = 50  # steps
    decay: float = 0.6  # the learning rate falls linearly over so much of the run
    ema: float = 0.998
    rounding: float = 0.5  # share of the run that trains with the integer arithmetic of inference
    bf16: float = 0.85  # so much of the run takes matrix products in bfloat16, the rest exactly as inference does
    msssim: float = 0.5  # share of the distortion; the rest is MSE
    stlpips: float = 0.0  # share of ST-LPIPS (AlexNet), up to quality 50
    adversarial: float = 0.0  # weight of a patch discriminator's judgement, for the perceptual profile
    adversarial_start: float = 0.6  # it joins when so much of the run is over
    fidelity: float = 1.0  # lambda at quality 100 is so many times what its step asks for, down to 1 at quality 50
    predicted: float = 1.0  # a P frame's distortion counts so much: what an I frame gets right, P frames inherit
    motion_lambda: float = MOTION_LAMBDA  # luma SAD that a bit of vectors may cost, in quantiser steps
    vector_lambda: float = VECTOR_LAMBDA  # squared error that it may cost in a choice of references, squared steps
    checkpoint_minutes: float = 3.0
    threads: int = 0  # of torch on the CPU; 0: torch's own choice
    device: str = "auto"  # the GPU if there is one; under torchrun each process takes one
    model: ModelConfig = field(default_factory=ModelConfig)

    @classmethod
    def from_toml(cls, path: str | Path) -> "TrainConfig":
        values = tomllib.loads(Path(path).read_text())
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise BsqError(f"{path}: unknown key: {', '.join(sorted(unknown))}")
        try:
            values["model"] = ModelConfig.from_dict(values.get("model", {}))
        except (TypeError, ValueError) as e:
            raise BsqError(f"{path}: {e}") from e
        config = cls(**values)
        if min(config.msssim, config.stlpips) < 0 or config.msssim + config.stlpips > 1:
            raise BsqError(f"{path}: msssim and stlpips are shares of the distortion and add up to at most 1")
        return config


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by Newton-Schulz steps (K. Jordan 2024, kellerjordan.github.io/posts/muon).

    The iteration runs in bfloat16, as in torch.optim.Muon: it need not be exact.
    """

    def __init__(self, groups: list[dict], momentum: float = 0.95):
        super().__init__(groups, {"momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(buffer, group["momentum"]))
                p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def orthogonalise(g: Tensor) -> Tensor:
    x = g.T if g.shape[0] > g.shape[1] else g
    x = (x / (x.norm() + 1e-9)).bfloat16()
    for _ in range(5):
        a = x @ x.T
        b = torch.addmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.addmm(x, b, x, beta=3.4445)
    return (x.T if g.shape[0] > g.shape[1] else x).to(g.dtype)


def load_data(config: TrainConfig, device: torch.device) -> Sampler:
    """The photographs and strips of a configuration. Raises BsqError where there are none."""
    photos = load_images(config.photos, max(config.crop, config.late_crop))
    strips = load_images(config.strips, config.late_crop) if config.strips else []
    strips += load_videos(config.videos, config.late_crop, config.unroll) if config.videos else []
    whole = [s for s in strips if s.shape[0] % s.shape[1] == 0 and s.shape[0] >= config.unroll * s.shape[1]]
    if len(whole) < len(strips):
        log.warning("%d strips have not %d square frames and are left out", len(strips) - len(whole), config.unroll)
    log.info("%d photographs, %d strips", len(photos), len(whole))
    return Sampler(photos, whole, device)


class Trainer:
    """One run, from its data to its checkpoints. `sampler` stands for the configuration's data if that is loaded."""

    def __init__(self, config: TrainConfig, sampler: Sampler | None = None):
        self.config = config
        torch.manual_seed(config.seed)
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        name = config.device
        if name == "auto":
            name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(name)
        if self.world > 1:
            torch.distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.sampler = sampler or load_data(config, self.device)
        self.network = Network(config.model).to(self.device)
        self.step = 0
        self.elapsed = 0.0
        self.discriminator = Discriminator().to(self.device) if config.adversarial else None
        self.optimisers = self.make_optimisers()
        self.trained = {k: p for k, p in self.network.named_parameters() if p.requires_grad}
        if self.checkpoint.exists():
            self.average: dict[str, Tensor] = {}
            self.load()
        else:
            self.start()
            self.average = {k: p.detach().clone() for k, p in self.trained.items()}
        self.stop = False  # set by SIGTERM

    def start(self) -> None:
        if self.config.start:
            network, _ = read_network(find_file(self.config.start))
            if replace(network.config, name="") != replace(self.config.model, name=""):
                raise BsqError(f"{self.config.start} is a model of another architecture")
            set_kinds(network, KINDS)
            self.network.load_state_dict(network.state_dict())
        else:
            initialise(self.network, *self.samples())

    def samples(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What a network is started from: photographs, and P frames with their references; (N, 3, S, S)."""
        rng = np.random.default_rng([self.config.seed, 1 << 40])
        photos = torch.stack([self.sampler.photo(rng, 256) for _ in range(400)])
        before, now = torch.stack([self.sampler.sequence(rng, 128, 2) for _ in range(200)], 1)
        reference = compensate(before, search(now, before, ANY_LAMBDA))
        return photos.float(), (now.float(), reference)

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        c, n = self.config, self.network
        table = [m.anchors for m in n.modules() if isinstance(m, ConditionTable)]
        # The transform stays as it was computed: its large coefficients would turn the smallest noise in its rows
        # into errors of many quantiser steps.
        transform = [n.encoder.analysis, n.decoder.synthesis.weight]
        for p in transform:
            p.requires_grad_(False)
        encoder = [p for p in n.encoder.parameters() if p.requires_grad]
        # layers that read bits see sparse inputs, heads write logits or pixels: Adam suits them
        sparse = [
            n.decoder.embed_bits,
            n.prior.previous,
            *n.prior.earlier,
            n.prior.within,
            n.prior.logits,
            n.decoder.out,
        ]
        sparse_weights = {m.weight for m in sparse} | {n.encoder.out.weight, n.encoder.widen.weight}
        hidden = [
            m.weight
            for m in n.modules()
            if isinstance(m, Linear | torch.nn.Linear)
            and m.weight not in sparse_weights
            and m is not n.decoder.synthesis
        ]
        special = set(table) | set(transform) | set(hidden) | set(encoder)
        slow = set(encoder)
        rest = [p for p in n.parameters() if p not in special]
        adam = torch.optim.Adam(
            [
                {"params": rest, "lr": c.adam_lr},
                {"params": [p for p in table if p not in slow], "lr": c.table_lr},
                {"params": [p for p in encoder if p not in set(hidden)], "lr": c.encoder_adam_lr},
            ],
            betas=(0.9, 0.98),
        )
        muon = Muon(
            [
                {"params": [p for p in hidden if p not in slow], "lr": c.muon_lr},
                {"params": [p for p in hidden if p in slow], "lr": c.encoder_muon_lr},
            ]
        )
        optimisers: list[torch.optim.Optimizer] = [muon, adam]
        if self.discriminator:
            optimisers.append(torch.optim.Adam(self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.9)))
        for o in optimisers:
            for g in o.param_groups:
                g["base"] = g["lr"]
        return optimisers

    def progress(self) -> float:
        c = self.config
        return min(1.0, self.step / c.steps if c.steps else self.elapsed / (60 * c.minutes))

    def learning_rate(self) -> float:
        c = self.config
        return min((self.step + 1) / c.warmup, 1.0, (1 - self.progress()) / c.decay + 1e-3)

    def batch(self, step: int, late: bool) -> Tensor:
        """uint8 (images, unroll, 3, S, S); only the first `sequences` have more than one distinct frame."""
        c = self.config
        rng = np.random.default_rng([c.seed, step, 0, self.rank])
        size = c.late_crop if late else c.crop
        scale = (c.crop / size) ** 2
        images, sequences = max(2, round(c.images * scale)), max(1, round(c.sequences * scale))
        rows = [self.sampler.sequence(rng, size, c.unroll) for _ in range(sequences)]
        rows += [self.sampler.photo(rng, size).expand(c.unroll, -1, -1, -1) for _ in range(images - sequences)]
        return torch.stack(rows)

    def loss(self, frame, reference, previous, condition) -> tuple[Tensor, Tensor, Tensor, dict]:
        """One frame of a batch. Returns loss, pixels and bits (both detached), and measures of each sample."""
        n, c = self.network, self.config
        with torch.set_grad_enabled(self.progress() >= c.encoder_start):
            bits = n.bits(frame, reference, condition)
        weights = Weights(c.msssim, c.fidelity, c.predicted)
        m, decoded = measure(n, bits, frame, reference, previous, condition, weights)
        shown, distortion = decoded.clamp(0, 255), m.distortion
        if c.stlpips:
            rng = np.random.default_rng([c.seed, self.step, 2, self.rank])
            y, x = (slice(i, i + STLPIPS_SIDE) for i in rng.integers(0, max(1, shown.shape[2] - STLPIPS_SIDE + 1), 2))
            perceived = st_lpips(shown[:, :, y, x], frame[:, :, y, x])
            # of coarse pictures only: from quality 50 on it gives way to the squared error
            share = c.stlpips * (1 - high(condition[1]))
            distortion = distortion + share * (STLPIPS_SCALE * perceived - m.mse)
        if self.discriminator and self.progress() >= c.adversarial_start:
            self.discriminator.requires_grad_(False)  # it does not learn from the decoder's gain
            distortion = distortion - c.adversarial * 100.0 * self.discriminator.realism(frame, shown)
            self.discriminator.requires_grad_(True)
            self.discriminator.loss(frame, shown.detach()).backward()
        total, fidelity = cost(n, m.bpp, distortion, condition, weights)
        # all qualities count alike, not by their rate
        weight = 1 / (0.1 + 0.13 * 255 / n.step(condition[1])) / fidelity.sqrt()
        loss = (weight * total).mean()
        if bits.requires_grad:
            loss = loss + (weight * half_way(bits, frame.shape[2] * frame.shape[3])).mean()
        measures = {"bpp": m.bpp, "mse": m.mse, "msssim": m.msssim, "cost": weight * total}
        return loss, to_pixels(decoded.detach() * 16), bits.detach(), {k: v.detach() for k, v in measures.items()}

    def train_step(self, batch: Tensor) -> dict:
        c = self.config
        rng = np.random.default_rng([c.seed, self.step, 1, self.rank])
        frames = batch.float()
        quality = torch.from_numpy(rng.integers(1, 101, len(batch))).to(self.device)
        kind = torch.zeros_like(quality)
        first = frames[:, 0]
        shape = (len(batch), first.shape[2] // TOKEN, first.shape[3] // TOKEN, c.model.bits)
        previous = torch.zeros(shape, device=self.device)
        loss, pixels, bits, m = self.loss(first, torch.full_like(first, GRAY), previous, (kind, quality))
        total = loss
        loss.backward()
        records = {"quality": quality.tolist(), "kind": kind.tolist(), **{k: v.tolist() for k, v in m.items()}}
        n = max(1, round(c.sequences * len(batch) / c.images))
        anchors, past_bits = {0: quality[:n].tolist()}, {0: bits[:n]}
        canvases = {0: pixels[:n].to(torch.uint8)}
        mini = int(np.random.default_rng([c.seed, self.step, 3]).choice(c.mini_gops))  # all processes draw the same
        for place in list(coding_order(c.unroll, mini))[1:]:
            if place.after is None:
                anchors[place.number] = np.clip(anchors[0] + rng.choice(CHANGES, n), 1, QUALITIES).tolist()
            assert place.before is not None
            qualities = [place.quality(anchor, DROP) for anchor in anchors[place.anchor]]
            condition = (kind[:n] + place.kind(True), torch.tensor(qualities, device=self.device))
            reference = self.predict(batch[:n, place.number], canvases, place, self.network.step(condition[1]))
            loss, pixels, bits, m = self.loss(frames[:n, place.number], reference, past_bits[place.before], condition)
            canvases[place.number], past_bits[place.number] = pixels.to(torch.uint8), bits
            loss = loss * (n / len(batch))
            loss.backward()
            total = total + loss.detach()
            records["quality"] += qualities
            records["kind"] += condition[0].tolist()
            for k, v in m.items():
                records[k] += v.tolist()
        if not math.isfinite(total.item()):
            raise BsqError(f"the loss is {total.item()} at step {self.step}; the last checkpoint is kept")
        self.update()
        return records

    def predict(self, frame: Tensor, canvases: dict[int, Tensor], place: Place, step: Tensor) -> Tensor:
        """What the codec would predict uint8 frames (B, 3, H, W) from, float32; `step`: of the quantiser, (B,)."""
        c = self.config
        options, bits = [], []
        for number in (place.before, place.after):
            if number is not None:
                vectors = find(frame, canvases[number], c.motion_lambda * step)
                options.append(compensate(canvases[number], vectors.v))
                bits.append(vectors.bits())
        if place.after is None:
            return options[0]
        options.append(mean(*options))
        bits.append(bits[0] + bits[1])
        errors = torch.stack([(frame - o).square().sum((1, 2, 3)) / 3 for o in options])
        best = (errors + c.vector_lambda * step**2 * torch.stack(bits)).argmin(0)
        return torch.stack(options)[best, torch.arange(len(frame), device=frame.device)]

    def update(self) -> None:
        """One step of the optimisers, and of the average."""
        c = self.config
        if self.world > 1:
            self.share_gradients()
        torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        lr = self.learning_rate()
        for o in self.optimisers:
            for g in o.param_groups:
                g["lr"] = g["base"] * lr
            o.step()
            o.zero_grad(set_to_none=True)
        decay = min(c.ema, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.trained.values()), 1 - decay)

    def share_gradients(self) -> None:
        """Replace every gradient by its mean over the processes."""
        every = [p for o in self.optimisers for group in o.param_groups for p in group["params"]]
        gradients = [p.grad for p in every if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients]) / self.world
        torch.distributed.all_reduce(flat)
        for g, average in zip(gradients, flat.split([g.numel() for g in gradients])):
            g.copy_(average.view_as(g))

    def state(self) -> dict:
        return {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimisers": [o.state_dict() for o in self.optimisers],
            "discriminator": self.discriminator.state_dict() if self.discriminator else {},
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
        averaged = Network(self.config.model)
        averaged.load_state_dict(self.network.state_dict() | self.average)
        for path, write in (
            (self.checkpoint, lambda path: torch.save(self.state(), path)),
            (self.model_path, lambda path: save_model(averaged, path)),
        ):
            partial = path.with_suffix(".partial")
            try:
                write(partial)
                os.replace(partial, path)
            except (OSError, RuntimeError, SafetensorError) as e:
                raise BsqError(f"cannot write {path}: {e}; the one before is kept") from e
            finally:
                partial.unlink(missing_ok=True)

    def load(self) -> None:
        path = self.checkpoint
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as e:
            raise BsqError(f"{path} is not a readable checkpoint") from e
        try:
            if ModelConfig.from_dict(state["model"]) != self.config.model:
                raise ValueError
            self.network.load_state_dict(state["network"])
        except (ValueError, RuntimeError):
            raise BsqError(f"{path} is a checkpoint of another architecture") from None
        if self.discriminator and state["discriminator"]:
            self.discriminator.load_state_dict(state["discriminator"])
        self.average = state["average"]
        for o, s in zip(self.optimisers, state["optimisers"]):
            o.load_state_dict(s)
        self.step, self.elapsed = state["step"], state["elapsed"]

    def run(self) -> None:
        c = self.config
        previous = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stop", True))
        saved = told = time.monotonic()
        recent: list[dict] = []
        log_file = self.out / f"log{self.rank or ''}.jsonl"
        try:
            with open(log_file, "a") as out:
                while self.progress() < 1 and not self.stopped():
                    began = time.monotonic()
                    rounding, bf16 = self.progress() >= 1 - c.rounding, self.progress() < c.bf16
                    set_arithmetic(self.network.encoder, False, bf16)
                    set_arithmetic(self.network.decoder, rounding, bf16)
                    set_arithmetic(self.network.prior, rounding, bf16)
                    records = self.train_step(self.batch(self.step, self.progress() >= 1 - c.late))
                    self.elapsed += time.monotonic() - began
                    self.step += 1
                    line = {"step": self.step, "elapsed": round(self.elapsed, 1), **rounded(records)}
                    out.write(json.dumps(line) + "\n")
                    out.flush()
                    recent.append(records)
                    now = time.monotonic()
                    if now - told > 10:
                        self.tell(recent)
                        recent, told = [], now
                    if now - saved > 60 * c.checkpoint_minutes:
                        self.save()
                        saved = now
            self.save()
        finally:
            signal.signal(signal.SIGTERM, previous)

    def stopped(self) -> bool:
        """Whether to end now: by a signal, or because the time is over. All processes agree."""
        stop = self.stop or self.elapsed >= 60 * self.config.minutes
        if self.world > 1:
            flag = torch.tensor([float(stop), self.elapsed], device=self.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            stop, self.elapsed = bool(flag[0]), float(flag[1])
        return stop

    def tell(self, recent: list[dict]) -> None:
        """A line on standard error: where the run is, and rate and PSNR of the last steps, of I, P and B frames."""
        if self.rank:
            return
        kinds = np.concatenate([r["kind"] for r in recent])
        bpp, mse = (np.concatenate([r[name] for r in recent]) for name in ("bpp", "mse"))
        cost = np.concatenate([r["cost"] for r in recent]).mean()
        parts = [f"step {self.step}, {100 * self.progress():.0f} %, cost {cost:.3f}"]
        for kind, name in enumerate("IPB"):
            if (chosen := kinds == kind).any():
                psnr = (10 * np.log10(255**2 / np.maximum(mse[chosen], 1e-3))).mean()
                parts.append(f"{name} {bpp[chosen].mean():.3f} bpp {psnr:.2f} dB")
        print(", ".join(parts), file=sys.stderr, flush=True)


def rounded(records: dict) -> dict:
    return {k: [round(x, 4) for x in v] for k, v in records.items()}


def train(path: str, minutes: float | None = None) -> str:
    """Run a configuration, or go on with it. Returns a line that says what came of it.

    The folder `out` then holds config.json, log.jsonl (one line a step: measures of every sample), checkpoint.pt, and
    MODEL.safetensors, the averaged weights ready to code with.
    """
    config = TrainConfig.from_toml(path)
    if minutes:
        config.minutes = minutes
    if config.threads:
        torch.set_num_threads(config.threads)
    trainer = Trainer(config)
    if not trainer.rank:
        (trainer.out / "config.json").write_text(json.dumps(asdict(config), indent=1))
    trainer.run()
    return f"step {trainer.step}, {trainer.elapsed / 60:.1f} minutes: {trainer.model_path}"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    try:
        print(train(sys.argv[1]))
    except BsqError as e:
        sys.exit(f"bsqcodec: {e}")
