"""Outputs: what they cannot hold, what is left of them on errors."""

import os
from dataclasses import replace
from fractions import Fraction

import pytest

from bsqcodec.errors import BsqError
from bsqcodec.media import open_sink
from helpers import CLIP, sound, waves, write_media


def test_outputs_without_sound_say_so(tmp_path):
    track, packets = sound()
    with open_sink(str(tmp_path / "a.y4m"), replace(CLIP, tracks=(track,))) as sink:
        assert "audio" in sink.warnings[0]
        sink.write(waves(1)[0], 0)
        sink.write_packet(packets[0])


def test_y4m_tells_of_times_that_it_cannot_hold(tmp_path):
    info = replace(CLIP, time_base=Fraction(1, 1000))  # 25 per second
    for times, late in (((100, 139, 181), None), ((0, 40, 200), 120), ((0, 15, 80), 25)):
        with open_sink(str(tmp_path / "a.y4m"), info) as sink:
            for frame, time in zip(waves(3), times, strict=True):
                sink.write(frame, time)
        expected = f"the frames appear up to {late} ms too early or late, for y4m shows each for the same time"
        assert sink.warnings == ([expected] if late else []), times


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.y4m", "a.png", "a.jpg", "a/"])
def test_nothing_is_left_on_error(tmp_path, name):
    path = tmp_path / name
    if not name.endswith("/"):
        path.write_bytes(b"older")

    def interrupted():
        with open_sink(f"{tmp_path}/{name}", CLIP) as sink:
            sink.write(waves(1)[0], 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(BsqError, match="no frame"), open_sink(f"{tmp_path}/{name}", CLIP):
        pass
    assert os.listdir(tmp_path) == ([] if name.endswith("/") else [name])
    assert name.endswith("/") or path.read_bytes() == b"older"


def test_bad_output(tmp_path):
    with pytest.raises(BsqError, match=r"\.mp4, \.mkv"):
        write_media(tmp_path / "a.xyz", waves(1))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BsqError, match="not an empty folder"):
        write_media(f"{tmp_path}/file/", waves(1))
    for name in ("a.mp4", "a.y4m", "a.png", "a/"):
        with pytest.raises(BsqError, match="does not exist"):
            write_media(f"{tmp_path}/missing/{name}", waves(1))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.y4m", "a.png", "a/"])
def test_a_name_that_the_file_system_refuses_is_one_line(tmp_path, name):
    track, _ = sound()
    for info in (CLIP, replace(CLIP, tracks=(track,))):
        with pytest.raises(BsqError, match=r"cannot write .*name too long"):
            write_media(f"{tmp_path}/{'long' * 62}{name}", waves(1), info)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.y4m", "a.mkv"])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk(tmp_path, name):
    os.symlink("/dev/full", tmp_path / name)
    with pytest.raises(BsqError, match="No space left") as caught:
        write_media(tmp_path / name, waves(2 if name.endswith(("y4m", "mkv")) else 1))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == [name] and os.path.exists("/dev/full")


@pytest.mark.parametrize("name", ["a.png", "a.gif", "frames/"])
def test_images_say_that_pixels_are_no_squares(tmp_path, name):
    with open_sink(f"{tmp_path}/{name}", replace(CLIP, sample_aspect_ratio=(16, 11))) as sink:
        sink.write(waves(1)[0], 0)
    assert sink.warnings == ["the output does not tell that pixels are 16:11"]
