"""What is done on the lent machine while it trains: start the trainer, feed it, and look whether it runs."""

import contextlib
import fcntl
import json
import logging
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ...errors import BsqError
from ..config import read_toml, write_toml
from .files import SHARDS, copy, verified, write, write_json


@contextlib.contextmanager
def locked(work: Path) -> Iterator[int | None]:
    """The descriptor of the lock that a trainer inherits and holds as long as it lives; None if one does already.

    The number of its process would not do: it may be that of another by now.
    """
    with open(work / "lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file.fileno()


def running(work: Path) -> bool:
    """Whether the trainer runs. Raises BsqError if none was started there."""
    if not (work / "lease.json").exists():
        raise BsqError(f"{work}: no trainer was started there")
    with locked(work) as lock:
        return lock is None


def last_lines(work: Path, count: int, offset: int = 0) -> list[str]:
    """The last lines that the trainer printed after the first `offset` bytes; one that says so if there are none."""
    try:
        data = (work / "log.txt").read_bytes()[offset:]
    except FileNotFoundError:
        data = b""
    return data.decode(errors="replace").splitlines()[-count:] or ["nothing is in its log"]


def start(source: Path, work: Path, minutes: float, wait: float) -> None:
    """Lay out what came, and start the trainer in a session of its own; a repeated start does not prolong the run.

    Args:
        source: the folder 0 of `prepare`.
        work: where the trainer works.
        minutes: from the first start to the end of the run.
        wait: seconds to wait for its first training step, at most.

    Raises BsqError if the folder has not arrived whole, the time is over, or the trainer dies.
    """
    source, work = source.resolve(), work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    state, ended = work / "lease.json", work / "ended.json"
    with locked(work) as lock:
        if lock is None:
            print(f"the trainer is running already: {last_lines(work, 1)[0]}")
            return
        if ended.exists():
            print(f"the trainer has ended already: {json.loads(ended.read_text())['said']}")
            return
        until = json.loads(state.read_text())["until"] if state.exists() else time.time() + 60 * minutes
        if until <= time.time():
            raise BsqError("the time of this run is over")
        _lay_out(source, work)
        write_json(state, {"until": until})
        log, steps = work / "log.txt", work / "run/log.jsonl"
        printed, logged = (path.stat().st_size if path.exists() else 0 for path in (log, steps))
        process = _launch(work, until, lock)
    deadline = time.monotonic() + wait
    while process.poll() is None and time.monotonic() < deadline:
        if steps.exists() and steps.stat().st_size > logged:
            break
        time.sleep(0.1)
    said = last_lines(work, 5, printed)
    print("\n".join(said))
    if process.poll():
        raise BsqError(f"the trainer has died: {said[-1].removeprefix('bsqcodec: ')}")
    print(f"the trainer {'runs' if process.returncode is None else 'has ended'}; it has until {time.ctime(until)}")


def _lay_out(source: Path, work: Path) -> None:
    """Copy the first folder to where the trainer works, and write the configuration of the run."""
    files = verified(source)
    for name in files:
        if name.startswith("wheels/"):
            with zipfile.ZipFile(source / name) as wheel:
                wheel.extractall(work / "site")
        elif name.endswith(".tar"):
            copy(source / name, work / "first" / name)
        elif name.startswith("models/"):
            copy(source / name, work / "code" / name)
        else:
            copy(source / name, work / name)
    values = read_toml(source / "config.toml")
    for key, shard in SHARDS.items():
        values[key] = [f"first/{name}" for name in files if name.startswith(shard)]
    if "start.safetensors" in files:
        values["start"] = "start.safetensors"
        # it may be the model of the conformance streams, which is looked for beside the package, by its id
        copy(source / "start.safetensors", work / "code/models/start.safetensors")
    write_toml(work / "run.toml", values | {"out": "run", "incoming": "incoming"})


def _launch(work: Path, until: float, lock: int) -> subprocess.Popen[bytes]:
    """Start the stage `train` in the background; what it prints is appended to log.txt."""
    (work / "pid").unlink(missing_ok=True)
    with open(work / "log.txt", "ab") as out:
        return subprocess.Popen(
            [sys.executable, work / "code/lease.py", "train", "--work", work, "--until", repr(until)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=work, start_new_session=True,
            pass_fds=[lock], env=os.environ | {"PYTHONPATH": f"{work / 'code'}:{work / 'site'}"},
        )  # fmt: skip


def train(work: Path, until: float) -> None:
    """Train; this is the process that `start` starts, in the folder where it works.

    until: the time at which to end, in seconds since 1970.
    """
    write(work / "pid", str(os.getpid()).encode())
    from ..trainer import train as run  # which no other stage needs

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    said = run("run.toml", until=until)
    print(said, flush=True)
    write_json(work / "ended.json", {"said": said})


def feed(source: Path, work: Path) -> None:
    """Give the trainer one more folder, the data of which it takes up as it runs.

    Raises BsqError if the folder has not arrived whole, or nothing was started.
    """
    if not (work / "code").is_dir():
        raise BsqError(f"{work}: start comes first")
    fed = 0
    for name in verified(source):
        is_model = name.startswith("models/")
        target = work / ("code" if is_model else "incoming") / name
        known = target.exists() or (work / "first" / name).exists()
        if (is_model or name.endswith(".tar")) and not known:
            copy(source / name, target)
            fed += 1
    print(f"{source}: {fed} files are new")
