"""Curves of rate and quality: averaged from the runner's records, read from published files, compared, saved."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import BsqError
from .bdrate import Delta, NoComparison, bd_quality, bd_rate
from .codec import Codec
from .datasets import Item
from .metrics import BY_KEY, METRICS
from .registry import REGISTRY
from .runner import Record

Curve = dict[str, Any]  # of one codec, as `averaged` makes it
DeltaTable = dict[str, dict[str, Delta | str]]  # row to column to a difference, or to the reason why there is none
DeltaFunction = Callable[[ArrayLike, ArrayLike, ArrayLike, ArrayLike], Delta]  # bd_rate or bd_quality


@dataclass(frozen=True)
class Report:
    """All numbers and words of a report.

    Attributes:
        title: heading of the page.
        stem: how the names of its files begin.
        command: the command line that makes it.
        facts: (what, value) rows about the run.
        curves: codec name to curve, the codec under test first.
        published: label to a curve of others, of which only "name" and "results" are used.
        keys: keys of the metrics in the results.
        problems: a line for each codec, metric or item that was skipped or failed.
    """

    title: str
    stem: str
    command: str
    facts: list[tuple[str, str]]
    curves: dict[str, Curve]
    published: dict[str, Curve]
    keys: list[str]
    problems: list[str]

    @property
    def subject(self) -> str:
        """Name of the codec under test."""
        return next(iter(self.curves))


def averaged(codec: Codec, items: Iterable[Item], records: Iterable[Record], metrics: Iterable[str]) -> Curve:
    """One codec's curve in CompressAI's format with extra keys beside.

    Args:
        codec: whose records count.
        items: those to average over; every one must have a record of this codec for each point.
        records: without errors.
        metrics: names in METRICS.

    Returns:
        "name", "description", "results" (key to list, points in rising rate: means over items of bits per pixel and of
        each metric, "encoding_time" and "decoding_time" in seconds per item, for videos also "bitrate" in kbit/s),
        "points" (encoder settings), "parameter", "timing", "items" (item name to lists like "results"). A metric that
        some item was too small for is left out.
    """
    fps = {item.name: item.fps for item in items}
    keys = [METRICS[name].key for name in metrics]
    mine = [record for record in records if record["codec"] == codec.name and record["item"] in fps]
    mine.sort(key=lambda record: record["point"], reverse=not codec.rising)
    per_item = {name: _lists([r for r in mine if r["item"] == name], fps[name], keys) for name in fps}
    shared = [k for k in next(iter(per_item.values())) if all(k in lists for lists in per_item.values())]
    return {
        "name": codec.label,
        "description": mine[0]["options"],
        "results": {k: np.mean([lists[k] for lists in per_item.values()], axis=0).tolist() for k in shared},
        "points": list(dict.fromkeys(record["point"] for record in mine)),
        "parameter": codec.parameter,
        "timing": _timing(mine),
        "items": per_item,
    }


def _lists(records: list[Record], fps: float, keys: list[str]) -> dict[str, list[float]]:
    """One item's lists, a value per point; those of metrics that it is too small for (NaN) are left out."""
    lists = {"bpp": [r["bpp"] for r in records]}
    if fps:
        lists["bitrate"] = [r["bytes"] * 8 / 1000 / (r["frames"] / fps) for r in records]
    lists |= {key: [r["metrics"][key] for r in records] for key in keys}
    lists["encoding_time"] = [r["encode_seconds"] for r in records]
    lists["decoding_time"] = [r["decode_seconds"] for r in records]
    return {k: v for k, v in lists.items() if not any(map(math.isnan, v))}


def _timing(records: list[Record]) -> dict[str, Any]:
    """Seconds and memory of one codec over all its records."""
    frames = sum(r["frames"] for r in records)
    return {
        "encode_seconds_per_frame": sum(r["encode_seconds"] for r in records) / frames,
        "decode_seconds_per_frame": sum(r["decode_seconds"] for r in records) / frames,
        "load_seconds": max(r["load_seconds"] for r in records),
        "encode_peak_mib": max(r["encode_peak_mib"] for r in records),
        "decode_peak_mib": max(r["decode_peak_mib"] for r in records),
        "device": records[0]["device"],
        "threads": records[0]["threads"],
    }


