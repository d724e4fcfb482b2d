"""The command line. What takes long to import is imported by the command that needs it."""

import contextlib
import functools
import gc
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import click

from .command_options import (
    device_options,
    encoder_model_option,
    jobs_options,
    max_pixels_option,
    paths_options,
    quality_option,
    report_options,
)
from .errors import BsqError, explain
from .report import Report, say
from .settings import (
    MAX_EFFORT,
    MAX_GOP,
    MAX_QUALITY,
    MIN_QUALITY,
    SCALES,
    TUNES,
    TUNES_HELP,
    EncodeSettings,
    SinkOptions,
)

_DEFAULTS, _SINK = EncodeSettings(), SinkOptions()


class _Lazy(click.Group):
    """Commands of the benchmark and the trainer, imported when they are called or listed."""

    homes: ClassVar = {
        "bench": ".bench.command",
        "compare": ".bench.command",
        "train": ".train.command",
        "tokens": ".tokens.command",
        "sample": ".sample.command",
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


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="Exit status: 0 all is done, 1 something failed, 2 wrong usage, 130 interrupted.",
)
@click.version_option(package_name="bsqcodec")
def cli() -> None:
    """A learned image and video codec whose files decode to the same bits on every machine."""


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
@paths_options
@quality_option("Quality of the pictures; higher is better and larger.")
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
@encoder_model_option
@device_options
@jobs_options
@click.option("--start", type=click.FloatRange(0), default=0.0, help="Seconds of the input to skip.")
@click.option("--duration", type=click.FloatRange(0, min_open=True), help="Seconds to encode.  [default: all]")
@click.option("--audio/--no-audio", default=True, help="Copy the audio tracks.")
@click.option("--subtitles/--no-subtitles", default=True, help="Copy the subtitle tracks.")
@click.option("--alpha/--no-alpha", default=True, help="Keep transparency.")
@click.option("--background", help="Colour to put behind what is transparent, such as white or #ff8000.")
@click.option(
    "--preview",
    default="",
    show_default=False,
    help="Write what decode will give of OUTPUT too: a .png, .mp4, frames/ ...",
)
@click.option("--strip", is_flag=True, help="Leave out EXIF (so pixel density too), XMP, chapters, tags and titles.")
@click.option("-f", "--force", is_flag=True, help="Replace OUTPUT if it exists.")
@click.option("--resume", is_flag=True, help="Continue an interrupted encode to OUTPUT.")
@click.option("--md5", is_flag=True, help="Print the MD5 of the frames as they will be decoded.")
@report_options
def encode(
    paths: Sequence[str], folder: str | None, size: str | None, md5: bool, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Encode pictures, videos and folders of frames.

    INPUT is a video or image file, a folder or pattern of frames ("frames/*.png"), or - for standard input, which holds
    an image or y4m; OUTPUT a .bsq file, or - for standard output. With --to there may be many INPUTs; those that fail
    are named at the end.
    """
    options["size"] = _bytes(size) if size else None
    if size and options["bpp"]:
        raise BsqError("give --bpp or --size, not both")
    if md5 and options["resume"]:
        raise BsqError("--md5 is of frames that --resume does not make again: print it with decode --md5")
    report = Report("encode", quiet, as_json, md5)
    if folder is None:
        source, target = _pair(paths)
        if target is None:
            raise click.UsageError("OUTPUT is missing: give INPUT OUTPUT, or INPUT... --to FOLDER")
        from .file_encoder import encode_file

        return report.one(source, target, functools.partial(encode_file, source, target, md5=md5, **options))
    for name in ("resume", "preview"):
        if options[name]:
            raise BsqError(f"--{name} is for one OUTPUT, not for a folder")
    from . import batch

    _exit(batch.encode_files(paths, folder, report, options))


@cli.command()
@paths_options
@click.option("--format", help="Suffix of the outputs in --to.  [default: png for still images, mkv for videos]")
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
    help="Quality of JPEG, WebP and AVIF output.",
)
@click.option(
    "--depth",
    type=click.Choice(["8", "10", "12", "16"]),
    callback=lambda context, option, value: value and int(value),
    help="Bits of a sample of the output.  [default: as in the source, as far as OUTPUT holds them]",
)
@click.option(
    "--scale", type=click.Choice(list(map(str, SCALES))), default="1", help="Size of OUTPUT, sides rounded up."
)
@click.option(
    "--background", help="Colour behind what is transparent, where OUTPUT holds no transparency.  [default: black]"
)
@click.option("--model", type=click.Path(), help="A model file, if the stream needs one that is not packaged.")
@click.option("--keep-partial", is_flag=True, help="Keep the frames before the first damage.")
@click.option(
    "--conceal", is_flag=True, help="Go on after damage, with the last good frame in place of those that are lost."
)
@max_pixels_option
@device_options
@jobs_options
@click.option("-f", "--force", is_flag=True, help="Replace OUTPUT if it exists.")
@click.option("--md5", is_flag=True, help="Print the MD5 of the frames, in full size; OUTPUT may be left out.")
@report_options
def decode(
    paths: Sequence[str], folder: str | None, format: str | None, md5: bool, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Decode .bsq files.

    The suffix of OUTPUT says into what: mp4, mkv, mov (H.264), y4m, png, jpg, or, still or animated, gif, webp, apng,
    avif. A name that ends in / becomes a folder of PNGs, - is standard output, as PNG or, of a video, as y4m. INPUT may
    be - for standard input. With --to there may be many INPUTs; those that fail are named at the end.
    """
    report = Report("decode", quiet, as_json, md5)
    if folder is None:
        source, target = _pair(paths)
        if target is None and not md5:
            raise click.UsageError("say where to: give OUTPUT or --to FOLDER, or --md5 to have only the checksum")
        if format:
            raise BsqError("--format is for the outputs in --to; that of OUTPUT is told by its suffix")
        from .file_decoder import decode_file

        return report.one(source, target, functools.partial(decode_file, source, target, **options))
    from . import batch

    _exit(batch.decode_files(paths, folder, format or "", report, options))


@cli.command()
@click.argument("source", metavar="FILE", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--bits", is_flag=True, help="Show the mean bits per frame of each type too; decodes every symbol.")
@max_pixels_option
@device_options
def info(source: str, as_json: bool, bits: bool, max_pixels: int, device: str) -> None:
    """Show what a .bsq file holds."""
    from .describe import describe, lines

    found = describe(source, device if bits else None, max_pixels)
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines(found)))


