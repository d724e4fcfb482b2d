"""Model files: safetensors that hold all networks as integers.

A stream names its model by `model_id`, a hash of everything a decoder needs; the encoder is left out of it, so a
better encoder can be shipped for streams that old decoders read.
"""

import functools
import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import BsqError, FormatError, ModelError
from ..model_files import find_file, packaged_ids
from ..settings import DEFAULT_MODEL
from ..types import MODEL_ID_BYTES
from .config import ModelConfig, decoder_tensors
from .network import Network
from .objective import Objective


def device_of(name: str) -> torch.device:
    """The device of this name; "auto" is the GPU where there is one. Raises BsqError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise BsqError(f"no device called {name!r}") from e
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BsqError("there is no CUDA device on this machine")
    return device


# Keys of the configuration that count in a model's id: what a decoder depends on. No later one may count, or released
# models would change their ids.
HASHED_KEYS = ("fine_width", "fine_blocks", "width", "blocks", "prior_width", "prior_blocks", "prior_head")


class Model:
    """Weights on a device, ready to code.

    Attributes:
        name: stem of the model file.
        id: the 8 bytes that name the model in a stream.
        network: the networks behind one face.
        device: where the networks are.
    """

    def __init__(
        self, config: ModelConfig, tensors: dict[str, Tensor], objective: Objective, name: str,
        device: str | torch.device = "cpu", identity: bytes | None = None,
    ):  # fmt: skip
        self.name = name
        self.id = identity or model_id(config, tensors)
        self.device = torch.device(device)
        self.network = Network(config, tensors, objective, self.device)


def model_id(config: ModelConfig, tensors: dict[str, Tensor]) -> bytes:
    """First 8 bytes of SHA-256 over the configuration's `HASHED_KEYS` and all integers of decoder and prior, by name.

    Each tensor counts with its name, its shape, the bytes of its smallest type (1, 2, 4 or 8) and its values in that
    type, little-endian.
    """
    h = hashlib.sha256()
    values = config.to_dict()
    h.update(json.dumps([[key, values[key]] for key in HASHED_KEYS], separators=(",", ":")).encode())
    tensors = decoder_tensors(tensors)
    for name in sorted(tensors):
        t = narrow(tensors[name])
        h.update(f"{name}{list(t.shape)}{t.element_size()}".encode())
        h.update(t.numpy().astype(f"<i{t.element_size()}").tobytes())
    return h.digest()[:MODEL_ID_BYTES]


def narrow(t: Tensor) -> Tensor:
    """The same integers in the smallest type that holds them, contiguous."""
    for dtype in (torch.int8, torch.int16, torch.int32):
        info = torch.iinfo(dtype)
        if t.numel() == 0 or (t.min() >= info.min and t.max() <= info.max):
            return t.to(dtype).contiguous()
    return t.contiguous()


def encoder_hash(stored: dict[str, Tensor]) -> str:
    """SHA-256 of the names and values of the encoder's tensors, in hexadecimal."""
    h = hashlib.sha256()
    for name in sorted(stored.keys() - decoder_tensors(stored).keys()):
        h.update(name.encode())
        h.update(stored[name].contiguous().numpy().tobytes())
    return h.hexdigest()


def load_model(name: str = DEFAULT_MODEL, device: str | torch.device = "cpu") -> Model:
    """A packaged model by name, or a model file by path. It is kept, and loaded again only if its file changes.

    Raises ModelError if there is none, if it is damaged, or if its contents do not have the id it claims.
    """
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    path = find_file(name).absolute()
    status = path.stat()
    return _load(path, status.st_mtime_ns, status.st_size, device)


@functools.lru_cache(maxsize=4)
def _load(path: Path, modified: int, size: int, device: torch.device) -> Model:
    """Load a model file; `modified` and `size` tell apart what a path held at different times."""
    config, tensors, objective, identity = read_file(path)
    try:
        return Model(config, tensors, objective, path.stem, device, identity)
    except (AssertionError, KeyError, IndexError) as e:
        raise ModelError(f"{path}: not a readable model file ({e})") from e


def read_file(path: Path) -> tuple[ModelConfig, dict[str, Tensor], Objective, bytes]:
    """Configuration, integers, objective and id of a model file; ModelError if it is damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
        config = ModelConfig.from_dict(json.loads(metadata["config"]))
        objective = Objective.from_dict(json.loads(metadata["objective"]))
        identity = model_id(config, stored)
        intact = identity.hex() == metadata["id"] and encoder_hash(stored) == metadata["encoder"]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as e:
        raise ModelError(f"{path}: not a readable model file ({type(e).__name__})") from e
    if not intact:
        raise ModelError(f"{path}: the weights are not the ones the file was made with")
    return config, stored, objective, identity


def find_model(identity: bytes, device: str | torch.device = "cpu") -> Model:
    """The packaged model with this id. Raises ModelError that names the id if there is none."""
    name = packaged_ids().get(identity)
    if name is None:
        raise ModelError(f"the stream needs model {identity.hex()}, which is not installed")
    return load_model(name, device)


def model_of(identity: bytes, model: Model | str | None = None, device: str = "auto") -> Model:
    """The model that a stream needs, loaded.

    Args:
        identity: its id.
        model: where it is, if it is not packaged: a model file, or a model that is loaded.
        device: as `device_of` takes it, for a model that is not loaded yet.

    Raises ModelError if it is not there, FormatError if `model` is another one.
    """
    if isinstance(model, str):
        model = load_model(model, device_of(device))
    model = model or find_model(identity, device_of(device))
    if model.id != identity:
        raise FormatError(f"the stream needs model {identity.hex()}, not {model.id.hex()}")
    return model
