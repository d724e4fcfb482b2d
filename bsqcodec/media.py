"""Pictures, videos and their sound, from files, folders and pipes and into them. Uncompressed frames are 8-bit RGB."""

import contextlib
import glob
import math
import os
import re
import shutil
import stat
import sys
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
from av.stream import Disposition
from PIL import ExifTags, Image, ImageOps

from . import colour
from .errors import BsqError, first_line
from .info import AudioPacket, AudioTrack, Frame, MediaInfo

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2"}
ANIMATION_SUFFIXES = {".gif", ".apng"}
VIDEO_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
PNG_LEVEL = 3  # takes half the time of 6, for files of about the same size
STILL_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

_FOLDER_RATE = Fraction(25)
_TRANSFERS_HDR = {16: "PQ", 18: "HLG"}
_NO_AUDIO = "the audio track is left out, which this output cannot hold"
_EXIF_ROTATION = {1: 0, 6: 90, 3: 180, 8: 270}  # the orientations without a mirror

if av.logging.get_level() is None:
    # FFmpeg stays silent, but PyAV keeps its last error, which says more than the error code
    av.logging.set_level(av.logging.FATAL)


def assumed_matrix(width: int, height: int) -> int:
    """The matrix of YUV that does not tell: as most players have it, BT.601 up to 576 lines, BT.709 above."""
    return colour.BT601 if height <= 576 and width < 1280 else colour.BT709


