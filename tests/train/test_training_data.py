"""Images, strips and videos that a run learns from, and shards that come while it runs."""

import shutil
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bsqcodec.errors import BsqError
from bsqcodec.train.config import TrainConfig
from bsqcodec.train.data import load_images, load_videos
from bsqcodec.train.trainer import Trainer
from bsqcodec.types import Frame


def test_broken_items_are_counted_and_skipped(shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = load_images([str(shards / "photos.tar")], 64)
    assert len(images) == 3 and "1 items were broken" in caplog.text


def test_bad_data(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(BsqError, match="no training images"):
        Trainer(replace(config, photos=[str(tmp_path / "empty")]))
    with pytest.raises(BsqError, match="not a readable tar"):
        Trainer(replace(config, photos=[str(tmp_path / "no.tar")]))
    with pytest.raises(BsqError, match="not a readable tar"):
        Trainer(replace(config, photos=[str(tmp_path / "nowhere")]))


def test_strips_that_are_too_short_are_left_out(config: TrainConfig, caplog: pytest.LogCaptureFixture) -> None:
    t = Trainer(replace(config, orders=[[[0], [4, 0]]]))
    assert t.sampler.frames is None and "1 strips have not 5 square frames" in caplog.text


def test_shards_that_come_during_a_run_are_taken_up(
    config: TrainConfig, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = replace(config, incoming=str(tmp_path / "incoming"), steps=1)
    trainer = Trainer(config)
    trainer.take_up()  # the folder need not be there
    (tmp_path / "incoming").mkdir()
    shutil.copy(shards / "photos.tar", tmp_path / "incoming/photos-1.tar")
    (tmp_path / "incoming/photos-2.tar").write_bytes((shards / "photos.tar").read_bytes()[:700])
    (tmp_path / "incoming/photos-3.tar.partial").write_bytes(b"on its way")
    with tarfile.open(tmp_path / "incoming/clips-1.tar", "w") as tar:
        tar.add(shards / "strips/0.png", "0.png")
    deadline = time.monotonic() + 60
    while len(trainer.sampler.photos) < 6 or len(trainer.sampler.lengths) < 2 or "left out" not in caplog.text:
        assert time.monotonic() < deadline
        trainer.take_up()
        time.sleep(0.01)
    for trainer.step in range(3):
        trainer.train_step()
    trainer.take_up()
    assert len(trainer.sampler.photos) == 6 and len(trainer.sampler.lengths) == 2


def test_strips_from_a_folder_of_videos(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from bsqcodec.media import open_source

    plants = Path(__file__).parents[1] / "data" / "plants.mp4"  # 21 frames, 254 wide, 256 high
    (tmp_path / "plants.mp4").write_bytes(plants.read_bytes())
    (tmp_path / "broken.mp4").write_bytes(plants.read_bytes()[:500])
    strips = load_videos([str(tmp_path)], 64, 5)
    assert [s.shape for s in strips] == [(5 * 254, 254, 3)] * 4
    with open_source(str(plants), audio=False) as source:
        frames = [item.rgb for item in source if isinstance(item, Frame)]
    for piece, first in ((strips[0], 0), (strips[-1], 16)):
        whole = frames[first : first + 5]
        assert any(np.array_equal(piece, np.concatenate([f[y : y + 254] for f in whole])) for y in range(3))
    with pytest.raises(BsqError, match="no training videos"):
        load_videos([str(tmp_path)], 4000, 5)
