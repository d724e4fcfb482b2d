"""A device that is not there: tensors that say they are on another device and compute on the CPU.

What mixes devices, or takes memory of the device for that of the host, fails here as it would there, and every
operation and transfer is counted.
"""

from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

DEVICE = torch.device("meta")
COPIES = torch.ops.aten._to_copy, torch.ops.aten.to, torch.ops.aten.copy_
INDEXED = torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_
# the host asks for the result, or for its size
ASKED = {
    getattr(torch.ops.aten, name)
    for name in (
        "_local_scalar_dense",
        "equal",
        "nonzero",
        "masked_select",
        "_unique2",
        "bincount",
        "repeat_interleave",
    )
}


class Remote(torch.Tensor):
    """A tensor of DEVICE; `inner` holds its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )

    def __init__(self, inner):
        self.inner = inner

    def tolist(self):
        return self.cpu().tolist()

    def new_tensor(self, values):
        return torch.tensor(values, dtype=self.dtype, device=DEVICE)

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), options=None):
        return call(operation, arguments, options or {})


class HostGenerator(torch.Generator):
    def __new__(cls, device=DEVICE):
        return super().__new__(cls)


def call(operation, arguments, options):
    """Run one operation, on DEVICE if any of its tensors lies there."""
    aten, packet = torch.ops.aten, operation.overloadpacket
    given, shape = tree_flatten((arguments, options))
    tensors = [x for x in given if isinstance(x, torch.Tensor)]
    left = there = any(isinstance(x, Remote) for x in tensors)
    # copies go from device to device, indices may lie on the host, and so may numbers
    if there and packet not in (*COPIES, *INDEXED):
        assert all(isinstance(x, Remote) or not x.dim() for x in tensors), f"{operation} mixes devices"
    for i, x in enumerate(given):
        if isinstance(x, torch.device):
            there, given[i] = x == DEVICE, torch.device("cpu")
    if packet is aten.copy_:
        there = isinstance(arguments[0], Remote)
    waits = left and (not there or packet in ASKED or (packet in INDEXED and of_booleans(arguments[1])))
    sends = not left and there and packet in COPIES and not options.get("non_blocking")
    recorded = Simulated.graph if left or there else None
    in_place = packet.__name__.endswith("_") and not packet.__name__.endswith("__")
    if recorded:
        copies = packet in COPIES
        if waits or any(x.dim() or copies for x in tensors if not isinstance(x, Remote)):
            raise RuntimeError(f"{operation} in a graph waits for the host, or the host for it")
        if in_place:
            recorded.keep(tree_flatten(arguments[0])[0])
    inputs, inner_options = tree_unflatten([inner(x) for x in given], shape)
    result = operation(*inputs, **inner_options)
    if recorded:
        recorded.kernels.append((operation, inputs, inner_options, result))
    there &= in_place or bool(tensors_of(result))
    Simulated.launches += there and packet is not aten.empty and (in_place or not aliases(result, inputs))
    Simulated.waits += waits
    Simulated.sent += sends
    if in_place and isinstance(result, torch.Tensor):
        return arguments[0]
    if "out" in options:
        return options["out"]
    if isinstance(result, torch.Tensor):  # as most are: trees take long
        return outer(result) if there else result
    return tree_map(outer, result) if there else result


def of_booleans(indices):
    return any(isinstance(i, Remote) and i.dtype == torch.bool for i in indices)


def aliases(result, inputs):
    """Whether an operation that changes nothing gave another view of what it was given."""
    storages = [{x.untyped_storage().data_ptr() for x in tensors_of(y)} for y in (result, inputs)]
    return bool(storages[0] & storages[1])


def tensors_of(x):
    if isinstance(x, torch.Tensor):
        return [x]
    return [t for t in tree_flatten(x)[0] if isinstance(t, torch.Tensor)]


def inner(x):
    return x.inner if isinstance(x, Remote) else x


@torch.inference_mode(False)
def outer(x):
    return Remote(x) if isinstance(x, torch.Tensor) else x


class Graph:
    """A CUDA graph: the kernels that were launched while it was recorded, and the memory they read and wrote."""

    def __init__(self):
        self.kernels = []
        self.before = {}  # what was in memory that the kernels change in place

    def keep(self, tensors):
        for x in tensors:
            if isinstance(x, Remote):
                whole = x.inner.detach().untyped_storage()
                self.before.setdefault(whole.data_ptr(), (whole, whole.clone()))

    @staticmethod
    @contextmanager
    def record(graph, pool, capture_error_mode):
        assert capture_error_mode == "thread_local"
        Simulated.graph = graph
        try:
            yield
        finally:
            Simulated.graph = None
        for _, inputs, _, result in graph.kernels:  # what is recorded has not run
            for x in [] if aliases(result, inputs) else tensors_of(result):
                x.zero_()
        for whole, before in graph.before.values():
            whole.copy_(before)

    def replay(self):
        for operation, inputs, options, result in self.kernels:
            new = operation(*inputs, **options)
            if not aliases(result, inputs):
                for x, y in zip(tensors_of(result), tensors_of(new), strict=True):
                    x.copy_(y)
        Simulated.launches += 1


class Simulated(TorchDispatchMode):
    """Takes DEVICE for present."""

    graph: Graph | None = None  # that is being recorded

    launches = 0  # of kernels
    waits = 0  # for the device: what the host needs to go on
    sent = 0  # copies to the device that block: from memory that is not pinned, they wait for all kernels before them

    def __enter__(self):
        # torch.tensor would make an empty tensor on "meta", and there are no random numbers
        self.patch = pytest.MonkeyPatch()
        tensor, autocast = torch.tensor, torch.autocast
        self.patch.setattr(torch, "tensor", lambda *x, device="cpu", **o: tensor(*x, **o).to(device))
        self.patch.setattr(
            torch, "autocast", lambda kind, *x, **o: autocast("cpu" if kind == DEVICE.type else kind, *x, **o)
        )
        self.patch.setattr(torch, "Generator", HostGenerator)
        self.patch.setattr(torch.cuda, "CUDAGraph", Graph)
        self.patch.setattr(torch.cuda, "graph", Graph.record)
        self.patch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.patch.undo()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        return call(operation, arguments, options or {})
