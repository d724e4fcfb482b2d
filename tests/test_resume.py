"""`encode --resume`: after a kill at any moment the result is the file that an encode without one makes."""

import io
import itertools
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from skimage import data

from bsqcodec.gop.encoder import GopEncoder
from bsqcodec.network.saving import save_model
from bsqcodec.output import _locked
from bsqcodec.settings import DEFAULT_MODEL
from bsqcodec.stream.reader import StreamReader
from helpers import exit_status, moving, random_network, write_video

FRAMES = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    save_model(random_network(), folder / "tiny.safetensors")
    write_video(folder / "clip.mp4", moving(FRAMES, 32, 48), audio=True)
    (folder / "frames").mkdir()
    for t in range(FRAMES):
        Image.fromarray(np.ascontiguousarray(data.coffee()[t : t + 33, 100:149])).save(folder / f"frames/{t}.png")
    return folder


def encode(folder, source, target, *words, low_delay=True) -> int:
    """Exit status of `bsqcodec encode` with the tiny model, one file of the folder, and groups of two frames."""
    model = ("--model", folder / "tiny.safetensors", "--device", "cpu")
    words = (*words, "--low-delay") if low_delay else words
    return exit_status("encode", folder / source, target, "--quiet", "--gop", 2, *model, *words)


def left(target, content: bytes, process: int = 1):
    """The hidden file that a killed process leaves beside the target; returns its path."""
    path = target.with_name(f".{target.name}.{process}.part")
    path.write_bytes(content)
    return path


def borders(whole: bytes) -> list[int]:
    """Bytes at which the chunks of a stream begin, and the last one ends."""
    reader = StreamReader(io.BytesIO(whole))
    found = [reader.size]
    for _ in reader.chunks():
        found.append(reader.size)
    return found


