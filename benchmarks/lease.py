"""Train on a large GPU that is lent for some minutes and reached only by calls: each carries a folder along, runs one
command for some minutes, and brings a few files back.

    here:   python benchmarks/lease.py prepare --config models/bsq1.toml --data shards/ --out lease [--wheels *.whl]
    there:  python lease/0/code/lease.py start --from lease/0 --work work --minutes 25
            python work/code/lease.py feed --from lease/1 --work work           # and lease/2, ...
            python work/code/lease.py finish --work work --out out              # says which calls bring the rest
            python work/code/lease.py bench --work work --out out
    here:   python benchmarks/lease.py join --from out-0 out-1 --out run
    before: python benchmarks/lease.py --dry-run --config models/bsq1.toml --data shards/ --out dry    # all of it, here

The trainer goes on between calls, and ends by itself when the time is over. Every call may be repeated: it does what is
still to do. The machine needs torch, numpy, pillow, safetensors and scikit-image; what else is missing comes as wheels.
"""

import argparse
import contextlib
import fcntl
import gzip
import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bsqcodec.errors import BsqError, first_line
from bsqcodec.train.config import read_toml

SPARE = 50_000  # bytes of a folder for the manifest and the ends of its tars
SLICE = 15 << 20  # bytes of a file that is brought back, at most
FILES, BYTES = 8, 63 << 20  # that one call brings back, at most
STOP_SECONDS = 60  # that a trainer has to save and end
SIZES = ("640x360", "1280x720", "1920x1080")
KINDS = {"photos": "photos", "strips": "clips"}  # keys of a configuration, and how their shards are called


