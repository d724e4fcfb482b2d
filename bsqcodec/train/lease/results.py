"""What is done after a lease's training: results are cut into slices, brought back by several calls, and joined."""

import gzip
import io
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import torch

from ...errors import BsqError, first_line
from ...output import replacing
from .files import copy, digest, model_file, verify, write, write_json
from .lent import last_lines, running

SLICE_BYTES = 15 << 20  # of a file that is brought back, at most
CALL_FILES, CALL_BYTES = 8, 63 << 20  # that one call brings back, at most
STOP_SECONDS = 60  # that a trainer has to save and end
TELL_SECONDS = 30  # between two lines on where the trainer is


def finish(work: Path, out: Path, wait: float, from_slice: int) -> None:
    """Wait for the trainer's end, and bring back what it made, as much as goes into one call.

    Args:
        work: where the trainer works.
        out: the folder that is brought back.
        wait: seconds, at most, before the trainer is asked to stop.
        from_slice: the first slice to bring; what is printed says how to bring the rest.

    Raises BsqError if there is no checkpoint or no such slice.
    """
    _wait_for(work, wait)
    pieces = work / "pieces"
    if not from_slice or not pieces.exists():
        with replacing(pieces) as part:
            Path(part).mkdir()
            _cut(work, Path(part))
            shutil.rmtree(pieces, ignore_errors=True)
    listing = json.loads((pieces / "slices.json").read_text())
    names = list(listing["files"])
    if not 0 <= from_slice < len(names):
        raise BsqError(f"there are slices 0 to {len(names) - 1}")
    out.mkdir(parents=True, exist_ok=True)
    copy(pieces / "slices.json", out / "slices.json")
    k, room = from_slice, CALL_BYTES
    while k < len(names) and k - from_slice < CALL_FILES - 1 and listing["files"][names[k]]["size"] <= room:
        copy(pieces / names[k], out / names[k])
        room -= listing["files"][names[k]]["size"]
        k += 1
    rest = f"; the rest: finish --from-slice {k}" if k < len(names) else "; that is all"
    print(f"{out}: slices {from_slice} to {k - 1} of {len(names)}{rest}")


def _wait_for(work: Path, seconds: float) -> None:
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
        elif now - told > TELL_SECONDS:
            told = now
            print(last_lines(work, 1)[0], flush=True)
        time.sleep(0.1)
    if not (work / "ended.json").exists():
        print(f"the trainer died; its last checkpoint counts: {last_lines(work, 1)[0]}", flush=True)


def _cut(work: Path, folder: Path) -> None:
    """Lay the model, the log and the compact state into a folder, in slices, with a list of them."""
    model, checkpoint = model_file(work), work / "run/checkpoint.pt"
    if not (model.exists() and checkpoint.exists()):
        raise BsqError(f"the trainer left no checkpoint: {last_lines(work, 1)[0]}")
    _slices("model", model.read_bytes(), folder)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    write(folder / "log.jsonl.gz", gzip.compress((work / "run/log.jsonl").read_bytes(), mtime=0))
    write(folder / "log.txt", (work / "log.txt").read_bytes()[-SLICE_BYTES:])
    if (work / "bench.json").exists():
        copy(work / "bench.json", folder / "bench.json")
    for key, dtype in (("network", torch.float16), ("average", torch.float16), ("optimisers", torch.bfloat16)):
        state[key] = _cast(state[key], dtype)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    _slices("state", buffer.getvalue(), folder)
    # the model first, the large state last
    files = {p.name: digest(p) for p in sorted(folder.iterdir(), key=lambda p: (p.name[:5] != "model", p.name))}
    write_json(folder / "slices.json", {"model": model.stem, "step": state["step"], "files": files})


def _slices(name: str, data: bytes, folder: Path) -> None:
    """Write data as files NAME.00, NAME.01, ..."""
    for i in range(0, len(data), SLICE_BYTES):
        write(folder / f"{name}.{i // SLICE_BYTES:02}", data[i : i + SLICE_BYTES])


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Change the type of the floating-point tensors in a tree of dicts and lists, but of those without dimensions."""
    if isinstance(value, dict):
        return {k: _cast(v, dtype) for k, v in value.items()}
    if isinstance(value, list):
        return [_cast(v, dtype) for v in value]
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim():
        return value.to(dtype)
    return value


def join(source: list[Path], out: Path) -> None:
    """Put together what several calls of `finish` brought: the model, the log, and a checkpoint to go on from.

    Raises BsqError if a slice is missing or damaged, with the call that brings it.
    """
    try:
        listings = [json.loads((folder / "slices.json").read_text()) for folder in source]
    except (OSError, ValueError) as e:
        raise BsqError(f"what finish brought is not whole: {first_line(e)}") from e
    files = listings[0]["files"]
    if any(listing != listings[0] for listing in listings):
        raise BsqError("these folders do not belong together: begin again with finish --from-slice 0")
    homes = {name: next((f for f in source if (f / name).exists()), source[0]) for name in files}
    for k, (name, expected) in enumerate(files.items()):
        verify(homes[name], {name: expected}, f"finish --from-slice {k} brings it")

    def whole(name: str) -> bytes:
        return b"".join((homes[part] / part).read_bytes() for part in sorted(files) if part.startswith(f"{name}."))

    out.mkdir(parents=True, exist_ok=True)
    write(out / f"{listings[0]['model']}.safetensors", whole("model"))
    write(out / "log.jsonl", gzip.decompress((homes["log.jsonl.gz"] / "log.jsonl.gz").read_bytes()))
    for name in {"log.txt", "bench.json"} & set(files):
        copy(homes[name] / name, out / name)
    state = _cast(torch.load(io.BytesIO(whole("state")), weights_only=True), torch.float32)
    with replacing(out / "checkpoint.pt") as part, open(part, "wb") as file:
        torch.save(state, file)
    print(f"{out}: model and checkpoint of step {state['step']}")
