"""CUDA graphs: a fixed sequence of kernels, launched as one. A GPU works on a frame for less time than it takes a host
to launch the hundreds of kernels of a network one by one."""

import logging
import threading
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

log = logging.getLogger(__name__)
_MOST = 16  # graphs that a network keeps: each holds the memory that its kernels work in
_TRIALS = 2  # how often a graph has to give what the function gives, of other values each time


class _Graph:
    """A function that was captured, and the tensors it reads and writes."""

    def __init__(self, function: Callable[..., list[Tensor]], x: tuple[Tensor, ...]):
        self.inputs = [t.clone() for t in x]
        self.graph = torch.cuda.CUDAGraph()
        # other threads may go on with what a capture of theirs could not hold
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.outputs = function(*self.inputs)
        self.trials = 0

    def __call__(self, x: tuple[Tensor, ...]) -> list[Tensor]:
        for kept, new in zip(self.inputs, x):
            kept.copy_(new)
        self.graph.replay()
        return [t.clone() for t in self.outputs]


class Graphs:
    """Runs functions of tensors, on a GPU as graphs where the shapes were the same before.

    What such a function does may depend on the shapes of its arguments and on weights that do not change; no value may
    reach the host in it. A graph is used alone once it gave the same as the function, bit for bit, in `_TRIALS` calls.
    If one does not, or cannot be made, there are no graphs.

    Attributes:
        replayed: calls that a graph alone answered.
    """

    def __init__(self) -> None:
        self.replayed = 0
        self._graphs: dict[tuple, _Graph | None] = {}
        self._usable = True
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict) -> "Graphs":
        return Graphs()  # a copy of a network has weights of its own

    def run(self, name: Hashable, function: Callable[..., list[Tensor]], *x: Tensor) -> list[Tensor]:
        """function(*x), all on one device; `name` tells functions apart."""
        if x[0].device.type == "cpu" or not self._usable:
            return function(*x)
        with self._lock:
            key = (name, *((t.shape, t.dtype) for t in x))
            graph = self._graphs.get(key)
            if graph and graph.trials == _TRIALS:
                self.replayed += 1
                return graph(x)
            expected = function(*x)
            if key not in self._graphs:  # what comes but once is not worth a graph
                while len(self._graphs) >= _MOST:
                    del self._graphs[next(iter(self._graphs))]
                self._graphs[key] = None
                return expected
            try:
                graph = graph or _Graph(function, x)
                self._usable = all(map(torch.equal, graph(x), expected))
                graph.trials += 1
                self._graphs[key] = graph
                reason = "they do not give what they were made of"
            except RuntimeError as e:
                self._usable, reason = False, str(e)
            if not self._usable:
                self._graphs.clear()
                log.warning("no CUDA graphs: %s", reason)
            return expected