def beside(path: Path, data: bytes) -> None:
    """Write a file under another name first, so that it is whole if it is there."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    shutil.copyfile(source, partial)
    os.replace(partial, target)


def digest(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def verify(folder: Path, files: dict[str, dict], remedy: str) -> None:
    """Raises BsqError for the first file of a folder that is not what the list says."""
    for name, wanted in files.items():
        path = folder / name
        if not path.is_file():
            raise BsqError(f"{path} is missing: {remedy}")
        if digest(path) != wanted:
            raise BsqError(f"{path} is cut off or damaged: {remedy}")


def carried(folder: Path) -> list[str]:
    """The files of a folder that `prepare` made. Raises BsqError unless all have arrived whole."""
    remedy = "carry the folder again, and repeat this call"
    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
    except (OSError, ValueError, KeyError) as e:
        raise BsqError(f"{folder / 'manifest.json'} is missing or cut off: {remedy}") from e
    verify(folder, files, remedy)
    return list(files)


# ---------------------------------------------------------------- here, before


def prepare(options: argparse.Namespace) -> None:
    """Folders to be carried: code, wheels and weights in the first, shares of the data in all."""
    from bsqcodec import selftest
    from bsqcodec.network import weights as model

    config, out, budget = Path(options.config), Path(options.out), int(options.most * 1e6) - SPARE
    values = read_toml(config)
    if values.get("videos"):
        raise BsqError(f"{config}: videos cannot be carried, only tars of photos and of strips")
    if out.exists() and any(out.iterdir()) and not (out / "0/manifest.json").exists():
        raise BsqError(f"{out} is not empty and was not made by prepare")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    first = partial / "0"
    unwanted = shutil.ignore_patterns("*.safetensors", "*.partial", "__pycache__")
    shutil.copytree(Path(selftest.__file__).parent, first / "code/bsqcodec", ignore=unwanted)
    for name in ("lease.py", "lease_bench.py"):
        copy(Path(__file__).with_name(name), first / "code" / name)
    copy(config, first / "config.toml")
    for wheel in options.wheels:
        copy(Path(wheel), first / "wheels" / Path(wheel).name)
    start = model.find_file(values["start"]).resolve() if values.get("start") else None
    if start:
        copy(start, first / "start.safetensors")
    used = size(first)
    if used > budget:
        raise BsqError(f"code, wheels and weights have {used / 1e6:.1f} MB, a folder {options.most:g}")
    # the conformance streams need their models, which come last unless the run starts from them
    names = {model.packaged_ids().get(bytes.fromhex(vector["model"]), "") for vector in selftest.vectors()}
    late = [path for path in map(model.find_file, sorted(names)) if path.resolve() != start]
    data = Path(options.data) if options.data else None
    with contextlib.ExitStack() as tars:
        shares = list(share(list(members(values, config, data, tars)), budget - used, budget))
        for k, items in enumerate(shares):
            pack(partial / str(k), k, items)
    k, room = len(shares) - 1, budget - size(partial / str(len(shares) - 1))
    for path in late:
        if path.stat().st_size > budget:
            raise BsqError(f"{path.name} has {path.stat().st_size / 1e6:.1f} MB, a folder {options.most:g}")
        if path.stat().st_size > room:
            k, room = k + 1, budget
        copy(path, partial / str(k) / "models" / path.name)
        room -= path.stat().st_size
    for folder in sorted(partial.iterdir()):
        files = {str(p.relative_to(folder)): digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}
        beside(folder / "manifest.json", json.dumps({"files": files}, indent=1).encode())
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)
    sizes = ", ".join(f"{size(out / str(i)) / 1e6:.1f}" for i in range(k + 1))
    print(f"{out}: folders 0 to {k} of {sizes} MB")


def write_toml(path: Path, values: dict[str, Any]) -> None:
    """Tables come last; JSON's numbers, strings, lists and truth values are also TOML's."""
    tables = {k: v for k, v in values.items() if isinstance(v, dict)}
    lines = [f"{k} = {json.dumps(v)}" for k, v in values.items() if k not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    beside(path, "\n".join([*lines, ""]).encode())


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


Item = tuple[str, tarfile.TarFile, tarfile.TarInfo]  # how its shard is called, and where it is


def members(
    values: dict[str, Any], config: Path, data: Path | None, tars: contextlib.ExitStack
) -> Iterator[tuple[float, Item]]:
    """Every file in the shards of a configuration, and the place of its end in all bytes of its kind, 0..1."""
    for key, kind in KINDS.items():
        found: list[Item] = []
        for name in values.get(key, []):
            path = data / Path(name).name if data else config.parent / name
            try:
                tar = tars.enter_context(tarfile.open(path))
                found += [(kind, tar, member) for member in tar if member.isfile()]
            except (tarfile.TarError, OSError, EOFError) as e:
                raise BsqError(f"{path}: not a readable tar ({first_line(e)})") from e
        ends = itertools.accumulate(packed(item) for item in found)
        total = sum(map(packed, found))
        yield from ((end / total, item) for end, item in zip(ends, found))


def packed(item: Item) -> int:
    """Bytes that it takes in a tar."""
    return 512 + -(-item[2].size // 512) * 512


def share(items: list[tuple[float, Item]], first: int, rest: int) -> Iterator[list[Item]]:
    """Fill folders that have room for so many bytes; each gets photographs and strips in the proportion of all."""
    chosen: list[Item] = []
    room = first
    for _, item in sorted(items, key=lambda pair: pair[0]):
        if packed(item) > room and chosen:
            yield chosen
            room, chosen = rest, []
        if packed(item) > room:
            raise BsqError(f"an image of {packed(item)} bytes finds no room in a folder, beside code and weights")
        chosen.append(item)
        room -= packed(item)
    if not chosen:
        raise BsqError("the configuration names no shards with images")
    yield chosen


def pack(folder: Path, k: int, items: list[Item]) -> None:
    """The tars of a folder; members are numbered, for shards may use a name twice."""
    folder.mkdir(exist_ok=True)
    for kind in {item[0]: None for item in items}:
        with tarfile.open(folder / f"{kind}-{k}.tar", "w", format=tarfile.USTAR_FORMAT) as out:
            for i, (_, tar, member) in enumerate(item for item in items if item[0] == kind):
                file = tar.extractfile(member)
                assert file
                plain = tarfile.TarInfo(f"{i:06}{Path(member.name).suffix}")
                plain.size = member.size
                try:
                    out.addfile(plain, file)
                except (tarfile.TarError, OSError, EOFError) as e:
                    raise BsqError(f"{tar.name!r}: not a readable tar ({first_line(e)})") from e


# ---------------------------------------------------------------- there


@contextlib.contextmanager
def locked(work: Path) -> Iterator[int | None]:
    """The lock that a trainer inherits and holds as long as it lives, or None if one does: a process number may be
    that of another by now."""
    with open(work / "lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file.fileno()


def running(work: Path) -> bool:
    if not (work / "lease.json").exists():
        raise BsqError(f"{work}: no trainer was started there")
    with locked(work) as lock:
        return lock is None


def last_lines(work: Path, count: int, offset: int = 0) -> list[str]:
    """Of what the trainer printed, from a place in its log on."""
    try:
        data = (work / "log.txt").read_bytes()[offset:]
    except FileNotFoundError:
        data = b""
    return data.decode(errors="replace").splitlines()[-count:] or ["nothing is in its log"]


def start(options: argparse.Namespace) -> None:
    """Lay out what came, and start the trainer in a session of its own; its end does not depend on when it starts."""
    source, work = Path(options.source).resolve(), Path(options.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    state = work / "lease.json"
    with locked(work) as lock:
        if lock is None:
            print(f"the trainer is running already: {last_lines(work, 1)[0]}")
            return
        if (work / "ended.json").exists():
            print(f"the trainer has ended already: {json.loads((work / 'ended.json').read_text())['said']}")
            return
        until = json.loads(state.read_text())["until"] if state.exists() else time.time() + 60 * options.minutes
        if until <= time.time():
            raise BsqError("the time of this run is over")
        lay_out(source, work)
        beside(state, json.dumps({"until": until}).encode())
        (work / "pid").unlink(missing_ok=True)
        log, steps = work / "log.txt", work / "run/log.jsonl"
        before = [path.stat().st_size if path.exists() else 0 for path in (log, steps)]
        with open(log, "ab") as out:
            process = subprocess.Popen(
                [sys.executable, work / "code/lease.py", "train", "--work", work, "--until", repr(until)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=work, start_new_session=True,
                pass_fds=[lock], env=os.environ | {"PYTHONPATH": f"{work / 'code'}:{work / 'site'}"},
            )  # fmt: skip
    deadline = time.monotonic() + options.wait
    while process.poll() is None and time.monotonic() < deadline:
        if steps.exists() and steps.stat().st_size > before[1]:
            break
        time.sleep(0.1)
    said = last_lines(work, 5, before[0])
    print("\n".join(said))
    if process.poll():
        raise BsqError(f"the trainer has died: {said[-1].removeprefix('bsqcodec: ')}")
    print(f"the trainer {'runs' if process.returncode is None else 'has ended'}; it has until {time.ctime(until)}")


def lay_out(source: Path, work: Path) -> None:
    """Copy the first folder to where the trainer works, and write the configuration of the run."""
    files = carried(source)
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
    for key, kind in KINDS.items():
        values[key] = [f"first/{name}" for name in files if name.startswith(kind)]
    if "start.safetensors" in files:
        values["start"] = "start.safetensors"
        # it may be the model of the conformance streams, which is looked for beside the package, by its id
        copy(source / "start.safetensors", work / "code/models/start.safetensors")
    write_toml(work / "run.toml", values | {"out": "run", "incoming": "incoming"})


def train(options: argparse.Namespace) -> None:
    """The process that `start` starts, in the folder where it works."""
    beside(Path("pid"), str(os.getpid()).encode())
    import logging

    from bsqcodec.train.trainer import train as run

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    said = run("run.toml", until=options.until)
    print(said, flush=True)
    beside(Path("ended.json"), json.dumps({"said": said}).encode())


def feed(options: argparse.Namespace) -> None:
    """Give the trainer one more folder."""
    source, work = Path(options.source), Path(options.work)
    if not (work / "code").is_dir():
        raise BsqError(f"{work}: start comes first")
    fed = 0
    for name in carried(source):
        target = work / ("code" if name.startswith("models/") else "incoming") / name
        if name.startswith("models/") or name.endswith(".tar"):
            if not target.exists() and not (work / "first" / name).exists():
                copy(source / name, target)
                fed += 1
    print(f"{source}: {fed} files are new")


def finish(options: argparse.Namespace) -> None:
    """Wait for the trainer's end, and bring back what it made, as much as goes into one call."""
    work, out = Path(options.work), Path(options.out)
    wait_for(work, options.wait)
    pieces = work / "pieces"
    if not options.from_slice or not pieces.exists():
        partial = work / "pieces.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        cut(work, partial)
        shutil.rmtree(pieces, ignore_errors=True)
        os.replace(partial, pieces)
    listing = json.loads((pieces / "slices.json").read_text())
    names = list(listing["files"])
    if not 0 <= options.from_slice < len(names):
        raise BsqError(f"there are slices 0 to {len(names) - 1}")
    out.mkdir(parents=True, exist_ok=True)
    copy(pieces / "slices.json", out / "slices.json")
    k, room = options.from_slice, BYTES
    while k < len(names) and k - options.from_slice < FILES - 1 and listing["files"][names[k]]["size"] <= room:
        copy(pieces / names[k], out / names[k])
        room -= listing["files"][names[k]]["size"]
        k += 1
    rest = f"; the rest: finish --from-slice {k}" if k < len(names) else "; that is all"
    print(f"{out}: slices {options.from_slice} to {k - 1} of {len(names)}{rest}")


