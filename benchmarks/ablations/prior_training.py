"""How the priors of ablations are trained and measured, the same for all variants."""

import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bsqcodec.network.unrounded_layers import Mat
from bsqcodec.train.optimisers import Adam, Muon
from bsqcodec.train.sampler import Sampler, on_device

from .data import Data, Settings
from .prior_network import LEVELS, Prior, bits, by_confidence, fixed_order, quadratic_groups
from .prior_tokens import CHUNK, Tokens, dtype_of, given, tokens_of

TEST_FRAMES = 96
BATCH = 4  # frames of a training step
WARMUP, DECAY, LAST_RATE = 30, 0.6, 0.005  # of the learning rate, as in bsqcodec/train
MUON_LR, ADAM_LR = 0.02, 5e-3
LAST_STEPS = 50  # whose mean code length is kept
Orders = Callable[[np.random.Generator, int], np.ndarray]  # from n to the steps of the tokens of n frames, int64 (n, N)


_kept: dict[Hashable, tuple[Tokens, Tokens]] = {}


def load(data: Data, settings: Settings, frame_type: str) -> tuple[Tokens, Tokens]:
    """Tokens to train on, and tokens to measure on: of I frames, or of P frames; the same ones in every run.

    There are so many that training sees none of them twice: of a tenth as many P frames it learns by heart. The last
    ones are kept for the next run.
    """
    key = data.train, settings, frame_type
    if key not in _kept:
        side, moving = 2 * settings.crop, frame_type == "P"
        held_out = Sampler(data.photos, data.strips if moving else [], settings.device)
        frames = -(-settings.steps * BATCH // CHUNK) * CHUNK
        train = tokens_of(data.train, frames, side, moving, False, 0)
        _kept.clear()
        _kept[key] = train, tokens_of(held_out, TEST_FRAMES, side, moving, True, 1)
    return _kept[key]


def start(tokens: Tokens, settings: Settings, seed: int, groups: int, context: bool = False) -> Prior:
    """A prior to be trained on tokens, on their device. groups: their number; context: that of `Prior`."""
    torch.manual_seed(seed)
    prior = Prior(settings.crop // 8, quadratic_groups(groups), context).to(settings.device)
    prior.start(tokens.q, tokens.level)
    return prior


def fixed(name: str, settings: Settings) -> Orders:
    """The same order for all frames; name: that of `fixed_order`."""
    order = fixed_order(name, settings.crop // 8)
    return lambda _, n: np.tile(order, (n, 1))


def train(
    prior: Prior, tokens: Tokens, orders: Orders, settings: Settings, seed: int, context: str = "none"
) -> dict[str, Any]:
    """Train a prior on tokens. Returns the steps per second, and the bits per pixel of the last steps.

    Args:
        prior: on the device of the tokens.
        tokens: of `load`.
        orders: of the tokens of a batch.
        settings: with the number of steps.
        seed: of batches and orders.
        context: that of `given`.
    """
    device, steps, rng = settings.device, settings.steps, np.random.default_rng([seed, 2])
    matrices = [m.w for m in prior.blocks.modules() if isinstance(m, Mat)] + [prior.head.w]
    others = [p for p in prior.parameters() if not any(p is m for m in matrices)]
    optimisers = [Muon(matrices, MUON_LR), Adam(others, ADAM_LR)]
    at = np.arange(steps)
    schedule = np.minimum(1, (at + 1) / WARMUP) * np.minimum(1, (1 - at / steps) / DECAY + LAST_RATE)
    rates = on_device(device, schedule)
    batches = on_device(device, rng.permutation(len(tokens.q))[: steps * BATCH].reshape(steps, BATCH))
    losses = torch.zeros(steps, device=device)
    start = time.perf_counter()
    for i in range(steps):
        batch = tokens.at(batches[i])
        q, order = batch.q.float(), on_device(device, orders(rng, BATCH))
        cost = bits(q, *prior(q, given(batch, context), order, dtype_of(device)))
        loss = cost.sum() / (q.shape[0] * q.shape[1] * 256)
        loss.backward()
        losses[i] = loss.detach()
        for optimiser in optimisers:
            optimiser.step(rates[i])
            optimiser.zero_grad(set_to_none=True)
    last = losses[-LAST_STEPS:].mean().item()  # which waits for the device
    return {"steps per second": steps / (time.perf_counter() - start), "training bpp": last}


def parts(tokens: Tokens) -> Iterator[Tokens]:
    """Tokens of a few frames at a time, which `by_level` puts together again."""
    for frames in torch.arange(len(tokens.q), device=tokens.q.device).split(CHUNK):
        yield tokens.at(frames)


def by_level(costs: list[Tensor], tokens: Tokens) -> dict[str, Any]:
    """Bits per pixel, of all frames and at each level, of the costs in bits of `parts` of tokens, (n, ...) each."""
    rate = torch.cat([cost.flatten(1).sum(1) for cost in costs]) / (tokens.q.shape[1] * 256)
    each = [rate[tokens.level == i].mean().item() for i in range(len(LEVELS))]
    return {"bpp": rate.mean().item(), "bpp by level": each}


@torch.no_grad()
def measure(prior: Prior, tokens: Tokens, orders: Orders, context: str = "none") -> dict[str, Any]:
    """The code length of tokens in an order, as `by_level` has it. The arguments are those of `train`."""
    device, rng, costs = tokens.q.device, np.random.default_rng(3), []
    for part in parts(tokens):
        q, order = part.q.float(), on_device(device, orders(rng, len(part.q)))
        costs.append(bits(q, *prior(q, given(part, context), order, dtype_of(device))))
    return by_level(costs, tokens)


@torch.no_grad()
def measure_by_confidence(prior: Prior, tokens: Tokens) -> dict[str, Any]:
    """The code length of tokens in sets by confidence, coded step by step, as `by_level` has it."""
    costs = []
    for part in parts(tokens):
        q, level, total = part.q.float(), part.level, torch.zeros(len(part.q), device=part.q.device)

        def code(places: Tensor, known: Tensor, q: Tensor = q, level: Tensor = level, total: Tensor = total) -> Tensor:
            chosen = q.gather(1, places.unsqueeze(-1).expand(-1, -1, q.shape[2]))
            total += bits(chosen, *prior.distributions(known, level, chosen)).sum((1, 2))
            return chosen

        by_confidence(prior, given(part), q.shape[1], dtype_of(q.device), code)
        costs.append(total[:, None])
    return by_level(costs, tokens)


def results(rows: list[dict[str, Any]], variants: dict[str, str], columns: dict[str, str]) -> str:
    """A Markdown table of runs, grouped by variant: the bits per pixel of all seeds, their mean and its difference.

    Args:
        rows: of all runs: what `train` and `measure` return, "variant", "seed", and the keys of `columns`.
        variants: in the order of the table: the first is what the others are compared with.
        columns: further keys of the rows, and what the table calls them.
    """
    head = ["variant", *columns.values(), "bpp by seed", "mean", "against the first", "at log2 step 6, 7, 8, 9"]
    head += ["in training", "steps of training/s"]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    first = None
    for name, description in variants.items():
        runs = sorted((row for row in rows if row["variant"] == name), key=lambda row: row["seed"])
        if not runs:
            continue
        mean = float(np.mean([run["bpp"] for run in runs]))
        first = first or mean
        cells = [f"`{name}`: {description}", *(str(runs[0][key]) for key in columns)]
        cells += [", ".join(f"{run['bpp']:.4f}" for run in runs), f"{mean:.4f}", f"{100 * (mean / first - 1):+.1f} %"]
        cells.append(", ".join(f"{x:.4f}" for x in np.mean([run["bpp by level"] for run in runs], 0)))
        cells += [
            f"{np.mean([run[key] for run in runs]):.{n}f}" for key, n in (("training bpp", 4), ("steps per second", 1))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
