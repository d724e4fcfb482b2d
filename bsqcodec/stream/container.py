"""Section 1 of bitstream_spec.md, the container: header, chunks, checksums and index of a .bsq file.

Streams can hold more without a new version: a reader ignores fields of the header after those that it knows, and skips
a chunk that it does not know if its type is a lower-case letter.
"""

import contextlib
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, NamedTuple

from ..errors import FormatError
from ..settings import MAX_GOP, MAX_PIXELS, MAX_SIDE
from ..types import MODEL_ID_BYTES, TRACK_KINDS, MediaInfo, Packet
from .fields import MAX_NUMBER, MAX_TIME, Fields, ratio, signed, varint
from .group import MAX_MINI_GOP
from .tracks import MAX_TRACKS, pack_metadata, pack_packets, pack_track

MAGIC = b"BSQ\x1a"
VERSION = 1  # the only one that is read or written
GOP, AUDIO_TRACK, AUDIO_PACKETS, END = b"G", b"A", b"P", b"E"
ALPHA, METADATA, TRACK, PACKETS = b"a", b"m", b"t", b"p"  # ancillary
BIT_DEPTHS = range(8, 13)  # of a sample of decoded frames
MAX_CHUNK = 1 << 30


@dataclass(frozen=True)
class Gop:
    """A chunk of frames that decode without any other.

    Attributes:
        offset: of the chunk in the file, in bytes, or of that of its alpha before it.
        first: number of its first frame, counted from 0.
        pts: presentation time of each frame.
        payload: the coded group, for `gop.decoder.decode_gop`.
        alpha: its coded alpha, for `gop.alpha.decode_alpha`; empty if all is opaque.
    """

    offset: int
    first: int
    pts: tuple[int, ...]
    payload: bytes
    alpha: bytes = b""

    @contextlib.contextmanager
    def located(self) -> Iterator[None]:
        """A context in which a FormatError tells which group of pictures it is about."""
        try:
            yield
        except FormatError as e:
            last = self.first + len(self.pts) - 1
            raise FormatError(f"frames {self.first} to {last}, in the chunk at byte {self.offset}: {e}") from e


class Ending(NamedTuple):
    """The last chunk: number of frames, and how long the last one is shown, in units of time; 0 if unknown."""

    frames: int
    duration: int


class IndexEntry(NamedTuple):
    """Offset of a GOP in the file, in bytes, and the number of its first frame."""

    offset: int
    first: int


def pack_header(model: bytes, info: MediaInfo) -> bytes:
    """The header of a stream. Raises ValueError for what it cannot hold."""
    if not (1 <= info.width <= MAX_SIDE and 1 <= info.height <= MAX_SIDE and info.width * info.height <= MAX_PIXELS):
        raise ValueError(f"frames of {info.width}x{info.height} pixels are not supported")
    rate = info.frame_rate or Fraction(0)
    if max(*info.time_base.as_integer_ratio(), *rate.as_integer_ratio(), *info.sample_aspect_ratio) > MAX_NUMBER:
        raise ValueError("a time base, frame rate or aspect ratio has more than 31 bits")
    if info.bit_depth not in BIT_DEPTHS:
        raise ValueError(f"frames of {info.bit_depth} bits a sample are not supported")
    numbers = (
        info.bit_depth, int(info.alpha),
        info.width, info.height, info.time_base.numerator, info.time_base.denominator,
        rate.numerator, rate.denominator, *info.sample_aspect_ratio, info.rotation // 90,
        info.primaries, info.transfer, info.matrix, info.color_range,
    )  # fmt: skip
    body = model + b"".join(map(varint, numbers))
    return checked(MAGIC + bytes([VERSION, len(body)]) + body)