def wait_for(work: Path, seconds: float) -> None:
    """Wait for the trainer so long; then ask it to stop, and wait until it has saved."""
    began = told = time.monotonic()
    asked = False
    while running(work):
        now = time.monotonic()
        if not asked and now - began >= seconds and (work / "pid").exists():
            os.kill(int((work / "pid").read_text()), signal.SIGTERM)
            asked, began = True, now
            print("the trainer is asked to stop", flush=True)
        elif asked and now - began > STOP_SECONDS:
            raise BsqError(f"the trainer does not end within {STOP_SECONDS} s: {last_lines(work, 1)[0]}")
        elif now - told > 30:
            told = now
            print(last_lines(work, 1)[0], flush=True)
        time.sleep(0.1)
    if not (work / "ended.json").exists():
        print(f"the trainer died; its last checkpoint counts: {last_lines(work, 1)[0]}", flush=True)


def cut(work: Path, folder: Path) -> None:
    """Lay the model, the log and the compact state into a folder, in slices, with a list of them."""
    config = read_toml(work / "run.toml")
    name = config.get("model", {}).get("name", "bsq1")
    model, checkpoint = work / f"run/{name}.safetensors", work / "run/checkpoint.pt"
    if not (model.exists() and checkpoint.exists()):
        raise BsqError(f"the trainer left no checkpoint: {last_lines(work, 1)[0]}")
    import torch

    slices("model", model.read_bytes(), folder)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    beside(folder / "log.jsonl.gz", gzip.compress((work / "run/log.jsonl").read_bytes(), mtime=0))
    beside(folder / "log.txt", (work / "log.txt").read_bytes()[-SLICE:])
    if (work / "bench.json").exists():
        copy(work / "bench.json", folder / "bench.json")
    for key, kind in (("network", torch.float16), ("average", torch.float16), ("optimisers", torch.bfloat16)):
        state[key] = cast(state[key], kind)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    slices("state", buffer.getvalue(), folder)
    # the model first, the large state last
    files = {p.name: digest(p) for p in sorted(folder.iterdir(), key=lambda p: (p.name[:5] != "model", p.name))}
    beside(
        folder / "slices.json", json.dumps({"model": name, "step": state["step"], "files": files}, indent=1).encode()
    )


