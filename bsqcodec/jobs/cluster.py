"""Workers that are those of a dask.distributed cluster, the optional extra `dask`."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import BsqError, first_line
from .workers import Workers, load_once, run

_CONNECT_SECONDS = 20  # to wait for an answer of the scheduler


class Cluster(Workers):
    """The workers of a cluster, each of which codes as many groups at a time as it has threads.

    Args:
        address: address of the scheduler, such as "tcp://host:8786".
        model: name or path of the model, the same on every worker; None: the packaged one with the id.
        identity: the model's id. A worker that has another raises ModelError.

    Raises BsqError as `connect`, and if the cluster has no worker. So does waiting for a worker that is lost.
    """

    def __init__(self, address: str, model: str | None, identity: bytes):
        self._address, self._client = address, connect(address)
        super().__init__(sum(self._client.nthreads().values()), functools.partial(load_once, model, identity))
        if not self.jobs:
            self._client.close()
            raise BsqError(f"the dask cluster at {address} has no workers")

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _submit(self, task: Callable[..., Any], *arguments: Any) -> Any:
        data = self._client.scatter(arguments[:1], hash=False)  # frames are too large for a graph of tasks
        return self._client.submit(run, self._load, task, *data, *arguments[1:], pure=False)

    @contextlib.contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except BsqError:
            raise
        except Exception as error:
            raise BsqError(f"dask at {self._address} gave up: {first_line(error)}") from error


def connect(address: str) -> Any:
    """A dask.distributed.Client. Raises BsqError without dask, or where no scheduler answers."""
    try:
        from dask.distributed import Client
    except ImportError:
        raise BsqError("--dask needs dask.distributed: pip install 'dask[distributed]'") from None
    try:
        return Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise BsqError(f"no dask scheduler at {address}: {first_line(error)}") from None
