"""Odd inputs, as real files through the command line: sizes, grays, times, sound, rotation."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from skimage import data

import bsqcodec
from bsqcodec.encoder import MAX_PENDING
from bsqcodec.network.saving import save_model
from bsqcodec.settings import TUNES
from bsqcodec.types import MediaInfo, Packet, Track
from helpers import exit_status, moving, random_network, write_video


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(random_network(), path)
    return path


@pytest.fixture
def decode(model):
    """Decode a stream into `target` once more: containers and sizes are asked, not another encode."""

    def run(stream, target):
        assert exit_status("decode", stream, target, "-f", "--model", model, "--quiet") == 0

    return run


@pytest.fixture
def round_trip(model, tmp_path, capsys):
    """Encode `source`, decode into `target`; the frames must be those that the encoder promised. Returns the .bsq.

    What follows are options of the encoder.
    """

    def run(source, target, *words):
        stream = tmp_path / "stream.bsq"
        options = ("-f", "--md5", "--gop", 4, "--model", model, "--quiet", *words)
        assert exit_status("encode", source, stream, *options) == 0
        assert exit_status("decode", stream, target, "--md5", "--model", model, "--quiet") == 0
        promised, found = capsys.readouterr().out.split()
        assert promised == found
        return stream

    return run


def info_of(path) -> MediaInfo:
    with open(path, "rb") as file:
        return bsqcodec.Decoder(file).info


def times(path) -> list[Fraction]:
    with av.open(str(path)) as file:
        return [f.pts * f.time_base for f in file.decode(video=0)]


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (15, 17), (1, 100), (300, 2)], ids=str)
def test_sizes(round_trip, decode, tmp_path, size):
    width, height = size
    pictures = moving(3, height, width) if width < 200 else data.astronaut()[None, :2, :300].repeat(3, 0)
    Image.fromarray(np.ascontiguousarray(pictures[0])).save(tmp_path / "a.png")
    round_trip(tmp_path / "a.png", tmp_path / "b.png")
    assert Image.open(tmp_path / "b.png").size == size
    (tmp_path / "in").mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(np.ascontiguousarray(picture)).save(tmp_path / f"in/{i}.png")
    stream = round_trip(tmp_path / "in", tmp_path / "b.y4m")
    for name in ("b.y4m", "b.mkv", "b.mp4"):
        decode(stream, tmp_path / name)
        with av.open(str(tmp_path / name)) as file:
            shapes = [(f.width, f.height) for f in file.decode(video=0)]
        assert shapes == [size] * 3
    round_trip(tmp_path / "b.mkv", tmp_path / "c.mkv", "--low-delay")  # and a video of that size as the source


@pytest.mark.parametrize("tune", TUNES)
@pytest.mark.parametrize("size", [(1, 1), (15, 17), (40, 33)], ids=str)
def test_tunes(round_trip, tmp_path, size, tune):
    """Of a still image, and of a video with B frames and without."""
    width, height = size
    pictures = moving(4, height, width)  # I P B B
    Image.fromarray(np.ascontiguousarray(pictures[0])).save(tmp_path / "a.png")
    (tmp_path / "in").mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(np.ascontiguousarray(picture)).save(tmp_path / f"in/{i}.png")
    for source, target, words in (
        ("a.png", "b.png", ()),
        ("in", "b.y4m", ()),
        ("in", "c.y4m", ("--low-delay",)),
        ("in", "d.y4m", ("--effort", 1, "-q", 20)),
    ):
        round_trip(tmp_path / source, tmp_path / target, "--tune", tune, *words)


def test_one_frame_of_video(round_trip, tmp_path):
    write_video(tmp_path / "a.mp4", moving(1))
    stream = round_trip(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert times(tmp_path / "b.mp4") == [0]
    assert not info_of(stream).image


def test_gray(round_trip, tmp_path):
    Image.fromarray(data.camera()[:33, :47]).save(tmp_path / "a.png")
    round_trip(tmp_path / "a.png", tmp_path / "b.png")
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        video = out.add_stream("ffv1", 25, width=48, height=32, pix_fmt="gray")
        for t in range(3):
            out.mux(video.encode(av.VideoFrame.from_ndarray(data.camera()[t : t + 32, :48].copy(), "gray")))
        out.mux(video.encode(None))
    round_trip(tmp_path / "a.mkv", tmp_path / "b.mkv")


def test_times_that_vary_and_jump(round_trip, tmp_path):
    """In milliseconds: a variable rate, a gap of a day, and a start that is not 0."""
    for start in (0, 12345):
        pts = [start + t for t in (0, 1, 40, 90, 86_400_000, 86_400_040, 86_400_041)]
        write_video(tmp_path / "a.mkv", moving(7), pts)
        target = tmp_path / f"b{start}.mkv"
        round_trip(tmp_path / "a.mkv", target, *(["--low-delay"] if start else []))
        assert [t * 1000 for t in times(target)] == [t - start for t in pts]


def test_times_that_run_back(tmp_path, model, capsys):
    write_video(tmp_path / "a.mkv", moving(6))
    with av.open(str(tmp_path / "a.mkv")) as file, av.open(str(tmp_path / "b.mkv"), "w") as out:
        stream = out.add_stream_from_template(file.streams.video[0])
        for packet in [p for p in file.demux(video=0) if p.size]:
            # the reader sees 0 40 80 20 60 100: the clock was set back
            packet.pts = packet.pts if packet.pts < 100 else packet.pts - 100
            packet.dts, packet.stream = None, stream
            out.mux(packet)
    words = ("--model", model, "--quiet")
    assert exit_status("encode", tmp_path / "b.mkv", tmp_path / "s.bsq", "--low-delay", *words) == 0
    assert "time stamps that do not rise" in capsys.readouterr().err
    assert exit_status("decode", tmp_path / "s.bsq", tmp_path / "c.mkv", *words) == 0
    found = times(tmp_path / "c.mkv")
    assert len(found) == 6 and found == sorted(set(found))


def packets(path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as file:
        return [(p.pts * p.time_base, bytes(p)) for p in file.demux(audio=0) if p.size]


def write_sound_and_picture(path, seconds: float) -> None:
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", 25, width=64, height=48, pix_fmt="yuv420p")
        sound = out.add_stream("aac", rate=48000, layout="mono")
        coded = []
        for picture in moving(5):
            coded += video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24"))
        coded += video.encode(None)
        tone = np.random.default_rng(0).normal(0, 0.1, int(48000 * seconds)).astype(np.float32)[None]
        for n in range(0, tone.shape[1] - 1023, 1024):
            part = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, n : n + 1024]), "fltp", "mono")
            part.sample_rate, part.pts = 48000, n
            coded += sound.encode(part)
        for packet in coded + sound.encode(None):
            out.mux(packet)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_sound_that_is_longer_than_the_pictures(round_trip, tmp_path, suffix):
    write_sound_and_picture(tmp_path / "a.mp4", 20)
    round_trip(tmp_path / "a.mp4", tmp_path / f"b.{suffix}", "--low-delay")
    before, after = packets(tmp_path / "a.mp4"), packets(tmp_path / f"b.{suffix}")
    assert [data for _, data in after] == [data for _, data in before] and after[-1][0] > 19
    assert max(abs(a - b) for (a, _), (b, _) in zip(after, before, strict=True)) < Fraction(1, 500)
    assert len(times(tmp_path / f"b.{suffix}")) == 5


def test_sound_does_not_pile_up_in_memory(tmp_path, model):
    """A group of pictures may last hours, and so may what follows the last one."""
    track = Track("flac", Fraction(1, 1000), 48000, "mono", b"")
    given = [Packet(100 * t, 100, bytes([t]) * (MAX_PENDING // 4)) for t in range(20)]
    seen = []
    with open(tmp_path / "a.bsq", "wb+") as file:
        encoder = bsqcodec.Encoder(file, MediaInfo(16, 16, frame_rate=25, tracks=(track,)), model=str(model))
        encoder.write(np.zeros((16, 16, 3), np.uint8), 0)
        for packet in given[:10]:
            encoder.write_packet(packet)
        encoder.write(np.zeros((16, 16, 3), np.uint8), 1000)
        for packet in given[10:]:
            encoder.write_packet(packet)
        assert encoder.size > 4 * MAX_PENDING
        encoder.close()
        file.seek(0)
        decoder = bsqcodec.Decoder(file, model=str(model))
        decoder.on_packet = seen.append
        assert len(list(decoder.frames())) == 2
    assert seen == given


def test_portrait_by_rotation(round_trip, decode, tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        video = out.add_stream("libx264", 25, width=64, height=48, pix_fmt="yuv420p")
        video.set_display_rotation(-90)
        for picture in moving(3):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
        out.mux(video.encode(None))
    stream = round_trip(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert info_of(stream).rotation == 90
    rotations = []
    for name in ("a.mp4", "b.mp4"):
        with av.open(str(tmp_path / name)) as file:
            frame = next(file.decode(video=0))
            rotations.append((frame.width, frame.height, frame.rotation))
    assert rotations[0] == rotations[1] == (64, 48, -90)
    decode(stream, tmp_path / "b.y4m")  # which has no rotation: the frames are turned
    with av.open(str(tmp_path / "b.y4m")) as file:
        frame = next(file.decode(video=0))
    assert (frame.width, frame.height) == (48, 64)
