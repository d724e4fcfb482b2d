"""The scripts of examples/ do what they say, on small inputs."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

import bsqcodec
from helpers import moving, write_video

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs an example in this process, which has the model already."""

    def call(name: str, *words: object) -> None:
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return call


def test_there_are_three_and_they_are_short():
    assert NAMES == ["camera_loop.py", "folder_of_images.py", "seeking.py"]
    assert all(len((EXAMPLES / name).read_text().splitlines()) < 60 for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help(run, name, capsys):
    with pytest.raises(SystemExit) as ended:
        run(name, "--help")
    assert not ended.value.code and "usage:" in capsys.readouterr().out


def test_folder_of_images(run, tmp_path, capsys):
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    Image.fromarray(data.chelsea()[100:148, 100:164]).save(pictures / "cat.png")
    Image.fromarray(data.coffee()[100:133, 100:145]).save(pictures / "coffee.jpg")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(pictures / "glass.png")
    (pictures / "notes.txt").write_text("no picture")
    run("folder_of_images.py", pictures, out, "--quality", 60)
    lines = capsys.readouterr().out.splitlines()

    assert sorted(path.name for path in out.iterdir()) == ["cat.png.bsq", "coffee.jpg.bsq"]
    size = (out / "cat.png.bsq").stat().st_size
    assert bsqcodec.decode_image((out / "cat.png.bsq").read_bytes()).shape == (48, 64, 3)
    assert lines[0].startswith(f"cat.png: 64x48, {size} bytes, ") and lines[1].startswith("coffee.jpg: 45x33")
    assert all(float(line.split()[-2]) > 28 for line in lines[:2])  # dB
    assert [line.split(":")[0] for line in lines[2:]] == ["glass.png", "notes.txt", "all"]
    assert "left out" in lines[2] and "left out" in lines[3]


def test_camera_loop_of_a_pattern(run, tmp_path, capsys):
    run("camera_loop.py", tmp_path / "live.bsq", "--frames", 3, "--rate", 10)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["frame 0", "frame 1", "frame 2"]
    assert all(float(line.split()[5].rstrip(",")) < 15 for line in lines)  # mean error of a sample
    with open(tmp_path / "live.bsq", "rb") as file, bsqcodec.Decoder(file) as decoder:
        assert decoder.info.frame_rate == 10
        assert [(frame.pts, frame.rgb.shape) for frame in decoder.frames()] == [(t, (120, 160, 3)) for t in range(3)]


def test_camera_loop_of_a_video(run, tmp_path, capsys):
    frames = moving(4)
    write_video(tmp_path / "in.mp4", frames)
    run("camera_loop.py", tmp_path / "out.bsq", "--source", tmp_path / "in.mp4", "--quality", 70)
    assert len(capsys.readouterr().err.splitlines()) == 4
    with open(tmp_path / "out.bsq", "rb") as file, bsqcodec.Decoder(file) as decoder:
        for frame, source in zip(decoder.frames(), frames, strict=True):
            assert np.abs(frame.rgb.astype(int) - source).mean() < 8


def test_seeking(run, tmp_path, capsys):
    frames = moving(6, 32, 48)
    with open(tmp_path / "a.bsq", "wb") as file:
        info = bsqcodec.MediaInfo(48, 32, frame_rate=25)
        with bsqcodec.Encoder(file, info, quality=50, gop=2) as encoder:
            decoded = [picture for t, frame in enumerate(frames) for picture in encoder.write(frame, t)]
    run("seeking.py", tmp_path / "a.bsq", "--start", 3, "--stop", 5, "--out", tmp_path / "png")
    lines = capsys.readouterr().out.splitlines()

    assert lines[0] == "48x32, 25.00 frames per second"
    assert [line.split(",")[0].split()[-1] for line in lines[1:4]] == ["0", "2", "4"]  # first frames of the groups
    means = [f"mean {picture.mean():.1f}" for picture in decoded]
    assert lines[4:] == [
        f"frame 3: at 0.120 s, {means[3]}",
        f"frame 4: at 0.160 s, {means[4]}",
        f"back at frame 0: {means[0]}",
    ]
    for number in (3, 4):
        assert (np.asarray(Image.open(tmp_path / "png" / f"{number:06}.png")) == decoded[number]).all()


def test_seeking_in_a_file_that_is_cut_short(run, tmp_path, capsys):
    (tmp_path / "cut.bsq").write_bytes(bsqcodec.encode_image(moving(1)[0], quality=30)[:-6])
    with pytest.raises(bsqcodec.FormatError):
        run("seeking.py", tmp_path / "cut.bsq")
    assert "no index: the stream has no index" in capsys.readouterr().out
