"""Reading and writing of pictures, videos and sound."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from bsqcodec.errors import BsqError
from bsqcodec.media import colour, open_sink, open_source
from bsqcodec.types import AudioPacket, AudioTrack, Frame, MediaInfo

INFO = MediaInfo(48, 32, Fraction(1, 25), Fraction(25), (1, 1))


def pictures(count: int = 6, width: int = 48, height: int = 32) -> list[np.ndarray]:
    """Smooth, saturated colours that move, with a white corner that shows how the picture lies."""
    x, y = np.arange(width)[None], np.arange(height)[:, None]
    result = []
    for i in range(count):
        waves = [np.sin((x + 3 * i) / 9 + c) * np.cos(y / 7 - c) + 0 * x for c in range(3)]
        rgb = np.stack([128 + 110 * w for w in waves], 2)
        rgb[: height // 4, : width // 4] = 255
        result.append(rgb.astype(np.uint8))
    return result


def write(path: Path | str, frames: list[np.ndarray], info: MediaInfo = INFO, times=None, audio=(), **options) -> None:
    info = replace(info, width=frames[0].shape[1], height=frames[0].shape[0])
    with open_sink(str(path), info, **options) as sink:
        for packet in audio:
            sink.write_audio(packet)
        for i, frame in enumerate(frames):
            sink.write(frame, times[i] if times else i)


def read(path: Path | str, **options) -> tuple[MediaInfo, list[Frame], list[AudioPacket]]:
    with open_source(str(path), **options) as source:
        items = list(source)
    frames = [i for i in items if isinstance(i, Frame)]
    return source.info, frames, [i for i in items if isinstance(i, AudioPacket)]


def error(difference) -> float:
    return float(np.abs(difference.astype(float)).mean())


def sound(codec: str = "aac", container: str = "mp4", seconds: float = 0.5) -> tuple[AudioTrack, list[AudioPacket]]:
    """A sine, encoded by FFmpeg, as it is read back from its file."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, 48000)
        stream.codec_context.options = {"strict": "experimental"}
        stream.layout = "stereo"
        sine = 0.3 * np.sin(np.arange(int(48000 * seconds)) / 20)
        frame = av.AudioFrame.from_ndarray(np.stack([sine, -sine]).astype(np.float32), "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        output.mux(stream.encode(frame) + stream.encode(None))
    buffer.seek(0)
    with av.open(buffer) as source:
        stream = source.streams.audio[0]
        context = stream.codec_context
        track = AudioTrack(
            context.codec.canonical_name, stream.time_base, 48000, "stereo", bytes(context.extradata or b"")
        )
        return track, [AudioPacket(p.pts, p.duration, bytes(p)) for p in source.demux(stream) if p.size]


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("size", [(48, 32), (47, 33)])
def test_video_round_trip(tmp_path, suffix, size):
    frames = pictures(6, *size)
    write(tmp_path / f"a.{suffix}", frames)
    info, found, _ = read(tmp_path / f"a.{suffix}")
    assert (info.width, info.height, info.image, info.audio) == (*size, False, None)
    assert info.frame_rate == 25 and (info.primaries, info.transfer, info.matrix, info.color_range) == (1, 1, 1, 1)
    assert [f.pts * info.time_base for f in found] == [Fraction(i, 25) for i in range(6)]
    assert error(np.stack([f.rgb for f in found]) - np.stack(frames).astype(int)) < 3
    assert os.listdir(tmp_path) == [f"a.{suffix}"]
    with av.open(str(tmp_path / f"a.{suffix}")) as file:
        assert file.streams.video[0].pix_fmt == ("yuv420p" if size == (48, 32) else "yuv444p")
    with open_source(str(tmp_path / f"a.{suffix}")) as source:
        assert source.total == 6 and not source.warnings


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_times_shape_rotation_and_colours_are_kept(tmp_path, suffix, rotation):
    tags = dict(primaries=5, transfer=6, matrix=5, color_range=2)
    given = replace(INFO, time_base=Fraction(1, 1000), sample_aspect_ratio=(4, 3), rotation=rotation, **tags)
    frames, times = pictures(), [0, 40, 73, 130, 171, 500]
    write(tmp_path / f"a.{suffix}", frames, given, times)
    info, found, _ = read(tmp_path / f"a.{suffix}")
    assert [f.pts * info.time_base for f in found] == [Fraction(t, 1000) for t in times]
    assert (info.sample_aspect_ratio, info.rotation) == ((4, 3), rotation)
    assert (info.primaries, info.transfer, info.color_range) == (5, 6, 2) and info.matrix in (5, 6)
    assert error(found[0].rgb - frames[0].astype(int)) < 3


def test_mirrored_video_is_turned_over(tmp_path):
    [picture] = pictures(1)
    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        stream = output.add_stream("libx264", 25, width=48, height=32)
        stream.set_display_rotation(-90, hflip=True)
        output.mux(stream.encode(colour.to_yuv(picture, "yuv420p")) + stream.encode(None))
    info, [frame], _ = read(tmp_path / "a.mp4")
    assert info.rotation in (90, 270)
    shown = np.rot90(frame.rgb, -info.rotation // 90)
    assert error(shown - np.rot90(picture, -1)[:, ::-1].astype(int)) < 8


@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9])
def test_matrix_is_honoured(tmp_path, matrix):
    """What FFmpeg itself makes of the file by its tags is the picture."""
    frames = pictures(1, 47, 33)  # 4:4:4, where the colours come back almost exactly
    write(tmp_path / "a.mkv", frames, replace(INFO, matrix=matrix, color_range=1), crf=1)
    with av.open(str(tmp_path / "a.mkv")) as file:
        frame = next(file.decode(video=0))
    assert frame.colorspace == matrix
    assert error(colour.to_rgb(frame, matrix) - frames[0].astype(int)) < 2
    assert error(read(tmp_path / "a.mkv")[1][0].rgb - frames[0].astype(int)) < 2


