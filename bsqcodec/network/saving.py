"""Networks in real numbers to model files and back: what a trainer needs, and a codec does not."""

import json
from pathlib import Path

import safetensors.torch
import torch

from ..errors import ModelError
from ..output import replacing
from .export import integers, restore
from .network import Network
from .objective import Objective
from .unrounded import Unrounded
from .weights import encoder_hash, model_id, narrow, read_file


def save_model(network: Unrounded, path: str | Path, objective: Objective | None = None) -> bytes:
    """Write a model file; returns its id.

    objective: what the network was trained for. Raises AssertionError if a sum in it could pass what is exact.
    """
    tensors = integers(network)
    objective = objective or Objective()
    Network(network.config, tensors, objective, torch.device("cpu"))  # which refuses sums that would not be exact
    identity = model_id(network.config, tensors)
    stored = {name: narrow(t) for name, t in tensors.items()}
    metadata = {
        "config": json.dumps(network.config.to_dict()),
        "objective": json.dumps(objective.to_dict()),
        "id": identity.hex(),
        "encoder": encoder_hash(stored),
    }
    with replacing(path) as part, open(part, "wb") as file:  # only its owner could read what `save_file` makes
        file.write(safetensors.torch.save(stored, metadata=metadata))
    return identity


def read_network(path: Path) -> tuple[Unrounded, bytes]:
    """The networks of a model file in real numbers, ready to be trained on, and its id. Raises as `load_model`."""
    config, tensors, _, identity = read_file(path)
    try:
        network = Unrounded(config)
        restore(network, tensors)
    except ValueError as e:
        raise ModelError(f"{path}: not a readable model file ({e})") from e
    return network, identity
