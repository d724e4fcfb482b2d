"""Model files: what they hold comes back, what is damaged is refused, and what their id depends on."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from bsqcodec.errors import ModelError
from bsqcodec.model_files import find_file
from bsqcodec.network.config import ModelConfig, decoder_tensors
from bsqcodec.network.export import integers
from bsqcodec.network.objective import Objective
from bsqcodec.network.saving import read_network, save_model
from bsqcodec.network.weights import load_model, model_id
from helpers import TINY, random_network


def test_model_file_round_trip(tmp_path, tiny):
    path = tmp_path / "tiny.safetensors"
    objective = Objective(mse=0.5)
    identity = save_model(random_network(), path, objective)
    loaded = load_model(str(path))
    assert loaded.id == identity == tiny.id and loaded.name == "tiny"
    assert loaded.network.objective == objective and loaded.network.config == TINY
    network, found = read_network(path)
    assert found == identity and all(
        torch.equal(a, b) for a, b in zip(integers(network).values(), integers(random_network()).values(), strict=True)
    )


def test_a_flipped_byte_is_refused(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_model(random_network(), path)
    data = bytearray(path.read_bytes())
    for position in [4, 12, *np.linspace(8 + int.from_bytes(data[:8], "little"), len(data) - 1, 12).astype(int)]:
        bad = bytearray(data)
        bad[position] ^= 1
        path.write_bytes(bad)
        with pytest.raises(ModelError):
            load_model(str(path))
    for size in (0, 7, 100, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ModelError):
            load_model(str(path))


def test_the_packaged_model_with_a_flipped_byte_is_refused(tmp_path, model):
    data = bytearray(find_file("bsq1").read_bytes())
    path = tmp_path / "bsq1.safetensors"
    data[-1000] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(ModelError, match="weights are not the ones"):
        load_model(str(path))


def test_wrong_metadata_is_refused(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_model(random_network(), path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
    config = json.loads(metadata["config"])
    for change in (
        {"id": "00" * 8},
        {"encoder": ""},
        {"config": "{"},
        {"config": json.dumps(config | {"width": 37})},
        {"config": json.dumps(config | {"depth": 3})},
        {"objective": json.dumps({"mse": -1})},
    ):
        safetensors.torch.save_file(tensors, path, metadata=metadata | change)
        with pytest.raises(ModelError):
            load_model(str(path))
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ModelError):
        load_model(str(path))


def test_encoder_and_name_are_not_part_of_the_id():
    tensors = integers(random_network())
    identity = model_id(TINY, tensors)
    assert {name[0] for name in tensors if name not in decoder_tensors(tensors)} == {"e"}
    other = {name: t + 1 if name.startswith("e") else t for name, t in tensors.items()}
    named = ModelConfig.from_dict(TINY.to_dict() | {"name": "other"})
    assert model_id(named, other) == identity == model_id(TINY, decoder_tensors(tensors))
    wide = {name: t.to(torch.int64) for name, t in tensors.items()}  # the type that holds the values does not count
    assert model_id(TINY, wide) == identity
    for name in decoder_tensors(tensors):
        changed = tensors[name].clone()
        changed.view(-1)[-1] ^= 1
        assert model_id(TINY, tensors | {name: changed}) != identity, name
    longer = ModelConfig.from_dict(TINY.to_dict() | {"prior_blocks": 2})
    assert model_id(longer, tensors) != identity


def test_impossible_configurations_raise():
    with pytest.raises(ValueError, match=r"unknown key.*depth"):
        ModelConfig.from_dict({"depth": 3})
    for wrong in ({"width": 0}, {"width": 1.5}, {"blocks": 5000}, {"prior_width": 33}, {"width": True}):
        with pytest.raises(ValueError, match=r"not an integer of|no multiple of"):
            ModelConfig.from_dict(wrong)
