"""Ablations: short trainings that differ in one thing, from the same data, seed and number of steps, in one table.

    python benchmarks/ablations.py --photos train/photos-0.tar train/photos-1.tar --strips train/clips-0.tar \
        --steps 220 --out runs/ablations [--seed 0] [NAME ...]

Without names every variant runs. Every 20th photograph and strip is held out of the training; all variants are measured
on the same crops of these, at several qualities, by the exact arithmetic of inference. Rates are the prior's
code lengths, without the motion vectors, which are the same for all. A line a variant goes to OUT/ablations.jsonl, the
table to OUT/ablations.md. What is there already (same name, steps and seed) is not run again, and an interrupted
training goes on from its checkpoint. With other --steps or --seed the results join the table; each variant is compared
with its reference of the same steps and seed, a reference with its own first run.
"""

import argparse
import json
import logging
import math
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_msssim import ms_ssim
from torch import Tensor

from bsqcodec.bench.bdrate import NoComparison, bd_rate
from bsqcodec.config import ModelConfig
from bsqcodec.data import Sampler
from bsqcodec.exact import QUALITIES, ConditionTable, set_arithmetic
from bsqcodec.model import load_model, read_network
from bsqcodec.model import packaged_models as packaged
from bsqcodec.motion import compensate, search
from bsqcodec.network import GRAY, count_bits
from bsqcodec.tokenizer import TOKEN, patches, to_pixels
from bsqcodec.train import ANY_LAMBDA, TrainConfig, Trainer, load_data

HELD_OUT = 20
FRAMES = 3  # of a held-out strip: one I frame, then P frames
TOKENIZER = "small2"  # whose tokens the prior is trained on alone
BASE = TrainConfig(
    images=8, sequences=2, unroll=2, minutes=1e6, warmup=20, rounding=0.3, bf16=0.9, msssim=0.7, fidelity=4.0,
    predicted=0.6, threads=1, device="cpu",
)  # fmt: skip
MEASURES = ("bpp", "psnr", "ms_ssim", "cost")


class Ablation(Trainer):
    """The product's trainer. `started` keeps what the networks are started from, which depends on the seed only."""

    started: dict[int, tuple] = {}

    def samples(self):
        seed = self.config.seed
        if seed not in self.started:
            self.started[seed] = super().samples()
        return self.started[seed]

    def make_optimisers(self):
        self.adapt()
        return super().make_optimisers()

    def adapt(self) -> None:
        """Changes of the new network that a configuration cannot express."""


class AdamW(Ablation):
    """AdamW on the matrices that Muon has otherwise."""

    lr = 1e-3

    def make_optimisers(self):
        muon, *others = super().make_optimisers()
        fast, slow = (group["params"] for group in muon.param_groups)
        slower = self.config.encoder_muon_lr / self.config.muon_lr
        adamw = torch.optim.AdamW(
            [{"params": fast, "lr": self.lr}, {"params": slow, "lr": self.lr * slower}], betas=(0.9, 0.98)
        )
        for group in adamw.param_groups:
            group["base"] = group["lr"]
        return [adamw, *others]


class FastAdamW(AdamW):
    lr = 3e-3


class TrainedTransform(Ablation):
    """The two transforms are trained, too, by Muon."""

    lr = 2e-4

    def make_optimisers(self):
        optimisers = super().make_optimisers()
        transforms = [self.network.encoder.analysis, self.network.decoder.synthesis.weight]
        for p in transforms:
            p.requires_grad_(True)
        optimisers[0].add_param_group({"params": transforms, "lr": self.lr, "base": self.lr})
        return optimisers


class RandomTransform(TrainedTransform):
    """As many orthonormal random vectors as the Karhunen-Loeve transform has, trained."""

    lr = 0.02

    @torch.no_grad()
    def start(self) -> None:
        photos, pairs = self.samples()
        n = self.network
        basis = torch.linalg.qr(torch.randn(3 * TOKEN * TOKEN, self.config.model.coefficients))[0]
        n.encoder.analysis.copy_(basis.T)
        n.decoder.synthesis.weight.copy_(basis)
        count_bits(n, photos[:80], pairs)


