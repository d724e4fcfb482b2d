"""Shared fixtures. Networks with random weights of a realistic scale exercise every layer, unlike freshly made ones."""

import pytest

from bsqcodec.network.weights import Model, load_model
from helpers import random_model


@pytest.fixture(scope="session")
def model() -> Model:
    """The default model."""
    return load_model("bsq1")


@pytest.fixture(scope="session")
def tiny() -> Model:
    """A model of a random network: fast, and with every layer at work."""
    return random_model()
