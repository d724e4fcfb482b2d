"""The container: every field comes back, every flipped bit is found, nothing hostile is believed."""

import io
import struct
import zlib
from dataclasses import replace
from fractions import Fraction

import pytest

from bsqcodec.errors import FormatError
from bsqcodec.info import AudioPacket, AudioTrack, MediaInfo
from bsqcodec.stream import Fields, Gop, StreamReader, StreamWriter, pack_header, signed, varint

MODEL = bytes(range(8))
TRACK = AudioTrack("aac", Fraction(1, 48000), 48000, "stereo", b"\x11\x90")
INFO = MediaInfo(
    *(417, 233, Fraction(1, 90000), Fraction(30000, 1001), (4, 3), 270, 9, 1, 6, 1),
    audio=TRACK,
)
PACKETS = [AudioPacket(-1024, 1024, b"one"), AudioPacket(0, 1024, b""), AudioPacket(2000, 1, b"three")]
GOPS = [((-5, 3003, 6006), b"payload"), ((6010,), b""), ((9000, 9001, 9500), b"x" * 300)]


def stream(info=INFO, gops=GOPS):
    file = io.BytesIO()
    writer = StreamWriter(file, MODEL, info)
    for pts, payload in gops:
        writer.gop(list(pts), payload)
        if info.audio:
            writer.audio(PACKETS)
    writer.close()
    assert writer.size == len(file.getvalue())
    return file.getvalue()


class Pipe(io.RawIOBase):
    """Gives its bytes once."""

    def __init__(self, data):
        self.inner = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        data = self.inner.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize("make", [io.BytesIO, lambda data: io.BufferedReader(Pipe(data))])
def test_round_trip(make):
    reader = StreamReader(make(stream()))
    assert (reader.model, reader.info) == (MODEL, INFO)
    chunks = list(reader.chunks())
    gops = [c for c in chunks if isinstance(c, Gop)]
    assert [(g.pts, g.payload) for g in gops] == GOPS
    assert [g.first for g in gops] == [0, 3, 4]
    assert [c for c in chunks if not isinstance(c, Gop)] == [PACKETS] * 3
    assert reader.frames == 7


def test_still_image_header_is_short():
    data = stream(MediaInfo(768, 512), [((0,), b"p" * 1000)])
    assert len(data) - 1000 <= 62
    reader = StreamReader(io.BytesIO(data))
    assert reader.info == MediaInfo(768, 512) and reader.info.image


@pytest.mark.parametrize("aspect", [(0, 0), (4, 0), (0, 3)])
def test_an_aspect_with_a_zero_is_unknown(aspect):
    data = stream(MediaInfo(8, 8, sample_aspect_ratio=aspect), [((0,), b"p")])
    assert StreamReader(io.BytesIO(data)).info.sample_aspect_ratio == (0, 1)


def test_index_leads_to_every_group():
    data = stream()
    reader = StreamReader(io.BytesIO(data))
    index = reader.index()
    assert [entry.first for entry in index] == [0, 3, 4] and reader.frames == 7
    for entry, (pts, payload) in reversed(list(zip(index, GOPS))):
        reader.seek(entry)
        gop = next(reader.chunks())
        assert (gop.pts, gop.payload, gop.offset) == (pts, payload, entry.offset)


def read_all(data):
    reader = StreamReader(io.BytesIO(data))
    chunks = list(reader.chunks())
    reader.index()
    return chunks


def test_every_flipped_bit_is_found():
    data = stream(gops=GOPS[:2])
    read_all(data)
    for i in range(8 * len(data)):
        bad = bytearray(data)
        bad[i // 8] ^= 1 << i % 8
        with pytest.raises(FormatError):
            read_all(bytes(bad))


def test_every_cut_keeps_the_groups_before_it():
    data = stream()
    offsets = [entry.offset for entry in StreamReader(io.BytesIO(data)).index()]
    for n in range(len(data)):
        complete = 0
        with pytest.raises(FormatError):
            for chunk in StreamReader(io.BytesIO(data[:n])).chunks():
                complete += isinstance(chunk, Gop)
        # the chunk of group i ends before the audio chunk after it begins, so it is whole before the next group
        assert complete >= sum(o < n for o in offsets[1:])


def checked(head):
    return head + struct.pack("<I", zlib.crc32(head))


def test_a_newer_version_is_named():
    data = bytearray(stream())
    data[4] = 7
    with pytest.raises(FormatError, match="version 7; this program reads versions 1 to 3"):
        StreamReader(io.BytesIO(bytes(data)))


@pytest.mark.parametrize("data", [b"", b"BSQ", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000)])
def test_other_files_are_refused(data):
    with pytest.raises(FormatError, match="not a .bsq stream"):
        StreamReader(io.BytesIO(data))


@pytest.mark.parametrize(
    "body",
    [
        b"G" + varint(1 << 40),  # a chunk that claims a terabyte
        b"G" + b"\xff" * 9,
        checked(b"G" + varint(3) + varint(0) + varint(1 << 40)[:2]),
        checked(b"G" + varint(9) + varint(0) + varint(5) + varint(0) + varint(0) + bytes(5)),  # times that stand still
        checked(b"G" + varint(3) + varint(0) + varint(0) + varint(0)),  # no frames
        checked(b"Z" + varint(0)),
        checked(b"P" + varint(3) + b"\0\0\7"),
        checked(b"E" + varint(2) + varint(99) + varint(0)),  # frames that are not there
        checked(b"E" + varint(2) + varint(0) + varint(0)) + b"",
    ],
)
def test_hostile_chunks_are_refused(body):
    head = pack_header(MODEL, replace(INFO, audio=None))
    with pytest.raises(FormatError):
        read_all(head + body)


def test_headers_are_bounded():
    for width, height in ((0, 5), (65536, 1), (65535, 65535)):
        with pytest.raises(ValueError, match="not supported"):
            pack_header(MODEL, MediaInfo(width, height))
    numbers = [65535, 65535, 1, 25, 25, 1, 1, 1, 0, 2, 2, 2, 0]
    for i, bad in ((None, None), (0, 0), (2, 0), (3, 0), (8, 4), (12, 3), (0, 1 << 40)):
        values = list(numbers)
        if i is not None:
            values[:2], values[i] = [64, 64], bad
        body = MODEL + b"".join(map(varint, values))
        with pytest.raises(FormatError):
            StreamReader(io.BytesIO(checked(b"BSQ\x1a\x01" + bytes([len(body)]) + body)))


def test_integers():
    for n in (0, 1, 127, 128, 300, (1 << 63) - 1):
        assert Fields(varint(n)).varint() == n
    for n in (0, -1, 1, -64, 64, 1 << 61, -(1 << 61)):
        assert Fields(signed(n)).signed() == n
    with pytest.raises(FormatError):
        Fields(b"\xff" * 10).varint()
    with pytest.raises(ValueError):
        varint(-1)
