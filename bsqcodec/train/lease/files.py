"""Files of a lease: written whole or not at all, and checked against a list after each transfer."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from ...errors import BsqError
from ...network.config import ModelConfig
from ...output import replacing
from ..config import read_toml

SHARDS = {"photos": "photos", "strips": "clips"}  # keys of a configuration, and how the names of their shards begin


def write(path: Path, data: bytes) -> None:
    """Write a file that is whole if it is there."""
    with replacing(path) as part:
        Path(part).write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, as `write` does."""
    write(path, json.dumps(value, indent=1).encode())


def copy(source: Path, target: Path) -> None:
    """Copy a file, as `write` does; folders on the way are made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as part:
        shutil.copyfile(source, part)


def total_size(folder: Path) -> int:
    """Bytes of all files in a folder and those below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def digest(path: Path) -> dict[str, Any]:
    """The entry of a file in a list of files: "size" in bytes and "sha256"."""
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def verify(folder: Path, files: dict[str, dict[str, Any]], remedy: str) -> None:
    """Raises BsqError for the first file of a folder that is not what the list says; `remedy` ends its message."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise BsqError(f"{path} is missing: {remedy}")
        if digest(path) != expected:
            raise BsqError(f"{path} is cut off or damaged: {remedy}")


def verified(folder: Path) -> list[str]:
    """Names of the files in a folder that `prepare` made. Raises BsqError unless all have arrived whole."""
    remedy = "carry the folder again, and repeat this call"
    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
    except (OSError, ValueError, KeyError) as e:
        raise BsqError(f"{folder / 'manifest.json'} is missing or cut off: {remedy}") from e
    verify(folder, files, remedy)
    return list(files)


def model_file(work: Path) -> Path:
    """The model that the run in a working folder makes."""
    name = read_toml(work / "run.toml").get("model", {}).get("name", ModelConfig.name)
    return work / f"run/{name}.safetensors"
