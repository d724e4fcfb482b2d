"""Outputs for decoded frames that are videos: H.264 in a container, and uncompressed y4m."""

import sys
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np

from ..errors import BsqError
from ..output import is_special
from ..settings import SinkOptions
from ..types import MediaInfo, Packet
from . import colour, hdr, tracks
from .base import DEFAULT_RATE
from .sinks import Sink, upright
from .video_metadata import container_options, holds, write_metadata

# FFmpeg's names of codec and pixel format, and options, for frames with alpha: what editors read; without loss
ALPHA_CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    "mov": ("prores_ks", "yuva444p10le", {"profile": "4444"}),
    "matroska": ("ffv1", "bgra", {}),
}


class VideoSink(Sink):
    """H.264, or of frames with alpha ProRes or FFV1, and copied tracks in a container; `format` is FFmpeg's name."""

    max_depth = 10

    def __init__(self, path: str, info: MediaInfo, options: SinkOptions, format: str):
        super().__init__(path, info, options, holds_alpha=format in ALPHA_CODECS)
        self._leave_out_metadata(holds, colours=True)
        self._format, self._crf = format, options.crf
        self._matrix, self._full = _yuv(info, colour.BT709)
        self._span = 0, 0  # pts of the first and of the last frame
        self._begin: int | None = None  # dts of the first packet
        self._held: list[av.Packet] = []  # the last packet so far, whose duration may change

    def _open(self, part: str) -> None:
        if self._format != "matroska" and is_special(part):
            raise BsqError(f"{self._path}: only .mkv and .y4m can be written to a pipe or a device")
        with self._writing():
            options = container_options(self._format, self._info.metadata)
            self._container = av.open(f"file:{part}", "w", format=self._format, container_options=options)
            self._open_video()
            write_metadata(self._container, self._video, self._info.metadata)
            self._tracks = [tracks.add(self._container, track, self._path, self._warn) for track in self._info.tracks]
            self._container.start_encoding()

    def _open_video(self) -> None:
        info = self._info
        codec, alpha_format, options = ALPHA_CODECS[self._format] if info.alpha else ("libx264", "", {})
        self._video: Any = self._container.add_stream(codec, info.frame_rate or DEFAULT_RATE, time_base=info.time_base)
        context: Any = self._video.codec_context
        context.width, context.height = info.width, info.height
        # 4:2:0 has no odd sides
        self._pixel_format = "yuv444p" if info.width % 2 or info.height % 2 else "yuv420p"
        if info.bit_depth > 8:
            self._pixel_format += "10le"
        if info.alpha:
            self._pixel_format = alpha_format if info.bit_depth == 8 else alpha_format.replace("bgra", "gbrap10le")
        else:
            options = {"crf": str(self._crf), "preset": "medium"}
            if params := hdr.x264_params(info.metadata):
                options |= {"x264-params": params}
        context.pix_fmt, context.options = self._pixel_format, options
        context.sample_aspect_ratio = Fraction(*info.sample_aspect_ratio)
        rgb = av.VideoFormat(self._pixel_format).is_rgb
        context.color_range = colour.FULL_RANGE if self._full or rgb else colour.LIMITED_RANGE
        context.colorspace = colour.IDENTITY if rgb else self._matrix
        context.color_primaries = info.primaries if info.primaries != colour.UNSPECIFIED else colour.BT709
        context.color_trc = info.transfer if info.transfer != colour.UNSPECIFIED else colour.BT709
        if info.rotation:
            stream: Any = self._video
            stream.set_display_rotation(-info.rotation)
        context.open()

    def _write(self, frame: np.ndarray, pts: int) -> None:
        picture = _picture(frame, self._info, self._pixel_format, self._matrix, self._full)
        context = self._video.codec_context
        # some encoders take what they tell of colours from frames
        picture.color_primaries, picture.color_trc = context.color_primaries, context.color_trc
        picture.colorspace, picture.color_range = context.colorspace, context.color_range
        picture.pts, picture.time_base = pts, self._info.time_base
        packets = self._held + self._video.encode(picture)
        if packets and self._begin is None:
            self._begin = packets[0].dts
        self._held = packets[-1:]
        self._container.mux(packets[:-1])

    def write(self, frame: np.ndarray, pts: int, duration: int = 0) -> None:
        """Append a frame. Raises as `Sink.write` does."""
        super().write(frame, pts, duration)
        self._span = self._span[0] if self._frames > 1 else pts, pts

    def write_packet(self, packet: Packet) -> None:
        """Append a packet of MediaInfo's tracks, as it is. Raises as `write` does."""
        track = self._tracks[packet.track]
        with self._writing():
            if track and (copy := track.packet(packet)):
                self._container.mux(copy)

    def _finish(self) -> None:
        # the last frame is the last packet, or is among those that the encoder has kept to look ahead
        packets: Any = self._held + self._video.encode(None)
        begin = packets[0].dts if self._begin is None else self._begin
        (first, last), end = self._span, self._span[1] + self.duration
        for packet in packets if self.duration else ():
            if packet.pts == last:
                packet.duration = self.duration
            elif packet is packets[-1]:  # MP4 adds intervals from one packet to the next, and this
                packet.duration = max(1, min(end - packet.pts, end - first - (packet.dts - begin)))
        self._container.mux(packets)
        self._container.close()

    def _abandon(self) -> None:
        self._container.close()


