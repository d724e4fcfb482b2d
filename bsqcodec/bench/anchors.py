"""The codecs that ours is compared with, as Pillow and FFmpeg offer them, and the list of all codecs."""

import io
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np
import PIL
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, features

from ..errors import BsqError
from ..media import colour
from .codec import BenchSettings, Codec, Identity
from .ours import Bsq, BsqLowDelay, BsqSearch


class PillowCodec(Codec):
    """An image codec of Pillow, which codes every frame on its own."""

    format = ""  # Pillow's name of the file format
    feature = ""  # Pillow's name of the library that codes it

    def missing(self) -> str:
        return "" if features.check(self.feature) else f"this Pillow was built without {self.label}"

    def options(self) -> str:
        fixed = ", ".join(f"{k}={v}" for k, v in self.save_options(self.points[0]).items() if k != self.parameter)
        return f"Pillow {PIL.__version__} ({self.feature} {features.version(self.feature)}): {fixed}"

    def save_options(self, point: float) -> dict[str, Any]:
        """Arguments of `Image.save` at a point."""
        raise NotImplementedError

    def encode(self, frames: Iterable[np.ndarray], fps: float, point: float) -> list[bytes]:
        chunks = []
        for frame in frames:
            out = io.BytesIO()
            Image.fromarray(frame).save(out, self.format, **self.save_options(point))
            chunks.append(out.getvalue())
        return chunks

    def decode(self, chunks: list[bytes], height: int, width: int) -> Iterator[np.ndarray]:
        for chunk in chunks:
            yield np.array(Image.open(io.BytesIO(chunk)).convert("RGB"))


class Jpeg(PillowCodec):
    """JPEG, 4:2:0, with optimised Huffman tables."""

    name, label, format, feature = "jpeg", "JPEG", "JPEG", "jpg"
    points = (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90)

    def save_options(self, point: float) -> dict[str, Any]:
        return {"quality": int(point), "subsampling": "4:2:0", "optimize": True}


class Jpeg2000(PillowCodec):
    """JPEG 2000, 9/7 wavelet and colour transform; a point is the compression ratio to 24 bits per pixel."""

    name, label, format, feature = "jpeg2000", "JPEG 2000", "JPEG2000", "jpg_2000"
    points = (10, 15, 20, 30, 40, 60, 80, 120, 160, 240)
    parameter, rising = "quality_layers", False

    def save_options(self, point: float) -> dict[str, Any]:
        return {
            "quality_mode": "rates",
            "quality_layers": [float(point)],
            "irreversible": True,
            "mct": 1,
            "no_jp2": True,
        }


class WebP(PillowCodec):
    """WebP at its slowest method."""

    name, label, format, feature = "webp", "WebP", "WEBP", "webp"
    points = (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)

    def save_options(self, point: float) -> dict[str, Any]:
        return {"quality": int(point), "method": 6}


class Avif(PillowCodec):
    """AVIF, 4:4:4, on one thread."""

    name, label, format, feature = "avif", "AVIF", "AVIF", "avif"
    points = (10, 20, 30, 40, 50, 60, 70, 80, 90)

    def save_options(self, point: float) -> dict[str, Any]:
        return {"quality": int(point), "speed": 4, "subsampling": "4:4:4", "max_threads": 1}