@cli.command()
@click.argument("source", metavar="FILE", type=click.Path())
@click.option("--model", type=click.Path(), help="A model file, if the stream needs one that is not packaged.")
@max_pixels_option
@device_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object in place of the summary.")
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
def verify(source: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Check every checksum of a .bsq file and decode every symbol; the exit status says whether all is well."""
    from .file_decoder import verify_file

    Report("verify", quiet, as_json).one(source, None, functools.partial(verify_file, source, **options))


@cli.command()
@device_options
def selftest(device: str) -> None:
    """Decode the conformance streams and compare with an integer oracle: does this machine decode exactly?"""
    from .selftest import selftest

    found = selftest(device)
    click.echo("\n".join([*found.differences, found.summary()]))
    if found.differences:
        raise BsqError("this machine does not decode exactly")


def _pair(paths: Sequence[str]) -> tuple[str, str | None]:
    """INPUT and OUTPUT, which may be missing."""
    if len(paths) > 2:
        raise click.UsageError(f"{len(paths)} paths without --to: give INPUT OUTPUT, or INPUT... --to FOLDER")
    return paths[0], paths[1] if len(paths) == 2 else None


def _exit(done: bool) -> None:
    """End with status 1 if not all was `done`, which has been told."""
    if not done:
        raise click.exceptions.Exit(1)


def _bytes(text: str) -> int:
    """The number of bytes that a text such as 500, 500k or 2M stands for. Raises BsqError for another."""
    units = {"k": 1000, "m": 1000**2, "g": 1000**3}
    unit = units.get(text[-1:].lower(), 1)
    with contextlib.suppress(ValueError):
        value = int(float(text[:-1] if unit > 1 else text) * unit)
        if value > 0:
            return value
    raise BsqError(f"{text!r} is not a size such as 50000, 500k or 2M")


def main() -> None:
    """Run the command line; every expected failure is one line on standard error and a status that is not 0."""
    warnings.filterwarnings("ignore", module="PIL")  # of what is broken in EXIF: images.py says it in one line
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    status = 1
    try:
        status = cli(standalone_mode=False) or 0  # what a command returns: nothing, unless click is told to exit
        sys.stdout.flush()
    except click.ClickException as e:
        e.show()
        status = e.exit_code
    except (click.Abort, _Stopped):
        say("bsqcodec: interrupted")
        status = 130
    except Exception as e:
        reason = explain(e)
        if reason is None:
            raise
        say(f"bsqcodec: {reason}")
    if status:
        sys.exit(status)


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
