"""Section 1 of bitstream_spec.md, the container: header, chunks, checksums and index of a .bsq file.

Streams can hold more without a new version: a reader ignores fields of the header after those that it knows, and skips
a chunk that it does not know if its type is a lower-case letter.
"""

import itertools
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, NamedTuple

from ..errors import FormatError
from ..settings import MAX_PIXELS, MAX_SIDE
from ..types import MODEL_ID_BYTES, AudioPacket, AudioTrack, MediaInfo
from .fields import Fields, ratio, signed, varint
from .group import MAX_MINI_GOP

MAGIC = b"BSQ\x1a"
VERSION = 1  # the only one that is read or written
GOP, TRACK, AUDIO, END = b"G", b"A", b"P", b"E"
BIT_DEPTH = 8  # of a sample; the only one that is read or written
MAX_CHUNK = 1 << 30
MAX_NUMBER = (1 << 31) - 1  # of ratios: FFmpeg's hold no more
MAX_TIME = 1 << 62


@dataclass(frozen=True)
class Gop:
    """A chunk of frames that decode without any other.

    Attributes:
        offset: of the chunk in the file, in bytes.
        first: number of its first frame, counted from 0.
        pts: presentation time of each frame.
        payload: the coded group, for `gop.decoder.decode_gop`.
    """

    offset: int
    first: int
    pts: tuple[int, ...]
    payload: bytes


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
    if info.bit_depth != BIT_DEPTH or info.alpha:
        alpha = " with alpha" if info.alpha else ""
        raise ValueError(f"frames of {info.bit_depth} bits a sample{alpha} are not supported")
    numbers = (
        info.bit_depth, int(info.alpha),
        info.width, info.height, info.time_base.numerator, info.time_base.denominator,
        rate.numerator, rate.denominator, *info.sample_aspect_ratio, info.rotation // 90,
        info.primaries, info.transfer, info.matrix, info.color_range,
    )  # fmt: skip
    body = model + b"".join(map(varint, numbers))
    head = MAGIC + bytes([VERSION, len(body)]) + body
    return head + struct.pack("<I", zlib.crc32(head))


def unpack_header(read: Callable[[int], bytes], max_pixels: int = MAX_PIXELS) -> tuple[bytes, MediaInfo]:
    """The model's id, and what is known of the video but its audio track; `read(n)` gives the next n bytes.

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
    if depth != BIT_DEPTH:
        raise FormatError(f"a bit depth of {depth} is not supported by this decoder")
    if alpha:
        raise FormatError("an alpha channel is not supported by this decoder")
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


class StreamWriter:
    """Writes a stream front to back, so that it may go to a pipe.

    Args:
        file: open for writing in binary.
        model: id of the model that made the payloads, 8 bytes.
        info: attributes of the video; its audio track is written if it has one.
    """

    def __init__(self, file: BinaryIO, model: bytes, info: MediaInfo):
        self._file = file
        self.size = self.frames = self._groups = 0
        self._end = -MAX_TIME  # time of the last frame
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
        self._chunk(GOP, body + payload)

    def audio(self, packets: list[AudioPacket]) -> None:
        """Write some packets of the audio track."""
        body, expected = bytearray(), 0
        for p in packets:
            body += signed(p.pts - expected) + varint(p.duration) + varint(len(p.data)) + p.data
            expected = p.pts + p.duration
        self._chunk(AUDIO, bytes(body))

    def close(self) -> None:
        """Write the last chunk: the number of frames, and the index. The file is left open."""
        body = varint(self.frames) + (varint(self._groups) + self._index if self._groups > 1 else varint(0))
        # chunk type, length of the length, body, its own size, checksum
        size = 1 + len(varint(len(body) + 4)) + len(body) + 4 + 4
        self._chunk(END, body + struct.pack("<I", size))
        self.flush()

    def flush(self) -> None:
        """Pass on to the system all that was written."""
        self._file.flush()

    def _chunk(self, chunk_type: bytes, body: bytes) -> None:
        if len(body) > MAX_CHUNK:
            raise ValueError(f"a chunk of {len(body)} bytes is too large")
        data = chunk_type + varint(len(body)) + body
        self._write(data + struct.pack("<I", zlib.crc32(data)))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)


def unpack_gop(offset: int, body: bytes) -> Gop:
    """The group of pictures in a chunk at byte `offset`. Raises FormatError for impossible times."""
    fields = Fields(body)
    # every anchor has a byte
    first, frames, start = fields.varint(1 << 48), fields.varint(MAX_MINI_GOP * len(body)), fields.signed()
    steps: list[int] = []
    if frames > 1:
        step = fields.varint()
        steps = [step] * (frames - 1) if step else [fields.varint() for _ in range(frames - 1)]
    pts = tuple(itertools.accumulate(steps, initial=start))
    if not frames or 0 in steps or pts[-1] >= MAX_TIME or start <= -MAX_TIME:
        raise FormatError("its times are impossible")
    return Gop(offset, first, pts, fields.rest())


def unpack_track(body: bytes) -> AudioTrack:
    """The description of the audio track. Raises FormatError for names that no codec or layout has."""
    fields = Fields(body)
    time_base, rate = ratio(fields.varint(MAX_NUMBER), fields.varint(MAX_NUMBER)), fields.varint(1 << 30)
    codec, layout, extradata = fields.block(), fields.block(), fields.block()
    # the names are handed to FFmpeg
    if not re.fullmatch(rb"[a-z0-9_]{1,40}", codec) or not re.fullmatch(rb"[ -~]{1,200}", layout):
        raise FormatError("the description of the audio track is damaged")
    return AudioTrack(codec.decode(), time_base, rate, layout.decode(), extradata)


def unpack_audio(body: bytes) -> list[AudioPacket]:
    """The packets of a chunk of sound. Raises FormatError for impossible times."""
    fields, packets, expected = Fields(body), [], 0
    while fields.at < len(body):
        pts, duration = expected + fields.signed(), fields.varint(MAX_TIME)
        if abs(pts) >= MAX_TIME:
            raise FormatError("a time of the sound is impossible")
        packets.append(AudioPacket(pts, duration, fields.block()))
        expected = pts + duration
    return packets


def unpack_end(body: bytes, end: int) -> tuple[int, list[IndexEntry]]:
    """The number of frames, and the index if `end`, the length of the file, is not 0. Raises FormatError."""
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
