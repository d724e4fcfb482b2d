"""The container: every field comes back, every flipped bit is found, nothing hostile is believed."""

import io
import struct
import zlib
from dataclasses import replace
from fractions import Fraction

import pytest

from bsqcodec.errors import FormatError
from bsqcodec.stream.container import VERSION, Gop, StreamWriter, pack_header
from bsqcodec.stream.fields import Fields, signed, varint
from bsqcodec.stream.reader import StreamReader
from bsqcodec.stream.recovery import MAX_ANCILLARY, Lost
from bsqcodec.types import MediaInfo, Packet, Track
from helpers import GOPS, INFO, MODEL, PACKETS, TRACK, Pipe, checked, stream, with_fields
from mutations import split

MAKERS = [io.BytesIO, lambda data: io.BufferedReader(Pipe(data))]
ANCILLARY = [(b"a", b""), (b"z", b"body"), (b"g", stream())]  # the last holds chunks of its own


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
    assert len(data) - 1000 <= 61
    reader = StreamReader(io.BytesIO(data))
    assert reader.info == MediaInfo(768, 512) and reader.info.image


@pytest.mark.parametrize("aspect", [(0, 0), (4, 0), (0, 3)])
def test_an_aspect_with_a_zero_is_unknown(aspect):
    data = stream(MediaInfo(8, 8, sample_aspect_ratio=aspect), [((0,), b"p")])
    assert StreamReader(io.BytesIO(data)).info.sample_aspect_ratio == (0, 1)


@pytest.mark.parametrize("other", [(), ANCILLARY], ids=["plain", "past ancillary chunks"])
def test_index_leads_to_every_group(other):
    reader = StreamReader(io.BytesIO(stream(other=other)))
    index = reader.index()
    assert [entry.first for entry in index] == [0, 3, 4] and reader.frames == 7
    for entry, (pts, payload) in reversed(list(zip(index, GOPS, strict=True))):
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
        chunks = []
        with pytest.raises(FormatError):
            chunks.extend(StreamReader(io.BytesIO(data[:n])).chunks())  # those before the error stay in it
        complete = sum(isinstance(chunk, Gop) for chunk in chunks)
        # the chunk of group i ends before the audio chunk after it begins, so it is whole before the next group
        assert complete >= sum(o < n for o in offsets[1:])


@pytest.mark.parametrize("version", [0, 2, 3, 255])
def test_another_version_is_named(version):
    """Whatever its header looks like, and whether its checksum holds or not."""
    assert VERSION == 1
    data = stream()
    header = bytes([*data[:4], version, *data[5 : 6 + data[5]]])
    for rest in (data[len(header) :], struct.pack("<I", zlib.crc32(header)), b""):
        with pytest.raises(FormatError) as error:
            StreamReader(io.BytesIO(header + rest))
        assert str(error.value) == f"the stream has version {version}; this decoder reads version 1"


def test_bit_depth_and_alpha_come_first_and_are_refused_if_unknown():
    data = stream()
    assert data[14:16] == b"\x08\x00" and with_fields(list) == data
    info = StreamReader(io.BytesIO(data)).info
    assert (info.bit_depth, info.alpha) == (8, False)
    for depth in (0, 7, 13, 1 << 20):
        with pytest.raises(FormatError, match=rf"^a bit depth of {depth} is not supported by this decoder$"):
            StreamReader(io.BytesIO(with_fields(lambda n, depth=depth: [depth, *n[1:]])))
        with pytest.raises(ValueError, match=f"{depth} bits a sample are not supported"):
            pack_header(MODEL, replace(INFO, bit_depth=depth))
    for alpha in (2, 1 << 20):
        with pytest.raises(FormatError, match=r"^an alpha channel of another kind is not supported by this decoder$"):
            StreamReader(io.BytesIO(with_fields(lambda n, alpha=alpha: [8, alpha, *n[2:]])))
    # told before anything else, which may have another meaning then
    with pytest.raises(FormatError, match="bit depth of 13"):
        StreamReader(io.BytesIO(with_fields(lambda n: [13, 2, 0, 0])))
    deep = replace(INFO, bit_depth=12, alpha=True)
    assert StreamReader(io.BytesIO(stream(deep))).info == deep


