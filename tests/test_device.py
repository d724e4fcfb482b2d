"""The path of a GPU, on a machine without one: tensors that say they are on another device and compute on the CPU.

What mixes devices, or takes memory of the device for that of the host, fails here as it would there, and every
operation and transfer is counted.
"""

import io
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from skimage import data as skdata
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from bsqcodec import Encoder, MediaInfo, arrays_to_stream, stream_to_arrays
from bsqcodec.gop import quality
from bsqcodec.gop.decoder import decode_gop
from bsqcodec.gop.encoder import GopEncoder
from bsqcodec.network.export import integers
from bsqcodec.network.objective import Objective
from bsqcodec.network.patches import PHASES
from bsqcodec.network.quantiser import groups
from bsqcodec.network.weights import Model
from bsqcodec.settings import EncodeSettings
from bsqcodec.train.config import TrainConfig
from bsqcodec.train.sampler import Sampler
from bsqcodec.train.trainer import Trainer
from helpers import TINY, moving, random_model, random_network, same_pictures

DEVICE = torch.device("meta")
COPIES = torch.ops.aten._to_copy, torch.ops.aten.to, torch.ops.aten.copy_


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
    if there and packet not in (*COPIES, aten.index, aten.index_put, aten.index_put_):
        assert all(isinstance(x, Remote) or not x.dim() for x in tensors), f"{operation} mixes devices"
    for i, x in enumerate(given):
        if isinstance(x, torch.device):
            there, given[i] = x == DEVICE, torch.device("cpu")
    if packet is aten.copy_:
        there = isinstance(arguments[0], Remote)
    waits = left and (not there or packet is aten.nonzero)
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
    if in_place and isinstance(result, torch.Tensor):
        return arguments[0]
    if "out" in options:
        return options["out"]
    if isinstance(result, torch.Tensor):  # as most are: trees take long
        return outer(result) if there else result
    return tree_map(outer, result) if there else result


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

    def __enter__(self):
        # torch.tensor would make an empty tensor on "meta", and there are no random numbers
        self.patch = pytest.MonkeyPatch()
        tensor = torch.tensor
        self.patch.setattr(torch, "tensor", lambda *x, device="cpu", **o: tensor(*x, **o).to(device))
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


def test_nothing_may_mix_devices():
    with Simulated():
        x = torch.arange(3, device=DEVICE)
        x[1:] = 5
        assert x.device == DEVICE and x.cpu().tolist() == [0, 5, 5]
        with pytest.raises(AssertionError, match="mixes devices"):
            x + torch.ones(3)
        with pytest.raises(RuntimeError):
            x.numpy()


FRAMES = 5


def on_device():
    """The model that `random_model` makes, on DEVICE."""
    return Model(TINY, integers(random_network()), Objective(), "tiny", DEVICE)


def encode(model, height, width, count=FRAMES):
    """The payload of a group of one I frame and P frames, and its frames as they will decode."""
    encoder = GopEncoder(model, height, width, EncodeSettings(low_delay=True))
    picture = np.concatenate([skdata.astronaut()] * 2)
    frames = [picture[t : t + height, 2 * t : 2 * t + width] for t in range(count)]
    decoded = [x for frame in frames for x in encoder.push(np.ascontiguousarray(frame), 40)]
    assert "".join(s.frame_type for s in encoder.stats) == "I" + "P" * (count - 1)
    return encoder.finish(), decoded


def test_a_group_of_pictures_is_the_same_on_a_device(monkeypatch):
    """Encoded and decoded there, bit for bit. The host waits twice a step of the prior: for how many coefficients are
    coded, and for them. Larger pictures take no more."""
    monkeypatch.setattr(quality, "P_OFFSETS", (0,))  # one quality, one graph
    model = random_model()
    steps = len(PHASES) * len(groups(model.network.n_coded(40)))
    launches = []
    for height, width in ((57, 75), (230, 300)):
        payload, decoded = encode(model, height, width)
        with Simulated():
            there = on_device()
            assert there.id == model.id
            assert encode(there, height, width)[0] == payload
            graphs = there.network.graphs
            phases, pictures = len(PHASES) * (FRAMES - 3), FRAMES - 4  # the decoder's graph of an I frame waits
            assert graphs.replays == phases + pictures
            Simulated.launches = Simulated.waits = 0
            assert same_pictures(decode_gop(there, payload, height, width, FRAMES), decoded)
        assert graphs.replays == phases + pictures + len(PHASES) * FRAMES + FRAMES - 1
        launches.append(Simulated.launches)
        assert Simulated.waits <= FRAMES * (2 * steps + 6)
    assert launches[1] < 1.2 * launches[0]


