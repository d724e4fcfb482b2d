"""Our codec in the benchmark: it is coded as the program does it, and its key tells what it was coded with."""

import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench_helpers import run
from PIL import Image

from bsqcodec import api
from bsqcodec.bench import datasets, ours, runner
from bsqcodec.bench.codec import BenchSettings
from bsqcodec.bench.frames import frames_of
from bsqcodec.errors import BsqError
from bsqcodec.network import weights
from bsqcodec.network.objective import Objective
from bsqcodec.network.saving import read_network, save_model
from bsqcodec.settings import EncodeSettings
from bsqcodec.stream import container
from helpers import random_network


@pytest.fixture
def model_file(tmp_path_factory, monkeypatch) -> Iterator[Path]:
    """The file of a model that is found by its path, and by its id."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(random_network(), path)
    loads = []
    monkeypatch.setattr(ours, "load_model", lambda name, device: loads.append(name) or weights.load_model(name))
    monkeypatch.setattr(weights, "find_model", lambda identity, device: weights.load_model(str(path)))
    ours._model.cache_clear()
    ours._digest.cache_clear()
    yield path
    assert loads == [str(path)]  # once per process
    ours._model.cache_clear()
    ours._digest.cache_clear()


def test_ours_is_a_file(model_file, pictures, clip, tmp_path):
    codec = ours.Bsq(BenchSettings(EncodeSettings(gop=2, model=str(model_file))))
    listing = datasets.load(str(clip))
    (record,) = runner.run(runner.tasks_for(listing.items, [codec], {"bsq": (50,)}, ("psnr",), 3, 1), tmp_path)
    assert record["frames"] == 3 and record["load_seconds"] > 0 and math.isfinite(record["metrics"]["psnr-rgb"])
    assert record["device"] == "cpu" and record["threads"] == 1
    source = list(frames_of(clip, 3))
    (data,) = codec.encode(iter(source), 30, 50)
    assert len(data) == record["bytes"]
    reader = api.Decoder(io.BytesIO(data))
    assert reader.info.frame_rate == 30 and [e.first for e in reader.index()] == [0, 2]
    decoded = list(codec.decode([data], 48, 64))
    assert all(np.array_equal(a.rgb, b) for a, b in zip(reader.frames(), decoded, strict=True))
    (tmp_path / "pan.bsq").write_bytes(data)
    status, output = run("compare", clip, tmp_path / "pan.bsq", "--metrics", "psnr", "--frames", 3)
    assert status == 0 and float(output.split()[1]) == pytest.approx(record["metrics"]["psnr-rgb"], abs=1e-4)

    picture = np.asarray(Image.open(pictures / "one.png"))[:40, :33]
    (data,) = codec.encode(iter([picture]), 0, 50)
    assert data == api.encode_image(picture, quality=50, model=str(model_file))
    with pytest.raises(BsqError, match="not a whole number"):
        codec.encode(iter([picture]), 0, 50.5)


def test_key_of_ours_tells_weights_and_versions_apart(model_file, pictures, monkeypatch):
    def key() -> str:
        ours._digest.cache_clear()
        codec = ours.Bsq(BenchSettings(EncodeSettings(model=str(model_file))))
        (task,) = runner.tasks_for(datasets.load(str(pictures / "one.png")).items, [codec], {"bsq": (50,)}, (), 1, 1)
        return task.key

    network, identity = read_network(model_file)
    keys = [key(), key()]
    assert keys[0] == keys[1] and identity.hex() in keys[0] and "model tiny" in keys[0]
    network.e_in.w.data.view(-1)[0] += 1
    assert save_model(network, model_file) == identity
    keys.append(key())
    assert save_model(network, model_file, Objective(mse=0.08)) == identity
    keys.append(key())
    monkeypatch.setattr(container, "VERSION", container.VERSION + 1)
    keys.append(key())
    assert len(set(keys)) == 4


def test_a_description_tells_every_option_that_is_set():
    assert ours._in_words(EncodeSettings()) == "gop 32, tune perceptual"
    settings = EncodeSettings(gop=8, effort=16, low_delay=True, tune="psnr", quality=20, model="other")
    assert ours._in_words(settings) == "gop 8, tune psnr, effort 16, low delay"