class Flat(Ablation):
    """One sphere, that is one plane of trits of one step.

    One trit cannot hold a large coefficient, so such a coefficient gets several, whose thresholds lie at 1/2, 3/2,
    5/2, ... steps: a unary code. Coefficient i gets its (j + 1)-th trit where sigma_i / (j + 1/2) is among the largest.
    """

    @torch.no_grad()
    def start(self) -> None:
        super().start()  # the transform has as many rows as there are trits, from which those that are kept are drawn
        photos, pairs = self.samples()
        n, trits = self.network, self.config.model.coefficients
        analysis, synthesis = n.encoder.analysis, n.decoder.synthesis.weight
        y = patches(photos - GRAY, TOKEN).flatten(0, 2) @ analysis.T
        sigma = y.square().mean(0).sqrt()
        threshold = torch.arange(trits) + 0.5
        largest, order = (sigma[:, None] / threshold).flatten().topk(trits)
        i, j = order // trits, order % trits
        analysis.copy_(analysis[i].clone())
        synthesis.copy_(synthesis[:, i].clone())
        n.encoder.thresholds[0].copy_(threshold[j] + 0.1)
        for q in range(1, QUALITIES + 1):  # as `initialise` has it: a trit is coded if its threshold is below 10 sigma
            n.prior.active[0, q - 1] = int((10 * largest > n.step(torch.tensor(q))).sum())
        count_bits(n, photos[:80], pairs)


class PriorAlone(Ablation):
    """Trains a new prior on the tokens of a packaged model, whose encoder and decoder stay as they are."""

    tokens: dict[tuple[int, int], list] = {}  # by (seed, step): (packed bits, kind, quality) of the frames of a step

    def adapt(self) -> None:
        source, _ = read_network(packaged()[TOKENIZER])
        for name in ("encoder", "decoder"):
            part = getattr(self.network, name)
            part.load_state_dict(getattr(source, name).state_dict())
            part.requires_grad_(False)
        self.network.prior.active.copy_(source.prior.active)
        model = load_model(TOKENIZER)
        with torch.no_grad():
            for step in range(self.config.steps):
                if (self.config.seed, step) not in self.tokens:
                    self.tokens[self.config.seed, step] = list(self.encode(model.network, step))

    def encode(self, network, step: int):
        """The frames of a step, as `train_step` has them."""
        batch = super().batch(step, False)
        frames = batch.float()
        quality = torch.from_numpy(np.random.default_rng([self.config.seed, step, 1]).integers(1, 101, len(batch)))
        n, kind = len(batch), torch.zeros_like(quality)
        reference = torch.full_like(frames[:, 0], GRAY)
        for t in range(self.config.unroll):
            condition = (kind[:n], quality[:n])
            bits = network.bits(frames[:n, t], reference, condition)
            yield np.packbits(bits.numpy().astype(bool), axis=-1), *condition
            n, kind = self.config.sequences, torch.ones_like(quality)
            if t + 1 < self.config.unroll:
                pixels = to_pixels(network.decoder(bits, reference, condition))[:n].to(torch.uint8)
                vectors = search(batch[:n, t + 1], batch[:n, t], ANY_LAMBDA)
                reference = compensate(pixels, vectors).float()

    def frames(self, step: int):
        """(bits, bits of the frame before, (kind, quality)) of the frames of a step."""
        previous = None
        for packed, *condition in self.tokens[self.config.seed, step]:
            bits = torch.from_numpy(np.unpackbits(packed, axis=-1)).float()
            yield bits, torch.zeros_like(bits) if previous is None else previous[: len(bits)], condition
            previous = bits

    @torch.no_grad()
    def start(self) -> None:
        """The bias is that of the bits at the qualities around each anchor, as `count_bits` has it."""
        table: ConditionTable = self.network.prior.logit_bias
        ones, total = torch.full_like(table.anchors, 0.3), torch.full(table.anchors.shape[:2], 0.6)
        for step in range(min(self.config.steps, 100)):
            for bits, _, (kind, quality) in self.frames(step):
                place = (quality - 1) / ((QUALITIES - 1) / (table.anchors.shape[1] - 1))
                for a in range(table.anchors.shape[1]):
                    share = (1 - (place - a).abs()).clamp(min=0)
                    ones[kind[0], a] += (bits.mean((1, 2)) * share[:, None]).sum(0)
                    total[kind[0], a] += share.sum()
        table.anchors.copy_(torch.logit((ones / total[..., None]).clamp(1e-4, 1 - 1e-4)))

    def batch(self, step: int, late: bool) -> Tensor:
        return torch.tensor(step)

    def train_step(self, batch: Tensor) -> dict:
        prior = self.network.prior
        records: dict[str, list] = {"quality": [], "kind": [], "bpp": [], "mse": [], "cost": []}
        for bits, previous, condition in self.frames(int(batch)):
            kind, quality = condition
            logits = prior(bits, previous, condition).clamp(-11.1, 11.1)
            mask = prior.active_mask(quality)[:, None, None]
            bpp = ((F.softplus(logits) - bits * logits) * mask).sum((1, 2, 3))
            bpp = bpp / (math.log(2) * bits[0, ..., 0].numel() * TOKEN**2)
            cost = bpp / (0.1 + 0.13 * 255 / self.network.step(quality))  # weighted as in `loss`
            (cost.sum() / self.config.images).backward()
            values = {"quality": quality, "kind": kind, "bpp": bpp, "mse": torch.zeros_like(bpp), "cost": cost}
            for k, v in values.items():
                records[k] += v.tolist()
        self.update()
        return records


