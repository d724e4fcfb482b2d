"""A picture of the log of a training run."""

import json
from pathlib import Path

from ..errors import BsqError


def draw(path: str) -> str:
    """Draw rate, PSNR and cost of I, P and B frames over the steps, a line for each band of qualities and tune.

    path: of a log.jsonl. Returns the path of the picture, a PNG file beside it. Raises BsqError if there is no such
    log, or no matplotlib.
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
        curves = sorted({(row["type"], row["active"], row["tune"]) for row in rows})
        column = {
            name: np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=float)
            for name in ("step", "samples", "bpp", "mse", "cost")
        }
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise BsqError(f"{path} is not the log of a training run") from e
    if not rows:
        raise BsqError(f"{path} is not the log of a training run")
    figure, axes = pyplot.subplots(3, 3, figsize=(18, 10), sharex=True)
    steps = column["step"]
    edges = np.linspace(steps[0], steps[-1] + 1, min(60, len(set(steps.tolist()))) + 1)
    centre = (edges[1:] + edges[:-1]) / 2
    for frame_type, active, tune in curves:
        chosen = np.array([(row["type"], row["active"], row["tune"]) == (frame_type, active, tune) for row in rows])
        chosen &= np.isfinite(column["cost"])
        weight = column["samples"][chosen]
        count = np.histogram(steps[chosen], edges, weights=weight)[0]
        for axis, name in zip(axes[:, "IPB".index(frame_type)], ("bpp", "mse", "cost"), strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                mean = np.histogram(steps[chosen], edges, weights=weight * column[name][chosen])[0] / count
                value = 10 * np.log10(255**2 / mean) if name == "mse" else mean
            there = count > 0  # steps take one band each: a curve goes on over those of the others
            axis.plot(centre[there], value[there], label=f"{active} coefficients, {tune}")
            axis.set_ylabel({"bpp": "bits per pixel", "mse": "PSNR (dB)", "cost": "cost"}[name])
    for axis, frame_type in zip(axes.T, "IPB", strict=True):
        axis[0].set_title(f"{frame_type} frames")
        axis[2].set_xlabel("step")
    axes[0, 0].legend()
    figure.tight_layout()
    target = f"{path}.png"
    figure.savefig(target)
    return target