class VideoCodec(Codec):
    """A video encoder of FFmpeg through PyAV, on one thread, at a constant rate factor."""

    encoder = ""
    format = ""  # muxer and demuxer of the elementary stream
    filter = ""  # bitstream filter that drops comments from the stream
    parameter, rising = "crf", False
    points = (18, 22, 26, 30, 34, 38, 42)

    def missing(self) -> str:
        try:
            formats = [f.name for f in av.Codec(self.encoder, "w").video_formats or ()]
        except av.codec.codec.UnknownCodecError:
            return f"this FFmpeg build has no {self.encoder}"
        wanted = self.settings.pixel_format
        return "" if wanted in formats else f"{self.encoder} cannot encode {wanted}"

    def options(self) -> str:
        fixed = " ".join(f"-{k} {v}" for k, v in self.encoder_options().items())
        version = f"PyAV {av.__version__} (FFmpeg {av.ffmpeg_version_info}), {self.encoder}"
        return f"{version} {self.settings.pixel_format} BT.709 limited range, 1 thread: {fixed}"

    def encoder_options(self) -> dict[str, str]:
        """Options of the encoder but for the point, which FFmpeg takes as they are."""
        raise NotImplementedError

    def encode(self, frames: Iterable[np.ndarray], fps: float, point: float) -> list[bytes]:
        out = io.BytesIO()
        options = {**self.encoder_options(), self.parameter: f"{point:g}"}
        try:
            with av.open(out, "w", format=self.format) as container:
                stream: Any = container.add_stream(self.encoder, rate=max(1, round(fps)), options=options)
                drop = None
                for picture in itertools.chain(self._pictures(stream.codec_context, frames), [None]):
                    packets = stream.encode(picture)
                    if self.filter and drop is None:
                        drop = av.BitStreamFilterContext(self.filter, stream)
                    for packet in packets:
                        container.mux(drop.filter(packet) if drop else packet)
        except av.FFmpegError as error:
            raise BsqError(f"{self.encoder} failed: {error}") from None
        return [out.getvalue()]

    def _pictures(self, context: Any, frames: Iterable[np.ndarray]) -> Iterator[av.VideoFrame]:
        """The frames as the encoder takes them; sets up its context before the first."""
        context.thread_count = 1
        context.pix_fmt = self.settings.pixel_format
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        for i, frame in enumerate(map(even, frames)):
            if i == 0:
                context.height, context.width = frame.shape[:2]
            picture = colour.to_yuv(frame, self.settings.pixel_format)
            picture.pts = i
            yield picture

    def decode(self, chunks: list[bytes], height: int, width: int) -> Iterator[np.ndarray]:
        with av.open(io.BytesIO(chunks[0]), "r", format=self.format) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for picture in container.decode(video=0):
                yield colour.to_rgb(picture)[:height, :width]


def even(frame: np.ndarray) -> np.ndarray:
    """The frame with its last row and column repeated where a side is odd, as 4:2:0 needs it."""
    return np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")


class H264(VideoCodec):
    """H.264 by x264."""

    name, label, encoder, format = "h264", "H.264 (x264)", "libx264", "h264"
    filter = "filter_units=remove_types=6"  # SEI: x264 writes its settings there

    def encoder_options(self) -> dict[str, str]:
        if self.settings.mode == "random-access":
            return {"preset": "medium"}
        gop = str(self.settings.ours.gop)
        return {"preset": "medium", "tune": "zerolatency", "g": gop, "keyint_min": gop, "sc_threshold": "0", "bf": "0"}


class Hevc(VideoCodec):
    """HEVC by x265."""

    name, label, encoder, format = "hevc", "HEVC (x265)", "libx265", "hevc"

    def encoder_options(self) -> dict[str, str]:
        quiet = "info=0:log-level=error:pools=none:frame-threads=1"
        if self.settings.mode == "random-access":
            return {"preset": "medium", "x265-params": quiet}
        gop = self.settings.ours.gop
        fixed = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0"
        return {"preset": "medium", "tune": "zerolatency", "x265-params": f"{fixed}:{quiet}"}


class Av1(VideoCodec):
    """AV1 by SVT-AV1."""

    name, label, encoder, format = "av1", "AV1 (SVT-AV1)", "libsvtav1", "obu"
    points = (20, 27, 34, 41, 48, 55, 62)

    def encoder_options(self) -> dict[str, str]:
        if self.settings.mode == "random-access":
            return {"preset": "6", "svtav1-params": "lp=1"}
        return {"preset": "6", "svtav1-params": f"pred-struct=1:keyint={self.settings.ours.gop}:tune=1:lp=1"}

    def encode(self, frames: Iterable[np.ndarray], fps: float, point: float) -> list[bytes]:
        os.environ.setdefault("SVT_LOG", "1")  # errors only; it writes its settings to stderr otherwise
        return super().encode(frames, fps, point)


CODECS: dict[str, type[Codec]] = {
    c.name: c for c in (Bsq, BsqLowDelay, BsqSearch, Jpeg, Jpeg2000, WebP, Avif, H264, Hevc, Av1, Identity)
}
DEFAULTS = {"image": ("bsq", "jpeg", "jpeg2000", "webp", "avif"), "video": ("bsq", "h264", "hevc", "av1")}


def check_known(names: Iterable[str]) -> None:
    """Raise BsqError for a name that is not one of CODECS."""
    for name in names:
        if name not in CODECS:
            raise BsqError(f"no codec called {name}; known codecs: {', '.join(CODECS)}")


def select(names: Iterable[str], settings: BenchSettings) -> tuple[list[Codec], list[str]]:
    """Codecs that run here, and a line for each that does not. Raises BsqError for an unknown name."""
    chosen: list[Codec] = []
    skipped = []
    for name in dict.fromkeys(names):
        check_known([name])
        codec = CODECS[name](settings)
        missing = codec.missing()
        if missing:
            skipped.append(f"codec {name} skipped: {missing}")
        else:
            chosen.append(codec)
    return chosen, skipped
