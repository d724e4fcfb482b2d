"""A report as one HTML page that loads nothing else."""

from html import escape

from .bdrate import bd_quality, bd_rate
from .html_parts import Slider, bullets, document, slider, table
from .metrics import BY_KEY
from .results import Report
from .tables import delta_rows, item_rows, overlap_lines, point_rows, time_rows

_DEFINITIONS = (
    "Rate: all bytes of the coded stream, times 8 over width x height x frames; ours is the whole .bsq file, a video "
    "anchor's the elementary stream with its headers but without a container. Averages: bits per pixel and each metric "
    "are averaged over frames, then over items; MS-SSIM in dB is -10 log10(1 - MS-SSIM) of the averaged MS-SSIM. "
    "BD-rate: PCHIP of log rate over quality, on the qualities that both curves reach; points that cost more for no "
    "more quality are dropped. Every codec gets the same RGB frames and is measured on RGB frames; the video anchors "
    "get BT.709, limited range, bicubic chroma (swscale, accurate rounding). PSNR YUV: full-range BT.709, chroma as "
    "the mean of 2x2 pixels, (6Y+U+V)/8. MS-SSIM and SSIM: mean over R, G and B. Times are wall clock, without "
    "reading the source and without loading the model."
)


def page(report: Report, plots: dict[str, str], crops: list[Slider]) -> str:
    """The report as an HTML document.

    Args:
        report: its tables and words.
        plots: metric key to an SVG element.
        crops: shown side by side, or [].
    """
    facts = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in report.facts)
    parts = [f"<h1>{escape(report.title)}</h1>", f"<pre>{escape(report.command)}</pre>"]
    parts.append(f'<table class="facts"><tbody>{facts}</tbody></table>')
    if report.problems:
        parts.append("<h2>Skipped or failed</h2>" + bullets(map(escape, report.problems)))
    parts.append("<h2>Rate and distortion</h2>")
    parts += [f'<div class="plot" id="plot-{key}">{svg}</div>' for key, svg in plots.items()]
    if crops:
        parts.append("<h2>Side by side at equal rate</h2>")
        parts += [slider(crop, n) for n, crop in enumerate(crops)]
    if len(report.curves) > 1:
        parts += [_comparison(report, key) for key in report.keys]
    parts.append("<h2>Time and memory</h2>" + table(time_rows(report)))
    parts.append("<h2>Points</h2>" + table(point_rows(report)))
    parts.append("<h2>Codecs</h2>" + _codecs(report))
    parts.append(f"<h2>Definitions</h2><p>{escape(_DEFINITIONS)}</p>")
    return document(report.title, parts)


def _comparison(report: Report, key: str) -> str:
    """The section of BD-rates and BD-qualities of one metric."""
    parts = [
        f"<h2>BD-rate, {escape(BY_KEY[key].label)}</h2>",
        "<p>Rate of the row at the quality of the column; less is better.</p>",
        table(delta_rows(report, key)),
        bullets(map(escape, overlap_lines(report, key)), ' class="note"'),
        "<p>Quality of the row at the rate of the column (BD-PSNR and the like); more is better.</p>",
        table(delta_rows(report, key, bd_quality)),
    ]
    for what, function in (("BD-rate", bd_rate), ("Quality at equal rate", bd_quality)):
        rows = table(item_rows(report, key, function))
        parts.append(f"<details><summary>{what} of each item</summary>{rows}</details>")
    return "".join(parts)


def _codecs(report: Report) -> str:
    """A list of what each codec was run with."""
    lines = []
    for curve in report.curves.values():
        points = f"{curve['parameter']} {', '.join(f'{p:g}' for p in curve['points'])}"
        lines.append(f"<b>{escape(curve['name'])}</b> ({escape(points)}): {escape(curve['description'])}")
    return bullets(lines)
