"""Where model files are, and the ids that they claim. Their contents are read by network/weights.py."""

from importlib import resources
from pathlib import Path

import safetensors
from safetensors import SafetensorError

from .errors import ModelError


def packaged_models() -> dict[str, Path]:
    """Model files shipped with the package, by name."""
    folders = [Path(str(resources.files("bsqcodec"))) / "models", Path(__file__).parents[1] / "models"]
    return {p.stem: p for folder in reversed(folders) if folder.is_dir() for p in sorted(folder.glob("*.safetensors"))}


def find_file(name: str) -> Path:
    """The file of a packaged model, or the path itself. Raises ModelError if there is none."""
    path = packaged_models().get(name) or Path(name)
    if not path.is_file():
        known = ", ".join(packaged_models()) or "none"
        raise ModelError(f"no model {name!r}; packaged models: {known}")
    return path


def packaged_ids() -> dict[bytes, str]:
    """Names of the packaged models by id, as their files claim."""
    found = {}
    for name, path in packaged_models().items():
        try:
            with safetensors.safe_open(path, "np") as file:
                found[bytes.fromhex((file.metadata() or {})["id"])] = name
        except (SafetensorError, OSError, KeyError, ValueError):
            continue  # a damaged file is reported when it is asked for by name
    return found