def test_untagged_video_is_taken_as_players_do(tmp_path):
    assert colour.assumed_matrix(720, 576) == 6 and colour.assumed_matrix(1280, 720) == 1
    frames = pictures(1)
    write(tmp_path / "a.y4m", frames)
    with av.open(str(tmp_path / "a.y4m")) as file:
        frame = next(file.decode(video=0))
    assert frame.format.name == "yuv444p" and error(colour.to_rgb(frame, 6) - frames[0].astype(int)) < 1


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_still_image(tmp_path, name, rotation):
    [picture] = pictures(1, 47, 33)
    write(tmp_path / name, [picture], replace(INFO, rotation=rotation))
    info, found, _ = read(tmp_path / name)
    assert info.image and info.frame_rate is None and info.rotation == rotation and info.matrix == 0
    assert (info.width, info.height, len(found), found[0].pts) == (47, 33, 1, 0)
    assert error(found[0].rgb - picture.astype(int)) < (4 if rotation or name != "a.png" else 0.1)
    with open_sink(str(tmp_path / "b.png"), info) as sink, pytest.raises(BsqError, match="folder"):
        sink.write(picture, 0)
        sink.write(picture, 1)


def test_mirrored_images_are_turned_over(tmp_path):
    [picture] = pictures(1)
    exif = Image.Exif()
    exif[0x0112] = 2
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    info, [frame], _ = read(tmp_path / "a.png")
    assert info.rotation == 0 and np.array_equal(frame.rgb, picture[:, ::-1])


def test_images_of_16_bits_are_reduced(tmp_path):
    gray = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1390
    Image.fromarray(gray).save(tmp_path / "a.png")
    with open_source(str(tmp_path / "a.png")) as source:
        assert "reduced to 8 bits" in source.warnings[0]
        [frame] = source
    assert np.abs(frame.rgb[..., 0] - gray / 257).max() <= 0.5