def slices(name: str, data: bytes, folder: Path) -> None:
    for i in range(0, len(data), SLICE):
        beside(folder / f"{name}.{i // SLICE:02}", data[i : i + SLICE])


def cast(value: Any, kind: Any) -> Any:
    """Turn the floats in a tree of dicts and lists into another type; numbers, which have no dimensions, stay."""
    import torch

    if isinstance(value, dict):
        return {k: cast(v, kind) for k, v in value.items()}
    if isinstance(value, list):
        return [cast(v, kind) for v in value]
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim():
        return value.to(kind)
    return value


def bench(options: argparse.Namespace) -> None:
    """What this machine says of the codec: conformance, speed, exactness."""
    import lease_bench

    lease_bench.bench(options)


# ---------------------------------------------------------------- here, afterwards


def join(options: argparse.Namespace) -> None:
    """Put together what several calls of `finish` brought: the model, the log, and a checkpoint to go on from."""
    import torch

    folders, out = [Path(folder) for folder in options.source], Path(options.out)
    try:
        listings = [json.loads((folder / "slices.json").read_text()) for folder in folders]
    except (OSError, ValueError) as e:
        raise BsqError(f"what finish brought is not whole: {first_line(e)}") from e
    files = listings[0]["files"]
    if any(listing != listings[0] for listing in listings):
        raise BsqError("these folders do not belong together: begin again with finish --from-slice 0")
    at = {name: next((f for f in folders if (f / name).exists()), folders[0]) for name in files}
    for k, (name, wanted) in enumerate(files.items()):
        verify(at[name], {name: wanted}, f"finish --from-slice {k} brings it")

    def whole(name: str) -> bytes:
        return b"".join((at[part] / part).read_bytes() for part in sorted(files) if part.startswith(f"{name}."))

    out.mkdir(parents=True, exist_ok=True)
    beside(out / f"{listings[0]['model']}.safetensors", whole("model"))
    beside(out / "log.jsonl", gzip.decompress((at["log.jsonl.gz"] / "log.jsonl.gz").read_bytes()))
    for name in {"log.txt", "bench.json"} & set(files):
        copy(at[name] / name, out / name)
    state = cast(torch.load(io.BytesIO(whole("state")), weights_only=True), torch.float32)
    partial = out / "checkpoint.partial"
    torch.save(state, partial)
    os.replace(partial, out / "checkpoint.pt")
    print(f"{out}: model and checkpoint of step {state['step']}")


