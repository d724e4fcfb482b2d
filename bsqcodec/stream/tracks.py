"""What a .bsq file carries beside its pictures: sound, subtitles and metadata. Section 1 of bitstream_spec.md."""

import re
from collections.abc import Mapping

from ..errors import FormatError, shown
from ..types import TRACK_KINDS, Packet, Track
from .fields import MAX_NUMBER, MAX_TIME, Fields, block, ratio, signed, varint

# What is read of a stream, and may be written to one, so that small files of strangers cannot fill the memory.
MAX_TRACKS = 1000  # as FFmpeg reads
MAX_PACKETS = 1 << 16  # of a chunk
MAX_METADATA = 1 << 24  # bytes of the chunk
MAX_ITEMS = 10_000  # of metadata


def pack_track(track: Track) -> bytes:
    """The body of a chunk that describes a track."""
    numbers = (track.time_base.numerator, track.time_base.denominator, track.sample_rate)
    body = b"".join(map(varint, numbers))
    body += b"".join(map(block, (track.codec.encode(), track.layout.encode(), track.extradata)))
    body += varint(TRACK_KINDS.index(track.kind)) + varint(track.disposition)
    return body + block(track.language.encode()) + block(track.title.encode())


def unpack_track(body: bytes) -> Track:
    """The description of a track. Raises FormatError for names that no codec or layout has."""
    fields = Fields(body)
    time_base, rate = ratio(fields.varint(MAX_NUMBER), fields.varint(MAX_NUMBER)), fields.varint(1 << 30)
    codec, layout, extradata = fields.block(), fields.block(), fields.block()
    more = bool(fields.rest())
    kind, disposition = (fields.varint(1), fields.varint(MAX_NUMBER)) if more else (0, 0)
    language, title = (fields.block(), fields.block()) if more else (b"", b"")
    # the names are handed to FFmpeg
    if (
        not re.fullmatch(rb"[a-z0-9_]{1,40}", codec)
        or not re.fullmatch(rb"[ -~]{1,200}" if kind == 0 else rb"", layout)
        or not re.fullmatch(rb"[A-Za-z0-9-]{0,40}", language)
    ):
        raise FormatError("the description of the track is damaged")
    return Track(
        codec.decode(), time_base, rate, layout.decode(), extradata,
        TRACK_KINDS[kind], language.decode(), disposition, title.decode(errors="replace"),
    )  # fmt: skip


def pack_metadata(metadata: Mapping[str, bytes]) -> bytes:
    """The body of a chunk of metadata. Raises ValueError if it is too much."""
    body = b"".join(block(name.encode()) + block(value) for name, value in metadata.items())
    if len(body) > MAX_METADATA or len(metadata) > MAX_ITEMS:
        raise ValueError(f"metadata of {len(metadata)} items and {len(body)} bytes are too large")
    return body


def unpack_metadata(body: bytes) -> dict[str, bytes]:
    """Names and values. Raises FormatError for a name that is no UTF-8, or occurs twice, and for too much of it."""
    if len(body) > MAX_METADATA:
        raise FormatError(f"metadata of {len(body)} bytes are not supported")
    fields, metadata = Fields(body), dict[str, bytes]()
    while fields.at < len(body):
        try:
            name, value = fields.block().decode(), fields.block()
        except UnicodeDecodeError:
            raise FormatError("a name of the metadata is no UTF-8") from None
        if name in metadata:
            raise FormatError(f"the metadata has {shown(name)} twice")
        if len(metadata) == MAX_ITEMS:
            raise FormatError(f"metadata of more than {MAX_ITEMS} items are not supported")
        metadata[name] = value
    return metadata


def pack_packets(packets: list[Packet]) -> bytes:
    """Packets of one track as they stand in a chunk."""
    body, expected = bytearray(), 0
    for p in packets:
        body += signed(p.pts - expected) + varint(p.duration) + block(p.data)
        expected = p.pts + p.duration
    return bytes(body)


def unpack_packets(body: bytes, first: int | None = None) -> list[Packet]:
    """The packets in a chunk. Raises FormatError for impossible times, and for too many packets.

    first: number of the first track that is ancillary, among which the body begins with its own; None: it is of track 0
    and does not.
    """
    fields, packets, expected = Fields(body), list[Packet](), 0
    track = 0 if first is None else first + fields.varint(MAX_NUMBER)
    while fields.at < len(body):
        if len(packets) == MAX_PACKETS:
            raise FormatError(f"more than {MAX_PACKETS} packets in a chunk are not supported")
        pts, duration = expected + fields.signed(), fields.varint(MAX_TIME)
        if abs(pts) >= MAX_TIME:
            raise FormatError("a time of a packet is impossible")
        packets.append(Packet(pts, duration, fields.block(), track))
        expected = pts + duration
    return packets
