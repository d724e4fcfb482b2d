"""What is done last on the lent machine: it is measured, with the model that it has trained."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...errors import BsqError
from .files import copy, model_file, write_json
from .lent import last_lines, running

# What is measured, by name, each a function that does it; made of a model file and the options of the stage `bench`.
# bench/machine_check.py has it; nothing in train/ imports bench/.
Checks = Callable[..., dict[str, Callable[[], Any]]]


def bench(checks: Checks, work: Path, out: Path, **options: Any) -> None:
    """Measure this machine and the model, everything once, and bring that back as bench.json.

    Args:
        checks: makes what is measured, of the model and the options.
        work: where the trainer worked; what was measured by an earlier call is kept there.
        out: the folder that is brought back.

    Raises BsqError while the trainer runs.
    """
    if running(work):
        raise BsqError("the trainer is still running")
    parts = {"machine": lambda: _facts(work)} | checks(model_file(work), **options)
    path = work / "bench.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    out.mkdir(parents=True, exist_ok=True)
    for part, measure in parts.items():
        if part not in found:
            began = time.monotonic()
            found[part] = measure()
            write_json(path, found)
            print(f"{part}: {time.monotonic() - began:.1f} s", flush=True)
        copy(path, out / "bench.json")
    differ = len(found["conformance"]["differences"]) + len(found["exactness"]["differences"])
    print(f"{out / 'bench.json'}: {differ} differences")


def _facts(work: Path) -> dict[str, Any]:
    """The machine, and the speed of the run."""
    log = (work / "run/log.jsonl").read_text().splitlines()
    first, last = json.loads(log[0]), json.loads(log[-1])
    span = last["elapsed"] - first["elapsed"]
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU: there is no GPU",
        "steps": last["step"],
        "steps a second": (last["step"] - first["step"]) / span if span > 0 else None,  # without those that warm up
        "log": last_lines(work, 20),
    }
