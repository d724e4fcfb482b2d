"""Videos as sources of frames, through FFmpeg."""

import contextlib
import math
import os
import sys
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
from av.stream import Disposition

from ..errors import BsqError
from ..types import AudioPacket, AudioTrack, Frame, MediaInfo
from . import colour
from .base import FOLDER_RATE, Source, reason_of, ticks
from .colour import assumed_matrix

_TRANSFERS_HDR = {16: "PQ", 18: "HLG"}


# ---------------------------------------------------------------- videos


class _Pipe:
    """A stream for PyAV that cannot be seeked, which counts its bytes and keeps the first line."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.size = 0
        self.head = b""

    def read(self, n: int) -> bytes:
        data = self._file.read(n)
        if b"\n" not in self.head:
            self.head += data
        self.size += len(data)
        return data


class VideoSource(Source):
    """Whatever FFmpeg can open and decode."""

    def __init__(self, path: str, start: float, duration: float | None, audio: bool):
        super().__init__()
        self._name = "standard input" if path == "-" else path
        self._pipe = _Pipe(sys.stdin.buffer) if path == "-" else None
        self._start, self._duration = start, duration
        self._whole = start == 0 and duration is None
        self._errors = av.logging.get_last_error()[0]
        try:
            # "file:", or a colon in the name would be taken for the end of a protocol's name
            self._container: Any = av.open(self._pipe or f"file:{path}", format="yuv4mpegpipe" if self._pipe else None)
        except (av.FFmpegError, OSError, ValueError) as error:
            kind = "a y4m stream" if self._pipe else "a media file that can be read"
            raise BsqError(f"{self._name} is not {kind}: {reason_of(error)}") from None
        try:
            self._prepare(audio)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._container.close()

    def _prepare(self, audio: bool) -> None:
        """Choose the streams, go to the start, and decode the first frame, which tells what the container may not."""
        streams = self._container.streams
        # the cover of a music file is a video stream too; "tty" is how FFmpeg shows text files
        videos = [s for s in streams.video if not s.disposition & Disposition.attached_pic]
        if not videos or self._container.format.name == "tty":
            raise BsqError(f"{self._name} has no video stream")
        best = streams.best("video")
        self._video = best if best in videos else videos[0]
        if self._video.codec_context is None:
            raise BsqError(f"{self._name}: its video is of a kind that FFmpeg cannot decode")
        if self._video.metadata.get("alpha_mode") == "1":  # of VP8 and VP9, whose alpha FFmpeg's decoders leave out
            raise BsqError(f"{self._name} has transparency, which is not supported")
        # without this, FFmpeg paints over what it cannot decode
        self._video.codec_context.options = {"err_detect": "explode"}
        self._time_base = self._video.time_base or 1 / FOLDER_RATE
        self._rate = self._video.average_rate or self._video.guessed_rate or FOLDER_RATE
        self._audio = streams.best("audio") if audio else None
        track = self._track()
        self._tell_left_out(len(videos), audio)

        self._packets = self._packet_size = self._yielded = 0
        self._low: int | None = None
        self._high: int | None = None
        if self._video.start_time is not None:
            self._limit(self._video.start_time)
        if self._start > 0 and self._low is not None and not self._pipe:
            # a second early, for FFmpeg seeks by decoding time, which is before presentation time where frames reorder
            with contextlib.suppress(av.FFmpegError):
                self._container.seek(max(0, self._low - round(1 / self._time_base)), stream=self._video)
        self._items = self._read()
        self._pending: deque[Any] = deque()  # what was read to reach the first frame
        first = None
        while first is None:
            item = next(self._items, None)
            if item is None:
                raise BsqError(f"{self._name}: no frame" + ("" if self._whole else " in the time that is wanted"))
            self._pending.append(item)
            first = item if isinstance(item, av.VideoFrame) else None
        self._origin = first.pts or 0
        self.info = self._describe(first, track)
        self.total = self._count()

    def _limit(self, origin: int) -> None:
        """Set the first pts that is wanted, and the first after it that is not, given the first of the file."""
        self._low = origin + ticks(self._start, self._time_base)
        if self._duration is not None:
            self._high = origin + ticks(self._start + self._duration, self._time_base)

    def _track(self) -> AudioTrack | None:
        if self._audio is None:
            return None
        context = self._audio.codec_context
        if context is None or self._audio.time_base is None:
            self._audio = None
            self._warn("the audio track is left out: FFmpeg does not know its format")
            return None
        layout = context.layout.name
        if layout.endswith("channels"):  # their places are not told
            layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}.get(context.layout.nb_channels, layout)
        return AudioTrack(
            context.codec.canonical_name,
            self._audio.time_base,
            context.sample_rate,
            layout,
            bytes(context.extradata or b""),
        )

    def _tell_left_out(self, videos: int, audio: bool) -> None:
        streams = self._container.streams
        rest = {
            "video": videos - 1,
            "audio": len(streams.audio) - (self._audio is not None) if audio else 0,
            "subtitle": len(streams.subtitles),
            "data": len(streams.data),
        }
        for kind, count in rest.items():
            if count > 0:
                self._warn(f"{count} {kind} track{'s are' if count > 1 else ' is'} left out")

    def _describe(self, frame: av.VideoFrame, track: AudioTrack | None) -> MediaInfo:
        if frame.color_trc in _TRANSFERS_HDR:
            raise BsqError(f"{self._name} is HDR ({_TRANSFERS_HDR[frame.color_trc]}), which is not supported")
        if max(c.bits for c in frame.format.components) > 8:
            self._warn(f"{frame.format.name}: more than 8 bits a component is reduced to 8 bits")
        rgb = colour.is_rgb(frame)
        matrix = 0 if rgb else 2 if frame.colorspace in (0, 3) else int(frame.colorspace)
        if matrix not in (0, 2, *colour.MATRICES):
            raise BsqError(f"{self._name}: its colour matrix (number {matrix} of H.273) is not supported")
        self._matrix = matrix if matrix in colour.MATRICES else assumed_matrix(frame.width, frame.height)
        self._mirrored, rotation = _display(frame)
        shape = self._video.sample_aspect_ratio or Fraction(0)
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
            color_range=2 if rgb else int(frame.color_range),
            audio=track,
        )

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
        """Frames that are wanted, with pts as in the file, and packets of audio, as they come."""
        step = max(1, round(1 / (self._rate * self._time_base)))  # for frames without pts
        last: int | None = None
        error: Exception | None = None
        key_seen = False
        video_ended = audio_ended = False
        for packet in self._demux():
            if self._audio is not None and packet.stream.index == self._audio.index:
                if packet.size and packet.pts is not None:
                    time, length = packet.pts * packet.time_base, (packet.duration or 0) * packet.time_base
                    audio_ended = self._high is not None and time >= self._high * self._time_base
                    if not (self._start and self._low is not None and time + length <= self._low * self._time_base):
                        yield packet
            elif not video_ended:
                key_seen |= packet.is_keyframe
                try:
                    frames = packet.decode()
                except av.FFmpegError as e:
                    # a stream that was entered midway may begin with frames whose references are missing
                    early = self._start > 0 and self._low is not None and (packet.pts or 0) < self._low
                    if key_seen and not early:
                        raise BsqError(f"{self._name} is broken at frame {self._yielded}: {reason_of(e)}") from None
                    error = e
                    continue
                for frame in frames:
                    pts = frame.pts
                    if pts is None:
                        pts = 0 if last is None else last + step
                    elif last is not None and pts <= last:
                        self._warn("time stamps that do not rise are moved")
                        pts = last + 1
                    last = frame.pts = pts
                    if self._low is None:
                        self._limit(pts)
                    if self._high is not None and pts >= self._high:
                        video_ended = True
                        break
                    if self._low is not None and pts >= self._low:
                        if error and not self._yielded and not self._start:
                            self._warn("what comes before the first whole frame is left out")
                        self._yielded += 1
                        yield frame
            if video_ended and (audio_ended or self._audio is None):
                return
        if not self._yielded and error:
            raise BsqError(f"{self._name} is broken: {reason_of(error)}")
        if not video_ended:
            self._check_end()

    def _demux(self) -> Iterator[av.Packet]:
        try:
            for packet in self._container.demux([s for s in (self._video, self._audio) if s is not None]):
                if packet.stream.index == self._video.index:
                    if packet.is_corrupt:
                        raise BsqError(f"{self._name} is cut off or broken at frame {self._yielded}")
                    self._packets += packet.size > 0
                    self._packet_size = packet.size or self._packet_size
                yield packet
        except (av.FFmpegError, OSError) as error:
            raise BsqError(f"{self._name} is broken at frame {self._yielded}: {reason_of(error)}") from None

    def _check_end(self) -> None:
        """Tell a file that was cut off between two packets, which FFmpeg takes for a normal end."""
        format = self._container.format.name
        errors, last = av.logging.get_last_error()
        cut = errors > self._errors and last is not None and "ended prematurely" in last[2]  # Matroska's reader
        if self._whole and "mp4" in format:
            cut |= self._packets < len(self._video.index_entries)
        if self._whole and format == "yuv4mpegpipe":
            if self._pipe:
                head, size = self._pipe.head, self._pipe.size
            elif os.path.isfile(self._name):
                size = os.path.getsize(self._name)
                with open(self._name, "rb") as file:
                    head = file.readline()
            else:
                head, size = b"", 0
            frames = size - head.find(b"\n") - 1
            cut |= frames > 0 and frames != self._packets * (len(b"FRAME\n") + self._packet_size)
        if cut:
            raise BsqError(f"{self._name} is cut off at frame {self._yielded}")

    def __iter__(self) -> Iterator[Frame | AudioPacket]:
        index = 0
        while True:
            item = self._pending.popleft() if self._pending else next(self._items, None)
            if item is None:
                return
            if isinstance(item, av.VideoFrame):
                yield Frame(self._rgb(item, index), (item.pts or 0) - self._origin)
                index += 1
                continue
            ratio = self._time_base / item.time_base
            pts, length = item.pts - round(self._origin * ratio), item.duration or 0
            before = self._start > 0 and pts + length <= 0
            after = self._high is not None and pts >= (self._high - self._origin) * ratio
            if not before and not after:
                yield AudioPacket(pts, length, bytes(item))

    def _rgb(self, frame: av.VideoFrame, index: int) -> np.ndarray:
        if (frame.width, frame.height) != (self.info.width, self.info.height):
            sizes = f"from {self.info.width}x{self.info.height} to {frame.width}x{frame.height}"
            raise BsqError(f"{self._name}: the size changes {sizes} at frame {index}")
        alpha = frame.format.has_palette or any(c.is_alpha for c in frame.format.components)
        rgb = colour.to_rgb(frame, self._matrix, alpha)
        if alpha:
            if rgb[..., 3].min() < 255:
                raise BsqError(f"{self._name} has transparent pixels (frame {index}), which are not supported")
            rgb = rgb[..., :3]
        return np.ascontiguousarray(rgb[:, ::-1] if self._mirrored else rgb)


def _display(frame: av.VideoFrame) -> tuple[bool, int]:
    """How a player must show a frame by its display matrix: mirrored first?, then turned clockwise by how much?"""
    sides: Any = frame.side_data
    data = next((d for d in sides if d.type.name == "DISPLAYMATRIX"), None)
    if data is None:
        return False, 0
    a, b, _, c, d = np.frombuffer(bytes(data), "<i4")[:5].astype(float)
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return mirrored, round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360
