"""Options that several commands have."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from .settings import MAX_PIXELS, MAX_QUALITY, MIN_QUALITY, EncodeSettings

_F = TypeVar("_F", bound=Callable[..., Any])
_DEFAULTS = EncodeSettings()


def quality_option(text: str) -> Callable[[_F], _F]:
    """-q, --quality, with a help text."""
    limits = click.IntRange(MIN_QUALITY, MAX_QUALITY)
    return click.option("-q", "--quality", type=limits, default=_DEFAULTS.quality, help=text)


def encoder_model_option(command: _F) -> _F:
    """--model, of what codes pictures and not a stream that names its own."""
    text = "Name of a packaged model, or a model file."
    return click.option("--model", type=click.Path(), default=_DEFAULTS.model, help=text)(command)


def device_options(command: _F) -> _F:
    """--device, and --threads, which the command itself does not get."""
    command = click.option("--device", default="auto", help="Device to compute on: auto, cpu or cuda.")(command)
    text = "Number of CPU threads.  [default: all cores]"
    return click.option("--threads", type=click.IntRange(1), callback=_set_threads, expose_value=False, help=text)(
        command
    )


def _set_threads(context: click.Context, option: click.Parameter, threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def jobs_options(command: _F) -> _F:
    """--jobs and --dask."""
    jobs = (
        "Groups of pictures, or with --to files, to work on at the same time, each in a process of one thread.  "
        "[default: as many as are worth it]"
    )
    dask = "Address of a dask.distributed scheduler to run the groups of pictures on, in place of --jobs."
    command = click.option("--dask", default="", show_default=False, help=dask)(command)
    return click.option("--jobs", type=click.IntRange(1), help=jobs)(command)


def paths_options(command: _F) -> _F:
    """INPUT and OUTPUT as `paths`, or many INPUTs and --to as `folder`."""
    to = "Folder for the output of each INPUT, which keeps its name but for the suffix; is made if it is not there."
    command = click.option("--to", "folder", metavar="FOLDER", type=click.Path(file_okay=False), help=to)(command)
    metavar = "INPUT OUTPUT | INPUT... --to FOLDER"
    return click.argument("paths", metavar=metavar, type=click.Path(), nargs=-1, required=True)(command)


def report_options(command: _F) -> _F:
    """--quiet, and --json as `as_json`."""
    command = click.option("--quiet", is_flag=True, help="No progress, no summary.")(command)
    text = "Print a JSON object for each file (on standard error if OUTPUT is -), in place of summary and warnings."
    return click.option("--json", "as_json", is_flag=True, help=text)(command)


def max_pixels_option(command: _F) -> _F:
    """--max-pixels."""
    text = "Refuse a stream whose frames have more pixels."
    return click.option("--max-pixels", type=click.IntRange(1, MAX_PIXELS), default=MAX_PIXELS, help=text)(command)