def dry_run(options: argparse.Namespace) -> None:
    """All stages on this machine's CPU, as the commands that will be run; ten steps, and few bits."""
    out = Path(options.out).resolve()
    shutil.rmtree(out / "work", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    config, values = Path(options.config), read_toml(Path(options.config))
    for key in KINDS:
        values[key] = [str((config.parent / name).resolve()) for name in values.get(key, [])]
    short = {"steps": 10, "images": 2, "sequences": 1, "device": "cpu", "checkpoint_minutes": 0.01}
    write_toml(out / "config.toml", values | short)
    folders, work = out / "lease", out / "work"

    def call(script: Path, *words: Any) -> str:
        began = time.monotonic()
        done = subprocess.run([sys.executable, script, *map(str, words)], capture_output=True, text=True)
        said = (done.stdout.strip().splitlines() or [""])[-1]
        if done.returncode:
            raise BsqError(f"{words[0]}: {(done.stderr.strip().splitlines() or [said])[-1].removeprefix('bsqcodec: ')}")
        print(f"{words[0]}, {time.monotonic() - began:.1f} s: {said}", flush=True)
        return said

    more = ["--data", options.data] if options.data else []
    more += ["--wheels", *options.wheels] if options.wheels else []
    call(Path(__file__), "prepare", "--config", out / "config.toml", "--out", folders, "--most", options.most, *more)
    call(folders / "0/code/lease.py", "start", "--from", folders / "0", "--work", work, "--minutes", 30)
    there = work / "code/lease.py"
    for k in range(1, len(list(folders.iterdir()))):
        call(there, "feed", "--from", folders / str(k), "--work", work)
    brought, k = [], 0
    while True:
        brought.append(out / f"out-{k}")
        shutil.rmtree(brought[-1], ignore_errors=True)
        said = call(there, "finish", "--work", work, "--out", brought[-1], "--from-slice", k)
        if "--from-slice" not in said:
            break
        k = int(said.split()[-1])
    small = ["--sizes", "64x48", "--frames", 2, "--bits", 1e4]
    call(there, "bench", "--work", work, "--out", out, *small)
    call(Path(__file__), "join", "--from", *brought, "--out", out / "joined")
    print(out / "bench.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = parser.add_subparsers(required=True)

    def stage(function: Callable, *needed: str) -> argparse.ArgumentParser:
        found = stages.add_parser(function.__name__.replace("_", "-"), help=(function.__doc__ or "").splitlines()[0])
        for name in needed:
            found.add_argument(name, required=True)
        found.set_defaults(function=function)
        return found

    one = stage(prepare, "--config", "--out"), stage(dry_run, "--out")
    one[1].add_argument("--config", default="models/bsq1.toml")
    for found in one:
        found.add_argument("--data", help="the folder of the shards  [default: as the configuration says]")
        found.add_argument("--wheels", nargs="*", default=[], help="packages that the machine lacks")
        found.add_argument("--most", type=float, default=38, help="MB of a folder")
    source: dict[str, Any] = {"dest": "source", "required": True}
    found = stage(start, "--work")
    found.add_argument("--from", **source)
    found.add_argument("--minutes", type=float, required=True, help="from now on, to the end of the run")
    found.add_argument("--wait", type=float, default=60, help="seconds for its first step, at most")
    found = stage(train, "--work")
    found.add_argument("--until", type=float, required=True)
    stage(feed, "--work").add_argument("--from", **source)
    found = stage(finish, "--work", "--out")
    found.add_argument("--wait", type=float, default=480, help="seconds, at most, before the trainer is asked to stop")
    found.add_argument("--from-slice", type=int, default=0)
    found = stage(bench, "--work", "--out")
    found.add_argument("--bits", type=float, default=1e8, help="of the comparison of GPU and CPU")
    found.add_argument("--seconds", type=float, default=120, help="of the comparison, at most")
    found.add_argument("--sizes", nargs="*", default=SIZES)
    found.add_argument("--frames", type=int, default=16)
    stage(join, "--out").add_argument("--from", nargs="+", **source)
    options = parser.parse_args(["dry-run" if word == "--dry-run" else word for word in sys.argv[1:]])
    if site := getattr(options, "work", ""):
        sys.path.append(str(Path(site, "site").resolve()))
    try:
        options.function(options)
    except (BsqError, OSError) as e:
        sys.exit(f"bsqcodec: {first_line(e)}")


if __name__ == "__main__":
    main()
