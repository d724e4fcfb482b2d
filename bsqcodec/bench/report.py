"""Curves to tables, plots and one self-contained HTML page."""

import base64
import functools
import html
import io
import json
import math
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BsqError
from .anchors import Codec
from .bdrate import Delta, NoComparison, bd_quality, bd_rate
from .datasets import REGISTRY, Item, frames_of
from .metrics import BY_KEY, psnr

CROP = 256  # side of the crops, pixels
CROP_ITEMS = 3
CROP_TRIES = 4  # encodes spent to come near the rate


@dataclass
class Report:
    """All that a report shows.

    Attributes:
        title: of the page.
        stem: how its files' names begin.
        command: that makes it.
        facts: (what, value) rows about the run.
        curves: codec name to its result (`runner.results`), the one under test first.
        published: label to a result of others; only its "results" is used.
        keys: metrics, as they are called in the results.
        problems: a line for each codec, metric or item that was skipped or failed.
        crops: from `make_crops`, or [].
    """

    title: str
    stem: str
    command: str
    facts: list[tuple[str, str]]
    curves: dict[str, dict[str, Any]]
    published: dict[str, dict[str, Any]]
    keys: list[str]
    problems: list[str]
    crops: list[dict[str, Any]] = field(default_factory=list)


def read_published(path: Path, dataset: str) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Curves in CompressAI's format from a JSON file or from all in a folder.

    Results with "bitrate" (kbit/s) and no "bpp" are converted where the data set has one size and frame rate.

    Returns:
        "STEM (published)" to result, and a line for each file that holds no curve.

    Raises:
        BsqError: nothing there, or a file is not JSON.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise BsqError(f"no published results in {path}")
    found, problems = {}, []
    for file in files:
        try:
            data = json.loads(file.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
            raise BsqError(f"{file} is not JSON: {error}") from None
        values = data.get("results") if isinstance(data, dict) else None
        if not isinstance(values, dict):
            problems.append(f"published {file.name} skipped: not in CompressAI's format")
            continue
        known = {(s.width * s.height * s.fps) for s in REGISTRY[dataset].items} if dataset in REGISTRY else set()
        if "bpp" not in values and "bitrate" in values and len(known) == 1 and 0 not in known:
            rate = known.pop()
            values = values | {"bpp": [b * 1000 / rate for b in values["bitrate"]]}
        if "bpp" not in values:
            problems.append(f"published {file.name} skipped: no bits a pixel in it")
        elif not _are_curves(values):
            problems.append(f"published {file.name} skipped: its lists are not numbers, or differ in length")
        else:
            found[f"{file.stem} (published)"] = {"name": data.get("name", file.stem), "results": values}
    return found, problems


def _are_curves(values: dict[str, Any]) -> bool:
    """Whether bits a pixel and all metrics are lists of numbers, of one length."""
    lists = [v for k, v in values.items() if k == "bpp" or k in BY_KEY or k.replace("-db", "") in BY_KEY]
    numbers = all(isinstance(v, list) and all(isinstance(x, int | float) for x in v) for v in lists)
    return numbers and len({len(v) for v in lists}) == 1


def quality(results: dict[str, list[float]], key: str) -> list[float] | None:
    """A metric's list on its scale for comparison (higher is better, MS-SSIM in dB), or None if it is not there."""
    if key in results:
        return [BY_KEY[key].quality(v) for v in results[key]]
    return results.get(key.replace("-rgb", "-db-rgb"))


def deltas(curves: dict[str, dict], references: list[str], key: str, function=bd_rate) -> dict[str, dict[str, Any]]:
    """Row (every curve) to column (each reference) to a Delta, or to the reason why there is none."""
    table: dict[str, dict[str, Any]] = {}
    for row, curve in curves.items():
        table[row] = {}
        for column in references:
            if row == column:
                continue
            a, b = curves[column]["results"], curve["results"]
            qa, qb = quality(a, key), quality(b, key)
            if qa is None or qb is None:
                table[row][column] = "not measured"
                continue
            try:
                table[row][column] = function(a["bpp"], qa, b["bpp"], qb)
            except NoComparison as error:
                table[row][column] = str(error)
    return table


def item_deltas(curves: dict[str, dict], subject: str, key: str, function=bd_rate) -> dict[str, dict[str, Any]]:
    """Item to reference codec to the difference of `subject`, as in `deltas`."""
    table = {}
    references = [name for name in curves if name != subject]
    for item in curves[subject]["items"]:
        one = {name: {"results": curve["items"][item]} for name, curve in curves.items()}
        table[item] = deltas(one, references, key, function)[subject]
    return table


def save_results(report: Report, folder: Path, meta: dict[str, Any]) -> list[Path]:
    """One JSON file a codec in CompressAI's format, and one with the BD tables."""
    paths = []
    for name, curve in report.curves.items():
        paths.append(folder / f"{report.stem}-{name}.json")
        paths[-1].write_text(json.dumps(curve | {"meta": meta | {"command": report.command}}, indent=1) + "\n")
    everything = report.curves | report.published
    tables = {
        key: {
            "bd-rate-percent": _plain(deltas(everything, list(report.curves), key)),
            "bd-quality": _plain(deltas(everything, list(report.curves), key, bd_quality)),
        }
        for key in report.keys
    }
    subject = next(iter(report.curves))
    per_item = {
        key: {
            "bd-rate-percent": _plain(item_deltas(report.curves, subject, key)),
            "bd-quality": _plain(item_deltas(report.curves, subject, key, bd_quality)),
        }
        for key in report.keys
    }
    paths.append(folder / f"{report.stem}-bd.json")
    saved = {"command": report.command, "rows against columns": tables, f"{subject}, each item": per_item}
    paths[-1].write_text(json.dumps(saved, indent=1) + "\n")
    return paths


def _plain(table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        row: {column: asdict(v) if isinstance(v, Delta) else {"refused": v} for column, v in cells.items()}
        for row, cells in table.items()
    }


def plot(report: Report, key: str):
    """The rate-distortion plot of one metric as a matplotlib figure, or None if no curve has it."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, ScalarFormatter

    everything = report.curves | report.published
    shown = {name: c for name, c in everything.items() if quality(c["results"], key) is not None}
    if not shown:
        return None
    rows = -(-len(shown) // 3) if report.published else 0  # of a legend below the plot
    figure = Figure(figsize=(9, 5 + 0.14 * rows), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, curve) in enumerate(shown.items()):
        own = name in report.curves
        style: dict[str, Any] = {"marker": "o", "markersize": 4} if own else {"linestyle": "--", "linewidth": 0.9}
        if name == next(iter(report.curves)):
            style |= {"linewidth": 2.4, "color": "black", "zorder": 5}
        elif not own:
            style["color"] = f"C{i % 10}"
        order = np.argsort(curve["results"]["bpp"])
        rate, value = (np.asarray(v)[order] for v in (curve["results"]["bpp"], quality(curve["results"], key)))
        label = curve["name"] if own else name
        axes.plot(rate, value, label=label, gid=f"curve-{key}-{name.replace(' ', '-')}", **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.set_xlabel("bits a pixel (logarithmic)")
    axes.set_ylabel(BY_KEY[key].label)
    axes.grid(alpha=0.3)
    if report.published:
        figure.legend(fontsize=6, loc="outside lower center", ncols=3)
    else:
        axes.legend()
    return figure


def save_plots(report: Report, folder: Path) -> dict[str, str]:
    """Writes a PNG and an SVG a metric; returns key to the SVG's text, fit to stand in a page."""
    import matplotlib

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


def make_crops(codecs: list[Codec], items: list[Item], curves: dict[str, dict], frames: int) -> list[dict[str, Any]]:
    """Crops of up to CROP_ITEMS items, each codec as near as it comes to the rate of the first codec's middle point.

    Returns:
        For each item {"item", "frame", "images": [(label, caption, PNG bytes)]}, the source first.
    """
    from tqdm import tqdm

    chosen = [items[i] for i in sorted({round(i) for i in np.linspace(0, len(items) - 1, CROP_ITEMS)})]
    out = []
    for item in tqdm(chosen, desc="crops", unit="item", disable=None):
        first = curves[codecs[0].name]["items"][item.name]["bpp"]
        target = first[len(first) // 2]
        source = list(frames_of(Path(item.path), frames or None))
        index = len(source) // 2
        box = _busiest(source[index])
        images = [("source", "", _png(source[index][box]))]
        for codec in codecs:
            curve = curves[codec.name]
            rates = curve["items"][item.name]["bpp"]
            chunks, rate, point = _at_rate(codec, item, source, target, curve["points"], rates)
            decoded = next(frame for i, frame in enumerate(codec.decode(chunks, item.height, item.width)) if i == index)
            caption = f"{rate:.3f} bpp, {psnr(source[index], decoded):.2f} dB, {codec.parameter} {point:g}"
            images.append((codec.label, caption, _png(decoded[box])))
        out.append({"item": item.name, "frame": index, "images": images})
    return out


def _at_rate(codec: Codec, item: Item, source: list[np.ndarray], target: float, points, rates):
    """Bytes, bits a pixel and point of the encoding nearest to `target` bits a pixel, by bisection from the curve."""
    pixels = item.width * item.height * len(source)

    @functools.cache
    def encode(point: float):
        codec.load()
        chunks = codec.encode(iter(source), item.fps, point)
        return chunks, sum(map(len, chunks)) * 8 / pixels, point

    best = min(range(len(rates)), key=lambda i: abs(math.log(rates[i] / target)))
    found = [encode(points[best])]
    below = max((p for p, r in zip(points, rates) if r <= target), key=_rising(codec), default=None)
    above = min((p for p, r in zip(points, rates) if r > target), key=_rising(codec), default=None)
    while below is not None and above is not None and abs(above - below) > 1 and len(found) <= CROP_TRIES:
        middle = round((below + above) / 2)
        found.append(encode(middle))
        if found[-1][1] <= target:
            below = middle
        else:
            above = middle
    return min(found, key=lambda f: abs(math.log(f[1] / target)))


def _rising(codec: Codec):
    return lambda point: point if codec.rising else -point


def _busiest(frame: np.ndarray) -> tuple[slice, slice]:
    """The CROP x CROP window, on a grid of half its side, with the most gradient."""
    luma = frame.astype(np.float32).mean(2)
    energy = np.abs(np.diff(luma, axis=0))[:, :-1] + np.abs(np.diff(luma, axis=1))[:-1]
    h, w = min(CROP, frame.shape[0]), min(CROP, frame.shape[1])
    corners = [
        (y, x) for y in range(0, frame.shape[0] - h + 1, CROP // 2) for x in range(0, frame.shape[1] - w + 1, CROP // 2)
    ]
    y, x = max(corners, key=lambda c: float(energy[c[0] : c[0] + h, c[1] : c[1] + w].sum()))
    return slice(y, y + h), slice(x, x + w)


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", optimize=True)
    return out.getvalue()


def machine() -> str:
    """Processor and number of cores, for the timings."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores"


_UNITS = {bd_rate: ("%", 1), bd_quality: ("", 2)}  # unit and digits


def _cell(value: Any, unit: str, digits: int) -> str:
    return f"{value.value:+.{digits}f} {unit}" if isinstance(value, Delta) else "–"


def point_rows(report: Report) -> list[list[str]]:
    """Header and one row for each point of each codec."""
    keys = [k for k in report.keys if any(k in c["results"] for c in report.curves.values())]
    rows = [["codec", "point", "bpp", *(BY_KEY[k].label for k in keys), "encode s", "decode s"]]
    for curve in report.curves.values():
        r = curve["results"]
        for i, point in enumerate(curve["points"]):
            values = [_number(BY_KEY[k].quality(r[k][i])) if k in r else "–" for k in keys]
            times = [f"{r[k][i]:.3f}" for k in ("encoding_time", "decoding_time")]
            rows.append([curve["name"], f"{point:g}", f"{r['bpp'][i]:.4f}", *values, *times])
    return rows


def _number(value: float) -> str:
    return "inf" if math.isinf(value) else f"{value:.3f}"


def delta_rows(report: Report, key: str, function=bd_rate) -> list[list[str]]:
    """Header and one row for each curve: its difference from each codec that was run here."""
    published = {n: c for n, c in report.published.items() if quality(c["results"], key) is not None}
    table = deltas(report.curves | published, list(report.curves), key, function)
    unit, digits = _UNITS[function]
    rows = [["", *(f"against {c['name']}" for c in report.curves.values())]]
    for name, cells in table.items():
        label = report.curves[name]["name"] if name in report.curves else name
        rows.append([label, *(_cell(cells[c], unit, digits) if c in cells else "" for c in report.curves)])
    return rows


def refusals(report: Report, key: str) -> list[str]:
    """Overlap of each comparison of the first codec, or why there is none."""
    subject = next(iter(report.curves))
    lines = []
    for name, value in deltas(report.curves, list(report.curves), key)[subject].items():
        pair = f"{report.curves[subject]['name']} against {report.curves[name]['name']}"
        if isinstance(value, Delta):
            lines.append(f"{pair}: over {value.low:.2f} to {value.high:.2f}, {value.share:.0%} of both ranges")
        else:
            lines.append(f"{pair}: not computed, {value}")
    return lines


def item_rows(report: Report, key: str, function=bd_rate) -> list[list[str]]:
    """Header, one row for each item: difference of the first codec from each other; and the mean of what there is."""
    subject = next(iter(report.curves))
    table = item_deltas(report.curves, subject, key, function)
    unit, digits = _UNITS[function]
    rows = [["item", *(f"against {c['name']}" for n, c in report.curves.items() if n != subject)]]
    for item, cells in table.items():
        rows.append([item, *(_cell(v, unit, digits) for v in cells.values())])
    mean = ["mean"]
    for column in zip(*(cells.values() for cells in table.values())):
        values = [v.value for v in column if isinstance(v, Delta)]
        mean.append(f"{np.mean(values):+.{digits}f} {unit} ({len(values)} items)" if values else "no item")
    return [*rows, mean]


def time_rows(report: Report) -> list[list[str]]:
    """Header and one row a codec: time a frame, rate of frames, memory."""
    rows = [["codec", "encode", "decode", "model load", "peak memory, encode / decode", "device", "threads"]]
    for curve in report.curves.values():
        t = curve["timing"]
        speeds = []
        for key in ("encode_seconds_per_frame", "decode_seconds_per_frame"):
            speeds.append(f"{t[key]:.4f} s a frame, {1 / max(t[key], 1e-9):.1f} fps")
        memory = f"{t['encode_peak_mib']:.0f} / {t['decode_peak_mib']:.0f} MiB"
        load = f"{t['load_seconds']:.2f} s" if t["load_seconds"] else "–"
        rows.append([curve["name"], *speeds, load, memory, t["device"], str(t["threads"])])
    return rows


def text_table(rows: list[list[str]]) -> str:
    """Rows as lines of aligned columns, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def terminal(report: Report) -> str:
    """The tables for a terminal."""
    parts = [report.title, text_table(point_rows(report))]
    if len(report.curves) > 1:
        for key in report.keys:
            parts.append(
                f"BD-rate of rows against columns, {BY_KEY[key].label}\n" + text_table(delta_rows(report, key))
            )
    parts.append(text_table(time_rows(report)))
    return "\n\n".join(parts)


def _html_table(rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(c)}</th>" for c in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows[1:])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _html_crops(crops: list[dict[str, Any]]) -> str:
    parts = []
    for n, crop in enumerate(crops):
        names = [f"{label}: {caption}" if caption else label for label, caption, _ in crop["images"]]
        urls = ["data:image/png;base64," + base64.b64encode(data).decode() for *_, data in crop["images"]]
        choose = [
            "".join(
                f"<option{' selected' if i == k else ''}>{html.escape(name)}</option>" for i, name in enumerate(names)
            )
            for k in (1, min(2, len(names) - 1))
        ]
        stored = "".join(f'<img alt="{html.escape(name)}" src="{url}">' for name, url in zip(names, urls))
        frame = f", frame {crop['frame']}" if crop["frame"] else ""
        parts.append(
            f'<figure class="crop" id="crop-{n}"><figcaption>{html.escape(crop["item"])}{frame}</figcaption>'
            f'<div class="pair"><img class="right" alt=""><img class="left" alt=""><div class="line"></div></div>'
            f'<input type="range" min="0" max="100" value="50" aria-label="divide between left and right">'
            f'<div class="choice"><label>left <select class="pick-left">{choose[0]}</select></label> '
            f'<label>right <select class="pick-right">{choose[1]}</select></label></div>'
            f'<div class="stored" hidden>{stored}</div></figure>'
        )
    return "".join(parts)


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
    "anchor's the elementary stream with its headers but without a container. Averages: bits a pixel and each metric "
    "are averaged over frames, then over items; MS-SSIM in dB is -10 log10(1 - MS-SSIM) of the averaged MS-SSIM. "
    "BD-rate: PCHIP of log rate over quality, on the qualities that both curves reach; points that cost more for no "
    "more quality are dropped. Every codec gets the same RGB frames and is measured on RGB frames; the video anchors "
    "get BT.709, limited range, bicubic chroma (swscale, accurate rounding). PSNR YUV: full-range BT.709, chroma as "
    "the mean of 2x2 pixels, (6Y+U+V)/8. MS-SSIM and SSIM: mean over R, G and B. Times are wall clock, without "
    "reading the source and without loading the model."
)


def page(report: Report, plots: dict[str, str]) -> str:
    """The whole report as one HTML document that loads nothing else."""
    e = html.escape
    facts = "".join(f"<tr><td>{e(k)}</td><td>{e(v)}</td></tr>" for k, v in report.facts)
    parts = [f"<h1>{e(report.title)}</h1>", f"<pre>{e(report.command)}</pre>"]
    parts.append(f'<table class="facts"><tbody>{facts}</tbody></table>')
    if report.problems:
        parts.append("<h2>Skipped or failed</h2><ul>" + "".join(f"<li>{e(p)}</li>" for p in report.problems) + "</ul>")
    parts.append("<h2>Rate and distortion</h2>")
    parts += [f'<div class="plot" id="plot-{key}">{svg}</div>' for key, svg in plots.items()]
    if report.crops:
        parts.append("<h2>Side by side at equal rate</h2>" + _html_crops(report.crops))
    if len(report.curves) > 1:
        for key in report.keys:
            label = e(BY_KEY[key].label)
            parts.append(
                f"<h2>BD-rate, {label}</h2><p>Rate of the row at the quality of the column; less is better.</p>"
            )
            parts.append(_html_table(delta_rows(report, key)))
            parts.append(
                '<ul class="note">' + "".join(f"<li>{e(line)}</li>" for line in refusals(report, key)) + "</ul>"
            )
            parts.append("<p>Quality of the row at the rate of the column (BD-PSNR and the like); more is better.</p>")
            parts.append(_html_table(delta_rows(report, key, bd_quality)))
            for what, function in (("BD-rate", bd_rate), ("Quality at equal rate", bd_quality)):
                parts.append(f"<details><summary>{what} of each item</summary>")
                parts.append(_html_table(item_rows(report, key, function)) + "</details>")
    parts.append("<h2>Time and memory</h2>" + _html_table(time_rows(report)))
    parts.append("<h2>Points</h2>" + _html_table(point_rows(report)))
    options = "".join(
        f"<li><b>{e(c['name'])}</b> ({e(c['parameter'])} {e(', '.join(f'{p:g}' for p in c['points']))}): "
        f"{e(c['description'])}</li>"
        for c in report.curves.values()
    )
    parts.append(f"<h2>Codecs</h2><ul>{options}</ul><h2>Definitions</h2><p>{e(_DEFINITIONS)}</p>")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{e(report.title)}</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}<script>{_SCRIPT}</script></body></html>\n"
    )
