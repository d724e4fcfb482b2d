"""The command line. What takes long to import is imported by the command that needs it."""

import contextlib
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

import click

from .errors import BsqError
from .settings import (
    MAX_EFFORT,
    MAX_GOP,
    MAX_PIXELS,
    MAX_QUALITY,
    MIN_QUALITY,
    TUNES,
    TUNES_HELP,
    EncodeSettings,
    SinkOptions,
)

if TYPE_CHECKING:
    from .transcode import Result

_F = TypeVar("_F", bound=Callable[..., Any])
_DEFAULTS, _SINK = EncodeSettings(), SinkOptions()


class _Lazy(click.Group):
    """Commands of the benchmark and the trainer, imported when they are called or listed."""

    homes: ClassVar = {
        "bench": ".bench.command",
        "compare": ".bench.command",
        "train": ".train.command",
        "tokens": ".tokens.command",
    }

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *self.homes])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in self.homes:
            from importlib import import_module

            return getattr(import_module(self.homes[name], "bsqcodec"), name)
        return super().get_command(context, name)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            # keep Python from complaining once more when it closes the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise BsqError("the output pipe was closed") from None


class _Stopped(BaseException):
    """Raised by SIGINT and SIGTERM, so that what is half done is tidied up."""


def _stop(*_: Any) -> None:
    raise _Stopped


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="bsqcodec")
def cli() -> None:
    """A learned image and video codec whose files decode to the same bits on every machine."""


def _device(command: _F) -> _F:
    command = click.option("--device", default="auto", help="Device to compute on: auto, cpu or cuda.")(command)
    return click.option("--threads", type=click.IntRange(1), help="Number of CPU threads.  [default: all cores]")(
        command
    )


def _jobs(command: _F) -> _F:
    jobs = "Groups of pictures to work on at the same time, each in a process of one thread.  [default: auto]"
    dask = "Address of a dask.distributed scheduler to run the groups of pictures on, in place of --jobs."
    command = click.option("--dask", default="", help=dask)(command)
    return click.option("--jobs", type=click.IntRange(1), help=jobs)(command)


def _limit(command: _F) -> _F:
    text = "Refuse a stream whose frames have more pixels."
    return click.option("--max-pixels", type=click.IntRange(1, MAX_PIXELS), default=MAX_PIXELS, help=text)(command)


def _frames(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int | None]:
    if value is None:
        return 0, None
    start, colon, stop = value.partition(":")
    with contextlib.suppress(ValueError):
        first = int(start or 0)
        last = (int(stop) if stop else None) if colon else first + 1
        if first >= 0 and (last is None or last > first):
            return first, last
    raise click.BadParameter(f"{value!r} is not a range of frames such as 10:20, 10: or 10")


