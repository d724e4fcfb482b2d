"""The order of what workers do, its bounds and its errors."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from bsqcodec import BsqError, FormatError
from bsqcodec.errors import ModelError
from bsqcodec.jobs import workers
from bsqcodec.jobs.workers import Future, Workers, load_once
from bsqcodec.network.saving import save_model
from bsqcodec.settings import EncodeSettings
from bsqcodec.types import Frame, FrameFormat, Packet
from helpers import moving, random_model, random_network


def done(value):
    """A task that has ended."""
    return Future(SimpleNamespace(result=lambda: value), nullcontext)


class Instant(Workers):
    """Does nothing, at once; counts how many tasks are under way."""

    def __init__(self):
        super().__init__(2, lambda: None)
        self.under_way = self.most = 0

    def __exit__(self, *_):
        pass

    def _submit(self, task, group, *arguments):
        return SimpleNamespace(result=lambda: len(group))

    _lost = nullcontext

    def start(self, item):
        if not isinstance(item, int):
            return None
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        return done(item)


def test_a_worker_keeps_its_model_and_refuses_another(tmp_path):
    """A trainer may replace the file while it is encoded with."""
    path = tmp_path / "one.safetensors"
    identity = save_model(random_network(), path)
    model = load_once(str(path), identity)
    changed = random_network()
    changed.p_phase.data += 1
    other = save_model(changed, path)
    assert other != identity and load_once(str(path), identity) is model
    with pytest.raises(ModelError, match="another model"):
        load_once(str(path), bytes(8))


def test_order_bounds_and_errors_of_the_queue():
    def items():
        yield from (0, "sound", 1, 2, 3, 4)
        raise BsqError("broken")

    for size, most in ((1, 3), (1 << 30, 1)):
        instant, seen = Instant(), []
        ahead = instant.ahead(items(), instant.start, lambda _, size=size: size)
        for _ in range(6):
            item, future = next(ahead)
            seen.append(item)
            instant.under_way -= future is not None
        with pytest.raises(BsqError, match="broken"):
            next(ahead)
        assert seen == [0, "sound", 1, 2, 3, 4] and instant.most <= most


def test_what_is_between_groups_does_not_pile_up():
    read = []
    items = (read.append(i) or str(i) for i in range(5000))
    instant = Instant()
    ahead = instant.ahead(items, instant.start, lambda _: 1)
    assert next(ahead) == ("0", None) and len(read) < 1100


def test_groups_take_the_place_of_their_last_frame():
    sound = Packet(0, 1, b"x")
    frame = Frame(np.zeros((1, 1, 3), np.uint8), 0)
    coded = Instant().encode([frame, sound, frame, sound, frame], EncodeSettings(gop=2), FrameFormat(1, 1))
    assert list(coded) == [sound, 2, sound, 1]


def test_a_damaged_group_keeps_the_frames_before_the_damage(monkeypatch):
    """What a worker returns stands for what `decode_group` would yield and raise."""
    pictures = [np.full((2, 2, 3), i, np.uint8) for i in range(3)]

    def broken(*_):
        yield from pictures[:2]
        raise FormatError("the coded bits are damaged")

    monkeypatch.setattr(workers, "decode_group", broken)
    frames = workers.decoded(done(workers._decode(None, b"", b"", FrameFormat(2, 2), 3, 3)))
    assert [int(next(frames)[0, 0, 0]) for _ in range(2)] == [0, 1]
    with pytest.raises(FormatError, match="damaged"):
        next(frames)
    assert len(workers._decode(None, b"", b"", FrameFormat(2, 2), 3, 1)[0]) == 1


def test_one_model_serves_several_threads():
    """As on a worker of a cluster, from the first group on: a model makes some things when they are first needed."""
    frames, size = [Frame(rgb, t) for t, rgb in enumerate(moving(3, 32, 48))], FrameFormat(32, 48)
    several = [EncodeSettings(quality=quality) for quality in (20, 80, 50, 20)]

    def coded(model, settings):
        group = workers.run(lambda: model, workers._encode, frames, settings, size)
        pictures, error = workers.run(lambda: model, workers._decode, group.payload, b"", size, 3, 3)
        assert not error and np.array_equal(pictures, group.decoded)
        return group.payload

    model = random_model()
    expected = [coded(model, settings) for settings in several]
    shared = random_model()
    with ThreadPoolExecutor(len(several)) as pool:
        assert list(pool.map(coded, [shared] * len(several), several)) == expected
