"""Model files: safetensors that hold the decoder and the prior as integers and the encoder as float16.

A stream names its model by `model_id`, a hash of everything a decoder needs; the encoder is left out of it, so a
better encoder can be shipped for streams that old decoders read.
"""

import functools
import hashlib
import json
from importlib import resources
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from .config import DEFAULT, ModelConfig
from .errors import ModelError
from .exact import ExactModule, bf16_is_fast, freeze, set_arithmetic, set_kinds
from .network import Network
from .stream import ID_BYTES


class Model:
    """Frozen weights on a device, ready to code.

    Attributes:
        name: the file's stem.
        id: 8 bytes that a stream carries.
        network: the three networks; decoder and prior in integers.
        device: where they are.
    """

    def __init__(self, network: Network, name: str, device: str | torch.device = "cpu", identity: bytes | None = None):
        self.name = name
        self.id = identity or model_id(network.config, integers(network))
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        freeze(network.decoder)
        freeze(network.prior)
        set_arithmetic(network.encoder, False, bf16_is_fast(self.device))

    @functools.cached_property
    def unrounded(self) -> Network:
        """The networks in the real arithmetic that they were trained in, to take gradients through."""
        network = Network(self.network.config).to(self.device)
        set_kinds(network, len(self.network.prior.logit_bias.anchors))
        network.load_state_dict(self.network.state_dict())
        set_arithmetic(network, False, bf16_is_fast(self.device))
        return network.requires_grad_(False)


@torch.no_grad()
def integers(network: Network) -> dict[str, Tensor]:
    """Everything a decoder needs, as integers: rounded parameters and the prior's tables."""
    out = {}
    for prefix, part in (("decoder", network.decoder), ("prior", network.prior)):
        for path, module in part.named_modules(prefix=prefix):
            if isinstance(module, ExactModule):
                for name, (bits, limit) in module.formats.items():
                    value = getattr(module, name).detach().double() * 2.0**bits
                    out[f"{path}.{name}"] = torch.floor(value + 0.5).clamp(-limit, limit).to(torch.int32).cpu()
    out["prior.active"] = network.prior.active.int().cpu()
    out["prior.table"] = network.prior.table.int().cpu()
    out["decoder.steps"] = network.decoder.steps.int().cpu()
    return out


def model_id(config: ModelConfig, tensors: dict[str, Tensor]) -> bytes:
    """First 8 bytes of SHA-256 over the decoding configuration and all integers, by name, as little-endian int32."""
    h = hashlib.sha256()
    decoding = {k: v for k, v in config.to_dict().items() if k != "name" and not k.startswith(("encoder_", "step_"))}
    h.update(json.dumps(decoding, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        t = tensors[name]
        h.update(f"{name}{list(t.shape)}".encode())
        h.update(t.int().contiguous().numpy().astype("<i4").tobytes())
    return h.digest()[:ID_BYTES]


def save_model(network: Network, path: str | Path) -> bytes:
    """Write a model file; returns its id."""
    tensors = integers(network)
    identity = model_id(network.config, tensors)
    stored = {name: narrow(t) for name, t in tensors.items()}
    for name, p in network.encoder.named_parameters(prefix="encoder"):
        stored[name] = p.detach().half().contiguous().cpu()
    metadata = {"config": json.dumps(network.config.to_dict()), "id": identity.hex(), "encoder": encoder_hash(stored)}
    safetensors.torch.save_file(stored, path, metadata=metadata)
    return identity


def narrow(t: Tensor) -> Tensor:
    """The smallest integer type that holds the values."""
    for dtype in (torch.int8, torch.int16):
        info = torch.iinfo(dtype)
        if t.numel() == 0 or (t.min() >= info.min and t.max() <= info.max):
            return t.to(dtype).contiguous()
    return t.contiguous()


def encoder_hash(stored: dict[str, Tensor]) -> str:
    h = hashlib.sha256()
    for name in sorted(n for n in stored if n.startswith("encoder.")):
        h.update(name.encode())
        h.update(stored[name].contiguous().numpy().tobytes())
    return h.hexdigest()


def packaged_models() -> dict[str, Path]:
    """Model files shipped with the package, by name."""
    folders = [Path(str(resources.files("bsqcodec"))) / "models", Path(__file__).parent.parent / "models"]
    return {p.stem: p for folder in reversed(folders) if folder.is_dir() for p in sorted(folder.glob("*.safetensors"))}


def load_model(name: str = DEFAULT, device: str | torch.device = "cpu") -> Model:
    """Load a packaged model by name, or a model file by path.

    Raises ModelError if there is none, if it is damaged, or if its contents do not have the id it claims.
    """
    path = find_file(name)
    network, identity = read_network(path)
    try:
        return Model(network, path.stem, device, identity)
    except AssertionError as e:
        raise ModelError(f"{path}: not a readable model file ({e})") from e


def find_file(name: str) -> Path:
    """The file of a packaged model, or the path itself. Raises ModelError if there is none."""
    path = packaged_models().get(name) or Path(name)
    if not path.is_file():
        known = ", ".join(packaged_models()) or "none"
        raise ModelError(f"no model {name!r}; packaged models: {known}")
    return path


def read_network(path: Path) -> tuple[Network, bytes]:
    """The networks of a model file, ready to be trained on, and their id. Raises ModelError as `load_model`."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            stored = {key: file.get_tensor(key) for key in file.keys()}
        network = Network(ModelConfig.from_dict(json.loads(metadata["config"])))
        restore(network, stored)
        identity = model_id(network.config, integers(network))
        intact = identity.hex() == metadata["id"] and encoder_hash(stored) == metadata["encoder"]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as e:
        raise ModelError(f"{path}: not a readable model file ({type(e).__name__})") from e
    if not intact:
        raise ModelError(f"{path}: the weights are not the ones the file was made with")
    return network, identity


@torch.no_grad()
def restore(network: Network, stored: dict[str, Tensor]) -> None:
    """Fill the parameters from integers; n / 2**bits is exact in float32, so rounding gives n back."""
    set_kinds(network, len(stored["prior.logit_bias.anchors"]))
    prior = network.prior
    wanted = {"prior.active": prior.active, "prior.table": prior.table, "decoder.steps": network.decoder.steps}
    bits = {}
    for path, module in network.named_modules():
        if isinstance(module, ExactModule) and not path.startswith("encoder"):
            for name, (shift, _) in module.formats.items():
                wanted[f"{path}.{name}"], bits[f"{path}.{name}"] = getattr(module, name), shift
    wanted |= dict(network.encoder.named_parameters(prefix="encoder"))
    if wanted.keys() != stored.keys():
        raise ValueError("other tensors than the configuration asks for")
    for name, target in wanted.items():
        value = stored[name].to(target.dtype)
        target.copy_(value * 2.0 ** -bits[name] if name in bits else value)


def packaged_ids() -> dict[bytes, str]:
    """Names of the packaged models by id, as their files claim."""
    found = {}
    for name, path in packaged_models().items():
        try:
            with safetensors.safe_open(path, "pt") as file:
                found[bytes.fromhex((file.metadata() or {})["id"])] = name
        except (SafetensorError, OSError, KeyError, ValueError):
            continue  # a damaged file is reported when it is asked for by name
    return found


def find_model(identity: bytes, device: str | torch.device = "cpu") -> Model:
    """The packaged model with this id. Raises ModelError that names the id if there is none."""
    name = packaged_ids().get(identity)
    if name is None:
        raise ModelError(f"the stream needs model {identity.hex()}, which is not installed")
    return load_model(name, device)
