"""Command line of the benchmark: `bsqcodec bench` and `bsqcodec compare`."""

import shlex
from pathlib import Path
from typing import Any

import click

from ..settings import DEFAULT_MODEL, TUNES, TUNES_HELP

IMAGE_METRICS = "psnr,psnr-yuv,ms-ssim,ssim"


def _names(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (value or "").split(",") if name.strip())


def _numbers(context: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in (value or "").split(",") if number.strip())
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,50,100") from None


def _points(context: click.Context, option: click.Parameter, value: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    points = {}
    for text in value:
        name, _, numbers = text.partition("=")
        points[name] = _numbers(context, option, numbers)
        if not points[name]:
            raise click.BadParameter(f"{text!r} does not look like h264=22,27,32,37")
    return points


def _sizes(context: click.Context, option: click.Parameter, value: str) -> tuple[tuple[int, int], ...]:
    try:
        pairs = [tuple(int(side) for side in text.split("x")) for text in value.split(",")]
        if all(len(pair) == 2 and min(pair) > 1 and max(pair) <= 65535 for pair in pairs):
            return tuple((width, height) for width, height in pairs)
    except ValueError:
        pass
    raise click.BadParameter(f"{value!r} is not a list of sizes such as 416x240,640x360")


@click.command()
@click.option("--dataset", help="Registered name (kodak, uvg, ...) or path of a file or folder.")
@click.option("--speed", is_flag=True, help="Time in place of rate and distortion; --dataset may be a file.")
@click.option(
    "--sizes",
    callback=_sizes,
    default="416x240,640x360,1280x720,1920x1080",
    show_default=True,
    help="Of the videos of --speed.",
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Of --speed; the median counts.")
@click.option("--peers/--no-peers", default=True, help="Time other codecs with --speed.")
@click.option(
    "--root", type=click.Path(file_okay=False), help="Folder of the data sets [default: $BSQCODEC_DATA, data]."
)
@click.option("--download", is_flag=True, help="Fetch what is missing, where that is possible.")
@click.option("--items", callback=_names, help="Only these items, for example 'kodim0*,kodim23'.")
@click.option(
    "--codecs", callback=_names, help="Codecs, ours first [default: bsq and the usual anchors; not bsq-search]."
)
@click.option("--metrics", callback=_names, default=IMAGE_METRICS, show_default=True, help="Metrics.")
@click.option("--qualities", callback=_numbers, help="Our points, 1..100 [default: 1,10,20,...,100].")
@click.option("--points", multiple=True, callback=_points, help="Points of a codec: h264=22,27,32,37. Repeatable.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Our model: a name or a file.")
@click.option("--device", default="cpu", show_default=True, help="Of our codec: auto, cpu or cuda.")
@click.option(
    "--tune",
    type=click.Choice(TUNES),
    default=TUNES[0],
    show_default=True,
    help=f"What our codec spends bits on. {TUNES_HELP}",
)
@click.option("--frames", type=click.IntRange(0), default=96, show_default=True, help="Frames of a video; 0 is all.")
@click.option("--gop", type=click.IntRange(1), default=32, show_default=True, help="Frames from I frame to I frame.")
@click.option(
    "--anchor-mode",
    type=click.Choice(["low-delay", "random-access"]),
    default="low-delay",
    show_default=True,
    help="No B frames and the same GOP, or the encoders' own defaults.",
)
@click.option(
    "--pixel-format",
    type=click.Choice(["yuv420p", "yuv444p"]),
    default="yuv420p",
    show_default=True,
    help="Of the video anchors.",
)
@click.option(
    "--published", multiple=True, type=click.Path(), help="JSON file or folder with others' curves. Repeatable."
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Of torch in each process; without it --speed tries 1 and 2.",
)
@click.option("--dask", default="", help="Address of a dask.distributed scheduler to work on.")
@click.option(
    "--out", type=click.Path(file_okay=False), default="benchmarks/results", show_default=True, help="Results."
)
@click.option("--crops/--no-crops", default=True, help="Side-by-side crops of the images in the report.")
@click.pass_context
def bench(context: click.Context, **options: Any) -> None:
    """Rate-distortion of our codec and the codecs people use, over a data set; or with --speed their time."""
    from .datasets import MissingDataSet

    if options["speed"]:
        _speed(context, options)
        return
    if not options["dataset"]:
        raise click.UsageError("Missing option '--dataset'.", context)
    try:
        failed = _bench(context, options)
    except MissingDataSet as error:
        click.echo(f"bsqcodec: {error}", err=True)
        context.exit(2)
    context.exit(1 if failed else 0)


def _speed(context: click.Context, options: dict[str, Any]) -> None:
    import json
    import os

    from ..errors import BsqError
    from . import speed

    source = options["dataset"] or ""
    if source and not os.path.exists(source):
        raise BsqError(f"no such file: {source}")
    chosen = context.get_parameter_source("frames") != click.core.ParameterSource.DEFAULT
    frames = options["frames"] if chosen and options["frames"] else 8
    threads: tuple[int, ...] = (options["threads"],)
    if context.get_parameter_source("threads") == click.core.ParameterSource.DEFAULT and (os.cpu_count() or 1) > 1:
        threads = (1, 2)

    def tell(line: str) -> None:
        click.echo(line, err=True)

    result = speed.run(source, options["sizes"], threads, frames, options["repeats"], options["model"],
                       options["device"], options["peers"], tell)  # fmt: skip
    result = {"meta": speed.machine(options["device"]) | {"command": command_line(context)}} | result
    folder = Path(options["out"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
    click.echo(speed.table(result))


def _bench(context: click.Context, options: dict[str, Any]) -> bool:
    """Returns whether anything failed."""
    import importlib.util
    import os

    from ..errors import BsqError

    os.environ["OMP_NUM_THREADS"] = str(options["threads"])  # for the processes started from here
    for module in ("matplotlib", "scipy", "skimage"):
        if importlib.util.find_spec(module) is None:
            raise BsqError(f"the benchmark needs {module}: pip install 'bsqcodec[bench]'")

    from tqdm import tqdm

    from . import anchors, datasets, metrics, report, runner

    settings = anchors.Settings(
        gop=options["gop"],
        mode=options["anchor_mode"],
        pixel_format=options["pixel_format"],
        model=options["model"],
        device=options["device"],
        tune=options["tune"],
    )
    names, problems = metrics.select(options["metrics"])
    for name in (*options["codecs"], *options["points"]):
        if name not in anchors.CODECS:
            raise BsqError(f"no codec called {name}; known codecs: {', '.join(anchors.CODECS)}")
    if not names:
        raise BsqError("no metric left: " + "; ".join(problems))
    listing = datasets.load(options["dataset"], options["root"], options["download"], options["items"])
    codecs, skipped = anchors.select(options["codecs"] or anchors.DEFAULTS[listing.kind], settings)
    if not codecs:
        raise BsqError("no codec left: " + "; ".join(skipped))
    problems += skipped
    points = options["points"]
    if options["qualities"]:
        points = {"bsq": options["qualities"], "bsq-search": options["qualities"]} | points
    published: dict[str, dict[str, Any]] = {}
    for path in options["published"]:
        curves, notes = report.read_published(Path(path), options["dataset"])
        published |= curves
        problems += notes
    frames = 1 if listing.kind == "image" else options["frames"]
    for line in (*problems, *listing.problems):
        click.echo(line, err=True)

    tasks = runner.tasks_for(listing.items, codecs, points, names, frames, options["threads"])
    folder = Path(options["out"])
    with tqdm(total=len(tasks), desc=listing.name, unit="point", disable=None) as bar:
        records = runner.run(tasks, folder, options["jobs"], options["dask"], lambda record: bar.update())
    failures = list(dict.fromkeys(f"{r['item']}, {r['codec']}: {r['error']}" for r in records if "error" in r))
    for line in failures:
        click.echo(line, err=True)
    bad = {r["item"] for r in records if "error" in r}
    items = [item for item in listing.items if item.name not in bad]
    if not items:
        raise BsqError("no item was coded by every codec, so there is nothing to average")
    problems += list(listing.problems) + failures
    if published and listing.name in datasets.REGISTRY and len(items) < datasets.REGISTRY[listing.name].count:
        whole = datasets.REGISTRY[listing.name].count
        problems.append(f"the published curves are averages over {whole} items, those of this run over {len(items)}")

    curves = {codec.name: runner.results(codec, items, records, names) for codec in codecs}
    stem = listing.name
    if listing.kind == "video":
        stem += "-random-access" if settings.mode == "random-access" else ""
        stem += "-yuv444p" if settings.pixel_format == "yuv444p" else ""
    meta = {
        "dataset": listing.name,
        "items": len(items),
        "frames": max(r.get("frames", 0) for r in records),
        "sizes": sorted({f"{i.width}x{i.height}" for i in items}),
    }
    if listing.kind == "video":
        meta |= {"fps": sorted({i.fps for i in items}), "gop": settings.gop, "anchor mode": settings.mode,
                 "pixel format of the anchors": settings.pixel_format}  # fmt: skip
    facts = [(k, ", ".join(f"{x}" for x in v) if isinstance(v, list) else str(v)) for k, v in meta.items()]
    if listing.name in datasets.REGISTRY:
        facts.append(("source", datasets.REGISTRY[listing.name].source))
    facts.append(("machine", report.machine()))
    result = report.Report(
        f"Rate and distortion: {listing.name}",
        stem,
        command_line(context),
        facts,
        curves,
        published,
        [metrics.METRICS[name].key for name in names],
        problems,
    )
    report.save_results(result, folder, meta)
    plots = report.save_plots(result, folder)
    if options["crops"]:
        result.crops = report.make_crops(codecs, items, curves, frames)
    target = folder / f"{stem}.html"
    target.write_text(report.page(result, plots))
    click.echo(report.terminal(result))
    click.echo(f"\nreport: {target}")
    return bool(failures or listing.problems)


def command_line(context: click.Context) -> str:
    """The command that makes these results, without defaults, each path as its last part only."""
    words = ["bsqcodec", "bench"]
    for option in context.command.params:
        value: Any = context.params.get(option.name or "")
        if option.name in ("root", "out", "jobs", "dask", "download"):
            continue  # where and how fast, not what
        if context.get_parameter_source(option.name or "") == click.core.ParameterSource.DEFAULT:
            continue
        name = option.opts[0]
        if option.name == "crops":
            words.append("--crops" if value else "--no-crops")
        elif option.name == "points":
            words += [w for codec, numbers in value.items() for w in (name, f"{codec}={_joined(numbers)}")]
        elif option.name == "published":
            words += [w for path in value for w in (name, Path(path).name)]
        elif option.name == "speed":
            words.append(name)
        elif option.name == "peers":
            words.append("--no-peers")
        elif option.name == "sizes":
            words += [name, ",".join(f"{width}x{height}" for width, height in value)]
        elif isinstance(value, tuple):
            words += [name, _joined(value)]
        elif option.name in ("dataset", "model"):
            words += [name, Path(value).name]
        else:
            words += [name, str(value)]
    return shlex.join(words)


def _joined(values: tuple) -> str:
    return ",".join(f"{v:g}" if isinstance(v, float) else v for v in values)


@click.command()
@click.argument("first", metavar="A", type=click.Path())
@click.argument("second", metavar="B", type=click.Path())
@click.option("--metrics", callback=_names, default=IMAGE_METRICS, show_default=True, help="Metrics.")
@click.option("--frames", type=click.IntRange(0), default=0, help="Frames to compare; 0 is all.")
def compare(first: str, second: str, metrics: tuple[str, ...], frames: int) -> None:
    """Metrics of two images, or of two videos frame by frame; either may be a .bsq file."""
    from . import metrics as library
    from .datasets import frames_of

    names, skipped = library.select(metrics)
    for line in skipped:
        click.echo(line, err=True)
    values = library.measure(frames_of(Path(first), frames or None), frames_of(Path(second), frames or None), names)
    for key, value in values.items():
        metric = library.BY_KEY[key]
        decibels = f"  ({metric.quality(value):.3f} dB)" if metric.decibels else ""
        click.echo(f"{key:12} {value:.5f}{decibels}")
