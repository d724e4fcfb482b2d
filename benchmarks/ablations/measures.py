"""Measures of decoded frames, and the comparison of curves."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_msssim
import torch
from torch import Tensor

from bsqcodec.bench.bdrate import NoComparison, bd_rate
from bsqcodec.network.losses import st_lpips_features, st_lpips_of_features

RATE = 0.25  # bits per pixel at which curves are compared, beside BD-rates: all of them reach it
MEASURES = ("bits per pixel", "PSNR", "MS-SSIM", "ST-LPIPS")  # of a point of a curve


@torch.no_grad()
def measured(source: Tensor, several: Sequence[Tensor], structural: bool = True) -> list[list[float]]:
    """PSNR in dB, MS-SSIM in dB (-10 log10 (1 - MS-SSIM)) and ST-LPIPS (AlexNet) of several decodings of one source.

    source, several: pixels 0..255, (n, 3, H, W); decoded ones are rounded and bounded here. structural: False makes
    MS-SSIM NaN: it needs sides of at least 161. All are means over the n frames.
    """
    seen, out = st_lpips_features(source), []
    for decoded in several:
        decoded = decoded.round().clamp(0, 255)
        mse = (decoded - source).square().mean((1, 2, 3)).clamp(min=1e-4)
        similar = torch.full_like(mse, math.nan)
        if structural:
            similar = pytorch_msssim.ms_ssim(decoded, source, data_range=255, size_average=False)
        distance = st_lpips_of_features(st_lpips_features(decoded), seen)
        decibel = -10 * torch.log10((1 - similar).clamp(min=1e-6))
        out.append([float(v.mean()) for v in (10 * torch.log10(255**2 / mse), decibel, distance)])
    return out


def curve(points: Sequence[Sequence[float]]) -> str:
    """The points of a curve, each with all `MEASURES`, as the text of a cell of a table."""
    return "; ".join(f"{r:.4f}, {p:.2f}, {'-' if math.isnan(m) else f'{m:.2f}'}, {d:.3f}" for r, p, m, d in points)


def against(
    points: Sequence[Sequence[float]], reference: Sequence[Sequence[float]], measure: int
) -> tuple[float, float]:
    """BD-rate of a curve against another, in percent, and the part of the range of quality that both cover, 0..1.

    points, reference: of each level the `MEASURES`; measure: 1, 2 or 3. NaN, 0 where the curves cannot be compared.
    """
    (r0, q0), (r1, q1) = (np.array(p)[:, [0, measure]].T for p in (reference, points))
    if measure == 3:  # of distances less is better
        q0, q1 = -q0, -q1
    try:
        delta = bd_rate(r0, q0, r1, q1)
    except NoComparison:
        return math.nan, 0.0
    return delta.value, delta.share


def compared(rows: list[dict[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """The BD-rates of every run against the run of the baseline with its seed, (value, share) for each measure.

    rows: of each run "variant", "seed" and "points". Where that seed of the baseline is missing, its first counts. The
    baseline's other seeds are compared with its first: their distance is the spread that a difference must pass.
    """
    base = {row["seed"]: row["points"] for row in rows if row["variant"] == baseline}
    out = []
    for row in rows:
        first = min(base, default=None)
        own = first if row["variant"] == baseline else (row["seed"] if row["seed"] in base else first)
        rates = [(math.nan, 0.0)] * 3 if own is None else [against(row["points"], base[own], m) for m in (1, 2, 3)]
        out.append(row | {"against": rates})
    return out


def at_rate(points: Sequence[Sequence[float]], rate: float) -> list[float]:
    """The qualities of a curve at a rate, linear in the logarithm of the rate; points: of each level the `MEASURES`."""
    rates, *qualities = zip(*points, strict=True)
    return [float(np.interp(np.log(rate), np.log(rates), quality)) for quality in qualities]


def curves_table(
    rows: list[dict[str, Any]], baseline: str, variants: dict[str, str], more: dict[str, str] | None = None
) -> str:
    """Markdown: a table of the variants, and one of the points of every run.

    rows: as `compared` takes them, with "usage" and "steps per second". BD-rates are in percent, those of all seeds
    beside each other; where curves share less than 70 % of the range of quality of both, the share stands in brackets,
    and below 25 % it stands alone. Qualities at `RATE` are means of the seeds; the speed is that of the fastest run,
    which was disturbed least. more: further columns, the key of a number in the rows by its heading.
    """
    more = more or {}
    head = ["variant", *(f"BD-rate by {name}" for name in MEASURES[1:]), f"PSNR, MS-SSIM, ST-LPIPS at {RATE} bpp"]
    head += ["alphabet used", "steps/s", *more]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    every = compared(rows, baseline)
    for name, text in variants.items():
        runs = [row for row in every if row["variant"] == name]
        if not runs:
            continue
        cells = [", ".join(_bd_rate(*run["against"][i]) for run in runs) for i in range(len(MEASURES) - 1)]
        psnr, similar, distance = np.mean([at_rate(run["points"], RATE) for run in runs], 0)
        cells += [f"{psnr:.2f}, {similar:.2f}, {distance:.3f}"]
        cells += [f"{100 * np.mean([run['usage'] for run in runs]):.0f} %"]
        cells += [f"{max(run['steps per second'] for run in runs):.1f}"]
        cells += [f"{runs[0][key]:,.0f}" for key in more.values()]
        lines.append(f"| `{name}`: {text} | " + " | ".join(cells) + " |")
    lines += ["", "| variant | seed | bits per pixel | PSNR, dB | MS-SSIM, dB | ST-LPIPS |", "|---" * 6 + "|"]
    for row in rows:
        figures = zip(*row["points"], strict=True)
        points = [" ".join(f"{v:.{n}f}" for v in figure) for figure, n in zip(figures, (3, 2, 2, 3), strict=True)]
        lines.append("| " + " | ".join([f"`{row['variant']}`", str(row["seed"]), *points]) + " |")
    return "\n".join(lines) + "\n"


def _bd_rate(value: float, share: float) -> str:
    """A BD-rate with the share of the range of quality that it stands for, if that is small."""
    if math.isnan(value) or share < 0.25:
        return f"({100 * share:.0f} %)"
    return f"{value:+.1f} %" + (f" ({100 * share:.0f} %)" if share < 0.7 else "")
