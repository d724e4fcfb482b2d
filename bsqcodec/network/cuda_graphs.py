"""CUDA graphs: a fixed sequence of kernels, launched as one. A GPU works on a frame, or on a step of training, for less
time than it takes a host to launch the hundreds or thousands of kernels one by one."""

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class _Graph:
    """A function that was captured, and the tensors it reads and writes."""

    def __init__(self, function: Callable[..., list[Tensor]], x: tuple[Tensor, ...], pool: Any):
        self.inputs = [t.clone() for t in x]
        self.graph = torch.cuda.CUDAGraph()
        # other threads may go on with what a capture of theirs could not hold
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.outputs = function(*self.inputs)
        self.trials = 0

    def __call__(self, x: tuple[Tensor, ...]) -> list[Tensor]:
        for kept, new in zip(self.inputs, x, strict=True):
            kept.copy_(new)
        self.graph.replay()
        return [t.clone() for t in self.outputs]


class Graphs:
    """Runs functions of tensors, on a GPU as graphs where the shapes were the same before.

    What such a function does may depend on its key, on the shapes of its arguments and on tensors that stay where they
    are; no value may reach the host in it. A graph is used alone once it gave the same as the function, bit for bit, in
    `trials` calls. If one does not, or cannot be made, there are no graphs.

    Args:
        max_graphs: graphs that are kept, each with the memory that its kernels work in; the oldest goes first.
        trials: how often a graph has to give what the function gives, of other values each time. 0 for functions that
            change what they read, as a step of training does, and so cannot be called twice.
        shared: all graphs work in the same memory. They may then not run side by side.

    Attributes:
        replays: calls that a graph alone answered.
        usable: whether graphs are made.
    """

    def __init__(self, max_graphs: int = 16, trials: int = 2, shared: bool = False) -> None:
        self.max_graphs, self.trials, self.shared = max_graphs, trials, shared
        self.replays = 0
        self.usable = True
        self._graphs: dict[Hashable, _Graph | None] = {}  # None: was called once, and may come again
        self._pool: Any = None
        self._lock = threading.Lock()

    def run(self, key: Hashable, function: Callable[..., list[Tensor]], *x: Tensor) -> list[Tensor]:
        """function(*x), all on one device. `key` and the shapes and types of x tell functions apart."""
        if x[0].device.type == "cpu" or not self.usable:
            return function(*x)
        with self._lock:
            key = (key, *((t.shape, t.dtype) for t in x))
            if key not in self._graphs:  # what comes but once is not worth a graph
                while len(self._graphs) >= self.max_graphs:
                    del self._graphs[next(iter(self._graphs))]
                self._graphs[key] = None
                return function(*x)
            graph = self._graphs[key] = self._graphs[key] or self._captured(function, x)
            if graph and graph.trials == self.trials:
                self.replays += 1
                return graph(x)
            expected = function(*x)
            if graph:
                if not all(map(torch.equal, graph(x), expected)):
                    self._give_up("they do not give what they were made of")
                graph.trials += 1
            return expected

    def clear(self) -> None:
        """Forget all graphs, and free the memory that they work in."""
        self._graphs.clear()
        self._pool = None

    def _captured(self, function: Callable[..., list[Tensor]], x: tuple[Tensor, ...]) -> _Graph | None:
        """A graph of function(*x); None, and no graphs from here on, if it cannot be made."""
        try:
            if self.shared and self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            return _Graph(function, x, self._pool)
        except RuntimeError as e:
            if not self.trials and isinstance(e, torch.cuda.OutOfMemoryError):
                raise  # a trainer makes room
            self._give_up(str(e))
            return None

    def _give_up(self, reason: str) -> None:
        self.usable = False
        self.clear()
        log.warning("no CUDA graphs: %s", reason)
