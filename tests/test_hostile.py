"""Hostile tracks, metadata and times in streams of strangers: refused in one line, or written as far as they can be."""

import io
import resource
import struct
import time
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import bsqcodec.pillow
from bsqcodec.api import Encoder
from bsqcodec.describe import describe, lines
from bsqcodec.errors import BsqError, FormatError
from bsqcodec.file_decoder import decode_file
from bsqcodec.file_encoder import encode_file
from bsqcodec.media import open_source
from bsqcodec.stream.container import StreamWriter, pack_header
from bsqcodec.stream.fields import varint
from bsqcodec.stream.reader import StreamReader
from bsqcodec.stream.tracks import MAX_ITEMS, MAX_METADATA, MAX_PACKETS, MAX_TRACKS, pack_track
from bsqcodec.types import MediaInfo, Packet, Track
from helpers import INFO, MODEL, checked, stream
from mutations import join, split

CLIP = MediaInfo(20, 16, Fraction(1, 25), Fraction(25))
TEXT = Track("subrip", Fraction(1, 1000), kind="subtitle")
NAME = "a\nb\0\x1b[31m" + "x" * 5000


@pytest.fixture(scope="module")
def write(tiny, tmp_path_factory):
    """A function that writes a stream of frames at given times, and gives its path."""
    folder = tmp_path_factory.mktemp("hostile")

    def write(info: MediaInfo, pts=(0,), packets=(), duration=0):
        path = folder / "in.bsq"
        with open(path, "wb") as file, Encoder(file, info, model=tiny, quality=20) as encoder:
            for t in pts:
                shape = info.frame_format.shape
                encoder.write(np.arange(np.prod(shape)).reshape(shape).astype(np.uint8), t, duration)
            for packet in packets:
                encoder.write_packet(packet)
        return str(path)

    return write


def chunk(kind: bytes, body: bytes) -> bytes:
    return checked(kind + varint(len(body)) + body)


HEAD = pack_header(MODEL, replace(INFO, tracks=()))
TOO_MUCH = {
    "tracks": (chunk(b"t", pack_track(TEXT)) * 10_000, "more than 1000 tracks"),
    "bytes": (chunk(b"m", b"\x01n" + varint(MAX_METADATA) + bytes(MAX_METADATA)), "metadata of 16777222 bytes"),
    "items": (chunk(b"m", b"".join(varint(6) + b"%06d\0" % i for i in range(200_000))), "more than 10000 items"),
    "packets": (chunk(b"t", pack_track(TEXT)) + chunk(b"p", b"\0" + bytes(2_000_000)), "more than 65536 packets"),
    "frames": (chunk(b"G", b"\0" + varint(1 << 24) + b"\0\1" + bytes(1 << 20)), "more than 65535"),
}  # fmt: skip


@pytest.mark.parametrize("what", TOO_MUCH)
def test_too_much_is_refused_before_it_fills_the_memory(what):
    body, message = TOO_MUCH[what]
    data = HEAD + body
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message):
            list(StreamReader(io.BytesIO(data)).chunks())
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data) + (32 << 20)
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 20


def test_writers_write_no_more_than_is_read(tiny):
    for info in (
        replace(CLIP, tracks=(TEXT,) * (MAX_TRACKS + 1)),
        replace(CLIP, metadata={"tag:a": bytes(MAX_METADATA)}),
        replace(CLIP, metadata={f"tag:{i}": b"" for i in range(MAX_ITEMS + 1)}),
    ):
        with pytest.raises(ValueError, match=r"tracks are more|too large"):
            StreamWriter(io.BytesIO(), MODEL, info)
    file = io.BytesIO()
    with Encoder(file, replace(CLIP, tracks=(TEXT,)), model=tiny, quality=20) as encoder:
        encoder.write(np.zeros((16, 20, 3), np.uint8))
        for i in range(MAX_PACKETS + 3):
            encoder.write_packet(Packet(i, 1, b""))
    assert [len(c) for c in StreamReader(io.BytesIO(file.getvalue())).chunks() if isinstance(c, list)] == [
        MAX_PACKETS,
        3,
    ]


def test_packets_of_a_broken_first_track_are_left_out():
    numbers, identity, chunks = split(stream())
    assert chunks[0][0] == b"A"
    chunks[0] = (b"A", b"\0" + chunks[0][1])
    reader = StreamReader(io.BytesIO(join(numbers, identity, chunks)))
    assert not reader.info.tracks
    assert [c for c in reader.chunks(recover=True) if isinstance(c, list) and c] == []


