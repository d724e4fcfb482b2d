"""A report as one HTML page that loads nothing else."""

import base64
from collections.abc import Iterable
from html import escape

from .bdrate import bd_quality, bd_rate
from .crops import Crop
from .metrics import BY_KEY
from .results import Report
from .tables import Rows, delta_rows, item_rows, overlap_lines, point_rows, time_rows

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem} h2{font-size:1.25rem;margin-top:2.5rem}
pre{background:#8882;padding:.8rem;overflow-x:auto;border-radius:6px}
.wide{overflow-x:auto} table{border-collapse:collapse;font-size:.85rem;margin:.6rem 0}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #8884;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
.facts td:last-child{text-align:left;white-space:normal}
.plot{background:#fff;border-radius:6px;margin:1rem 0;overflow-x:auto} .plot svg{max-width:100%;height:auto}
.note{font-size:.85rem;opacity:.8} .crop{margin:1.5rem 0}
.pair{position:relative;width:512px;max-width:100%;margin:.4rem 0}
.pair img{width:100%;display:block;image-rendering:pixelated} .pair .left{position:absolute;inset:0}
.pair .line{position:absolute;top:0;bottom:0;width:2px;background:#fff;box-shadow:0 0 3px #000}
.crop input{width:512px;max-width:100%} .choice label{margin-right:1rem;font-size:.85rem}
"""

_SCRIPT = """
for (const crop of document.querySelectorAll('.crop')) {
  const get = s => crop.querySelector(s), stored = crop.querySelectorAll('.stored img');
  const draw = () => {
    const x = get('input').value;
    get('.left').src = stored[get('.pick-left').selectedIndex].src;
    get('.right').src = stored[get('.pick-right').selectedIndex].src;
    get('.left').style.clipPath = `inset(0 ${100 - x}% 0 0)`;
    get('.line').style.left = `calc(${x}% - 1px)`;
  };
  for (const e of crop.querySelectorAll('input, select')) e.addEventListener('input', draw);
  draw();
}
"""

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


def page(report: Report, plots: dict[str, str], crops: list[Crop]) -> str:
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
        parts.append("<h2>Skipped or failed</h2>" + _list(map(escape, report.problems)))
    parts.append("<h2>Rate and distortion</h2>")
    parts += [f'<div class="plot" id="plot-{key}">{svg}</div>' for key, svg in plots.items()]
    if crops:
        parts.append("<h2>Side by side at equal rate</h2>")
        parts += [_crop(crop, n) for n, crop in enumerate(crops)]
    if len(report.curves) > 1:
        parts += [_comparison(report, key) for key in report.keys]
    parts.append("<h2>Time and memory</h2>" + _table(time_rows(report)))
    parts.append("<h2>Points</h2>" + _table(point_rows(report)))
    parts.append("<h2>Codecs</h2>" + _codecs(report))
    parts.append(f"<h2>Definitions</h2><p>{escape(_DEFINITIONS)}</p>")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(report.title)}</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}<script>{_SCRIPT}</script></body></html>\n"
    )


def _comparison(report: Report, key: str) -> str:
    """The section of BD-rates and BD-qualities of one metric."""
    parts = [
        f"<h2>BD-rate, {escape(BY_KEY[key].label)}</h2>",
        "<p>Rate of the row at the quality of the column; less is better.</p>",
        _table(delta_rows(report, key)),
        _list(map(escape, overlap_lines(report, key)), ' class="note"'),
        "<p>Quality of the row at the rate of the column (BD-PSNR and the like); more is better.</p>",
        _table(delta_rows(report, key, bd_quality)),
    ]
    for what, function in (("BD-rate", bd_rate), ("Quality at equal rate", bd_quality)):
        rows = _table(item_rows(report, key, function))
        parts.append(f"<details><summary>{what} of each item</summary>{rows}</details>")
    return "".join(parts)


def _codecs(report: Report) -> str:
    """A list of what each codec was run with."""
    lines = []
    for curve in report.curves.values():
        points = f"{curve['parameter']} {', '.join(f'{p:g}' for p in curve['points'])}"
        lines.append(f"<b>{escape(curve['name'])}</b> ({escape(points)}): {escape(curve['description'])}")
    return _list(lines)


def _list(lines: Iterable[str], attributes: str = "") -> str:
    return f"<ul{attributes}>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"


def _table(rows: Rows) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows[1:])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _crop(crop: Crop, number: int) -> str:
    """Two of a crop's images on top of each other, with a slider between them and menus to choose them.

    The first two are those of our codec and of the one after it.
    """
    names = [escape(f"{label}: {caption}" if caption else label) for label, caption, _ in crop.images]
    urls = ["data:image/png;base64," + base64.b64encode(png).decode() for *_, png in crop.images]
    stored = "".join(f'<img alt="{name}" src="{url}">' for name, url in zip(names, urls, strict=True))
    frame = f", frame {crop.frame}" if crop.frame else ""
    left, right = _menu(names, 1), _menu(names, min(2, len(names) - 1))
    return (
        f'<figure class="crop" id="crop-{number}"><figcaption>{escape(crop.item)}{frame}</figcaption>'
        '<div class="pair"><img class="right" alt=""><img class="left" alt=""><div class="line"></div></div>'
        '<input type="range" min="0" max="100" value="50" aria-label="divide between left and right">'
        f'<div class="choice"><label>left <select class="pick-left">{left}</select></label> '
        f'<label>right <select class="pick-right">{right}</select></label></div>'
        f'<div class="stored" hidden>{stored}</div></figure>'
    )


def _menu(names: list[str], chosen: int) -> str:
    return "".join(f"<option{' selected' if i == chosen else ''}>{name}</option>" for i, name in enumerate(names))
