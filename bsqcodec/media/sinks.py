"""Outputs for decoded frames: videos, images and folders of images."""

import contextlib
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
from PIL import ExifTags, Image

from ..errors import BsqError
from ..output import is_special, replacing
from ..types import AudioPacket, AudioTrack, MediaInfo
from . import colour
from .base import EXIF_ROTATION, FOLDER_RATE, reason_of
from .colour import assumed_matrix

PNG_LEVEL = 3  # takes half the time of 6, for files of about the same size
_NO_AUDIO = "the audio track is left out, which this output cannot hold"


class Sink:
    """An open output: a context manager. On normal exit the result gets its name; on an exception nothing is left.

    Attributes:
        warnings: one line for each thing that the output cannot hold.
    """

    def __init__(self, path: str, info: MediaInfo):
        self.warnings: list[str] = []
        self._path, self._info, self._frames = path, info, 0
        self._replacing = contextlib.nullcontext("-") if path == "-" else replacing(path)
        self._part = self._replacing.__enter__()

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is not None:
            return self._discard(kind, *rest)
        try:
            if not self._frames:
                raise BsqError(f"{self._path}: no frame to write")
            with self._writing():
                self._finish()
        except BaseException:
            self._discard(*sys.exc_info())
            raise
        self._replacing.__exit__(None, None, None)

    def _discard(self, *exception: Any) -> None:
        with contextlib.suppress(Exception):
            self._abandon()
        self._replacing.__exit__(*exception)

    def write(self, frame: np.ndarray, pts: int) -> None:
        """Append a frame, uint8 (H, W, 3) RGB of MediaInfo's size; `pts` in its time_base, rising strictly.

        Raises:
            BsqError: it cannot be written.
            BrokenPipeError: nobody reads the pipe any more.
        """
        assert frame.shape == (self._info.height, self._info.width, 3) and frame.dtype == np.uint8
        with self._writing():
            self._write(frame, pts)
        self._frames += 1

    def write_audio(self, packet: AudioPacket) -> None:
        """Append a packet of MediaInfo's audio track. Outputs without sound ignore it. Raises as `write` does."""

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except (av.FFmpegError, OSError, ValueError) as error:
            raise BsqError(
                f"cannot write {self._path if self._path != '-' else 'standard output'}: {reason_of(error)}"
            ) from None

    def _write(self, frame: np.ndarray, pts: int) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        """Write what is left and close the file."""

    def _abandon(self) -> None:
        """Close the file, whatever its state."""


class VideoSink(Sink):
    """H.264 and copied audio in a container."""

    def __init__(self, path: str, info: MediaInfo, format: str, crf: int):
        super().__init__(path, info)
        if format != "matroska" and is_special(self._part):
            raise BsqError(f"{path}: only .mkv and .y4m can be written to a pipe or a device")
        yuv = info.matrix in colour.MATRICES
        self._matrix = info.matrix if yuv else colour.BT709
        self._full = yuv and info.color_range == 2
        with self._writing():
            self._container = av.open(f"file:{self._part}", "w", format=format)
        try:
            with self._writing():
                self._open_video(crf)
            self._audio = self._open_audio(info.audio) if info.audio else None
            with self._writing():
                self._container.start_encoding()
        except BaseException:
            self._discard(*sys.exc_info())
            raise

    def _open_video(self, crf: int) -> None:
        info = self._info
        self._video = self._container.add_stream("libx264", info.frame_rate or FOLDER_RATE, time_base=info.time_base)
        context = self._video.codec_context
        context.width, context.height = info.width, info.height
        context.pix_fmt = self._format = "yuv444p" if info.width % 2 or info.height % 2 else "yuv420p"
        context.options = {"crf": str(crf), "preset": "medium"}
        context.sample_aspect_ratio = Fraction(*info.sample_aspect_ratio)
        context.color_range = 2 if self._full else 1
        context.colorspace = self._matrix
        context.color_primaries = info.primaries if info.primaries != 2 else 1
        context.color_trc = info.transfer if info.transfer != 2 else 1
        if info.rotation:
            self._video.set_display_rotation(-info.rotation)
        context.open()

    def _open_audio(self, track: AudioTrack) -> Any:
        """A stream to copy packets to.

        PyAV can only describe one by an encoder, so that one is opened for its description and never fed.
        """
        try:
            stream = self._container.add_stream(track.codec, track.sample_rate)
            context: Any = stream.codec_context
            context.layout = track.layout
            context.options = {"strict": "experimental"}  # Vorbis
            context.open()
            context.extradata = track.extradata or None
            stream.time_base = track.time_base
            self._container.start_encoding()
            return stream
        except OSError:
            raise
        except (av.FFmpegError, ValueError) as error:
            other = "" if self._path.lower().endswith(".mkv") else "; try .mkv"
            raise BsqError(f"{self._path} cannot hold {track.codec} audio ({reason_of(error)}){other}") from None

    def _write(self, frame: np.ndarray, pts: int) -> None:
        picture = colour.to_yuv(frame, self._format, self._matrix, self._full)
        picture.pts, picture.time_base = pts, self._info.time_base
        self._container.mux(self._video.encode(picture))

    def write_audio(self, packet: AudioPacket) -> None:
        assert self._audio is not None and self._info.audio
        copy = av.Packet(packet.data)
        copy.pts = copy.dts = packet.pts
        copy.duration = packet.duration
        copy.time_base, copy.stream, copy.is_keyframe = self._info.audio.time_base, self._audio, True
        with self._writing():
            self._container.mux(copy)

    def _finish(self) -> None:
        self._container.mux(self._video.encode(None))
        self._container.close()

    def _abandon(self) -> None:
        self._container.close()


