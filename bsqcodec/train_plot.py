"""Draws the log of a training run."""

import json
from pathlib import Path

from .errors import BsqError

BANDS = ((1, 20), (21, 40), (41, 60), (61, 80), (81, 100))


def draw(path: str) -> str:
    """Rate, PSNR and cost of I, P and B frames by quality over the steps; returns the name of the picture.

    Raises BsqError if there is no such log, or no matplotlib.
    """
    try:
        import matplotlib
    except ImportError:
        raise BsqError("a plot needs matplotlib: pip install 'bsqcodec[bench]'") from None
    matplotlib.use("agg")
    import numpy as np
    from matplotlib import pyplot

    try:
        rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
        steps = np.concatenate([np.full(len(r["cost"]), r["step"]) for r in rows])
        column = {k: np.concatenate([r[k] for r in rows]) for k in ("kind", "quality", "bpp", "mse", "cost")}
    except (OSError, ValueError, KeyError) as e:
        raise BsqError(f"{path} is not the log of a training run") from e
    figure, axes = pyplot.subplots(3, 3, figsize=(18, 10), sharex=True)
    edges = np.linspace(steps[0], steps[-1] + 1, min(60, len(rows)) + 1)
    for kind, letter in enumerate("IPB"):
        for low, high in BANDS:
            chosen = (column["kind"] == kind) & (column["quality"] >= low) & (column["quality"] <= high)
            counts = np.histogram(steps[chosen], edges)[0]
            centre = (edges[1:] + edges[:-1]) / 2
            for axis, name in zip(axes[:, kind], ("bpp", "mse", "cost")):
                with np.errstate(divide="ignore", invalid="ignore"):
                    mean = np.histogram(steps[chosen], edges, weights=column[name][chosen])[0] / counts
                    value = 10 * np.log10(255**2 / mean) if name == "mse" else mean
                axis.plot(centre, value, label=f"quality {low} to {high}")
                axis.set_ylabel({"bpp": "bits a pixel", "mse": "PSNR (dB)", "cost": "cost"}[name])
        axes[0, kind].set_title(letter + " frames")
        axes[2, kind].set_xlabel("step")
    axes[0, 0].legend()
    figure.tight_layout()
    target = f"{path}.png"
    figure.savefig(target)
    return target