class Source:
    """An open input: a context manager, and an iterable (once) of Frame and AudioPacket in the order of the file.

    The first frame has pts 0, pts rise strictly. Iterating raises BsqError where the input turns out to be broken, or
    to hold what is not supported.

    Attributes:
        info: what it holds.
        warnings: one line for each thing that gets lost; may grow while frames are read.
        total: number of frames to expect, as far as the input tells.
    """

    info: MediaInfo
    total: int | None = None

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the input."""

    def __iter__(self) -> Iterator[Frame | AudioPacket]:
        raise NotImplementedError

    def _warn(self, line: str) -> None:
        if line not in self.warnings:
            self.warnings.append(line)


def open_source(path: str, start: float = 0.0, duration: float | None = None, audio: bool = True) -> Source:
    """Open a video, a still or animated image, images in a folder (25 a second), or y4m from a pipe.

    Args:
        path: a file, a folder, a pattern such as "frames/*.png", or "-" for y4m on standard input.
        start: seconds from the first frame to the first that is wanted.
        duration: seconds wanted; None is all that is left.
        audio: look for an audio track.

    Raises:
        BsqError: nothing there, nothing that can be read, or a content that is not supported (transparency, HDR).
    """
    if path != "-" and not os.path.exists(path):
        files = glob.glob(path) if glob.has_magic(path) else []
        if not files:
            raise BsqError(f"no file matches {path}" if glob.has_magic(path) else f"no such file: {path}")
        return _ImageSource(path, sorted(files, key=_natural), start, duration)
    if os.path.isdir(path):
        names = (n for n in os.listdir(path) if not n.startswith(".") and _suffix(n) in IMAGE_SUFFIXES)
        files = [os.path.join(path, n) for n in sorted(names, key=_natural)]
        if not files:
            raise BsqError(f"{path}: the folder holds no images")
        return _ImageSource(path, files, start, duration)
    if _suffix(path) in IMAGE_SUFFIXES | ANIMATION_SUFFIXES:
        return _ImageSource(path, None, start, duration)
    return _VideoSource(path, start, duration, audio)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _natural(name: str) -> list[tuple[int, str]]:
    """Key that sorts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _reason(error: Exception) -> str:
    """The one line of an error that helps most."""
    if isinstance(error, av.FFmpegError):
        error_log: Any = error.log
        detail = f" ({error_log[2].strip()})" if error_log else ""
        return f"{error.strerror}{detail}".replace("\n", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


def _ticks(seconds: float, time_base: Fraction) -> int:
    """First multiple of time_base at or after that many seconds, as exact as a person types them."""
    return math.ceil(Fraction(seconds).limit_denominator(1_000_000) / time_base)


# ---------------------------------------------------------------- images


class _ImageSource(Source):
    """A still image, an animation (both `files` None), or a list of images that make a video."""

    def __init__(self, path: str, files: list[str] | None, start: float, duration: float | None):
        super().__init__()
        self._path, self._files = path, files
        self._image: Image.Image | None = None
        durations: list[int] = []  # milliseconds of each frame of an animation
        time_base, rate = 1 / _FOLDER_RATE, _FOLDER_RATE
        first = files[0] if files else path
        if files:
            with _reading(first), Image.open(first) as image:
                rgb, rotation = self._pixels(image, first)
            count = len(files)
        else:
            with _reading(path):
                self._image = Image.open(path)
                rgb, rotation = self._pixels(self._image, path)
                count = getattr(self._image, "n_frames", 1) if self._image.format != "TIFF" else 1
                self._animated = count > 1 or _suffix(path) in ANIMATION_SUFFIXES
                for i in range(count if self._animated else 0):
                    self._seek(i)
                    durations.append(round(self._image.info.get("duration", 0)) or 100)  # 0 means 100, as in browsers
            if self._animated:
                time_base = Fraction(1, 1000)
                rate = Fraction(1000 * count, sum(durations))
        times = [sum(durations[:i]) for i in range(count)] if durations else list(range(count))
        low = _ticks(start, time_base)
        high = low + _ticks(duration, time_base) if duration is not None else math.inf
        self._kept = [(i, t) for i, t in enumerate(times) if low <= t < high]
        if not self._kept:
            raise BsqError(f"{path}: no frame in the time that is wanted")
        self.total = len(self._kept)
        still = files is None and not self._animated
        height, width = rgb.shape[:2]
        self.info = MediaInfo(
            width,
            height,
            time_base,
            None if still else rate,
            rotation=rotation,
            primaries=1,
            transfer=13,
            matrix=0,
            color_range=2,
        )

    def close(self) -> None:
        if self._image:
            self._image.close()

    def __iter__(self) -> Iterator[Frame | AudioPacket]:
        origin = self._kept[0][1]
        for i, time in self._kept:
            if self._files:
                name = self._files[i]
                with _reading(name), Image.open(name) as image:
                    rgb, _ = self._pixels(image, name)
                if rgb.shape != (self.info.height, self.info.width, 3):
                    size = f"{rgb.shape[1]}x{rgb.shape[0]}, not {self.info.width}x{self.info.height}"
                    raise BsqError(f"{name} is {size} like the images before it")
            else:
                assert self._image
                with _reading(f"{self._path}, frame {i}"):
                    self._seek(i)
                    rgb, _ = self._pixels(self._image, self._path)
            yield Frame(rgb, time - origin)

    def _seek(self, index: int) -> None:
        assert self._image
        if self._animated:
            self._image.seek(index)
        self._image.load()

    def _pixels(self, image: Any, name: str) -> tuple[np.ndarray, int]:
        """uint8 (H, W, 3) RGB of the current frame of `image`, and by how much it is to be turned clockwise."""
        depth = str(image.tile[0].args) if image.tile else ""
        image.load()
        if image.mode.startswith(("I", "F")) or ";16" in depth or "65535" in depth:
            self._warn(f"{name}: more than 8 bits a component is reduced to 8 bits")
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        rotation = _EXIF_ROTATION.get(orientation, 0)
        if self._files or orientation not in _EXIF_ROTATION:
            image, rotation = ImageOps.exif_transpose(image), 0
        if image.has_transparency_data:
            rgba = np.asarray(image.convert("RGBA"))
            if rgba[..., 3].min() < 255:
                raise BsqError(f"{name} has transparent pixels, which are not supported")
            return np.ascontiguousarray(rgba[..., :3]), rotation
        if image.mode.startswith(("I", "F")):
            gray = np.asarray(image)
            if image.mode == "F" or gray.min() < 0 or gray.max() > 65535:
                raise BsqError(f"{name} has samples of 32 bits, which are not supported")
            gray = ((gray.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
            return np.stack([gray] * 3, axis=2), rotation
        return np.array(image.convert("RGB")), rotation


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns whatever Pillow raises on a broken file into one line."""
    try:
        yield
    except BsqError:
        raise
    except Exception as error:  # Pillow documents no common class: SyntaxError, struct.error, ... all occur
        detail = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({_reason(error)})"
        raise BsqError(f"{name} is broken or not an image{detail}") from None


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


class _VideoSource(Source):
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
            raise BsqError(f"{self._name} is not {kind}: {_reason(error)}") from None
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
        self._time_base = self._video.time_base or 1 / _FOLDER_RATE
        self._rate = self._video.average_rate or self._video.guessed_rate or _FOLDER_RATE
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
        self._low = origin + _ticks(self._start, self._time_base)
        if self._duration is not None:
            self._high = origin + _ticks(self._start + self._duration, self._time_base)

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
                        raise BsqError(f"{self._name} is broken at frame {self._yielded}: {_reason(e)}") from None
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
            raise BsqError(f"{self._name} is broken: {_reason(error)}")
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
            raise BsqError(f"{self._name} is broken at frame {self._yielded}: {_reason(error)}") from None

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


# ---------------------------------------------------------------- output


def hidden_part(path: str) -> tuple[str, str]:
    """What `path` stands for, and a hidden file or folder beside it to write into until all is whole.

    A device or a pipe is both. Raises BsqError if there is no folder for them.
    """
    final = os.path.realpath(path)  # a link stays, what it points to is replaced
    folder, name = os.path.split(final)
    if not os.path.isdir(folder):
        raise BsqError(f"{path}: the folder {folder} does not exist")
    return final, final if _is_special(final) else os.path.join(folder, f".{name}.{os.getpid()}.part")


def rename(part: str, final: str) -> None:
    """Give a finished part its name. Raises BsqError."""
    try:
        os.replace(part, final)
    except OSError as error:
        raise BsqError(f"cannot write {final}: {_reason(error)}") from None


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """The path of `hidden_part`, for the caller to make.

    It gets the name `path` on normal exit, and is removed on an exception. Raises BsqError as those two do.
    """
    final, part = hidden_part(path)
    if part == final:
        yield final
        return
    try:
        yield part
        rename(part, final)
    except BaseException:
        if os.path.isdir(part):
            shutil.rmtree(part, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.remove(part)
        raise


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
                f"cannot write {self._path if self._path != '-' else 'standard output'}: {_reason(error)}"
            ) from None

    def _write(self, frame: np.ndarray, pts: int) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        """Write what is left and close the file."""

    def _abandon(self) -> None:
        """Close the file, whatever its state."""


def open_sink(path: str, info: MediaInfo, crf: int = 14, quality: int = 95) -> Sink:
    """Open an output; the suffix of `path` tells its kind.

    .mp4, .mkv, .mov: H.264 (4:2:0, or 4:4:4 if a side is odd) with the audio packets as they are. .y4m, or "-" for
    standard output: 4:4:4 at the average frame rate, upright. .png, .jpg, .webp: one still image. A folder, or a path
    that ends with "/": upright images 000000.png, 000001.png, ...

    Args:
        crf: constant rate factor of x264; 14 looks lossless.
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        BsqError: unknown suffix, missing folder, folder with files in it, audio that does not fit into the container.
    """
    suffix = _suffix(path)
    if path == "-" or suffix == ".y4m":
        return _Y4mSink(path, info)
    if path.endswith("/") or os.path.isdir(path):
        return _FolderSink(path, info)
    if suffix in VIDEO_FORMATS:
        return _VideoSink(path, info, VIDEO_FORMATS[suffix], crf)
    if suffix in STILL_FORMATS:
        return _StillSink(path, info, STILL_FORMATS[suffix], quality)
    if _is_special(path):
        return _Y4mSink(path, info)
    known = ", ".join([*VIDEO_FORMATS, ".y4m", *STILL_FORMATS])
    raise BsqError(f"{path}: the name of an output ends in {known}, or in / for a folder of images")


def _is_special(path: str) -> bool:
    """A device or a pipe, which cannot be replaced by a file."""
    return os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path)


class _VideoSink(Sink):
    """H.264 and copied audio in a container."""

    def __init__(self, path: str, info: MediaInfo, format: str, crf: int):
        super().__init__(path, info)
        if format != "matroska" and _is_special(self._part):
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
        self._video = self._container.add_stream("libx264", info.frame_rate or _FOLDER_RATE, time_base=info.time_base)
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
            raise BsqError(f"{self._path} cannot hold {track.codec} audio ({_reason(error)}){other}") from None

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


class _Y4mSink(Sink):
    """YUV4MPEG2, 4:4:4, in the matrix of `info`, or if that has none in the one that readers assume."""

    def __init__(self, path: str, info: MediaInfo):
        super().__init__(path, info)
        if info.audio:
            self.warnings.append(_NO_AUDIO)
        with self._writing():
            self._file: BinaryIO = sys.stdout.buffer if path == "-" else open(self._part, "wb")
        width, height = info.width, info.height
        (across, down), rate = info.sample_aspect_ratio, info.frame_rate or _FOLDER_RATE
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


class _StillSink(Sink):
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
            exif[ExifTags.Base.Orientation] = {r: o for o, r in _EXIF_ROTATION.items()}[self._info.rotation]
            options["exif"] = exif
        with open(self._part, "wb") as file:
            Image.fromarray(frame).save(file, self._format, **options)


class _FolderSink(Sink):
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