@pytest.mark.parametrize("source", ["clip.mp4", "frames"])
@pytest.mark.parametrize("words", [(), ("-q", 80), ("--bpp", 0.9), ("--size", 1500), ("--tune", "psnr")], ids=str)
def test_the_result_is_that_of_an_encode_that_was_not_killed(folder, tmp_path, source, words, capsys):
    target = tmp_path / "out.bsq"
    low_delay = bool(words)  # without, the encoder looks ahead
    assert encode(folder, source, target, *words, low_delay=low_delay) == 0
    whole = target.read_bytes()
    starts = borders(whole)
    cuts = sorted({0, 5, len(whole), *starts, *((a + b) // 2 for a, b in itertools.pairwise(starts))})
    if words or source != "clip.mp4":  # to find a quality takes as long as several encodes
        cuts = cuts[5 :: 8 if "--bpp" in words or "--size" in words else 4]
    assert cuts
    for cut in cuts:
        target.unlink(missing_ok=True)
        left(target, whole[:cut])
        assert encode(folder, source, target, "--resume", *words, low_delay=low_delay) == 0, capsys.readouterr().err
        assert target.read_bytes() == whole, f"cut at byte {cut} of {len(whole)}"
        assert os.listdir(tmp_path) == ["out.bsq"]


def test_groups_that_are_there_are_not_encoded_again(folder, tmp_path, capsys, monkeypatch):
    target = tmp_path / "out.bsq"
    assert encode(folder, "clip.mp4", target, low_delay=False) == 0
    whole = target.read_bytes()
    target.unlink()
    left(target, whole[:-9])
    pushed = []
    push = GopEncoder.push
    monkeypatch.setattr(GopEncoder, "push", lambda self, *a: pushed.append(0) or push(self, *a))
    words = ("--model", folder / "tiny.safetensors", "--device", "cpu", "--gop", 2)
    assert exit_status("encode", folder / "clip.mp4", target, "--resume", *words) == 0
    assert "7 frames (6 from before)" in capsys.readouterr().err
    assert len(pushed) == 3  # the last frame, and the group that is compared


def test_damage_counts_as_the_end(folder, tmp_path):
    target = tmp_path / "out.bsq"
    assert encode(folder, "clip.mp4", target) == 0
    whole = target.read_bytes()
    for at in (3, 30, borders(whole)[2] + 9, borders(whole)[-2] - 3):
        bad = bytearray(whole)
        bad[at] ^= 4
        target.unlink()
        left(target, bytes(bad) + b"more")
        assert encode(folder, "clip.mp4", target, "--resume") == 0
        assert target.read_bytes() == whole


def test_what_does_not_belong_is_refused_and_stays(folder, tmp_path, capsys):
    target = tmp_path / "out.bsq"
    assert encode(folder, "clip.mp4", target) == 0
    content = target.read_bytes()[:-20]
    target.unlink()
    part = left(target, content)
    for words, match in [
        (("-q", 51), "quality 50, not 51"),
        (("--tune", "psnr"), "tune perceptual, not psnr"),
        (("--gop", 3), "groups of 2 frames, not 3"),
        (("--gop", 1), "groups of 2 frames, not 1"),
        (("--start", 0.04), "another input"),
        (("--duration", 0.2), "a longer input"),
        (("--duration", 0.04), "a longer input"),
        (("--no-audio",), "another input"),
        (("--model", DEFAULT_MODEL), "another input, model or options"),
    ]:
        assert encode(folder, "clip.mp4", target, "--resume", *words) == 1
        err = capsys.readouterr().err
        assert match in err and err.count("\n") == 1, err
        assert part.read_bytes() == content and not target.exists()
    assert encode(folder, "frames", target, "--resume") == 1 and "another input" in capsys.readouterr().err
    # without --resume it is in nobody's way, and gone when the file is whole
    assert encode(folder, "clip.mp4", target, "-q", 51) == 0
    assert not part.exists()


def test_what_another_version_wrote_is_not_resumed(folder, tmp_path):
    """It is of no use, and the encode begins anew."""
    target = tmp_path / "out.bsq"
    assert encode(folder, "clip.mp4", target) == 0
    whole = target.read_bytes()
    target.unlink()
    left(target, whole[:4] + b"\x03" + whole[5:-20])
    assert encode(folder, "clip.mp4", target, "--resume") == 0
    assert target.read_bytes() == whole and os.listdir(tmp_path) == ["out.bsq"]


def test_another_video_of_the_same_shape_is_refused(folder, tmp_path, capsys):
    target = tmp_path / "out.bsq"
    assert encode(folder, "frames", target, low_delay=False) == 0
    left(target, target.read_bytes()[:-20])
    target.unlink()
    shutil.copytree(folder / "frames", tmp_path / "other")
    picture = np.asarray(Image.open(tmp_path / "other/4.png"))
    Image.fromarray(255 - picture).save(tmp_path / "other/4.png")  # the first frame of the last whole group
    assert encode(folder, tmp_path / "other", target, "--resume", low_delay=False) == 1
    assert "another input" in capsys.readouterr().err


def test_who_is_still_writing_is_left_alone(folder, tmp_path, capsys):
    target = tmp_path / "out.bsq"
    path = left(target, b"x")
    with open(path, "r+b") as file, _locked(file) as mine:
        assert mine
        assert encode(folder, "clip.mp4", target, "--resume") == 1
        assert "another process is writing" in capsys.readouterr().err
        assert encode(folder, "clip.mp4", target) == 0
    assert path.read_bytes() == b"x"
    assert encode(folder, "clip.mp4", target, "--resume", "-f") == 0 and not path.exists()


def test_a_failure_keeps_what_can_be_resumed(folder, tmp_path, capsys, monkeypatch):
    target = tmp_path / "out.bsq"
    for words in ((), ("--resume",)):  # nothing was encoded
        assert encode(folder, "nothing.mp4", target, *words) == 1
        assert os.listdir(tmp_path) == []
    shutil.copytree(folder / "frames", tmp_path / "frames")
    (tmp_path / "frames/5.png").write_bytes(b"broken")
    assert encode(folder, tmp_path / "frames", target) == 1
    assert os.listdir(tmp_path) == ["frames"]
    assert encode(folder, tmp_path / "frames", target, "--resume") == 1
    assert sorted(os.listdir(tmp_path)) == [f".out.bsq.{os.getpid()}.part", "frames"]
    shutil.copy(folder / "frames/5.png", tmp_path / "frames")
    assert encode(folder, tmp_path / "frames", target, "--resume") == 0
    assert encode(folder, "frames", tmp_path / "whole.bsq") == 0
    assert target.read_bytes() == (tmp_path / "whole.bsq").read_bytes()
    capsys.readouterr()
    for words, match in (
        (("-",), "standard output"),
        ((os.devnull,), "only a file"),
        ((target, "-f", "--md5"), "--md5"),
    ):
        assert encode(folder, "frames", words[0], "--resume", *words[1:]) == 1
        assert match in capsys.readouterr().err