def test_b_frames_are_the_same_on_a_device():
    frames = moving(4, 57, 75, top=0, left=0, step=(1, 2))

    def coded(model):
        encoder = GopEncoder(model, 57, 75, EncodeSettings(), 3)
        decoded = [x for frame in frames for x in encoder.push(frame, 40)] + encoder.flush()
        assert [s.frame_type for s in encoder.stats] == list("IPBB")
        return encoder.finish(), decoded

    payload, decoded = coded(random_model())
    with Simulated():
        there = on_device()
        assert coded(there)[0] == payload
        assert same_pictures(decode_gop(there, payload, 57, 75, 4), decoded)
        shown = list(decode_gop(there, payload, 57, 75, 4, 10))
    assert same_pictures(decode_gop(random_model(), payload, 57, 75, 4, 10), shown)


def test_arrays_and_streams_are_the_same_on_a_device():
    model, frames, stream, here = random_model(), moving(3, 37, 45), io.BytesIO(), io.BytesIO()
    with Encoder(stream, MediaInfo(45, 37, frame_rate=Fraction(25)), model=model) as encoder:
        for t, frame in enumerate(frames):
            encoder.write(frame, t)
    stream.seek(0)
    stream_to_arrays(stream, here, model=model)
    with Simulated():
        there, arrays, back = on_device(), io.BytesIO(), io.BytesIO()
        stream.seek(0)
        stream_to_arrays(stream, arrays, model=there)
        assert not arrays_to_stream(arrays, back, model=there)
    assert arrays.getvalue() == here.getvalue() and back.getvalue() == stream.getvalue()


def no_graphs(graph, pool, capture_error_mode):
    raise RuntimeError("not here")


def no_room(graph, pool, capture_error_mode):
    raise torch.cuda.OutOfMemoryError("no room for a graph")


def test_a_graph_that_errs_is_not_used(monkeypatch, caplog):
    model = random_model()
    payload, decoded = encode(model, 57, 75, 3)
    for attribute, broken in (("replay", lambda graph: None), ("record", no_graphs), ("record", no_room)):
        with monkeypatch.context() as patch, Simulated():
            patch.setattr(Graph, attribute, broken)
            patch.setattr(torch.cuda, "graph", Graph.record)
            there = on_device()
            assert same_pictures(decode_gop(there, payload, 57, 75, 3), decoded)
        assert there.network.graphs.replays == 0
    for reason in ("they do not give what they were made of", "not here", "no room for a graph"):
        assert f"no CUDA graphs: {reason}" in caplog.text


ORDERS = [[[0], [2, 0], [1, 0, 1], [3, 1]], [[0], [1, 0], [2, 1]]]


def trained(tmp_path, steps, on="cpu", graphs=True, **changes):
    """Measures of steps of a training, the weights after them, launches and waits of each step, replayed graphs."""
    picture = skdata.astronaut()
    strip = np.concatenate(moving(5, 130, 130, top=0, left=0, step=(3, 2)))
    options = {"crop": 64, "images": 4, "sequences": 2, "orders": ORDERS, "share": [0.5, 0.5, 0.0], "model": TINY}
    options |= {"steps": steps + 1, "warmup": 1, "objective": Objective(stlpips=0)} | changes
    config = TrainConfig(**options, out=str(tmp_path), device=str(on))
    trainer = Trainer(config, Sampler([picture[:300, :300]], [strip], on))
    trainer.steps.graphs.usable = graphs
    launches, waits = [], []
    for trainer.step in range(steps):
        Simulated.launches = Simulated.waits = 0
        trainer.train_step()
        launches.append(Simulated.launches)
        waits.append(Simulated.waits)
    measures = [(row["type"], row["active"], sums.tolist()) for row, sums in trainer.measures.pending]
    weights = [t.tolist() for t in [*trainer.network.parameters(), *trainer.parameters.average.values()]]
    return measures, weights, launches, waits, trainer.steps.graphs.replays


def test_steps_of_training_are_the_same_on_a_device(tmp_path):
    """From crops that are made there; on a CPU, a device of the same arithmetic gives the same measures and weights.

    There, a step that comes again is a graph. The host waits for nothing, but to find the vectors of the strips, once.
    """
    steps = 16
    measures, weights, *_, replayed = trained(tmp_path, steps)
    assert not replayed and {"I", "P", "B"} == {frame_type for frame_type, *_ in measures}
    with Simulated():
        there, also, launches, waits, replayed = trained(tmp_path, steps, DEVICE)
    assert there == measures
    assert also == weights
    assert replayed >= steps // 2
    assert sorted(launches)[steps // 4] < 200  # to draw and cut what a graph then works on
    assert not any(waits[5:])


def test_a_step_of_training_has_few_kernels(tmp_path):
    """As many as with a model of the default's depth; and none of them waits."""
    deep = replace(TINY, fine_blocks=2, blocks=3, prior_blocks=3)
    with Simulated():
        _, _, launches, waits, _ = trained(tmp_path, 4, DEVICE, graphs=False, orders=ORDERS[:1], model=deep)
    assert launches[1] <= launches[3] <= 1500 and launches[2] <= 4000
    assert not any(waits[1:])
