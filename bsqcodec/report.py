"""What the commands tell: a bar while they work, and then lines for people or JSON for programs."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from .errors import explain

if TYPE_CHECKING:
    from .result import Result


@dataclass(frozen=True)
class Report:
    """How one command tells what it does.

    Attributes:
        command: its name: encode, decode or verify.
        quiet: no bar, no summary.
        as_json: a JSON object on standard output for each file, in place of summary and warnings.
        md5: tell the MD5 of the decoded frames.
    """

    command: str
    quiet: bool
    as_json: bool = False
    md5: bool = False

    def one(self, source: str, target: str | None, work: "Callable[..., Result]") -> None:
        """Tell of one file what `work(progress=...)` does with it. Raises what that raises."""
        began = time.perf_counter()
        error_stream = target == "-"  # whose data are on standard output
        try:
            with _frame_bar(self.command, self.quiet) as progress:
                result = work(progress=progress)
        except Exception as e:
            reason = explain(e)
            if self.as_json and reason:
                print_json(failure(source, target, reason), error_stream)
            raise
        seconds = time.perf_counter() - began
        if self.as_json:
            print_json(account(source, target, result, seconds, self.md5), error_stream)
            return
        for line in result.warnings:
            say(f"warning: {line}")
        if self.md5:
            print(result.md5, file=sys.stderr if error_stream else sys.stdout)
        if not self.quiet:
            click.echo(f"{source}: {self._summary(result, seconds)}", err=self.command != "verify")

    def _summary(self, result: "Result", seconds: float) -> str:
        frames = many(result.frames, "frame")
        if self.command == "verify":
            return f"{frames}, no error"
        if self.command == "decode":
            return f"{frames}, {result.frames / seconds:.2f} per second, {seconds:.1f} s"
        kept = f" ({result.kept} from before)" if result.kept else ""
        info, (low, high) = result.info, result.qualities
        rate = f"{result.size} bytes, {_bits_per_pixel(result):.4f} bits per pixel"
        if info.frame_rate and result.seconds:
            rate += f", {8 * result.size / result.seconds / 1000:.0f} kbit/s"
        return f"{frames}{kept}, {rate}, quality {low}{f' to {high}' if high > low else ''}, {seconds:.1f} s"


def account(source: str, target: str | None, result: "Result", seconds: float, md5: bool) -> dict[str, Any]:
    """The JSON object of a file that is done; what is not known of it is left out."""
    low, high = result.qualities
    found: dict[str, Any] = _paths(source, target) | {"frames": result.frames}
    if result.kept:
        found["kept"] = result.kept
    found |= {"width": result.info.width, "height": result.info.height}
    if result.size:
        found["bytes"] = result.size
        if not (result.info.tracks and result.track_bytes is None):
            found["bits_per_pixel"] = round(_bits_per_pixel(result), 6)
    if low <= high:
        found["quality"] = [low, high]
    if md5:
        found["md5"] = result.md5
    return found | {"seconds": round(seconds, 3), "warnings": list(result.warnings)}


def failure(source: str, target: str | None, reason: str) -> dict[str, Any]:
    """The JSON object of a file that failed."""
    return _paths(source, target) | {"error": reason}


def _paths(source: str, target: str | None) -> dict[str, Any]:
    return {"source": source} if target is None else {"source": source, "target": target}


def print_json(value: dict[str, Any], error_stream: bool = False) -> None:
    """Print an object in one line, at once."""
    print(json.dumps(value), file=sys.stderr if error_stream else sys.stdout, flush=True)


def _bits_per_pixel(result: "Result") -> float:
    """Of the pictures, without sound and subtitles."""
    pictures = result.size - (result.track_bytes or 0)
    return 8 * pictures / (result.frames * result.info.width * result.info.height)


@contextlib.contextmanager
def _frame_bar(what: str, quiet: bool) -> Iterator[Any]:
    """The progress callback for `encode_file` and `decode_file`, or None where nobody looks."""
    with bar(quiet, desc=what, unit="frame") as shown:

        def progress(result: "Result", total: int | None) -> None:
            if shown.total != total:
                shown.total = total
            if result.size:
                bits = result.bits or 8 * result.size
                pixels = result.frames * result.info.width * result.info.height
                shown.set_postfix_str(f"{bits / pixels:.3f} bpp", False)
            shown.update(result.frames - shown.n)

        yield progress if shown else None


@contextlib.contextmanager
def bar(quiet: bool, **options: Any) -> Iterator[Any]:
    """A bar of tqdm on standard error, made with `options`; None if `quiet`, or where nobody looks."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(file=sys.stderr, **options) as shown:
        yield shown


def many(n: int, what: str) -> str:
    """A number of things: "1 frame", "2 frames"."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def say(line: str) -> None:
    """Print a line on standard error."""
    click.echo(line, err=True)
