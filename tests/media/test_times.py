"""When a video begins and ends, and pictures that are no frames of it."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from bsqcodec.file_decoder import decode_file
from bsqcodec.file_encoder import encode_file
from bsqcodec.media import colour, open_sink, open_source
from helpers import CLIP, random_model, read_media, sound, waves, write_media

SUFFIXES = ["mp4", "mkv", "mov"]


def write(path, times, duration, info=CLIP, audio=()):
    """As `write_media`, with the duration of the last frame."""
    with open_sink(str(path), info) as sink:
        for packet in audio:
            sink.write_packet(packet)
        for time, picture in zip(times, waves(len(times)), strict=True):
            sink.write(picture, time)
        sink.duration = duration


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("times", [[0], [0, 1], [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 4, 5, 9], [0, 100, 101, 102]])
def test_duration_of_the_last_frame(tmp_path, suffix, times):
    """It is that of the file too, whether or not the last frame is the last packet."""
    write(tmp_path / f"a.{suffix}", times, 7)
    info, frames, _ = read_media(tmp_path / f"a.{suffix}")
    assert [f.duration * info.time_base for f in frames] == [0] * (len(times) - 1) + [Fraction(7, 25)]
    assert [f.pts * info.time_base for f in frames] == [Fraction(t, 25) for t in times]
    if times != [0, 1, 2, 4, 5, 9] and times[-1] != 102:  # of uneven frames FFmpeg adds the intervals of its packets
        with av.open(f"{tmp_path}/a.{suffix}") as file:
            assert file.duration == (times[-1] + 7) * 40000


@pytest.mark.parametrize("suffix", ["mov", "mkv"])
def test_duration_of_the_last_frame_with_alpha(tmp_path, suffix):
    """Of codecs that do not look ahead."""
    with open_sink(f"{tmp_path}/a.{suffix}", replace(CLIP, alpha=True)) as sink:
        for time, picture in enumerate(waves(3)):
            sink.write(np.dstack([picture, picture[..., 0]]), time)
        sink.duration = 7
    info, frames, _ = read_media(tmp_path / f"a.{suffix}")
    assert [f.duration * info.time_base for f in frames] == [0, 0, Fraction(7, 25)]


def movie_duration(path):
    """Seconds that the head of an MP4 file tells: what players show."""
    data = path.read_bytes()
    at = data.index(b"mvhd") + 16
    return Fraction(int.from_bytes(data[at + 4 : at + 8]), int.from_bytes(data[at : at + 4]))


def test_an_animation_becomes_a_video_of_its_length(tmp_path):
    pictures = [Image.fromarray(p) for p in waves(3)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[100, 50, 700])
    model = random_model()
    encode_file(f"{tmp_path}/a.gif", f"{tmp_path}/a.bsq", quality=5, model=model)
    for suffix in SUFFIXES:
        decode_file(f"{tmp_path}/a.bsq", f"{tmp_path}/a.{suffix}", model=model)
        info, frames, _ = read_media(f"{tmp_path}/a.{suffix}")
        assert [f.pts * info.time_base for f in frames] == [0, Fraction(1, 10), Fraction(3, 20)]
        assert frames[-1].duration * info.time_base == Fraction(7, 10)
    assert movie_duration(tmp_path / "a.mp4") == movie_duration(tmp_path / "a.mov") == Fraction(17, 20)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_duration_of_the_last_image(tmp_path, name):
    pictures = [Image.fromarray(p) for p in waves(3)]
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=[100, 50, 700])
    assert [f[1:] for f in read_media(tmp_path / name)[1]] == [(0, 0), (100, 0), (150, 700)]
    assert [f[1:] for f in read_media(tmp_path / name, duration=0.4)[1]] == [(0, 0), (100, 0), (150, 250)]
    assert [f[1:] for f in read_media(tmp_path / name, duration=0.12)[1]] == [(0, 0), (100, 20)]


def test_duration_of_images_without_times(tmp_path):
    write_media(f"{tmp_path}/frames/", waves(2))
    assert [f[1:] for f in read_media(tmp_path / "frames")[1]] == [(0, 0), (1, 1)]
    assert [f[1:] for f in read_media(tmp_path / "frames" / "000000.png")[1]] == [(0, 0)]


def test_a_part_ends_where_it_is_cut(tmp_path):
    write(tmp_path / "a.mkv", [0, 1, 2, 30, 31], 7)
    info, frames, _ = read_media(tmp_path / "a.mkv", duration=0.5)
    assert [f.pts * info.time_base for f in frames] == [0, Fraction(1, 25), Fraction(2, 25)]
    assert frames[-1].duration * info.time_base == Fraction(1, 2) - Fraction(2, 25)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pictures_that_begin_after_the_sound(tmp_path, suffix):
    """Their times are kept, from file to file too; without sound, or in a part, they begin at 0."""
    track, packets = sound()
    model = random_model()
    write(tmp_path / f"a.{suffix}", [5, 6, 9], 2, replace(CLIP, tracks=(track,)), packets)
    encode_file(f"{tmp_path}/a.{suffix}", f"{tmp_path}/a.bsq", quality=5, model=model)
    decode_file(f"{tmp_path}/a.bsq", f"{tmp_path}/b.{suffix}", model=model)
    for name in (f"a.{suffix}", f"b.{suffix}"):
        info, frames, audio = read_media(tmp_path / name)
        assert [f.pts * info.time_base for f in frames] == [Fraction(t, 25) for t in (5, 6, 9)]
        assert abs(audio[1].pts * info.tracks[0].time_base) <= Fraction(1, 1000)  # the first is not heard
        with av.open(str(tmp_path / name)) as file:
            assert file.start_time == 0
            assert min(f.pts * f.time_base for f in file.decode(video=0)) == Fraction(1, 5)
    if suffix != "mkv":
        assert abs(movie_duration(tmp_path / f"b.{suffix}") - Fraction(1, 2)) < 0.03  # the sound is longer
    for options in ({"audio": False}, {"start": 0.01}):
        info, frames, _ = read_media(tmp_path / f"a.{suffix}", **options)
        assert frames[0].pts == 0


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("start", [0, 0.08])
def test_sound_that_begins_after_the_pictures(tmp_path, suffix, start):
    """No picture is lost, though FFmpeg takes the begin of the sound for that of a Matroska file."""
    track, packets = sound()
    late = [replace(p, pts=p.pts + 9600) for p in packets]
    write(tmp_path / f"a.{suffix}", [0, 1, 2, 3, 4], 1, replace(CLIP, tracks=(track,)), late)
    info, frames, audio = read_media(tmp_path / f"a.{suffix}", start=start)
    assert [f.pts * info.time_base for f in frames] == [Fraction(t, 25) for t in range(5 - round(25 * start))]
    assert abs(audio[1].pts * info.tracks[0].time_base - Fraction(1, 5) + Fraction(round(25 * start), 25)) < 0.0015


def test_interlaced_video_is_told(tmp_path):
    with av.open(f"{tmp_path}/a b.mkv", "w") as output:
        video: Any = output.add_stream("libx264", 25, width=48, height=32, options={"x264-params": "tff=1"})
        for picture in waves(2):
            output.mux(video.encode(colour.to_yuv(picture, "yuv420p")))
        output.mux(video.encode(None))
    with open_source(f"{tmp_path}/a b.mkv") as source:
        assert len(list(source)) == 2
    how = f"ffmpeg -i '{tmp_path}/a b.mkv' -vf bwdif OUTPUT"
    expected = f"{tmp_path}/a b.mkv is interlaced; deinterlace it first, for example with: {how}"
    assert source.warnings == [expected]


@pytest.mark.parametrize("name", ["a.tiff", "a.jpg"])
def test_pictures_behind_the_first(tmp_path, name):
    """The pages of a TIFF, and the second picture of the photographs of some cameras, are no animation."""
    pictures = [Image.fromarray(p) for p in waves(3)]
    format = "TIFF" if name == "a.tiff" else "MPO"
    pictures[0].save(tmp_path / name, format, save_all=True, append_images=pictures[1:])
    with open_source(f"{tmp_path}/{name}") as source:
        assert len(list(source)) == 1 and source.info.image
    assert source.warnings == [f"{tmp_path}/{name}: of 3 pictures all but the first are left out"]