class NoHistory(PriorAlone):
    """The prior never sees the bits of the frame before."""

    def adapt(self) -> None:
        super().adapt()
        self.network.prior.register_forward_pre_hook(lambda _, args: (args[0], torch.zeros_like(args[1]), args[2]))


class PriorOn(PriorAlone):
    """Goes on from the packaged model's own prior."""

    def start(self) -> None:
        source, _ = read_network(packaged()[TOKENIZER])
        self.network.prior.load_state_dict(source.prior.state_dict())


class PriorOnNoHistory(NoHistory, PriorOn):
    """Both."""


@dataclass(frozen=True)
class Variant:
    what: str
    model: dict = field(default_factory=dict)  # what differs in the model's configuration
    training: dict = field(default_factory=dict)  # and in the run's
    trainer: type[Ablation] = Ablation
    against: str = "baseline"
    length: float = 1.0  # in units of --steps


def residual(planes: tuple[int, ...], groups: tuple[int, ...]) -> dict:
    return {"planes": planes, "groups": groups}


def flat(trits: int, groups: tuple[int, ...], finest: float) -> dict:
    return {"planes": (trits,), "groups": groups, "step_fine": finest}


def prior(what: str, trainer: type[PriorAlone] = PriorAlone, against: str = "prior", **model) -> Variant:
    model = ModelConfig().to_dict() | model  # the packaged models have these sizes
    training: dict[str, float] = {"sequences": 4}  # the prior alone is cheap to train: more P frames
    if issubclass(trainer, PriorOn):
        training |= {"muon_lr": 0.01, "adam_lr": 1e-3, "table_lr": 2.5e-3}  # as the model itself was trained on
    return Variant(f"{TOKENIZER}'s tokens: {what}", model, training, trainer, against)


