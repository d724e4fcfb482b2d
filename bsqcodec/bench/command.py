"""Command line of the benchmark: `bsqcodec bench` and `bsqcodec compare`."""

import importlib.util
import json
import math
import os
import shlex
from pathlib import Path
from typing import Any

import click

from ..errors import BsqError
from ..output import check_free, replacing
from ..settings import MAX_GOP, MAX_SIDE, TUNES, TUNES_HELP, EncodeSettings

DEFAULT_METRICS = "psnr,psnr-yuv,ms-ssim,ssim"
DEFAULT_SIZES = "416x240,640x360,1280x720,1920x1080"
SPEED_FRAMES = 8  # frames of a video with --speed, unless --frames is given
_DEFAULTS = EncodeSettings()
UNSTATED_OPTIONS = ("root", "out", "jobs", "dask", "download")  # options that tell where and how fast, not what


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
        if all(len(pair) == 2 and min(pair) > 1 and max(pair) <= MAX_SIDE for pair in pairs):
            return tuple((width, height) for width, height in pairs)
    except ValueError:
        pass
    raise click.BadParameter(f"{value!r} is not a list of sizes such as 416x240,640x360")


@click.command()
@click.option("--dataset", help="Registered name (kodak, uvg, ...) or path of a file or folder.")
@click.option("--speed", is_flag=True, help="Measure time, not rate and distortion; --dataset may be a file.")
@click.option(
    "--sizes", callback=_sizes, default=DEFAULT_SIZES, show_default=True, help="Sizes of the videos with --speed."
)
@click.option(
    "--repeats", type=click.IntRange(1), default=3, show_default=True, help="Runs with --speed; the median counts."
)
@click.option("--peers/--no-peers", default=True, help="Time other codecs with --speed.")
@click.option(
    "--root", type=click.Path(file_okay=False), help="Folder of the data sets [default: $BSQCODEC_DATA, data]."
)
@click.option("--download", is_flag=True, help="Fetch files of the data set that are missing, where that is possible.")
@click.option("--items", callback=_names, help="Only these items, for example 'kodim0*,kodim23'.")
@click.option(
    "--codecs", callback=_names, help="Codecs, ours first [default: bsq and the usual anchors; not bsq-search]."
)
@click.option("--metrics", callback=_names, default=DEFAULT_METRICS, show_default=True, help="Metrics.")
@click.option("--qualities", callback=_numbers, help="Qualities of our codec, 1..100 [default: 1,10,20,...,100].")
@click.option("--points", multiple=True, callback=_points, help="Points of a codec: h264=22,27,32,37. Repeatable.")
@click.option("--model", default=_DEFAULTS.model, show_default=True, help="Our model: a name or a file.")
@click.option("--device", default="cpu", show_default=True, help="Device of our codec: auto, cpu or cuda.")
@click.option(
    "--tune",
    type=click.Choice(TUNES),
    default=_DEFAULTS.tune,
    show_default=True,
    help=f"What our codec spends bits on. {TUNES_HELP}",
)
@click.option(
    "--frames", type=click.IntRange(0), default=96, show_default=True, help="Frames of a video at most; 0 is all."
)
@click.option(
    "--gop",
    type=click.IntRange(1, MAX_GOP),
    default=_DEFAULTS.gop,
    show_default=True,
    help="Frames from I frame to I frame.",
)
@click.option(
    "--anchor-mode",
    type=click.Choice(["low-delay", "random-access"]),
    default="low-delay",
    show_default=True,
    help="Video anchors without B frames and with the same GOP, or with the encoders' own defaults.",
)
@click.option(
    "--pixel-format",
    type=click.Choice(["yuv420p", "yuv444p"]),
    default="yuv420p",
    show_default=True,
    help="Pixel format of the video anchors.",
)
@click.option(
    "--published", multiple=True, type=click.Path(), help="JSON file or folder with others' curves. Repeatable."
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Number of processes.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Threads of torch in each process; without it --speed tries 1 and 2.",
)
@click.option("--dask", default="", help="Address of a dask.distributed scheduler to work on.")
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    default="benchmarks/results",
    show_default=True,
    help="Folder of the results.",
)
@click.option("--crops/--no-crops", default=True, help="Side-by-side crops of the images in the report.")
@click.pass_context
def bench(context: click.Context, **options: Any) -> None:
    """Compare our codec with the codecs people use, by rate and distortion over a data set, or with --speed by time."""
    if options["speed"]:
        _speed(context, options)
        return
    from .datasets import MissingDataSet

    try:
        failed = _rate_distortion(context, options)
    except MissingDataSet as error:
        click.echo(f"bsqcodec: {error}", err=True)
        context.exit(2)
    context.exit(1 if failed else 0)


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _speed(context: click.Context, options: dict[str, Any]) -> None:
    """Measure times, write speed.json, and print a table."""
    from . import speed

    source = options["dataset"] or ""
    if source and not os.path.exists(source):
        raise BsqError(f"no such file: {source}")
    threads: tuple[int, ...] = (options["threads"],)
    if _is_default(context, "threads") and (os.cpu_count() or 1) > 1:
        threads = (1, 2)
    frames = options["frames"] if options["frames"] and not _is_default(context, "frames") else SPEED_FRAMES
    chosen = {name: options[name] for name in ("sizes", "repeats", "model", "device", "peers")}
    result = speed.run(speed.SpeedOptions(source=source, threads=threads, frames=frames, **chosen), _tell)
    result = {"meta": speed.environment(options["device"]) | {"command": command_line(context)}} | result
    folder = Path(options["out"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
    click.echo(speed.table(result))


def _rate_distortion(context: click.Context, options: dict[str, Any]) -> bool:
    """Run the benchmark of rate and distortion; returns whether anything failed."""
    if not options["dataset"]:
        raise click.UsageError("Missing option '--dataset'.", context)
    for module in ("matplotlib", "scipy", "skimage"):
        if importlib.util.find_spec(module) is None:
            raise BsqError(f"the benchmark needs {module}: pip install 'bsqcodec[bench]'")
    os.environ["OMP_NUM_THREADS"] = str(options["threads"])  # for the processes started from here

    from . import rate_distortion

    tables, failed = rate_distortion.bench(options, command_line(context), _tell)
    click.echo(tables)
    return failed


def _is_default(context: click.Context, option: str | None) -> bool:
    """Whether an option was not given."""
    return context.get_parameter_source(option or "") == click.core.ParameterSource.DEFAULT


def command_line(context: click.Context) -> str:
    """The command that makes these results, without defaults, each path as its last part only."""
    words = ["bsqcodec", "bench"]
    for option in context.command.params:
        if option.name not in UNSTATED_OPTIONS and not _is_default(context, option.name):
            words += _words(option, context.params.get(option.name or ""))
    return shlex.join(words)


def _words(option: click.Parameter, value: Any) -> list[str]:
    """An option and its value as they are typed."""
    name = option.opts[0]
    if isinstance(value, bool):
        return [name if value else option.secondary_opts[0]]
    if option.name == "points":
        return [word for codec, numbers in value.items() for word in (name, f"{codec}={_joined(numbers)}")]
    if option.name == "published":
        return [word for path in value for word in (name, Path(path).name)]
    if option.name == "sizes":
        return [name, ",".join(f"{width}x{height}" for width, height in value)]
    if isinstance(value, tuple):
        return [name, _joined(value)]
    return [name, Path(value).name if option.name in ("dataset", "model") else str(value)]


def _joined(values: tuple[str | float, ...]) -> str:
    return ",".join(f"{v:g}" if isinstance(v, float) else v for v in values)


@click.command()
@click.argument("first", metavar="A", type=click.Path())
@click.argument("second", metavar="B", type=click.Path())
@click.option("--metrics", callback=_names, default=DEFAULT_METRICS, show_default=True, help="Metrics.")
@click.option("--frames", type=click.IntRange(0), default=0, help="Frames to compare at most; 0 is all.")
@click.option("--html", type=click.Path(dir_okay=False), help="Page to write, with a slider between the pictures.")
@click.option("-f", "--force", is_flag=True, help="Replace the page if it exists.")
def compare(first: str, second: str, metrics: tuple[str, ...], frames: int, html: str | None, force: bool) -> None:
    """Measure the quality of image or video B against A, frame by frame; either may be a .bsq file."""
    from . import metrics as library
    from .frames import frames_of

    names, skipped = library.select(metrics)
    for line in skipped:
        click.echo(line, err=True)
    paths = Path(first), Path(second)
    if html:
        from .compare_page import write_page

        check_free(html, force)
        with replacing(html) as part:
            values = write_page(Path(part), *paths, names, frames or None)
    else:
        a, b = (frames_of(path, frames or None) for path in paths)
        values = library.measure(a, b, names)
    for key, value in values.items():
        metric = library.BY_KEY[key]
        decibels = f"  ({metric.quality(value):.3f} dB)" if metric.decibels else ""
        click.echo(
            f"{key:12} " + ("the frames are too small for it" if math.isnan(value) else f"{value:.5f}{decibels}")
        )