def test_folder_and_pattern(tmp_path):
    frames = pictures(12)
    (tmp_path / "in").mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "in" / f"frame{i}.png")
    (tmp_path / "in" / "notes.txt").write_text("not a frame")
    for path in (tmp_path / "in", tmp_path / "in" / "*.png"):
        info, found, _ = read(path)
        assert info.frame_rate == 25 and not info.image
        assert [f.pts * info.time_base for f in found] == [Fraction(i, 25) for i in range(12)]
        assert all(np.array_equal(f.rgb, g) for f, g in zip(found, frames))
    found = read(tmp_path / "in", start=0.2, duration=0.1)[1]
    assert len(found) == 3 and found[0].pts == 0 and np.array_equal(found[0].rgb, frames[5])

    write(f"{tmp_path}/out/", frames[:3])
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    assert sorted(os.listdir(tmp_path / "out")) == ["000000.png", "000001.png", "000002.png"]
    assert all(np.array_equal(f.rgb, g) for f, g in zip(read(tmp_path / "out")[1], frames))
    with pytest.raises(BsqError, match="empty folder"):
        write(tmp_path / "out", frames)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", frames[:1], replace(INFO, rotation=90))
    assert np.array_equal(read(tmp_path / "empty")[1][0].rgb, np.rot90(frames[0], -1))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animation(tmp_path, suffix):
    frames, durations = pictures(4), [40, 80, 40, 100]
    first, *rest = [Image.fromarray(f) for f in frames]
    lossless = {"lossless": True} if suffix == "webp" else {}
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=rest, duration=durations, **lossless)
    info, found, _ = read(tmp_path / f"a.{suffix}")
    assert not info.image and info.frame_rate == Fraction(4000, 260)
    assert [f.pts * info.time_base for f in found] == [Fraction(t, 1000) for t in (0, 40, 120, 160)]
    assert all(error(f.rgb - g.astype(int)) < 8 for f, g in zip(found, frames))


# ---------------------------------------------------------------- y4m and pipes


def test_y4m_through_pipes(tmp_path):
    """Standard input to standard output in a process of its own, and what it says of a stream that is cut off."""
    frames = pictures(5, 47, 33)
    write(tmp_path / "a.y4m", frames, replace(INFO, sample_aspect_ratio=(4, 3), frame_rate=Fraction(30000, 1001)))
    code = """if True:
        from bsqcodec.errors import BsqError
        from bsqcodec.media import open_sink, open_source
        try:
            with open_source("-") as source, open_sink("-", source.info) as sink:
                for frame in source:
                    sink.write(*frame)
        except BsqError as error:
            raise SystemExit(str(error))
    """
    data = (tmp_path / "a.y4m").read_bytes()
    result = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True)
    assert result.returncode == 0, result.stderr
    (tmp_path / "b.y4m").write_bytes(result.stdout)
    info, found, _ = read(tmp_path / "b.y4m")
    assert (info.frame_rate, info.sample_aspect_ratio) == (Fraction(30000, 1001), (4, 3)) and len(found) == 5
    assert all(error(f.rgb - g.astype(int)) < 1.5 for f, g in zip(found, frames))
    result = subprocess.run([sys.executable, "-c", code], input=data[:-100], capture_output=True, text=False)
    assert result.returncode == 1 and b"standard input is cut off at frame 4" in result.stderr
    assert result.stdout.count(b"FRAME\n") == 4


def test_closed_pipe(monkeypatch):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe))
        with pytest.raises(BrokenPipeError), open_sink("-", INFO) as sink:
            sink.write(pictures(1)[0], 0)


def test_standard_input_may_be_anything_with_a_buffer(monkeypatch, tmp_path):
    write(tmp_path / "a.y4m", pictures(5))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "a.y4m").read_bytes())))
    assert len(read("-", start=0.08)[1]) == 3
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"nothing of that kind")))
    with pytest.raises(BsqError, match="standard input is not a y4m stream"):
        open_source("-")


