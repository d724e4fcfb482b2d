"""The command line of a lease; benchmarks/lease.py is its script, here and on the lent machine."""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import BsqError, first_line
from ..config import read_toml, write_toml
from .files import SHARDS
from .lent import feed, start, train
from .measure import Checks, bench
from .prepare import prepare
from .results import finish, join

SIZES = ("640x360", "1280x720", "1920x1080")
DRY_MINUTES = 30
# keys of a configuration for a dry run: ten steps
DRY_CONFIG = {"steps": 10, "images": 2, "sequences": 1, "device": "cpu", "checkpoint_minutes": 0.01}


def dry_run(script: Path, config: Path, out: Path, data: Path | None, wheels: list[Path], most: float) -> None:
    """All stages on this machine's CPU, as the commands that will be run; ten steps, and few bits.

    The arguments are those of `prepare`. Raises BsqError with the last words of a stage that fails.
    """
    out = out.resolve()
    shutil.rmtree(out / "work", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    values = read_toml(config)
    for key in SHARDS:
        values[key] = [str((config.parent / name).resolve()) for name in values.get(key, [])]
    write_toml(out / "config.toml", values | DRY_CONFIG)
    folders, work = out / "lease", out / "work"
    more: list[Any] = ["--data", data] if data else []
    more += ["--wheels", *wheels] if wheels else []
    _call(script, "prepare", "--config", out / "config.toml", "--out", folders, "--most", most, *more)
    first = folders / "0"
    _call(first / "code/lease.py", "start", "--from", first, "--work", work, "--minutes", DRY_MINUTES)
    there = work / "code/lease.py"
    for k in range(1, len(list(folders.iterdir()))):
        _call(there, "feed", "--from", folders / str(k), "--work", work)
    brought, k = [], 0
    while True:
        brought.append(out / f"out-{k}")
        shutil.rmtree(brought[-1], ignore_errors=True)
        said = _call(there, "finish", "--work", work, "--out", brought[-1], "--from-slice", k)
        if "--from-slice" not in said:
            break
        k = int(said.split()[-1])
    _call(there, "bench", "--work", work, "--out", out, "--sizes", "64x48", "--frames", 2, "--bits", 1e4)
    _call(script, "join", "--from", *brought, "--out", out / "joined")
    print(out / "bench.json")


def _call(script: Path, *words: Any) -> str:
    """Run a stage and print how long it took. Returns the last line that it printed."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, script, *map(str, words)], capture_output=True, text=True)
    said = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode:
        raise BsqError(f"{words[0]}: {(done.stderr.strip().splitlines() or [said])[-1].removeprefix('bsqcodec: ')}")
    print(f"{words[0]}, {time.monotonic() - began:.1f} s: {said}", flush=True)
    return said


def parser(script: Path, description: str | None, checks: Checks) -> argparse.ArgumentParser:
    """The parser of the command line. What it finds is `function`, the stage, and that function's arguments."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = found.add_subparsers(required=True)

    def stage(name: str, function: Callable[..., None], description: str, *needed: str) -> argparse.ArgumentParser:
        added = stages.add_parser(name, help=description)
        for option in needed:
            added.add_argument(option, required=True, type=Path)
        added.set_defaults(function=function)
        return added

    source: dict[str, Any] = {"dest": "source", "required": True, "type": Path}
    making = stage("prepare", partial(prepare, script), "Make the folders to be carried.", "--config", "--out")
    trying = stage("dry-run", partial(dry_run, script), "All stages, here and on the CPU.", "--out")
    trying.add_argument("--config", type=Path, default=Path("models/bsq1.toml"))
    for added in (making, trying):
        added.add_argument("--data", type=Path, help="the folder of the shards  [default: as the configuration says]")
        added.add_argument("--wheels", nargs="*", type=Path, default=[], help="packages that the machine lacks")
        added.add_argument("--most", type=float, default=38, help="size of a folder in MB, at most")
    added = stage("start", start, "Start the trainer, or start it again.", "--work")
    added.add_argument("--from", **source)
    added.add_argument("--minutes", type=float, required=True, help="minutes from now to the end of the run")
    added.add_argument("--wait", type=float, default=60, help="seconds to wait for its first step, at most")
    added = stage("train", train, "The trainer itself, which start starts.", "--work")
    added.add_argument("--until", type=float, required=True, help="the time to end, in seconds since 1970")
    stage("feed", feed, "Give the trainer one more folder.", "--work").add_argument("--from", **source)
    added = stage("finish", finish, "Wait for the trainer's end, and bring back what it made.", "--work", "--out")
    added.add_argument("--wait", type=float, default=480, help="seconds until the trainer is asked to stop")
    added.add_argument("--from-slice", type=int, default=0, help="the first slice to bring  [default: 0]")
    description = "Measure conformance, speed and exactness on this machine."
    added = stage("bench", partial(bench, checks), description, "--work", "--out")
    added.add_argument("--bits", type=float, default=1e8, help="bits to compare between GPU and CPU")
    added.add_argument("--seconds", type=float, default=120, help="seconds of that comparison, at most")
    added.add_argument("--sizes", nargs="*", default=SIZES, help="sizes of the videos whose speed is measured")
    added.add_argument("--frames", type=int, default=16, help="frames of each of these videos")
    stage("join", join, "Put together what finish brought.", "--out").add_argument("--from", nargs="+", **source)
    return found


def main(script: Path, description: str | None, checks: Checks) -> None:
    """Run the stage that the command line names; an error is one line, and status 1.

    Args:
        script: the path of lease.py.
        description: for --help.
        checks: makes what the stage `bench` measures.
    """
    words = ["dry-run" if word == "--dry-run" else word for word in sys.argv[1:]]
    options = vars(parser(script, description, checks).parse_args(words))
    if work := options.get("work"):  # packages that came as wheels
        sys.path.append(str((work / "site").resolve()))
    try:
        options.pop("function")(**options)
    except (BsqError, OSError) as e:
        sys.exit(f"bsqcodec: {first_line(e)}")
