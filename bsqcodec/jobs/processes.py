"""Workers that are processes of this machine."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any

import torch

from ..errors import BsqError
from ..network.weights import Model
from .workers import MAX_GROUP_BYTES, Workers, run

_MIN_BYTES = 30_000_000  # of frames: to code fewer takes no longer than to start a process
_PROCESS_BYTES = 500 << 20  # of memory that a process takes before it has frames
_GROUP_COPIES = 4  # of a group's frames in memory: as they come and as they go, on both sides
_END_SECONDS = 10  # that a process which is stopped gets to tidy up
_ASSUMED_MEMORY = 4 << 30  # bytes, where the system does not tell


def choose_jobs(frames: int | None, gop: int, frame_bytes: int) -> int:
    """Number of processes that are worth it for a video: at most torch's threads, in at most half the memory.

    frames: number of frames of the video; None if it is not known. gop: frames per group. frame_bytes: bytes of a
    decoded frame.
    """
    if frames is None or frames <= gop or frames * frame_bytes < _MIN_BYTES or gop * frame_bytes > MAX_GROUP_BYTES:
        return 1
    return choose_processes(-(-frames // gop), _GROUP_COPIES * gop * frame_bytes)


def choose_processes(tasks: int, task_bytes: int) -> int:
    """Number of processes for so many tasks at most, each of so many bytes: at most torch's threads, in at most half
    the memory."""
    known = hasattr(os, "sysconf")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else _ASSUMED_MEMORY
    return max(1, min(torch.get_num_threads(), tasks, memory // 2 // (_PROCESS_BYTES + task_bytes)))


class Pool:
    """Processes of one thread each, that call functions while it is entered.

    Meanwhile this process too uses one thread: several would only wait for the cores that the others have. Leaving by
    an exception stops the others by SIGTERM, and waits for them to end.
    """

    def __init__(self, jobs: int):
        self._pool = ProcessPoolExecutor(jobs, get_context("spawn"), _prepare)

    def __enter__(self) -> "Pool":
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        torch.set_num_threads(self._threads)
        # before Python 3.14 a pool has no way of its own to stop its processes
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        manager = getattr(self._pool, "_executor_manager_thread", None)
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if kind is not None:
            for process in processes:
                process.terminate()
            for process in processes:
                connection.wait([process.sentinel], _END_SECONDS)
            if manager:
                manager.join(_END_SECONDS)  # and give its semaphores back

    def submit(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """Have a process call `task`; returns the Future."""
        with _deaf():  # workers, which are started here, stay so: Ctrl-C reaches them too, but this process stops them
            return self._pool.submit(task, *arguments)

    @contextlib.contextmanager
    def lost(self) -> Iterator[None]:
        """A context that turns what the end of a process makes a Future raise into a BsqError."""
        try:
            yield
        except BrokenProcessPool as e:
            raise BsqError("a process that was to code pictures has died; try fewer with --jobs") from e


class Processes(Workers):
    """A pool of processes that code groups of pictures. One that dies raises BsqError here.

    Args:
        jobs: number of processes.
        load: gives the model; is pickled and called for every group.
    """

    def __init__(self, jobs: int, load: Callable[[], Model]):
        super().__init__(jobs, load)
        self._pool = Pool(jobs)

    def __enter__(self) -> "Processes":
        self._pool.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._pool.__exit__(kind, *rest)

    def _submit(self, task: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.submit(run, self._load, task, *arguments)

    def _lost(self) -> contextlib.AbstractContextManager[None]:
        return self._pool.lost()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Hold SIGINT back until the end of the body. Processes that are started in it never get one.

    Another thread may still get it, for which Python would call the handler in the main one: that waits, too.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    held: list[int] = []
    handler = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if handler:
        signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if handler:
            signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(held[0])


# What follows runs in the worker.


def _prepare() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End with the process that is served, even if that is killed."""
    parent = parent_process()
    if parent:
        connection.wait([parent.sentinel])
        os._exit(1)
