"""The container: header, chunks, checksums and index of a .bsq file, as bitstream_spec.md states them.

Bytes only. What is inside a group of pictures is the business of codec.py.

Streams can hold more without a new version. The header counts its fields in bytes, and a reader ignores those after the
fields that it knows. A chunk whose type is a lower-case letter is ancillary: a reader that does not know it skips it.
What a reader must not ignore gets an upper-case type, a bit depth or alpha that it refuses, or another version.
"""

import contextlib
import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import BinaryIO, NamedTuple

from .errors import FormatError
from .info import AudioPacket, AudioTrack, MediaInfo
from .order import MAX_MINI_GOP

MAGIC = b"BSQ\x1a"
VERSION = 1  # the only one that is read or written
ID_BYTES = 8  # of a model
GOP, TRACK, AUDIO, END = b"G", b"A", b"P", b"E"
BIT_DEPTH = 8  # of a sample; the only one that is read or written
MAX_SIDE = 65535
MAX_PIXELS = 1 << 26  # of a frame; a reader refuses larger ones before it allocates anything
MAX_CHUNK = 1 << 30
MAX_NUMBER = (1 << 31) - 1  # of ratios: FFmpeg's hold no more
MAX_TIME = 1 << 62
MAX_GAP = 65535  # frames that `StreamReader` believes to be missing though no byte is; else at most one a lost byte
_PIECE = 1 << 20  # bytes read at once, so that a length is not believed before the bytes are there
# after damage: longest chunk looked for, and bytes that are checked before the rest of the stream is given up
_SCAN, _EFFORT = 1 << 26, 1 << 32
_TYPES = re.compile(b"[GPEa-z]")  # of the chunks that are looked for
# One byte in ten looks like the type of an ancillary chunk. Longer ones are not looked for: checksums of all that might
# be one would cost more than they are worth, because the chunk after it is found as well.
_SCAN_ANCILLARY = 1 << 18


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


class Lost(NamedTuple):
    """What cannot be read.

    Attributes:
        first: number of the first frame that is lost.
        pts: times of the frames that are lost, spaced evenly; none if sound alone is.
        reason: what is wrong, and where.
        ended: nothing readable follows, and how many frames did is not known.
    """

    first: int
    pts: tuple[int, ...]
    reason: str
    ended: bool = False


class IndexEntry(NamedTuple):
    """Where a GOP is and which frame it begins with."""

    offset: int
    first: int


