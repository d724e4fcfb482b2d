"""`encode --preview`: what a decoder will make of the file is written beside it, or neither of them."""

from contextlib import nullcontext
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

import bsqcodec
from bsqcodec import media
from bsqcodec.jobs import choice
from bsqcodec.jobs.workers import Workers, run
from bsqcodec.media.video_sinks import VideoSink
from bsqcodec.network.saving import save_model
from bsqcodec.types import rescaled
from helpers import exit_status, moving, photo, psnr, random_network, same_pictures, write_video

TIMES = [0, 40, 90, 200, 210, 300, 420]  # ms


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preview")
    save_model(random_network(), folder / "tiny.safetensors")
    write_video(folder / "clip.mkv", moving(len(TIMES), 32, 48), TIMES, audio=True)
    Image.fromarray(photo(33, 47)).save(folder / "photo.png")
    return folder


class Here(Workers):
    """Workers that do their tasks in this process when they get them, groups of pictures before they are needed."""

    def __exit__(self, *_):
        pass

    def _submit(self, task, *arguments):
        value = run(self._load, task, *arguments)
        return SimpleNamespace(result=lambda: value)

    _lost = nullcontext


def encode(folder, source, target, *words) -> int:
    """Exit status of `bsqcodec encode` with the tiny model, one file of the folder, and groups of three frames."""
    model = ("--model", folder / "tiny.safetensors", "--device", "cpu")
    return exit_status("encode", folder / source, target, "--quiet", "--gop", 3, *model, *words)


def pictures(folder, path):
    """The frames of a .bsq file of the tiny model."""
    with open(path, "rb") as file:
        return [frame.rgb for frame in bsqcodec.Decoder(file, model=str(folder / "tiny.safetensors")).frames()]


def contents(path):
    """Times of the frames in ms, frames, and the times and bytes of the packets of sound."""
    with av.open(str(path)) as video:
        frames = list(video.decode(video=0))
    with av.open(str(path)) as video:
        sound = [(round(p.pts * p.time_base * 1000), bytes(p)) for p in video.demux(audio=0) if p.size]
    return [round(f.pts * f.time_base * 1000) for f in frames], [f.to_ndarray(format="rgb24") for f in frames], sound


@pytest.mark.parametrize("words", [(), ("--bpp", 1.5), ("--md5",)], ids=str)
def test_a_picture_is_what_decode_gives(folder, tmp_path, words):
    assert encode(folder, "photo.png", tmp_path / "a.bsq", "--preview", tmp_path / "a.png", *words) == 0
    assert np.array_equal(Image.open(tmp_path / "a.png"), pictures(folder, tmp_path / "a.bsq")[0])
    assert encode(folder, "photo.png", tmp_path / "b.bsq", *words) == 0
    assert (tmp_path / "a.bsq").read_bytes() == (tmp_path / "b.bsq").read_bytes()


@pytest.mark.parametrize("words", [(), ("--low-delay",), ("--jobs", 2)], ids=str)
def test_a_video_is_what_decode_gives_with_its_times_and_its_sound(folder, tmp_path, words, monkeypatch):
    monkeypatch.setattr(choice, "Processes", Here)
    assert encode(folder, "clip.mkv", tmp_path / "a.bsq", "--preview", tmp_path / "a.mkv", *words) == 0
    model = ("--model", folder / "tiny.safetensors")
    assert exit_status("decode", tmp_path / "a.bsq", tmp_path / "b.mkv", "--quiet", *model) == 0
    times, frames, sound = contents(tmp_path / "a.mkv")
    decoded_times, _, decoded_sound = contents(tmp_path / "b.mkv")
    assert times == decoded_times == TIMES and sound == decoded_sound and len(sound) > 10
    decoded = pictures(folder, tmp_path / "a.bsq")
    nearest = [max(range(len(TIMES)), key=lambda i: psnr(frame, decoded[i])) for frame in frames]
    assert nearest == list(range(len(TIMES)))  # H.264 that x264 makes twice of the same frames may differ


def test_a_folder_of_frames(folder, tmp_path):
    assert encode(folder, "clip.mkv", tmp_path / "a.bsq", "--preview", f"{tmp_path}/frames/", "--no-audio") == 0
    found = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "frames").iterdir())]
    assert len(found) == len(TIMES) and same_pictures(found, pictures(folder, tmp_path / "a.bsq"))


