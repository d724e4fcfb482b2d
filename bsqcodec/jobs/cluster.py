"""Groups of pictures on a dask.distributed cluster, the optional extra `dask`."""

import functools
from collections.abc import Callable
from typing import Any

from ..errors import BsqError, ModelError, first_line
from ..network.weights import Model, find_model, load_model
from .processes import Workers, run

_PATIENCE = 20  # seconds


def connect(address: str) -> Any:
    """A dask.distributed.Client. Raises BsqError without dask, or where no scheduler answers."""
    try:
        from dask.distributed import Client
    except ImportError:
        raise BsqError("--dask needs dask.distributed: pip install 'dask[distributed]'") from None
    try:
        return Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise BsqError(f"no dask scheduler at {address}: {first_line(error)}") from None


class Cluster(Workers):
    """The workers of a cluster in place of processes of this machine.

    Args:
        address: of the scheduler.
        model: name or path of the model, the same on every worker; None: the packaged one with the id.
        identity: the model's id. A worker that has another raises ModelError.

    Raises BsqError as `connect`, and if the cluster has no worker. So does waiting for a worker that is lost.
    """

    def __init__(self, address: str, model: str | None, identity: bytes):
        self._address, self._client = address, connect(address)
        self._load = functools.partial(_load, model, identity)
        self.jobs = sum(self._client.nthreads().values())
        if not self.jobs:
            self._client.close()
            raise BsqError(f"the dask cluster at {address} has no workers")

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _submit(self, task: Callable[..., Any], *arguments: Any) -> Any:
        try:  # frames are too large for a graph of tasks
            data = self._client.scatter(arguments[:1], hash=False)
            future = self._client.submit(run, self._load, task, *data, *arguments[1:], pure=False)
        except Exception as error:
            raise self._gave_up(error) from error
        return _Future(future, self._gave_up)

    def _gave_up(self, error: Exception) -> BsqError:
        return BsqError(f"dask at {self._address} gave up: {first_line(error)}")


class _Future:
    """One of dask's, whose errors are BsqError."""

    def __init__(self, future: Any, gave_up: Callable[[Exception], BsqError]):
        self._future, self._gave_up = future, gave_up

    def result(self) -> Any:
        try:
            return self._future.result()
        except BsqError:
            raise
        except Exception as error:
            raise self._gave_up(error) from error


def _load(name: str | None, identity: bytes) -> Model:
    model = find_model(identity) if name is None else load_model(name)
    if model.id != identity:
        raise ModelError(f"a dask worker has another model {name}: {model.id.hex()}, not {identity.hex()}")
    return model