# ---------------------------------------------------------------- what is carried beside the pictures


SUBTITLES = Track("subrip", Fraction(1, 1000), kind="subtitle", language="deu", disposition=64, title="für alle")
SECOND = Track("opus", Fraction(1, 48000), 48000, "5.1", b"OpusHead", language="eng", disposition=1)
METADATA = {"icc": bytes(range(256)), "tag:title": "Füße".encode(), "loop": b"0", "": b""}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("tracks", [(), (SUBTITLES,), (TRACK, SUBTITLES, SECOND), (SUBTITLES, TRACK)])
@pytest.mark.parametrize("metadata", [{}, METADATA])
def test_tracks_and_metadata_come_back(make, tracks, metadata):
    info = replace(INFO, tracks=tracks, metadata=metadata)
    file = io.BytesIO()
    writer = StreamWriter(file, MODEL, info)
    sent = [Packet(10 * i, 5, bytes([i]), i % len(tracks)) for i in range(7)] if tracks else []
    writer.packets(sent)
    writer.gop([0], b"payload")
    writer.close(77)
    reader = StreamReader(make(file.getvalue()))
    assert reader.info == info
    chunks = list(reader.chunks())
    found = [packet for chunk in chunks if isinstance(chunk, list) for packet in chunk]
    assert sorted(found, key=lambda packet: packet.pts) == sent
    assert [chunk.payload for chunk in chunks if isinstance(chunk, Gop)] == [b"payload"]
    assert (reader.frames, reader.last_duration) == (1, 77)


def test_the_first_audio_track_is_that_of_a_reader_that_knows_no_other():
    """The types of the chunks: `t`, `m`, `p` and `a` are skipped by whoever does not know them."""
    info = replace(INFO, tracks=(TRACK, SUBTITLES), metadata=METADATA, alpha=True)
    file = io.BytesIO()
    writer = StreamWriter(file, MODEL, info)
    writer.packets([Packet(0, 1, b"", 1), Packet(0, 1, b"", 0)])
    writer.gop([0], b"payload", b"alpha")
    writer.close()
    assert [kind for kind, _ in split(file.getvalue())[2]] == [b"A", b"t", b"m", b"P", b"p", b"a", b"G", b"E"]


def test_packets_of_a_track_that_is_not_described_are_refused():
    data = stream(replace(INFO, tracks=()), GOPS[:1], other=[(b"p", b"\0\0\1\0")])
    with pytest.raises(FormatError, match="packets of a track that is not described"):
        list(StreamReader(io.BytesIO(data)).chunks())
    assert [c.payload for c in StreamReader(io.BytesIO(data)).chunks(True) if isinstance(c, Gop)] == [GOPS[0][1]]


@pytest.mark.parametrize(
    "body",
    [
        varint(1) + varint(1) + varint(0) + varint(3) + b"../" + varint(0) * 2 + varint(1) + varint(0) * 3,
        varint(1) + varint(1) + varint(0) + varint(3) + b"srt" + varint(0) * 2 + varint(2) + varint(0) * 3,
        varint(1) + varint(1) + varint(0) + varint(3) + b"srt" + varint(0) * 2 + varint(1) + varint(0) + b"\1/\0",
        varint(0),
    ],
    ids=["codec", "kind", "language", "short"],
)
def test_a_damaged_description_of_a_track_is_refused(body):
    data = pack_header(MODEL, replace(INFO, tracks=())) + checked(b"t" + varint(len(body)) + body)
    with pytest.raises(FormatError):
        list(StreamReader(io.BytesIO(data)).chunks())


@pytest.mark.parametrize("body", [b"\1", b"\1\xff\0", b"\1a\0\1a\0", b"\1a\x05b"])
def test_damaged_metadata_is_refused(body):
    data = pack_header(MODEL, replace(INFO, tracks=())) + checked(b"m" + varint(len(body)) + body)
    with pytest.raises(FormatError):
        list(StreamReader(io.BytesIO(data)).chunks())


