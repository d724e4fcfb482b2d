"""The container: header, chunks, checksums and index of a .bsq file, as bitstream_spec.md states them.

Bytes only. What is inside a group of pictures is the business of codec.py.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import BinaryIO, NamedTuple

from .errors import FormatError
from .info import AudioPacket, AudioTrack, MediaInfo

MAGIC = b"BSQ\x1a"
VERSION = 1
ID_BYTES = 8  # of a model
GOP, TRACK, AUDIO, END = b"G", b"A", b"P", b"E"
MAX_SIDE = 65535
MAX_PIXELS = 1 << 28  # of a frame; a reader refuses larger ones before it allocates anything
MAX_CHUNK = 1 << 30
MAX_HEADER = 255


def varint(n: int) -> bytes:
    """Unsigned LEB128: 7 bits a byte, low ones first, bit 7 set on all but the last. n in 0 .. 2**63 - 1."""
    if not 0 <= n < 1 << 63:
        raise ValueError(f"{n} is not in 0 .. 2**63 - 1")
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def signed(n: int) -> bytes:
    """Zigzag: 0, -1, 1, -2 .. as the varints 0, 1, 2, 3 .."""
    return varint(2 * n if n >= 0 else -2 * n - 1)


class Fields:
    """Reads the fields of a header or chunk one after the other. Raises FormatError where they end too early."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        part = self.data[self.at : self.at + n]
        if len(part) != n:
            raise FormatError("a field is cut short")
        self.at += n
        return part

    def varint(self, limit: int = (1 << 63) - 1) -> int:
        n = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            n |= (byte & 0x7F) << shift
            if byte < 0x80:
                if n > limit:
                    raise FormatError(f"a field holds {n}, more than {limit}")
                return n
        raise FormatError("an integer is longer than 63 bits")

    def signed(self) -> int:
        n = self.varint()
        return n >> 1 if n & 1 == 0 else -(n >> 1) - 1

    def block(self) -> bytes:
        """A varint that counts the bytes, then the bytes."""
        return self.take(self.varint())

    def rest(self) -> bytes:
        return self.data[self.at :]


def _ratio(numerator: int, denominator: int) -> Fraction:
    if not numerator or not denominator:
        raise FormatError("a time base or frame rate is zero")
    return Fraction(numerator, denominator)


@dataclass(frozen=True)
class Gop:
    """A chunk of frames that decode without any other.

    Attributes:
        offset: of the chunk in the file, in bytes.
        first: number of its first frame, counted from 0.
        pts: presentation time of each frame.
        payload: for `codec.decode_gop`.
    """

    offset: int
    first: int
    pts: tuple[int, ...]
    payload: bytes


class IndexEntry(NamedTuple):
    """Where a GOP is and which frame it begins with."""

    offset: int
    first: int


