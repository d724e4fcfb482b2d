"""Shared fixtures. Networks with random weights of a realistic scale exercise every layer, unlike freshly made ones."""

import os

# Before torch is loaded, and for the processes that tests start: pytest-xdist gives every core a worker, and threads
# that wait for each other busily take the core from the one they wait for.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