@pytest.mark.parametrize("make", MAKERS)
def test_alpha_belongs_to_the_group_that_follows_it(make):
    file = io.BytesIO()
    writer = StreamWriter(file, MODEL, replace(INFO, tracks=(), alpha=True))
    alphas = [b"first", b"", b"third"]
    for i, alpha in enumerate(alphas):
        writer.gop([i], b"payload", alpha)
    writer._chunk(b"a", b"of no group")
    writer.close()
    reader = StreamReader(make(file.getvalue()))
    assert [(gop.payload, gop.alpha) for gop in reader.chunks()] == [(b"payload", alpha) for alpha in alphas]
    reader = StreamReader(io.BytesIO(file.getvalue()))
    for entry, alpha in reversed(list(zip(reader.index(), alphas, strict=True))):
        reader.seek(entry)
        gop = next(reader.chunks())
        assert (gop.alpha, gop.offset) == (alpha, entry.offset)
    # of a video without alpha it is like any ancillary chunk
    data = stream(replace(INFO, tracks=()), other=[(b"a", b"alpha")])
    assert all(gop.alpha == b"" for gop in StreamReader(io.BytesIO(data)).chunks())


@pytest.mark.parametrize("more", [b"\0", b"\xff" * 20, bytes(200)])
def test_a_longer_header_is_read(more):
    """Fields that this reader does not know are ignored, but belong to what the checksum protects."""
    info = replace(INFO, tracks=())
    data = with_fields(list, more, info)
    assert len(data) == len(stream(info)) + len(more)
    reader = StreamReader(io.BytesIO(data))
    assert reader.info == info
    assert [(c.pts, c.payload) for c in reader.chunks()] == GOPS
    bad = bytearray(data)
    bad[6 + data[5] - 1] ^= 1  # the last byte of what is ignored
    with pytest.raises(FormatError, match="header is damaged"):
        StreamReader(io.BytesIO(bytes(bad)))


def test_a_header_that_lacks_fields_is_refused():
    for n in range(15):
        with pytest.raises(FormatError, match="cut short"):
            StreamReader(io.BytesIO(with_fields(lambda numbers, n=n: numbers[:n])))


# ---------------------------------------------------------------- chunks of unknown types


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("recover", [False, True])
def test_ancillary_chunks_are_skipped(make, recover):
    data = stream(other=ANCILLARY)
    reader = StreamReader(make(data))
    chunks = list(reader.chunks(recover))
    assert [(c.pts, c.payload) for c in chunks if isinstance(c, Gop)] == GOPS
    assert [c for c in chunks if not isinstance(c, Gop)] == [PACKETS] * 3
    assert reader.frames == 7 and reader.size == len(data) and reader.info == INFO


