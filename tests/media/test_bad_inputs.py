"""Inputs that are missing, broken, cut off or not supported are refused in one line."""

import av
import numpy as np
import pytest
from PIL import Image

from bsqcodec.errors import BsqError
from bsqcodec.media import open_source
from helpers import encode_by_ffmpeg, read_media, waves, write_media


def test_bad_input(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.mp4").write_bytes(b"")
    (tmp_path / "junk.mp4").write_bytes(b"no media " * 500)
    (tmp_path / "junk.png").write_bytes(b"no image " * 500)
    (tmp_path / "text.txt").write_text("plain text\n" * 50)
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
    Image.fromarray(waves(1)[0]).save(tmp_path / "0.png")
    Image.fromarray(waves(1, 40)[0]).save(tmp_path / "1.png")
    with pytest.raises(BsqError, match=r"1\.png is 40x32, not 48x32"):
        read_media(tmp_path)
    for name, width in (("a.h264", 48), ("b.h264", 64)):
        encode_by_ffmpeg(tmp_path / name, "libx264", "yuv420p", 5, width=width)
    (tmp_path / "c.h264").write_bytes((tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes())
    assert len(read_media(tmp_path / "a.h264")[1]) == 5
    with pytest.raises(BsqError, match="size changes from 48x32 to 64x32 at frame 5"):
        read_media(tmp_path / "c.h264")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.y4m", "a.gif", "a.png"])
def test_truncated_and_broken_files(tmp_path, name):
    path = tmp_path / name
    frames = waves(30, 96, 64)
    if path.suffix in (".gif", ".png"):
        first, *rest = [Image.fromarray(f) for f in frames]
        first.save(path, save_all=True, append_images=rest)
    else:
        write_media(path, frames)
    assert len(read_media(path)[1]) == 30
    data = path.read_bytes()
    for size in (100, len(data) // 2, len(data) - 500):
        path.write_bytes(data[:size])
        with pytest.raises(BsqError, match=r"broken|cut off|not a media file") as caught:
            read_media(path)
        assert "\n" not in str(caught.value)
    if path.suffix in (".mp4", ".mkv"):
        for part in (4, 3, 2):
            middle = len(data) // part
            path.write_bytes(data[:middle] + bytes(1500) + data[middle + 1500 :])
            with pytest.raises(BsqError, match=r"at frame [0-9]"):
                read_media(path)


def test_mp4_that_ends_between_frames(tmp_path):
    """With the index first, a file that lost its last frames still opens."""
    write_media(tmp_path / "a.mp4", waves(12))
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
        read_media(tmp_path / "b.mp4")


def test_a_stream_entered_midway_begins_with_its_first_key_frame(tmp_path):
    """As a recording of a broadcast does. Frames whose references are missing are left out, and that is told."""
    with av.open(str(tmp_path / "whole.mp4"), "w") as output:
        stream = output.add_stream("libx264", 25, width=96, height=64, pix_fmt="yuv420p", options={"g": "20"})
        for picture in waves(40, 96, 64):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        output.mux(stream.encode(None))
    for name, kept in (("a.ts", slice(10, None)), ("b.ts", slice(10, 15))):
        with av.open(str(tmp_path / "whole.mp4")) as source, av.open(str(tmp_path / name), "w") as output:
            stream = output.add_stream_from_template(source.streams.video[0])
            for packet in [p for p in source.demux(video=0) if p.size][kept]:
                packet.stream = stream
                output.mux(packet)
    with open_source(str(tmp_path / "a.ts")) as source:
        assert len(list(source)) == 20
        assert source.warnings == ["what comes before the first whole frame is left out"]
    with pytest.raises(BsqError, match=r"b\.ts"):
        read_media(tmp_path / "b.ts")
