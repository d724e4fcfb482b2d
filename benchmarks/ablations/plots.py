"""Rate-distortion curves of an experiment as one picture."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .measures import MEASURES

TICKS = (0.05, 0.1, 0.2, 0.5, 1)  # bits per pixel


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw every measure over the rate, a line for each variant: the mean of its seeds, and a dot for each run.

    rows: with "variant" and "points", of each level the `MEASURES`. A variant whose measure is NaN is left out.
    """
    figure = Figure(figsize=(15, 5), layout="constrained")
    axes = figure.subplots(1, 3)
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    for i, ax in enumerate(axes, 1):
        for n, variant in enumerate(variants):
            runs = np.array([row["points"] for row in rows if row["variant"] == variant])
            if np.isnan(runs[..., i]).any():
                continue
            colour = f"C{n}"
            ax.plot(*runs.mean(0)[:, [0, i]].T, color=colour, label=variant)
            for run in runs:
                ax.plot(run[:, 0], run[:, i], ".", color=colour)
        ax.set(xscale="log", xlabel=MEASURES[0], ylabel=MEASURES[i] + (" (dB)" if i < 3 else ""))
        ax.set_xticks(TICKS, map(str, TICKS))
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=80)
