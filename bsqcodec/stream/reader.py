"""Reads the chunks of a .bsq file in order, from its start or from any group of pictures on, whole or damaged."""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from ..errors import FormatError
from ..settings import MAX_PIXELS
from ..types import Packet, Track
from .container import (
    ALPHA,
    AUDIO_PACKETS,
    AUDIO_TRACK,
    END,
    GOP,
    MAX_CHUNK,
    METADATA,
    PACKETS,
    TRACK,
    Ending,
    Gop,
    IndexEntry,
    unpack_end,
    unpack_gop,
    unpack_header,
)
from .fields import Fields
from .recovery import MAX_GAP, SEARCH_BUDGET, Lost, lost_times, resynchronise
from .tracks import MAX_TRACKS, unpack_metadata, unpack_packets, unpack_track
from .window import Window


class StreamReader:
    """Reads a stream front to back, or from any GOP on if the file can seek.

    Args:
        file: open for reading in binary, at the start of the stream.
        max_pixels: larger frames are refused.

    Raises FormatError for anything that is not a whole and undamaged stream, when it is reached. It names the byte.
    Ancillary chunks of unknown types are skipped, but must be whole and undamaged like any other.

    Attributes:
        model: id of the model that the payloads need, 8 bytes.
        info: attributes of the video.
        size: bytes of the header and the whole chunks read so far.
        frames: number of frames; known at the end, or after `index`.
        last_duration: of the last frame, in units of time; 0 if it is not known; known as `frames` is.
    """

    def __init__(self, file: BinaryIO, max_pixels: int = MAX_PIXELS):
        self._file = file
        self._window = Window(file)
        self.frames: int | None = None
        self.last_duration = 0
        self._torn = False  # is there damage at `size`?
        self._budget = SEARCH_BUDGET
        self._next = 0  # number of the next frame
        self._group: int | None = 0  # number of the next group, if known
        self._end: int | None = None  # time of the last frame
        self.model, self.info = unpack_header(self._window.take, max_pixels)
        nominal = 1 / (self.info.frame_rate * self.info.time_base) if self.info.frame_rate else 1
        self._nominal = self._interval = max(1, round(nominal))  # time from frame to frame
        self._damage: FormatError | None = None  # of what describes tracks, or of metadata
        self._alpha: tuple[int, bytes] | None = None  # offset and body of the chunk before this one, if it is alpha
        self._first_track = 0  # number of the first track that is ancillary
        tracks = list[Track]()
        try:
            self._read_descriptions(tracks)
        except FormatError as e:
            self._damage = e
        self.info = replace(self.info, tracks=tuple(tracks))
        self._start = self.size, self._torn

    def _read_descriptions(self, tracks: list[Track]) -> None:
        """Read the chunks behind the header that tell what else there is. Raises FormatError for damage."""
        while True:
            self._window.ahead += self._file.read(1 - len(self._window.ahead))  # no more: a pipe may not have it yet
            kind = bytes(self._window.ahead[:1])
            if kind not in (AUDIO_TRACK, TRACK, METADATA) or (kind == AUDIO_TRACK and tracks):
                return
            body = self._chunk()[2]
            if kind == METADATA:
                self.info = replace(self.info, metadata=unpack_metadata(body))
                return
            if len(tracks) == MAX_TRACKS:
                raise FormatError(f"streams of more than {MAX_TRACKS} tracks are not supported")
            tracks.append(unpack_track(body))
            self._first_track += kind == AUDIO_TRACK

    @property
    def size(self) -> int:
        """Bytes of the header and the whole chunks read so far."""
        return self._window.at

    def chunks(self, recover: bool = False) -> Iterator[Gop | list[Packet] | Lost]:
        """The groups of pictures and packets of tracks that follow, up to the end of the stream.

        With `recover`, what is lost is told as a `Lost`, and reading goes on after it; without, FormatError is raised.
        """
        if self._damage and not recover:
            raise self._damage
        reason = str(self._damage or "")
        whole = self.size  # end of the last good group
        while True:
            try:
                if recover and self._torn and not self._resynchronise():
                    yield Lost(self._next, (), reason, True)
                    return
                chunk_type, offset, body = self._chunk()
                if chunk_type.islower() and chunk_type != PACKETS:
                    self._alpha = (offset, body) if chunk_type == ALPHA and self.info.alpha else None
                    continue  # any other is unknown
                item = self._unpack(chunk_type, offset, body, max(MAX_GAP, offset - whole) if recover else 0)
            except FormatError as e:
                if not recover:
                    raise
                reason = reason or str(e)
                continue
            if isinstance(item, list):
                yield item
                continue
            following = item.first if isinstance(item, Gop) else item.frames
            if reason or following > self._next:
                pts = item.pts if isinstance(item, Gop) else ()
                lost = lost_times(following - self._next, self._end, pts, self._interval)
                yield Lost(self._next, lost, reason or f"a group of pictures is missing before byte {offset}")
                reason, self._group = "", None
            if not isinstance(item, Gop):
                self.frames, self.last_duration = item
                return
            self._next, self._end = item.first + len(item.pts), item.pts[-1]
            self._interval = item.pts[-1] - item.pts[-2] if len(item.pts) > 1 else self._interval
            self._group = None if self._group is None else self._group + 1
            whole = self.size
            yield item

    def _unpack(self, chunk_type: bytes, offset: int, body: bytes, gap: int) -> Gop | list[Packet] | Ending:
        """A chunk that is not skipped. gap: up to how many frames may be missing before it."""
        alpha, self._alpha = self._alpha, None
        try:
            if chunk_type == GOP:
                gop = unpack_gop(offset, body)
                missing = gop.first - self._next
                if not 0 <= missing <= gap:
                    raise FormatError(f"it begins with frame {gop.first}, another group of pictures is missing")
                if self._end is not None and gop.pts[0] - self._end <= missing:
                    raise FormatError("it begins before the end of the group before")
                if alpha is None:
                    return gop
                if not alpha[1]:
                    raise FormatError("the chunk of its alpha is empty")
                return replace(gop, offset=alpha[0], alpha=alpha[1])
            if chunk_type in (AUDIO_PACKETS, PACKETS):
                return self._packets(chunk_type, body, gap > 0)
            if chunk_type == END:
                ending, _ = unpack_end(body[:-4], None)
                if not 0 <= ending.frames - self._next <= gap:
                    raise FormatError(f"there should be {ending.frames} frames, some are missing")
                return ending
            raise FormatError(f"it is of an unknown kind {chunk_type!r}")
        except FormatError as e:
            raise FormatError(f"the chunk at byte {offset} ({self._place(chunk_type, offset)}) is wrong: {e}") from e

    def _packets(self, chunk_type: bytes, body: bytes, lenient: bool) -> list[Packet]:
        """The packets in a chunk. lenient: leave out those of a track whose description is lost."""
        first, count = self._first_track, len(self.info.tracks)
        packets = unpack_packets(body, first if chunk_type == PACKETS else None)
        if all(packet.track < (first if chunk_type == AUDIO_PACKETS else count) for packet in packets):
            return packets
        if lenient:
            return []
        raise FormatError("it has packets of a track that is not described")

    def _place(self, chunk_type: bytes, offset: int) -> str:
        """Which group of pictures a broken chunk is, as far as can be told."""
        with contextlib.suppress(FormatError):
            for number, entry in enumerate(self.index() if self._file.seekable() else ()):
                if entry.offset == offset:
                    return f"group {number}, from frame {entry.first}"
        if chunk_type in (GOP, ALPHA) and self._group is not None:
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
        (self.frames, self.last_duration), index = unpack_end(fields.rest()[:-4], end)
        return index

    def seek(self, entry: IndexEntry | None) -> None:
        """Go on at a GOP of the index; None: at what follows the descriptions of tracks, and the metadata."""
        if entry is None:
            offset, self._torn = self._start
            self._next, self._group = 0, 0
        else:
            offset, self._torn = entry.offset, False
            self._next, self._group = entry.first, None
        self._window.go(offset)
        self._alpha = None
        self._end, self._interval, self._budget = None, self._nominal, SEARCH_BUDGET

    def _chunk(self) -> tuple[bytes, int, bytes]:
        """(type, offset, body) of the next chunk. If it is damaged the position stays in front of it."""
        offset = self.size
        head, body, checksum = self._window.take(1), b"", b""
        while len(head) < 10 and (len(head) < 2 or head[-1] >= 0x80) and (byte := self._window.take(1)):
            head += byte
        n = None
        with contextlib.suppress(FormatError):
            n = Fields(head[1:]).varint(MAX_CHUNK)
            body, checksum = self._window.take(n), self._window.take(4)
        if n is not None and checksum == struct.pack("<I", zlib.crc32(body, zlib.crc32(head))):
            return head[:1], offset, body
        self._window.put_back(head + body + checksum)
        self._torn = True
        place = self._place(head[:1], offset)
        if (n is None and len(head) == 10) or len(checksum) == 4:
            raise FormatError(f"the chunk at byte {offset} ({place}) is damaged")
        raise FormatError(f"the stream is cut short: the chunk at byte {offset} ({place}) is not whole")

    def _resynchronise(self) -> bool:
        """After damage: go on to the next whole chunk, at most to the next group in the index. False: there is none."""
        self._torn = False
        limit = None
        with contextlib.suppress(FormatError):
            if self._file.seekable():
                limit = min((entry.offset for entry in self.index() if entry.offset > self.size), default=None)
        found, self._budget = resynchronise(self._window, limit, self._budget)
        return found