class Y4mSink(Sink):
    """YUV4MPEG2, 4:4:4, in the matrix of `info`, or if that has none in the one that readers assume."""

    def __init__(self, path: str, info: MediaInfo):
        super().__init__(path, info)
        if info.audio:
            self.warnings.append(_NO_AUDIO)
        with self._writing():
            self._file: BinaryIO = sys.stdout.buffer if path == "-" else open(self._part, "wb")
        width, height = info.width, info.height
        (across, down), rate = info.sample_aspect_ratio, info.frame_rate or FOLDER_RATE
        if info.rotation % 180:
            width, height, across, down = height, width, down, across
        if not across or not down:
            across = down = 0
        yuv = info.matrix in colour.MATRICES
        self._matrix = info.matrix if yuv else assumed_matrix(width, height)
        self._full = yuv and info.color_range == 2
        self._head = (
            f"YUV4MPEG2 W{width} H{height} F{rate.numerator}:{rate.denominator} Ip A{across}:{down} C444 "
            f"XCOLORRANGE={'FULL' if self._full else 'LIMITED'}\n"
        )

    def _write(self, frame: np.ndarray, pts: int) -> None:
        picture = colour.to_yuv(_upright(frame, self._info.rotation), "yuv444p", self._matrix, self._full)
        self._file.write(self._head.encode() + b"FRAME\n" + picture.to_ndarray().tobytes())
        self._file.flush()
        self._head = ""

    def _finish(self) -> None:
        if self._file is not sys.stdout.buffer:
            self._file.close()

    _abandon = _finish


class StillSink(Sink):
    """One image."""

    def __init__(self, path: str, info: MediaInfo, format: str, quality: int):
        super().__init__(path, info)
        if info.audio:
            self.warnings.append(_NO_AUDIO)
        self._format, self._quality = format, quality

    def _write(self, frame: np.ndarray, pts: int) -> None:
        if self._frames:
            raise BsqError(f"{self._path} holds one image; for more frames give a folder, as in frames/, or a video")
        options: dict[str, Any] = {"quality": self._quality}
        if self._format == "PNG":
            options = {"compress_level": PNG_LEVEL}
        if self._format == "JPEG":
            options["subsampling"] = "4:4:4"
        if self._info.rotation:
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = {r: o for o, r in EXIF_ROTATION.items()}[self._info.rotation]
            options["exif"] = exif
        with open(self._part, "wb") as file:
            Image.fromarray(frame).save(file, self._format, **options)


class FolderSink(Sink):
    """Numbered PNGs."""

    def __init__(self, path: str, info: MediaInfo):
        path = path.rstrip("/") or "/"
        if os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
            raise BsqError(f"{path} is not an empty folder; give another name")
        super().__init__(path, info)
        if info.audio:
            self.warnings.append(_NO_AUDIO)
        with self._writing():
            os.mkdir(self._part)

    def _write(self, frame: np.ndarray, pts: int) -> None:
        image = Image.fromarray(_upright(frame, self._info.rotation))
        image.save(os.path.join(self._part, f"{self._frames:06d}.png"), compress_level=PNG_LEVEL)


def _upright(frame: np.ndarray, rotation: int) -> np.ndarray:
    return np.rot90(frame, -rotation // 90)