@cli.command()
@click.argument("source", metavar="INPUT")
@click.argument("target", metavar="OUTPUT")
@click.option(
    "-q",
    "--quality",
    type=click.IntRange(MIN_QUALITY, MAX_QUALITY),
    default=_DEFAULTS.quality,
    help="Quality of the pictures; higher is better and larger.",
)
@click.option("--bpp", type=click.FloatRange(0, min_open=True), help="Bits per pixel to aim at, in place of a quality.")
@click.option("--size", help="File size to aim at, in bytes or as 500k or 2M, in place of a quality.")
@click.option(
    "--gop", type=click.IntRange(1, MAX_GOP), default=_DEFAULTS.gop, help="Frames from one I frame to the next."
)
@click.option(
    "--effort",
    type=click.IntRange(0, MAX_EFFORT),
    default=_DEFAULTS.effort,
    help="Search steps per frame for better bits; more than 16 gain little.",
)
@click.option("--low-delay", is_flag=True, help="No B frames: larger, but no frame waits for a later one.")
@click.option("--tune", type=click.Choice(TUNES), default=_DEFAULTS.tune, help=f"What to spend bits on. {TUNES_HELP}")
@click.option(
    "--alpha-quality",
    type=click.IntRange(MIN_QUALITY, MAX_QUALITY),
    help="Quality of transparency; 100 is lossless.  [default: as --quality, but at least 20]",
)
@click.option("--model", default=_DEFAULTS.model, show_default=True, help="Name of a packaged model, or a model file.")
@_device
@_jobs
@click.option("--start", type=click.FloatRange(0), default=0.0, help="Seconds of the input to skip.")
@click.option("--duration", type=click.FloatRange(0, min_open=True), help="Seconds to encode.  [default: all]")
@click.option("--audio/--no-audio", default=True, help="Copy the audio track.")
@click.option("--alpha/--no-alpha", default=True, help="Keep transparency.")
@click.option("--background", help="Colour to put behind what is transparent, such as white or #ff8000.")
@click.option("-f", "--force", is_flag=True, help="Replace OUTPUT if it exists.")
@click.option("--resume", is_flag=True, help="Continue an interrupted encode to OUTPUT.")
@click.option("--md5", is_flag=True, help="Print the MD5 of the frames as they will be decoded.")
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
def encode(
    source: str, target: str, size: str | None, threads: int | None, md5: bool, quiet: bool, **options: Any
) -> None:
    """Encode a picture, a video or a folder of frames.

    INPUT is a video or image file, a folder or pattern of frames ("frames/*.png"), or - for standard input, which holds
    an image or y4m; OUTPUT a .bsq file, or - for standard output.
    """
    wanted = _bytes(size) if size else None
    if wanted and options["bpp"]:
        raise BsqError("give --bpp or --size, not both")
    if md5 and options["resume"]:
        raise BsqError("--md5 is of frames that --resume does not make again: print it with decode --md5")
    from . import transcode

    _set_threads(threads)
    began = time.perf_counter()
    with _bar(quiet, "encode") as progress:
        result = transcode.encode_file(source, target, size=wanted, progress=progress, **options)
    _warn(result.warnings)
    if md5:
        print(result.md5, file=sys.stderr if target == "-" else sys.stdout)
    if not quiet:
        seconds = time.perf_counter() - began
        low, high = result.qualities
        asked = f"quality {low}" + (f" to {high}" if high > low else "")
        kept = f" ({result.kept} from before)" if result.kept else ""
        _say(f"{source}: {_many(result.frames, 'frame')}{kept}, {_rate(result)}, {asked}, {seconds:.1f} s")


@cli.command()
@click.argument("source", metavar="INPUT")
@click.argument("target", metavar="OUTPUT", required=False)
@click.option("--frames", callback=_frames, help="Only frames A to B-1, counted from 0: A:B, A:, :B or A.")
@click.option(
    "--crf",
    type=click.IntRange(0, 51),
    default=_SINK.crf,
    help="Quality of H.264 output (x264 CRF); 14 looks lossless.",
)
@click.option(
    "--image-quality",
    type=click.IntRange(1, 100),
    default=_SINK.image_quality,
    help="Quality of JPEG and WebP output.",
)
@click.option(
    "--depth",
    type=click.Choice(["8", "10", "12", "16"]),
    callback=lambda context, option, value: value and int(value),
    help="Bits of a sample of the output.  [default: as in the source, as far as OUTPUT holds them]",
)
@click.option(
    "--background", help="Colour behind what is transparent, where OUTPUT holds no transparency.  [default: black]"
)
@click.option("--model", help="A model file, if the stream needs one that is not packaged.")
@click.option("--keep-partial", is_flag=True, help="Keep the frames before the first damage.")
@click.option(
    "--conceal", is_flag=True, help="Go on after damage, with the last good frame in place of those that are lost."
)
@_limit
@_device
@_jobs
@click.option("-f", "--force", is_flag=True, help="Replace OUTPUT if it exists.")
@click.option("--md5", is_flag=True, help="Print the MD5 of the decoded frames; OUTPUT may then be left out.")
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
def decode(source: str, target: str | None, threads: int | None, md5: bool, quiet: bool, **options: Any) -> None:
    """Decode a .bsq file.

    The suffix of OUTPUT says into what: mp4, mkv, mov (H.264), y4m, png, jpg, webp. A name that ends in / becomes a
    folder of PNGs, - is standard output, as PNG or, of a video, as y4m. INPUT may be - for standard input.
    """
    if target is None and not md5:
        raise BsqError("say where to: give OUTPUT, or --md5 to have only the checksum")
    from . import transcode

    _set_threads(threads)
    began = time.perf_counter()
    with _bar(quiet, "decode") as progress:
        result = transcode.decode_file(source, target, progress=progress, **options)
    _warn(result.warnings)
    if md5:
        print(result.md5, file=sys.stderr if target == "-" else sys.stdout)
    if not quiet:
        seconds = time.perf_counter() - began
        _say(f"{source}: {_many(result.frames, 'frame')}, {result.frames / seconds:.2f} per second, {seconds:.1f} s")