class Y4mSink(Sink):
    """YUV4MPEG2, 4:4:4, in the matrix of `info`, or if that has none in the one that readers assume."""

    def __init__(self, path: str, info: MediaInfo, options: SinkOptions):
        super().__init__(path, info, options)
        self._leave_out_tracks()
        self._leave_out_metadata(lambda name, value: False)
        info = self._info
        width, height = info.width, info.height
        (across, down), rate = info.sample_aspect_ratio, info.frame_rate or DEFAULT_RATE
        if info.rotation % 180:
            width, height, across, down = height, width, down, across
        if not across or not down:
            across = down = 0
        self._matrix, self._full = _yuv(info, colour.assumed_matrix(width, height))
        bits = next(bits for bits in (8, 10, 12, 16) if bits >= info.bit_depth)
        self._pixel_format, kind = ("yuv444p", "444") if bits == 8 else (f"yuv444p{bits}le", f"444p{bits}")
        self._interval = 1 / (rate * info.time_base)  # units of time
        self._first = 0  # pts of the first frame
        self._worst = Fraction(0)  # by how many units of time a frame is too early or too late
        self._head = (
            f"YUV4MPEG2 W{width} H{height} F{rate.numerator}:{rate.denominator} Ip A{across}:{down} C{kind} "
            f"XCOLORRANGE={'FULL' if self._full else 'LIMITED'}\n"
        )

    def _open(self, part: str) -> None:
        with self._writing():
            self._file: BinaryIO = sys.stdout.buffer if part == "-" else open(part, "wb")  # noqa: SIM115 closed below

    def _write(self, frame: np.ndarray, pts: int) -> None:
        turned = upright(frame, self._info.rotation)
        picture = _picture(turned, self._info, self._pixel_format, self._matrix, self._full)
        self._file.write(self._head.encode() + b"FRAME\n" + colour.samples(picture))
        self._file.flush()
        self._head = ""
        self._first = self._first if self._frames else pts
        self._worst = max(self._worst, abs(pts - self._first - self._frames * self._interval))

    def _finish(self) -> None:
        if self._worst > self._interval / 2:
            late = round(1000 * self._worst * self._info.time_base)
            self._warn(f"the frames appear up to {late} ms too early or late, for y4m shows each for the same time")
        self._close()

    def _close(self) -> None:
        if self._file is not sys.stdout.buffer:
            self._file.close()

    _abandon = _close


def _picture(frame: np.ndarray, info: MediaInfo, pixel_format: str, matrix: int, full: bool) -> Any:
    """An `av.VideoFrame` of a decoded frame."""
    if info.alpha and av.VideoFormat(pixel_format).is_rgb:
        return colour.to_rgba_frame(frame, info.bit_depth)
    if info.bit_depth == 8 and not info.alpha:
        return colour.to_yuv(frame, pixel_format, matrix, full)
    return colour.to_deep_yuv(frame, info.bit_depth, pixel_format, matrix, full)


def _yuv(info: MediaInfo, otherwise: int) -> tuple[int, bool]:
    """Matrix of YUV output, and whether its range is full: as `info` has it; `otherwise` and limited if it has none."""
    if info.matrix in colour.MATRICES:
        return info.matrix, info.color_range == colour.FULL_RANGE
    return otherwise, False