# Steps of the flat ones end where their trits cover 2.5 standard deviations of every coefficient: finer, they clip.
VARIANTS = {
    "baseline": Variant("L = 1544: six planes, G = 16, KLT, Muon, MS-SSIM share 0.7"),
    "untrained": Variant("the start: KLT, dead zones, zero-order prior", length=0.0),
    "L-512": Variant("L = 512", residual((2, 4, 14, 48, 84, 104), (20, 48, 21, 63, 10, 21, 31, 42))),
    "L-256": Variant("L = 256", residual((1, 2, 7, 24, 42, 52), (10, 24, 10, 32, 5, 10, 16, 21))),
    "L-128": Variant("L = 128", residual((1, 1, 4, 12, 20, 26), (6, 12, 5, 15, 3, 5, 8, 10))),
    "flat-512": Variant(
        "flat sphere, L = 512", flat(256, (12, 20, 32, 32, 40, 40, 40, 40), 0.31), trainer=Flat, against="L-512"
    ),
    "flat-256": Variant(
        "flat sphere, L = 256", flat(128, (6, 10, 16, 16, 20, 20, 20, 20), 0.53), trainer=Flat, against="L-256"
    ),
    "G-4": Variant("G = 4", {"groups": (196, 576)}),
    "G-8": Variant("G = 8", {"groups": (52, 144, 256, 320)}),
    "adamw": Variant("AdamW (1e-3) in place of Muon", trainer=AdamW),
    "adamw-fast": Variant("AdamW (3e-3) in place of Muon", trainer=FastAdamW),
    "klt-trained": Variant("transform started from the KLT and trained", trainer=TrainedTransform),
    "random": Variant("transform started at random and trained", {}, {"encoder_start": 0.0}, RandomTransform),
    "mse": Variant("MSE alone", {}, {"msssim": 0.0}),
    "ms-ssim": Variant("MS-SSIM alone up to quality 50", {}, {"msssim": 1.0}),
    "encoder-fixed": Variant("the encoder stays as it was started", {}, {"encoder_start": 1.0}),
    "prior": prior("width 192, 3 blocks, G = 16"),
    "prior-width-96": prior("width 96", prior_width=96),
    "prior-width-256": prior("width 256", prior_width=256),
    "prior-blocks-1": prior("1 block", prior_blocks=1),
    "prior-blocks-5": prior("5 blocks", prior_blocks=5),
    "prior-G-4": prior("G = 4", groups=(196, 576)),
    "prior-G-8": prior("G = 8", groups=(52, 144, 256, 320)),
    "prior-G-32": prior("G = 32", groups=(12, 40, 56, 88, 32, 32, 88, 104, 16, 16, 32, 32, 48, 48, 64, 64)),
    "prior-no-history": prior("no temporal context", NoHistory),
    "released": Variant(
        f"{TOKENIZER} as it is", ModelConfig().to_dict(), {"start": TOKENIZER}, against="prior", length=0.0
    ),
    "released-on": prior("its own prior, trained on", PriorOn, "released"),
    "released-no-history": prior("its own prior, trained on without temporal context", PriorOnNoHistory, "released-on"),
}


@dataclass
class Data:
    """What all variants share: the training's material, and the crops that they are measured on, uint8."""

    sampler: Sampler
    photos: Tensor  # (N, 3, S, S)
    strips: Tensor  # (N, FRAMES, 3, S, S)


