"""The path of a GPU, on a machine without one: see simulated.py."""

import io
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from skimage import data as skdata

from bsqcodec import Encoder, MediaInfo, arrays_to_stream, sample_frames, stream_to_arrays
from bsqcodec.gop import quality
from bsqcodec.gop.decoder import decode_gop
from bsqcodec.gop.encoder import GopEncoder
from bsqcodec.network.objective import Objective
from bsqcodec.network.patches import PHASES
from bsqcodec.network.quantiser import groups
from bsqcodec.settings import EncodeSettings
from bsqcodec.train.config import TrainConfig
from bsqcodec.train.sampler import Sampler
from bsqcodec.train.trainer import Trainer
from helpers import TINY, moving, random_model, same_pictures
from simulated import DEVICE, Graph, Simulated


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
            there = random_model(device=DEVICE)
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
        there = random_model(device=DEVICE)
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
        there, arrays, back = random_model(device=DEVICE), io.BytesIO(), io.BytesIO()
        stream.seek(0)
        stream_to_arrays(stream, arrays, model=there)
        assert not arrays_to_stream(arrays, back, model=there)
    assert arrays.getvalue() == here.getvalue() and back.getvalue() == stream.getvalue()


def test_what_is_drawn_is_the_same_on_a_device():
    """A picture and a P frame; and a part of a picture, the best of two candidates."""
    picture, mask = moving(1, 37, 45)[0], np.zeros((37, 45), bool)
    mask[10:20, 20:30] = True

    def drawn(model):
        alone = sample_frames((45, 37), frames=1, seed=1, quality=10, model=model)
        return [*alone, *sample_frames(picture=picture, mask=mask, candidates=2, quality=10, model=model)]

    here = drawn(random_model())
    with Simulated():
        assert same_pictures(drawn(random_model(device=DEVICE)), here)


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
            there = random_model(device=DEVICE)
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