def test_every_flipped_bit_of_an_ancillary_chunk_is_found():
    data = stream(gops=GOPS[:1], other=[(b"q", b"some text")])
    start = data.index(b"q\x09some text")
    for i in range(8 * start, 8 * (start + 15)):
        bad = bytearray(data)
        bad[i // 8] ^= 1 << i % 8
        with pytest.raises(FormatError, match=f"byte {start} "):
            list(StreamReader(io.BytesIO(bytes(bad))).chunks())
        chunks = list(StreamReader(io.BytesIO(bytes(bad))).chunks(True))
        (lost,) = [c for c in chunks if isinstance(c, Lost)]
        assert (lost.first, lost.pts, lost.ended) == (0, (), False)
        assert [(c.pts, c.payload) for c in chunks if isinstance(c, Gop)] == GOPS[:1]


def damaged_before(chunk_type, body):
    """Three groups, of which the second is damaged, and a chunk between it and the third."""
    file = io.BytesIO()
    writer = StreamWriter(file, MODEL, replace(INFO, tracks=()))
    writer.gop([0, 5], b"first")
    at = writer.size + 9
    writer.gop([10, 20], b"second")
    writer._chunk(chunk_type, body)
    writer.gop([30], b"third")
    writer.close()
    data = bytearray(file.getvalue())
    data[at] ^= 1
    return bytes(data)


@pytest.mark.parametrize("make", MAKERS)
def test_reading_resumes_at_an_ancillary_chunk(make):
    """A reader that passed over its beginning would take the groups of pictures inside it for some of the stream."""
    inner = stream(replace(INFO, tracks=()), [((25,), b"inner"), ((26, 27), b"inner"), ((28,), b"inner")])
    assert [c.first for c in StreamReader(io.BytesIO(inner)).chunks() if isinstance(c, Gop)] == [0, 1, 3]
    for chunk_type in (b"a", b"q", b"z"):
        chunks = list(StreamReader(make(damaged_before(chunk_type, inner))).chunks(True))
        assert [c.payload for c in chunks if isinstance(c, Gop)] == [b"first", b"third"]
        assert [(c.first, c.pts, c.ended) for c in chunks if isinstance(c, Lost)] == [(2, (13, 21), False)]


@pytest.mark.parametrize("make", MAKERS)
def test_reading_resumes_after_an_ancillary_chunk_that_is_too_long_to_look_for(make):
    chunks = list(StreamReader(make(damaged_before(b"q", bytes(MAX_ANCILLARY + 1)))).chunks(True))
    assert [c.payload for c in chunks if isinstance(c, Gop)] == [b"first", b"third"]


@pytest.mark.parametrize("chunk_type", [b"Z", b"T", b"0", b"\0", b"\xe1"])
def test_an_unknown_critical_chunk_is_refused(chunk_type):
    data = stream(gops=GOPS[:2], other=[(chunk_type, b"body")])
    with pytest.raises(FormatError, match="is of an unknown kind"):
        list(StreamReader(io.BytesIO(data)).chunks())
    # what can be read all the same is, and that something else is lost is told
    chunks = list(StreamReader(io.BytesIO(data)).chunks(True))
    assert [(c.pts, c.payload) for c in chunks if isinstance(c, Gop)] == GOPS[:2]
    assert len([c for c in chunks if isinstance(c, Lost)]) == 3


@pytest.mark.parametrize("data", [b"", b"BSQ", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000)])
def test_other_files_are_refused(data):
    with pytest.raises(FormatError, match=r"not a \.bsq stream"):
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
    head = pack_header(MODEL, replace(INFO, tracks=()))
    with pytest.raises(FormatError):
        read_all(head + body)


def test_headers_are_bounded():
    for width, height in ((0, 5), (65536, 1), (65535, 65535)):
        with pytest.raises(ValueError, match="not supported"):
            pack_header(MODEL, MediaInfo(width, height))
    numbers = [8, 0, 64, 64, 1, 25, 25, 1, 1, 1, 0, 2, 2, 2, 0]

    def header(values):
        body = MODEL + b"".join(map(varint, values))
        return io.BytesIO(checked(b"BSQ\x1a\x01" + bytes([len(body)]) + body))

    assert StreamReader(header(numbers)).info.width == 64
    for i, bad in ((2, 0), (3, 0), (4, 0), (5, 0), (10, 4), (14, 3), (2, 1 << 40)):
        with pytest.raises(FormatError):
            StreamReader(header([*numbers[:i], bad, *numbers[i + 1 :]]))
    with pytest.raises(FormatError, match="65535x65535 pixels are not supported"):
        StreamReader(header([8, 0, 65535, 65535, *numbers[4:]]))


def test_integers():
    for n in (0, 1, 127, 128, 300, (1 << 63) - 1):
        assert Fields(varint(n)).varint() == n
    for n in (0, -1, 1, -64, 64, 1 << 61, -(1 << 61)):
        assert Fields(signed(n)).signed() == n
    with pytest.raises(FormatError):
        Fields(b"\xff" * 10).varint()
    with pytest.raises(ValueError, match="-1 is not in 0"):
        varint(-1)