# ---------------------------------------------------------------- audio and cuts


@pytest.mark.parametrize(
    "codec, container, outputs",
    [
        ("aac", "mp4", "mp4 mkv mov"),
        ("libmp3lame", "mp4", "mp4 mkv mov"),
        ("libopus", "mp4", "mp4 mkv"),
        ("vorbis", "matroska", "mp4 mkv"),
        ("flac", "matroska", "mp4 mkv"),
        ("pcm_s16le", "mov", "mp4 mkv mov"),
        ("ac3", "mp4", "mp4 mkv mov"),
    ],
)
def test_audio_is_copied_bit_for_bit(tmp_path, codec, container, outputs):
    track, packets = sound(codec, container)
    for suffix in outputs.split():
        path = tmp_path / f"a.{suffix}"
        write(path, pictures(12), replace(INFO, audio=track), audio=packets)
        info, frames, found = read(path)
        assert len(frames) == 12 and info.audio
        assert [p.data for p in found] == [p.data for p in packets]
        assert (info.audio.codec, info.audio.sample_rate, info.audio.layout) == (track.codec, 48000, "stereo")
        assert info.audio.extradata == track.extradata
        late = [b.pts * info.audio.time_base - a.pts * track.time_base for a, b in zip(packets, found)]
        assert max(map(abs, late)) <= Fraction(1, 1000)
        with av.open(str(path)) as file:
            assert abs(sum(f.samples for f in file.decode(audio=0)) - 24000) < 3000
        assert read(path, audio=False)[0].audio is None
    refused = {"mp4", "mkv", "mov"} - set(outputs.split())
    for suffix in refused:
        with pytest.raises(BsqError, match="cannot hold .* audio .*; try .mkv"):
            open_sink(str(tmp_path / f"b.{suffix}"), replace(INFO, audio=track))
        assert not list(tmp_path.glob("*b.*"))


def test_cut(tmp_path):
    """Frames and audio are cut to the same second and moved together."""
    track, packets = sound(seconds=2)
    frames = pictures(50)
    write(tmp_path / "a.mp4", frames, replace(INFO, audio=track), audio=packets)
    info, found, audio = read(tmp_path / "a.mp4", start=0.6, duration=1)
    assert [f.pts * info.time_base for f in found] == [Fraction(i, 25) for i in range(25)]
    assert error(found[0].rgb - frames[15].astype(int)) < 3
    times = [p.pts * track.time_base for p in audio]
    assert -Fraction(1024, 48000) < times[0] <= 0 and 1 - Fraction(1024, 48000) <= times[-1] < 1
    first = next(i for i, p in enumerate(packets) if p.data == audio[0].data)
    assert packets[first].pts * track.time_base - times[0] == Fraction(3, 5)
    assert len(read(tmp_path / "a.mp4", start=1.9)[1]) == 2
    with pytest.raises(BsqError, match="no frame in the time"):
        open_source(str(tmp_path / "a.mp4"), start=5)


def test_outputs_without_sound_say_so(tmp_path):
    track, packets = sound()
    with open_sink(str(tmp_path / "a.y4m"), replace(INFO, audio=track)) as sink:
        assert "audio" in sink.warnings[0]
        sink.write(pictures(1)[0], 0)
        sink.write_audio(packets[0])


def test_first_frame_is_time_zero(tmp_path):
    track, packets = sound()
    path = tmp_path / "a.mkv"
    write(path, pictures(3), replace(INFO, audio=track), times=[5, 6, 9], audio=packets)
    info, frames, audio = read(path)
    assert [f.pts * info.time_base for f in frames] == [0, Fraction(1, 25), Fraction(4, 25)]
    assert abs(audio[1].pts * info.audio.time_base + Fraction(1, 5)) <= Fraction(1, 1000)


# ---------------------------------------------------------------- what is refused


