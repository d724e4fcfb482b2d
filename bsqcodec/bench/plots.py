"""Plots of rate and distortion."""

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter

from .metrics import BY_KEY
from .results import Report, quality

_LEGEND_COLUMNS = 3  # of the legend below the plot, for many curves
_LEGEND_ROW = 0.14  # its height per row, inches


def plot(report: Report, key: str) -> Figure | None:
    """The rate-distortion plot of one metric, or None if no curve has it."""
    everything = report.curves | report.published
    shown = {name: c for name, c in everything.items() if quality(c["results"], key) is not None}
    if not shown:
        return None
    legend_rows = -(-len(shown) // _LEGEND_COLUMNS) if report.published else 0
    figure = Figure(figsize=(9, 5 + _LEGEND_ROW * legend_rows), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, curve) in enumerate(shown.items()):
        order = np.argsort(curve["results"]["bpp"])
        rate, value = (np.asarray(v)[order] for v in (curve["results"]["bpp"], quality(curve["results"], key)))
        label = curve["name"] if name in report.curves else name
        axes.plot(rate, value, label=label, gid=f"curve-{key}-{name.replace(' ', '-')}", **_style(report, name, i))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.set_xlabel("bits per pixel (logarithmic)")
    axes.set_ylabel(BY_KEY[key].label)
    axes.grid(alpha=0.3)
    if report.published:
        figure.legend(fontsize=6, loc="outside lower center", ncols=_LEGEND_COLUMNS)
    else:
        axes.legend()
    return figure


def _style(report: Report, name: str, index: int) -> dict[str, Any]:
    """How the line of a curve looks: bold for the codec under test, dashed for published ones."""
    if name not in report.curves:
        return {"linestyle": "--", "linewidth": 0.9, "color": f"C{index % 10}"}
    style: dict[str, Any] = {"marker": "o", "markersize": 4}
    if name == report.subject:
        style |= {"linewidth": 2.4, "color": "black", "zorder": 5}
    return style


def save_plots(report: Report, folder: Path) -> dict[str, str]:
    """Write a PNG and an SVG for each metric; returns key to the SVG element, fit to stand in a page."""
    texts = {}
    for key in report.keys:
        figure = plot(report, key)
        if figure is None:
            continue
        with matplotlib.rc_context({"svg.hashsalt": key, "svg.fonttype": "path"}):
            figure.savefig(folder / f"{report.stem}-{key}.png", dpi=150)
            out = io.StringIO()
            figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        text = out.getvalue()
        (folder / f"{report.stem}-{key}.svg").write_text(text)
        texts[key] = text[text.index("<svg") :]
    return texts
