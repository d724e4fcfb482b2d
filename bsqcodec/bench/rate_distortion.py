"""The benchmark of rate and distortion, from the options of the command line to the report."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import BsqError
from ..settings import EncodeSettings
from . import anchors, datasets, metrics, runner
from .codec import BenchSettings, Codec
from .crops import make_crops
from .datasets import Item, Listing
from .machine import processor
from .page import page
from .plots import save_plots
from .registry import REGISTRY
from .results import Curve, Report, averaged, read_published, save_results
from .tables import terminal

Tell = Callable[[str], None]
Points = dict[str, tuple[float, ...]]  # codec name to points


@dataclass(frozen=True)
class Plan:
    """A plan of a comparison: codecs, items, points and metrics.

    Attributes:
        listing: the items.
        settings: of all codecs.
        codecs: the codec under test first.
        points: of the codecs that do not run with their default ones.
        metrics: names in METRICS.
        frames: largest number of frames that are coded of an item; 0 is all.
        published: label to a curve of others.
        problems: a line for each codec, metric or published file that is left out.
    """

    listing: Listing
    settings: BenchSettings
    codecs: list[Codec]
    points: Points
    metrics: tuple[str, ...]
    frames: int
    published: dict[str, Curve]
    problems: list[str]


def bench(options: dict[str, Any], command: str, tell: Tell) -> tuple[str, bool]:
    """Run the benchmark and write its files into `options["out"]`.

    Args:
        options: those of `bsqcodec bench`, by name.
        command: the command line, as results state it.
        tell: called with each line about something that was left out.

    Returns:
        The report's tables for a terminal, and whether something failed.

    Raises:
        MissingDataSet: a registered set is not on this disk.
        BsqError: unknown names, or nothing is left to compare.
    """
    plan = make_plan(options)
    for line in (*plan.problems, *plan.listing.problems):
        tell(line)
    folder = Path(options["out"])
    tasks = runner.tasks_for(
        plan.listing.items, plan.codecs, plan.points, plan.metrics, plan.frames, options["threads"]
    )
    with tqdm(total=len(tasks), desc=plan.listing.name, unit="point", disable=None) as bar:
        records = runner.run(tasks, folder, options["jobs"], options["dask"], lambda record: bar.update())
    failures = list(dict.fromkeys(f"{r['item']}, {r['codec']}: {r['error']}" for r in records if "error" in r))
    for line in failures:
        tell(line)
    bad = {r["item"] for r in records if "error" in r}
    items = [item for item in plan.listing.items if item.name not in bad]
    if not items:
        raise BsqError("no item was coded by every codec, so there is nothing to average")
    meta = _meta(plan, items, max(r.get("frames", 0) for r in records))
    report = _report(plan, items, records, meta, failures, command)
    save_results(report, folder, meta)
    plots = save_plots(report, folder)
    crops = make_crops(plan.codecs, items, report.curves, plan.frames) if options["crops"] else []
    target = folder / f"{report.stem}.html"
    target.write_text(page(report, plots, crops))
    return f"{terminal(report)}\n\nreport: {target}", bool(failures or plan.listing.problems)


def make_plan(options: dict[str, Any]) -> Plan:
    """Find the data set, the codecs and the metrics. Raises as `bench` does."""
    names, problems = metrics.select(options["metrics"])
    anchors.check_known((*options["codecs"], *options["points"]))
    if not names:
        raise BsqError("no metric left: " + "; ".join(problems))
    listing = datasets.load(options["dataset"], options["root"], options["download"], options["items"])
    settings = BenchSettings(
        ours=EncodeSettings(gop=options["gop"], tune=options["tune"], model=options["model"]),
        mode=options["anchor_mode"],
        pixel_format=options["pixel_format"],
        device=options["device"],
    )
    codecs, skipped = anchors.select(options["codecs"] or anchors.DEFAULTS[listing.kind], settings)
    if not codecs:
        raise BsqError("no codec left: " + "; ".join(skipped))
    points = options["points"]
    if options["qualities"]:
        points = {"bsq": options["qualities"], "bsq-search": options["qualities"]} | points
    published: dict[str, Curve] = {}
    notes: list[str] = []
    for path in options["published"]:
        curves, lines = read_published(Path(path), options["dataset"])
        published |= curves
        notes += lines
    frames = 1 if listing.kind == "image" else options["frames"]
    return Plan(listing, settings, codecs, points, names, frames, published, [*problems, *skipped, *notes])


def _meta(plan: Plan, items: list[Item], frames: int) -> dict[str, Any]:
    """Facts of a run that its result files state; `frames` is the largest number that was coded of an item."""
    meta = {
        "dataset": plan.listing.name,
        "items": len(items),
        "frames": frames,
        "sizes": sorted({f"{i.width}x{i.height}" for i in items}),
    }
    if plan.listing.kind == "video":
        meta |= {
            "fps": sorted({i.fps for i in items}),
            "gop": plan.settings.ours.gop,
            "anchor mode": plan.settings.mode,
            "pixel format of the anchors": plan.settings.pixel_format,
        }
    return meta


def _report(
    plan: Plan,
    items: list[Item],
    records: Iterable[runner.Record],
    meta: dict[str, Any],
    failures: list[str],
    command: str,
) -> Report:
    """Average the records of all items and put them beside the facts."""
    name = plan.listing.name
    facts = [(k, ", ".join(f"{x}" for x in v) if isinstance(v, list) else str(v)) for k, v in meta.items()]
    problems = [*plan.problems, *plan.listing.problems, *failures]
    if name in REGISTRY:
        facts.append(("source", REGISTRY[name].source))
        whole = REGISTRY[name].count
        if plan.published and len(items) < whole:
            averages = f"the published curves are averages over {whole} items, those of this run over {len(items)}"
            problems.append(averages)
    facts.append(("machine", processor()))
    return Report(
        title=f"Rate and distortion: {name}",
        stem=_stem(plan),
        command=command,
        facts=facts,
        curves={codec.name: averaged(codec, items, records, plan.metrics) for codec in plan.codecs},
        published=plan.published,
        keys=[metrics.METRICS[name].key for name in plan.metrics],
        problems=problems,
    )


def _stem(plan: Plan) -> str:
    """Beginning of the names of a run's files, which tells apart options that are not at their defaults."""
    stem = plan.listing.name
    if plan.listing.kind == "video":
        stem += "-random-access" if plan.settings.mode == "random-access" else ""
        stem += "-yuv444p" if plan.settings.pixel_format == "yuv444p" else ""
    return stem