def read_published(path: Path, dataset: str) -> tuple[dict[str, Curve], list[str]]:
    """Curves in CompressAI's format from a JSON file or from all in a folder.

    Results with "bitrate" (kbit/s) and no "bpp" are converted where the data set has one size and frame rate.

    Returns:
        "STEM (published)" to curve, and a line for each file that holds none.

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
        values = _with_bits_per_pixel(values, dataset)
        if "bpp" not in values:
            problems.append(f"published {file.name} skipped: no bits per pixel in it")
        elif not _are_curves(values):
            problems.append(f"published {file.name} skipped: its lists are not numbers, or differ in length")
        else:
            found[f"{file.stem} (published)"] = {"name": data.get("name", file.stem), "results": values}
    return found, problems


def _with_bits_per_pixel(values: dict[str, Any], dataset: str) -> dict[str, Any]:
    """The lists, with "bpp" computed from "bitrate" where only that is there and the data set's videos are alike."""
    items = REGISTRY[dataset].items if dataset in REGISTRY else ()
    pixel_rates = {item.width * item.height * item.fps for item in items}  # pixels per second
    if "bpp" in values or "bitrate" not in values or len(pixel_rates) != 1 or 0 in pixel_rates:
        return values
    (pixel_rate,) = pixel_rates
    return values | {"bpp": [b * 1000 / pixel_rate for b in values["bitrate"]]}


def _are_curves(values: dict[str, Any]) -> bool:
    """Whether bits per pixel and all metrics are lists of numbers, of one length."""
    lists = [v for k, v in values.items() if k == "bpp" or k in BY_KEY or k.replace("-db", "") in BY_KEY]
    numbers = all(isinstance(v, list) and all(isinstance(x, int | float) for x in v) for v in lists)
    return numbers and len({len(v) for v in lists}) == 1


def quality(results: dict[str, list[float]], key: str) -> list[float] | None:
    """A metric's list on its scale for comparison (higher is better, MS-SSIM in dB), or None if it is not there."""
    if key in results:
        return [BY_KEY[key].quality(v) for v in results[key]]
    return results.get(key.replace("-rgb", "-db-rgb"))


def deltas(
    curves: dict[str, Curve], references: Iterable[str], key: str, function: DeltaFunction = bd_rate
) -> DeltaTable:
    """Differences by a metric, of every curve (rows) from each of the references (columns) but itself."""
    return {
        row: {column: _delta(curves[column], curve, key, function) for column in references if column != row}
        for row, curve in curves.items()
    }


def _delta(reference: Curve, curve: Curve, key: str, function: DeltaFunction) -> Delta | str:
    """Difference of a curve from a reference, or the reason why there is none."""
    a, b = reference["results"], curve["results"]
    quality_a, quality_b = quality(a, key), quality(b, key)
    if quality_a is None or quality_b is None:
        return "not measured"
    try:
        return function(a["bpp"], quality_a, b["bpp"], quality_b)
    except NoComparison as error:
        return str(error)


def item_deltas(curves: dict[str, Curve], subject: str, key: str, function: DeltaFunction = bd_rate) -> DeltaTable:
    """Differences of the codec `subject` for each item (rows) from each other codec (columns)."""
    table = {}
    references = [name for name in curves if name != subject]
    for item in curves[subject]["items"]:
        one = {name: {"results": curve["items"][item]} for name, curve in curves.items()}
        table[item] = deltas(one, references, key, function)[subject]
    return table


def save_results(report: Report, folder: Path, meta: dict[str, Any]) -> None:
    """Write one JSON file per codec in CompressAI's format, with `meta` beside, and one with the BD tables."""
    for name, curve in report.curves.items():
        _write_json(folder / f"{report.stem}-{name}.json", curve | {"meta": meta | {"command": report.command}})
    everything = report.curves | report.published
    functions = {"bd-rate-percent": bd_rate, "bd-quality": bd_quality}
    tables = {
        key: {name: _plain(deltas(everything, report.curves, key, f)) for name, f in functions.items()}
        for key in report.keys
    }
    per_item = {
        key: {name: _plain(item_deltas(report.curves, report.subject, key, f)) for name, f in functions.items()}
        for key in report.keys
    }
    saved = {"command": report.command, "rows against columns": tables, f"{report.subject}, each item": per_item}
    _write_json(folder / f"{report.stem}-bd.json", saved)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def _plain(table: DeltaTable) -> dict[str, dict[str, Any]]:
    """A table as JSON has it."""
    return {
        row: {column: asdict(v) if isinstance(v, Delta) else {"refused": v} for column, v in cells.items()}
        for row, cells in table.items()
    }