def pack_header(model: bytes, info: MediaInfo) -> bytes:
    """The header of a stream. Raises ValueError for what it cannot hold."""
    if not (1 <= info.width <= MAX_SIDE and 1 <= info.height <= MAX_SIDE and info.width * info.height <= MAX_PIXELS):
        raise ValueError(f"frames of {info.width}x{info.height} pixels are not supported")
    rate = info.frame_rate or Fraction(0)
    numbers = (
        *(info.width, info.height, info.time_base.numerator, info.time_base.denominator),
        *(rate.numerator, rate.denominator, *info.sample_aspect_ratio, info.rotation // 90),
        *(info.primaries, info.transfer, info.matrix, info.color_range),
    )
    body = model + b"".join(map(varint, numbers))
    head = MAGIC + bytes([VERSION, len(body)]) + body
    return head + struct.pack("<I", zlib.crc32(head))


def unpack_header(read) -> tuple[bytes, MediaInfo]:
    """`read(n)` gives the next n bytes. Returns the model's id and what is known of the video but its audio track."""
    head = read(6)
    if len(head) < 6 or head[:4] != MAGIC:
        raise FormatError("not a .bsq stream")
    if head[4] != VERSION:
        raise FormatError(f"a .bsq stream of version {head[4]}; this program reads version {VERSION}")
    body, checksum = read(head[5]), read(4)
    if len(checksum) < 4 or struct.unpack("<I", checksum)[0] != zlib.crc32(head + body):
        raise FormatError(f"the header is damaged (bytes 0 to {9 + head[5]})")
    fields = Fields(body)
    model = fields.take(ID_BYTES)
    width, height = fields.varint(MAX_SIDE), fields.varint(MAX_SIDE)
    if not width or not height or width * height > MAX_PIXELS:
        raise FormatError(f"frames of {width}x{height} pixels are not supported")
    time_base = _ratio(fields.varint(), fields.varint())
    numerator, denominator = fields.varint(), fields.varint()
    rate = _ratio(numerator, denominator) if numerator else None
    aspect = fields.varint(), fields.varint()
    info = MediaInfo(
        *(width, height, time_base, rate, aspect, 90 * fields.varint(3)),
        *(fields.varint(255), fields.varint(255), fields.varint(255), fields.varint(2)),
    )
    return model, info


class StreamWriter:
    """Writes a stream front to back, so that it may go to a pipe.

    Args:
        file: open for writing in binary.
        model: id of the model that made the payloads, 8 bytes.
        info: of the video; its audio track is written if it has one.
    """

    def __init__(self, file: BinaryIO, model: bytes, info: MediaInfo):
        self._file, self._info = file, info
        self.size = 0
        self.frames = 0
        self._index: list[IndexEntry] = []
        self._write(pack_header(model, info))
        if info.audio:
            a = info.audio
            numbers = (a.time_base.numerator, a.time_base.denominator, a.sample_rate)
            blocks = (a.codec.encode(), a.layout.encode(), a.extradata)
            body = b"".join(map(varint, numbers)) + b"".join(varint(len(b)) + b for b in blocks)
            self._chunk(TRACK, body)

    def gop(self, pts: list[int], payload: bytes) -> None:
        """Write a group of pictures. pts: presentation time of each frame, strictly increasing."""
        steps = [b - a for a, b in zip(pts, pts[1:])]
        if any(s < 1 for s in steps):
            raise ValueError("presentation times do not increase")
        body = varint(self.frames) + varint(len(pts)) + signed(pts[0])
        if len(set(steps)) == 1:
            body += varint(steps[0])
        elif steps:
            body += varint(0) + b"".join(map(varint, steps))
        self._index.append(IndexEntry(self.size, self.frames))
        self.frames += len(pts)
        self._chunk(GOP, body + payload)

    def audio(self, packets: list[AudioPacket]) -> None:
        """Write some packets of the audio track."""
        body, expected = bytearray(), 0
        for p in packets:
            body += signed(p.pts - expected) + varint(p.duration) + varint(len(p.data)) + p.data
            expected = p.pts + p.duration
        self._chunk(AUDIO, bytes(body))

    def close(self) -> None:
        """Write the end. The file is left open."""
        index = self._index if len(self._index) > 1 else []
        body = varint(self.frames) + varint(len(index))
        offset = first = 0
        for entry in index:
            body += varint(entry.offset - offset) + varint(entry.first - first)
            offset, first = entry
        # chunk type, length of the length, body, its own size, checksum
        size = 1 + len(varint(len(body) + 4)) + len(body) + 4 + 4
        self._chunk(END, body + struct.pack("<I", size))
        self._file.flush()

    def _chunk(self, kind: bytes, body: bytes) -> None:
        if len(body) > MAX_CHUNK:
            raise ValueError(f"a chunk of {len(body)} bytes is too large")
        data = kind + varint(len(body)) + body
        self._write(data + struct.pack("<I", zlib.crc32(data)))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)