def test_what_a_preview_cannot_hold_is_told(folder, tmp_path, capsys):
    assert encode(folder, "clip.mkv", tmp_path / "a.bsq", "--preview", tmp_path / "a.y4m", "--low-delay") == 0
    line = f"warning: {tmp_path / 'a.y4m'}: the audio track is left out, which this output cannot hold"
    assert capsys.readouterr().err.splitlines() == [line]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--preview", "a.png", "--resume"), "--preview is of frames that --resume does not make again"),
        (("--preview", "-"), "a preview needs the name of a file or a folder"),
        (("--preview", "a.xyz"), "the name of an output ends in"),
        (("--preview", "a.png"), "holds one image"),  # of a video
        (("--preview", "a.bsq"), "is both the output and its preview"),
        (("--preview", "nowhere/a.mkv"), "does not exist"),
        (("--preview", "there.mkv"), "exists already; -f replaces it"),
    ],
    ids=str,
)
def test_nothing_is_left_where_a_preview_cannot_be(folder, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.mkv").write_bytes(b"mine")
    assert encode(folder, "clip.mkv", "a.bsq", "--low-delay", *words) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["there.mkv"]
    assert (tmp_path / "there.mkv").read_bytes() == b"mine"


@pytest.mark.parametrize("where", ["_write", "_finish"])
def test_a_preview_that_fails_on_its_way_leaves_neither_file(folder, tmp_path, monkeypatch, capsys, where):
    def full(self, *_):
        if where == "_finish" or self._frames == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(VideoSink, where, full)
    assert encode(folder, "clip.mkv", tmp_path / "a.bsq", "--preview", tmp_path / "a.mkv", "--low-delay") == 1
    assert capsys.readouterr().err == f"bsqcodec: cannot write {tmp_path / 'a.mkv'}: No space left on device\n"
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_leaves_no_preview(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert encode(folder, "photo.png", tmp_path / "out", "--preview", tmp_path / "a.png") == 1
    assert capsys.readouterr().err == f"bsqcodec: cannot write {tmp_path / 'out'}: it is a folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_both_are_replaced_where_that_is_allowed(folder, tmp_path):
    for name in ("a.bsq", "a.png"):
        (tmp_path / name).write_bytes(b"old")
    assert encode(folder, "photo.png", tmp_path / "a.bsq", "--preview", tmp_path / "a.png", "-f") == 0
    assert np.array_equal(Image.open(tmp_path / "a.png"), pictures(folder, tmp_path / "a.bsq")[0])


def test_a_transparent_picture(folder, tmp_path):
    rgba = np.dstack([photo(32, 48), np.full((32, 48), 255, np.uint8)])
    rgba[:, :16, 3] = 90
    Image.fromarray(rgba).save(tmp_path / "in.png")
    assert encode(folder, tmp_path / "in.png", tmp_path / "a.bsq", "--preview", tmp_path / "a.png") == 0
    assert np.array_equal(Image.open(tmp_path / "a.png"), pictures(folder, tmp_path / "a.bsq")[0])


def test_a_preview_that_holds_fewer_bits_shows_the_frames_rounded(folder, tmp_path, capsys):
    deep = np.linspace(0, 65535, 32 * 48).astype(np.uint16).reshape(32, 48)
    Image.fromarray(deep).save(tmp_path / "in.png")
    encoded = (folder, tmp_path / "in.png", tmp_path / "a.bsq", "-f", "--preview")
    assert encode(*encoded, tmp_path / "a.webp") == 0
    line = f"warning: {tmp_path / 'a.webp'}: the preview has 8 bits a sample, the stream 12\n"
    assert line in capsys.readouterr().err
    assert encode(*encoded, tmp_path / "a.png") == 0 and "the preview has" not in capsys.readouterr().err
    with media.open_source(str(tmp_path / "a.png")) as source:
        assert source.info.bit_depth == 12
    [picture] = pictures(folder, tmp_path / "a.bsq")
    assert psnr(np.asarray(Image.open(tmp_path / "a.webp")), rescaled(picture, 12, 8)) > 35


def test_a_video_preview_that_holds_fewer_bits(folder, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for i, frame in enumerate(moving(4, 32, 48)):
        Image.fromarray(frame[..., 0].astype(np.uint16) * 257).save(tmp_path / "in" / f"{i}.png")
    assert encode(folder, tmp_path / "in", tmp_path / "a.bsq", "--preview", tmp_path / "a.mov") == 0
    assert f"{tmp_path / 'a.mov'}: the preview has 10 bits a sample, the stream 12\n" in capsys.readouterr().err
    with av.open(str(tmp_path / "a.mov")) as video:
        found = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        pixels = video.streams.video[0].pix_fmt
    assert pixels.startswith("yuv420p10") and len(found) == 4
    for frame, picture in zip(found, pictures(folder, tmp_path / "a.bsq"), strict=True):
        assert psnr(frame, rescaled(picture, 12, 8)) > 25  # the chroma has half the size
