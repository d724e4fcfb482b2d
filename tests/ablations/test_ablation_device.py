"""The path of a GPU in the ablations, on a simulated one: the same figures, and training steps that never wait."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from skimage import data as skdata

from ablations import (
    backbones,
    binary_quantisers,
    code_quantisers,
    data,
    network,
    prior_cost,
    prior_training,
    recognition,
    shapes,
    training,
)
from ablations import comparison_of_backbones as of_backbones
from ablations.command import EXPERIMENTS
from ablations.comparison_of_quantisers import MAKERS
from ablations.data import Data, Settings
from ablations.measures import measured
from ablations.network import Shape
from ablations.prior_tokens import Tokens
from bsqcodec.network import losses
from bsqcodec.train.sampler import Sampler
from helpers import random_model, random_network
from simulated import DEVICE, Simulated

CPU = torch.device("cpu")
STEPS = 2
SHAPE = Shape(patch=8, channels=48, width=32, blocks=1, prior_width=32, prior_blocks=1)
BLOCKS = sorted({(shape.backbone, shape.mask) for shape in of_backbones.SHAPES.values()})
PRIORS = [("orders", "phases"), ("orders", "raster"), ("orders", "maskgit"), ("temporal", "prediction")]
Run = Callable[[Data, torch.device], dict[str, Any]]


def data_on(device: torch.device) -> Data:
    """A photograph, and a strip of a moving one; both train and measure."""
    photo = skdata.astronaut()[:192, :192]
    strip = np.concatenate([skdata.astronaut()[t : t + 192, 2 * t : 2 * t + 192] for t in range(4)])
    return Data(Sampler([photo], [strip], device), [photo], [strip])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few pictures, tokens, bits and levels; and nothing of a simulated device stays in a cache."""
    for module, name, value in (
        (data, "SIDE", 64), (network, "TRANSFORM_TOKENS", 600), (network, "START_TOKENS", 600),
        (binary_quantisers, "LEVEL_BITS", (4, 8, 12, 16, 24)), (binary_quantisers, "MOST_BITS", 4),
        (code_quantisers, "STAGES", (1, 2, 2, 2, 3)), (training, "LEVELS", 2),
        (training, "PICTURES", 2), (training, "GROUPS", 2),
        (training, "MEASURED_PICTURES", 1), (training, "MEASURED_GROUPS", 1),
        (prior_training, "TEST_FRAMES", 8),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    yield
    losses.st_lpips_network.cache_clear()
    backbones._hidden.cache_clear()


def errors(source: torch.Tensor, several: list[torch.Tensor], structural: bool = True) -> list[list[float]]:
    """In place of all measures, which take long and are the same for all variants."""
    return [[float((decoded - source).abs().mean())] for decoded in several]


@functools.cache
def tokens_on(device: torch.device, frame_type: str) -> tuple[Tokens, Tokens]:
    """What `load` gives for all priors."""
    return prior_training.load(data_on(device), Settings(STEPS, device, 16), frame_type)


def same_on_a_device(run: Run, monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    """The figures of a run are those of the CPU, and its training steps wait for nothing."""
    counts: list[tuple[int, int]] = []  # launches; waits, copies that block counted with them

    def noted(class_: Any, method: str) -> type:
        """A class that counts when it is made, as a training begins, and after a method, as a step ends."""

        class Noted(class_):
            def __init__(self, *arguments: Any):
                super().__init__(*arguments)
                counts.append((Simulated.launches, Simulated.waits + Simulated.sent))

        def last(self: Any, schedule: torch.Tensor) -> None:
            getattr(class_, method)(self, schedule)
            counts.append((Simulated.launches, Simulated.waits + Simulated.sent))

        setattr(Noted, method, last)
        return Noted

    expected = run(data_on(CPU), CPU)
    monkeypatch.setattr(training, "Parameters", noted(training.Parameters, "update"))
    monkeypatch.setattr(prior_training, "Adam", noted(prior_training.Adam, "step"))
    with Simulated():
        found = run(data_on(DEVICE), DEVICE)
    for figures in (expected, found):
        del figures["steps per second"]
    assert found == expected
    launches, waits = np.diff(counts, axis=0).T.tolist()
    print(f"{label}: {launches} launches")
    assert len(launches) == STEPS and min(launches) > 100 and waits == [0] * STEPS


@pytest.mark.parametrize("name", MAKERS)
def test_a_quantiser_is_the_same_on_a_device(name: str, monkeypatch: pytest.MonkeyPatch):
    def run(loaded: Data, device: torch.device) -> dict[str, Any]:
        return training.run_autoencoder(SHAPE, MAKERS[name], 0, loaded, Settings(STEPS, device, 64))

    monkeypatch.setattr(training, "measured", errors)
    same_on_a_device(run, monkeypatch, name)


@pytest.mark.parametrize(("backbone", "mask"), BLOCKS)
def test_a_backbone_is_the_same_on_a_device(backbone: str, mask: str, monkeypatch: pytest.MonkeyPatch):
    shape = replace(SHAPE, backbone=backbone, mask=mask, blocks=2)

    def run(loaded: Data, device: torch.device) -> dict[str, Any]:
        settings = Settings(STEPS, device, 64)
        return training.run_autoencoder(shape, of_backbones.QUANTISER, 0, loaded, settings, groups=True)

    monkeypatch.setattr(training, "measured", errors)
    same_on_a_device(run, monkeypatch, f"{backbone}, {mask}")


@pytest.mark.parametrize(("experiment", "variant"), PRIORS)
def test_a_prior_is_the_same_on_a_device(experiment: str, variant: str, monkeypatch: pytest.MonkeyPatch):
    module: ModuleType = EXPERIMENTS[experiment]
    monkeypatch.setattr(module, "load", lambda _, settings, frame_type: tokens_on(settings.device, frame_type))
    same_on_a_device(
        lambda loaded, device: module.run(variant, 0, loaded, Settings(STEPS, device, 16)), monkeypatch, variant
    )


def test_measures_are_the_same_on_a_device():
    x = torch.from_numpy(np.ascontiguousarray(skdata.astronaut()[:168, :168].transpose(2, 0, 1)))[None].float()
    expected = measured(x, [x + 3, x.flip(3)])
    with Simulated():
        there = x.to(DEVICE)
        assert measured(there, [there + 3, there.flip(3)]) == expected


def test_what_the_product_codes_is_the_same_on_a_device(monkeypatch: pytest.MonkeyPatch):
    """Recognition's tokens, pictures of a shape, the prior's cost; with a small model, and without times."""
    for module in (shapes, prior_cost):
        monkeypatch.setattr(module, "PICTURES", 1)
        monkeypatch.setattr(module, "load_model", lambda device: random_model(device=device))
    monkeypatch.setattr(shapes, "QUALITIES", (30,))
    monkeypatch.setattr(shapes, "measured", errors)
    monkeypatch.setattr(prior_cost, "read_network", lambda path: (random_network(), None))
    photo = skdata.astronaut()
    gray, loaded = photo[None, : recognition.SIDE, : recognition.SIDE, 0], data_on(CPU)._replace(photos=[photo])

    def run(device: torch.device) -> list[Any]:
        tokens = recognition.encode(random_model(device=device), gray, 40)
        cost = prior_cost.run("40", 0, loaded, Settings(1, device))
        shape = shapes.run("1to16", 0, loaded, Settings(1, device))
        return [*(t.tolist() for t in tokens[:2]), tokens.bits, shape, cost["bits"]]

    expected = run(CPU)
    with Simulated():
        assert run(DEVICE) == expected