class StreamReader:
    """Reads a stream front to back, or from any GOP on if the file can seek.

    Args:
        file: open for reading in binary, at the start of the stream.
    Raises FormatError for anything that is not a whole and undamaged stream, when it is reached.

    Attributes:
        model: id of the model that the payloads need, 8 bytes.
        info: of the video.
        size: bytes read so far.
        frames: number of frames; known at the end, or after `index`.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.size = 0
        self.frames: int | None = None
        self.model, info = unpack_header(self._read)
        self._pending: tuple[bytes, int, bytes] | None = self._chunk()
        kind, _, body = self._pending
        if kind == TRACK:
            info = replace(info, audio=_unpack_track(body))
            self._pending = None
        self.info = info

    def chunks(self) -> Iterator[Gop | list[AudioPacket]]:
        """What follows, up to the end of the stream."""
        expected = None
        while True:
            kind, offset, body = self._pending or self._chunk()
            self._pending = None
            if kind == GOP:
                gop = _unpack_gop(offset, body)
                if expected is not None and gop.first != expected:
                    raise FormatError(f"a group of pictures is missing before byte {offset}")
                expected = gop.first + len(gop.pts)
                yield gop
            elif kind == AUDIO and self.info.audio:
                yield _unpack_audio(body)
            elif kind == END:
                self.frames, _ = _unpack_end(body, 0)
                if self.frames != (expected or 0):
                    raise FormatError("frames are missing at the end")
                return
            else:
                raise FormatError(f"an unknown chunk {kind!r} at byte {offset}")

    def index(self) -> list[IndexEntry]:
        """The GOPs of a file that can seek; its position is kept. A file of one GOP has an empty index."""
        here = self._file.tell()
        try:
            end = self._file.seek(0, io.SEEK_END)
            self._file.seek(max(0, end - 8))
            tail = self._file.read(8)
            size = struct.unpack("<I", tail[:4])[0] if len(tail) == 8 else 0
            if not 11 <= size <= end:
                raise FormatError("the stream has no index: it is cut short")
            self._file.seek(end - size)
            data = self._file.read(size)
        finally:
            self._file.seek(here)
        fields = Fields(data[:-4])
        if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0] or fields.take(1) != END:
            raise FormatError("the stream has no index: it is cut short or damaged")
        fields.varint()
        self.frames, index = _unpack_end(fields.rest(), end)
        return index

    def seek(self, entry: IndexEntry) -> None:
        """Go on at a GOP of the index."""
        self._file.seek(entry.offset)
        self.size = entry.offset
        self._pending = None

    def _chunk(self) -> tuple[bytes, int, bytes]:
        """(type, offset, body) of the next chunk."""
        offset = self.size
        kind = self._read(1)
        length = b""
        while len(length) < 9 and (not length or length[-1] >= 0x80):
            length += self._read(1) or b"\0"
        n = Fields(length).varint(MAX_CHUNK)
        body, checksum = self._read(n), self._read(4)
        if len(body) < n or len(checksum) < 4:
            raise FormatError(f"the stream is cut short: the chunk at byte {offset} is not whole")
        if struct.unpack("<I", checksum)[0] != zlib.crc32(kind + length + body):
            raise FormatError(f"the chunk at byte {offset} is damaged")
        return kind, offset, body

    def _read(self, n: int) -> bytes:
        data = self._file.read(n)
        self.size += len(data)
        return data


def _unpack_gop(offset: int, body: bytes) -> Gop:
    fields = Fields(body)
    first, frames, start = fields.varint(1 << 48), fields.varint(len(body)), fields.signed()
    steps: list[int] = []
    if frames > 1:
        step = fields.varint()
        steps = [step] * (frames - 1) if step else [fields.varint() for _ in range(frames - 1)]
    pts = [start]
    for step in steps:
        pts.append(pts[-1] + step)
    if not frames or 0 in steps or pts[-1] >= 1 << 62:
        raise FormatError(f"the group of pictures at byte {offset} has impossible times")
    return Gop(offset, first, tuple(pts), fields.rest())


def _unpack_track(body: bytes) -> AudioTrack:
    fields = Fields(body)
    time_base, rate = _ratio(fields.varint(), fields.varint()), fields.varint(1 << 30)
    try:
        return AudioTrack(fields.block().decode(), time_base, rate, fields.block().decode(), fields.block())
    except UnicodeDecodeError as e:
        raise FormatError("the description of the audio track is damaged") from e


def _unpack_audio(body: bytes) -> list[AudioPacket]:
    fields, packets, expected = Fields(body), [], 0
    while fields.at < len(body):
        pts, duration = expected + fields.signed(), fields.varint()
        packets.append(AudioPacket(pts, duration, fields.block()))
        expected = pts + duration
    return packets


def _unpack_end(body: bytes, end: int) -> tuple[int, list[IndexEntry]]:
    """`end`: length of the file, or 0 if the index is not asked for."""
    fields = Fields(body)
    frames, entries = fields.varint(1 << 48), fields.varint(len(body))
    index: list[IndexEntry] = []
    offset = first = 0
    for _ in range(entries if end else 0):
        offset, first = offset + fields.varint(), first + fields.varint()
        if offset >= end or first >= frames:
            raise FormatError("the index points beyond the stream")
        index.append(IndexEntry(offset, first))
    return frames, index