def split(sampler: Sampler, crops: int, side: int) -> Data:
    """Hold out every 20th item, and take the centre of `crops` of these."""
    photos = [p.numpy() for p in sampler.photos]
    clips = [s.numpy() for s in sampler.strips]
    kept = Sampler(
        [p for i, p in enumerate(photos) if i % HELD_OUT],
        [s.reshape(-1, *s.shape[2:]) for i, s in enumerate(clips) if i % HELD_OUT],
    )
    chosen = [_centre(p[None], side) for p in photos[::HELD_OUT]][:crops]
    strips = [_centre(s[:FRAMES], side) for s in clips[::HELD_OUT] if len(s) >= FRAMES][: crops // 2]
    frames = [torch.from_numpy(np.stack(x).transpose(0, 1, 4, 2, 3).copy()) for x in (chosen, strips)]
    return Data(kept, frames[0][:, 0], frames[1])


def _centre(frames: np.ndarray, side: int) -> np.ndarray:
    y, x = (frames.shape[1] - side) // 2, (frames.shape[2] - side) // 2
    return frames[:, y : y + side, x : x + side]


@torch.inference_mode()
def evaluate(trainer: Trainer, data: Data, base: TrainConfig, qualities: list[int]) -> dict[str, dict]:
    """Means over the held-out crops by kind: lists over the qualities of bpp, psnr, ms_ssim (dB) and cost.

    The cost is that of `base`'s objective; without meaning between models whose steps, and so lambdas, differ.
    """
    network = trainer.network
    network.load_state_dict(trainer.average, strict=False)
    set_arithmetic(network, True)
    set_arithmetic(network.encoder, False)
    trainer.config = replace(base, encoder_start=2.0)  # the encoder gets no gradient
    out: dict[str, dict] = {kind: {"quality": qualities, **{k: [] for k in MEASURES}} for kind in "IP"}
    for quality in qualities:
        seen: dict[str, list] = {"I": [], "P": []}

        def code(frame, reference, previous, kind, quality=quality, seen=seen):
            """One frame of some crops; returns the decoded pixels and the bits."""
            condition = (torch.full((len(frame),), int(kind == "P")), torch.full((len(frame),), quality))
            if previous is None:
                reference = torch.full_like(frame, GRAY)
                size = (len(frame), frame.shape[2] // TOKEN, frame.shape[3] // TOKEN, network.config.bits)
                previous = torch.zeros(size)
            _, pixels, bits, m = trainer.loss(frame, reference, previous, condition)
            mse = (pixels - frame).square().mean((1, 2, 3)).clamp(min=1e-3)
            psnr = 10 * torch.log10(255**2 / mse)
            similarity = ms_ssim(pixels, frame, data_range=255, size_average=False)
            seen[kind].append(torch.stack([m["bpp"], psnr, similarity, m["cost"]]))
            return pixels, bits

        for photos in data.photos.float().split(8):
            code(photos, None, None, "I")
        photographs = seen["I"]
        for strips in data.strips.split(8):
            pixels, bits = code(strips[:, 0].float(), None, None, "I", seen={"I": []})  # only to go on from
            for t in range(1, strips.shape[1]):
                vectors = search(strips[:, t], strips[:, t - 1], ANY_LAMBDA)
                reference = compensate(pixels.to(torch.uint8), vectors).float()
                pixels, bits = code(strips[:, t].float(), reference, bits, "P")
        for kind, parts in (("I", photographs), ("P", seen["P"])):
            bpp, psnr, similarity, cost = torch.cat(parts, 1).double().mean(1).tolist()
            values = (bpp, psnr, -10 * math.log10(1 - similarity), cost)
            for name, value in zip(MEASURES, values):
                out[kind][name].append(round(value, 4))
    return out


def run(name: str, data: Data, base: TrainConfig, out: Path, qualities: list[int]) -> dict | None:
    """Train and measure a variant. Returns its record; None if a signal stopped it, to go on later."""
    variant = VARIANTS[name]
    steps = round(base.steps * variant.length)
    model = replace(base.model, **variant.model | {"name": name})
    config = replace(
        base, model=model, steps=max(steps, 1), out=str(out / f"{name}-{base.steps}-{base.seed}"), **variant.training
    )
    trainer = variant.trainer(config, data.sampler)
    first, began = trainer.step, time.process_time()
    if steps:
        trainer.run()
        if trainer.step < steps:
            return None
    seconds = (time.process_time() - began) / max(trainer.step - first, 1)
    return {
        "name": name,
        "steps": base.steps,
        "seed": base.seed,
        "trained": steps,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "seconds": round(seconds, 3),
        "step_fine": model.step_fine,
        "points": evaluate(trainer, data, base, qualities),
    }


def reference(record: dict, records: list[dict]) -> dict | None:
    """What a record is compared with: its reference of the same steps and seed, a reference with its first run."""
    against = VARIANTS[record["name"]].against
    same = [r for r in records if r["name"] == against]
    if record["name"] != against:
        same = [r for r in same if (r["steps"], r["seed"]) == (record["steps"], record["seed"])]
    return same[0] if same and same[0] is not record else None


def table(records: list[dict]) -> str:
    """Markdown: a row a record; means over the qualities, and BD-rates against the reference."""
    lines = [
        "| variant | steps | seed | parameters | CPU s a step | I: bpp, PSNR, MS-SSIM | P: bpp, PSNR, MS-SSIM | "
        "cost I, P | against | BD-rate I: PSNR, MS-SSIM | BD-rate P: PSNR, MS-SSIM |",
        "|---|--:|--:|--:|--:|---|---|---|---|---|---|",
    ]
    for record in records:
        points, other = record["points"], reference(record, records)
        means = {kind: {k: np.mean(p[k]) for k in MEASURES} for kind, p in points.items()}
        kinds = [f"{m['bpp']:.4f}, {m['psnr']:.2f}, {m['ms_ssim']:.2f}" for m in means.values()]
        comparable = record["step_fine"] == records[0]["step_fine"]
        cells = [
            f"`{record['name']}`: {VARIANTS[record['name']].what}",
            record["trained"],
            record["seed"],
            f"{record['parameters'] / 1e6:.2f} M",
            f"{record['seconds']:.2f}" if record["trained"] else "",
            *kinds,
            ", ".join(f"{m['cost']:.3f}" for m in means.values()) if comparable else "",
            _title(other, record) if other else "",
            *[_rates(other["points"][kind], points[kind]) if other else "" for kind in "IP"],
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _title(other: dict, record: dict) -> str:
    same = (other["steps"], other["seed"]) == (record["steps"], record["seed"])
    return f"`{other['name']}`" + ("" if same else f" ({other['trained']} steps, seed {other['seed']})")


def _rates(reference: dict, test: dict) -> str:
    out = []
    for measure in ("psnr", "ms_ssim"):
        try:
            delta = bd_rate(reference["bpp"], reference[measure], test["bpp"], test[measure])
            out.append(f"{delta.value:+.1f} %" + (f" ({100 * delta.share:.0f} %)" if delta.share < 0.75 else ""))
        except NoComparison:
            out.append("none")
    return ", ".join(out)


def main(words: list[str] | None = None, base: TrainConfig = BASE) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument("--photos", nargs="+", required=True, help="tar shards or folders of photographs")
    parser.add_argument("--strips", nargs="+", required=True, help="tar shards or folders of frame strips")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crops", type=int, default=24, help="held-out photographs to measure; half as many strips")
    parser.add_argument("--side", type=int, default=256, help="of a held-out crop, in pixels")
    parser.add_argument("--qualities", default="10,30,50,70,90")
    options = parser.parse_intermixed_args(words)
    if unknown := set(options.names) - set(VARIANTS):
        parser.error(f"no variant {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    base = replace(base, photos=options.photos, strips=options.strips, steps=options.steps, seed=options.seed)
    if base.threads:
        torch.set_num_threads(base.threads)
    log = options.out / "ablations.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(r["name"], r["steps"], r["seed"]) for r in records}
    todo = [n for n in dict.fromkeys(options.names or VARIANTS) if (n, base.steps, base.seed) not in done]
    data = split(load_data(base, torch.device(base.device)), options.crops, options.side) if todo else None
    for name in todo:
        assert data
        print(f"{name}: {VARIANTS[name].what}", file=sys.stderr, flush=True)
        record = run(name, data, base, options.out, list(map(int, options.qualities.split(","))))
        if record is None:
            sys.exit("stopped; the same command goes on")
        records.append(record)
        with open(log, "a") as file:
            file.write(json.dumps(record) + "\n")
        (options.out / "ablations.md").write_text(table(records))
    print(table(records))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
