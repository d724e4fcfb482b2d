"""The tables of a report: rows of text, a header first, and how they look on a terminal."""

import math

import numpy as np

from .bdrate import Delta, bd_quality, bd_rate
from .metrics import BY_KEY
from .results import DeltaFunction, Report, deltas, item_deltas, quality

Rows = list[list[str]]

_DASH = "-"  # in place of a value that is not there
_UNITS: dict[DeltaFunction, tuple[str, int]] = {bd_rate: ("%", 1), bd_quality: ("", 2)}  # unit and digits


def point_rows(report: Report) -> Rows:
    """A row for each point of each codec: rate, metrics, seconds."""
    keys = [k for k in report.keys if any(k in c["results"] for c in report.curves.values())]
    rows = [["codec", "point", "bpp", *(BY_KEY[k].label for k in keys), "encode s", "decode s"]]
    for curve in report.curves.values():
        r = curve["results"]
        for i, point in enumerate(curve["points"]):
            values = [_number(BY_KEY[k].quality(r[k][i])) if k in r else _DASH for k in keys]
            times = [f"{r[k][i]:.3f}" for k in ("encoding_time", "decoding_time")]
            rows.append([curve["name"], f"{point:g}", f"{r['bpp'][i]:.4f}", *values, *times])
    return rows


def _number(value: float) -> str:
    return "inf" if math.isinf(value) else f"{value:.3f}"


def delta_rows(report: Report, key: str, function: DeltaFunction = bd_rate) -> Rows:
    """A row for each curve: its difference by a metric from each codec that was run here."""
    published = {n: c for n, c in report.published.items() if quality(c["results"], key) is not None}
    table = deltas(report.curves | published, report.curves, key, function)
    rows = [["", *(f"against {c['name']}" for c in report.curves.values())]]
    for name, cells in table.items():
        label = report.curves[name]["name"] if name in report.curves else name
        rows.append([label, *(_cell(cells[c], function) if c in cells else "" for c in report.curves)])
    return rows


def _cell(value: Delta | str, function: DeltaFunction) -> str:
    unit, digits = _UNITS[function]
    return f"{value.value:+.{digits}f} {unit}" if isinstance(value, Delta) else _DASH


def overlap_lines(report: Report, key: str) -> list[str]:
    """A line for each comparison of the first codec: the range that both curves cover, or why there is none."""
    lines = []
    for name, value in deltas(report.curves, report.curves, key)[report.subject].items():
        pair = f"{report.curves[report.subject]['name']} against {report.curves[name]['name']}"
        if isinstance(value, Delta):
            lines.append(f"{pair}: over {value.low:.2f} to {value.high:.2f}, {value.share:.0%} of both ranges")
        else:
            lines.append(f"{pair}: not computed, {value}")
    return lines


def item_rows(report: Report, key: str, function: DeltaFunction = bd_rate) -> Rows:
    """A row for each item: difference of the first codec from each other; and the mean of those that exist."""
    table = item_deltas(report.curves, report.subject, key, function)
    unit, digits = _UNITS[function]
    rows = [["item", *(f"against {c['name']}" for n, c in report.curves.items() if n != report.subject)]]
    for item, cells in table.items():
        rows.append([item, *(_cell(v, function) for v in cells.values())])
    mean = ["mean"]
    for column in zip(*(cells.values() for cells in table.values()), strict=True):
        values = [v.value for v in column if isinstance(v, Delta)]
        mean.append(f"{np.mean(values):+.{digits}f} {unit} ({len(values)} items)" if values else "no item")
    return [*rows, mean]


def time_rows(report: Report) -> Rows:
    """A row for each codec: seconds per frame, frames per second, memory."""
    rows = [["codec", "encode", "decode", "model load", "peak memory, encode / decode", "device", "threads"]]
    for curve in report.curves.values():
        t = curve["timing"]
        speeds = []
        for key in ("encode_seconds_per_frame", "decode_seconds_per_frame"):
            speeds.append(f"{t[key]:.4f} s per frame, {1 / max(t[key], 1e-9):.1f} fps")
        memory = f"{t['encode_peak_mib']:.0f} / {t['decode_peak_mib']:.0f} MiB"
        load = f"{t['load_seconds']:.2f} s" if t["load_seconds"] else _DASH
        rows.append([curve["name"], *speeds, load, memory, t["device"], str(t["threads"])])
    return rows


def text_table(rows: Rows) -> str:
    """Rows as lines of aligned columns, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def terminal(report: Report) -> str:
    """The report's main tables for a terminal."""
    parts = [report.title, text_table(point_rows(report))]
    if len(report.curves) > 1:
        for key in report.keys:
            heading = f"BD-rate of rows against columns, {BY_KEY[key].label}"
            parts.append(f"{heading}\n{text_table(delta_rows(report, key))}")
    parts.append(text_table(time_rows(report)))
    return "\n\n".join(parts)
