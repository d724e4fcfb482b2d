"""Which workers code the groups of pictures of a file: processes of this machine, or those of a cluster."""

import functools

from ..errors import BsqError
from .cluster import Cluster
from .processes import Processes
from .workers import Workers, load_once


def check_jobs(jobs: int | None, dask: str, alone: bool = False, needs: str = "") -> None:
    """Raise BsqError if several jobs and dask are asked for together, or either where one process works `alone`.

    needs: what would have to be asked for instead.
    """
    several = jobs is not None and jobs > 1
    if dask and several:
        raise BsqError("give --jobs or --dask, not both")
    if alone and (dask or several):
        raise BsqError(f"{'--dask needs' if dask else 'several jobs need'} {needs}")


def workers_of(jobs: int, dask: str, model: str | None, identity: bytes) -> Workers:
    """The workers of the dask cluster at this address or, if it is empty, `jobs` processes.

    model: name or path of the model that all use; None: the packaged one of the id `identity`. Raises BsqError as
    `Cluster` does.
    """
    if dask:
        return Cluster(dask, model, identity)
    return Processes(jobs, functools.partial(load_once, model, identity))