@cli.command()
@click.argument("source", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--bits", is_flag=True, help="Show the mean bits per frame of each type too; decodes every symbol.")
@_limit
@_device
def info(source: str, as_json: bool, bits: bool, max_pixels: int, threads: int | None, device: str) -> None:
    """Show what a .bsq file holds."""
    from .describe import describe, lines

    if bits:
        _set_threads(threads)
    found = describe(source, device if bits else None, max_pixels)
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines(found)))


@cli.command()
@click.argument("source", metavar="FILE")
@click.option("--model", help="A model file, if the stream needs one that is not packaged.")
@_limit
@_device
@click.option("--quiet", is_flag=True, help="Print nothing on success.")
def verify(source: str, model: str | None, max_pixels: int, device: str, threads: int | None, quiet: bool) -> None:
    """Check every checksum of a .bsq file and decode every symbol; the exit status says whether all is well."""
    from . import transcode

    _set_threads(threads)
    frames = sum(1 for _ in transcode.check_stream(source, device, model, max_pixels))
    if not quiet:
        click.echo(f"{source}: {_many(frames, 'frame')}, no error")


@cli.command()
@_device
def selftest(device: str, threads: int | None) -> None:
    """Decode the conformance streams and compare with an integer oracle: does this machine decode exactly?"""
    from .selftest import selftest

    _set_threads(threads)
    found = selftest(device)
    click.echo("\n".join([*found.differences, found.summary()]))
    if found.differences:
        raise BsqError("this machine does not decode exactly")


def _bytes(text: str) -> int:
    """The number of bytes that a text such as 500, 500k or 2M stands for. Raises BsqError for another."""
    units = {"k": 1000, "m": 1000**2, "g": 1000**3}
    unit = units.get(text[-1:].lower(), 1)
    with contextlib.suppress(ValueError):
        value = int(float(text[:-1] if unit > 1 else text) * unit)
        if value > 0:
            return value
    raise BsqError(f"{text!r} is not a size such as 50000, 500k or 2M")


def _set_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


@contextlib.contextmanager
def _bar(quiet: bool, what: str) -> Iterator[Any]:
    """The progress callback for `encode_file` and `decode_file`, or None where nobody looks."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=what, unit="frame", file=sys.stderr) as bar:

        def progress(result: "Result", total: int | None) -> None:
            if bar.total != total:
                bar.total = total
            if result.size:
                bits = result.bits or 8 * result.size
                bar.set_postfix_str(f"{bits / (result.frames * result.info.width * result.info.height):.3f} bpp", False)
            bar.update(result.frames - bar.n)

        yield progress


def _rate(result: "Result") -> str:
    info = result.info
    text = f"{result.size} bytes, {8 * result.size / (result.frames * info.width * info.height):.4f} bits per pixel"
    if info.frame_rate:
        text += f", {8 * result.size * float(info.frame_rate) / result.frames / 1000:.0f} kbit/s"
    return text


def _many(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _warn(warnings: list[str]) -> None:
    for line in warnings:
        _say(f"warning: {line}")


def _say(line: str) -> None:
    click.echo(line, err=True)


def main() -> None:
    """Run the command line; every expected failure is one line on standard error and a status that is not 0."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        cli(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.ClickException as e:
        e.show()
        sys.exit(e.exit_code)
    except (click.Abort, _Stopped):
        _say("bsqcodec: interrupted")
        sys.exit(130)
    except BsqError as e:
        _say(f"bsqcodec: {e}")
        sys.exit(1)
    except (MemoryError, RuntimeError) as e:
        if isinstance(e, RuntimeError) and "memory" not in str(e):  # torch has no error of its own for the CPU's memory
            raise
        _say("bsqcodec: not enough memory")
        sys.exit(1)
    except OSError as e:
        _say(f"bsqcodec: {e.strerror or e}" + (f": {e.filename}" if e.filename else ""))
        sys.exit(1)


def process() -> NoReturn:
    """Run `main` as all that this process does, which then starts and ends faster."""
    gc.set_threshold(100_000)  # importing torch makes many objects and no garbage: 0.15 s
    status = 1
    try:
        main()
        status = 0
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)  # without torch's own ending: 0.4 s


if __name__ == "__main__":
    process()