def encode(path: Path, codec: str, pixel_format: str, frames: int = 3, width: int = 48, **tags) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, 25)
        stream.width, stream.height, stream.pix_fmt = width, 32, pixel_format
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for picture in pictures(frames, width):
            rgba = np.dstack([picture, np.full(picture.shape[:2], 200, np.uint8)])
            frame = av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format=pixel_format)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def test_transparency_is_refused(tmp_path):
    rgba = np.dstack([pictures(1)[0], np.full((32, 48), 255, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "opaque.png")
    assert np.array_equal(read(tmp_path / "opaque.png")[1][0].rgb, rgba[..., :3])
    rgba[3, 3, 3] = 254
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with pytest.raises(BsqError, match="transparent"):
        read(tmp_path / "a.png")
    encode(tmp_path / "a.mkv", "ffv1", "bgra")
    encode(tmp_path / "b.mkv", "ffv1", "yuva420p")
    for name in ("a.mkv", "b.mkv"):
        with pytest.raises(BsqError, match="transparent"):
            read(tmp_path / name)


def test_hdr_is_refused_and_deep_sdr_reduced(tmp_path):
    encode(tmp_path / "a.mkv", "ffv1", "yuv420p10le")
    with open_source(str(tmp_path / "a.mkv")) as source:
        assert "reduced to 8 bits" in source.warnings[0]
        assert len(list(source)) == 3
    for transfer, name in ((16, "PQ"), (18, "HLG")):
        encode(tmp_path / "a.mkv", "ffv1", "yuv420p10le", color_trc=transfer, colorspace=9, color_primaries=9)
        with pytest.raises(BsqError, match=f"HDR .{name}."):
            open_source(str(tmp_path / "a.mkv"))


def test_more_tracks_are_left_out(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        video = output.add_stream("libx264", 25, width=48, height=32)
        sounds = [output.add_stream("pcm_s16le", 8000, layout="mono") for _ in range(2)]
        for i, picture in enumerate(pictures(3)):
            frame = colour.to_yuv(picture, "yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            output.mux(video.encode(frame))
        for stream in sounds:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
            frame.sample_rate = 8000
            output.mux(stream.encode(frame))
        output.mux(video.encode(None))
    with open_source(str(tmp_path / "a.mkv")) as source:
        assert source.warnings == ["1 audio track is left out"]


def test_bad_input(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.mp4").write_bytes(b"")
    (tmp_path / "junk.mp4").write_bytes(b"no media " * 500)
    (tmp_path / "junk.png").write_bytes(b"no image " * 500)
    (tmp_path / "text.txt").write_text("plain text\n" * 50)
    track, packets = sound()
    with av.open(str(tmp_path / "sound.wav"), "w") as output:
        stream = output.add_stream("pcm_s16le", 48000)
        stream.layout = "stereo"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2000), np.int16), "s16", "stereo")
        frame.sample_rate = 48000
        output.mux(stream.encode(frame))
    for name, message in {
        "missing.mp4": "no such file",
        "*.jpg": "no file matches",
        "empty": "no images",
        "none.mp4": "not a media file",
        "junk.mp4": "not a media file",
        "junk.png": "not an image",
        "text.txt": "no video stream",
        "sound.wav": "no video stream",
    }.items():
        with pytest.raises(BsqError, match=message) as caught:
            open_source(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_sizes_must_agree(tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "0.png")
    Image.fromarray(pictures(1, 40)[0]).save(tmp_path / "1.png")
    with pytest.raises(BsqError, match="1.png is 40x32, not 48x32"):
        read(tmp_path)
    for name, width in (("a.h264", 48), ("b.h264", 64)):
        encode(tmp_path / name, "libx264", "yuv420p", 5, width=width)
    (tmp_path / "c.h264").write_bytes((tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes())
    assert len(read(tmp_path / "a.h264")[1]) == 5
    with pytest.raises(BsqError, match="size changes from 48x32 to 64x32 at frame 5"):
        read(tmp_path / "c.h264")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.y4m", "a.gif", "a.png"])
def test_truncated_and_broken_files(tmp_path, name):
    path = tmp_path / name
    frames = pictures(30, 96, 64)
    if path.suffix in (".gif", ".png"):
        first, *rest = [Image.fromarray(f) for f in frames]
        first.save(path, save_all=True, append_images=rest)
    else:
        write(path, frames)
    assert len(read(path)[1]) == 30
    data = path.read_bytes()
    for size in (100, len(data) // 2, len(data) - 500):
        path.write_bytes(data[:size])
        with pytest.raises(BsqError, match="broken|cut off|not a media file") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    if path.suffix in (".mp4", ".mkv"):
        for part in (4, 3, 2):
            middle = len(data) // part
            path.write_bytes(data[:middle] + bytes(1500) + data[middle + 1500 :])
            with pytest.raises(BsqError, match="at frame [0-9]"):
                read(path)


def test_mp4_that_ends_between_frames(tmp_path):
    """With the index first, a file that lost its last frames still opens."""
    write(tmp_path / "a.mp4", pictures(12))
    with (
        av.open(str(tmp_path / "a.mp4")) as source,
        av.open(str(tmp_path / "b.mp4"), "w", options={"movflags": "faststart"}) as output,
    ):
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    with av.open(str(tmp_path / "b.mp4")) as file:
        end = max(p.pos for p in file.demux(video=0) if p.size)
    (tmp_path / "b.mp4").write_bytes((tmp_path / "b.mp4").read_bytes()[:end])
    with pytest.raises(BsqError, match="cut off at frame"):
        read(tmp_path / "b.mp4")


# ---------------------------------------------------------------- output errors


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.y4m", "a.png", "a.jpg", "a/"])
def test_nothing_is_left_on_error(tmp_path, name):
    path = tmp_path / name
    if not name.endswith("/"):
        path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt), open_sink(f"{tmp_path}/{name}", INFO) as sink:
        sink.write(pictures(1)[0], 0)
        raise KeyboardInterrupt
    with pytest.raises(BsqError, match="no frame"), open_sink(f"{tmp_path}/{name}", INFO):
        pass
    assert os.listdir(tmp_path) == ([] if name.endswith("/") else [name])
    assert name.endswith("/") or path.read_bytes() == b"older"


def test_bad_output(tmp_path):
    with pytest.raises(BsqError, match=r"\.mp4, \.mkv"):
        open_sink(str(tmp_path / "a.xyz"), INFO)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BsqError, match="not an empty folder"):
        open_sink(f"{tmp_path}/file/", INFO)
    for name in ("a.mp4", "a.y4m", "a.png", "a/"):
        with pytest.raises(BsqError, match="does not exist"):
            open_sink(f"{tmp_path}/missing/{name}", INFO)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.y4m", "a.mkv"])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk(tmp_path, name):
    os.symlink("/dev/full", tmp_path / name)
    with pytest.raises(BsqError, match="No space left") as caught:
        write(tmp_path / name, pictures(2 if name.endswith(("y4m", "mkv")) else 1))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == [name] and os.path.exists("/dev/full")


def test_special_files_are_written_in_place(tmp_path):
    write("/dev/null", pictures(2))
    assert not os.path.isfile("/dev/null")
    os.mkfifo(tmp_path / "a.y4m")
    with subprocess.Popen(["cat", str(tmp_path / "a.y4m")], stdout=subprocess.PIPE) as reader:
        write(tmp_path / "a.y4m", pictures(2))
        assert reader.communicate()[0].startswith(b"YUV4MPEG2 W48 H32 F25:1 ")
    os.symlink(tmp_path / "a.y4m", tmp_path / "a.mp4")
    with pytest.raises(BsqError, match="pipe"):
        open_sink(str(tmp_path / "a.mp4"), INFO)