def pack_header(model: bytes, info: MediaInfo) -> bytes:
    """The header of a stream. Raises ValueError for what it cannot hold."""
    if not (1 <= info.width <= MAX_SIDE and 1 <= info.height <= MAX_SIDE and info.width * info.height <= MAX_PIXELS):
        raise ValueError(f"frames of {info.width}x{info.height} pixels are not supported")
    rate = info.frame_rate or Fraction(0)
    if max(*info.time_base.as_integer_ratio(), *rate.as_integer_ratio(), *info.sample_aspect_ratio) > MAX_NUMBER:
        raise ValueError("a time base, frame rate or aspect ratio has more than 31 bits")
    if info.bit_depth != BIT_DEPTH or info.alpha:
        alpha = " with alpha" if info.alpha else ""
        raise ValueError(f"frames of {info.bit_depth} bits a sample{alpha} are not supported")
    numbers = (
        *(info.bit_depth, int(info.alpha)),
        *(info.width, info.height, info.time_base.numerator, info.time_base.denominator),
        *(rate.numerator, rate.denominator, *info.sample_aspect_ratio, info.rotation // 90),
        *(info.primaries, info.transfer, info.matrix, info.color_range),
    )
    body = model + b"".join(map(varint, numbers))
    head = MAGIC + bytes([VERSION, len(body)]) + body
    return head + struct.pack("<I", zlib.crc32(head))


def unpack_header(read: Callable[[int], bytes], max_pixels: int = MAX_PIXELS) -> tuple[bytes, MediaInfo]:
    """`read(n)` gives the next n bytes. Returns the model's id and what is known of the video but its audio track.

    The header says how many bytes of fields it has; those after the fields named here are ignored. Raises FormatError
    for another version, for damage, and for frames that this decoder does not support.
    """
    head = read(6)
    if len(head) < 6 or head[:4] != MAGIC:
        raise FormatError("not a .bsq stream")
    if head[4] != VERSION:  # whose header may have another layout, so that nothing else of it is looked at
        raise FormatError(f"the stream has version {head[4]}; this decoder reads version {VERSION}")
    body, checksum = read(head[5]), read(4)
    if len(checksum) < 4 or struct.unpack("<I", checksum)[0] != zlib.crc32(head + body):
        raise FormatError(f"the header is damaged (bytes 0 to {9 + head[5]})")
    fields = Fields(body)
    model = fields.take(ID_BYTES)
    depth, alpha = fields.varint(), fields.varint()
    if depth != BIT_DEPTH:
        raise FormatError(f"a bit depth of {depth} is not supported by this decoder")
    if alpha:
        raise FormatError("an alpha channel is not supported by this decoder")
    width, height = fields.varint(MAX_SIDE), fields.varint(MAX_SIDE)
    if not width or not height or width * height > MAX_PIXELS:
        raise FormatError(f"frames of {width}x{height} pixels are not supported")
    if width * height > max_pixels:
        raise FormatError(f"frames of {width}x{height} pixels are above the limit of {max_pixels} pixels")
    time_base = _ratio(fields.varint(MAX_NUMBER), fields.varint(MAX_NUMBER))
    numerator, denominator = fields.varint(MAX_NUMBER), fields.varint(MAX_NUMBER)
    rate = _ratio(numerator, denominator) if numerator else None
    aspect = fields.varint(MAX_NUMBER), fields.varint(MAX_NUMBER)
    info = MediaInfo(
        *(width, height, time_base, rate, aspect if all(aspect) else (0, 1), 90 * fields.varint(3)),
        *(fields.varint(255), fields.varint(255), fields.varint(255), fields.varint(2)),
        bit_depth=depth,
        alpha=bool(alpha),
    )
    return model, info  # whatever `fields` still holds is of a later writer


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
        self._end = -MAX_TIME  # time of the last frame
        self._groups = 0
        self._index = bytearray()  # as it is written at the end: a list would grow with the length of the video
        self._last = IndexEntry(0, 0)
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
        if min(*steps, pts[0] - self._end, MAX_TIME - pts[-1]) < 1:
            raise ValueError("presentation times do not increase, or are beyond 62 bits")
        self._end = pts[-1]
        body = varint(self.frames) + varint(len(pts)) + signed(pts[0])
        if len(set(steps)) == 1:
            body += varint(steps[0])
        elif steps:
            body += varint(0) + b"".join(map(varint, steps))
        entry = IndexEntry(self.size, self.frames)
        self._index += varint(entry.offset - self._last.offset) + varint(entry.first - self._last.first)
        self._last = entry
        self._groups += 1
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
        body = varint(self.frames) + (varint(self._groups) + self._index if self._groups > 1 else varint(0))
        # chunk type, length of the length, body, its own size, checksum
        size = 1 + len(varint(len(body) + 4)) + len(body) + 4 + 4
        self._chunk(END, body + struct.pack("<I", size))
        self.flush()

    def flush(self) -> None:
        """Pass on all that was written."""
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
        max_pixels: larger frames are refused.
    Raises FormatError for anything that is not a whole and undamaged stream, when it is reached. It names the byte.
    Ancillary chunks are skipped, but must be whole and undamaged like any other.

    Attributes:
        model: id of the model that the payloads need, 8 bytes.
        info: of the video.
        size: bytes of the header and the whole chunks read so far.
        frames: number of frames; known at the end, or after `index`.
    """

    def __init__(self, file: BinaryIO, max_pixels: int = MAX_PIXELS):
        self._file = file
        self.size = 0
        self.frames: int | None = None
        self._ahead = bytearray()  # read from the file, but not yet used
        self._torn = False  # is there damage at `size`?
        self._effort = _EFFORT
        self._next = 0  # number of the next frame
        self._group: int | None = 0  # number of the next group, if known
        self._end: int | None = None  # time of the last frame
        self.model, self.info = unpack_header(self._read, max_pixels)
        nominal = 1 / (self.info.frame_rate * self.info.time_base) if self.info.frame_rate else 1
        self._step = max(1, round(nominal))  # time from frame to frame
        self._damage: FormatError | None = None  # of the audio track
        self._ahead += file.read(1)  # and no more, which a pipe may not have yet
        if self._ahead == TRACK:
            try:
                self.info = replace(self.info, audio=_unpack_track(self._chunk()[2]))
            except FormatError as e:
                self._damage = e

    def chunks(self, recover: bool = False) -> Iterator[Gop | list[AudioPacket] | Lost]:
        """What follows, up to the end of the stream. `recover`: tell what is lost and go on, in place of raising."""
        if self._damage and not recover:
            raise self._damage
        reason = str(self._damage or "")
        whole = self.size  # end of the last good group
        while True:
            try:
                if recover and self._torn and not self._resync():
                    yield Lost(self._next, (), reason, True)
                    return
                kind, offset, body = self._chunk()
                if kind.islower():  # ancillary, and none is known
                    continue
                item = self._unpack(kind, offset, body, max(MAX_GAP, offset - whole) if recover else 0)
            except FormatError as e:
                if not recover:
                    raise
                reason = reason or str(e)
                continue
            if isinstance(item, list):
                yield item
                continue
            following = item.first if isinstance(item, Gop) else item
            if reason or following > self._next:
                lost = self._missing(following - self._next, item.pts if isinstance(item, Gop) else ())
                yield Lost(self._next, lost, reason or f"a group of pictures is missing before byte {offset}")
                reason, self._group = "", None
            if not isinstance(item, Gop):
                self.frames = item
                return
            self._next, self._end = item.first + len(item.pts), item.pts[-1]
            self._step = item.pts[-1] - item.pts[-2] if len(item.pts) > 1 else self._step
            self._group = None if self._group is None else self._group + 1
            whole = self.size
            yield item

    def _unpack(self, kind: bytes, offset: int, body: bytes, gap: int) -> Gop | list[AudioPacket] | int:
        """A chunk; of the last, the number of frames. gap: up to how many frames may be missing before it."""
        try:
            if kind == GOP:
                gop = _unpack_gop(offset, body)
                missing = gop.first - self._next
                if not 0 <= missing <= gap:
                    raise FormatError(f"it begins with frame {gop.first}, another group of pictures is missing")
                if self._end is not None and gop.pts[0] - self._end <= missing:
                    raise FormatError("it begins before the end of the group before")
                return gop
            if kind == AUDIO and self.info.audio:
                return _unpack_audio(body)
            if kind == AUDIO and gap:
                return []  # the description of the track is lost
            if kind == END:
                frames, _ = _unpack_end(body, 0)
                if not 0 <= frames - self._next <= gap:
                    raise FormatError(f"there should be {frames} frames, some are missing")
                return frames
            raise FormatError(f"it is of an unknown kind {kind!r}")
        except FormatError as e:
            raise FormatError(f"the chunk at byte {offset} ({self._place(kind, offset)}) is wrong: {e}") from e

    def _missing(self, n: int, after: tuple[int, ...]) -> tuple[int, ...]:
        """Times for n frames between the last one and those at `after`."""
        if after and self._end is not None:
            return tuple(self._end + (after[0] - self._end) * (i + 1) // (n + 1) for i in range(n))
        step = min(self._step if len(after) < 2 else after[1] - after[0], 1 << 31)  # n steps stay below MAX_TIME
        if after and after[0] >= n > 0:
            step = min(step, after[0] // n)  # an encoder's first frame is at 0
        start = after[0] - n * step if after else step + self._end if self._end is not None else 0
        return tuple(start + i * step for i in range(n))

    def _place(self, kind: bytes, offset: int) -> str:
        """Which group of pictures a broken chunk is, as far as can be told."""
        with contextlib.suppress(FormatError):
            for number, entry in enumerate(self.index() if self._file.seekable() else ()):
                if entry.offset == offset:
                    return f"group {number}, from frame {entry.first}"
        if kind == GOP and self._group is not None:
            return f"group {self._group}, from frame {self._next}"
        return f"where frame {self._next} is due"

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
        self._go(entry.offset)
        self._next, self._group, self._end = entry.first, None, None

    def _go(self, offset: int) -> None:
        self._file.seek(offset)
        self._ahead.clear()
        self.size, self._torn = offset, False

    def _chunk(self) -> tuple[bytes, int, bytes]:
        """(type, offset, body) of the next chunk. If it is damaged the position stays in front of it."""
        offset = self.size
        head, body, checksum = self._read(1), b"", b""
        while len(head) < 10 and (len(head) < 2 or head[-1] >= 0x80) and (byte := self._read(1)):
            head += byte
        n = None
        with contextlib.suppress(FormatError):
            n = Fields(head[1:]).varint(MAX_CHUNK)
            body, checksum = self._read(n), self._read(4)
        if n is not None and checksum == struct.pack("<I", zlib.crc32(body, zlib.crc32(head))):
            return head[:1], offset, body
        self._ahead[:0] = head + body + checksum
        self.size, self._torn = offset, True
        place = self._place(head[:1], offset)
        if n is None and len(head) == 10 or len(checksum) == 4:
            raise FormatError(f"the chunk at byte {offset} ({place}) is damaged")
        raise FormatError(f"the stream is cut short: the chunk at byte {offset} ({place}) is not whole")

    def _resync(self) -> bool:
        """After damage: go on to the next whole chunk, at most to the next group in the index. False: there is none."""
        self._torn = False
        limit = None
        with contextlib.suppress(FormatError):
            if self._file.seekable():
                limit = min((entry.offset for entry in self.index() if entry.offset > self.size), default=None)
        at = 1
        while self._effort > 0:
            if at > _PIECE:
                del self._ahead[:at]
                self.size, at = self.size + at, 0
            if not self._fill(at + 10) and at >= len(self._ahead):
                return False
            found = _TYPES.search(self._ahead, at)
            at = found.start() if found else len(self._ahead)
            if limit is not None and self.size + at >= limit:
                self._go(limit)
                return True
            if not found:
                continue
            self._fill(at + 10)
            longest = _SCAN_ANCILLARY if self._ahead[at : at + 1].islower() else _SCAN
            fields = Fields(bytes(self._ahead[at + 1 : at + 10]))
            try:
                end = at + fields.varint(longest) + 1 + fields.at  # of the body
            except FormatError:
                end = 0
            if end and (limit is None or self.size + end + 4 <= limit) and self._fill(end + 4):
                self._effort -= end - at
                checksum = zlib.crc32(bytes(self._ahead[at:end]))
                if self._ahead[end : end + 4] == struct.pack("<I", checksum):
                    del self._ahead[:at]
                    self.size += at
                    return True
            at += 1
        return False

    def _fill(self, n: int) -> bool:
        """Read until `_ahead` holds n bytes; False if the file ends before."""
        while len(self._ahead) < n and (part := self._file.read(max(n - len(self._ahead), 4096))):
            self._ahead += part
        return len(self._ahead) >= n

    def _read(self, n: int) -> bytes:
        parts = [bytes(self._ahead[:n])]
        del self._ahead[:n]
        missing = n - len(parts[0])
        while missing and (part := self._file.read(min(missing, _PIECE))):
            parts.append(part)
            missing -= len(part)
        data = b"".join(parts)
        self.size += len(data)
        return data


def _unpack_gop(offset: int, body: bytes) -> Gop:
    fields = Fields(body)
    # every anchor has a byte
    first, frames, start = fields.varint(1 << 48), fields.varint(MAX_MINI_GOP * len(body)), fields.signed()
    steps: list[int] = []
    if frames > 1:
        step = fields.varint()
        steps = [step] * (frames - 1) if step else [fields.varint() for _ in range(frames - 1)]
    pts = [start]
    for step in steps:
        pts.append(pts[-1] + step)
    if not frames or 0 in steps or pts[-1] >= MAX_TIME or start <= -MAX_TIME:
        raise FormatError("its times are impossible")
    return Gop(offset, first, tuple(pts), fields.rest())


def _unpack_track(body: bytes) -> AudioTrack:
    fields = Fields(body)
    time_base, rate = _ratio(fields.varint(MAX_NUMBER), fields.varint(MAX_NUMBER)), fields.varint(1 << 30)
    codec, layout, extradata = fields.block(), fields.block(), fields.block()
    # the names are handed to FFmpeg
    if not re.fullmatch(rb"[a-z0-9_]{1,40}", codec) or not re.fullmatch(rb"[ -~]{1,200}", layout):
        raise FormatError("the description of the audio track is damaged")
    return AudioTrack(codec.decode(), time_base, rate, layout.decode(), extradata)


def _unpack_audio(body: bytes) -> list[AudioPacket]:
    fields, packets, expected = Fields(body), [], 0
    while fields.at < len(body):
        pts, duration = expected + fields.signed(), fields.varint(MAX_TIME)
        if abs(pts) >= MAX_TIME:
            raise FormatError("a time of the sound is impossible")
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