def test_texts_of_strangers_are_escaped_and_cut(write, tiny, tmp_path):
    track = replace(TEXT, title=NAME)
    metadata = {NAME: b"", "tag:" + NAME: NAME.encode(), "chapters": b"x" * 100_000}
    path = write(replace(CLIP, tracks=(track,), metadata=metadata), (0, 1), [Packet(0, 1, b"a"), Packet(0, 1, b"b")])
    result = decode_file(path, str(tmp_path / "out.gif"), model=tiny, device="cpu")
    for line in lines(describe(path)):
        assert line.isprintable() and len(line) < 2100
    assert len(result.warnings) == 2 and all(line.isprintable() and len(line) < 400 for line in result.warnings)


def test_one_line_for_all_times_that_do_not_rise(write, tiny, tmp_path):
    path = write(replace(CLIP, tracks=(TEXT,)), (0, 1), [Packet(100 - i, 1, b"a") for i in range(100)])
    result = decode_file(path, str(tmp_path / "out.mkv"), model=tiny, device="cpu")
    assert result.warnings == ["time stamps of the subtitle track (subrip) that do not rise are moved"]


def with_listed_channels(path):
    """A MOV with sound whose channels are listed one by one, right before left."""
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as output:
        video: Any = output.add_stream("mpeg4", 25)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio: Any = output.add_stream("pcm_s16le", 48000, layout="stereo")
        output.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.int16), "s16", "stereo")
        samples.sample_rate, samples.pts = 48000, 0
        output.mux(audio.encode(samples) + audio.encode(None) + video.encode(None))
    data = bytearray(file.getvalue())
    at = data.rindex(b"chan") - 4
    old = int.from_bytes(data[at : at + 4], "big")
    listed = b"chan" + struct.pack(">4I", 0, 0, 0, 2) + b"".join(struct.pack(">5I", n, 0, 0, 0, 0) for n in (2, 1))
    data[at : at + old] = struct.pack(">I", len(listed) + 4) + listed
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"sowt"):  # which hold it, one in the other
        begin = data.rindex(kind, 0, at) - 4
        size = int.from_bytes(data[begin : begin + 4], "big")
        data[begin : begin + 4] = struct.pack(">I", size + len(listed) + 4 - old)
    path.write_bytes(data)


def test_channels_in_an_order_without_a_name(tiny, tmp_path):
    """PyAV and FFmpeg both free the list of such channels: a process that lets them is killed."""
    with_listed_channels(tmp_path / "in.mov")
    assert encode_file(str(tmp_path / "in.mov"), str(tmp_path / "in.bsq"), model=tiny).info.tracks[0].layout == (
        "2 channels (FR+FL)"
    )
    result = decode_file(str(tmp_path / "in.bsq"), str(tmp_path / "out.mov"), model=tiny, device="cpu")
    assert result.warnings == [
        "the order of channels of the audio track (pcm_s16le) is left out, which this output cannot hold"
    ]
    with av.open(str(tmp_path / "out.mov")) as output:
        assert output.streams.audio[0].codec_context.sample_rate == 48000


@pytest.mark.parametrize("name", ["o.mkv", "o.mov", "o.mp4", "o.y4m", "o.gif", "o.webp", "o.apng", "o.avif", "o/"])
def test_no_output_is_left_where_the_disc_is_full(write, tiny, tmp_path, name):
    """Files of more than 500 bytes cannot be written, as where a disc is full."""
    path = write(replace(CLIP, alpha=True), (0, 1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 if name == "o/" else 500, limits[1]))
    try:
        with pytest.raises(BsqError, match="File too large"):
            decode_file(path, f"{tmp_path}/{name}", model=tiny, device="cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(1, 65536), (65536, 1), (8193, 8192)])
def test_images_that_are_too_large(tmp_path, size):
    Image.new("P", size).save(tmp_path / "in.png")
    with pytest.raises(BsqError, match=f"frames of {size[0]}x{size[1]} pixels are not supported"):
        open_source(str(tmp_path / "in.png"))


def test_animations_that_last_for_months(tmp_path, monkeypatch):
    """Their frame rate has more than 31 bits; Pillow writes none."""
    monkeypatch.setattr("bsqcodec.media.images._durations", lambda *_: ([(1 << 24) - 1] * 151, False))
    Image.new("RGB", (8, 8)).save(tmp_path / "in.webp")
    with open_source(str(tmp_path / "in.webp")) as source:
        pack_header(MODEL, source.info)


@pytest.mark.parametrize("loop", [b"9" * 5000, b"-1", b"nan", b"", b"4294967296"])
def test_loop_counts_that_are_none(write, tiny, tmp_path, monkeypatch, loop):
    path = write(replace(CLIP, metadata={"loop": loop, "exif": b"no EXIF"}), (0, 1))
    assert decode_file(path, str(tmp_path / "out.gif"), model=tiny, device="cpu").frames == 2
    monkeypatch.setattr(bsqcodec.pillow, "MODEL", tiny)
    with Image.open(path) as image:
        assert "loop" not in image.info and not image.getexif()
