"""The prior of the product: its multiplications, its share of the time, and the bits that it saves.

The pictures may be among those that the packaged model was trained on: see data.py.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bsqcodec import decode_image, encode_image, load_model
from bsqcodec.bench.clock import watched
from bsqcodec.model_files import find_file
from bsqcodec.network.quantiser import log2_step
from bsqcodec.network.saving import read_network
from bsqcodec.network.unrounded import Batch, Unrounded
from bsqcodec.settings import DEFAULT_MODEL

from .data import Data, Settings, held_out_pictures

QUALITIES = (10, 25, 40, 60, 80)
VARIANTS = {str(q): f"quality {q}" for q in QUALITIES}
PICTURES = 8  # of 256x256; each seed takes others


def run(variant: str, seed: int, data: Data, settings: Settings) -> dict[str, Any]:
    """Code held-out pictures, which a seed picks, at one quality, into real streams. Nothing is trained.

    Returns "multiplications" a pixel of encoder, decoder and prior; "seconds" of decoding a megapixel, by part; "bits"
    a pixel: of the streams, whose encoder chooses coefficients by their cost, too, and which hold classes and headers;
    and code lengths of plainly rounded coefficients, by the prior, and by the static distributions alone that its last
    layer adds to. These were trained together with it, so that the best static ones would cost less.
    """
    quality = int(variant)
    pictures = held_out_pictures(data, (seed + 1) * PICTURES, settings.device)[seed * PICTURES :, 0]
    network, _ = read_network(find_file(DEFAULT_MODEL))
    network = network.to(settings.device).eval().requires_grad_(False)
    model = load_model(device=settings.device)
    streams = [encode_image(p.permute(1, 2, 0).byte().cpu().numpy(), model=model, quality=quality) for p in pictures]
    decode_image(streams[0], model=model)  # what is made once is made
    clock = watched(model.network)
    for stream in streams:
        decode_image(stream, model=model)
    pixels = pictures.shape[-1] * pictures.shape[-2]
    seconds = {part: s / len(streams) / pixels * 1e6 for part, s in clock.seconds.items()}
    bits = {"stream": 8 * float(np.mean([len(s) for s in streams])) / pixels}
    per_pixel: dict[str, float] = {}
    level = torch.full((len(pictures),), float(log2_step(quality)), device=settings.device)
    batch = network.prepare(
        pictures, level, torch.zeros_like(level), n_coded=model.network.n_coded(quality), dtype=torch.float32
    )
    y, per_pixel["encoder"] = _counted(lambda: network.coefficients(batch), pictures)
    q = network.quantise(y, batch)
    _, per_pixel["decoder"] = _counted(lambda: network.decode(q, batch), pictures)
    (mean, scale), per_pixel["prior"] = _counted(lambda: network.prior(q, batch), pictures)
    bits["prior"] = float(network.bits(y, q, mean, scale, batch).sum()) / (len(pictures) * pixels)
    mean, scale = _static(network, batch)
    bits["static"] = float(network.bits(y, q, mean, scale, batch).sum()) / (len(pictures) * pixels)
    return {"multiplications": per_pixel, "seconds": seconds, "bits": bits}


def _counted(work: Callable[[], Any], pictures: Tensor) -> tuple[Any, float]:
    """The result of some work, and its multiplications for a pixel."""
    with FlopCounterMode(display=False) as counter:
        result = work()
    return result, counter.get_total_flops() / 2 / (pictures.numel() / 3)


def _static(network: Unrounded, batch: Batch) -> tuple[Tensor, Tensor]:
    """Means and log2 of scales of the table that the prior's last layer adds to: by quality and coefficient alone."""
    heads = [m.w for m in network.p_out]
    kept = [w.data.clone() for w in heads]
    for w in heads:
        w.data.zero_()
    y = torch.zeros(*batch.step.shape[:3], batch.n_coded, device=batch.step.device)
    result = network.prior(y, batch)
    for w, values in zip(heads, kept, strict=True):
        w.data.copy_(values)
    return result


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of all qualities, means of the seeds."""
    lines = [
        "| quality | thousand multiplications a pixel: encoder, decoder, prior "
        "| seconds of decoding a megapixel: tokenizer, prior, range coder | bits per pixel: stream, prior, static "
        "| prior saves |",
        "|---|---|---|---|--:|",
    ]
    for quality in VARIANTS:
        runs = [row for row in rows if row["variant"] == quality]
        if not runs:
            continue

        def mean(what: str, key: str, runs: list[dict[str, Any]] = runs) -> float:
            return float(np.mean([run[what].get(key, 0.0) for run in runs]))

        work = ", ".join(f"{mean('multiplications', n) / 1000:.1f}" for n in ("encoder", "decoder", "prior"))
        time = ", ".join(f"{mean('seconds', part):.2f}" for part in ("tokenizer", "prior", "range coder"))
        rates = ", ".join(f"{mean('bits', k):.4f}" for k in ("stream", "prior", "static"))
        saved = 1 - mean("bits", "prior") / mean("bits", "static")
        lines.append(f"| {quality} | {work} | {time} | {rates} | {100 * saved:.0f} % |")
    return "\n".join(lines) + "\n"
