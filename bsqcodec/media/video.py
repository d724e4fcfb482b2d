"""Videos as sources of frames, through FFmpeg."""

import contextlib
import itertools
import math
import os
import shlex
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from ..errors import BsqError
from ..settings import SourceOptions
from ..types import Frame, Items, MediaInfo, Packet, Track
from . import colour, hdr, times, tracks, y4m
from .base import DEFAULT_RATE, MAX_DEPTH, MAX_TIME, Source, coded_from_8_bits, reason_of, ticks
from .video_metadata import metadata_of

# Seconds by which a seek aims too early: FFmpeg seeks by decoding time, which is before presentation time where frames
# are reordered.
_SEEK_MARGIN = 1

_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's names


class VideoSource(Source):
    """Whatever FFmpeg can open and decode.

    Args:
        path: a file; "-" is y4m on standard input.
        options: what is wanted of it; alpha is kept.
        looks_ahead: of formats with alpha, look whether any frame is transparent.
        begun: bytes of standard input that were read before.

    Raises BsqError if it cannot be read, is not supported, or has no frame in the time that is wanted.
    """

    def __init__(self, path: str, options: SourceOptions, looks_ahead: bool = True, begun: bytes = b""):
        super().__init__()
        self._name = "standard input" if path == "-" else path
        self._pipe = y4m.Pipe(begun) if path == "-" else None
        self._options, self._looks_ahead = options, looks_ahead
        self._start, self._duration = options.start, options.duration
        self._whole = options.start == 0 and options.duration is None
        self._errors_before = av.logging.get_last_error()[0]
        try:
            # "file:", or a colon in the name would be taken for the end of a protocol's name
            self._container: Any = av.open(
                self._pipe or f"file:{path}", format="yuv4mpegpipe" if self._pipe else None, metadata_errors="replace"
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            expected = "a y4m stream" if self._pipe else "a media file that can be read"
            raise BsqError(f"{self._name} is not {expected}: {reason_of(error)}") from None
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the container."""
        self._container.close()

    def _prepare(self) -> None:
        """Choose the streams, go to the start, and decode the first frame, which tells what the container may not."""
        self._choose_video()
        found = tracks.find(self._container, self._video, self._options, self._warn)
        self._streams = [stream for stream, _ in found]
        self._found = tuple(track for _, track in found)
        self._numbers = {stream.index: number for number, stream in enumerate(self._streams)}
        self._time_base = self._video.time_base or 1 / DEFAULT_RATE
        self._rate = self._video.average_rate or self._video.guessed_rate or DEFAULT_RATE

        self._packets = self._packet_size = self._yielded = 0
        self._packet_pts: int | None = None  # of the last packet
        self._key_seen = False
        self._last: int | None = None  # pts of the last frame
        self._after: int | None = None  # pts of the first frame after those that are wanted
        self._error: Exception | None = None  # the last one of those that were passed over
        # pts of the first frame that is wanted, and of the first after it that is not; known with the first of the file
        self._low: int | None = None
        self._high: int | None = None
        if self._start > 0:
            stays = self._pipe or not os.path.isfile(self._name)
            begin = self._video.start_time if stays else times.first_time(self._container, self._video)
            if begin is not None:
                self._set_limits(begin)
        if self._start > 0 and self._low is not None and not self._pipe:
            with contextlib.suppress(av.FFmpegError):
                margin = round(_SEEK_MARGIN / self._time_base)
                self._container.seek(max(0, self._low - margin), stream=self._video)
        self._items = self._read()
        self._pending: deque[Any] = deque()  # what was read to reach the first frame
        first = self._first_frame()
        self._origin = (first.pts or 0) - (0 if self._start else times.lead(first, self._streams, self._time_base))
        self.info = self._describe(first, self._found)
        self.total = self._count()

    def _choose_video(self) -> None:
        # the cover of a music file is a video stream too; "tty" is how FFmpeg shows text files
        streams = self._container.streams
        videos = [s for s in streams.video if not s.disposition & Disposition.attached_pic]
        if not videos or self._container.format.name == "tty":
            raise BsqError(f"{self._name} has no video stream")
        best = streams.best("video")
        self._video = best if best in videos else videos[0]
        if self._video.codec_context is None:
            raise BsqError(f"{self._name}: its video is of a kind that FFmpeg cannot decode")
        context = self._video.codec_context
        if self._video.metadata.get("alpha_mode") == "1":  # of VP8 and VP9, whose alpha FFmpeg's own decoders leave out
            context = av.CodecContext.create(_ALPHA_DECODERS[context.name], "r")
            context.extradata = self._video.codec_context.extradata
        # without this, FFmpeg paints over what it cannot decode
        context.options = {"err_detect": "explode"}
        self._decoder = context

    def _set_limits(self, origin: int) -> None:
        """Set which pts are wanted, given the first of the file."""
        self._low = origin + ticks(self._start, self._time_base)
        if self._duration is not None:
            self._high = origin + ticks(self._start + self._duration, self._time_base)

    def _first_frame(self) -> av.VideoFrame:
        for item in self._items:
            self._pending.append(item)
            if isinstance(item, av.VideoFrame):
                if self._error and not self._start:
                    self._warn("what comes before the first whole frame is left out")
                return item
        raise BsqError(f"{self._name}: no frame" + ("" if self._whole else " in the time that is wanted"))

    def _describe(self, frame: av.VideoFrame, found: tuple[Track, ...]) -> MediaInfo:
        """All that the stream and its first frame tell. Raises BsqError if their colours are not supported."""
        bits = colour.bits_of(frame.format)
        depth = min(max(bits, 8), MAX_DEPTH)
        if depth > 8:
            self._warn(coded_from_8_bits(self._name, bits, depth))
        if hdr.is_dynamic(frame):
            self._warn("HDR metadata that change from scene to scene (HDR10+, Dolby Vision) are left out")
        rgb = colour.is_rgb(frame)
        matrix = colour.IDENTITY if rgb else int(frame.colorspace)
        if not rgb and matrix in (colour.IDENTITY, colour.RESERVED):  # which YUV cannot have
            matrix = colour.UNSPECIFIED
        if matrix not in (colour.IDENTITY, colour.UNSPECIFIED, *colour.MATRICES):
            raise BsqError(f"{self._name}: its colour matrix (number {matrix} of H.273) is not supported")
        self._matrix = matrix if matrix in colour.MATRICES else colour.assumed_matrix(frame.width, frame.height)
        self._mirrored, rotation = _display(frame)
        shape = self._video.sample_aspect_ratio or Fraction(0)
        start = self._origin * self._time_base
        end = None if self._high is None else self._high * self._time_base
        return MediaInfo(
            width=frame.width,
            height=frame.height,
            time_base=self._time_base,
            frame_rate=self._rate,
            sample_aspect_ratio=(shape.numerator, shape.denominator),
            rotation=rotation,
            primaries=int(frame.color_primaries),
            transfer=int(frame.color_trc),
            matrix=matrix,
            color_range=colour.FULL_RANGE if rgb else int(frame.color_range),
            tracks=found,
            metadata=self._if_small(hdr.read(frame) | metadata_of(self._container, self._video, start, end)),
            bit_depth=depth,
            alpha=colour.has_alpha(frame.format) and not self._is_opaque(frame),
        )

    def _is_opaque(self, first: av.VideoFrame) -> bool:
        """Whether no frame has transparent pixels, though all could. The video is decoded up to the first that has."""
        if _has_transparency(first, self._matrix):
            return False
        if self._pipe or not self._looks_ahead:
            return True
        other = VideoSource(self._name, replace(self._options, audio=False, subtitles=False), looks_ahead=False)
        with other:
            return not any(_has_transparency(frame, self._matrix) for frame in other.decoded())

    def decoded(self) -> Iterator[av.VideoFrame]:
        """The frames as FFmpeg decodes them, in place of iterating."""
        items = itertools.chain(self._pending, self._items)
        return (item for item in items if isinstance(item, av.VideoFrame))

    def _count(self) -> int | None:
        """Frames to expect: exact for whole MP4 files, estimated from the length for others."""
        if self._whole and self._video.frames and "mp4" in self._container.format.name:
            return self._video.frames
        if self._video.duration is not None:
            length = float(self._video.duration * self._time_base)
        elif self._container.duration is not None:
            length = self._container.duration / av.time_base
        else:
            return None
        length = max(0.0, length - self._start)
        if self._duration is not None:
            length = min(length, self._duration)
        return max(1, round(length * self._rate))

    def _read(self) -> Iterator[Any]:
        """Frames that are wanted, with pts as in the file, and packets of the tracks, as they come."""
        video_ended, sounds = False, {s.index for s in self._streams if s.type == "audio"}
        for packet in self._demux():
            if packet.stream.index != self._video.index:
                time = self._place_packet(packet) if packet.size else None
                if time is not None and self._high is not None and time >= self._high * self._time_base:
                    sounds.discard(packet.stream.index)
                elif time is not None and not self._is_early(time + (packet.duration or 0) * packet.time_base):
                    yield packet
            elif not video_ended:
                for frame in self._decode(packet):
                    pts = self._place(frame)
                    if self._high is not None and pts >= self._high:
                        video_ended, self._after = True, pts
                        break
                    if self._low is not None and pts >= self._low:
                        self._yielded += 1
                        yield frame
            if video_ended and not sounds:
                return
        if not self._yielded and self._error:
            raise BsqError(f"{self._name} is broken: {reason_of(self._error)}")
        if not video_ended:
            self._check_end()

    def _place_packet(self, packet: av.Packet) -> Fraction | None:
        """Make sure that a packet of a track has a pts; returns it in seconds, None if nothing tells it."""
        if packet.pts is None:
            packet.pts = packet.dts
        if packet.duration and packet.duration >= 1 << 31:  # below 0, as FFmpeg reads the end of some Ogg files
            packet.duration = 0
        if packet.pts is None or abs(packet.pts) > MAX_TIME:
            track = self._found[self._numbers[packet.stream.index]]
            self._warn(f"what has no time in {tracks.name(track)} is left out")
            return None
        return packet.pts * packet.time_base

    def _is_early(self, time: Fraction) -> bool:
        """Whether nothing is wanted before `time`, seconds of the file, as far as that is known."""
        return self._start != 0 and self._low is not None and time <= self._low * self._time_base

    def _decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        """The frames of a packet; none of a broken one that is passed over.

        That is one before the first key frame, or, where reading began midway, before the first frame that is wanted:
        its references may be missing. Raises BsqError for any other.
        """
        self._key_seen |= packet.is_keyframe
        try:
            return self._decoder.decode(packet)
        except av.FFmpegError as error:
            early = self._start > 0 and self._low is not None and (packet.pts or 0) < self._low
            if self._key_seen and not early:
                raise BsqError(f"{self._name} is broken at frame {self._yielded}: {reason_of(error)}") from None
            self._error = error
            return []

    def _place(self, frame: av.VideoFrame) -> int:
        """Make sure that a frame has a pts, and one after that of the frame before it; returns it."""
        pts = frame.pts
        if pts is None:
            interval = max(1, round(1 / (self._rate * self._time_base)))
            pts = 0 if self._last is None else self._last + interval
        elif self._last is not None and pts <= self._last:
            self._warn("time stamps that do not rise are moved")
            pts = self._last + 1
        if abs(pts) > MAX_TIME:
            raise BsqError(f"{self._name} is broken at frame {self._yielded}: its time is {pts}")
        self._last = frame.pts = pts
        if self._low is None:
            self._set_limits(pts)
        return pts

    def _demux(self) -> Iterator[av.Packet]:
        """The packets of all streams that are read. Raises BsqError where FFmpeg meets damage."""
        try:
            for packet in self._container.demux([self._video, *self._streams]):
                if packet.stream.index == self._video.index:
                    if packet.is_corrupt:
                        raise BsqError(f"{self._name} is cut off or broken at frame {self._yielded}")
                    self._packets += packet.size > 0
                    self._packet_pts = packet.pts if packet.size else self._packet_pts
                    self._packet_size = packet.size or self._packet_size
                yield packet
        except (av.FFmpegError, OSError) as error:
            raise BsqError(f"{self._name} is broken at frame {self._yielded}: {reason_of(error)}") from None

    def _check_end(self) -> None:
        """Raise BsqError for a file that was cut off between two packets, which FFmpeg takes for a normal end."""
        format = self._container.format.name
        errors, last = av.logging.get_last_error()
        cut = errors > self._errors_before and last is not None and "ended prematurely" in last[2]  # Matroska's reader
        if self._whole and "mp4" in format:
            cut |= self._packets < len(self._video.index_entries)
        if self._whole and format == "yuv4mpegpipe":
            cut |= y4m.is_cut(self._pipe or self._name, self._packets, self._packet_size)
        if cut:
            raise BsqError(f"{self._name} is cut off at frame {self._yielded}")

    def __iter__(self) -> Items:
        held: Frame | None = None  # until it is known whether it is the last
        index = 0
        while True:
            try:
                item = self._pending.popleft() if self._pending else next(self._items, None)
            except BsqError:
                if held:
                    yield held
                raise
            if item is None:
                break
            if not isinstance(item, av.VideoFrame):
                packet = self._packet(item)
                if packet:
                    yield packet
                continue
            if item.interlaced_frame:
                how = f"ffmpeg -i {'-' if self._pipe else shlex.quote(self._name)} -vf bwdif OUTPUT"
                self._warn(f"{self._name} is interlaced; deinterlace it first, for example with: {how}")
            if held:
                yield held
            held = Frame(self._rgb(item, index), (item.pts or 0) - self._origin)
            last = item
            index += 1
        if held and self._after is not None and self._high is not None:
            yield held._replace(duration=min(self._after, self._high) - self._origin - held.pts)
        elif held:
            in_order = last.pts == self._packet_pts
            duration = times.last_duration(last, in_order, self._container, self._video, self._rate)
            yield held._replace(duration=duration if 0 <= duration <= MAX_TIME else 0)

    def _packet(self, item: av.Packet) -> Packet | None:
        """A packet of a track, in its time after the first frame; None if it is outside of the time that is wanted."""
        ratio = self._time_base / item.time_base
        pts, length = (item.pts or 0) - round(self._origin * ratio), item.duration or 0
        before = self._start > 0 and pts + length <= 0
        after = self._high is not None and pts >= (self._high - self._origin) * ratio
        if before or after:
            return None
        number = self._numbers[item.stream.index]
        if self._found[number].kind == "subtitle" and pts < 0:  # nothing to show it on
            pts, length = 0, max(0, length + pts)
        return Packet(pts, length, bytes(item), number)

    def _rgb(self, frame: av.VideoFrame, index: int) -> np.ndarray:
        """uint8 RGB (H, W, 3), or RGBA (H, W, 4), of a frame. Raises BsqError if it has another size than the first."""
        if (frame.width, frame.height) != (self.info.width, self.info.height):
            sizes = f"from {self.info.width}x{self.info.height} to {frame.width}x{frame.height}"
            raise BsqError(f"{self._name}: the size changes {sizes} at frame {index}")
        rgb = colour.to_rgb(frame, self._matrix, self.info.alpha)
        return np.ascontiguousarray(rgb[:, ::-1] if self._mirrored else rgb)


def _has_transparency(frame: av.VideoFrame, matrix: int) -> bool:
    return colour.to_rgb(frame, matrix, alpha=True)[..., 3].min() < 255


def _display(frame: av.VideoFrame) -> tuple[bool, int]:
    """Returns (mirrored, clockwise rotation in degrees): what a player does to show a frame, in this order."""
    data = hdr.side_data(frame).get("DISPLAYMATRIX")
    if data is None:
        return False, 0
    a, b, _, c, d = np.frombuffer(data, "<i4")[:5].astype(float)
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return mirrored, round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360