def unpack_header(read: Callable[[int], bytes], max_pixels: int = MAX_PIXELS) -> tuple[bytes, MediaInfo]:
    """The model's id, and what the header tells of the video; `read(n)` gives the next n bytes.

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
    model = fields.take(MODEL_ID_BYTES)
    depth, alpha = fields.varint(), fields.varint()
    if depth not in BIT_DEPTHS:
        raise FormatError(f"a bit depth of {depth} is not supported by this decoder")
    if alpha > 1:
        raise FormatError("an alpha channel of another kind is not supported by this decoder")
    width, height = fields.varint(MAX_SIDE), fields.varint(MAX_SIDE)
    if not width or not height or width * height > MAX_PIXELS:
        raise FormatError(f"frames of {width}x{height} pixels are not supported")
    if width * height > max_pixels:
        raise FormatError(f"frames of {width}x{height} pixels are above the limit of {max_pixels} pixels")
    time_base = ratio(fields.varint(MAX_NUMBER), fields.varint(MAX_NUMBER))
    numerator, denominator = fields.varint(MAX_NUMBER), fields.varint(MAX_NUMBER)
    rate = ratio(numerator, denominator) if numerator else None
    aspect = fields.varint(MAX_NUMBER), fields.varint(MAX_NUMBER)
    aspect = aspect if all(aspect) else (0, 1)
    info = MediaInfo(
        width, height, time_base, rate, sample_aspect_ratio=aspect, rotation=90 * fields.varint(3),
        primaries=fields.varint(255), transfer=fields.varint(255), matrix=fields.varint(255),
        color_range=fields.varint(2), bit_depth=depth, alpha=bool(alpha),
    )  # fmt: skip
    return model, info  # whatever `fields` still holds is of a later writer


def checked(data: bytes) -> bytes:
    """A header or a chunk, with its checksum behind it."""
    return data + struct.pack("<I", zlib.crc32(data))


def pack_chunk(chunk_type: bytes, body: bytes) -> bytes:
    """A chunk of this type, a byte. Raises ValueError if it is too large."""
    if len(body) > MAX_CHUNK:
        raise ValueError(f"a chunk of {len(body)} bytes is too large")
    return checked(chunk_type + varint(len(body)) + body)


def pack_end(ending: Ending, groups: int, index: bytes) -> bytes:
    """The last chunk. index: of so many groups, two varints each, offset and first frame less those before."""
    body = varint(ending.frames) + varint(groups) + index
    body += varint(ending.duration) if ending.duration else b""
    # chunk type, length of the length, body, its own size, checksum
    size = 1 + len(varint(len(body) + 4)) + len(body) + 4 + 4
    return pack_chunk(END, body + struct.pack("<I", size))


class StreamWriter:
    """Writes a stream front to back, so that it may go to a pipe.

    Args:
        file: open for writing in binary.
        model: id of the model that made the payloads, 8 bytes.
        info: attributes of the video. Its first track is `A` if it is sound; all others are ancillary.
    """

    def __init__(self, file: BinaryIO, model: bytes, info: MediaInfo):
        if len(info.tracks) > MAX_TRACKS:
            raise ValueError(f"{len(info.tracks)} tracks are more than {MAX_TRACKS}")
        self._file = file
        self.size = self.frames = self._groups = 0
        self._end = -MAX_TIME  # time of the last frame
        self._index = bytearray()  # as it is written at the end: a list would grow with the length of the video
        self._last = IndexEntry(0, 0)
        self._write(pack_header(model, info))
        self._first = int(bool(info.tracks) and info.tracks[0].kind == TRACK_KINDS[0])  # number of the first `t`
        for number, track in enumerate(info.tracks):
            self._chunk(AUDIO_TRACK if number < self._first else TRACK, pack_track(track))
        if info.metadata:
            self._chunk(METADATA, pack_metadata(info.metadata))

    def gop(self, pts: list[int], payload: bytes, alpha: bytes = b"") -> None:
        """Write a group of pictures, and its alpha if it is not opaque.

        pts: presentation time of each frame, strictly increasing.
        """
        steps = [b - a for a, b in itertools.pairwise(pts)]
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
        if alpha:
            self._chunk(ALPHA, alpha)
        self._chunk(GOP, body + payload)

    def packets(self, packets: list[Packet]) -> None:
        """Write some packets of the tracks, those of each track together."""
        for track in sorted({packet.track for packet in packets}):
            body = pack_packets([packet for packet in packets if packet.track == track])
            if track < self._first:
                self._chunk(AUDIO_PACKETS, body)
            else:
                self._chunk(PACKETS, varint(track - self._first) + body)

    def close(self, duration: int = 0) -> None:
        """Write the last chunk: the number of frames, and the index. The file is left open.

        duration: of the last frame, in units of time; 0 if it is not known.
        """
        groups, index = (self._groups, bytes(self._index)) if self._groups > 1 else (0, b"")
        self._write(pack_end(Ending(self.frames, duration), groups, index))
        self.flush()

    def flush(self) -> None:
        """Pass on to the system all that was written."""
        self._file.flush()

    def _chunk(self, chunk_type: bytes, body: bytes) -> None:
        self._write(pack_chunk(chunk_type, body))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)


def unpack_gop(offset: int, body: bytes) -> Gop:
    """The group of pictures in a chunk at byte `offset`. Raises FormatError for impossible times."""
    fields = Fields(body)
    # every anchor has a byte
    first, frames = fields.varint(1 << 48), fields.varint(min(MAX_GOP, MAX_MINI_GOP * len(body)))
    start = fields.signed()
    steps: list[int] = []
    if frames > 1:
        step = fields.varint()
        steps = [step] * (frames - 1) if step else [fields.varint() for _ in range(frames - 1)]
    pts = tuple(itertools.accumulate(steps, initial=start))
    if not frames or 0 in steps or pts[-1] >= MAX_TIME or start <= -MAX_TIME:
        raise FormatError("its times are impossible")
    return Gop(offset, first, pts, fields.rest())


def unpack_end(body: bytes, end: int | None) -> tuple[Ending, list[IndexEntry]]:
    """The last chunk without its last 4 bytes; its index if `end`, the length of the file, is known.

    Raises FormatError.
    """
    fields = Fields(body)
    frames, entries = fields.varint(1 << 48), fields.varint(len(body))
    index: list[IndexEntry] = []
    offset = first = 0
    for _ in range(entries):
        offset, first = offset + fields.varint(), first + fields.varint()
        if end is not None:
            if offset >= end or first >= frames:
                raise FormatError("the index points beyond the stream")
            index.append(IndexEntry(offset, first))
    duration = fields.varint(MAX_TIME - 1) if fields.rest() else 0
    return Ending(frames, duration), index
