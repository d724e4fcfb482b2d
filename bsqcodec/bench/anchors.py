"""The codecs that are compared: what each is called, which options it runs with, how it encodes and decodes.

A codec turns frames into chunks of bytes, whose total length is the rate, and chunks into frames. Image codecs give
one chunk a frame, video codecs one elementary stream with its headers (no container), ours one whole .bsq file.
"""

import functools
import hashlib
import io
import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from ..api import Decoder, Encoder
from ..errors import BsqError
from ..media import colour
from ..model_files import find_file
from ..network.weights import Model, device_of, load_model
from ..settings import DEFAULT_MODEL, TUNES, EncodeSettings
from ..stream import container as stream
from ..types import MediaInfo


@dataclass(frozen=True)
class Settings:
    """What is the same for every codec of a run.

    Attributes:
        gop: frames from one I frame to the next.
        mode: "low-delay" (no B frames, no look-ahead) or "random-access" (the encoder's own defaults).
        pixel_format: of the video anchors, "yuv420p" or "yuv444p".
        model: name of our model.
        device: of our codec: "auto", "cpu" or "cuda".
        tune: of our codec, one of `settings.TUNES`.
    """

    gop: int = 32
    mode: str = "low-delay"
    pixel_format: str = "yuv420p"
    model: str = DEFAULT_MODEL
    device: str = "cpu"
    tune: str = TUNES[0]


@dataclass(frozen=True)
class Codec:
    """Base of all codecs.

    Attributes:
        name: as on the command line.
        label: for tables and plots.
        points: default quality settings, of which each gives one point of the curve.
        parameter: what a point is called in the encoder's own options.
        rising: a higher point gives more bits.
    """

    settings: Settings = Settings()
    name: ClassVar[str] = ""
    label: ClassVar[str] = ""
    points: ClassVar[tuple[float, ...]] = ()
    parameter: ClassVar[str] = "quality"
    rising: ClassVar[bool] = True

    def missing(self) -> str:
        """Why the codec cannot run here, or ""."""
        return ""

    def options(self) -> str:
        """Everything but the point, in words that allow to repeat it."""
        raise NotImplementedError

    def load(self) -> float:
        """Get ready; returns the seconds that it took."""
        return 0.0

    def device(self) -> str:
        """Where it runs."""
        return "cpu"

    def encode(self, frames: Iterable[np.ndarray], fps: float, point: float) -> list[bytes]:
        """Encode frames, uint8 (H, W, 3) RGB; `fps` 0 is a still image."""
        raise NotImplementedError

    def decode(self, chunks: list[bytes], height: int, width: int) -> Iterator[np.ndarray]:
        """Decode what `encode` gave, with nothing else but the size."""
        raise NotImplementedError


class Identity(Codec):
    """Stores the frames; for tests of the benchmark."""

    name, label, points = "identity", "identity", (1,)

    def options(self) -> str:
        return "raw RGB"

    def encode(self, frames, fps, point):
        return [frame.tobytes() for frame in frames]

    def decode(self, chunks, height, width):
        for chunk in chunks:
            yield np.frombuffer(chunk, np.uint8).reshape(height, width, 3)


class PillowCodec(Codec):
    """An image codec of Pillow, each frame on its own."""

    format = ""
    feature = ""

    def missing(self) -> str:
        from PIL import features

        return "" if features.check(self.feature) else f"this Pillow was built without {self.label}"

    def options(self) -> str:
        import PIL
        from PIL import features

        fixed = ", ".join(f"{k}={v}" for k, v in self.save_options(self.points[0]).items() if k != self.parameter)
        return f"Pillow {PIL.__version__} ({self.feature} {features.version(self.feature)}): {fixed}"

    def save_options(self, point: float) -> dict[str, Any]:
        raise NotImplementedError

    def encode(self, frames, fps, point):
        from PIL import Image

        chunks = []
        for frame in frames:
            out = io.BytesIO()
            Image.fromarray(frame).save(out, self.format, **self.save_options(point))
            chunks.append(out.getvalue())
        return chunks

    def decode(self, chunks, height, width):
        from PIL import Image

        for chunk in chunks:
            yield np.array(Image.open(io.BytesIO(chunk)).convert("RGB"))


class Jpeg(PillowCodec):
    name, label, format, feature = "jpeg", "JPEG", "JPEG", "jpg"
    points = (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90)

    def save_options(self, point):
        return {"quality": int(point), "subsampling": "4:2:0", "optimize": True}


class Jpeg2000(PillowCodec):
    """The point is the compression ratio to 24 bits a pixel."""

    name, label, format, feature = "jpeg2000", "JPEG 2000", "JPEG2000", "jpg_2000"
    points = (10, 15, 20, 30, 40, 60, 80, 120, 160, 240)
    parameter, rising = "quality_layers", False

    def save_options(self, point):
        return {
            "quality_mode": "rates",
            "quality_layers": [float(point)],
            "irreversible": True,
            "mct": 1,
            "no_jp2": True,
        }


class WebP(PillowCodec):
    name, label, format, feature = "webp", "WebP", "WEBP", "webp"
    points = (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)

    def save_options(self, point):
        return {"quality": int(point), "method": 6}


class Avif(PillowCodec):
    name, label, format, feature = "avif", "AVIF", "AVIF", "avif"
    points = (10, 20, 30, 40, 50, 60, 70, 80, 90)

    def save_options(self, point):
        return {"quality": int(point), "speed": 4, "subsampling": "4:4:4", "max_threads": 1}


class VideoCodec(Codec):
    """A video encoder of FFmpeg through PyAV, one thread, constant rate factor."""

    encoder = ""
    format = ""  # muxer and demuxer of the elementary stream
    filter = ""  # bitstream filter that drops comments from the stream
    parameter, rising = "crf", False
    points = (18, 22, 26, 30, 34, 38, 42)

    def missing(self) -> str:
        import av

        try:
            formats = [f.name for f in av.Codec(self.encoder, "w").video_formats or ()]
        except av.codec.codec.UnknownCodecError:
            return f"this FFmpeg build has no {self.encoder}"
        wanted = self.settings.pixel_format
        return "" if wanted in formats else f"{self.encoder} cannot encode {wanted}"

    def options(self) -> str:
        import av

        fixed = " ".join(f"-{k} {v}" for k, v in self.encoder_options().items())
        version = f"PyAV {av.__version__} (FFmpeg {av.ffmpeg_version_info}), {self.encoder}"
        return f"{version} {self.settings.pixel_format} BT.709 limited range, 1 thread: {fixed}"

    def encoder_options(self) -> dict[str, str]:
        raise NotImplementedError

    def encode(self, frames, fps, point):
        import av
        from av.video.reformatter import ColorRange, Colorspace

        out = io.BytesIO()
        try:
            with av.open(out, "w", format=self.format) as container:
                options = {**self.encoder_options(), self.parameter: f"{point:g}"}
                stream = container.add_stream(self.encoder, rate=max(1, round(fps)), options=options)
                context = stream.codec_context
                context.thread_count = 1
                context.pix_fmt = self.settings.pixel_format
                context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
                drop = None
                for i, frame in enumerate(frames):
                    if i == 0:
                        context.height, context.width = even(frame).shape[:2]
                    picture = colour.to_yuv(even(frame), self.settings.pixel_format)
                    picture.pts = i
                    packets = stream.encode(picture)
                    if self.filter and drop is None:
                        drop = av.BitStreamFilterContext(self.filter, stream)
                    for packet in packets:
                        container.mux(drop.filter(packet) if drop else packet)
                for packet in stream.encode(None):
                    container.mux(drop.filter(packet) if drop else packet)
        except av.FFmpegError as error:
            raise BsqError(f"{self.encoder} failed: {error}") from None
        return [out.getvalue()]

    def decode(self, chunks, height, width):
        import av

        with av.open(io.BytesIO(chunks[0]), format=self.format) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for picture in container.decode(video=0):
                yield colour.to_rgb(picture)[:height, :width]


def even(frame: np.ndarray) -> np.ndarray:
    """Repeat the last row and column where a side is odd, as 4:2:0 needs it."""
    return np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")


class H264(VideoCodec):
    name, label, encoder, format = "h264", "H.264 (x264)", "libx264", "h264"
    filter = "filter_units=remove_types=6"  # SEI: x264 writes its settings there

    def encoder_options(self):
        if self.settings.mode == "random-access":
            return {"preset": "medium"}
        gop = str(self.settings.gop)
        return {"preset": "medium", "tune": "zerolatency", "g": gop, "keyint_min": gop, "sc_threshold": "0", "bf": "0"}


class Hevc(VideoCodec):
    name, label, encoder, format = "hevc", "HEVC (x265)", "libx265", "hevc"

    def encoder_options(self):
        quiet = "info=0:log-level=error:pools=none:frame-threads=1"
        if self.settings.mode == "random-access":
            return {"preset": "medium", "x265-params": quiet}
        gop = self.settings.gop
        fixed = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0"
        return {"preset": "medium", "tune": "zerolatency", "x265-params": f"{fixed}:{quiet}"}


class Av1(VideoCodec):
    name, label, encoder, format = "av1", "AV1 (SVT-AV1)", "libsvtav1", "obu"
    points = (20, 27, 34, 41, 48, 55, 62)

    def encoder_options(self):
        if self.settings.mode == "random-access":
            return {"preset": "6", "svtav1-params": "lp=1"}
        return {"preset": "6", "svtav1-params": f"pred-struct=1:keyint={self.settings.gop}:tune=1:lp=1"}

    def encode(self, frames, fps, point):
        import os

        os.environ.setdefault("SVT_LOG", "1")  # errors only; it writes its settings to stderr otherwise
        return super().encode(frames, fps, point)


@functools.lru_cache(1)
def _model(name: str, device: str) -> tuple[Model, float]:
    """Our model, loaded once a process, and the seconds that loading took."""
    start = time.perf_counter()
    model = load_model(name, device_of(device))
    return model, time.perf_counter() - start


@functools.lru_cache(1)
def _digest(name: str) -> str:
    """Of the model's file; its id leaves out the encoder and what a search aims at."""
    return hashlib.sha256(find_file(name).read_bytes()).hexdigest()[:12]


class Bsq(Codec):
    """Ours, through the public API: one .bsq file an item."""

    name, label = "bsq", "bsqcodec"
    points = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
    effort: ClassVar[int] = 0
    low_delay: ClassVar[bool] = False

    @property
    def model(self) -> Model:
        return _model(self.settings.model, self.settings.device)[0]

    def options(self) -> str:
        model = self.model
        weights = f"model {model.name} (id {model.id.hex()}, file {_digest(self.settings.model)})"
        effort = f", effort {self.effort}" if self.effort else ""
        delay = ", low delay" if self.low_delay else ""
        version = f".bsq file of stream version {stream.VERSION}"
        choices = f"gop {self.settings.gop}, tune {self.settings.tune}{effort}{delay}"
        return f"{version}, {weights}, {model.device}, {choices}"

    def load(self) -> float:
        return _model(self.settings.model, self.settings.device)[1]

    def device(self) -> str:
        return str(self.model.device)

    def encode(self, frames, fps, point):
        if point != int(point):
            raise BsqError(f"quality {point:g} is not a whole number")
        frames = iter(frames)
        first = next(frames)
        rate = Fraction(fps).limit_denominator(1001) if fps else None
        info = MediaInfo(first.shape[1], first.shape[0], 1 / rate if rate else Fraction(1, 25), rate)
        file = io.BytesIO()
        settings = EncodeSettings(int(point), self.settings.gop, self.effort, self.low_delay, self.settings.tune)
        encoder = Encoder(file, info, settings, model=self.model)
        for t, frame in enumerate(itertools.chain([first], frames)):
            encoder.write(frame, t)
        encoder.close()
        return [file.getvalue()]

    def decode(self, chunks, height, width):
        for frame in Decoder(io.BytesIO(chunks[0]), model=self.model).frames():
            yield frame.rgb


class BsqLowDelay(Bsq):
    """Ours, without B frames."""

    name, label = "bsq-low-delay", "bsqcodec --low-delay"
    low_delay = True


class BsqSearch(Bsq):
    """Ours, with the encoder's search."""

    name, label = "bsq-search", "bsqcodec --effort 16"
    effort = 16


CODECS: dict[str, type[Codec]] = {
    c.name: c for c in (Bsq, BsqLowDelay, BsqSearch, Jpeg, Jpeg2000, WebP, Avif, H264, Hevc, Av1, Identity)
}
DEFAULTS = {"image": ("bsq", "jpeg", "jpeg2000", "webp", "avif"), "video": ("bsq", "h264", "hevc", "av1")}


def select(names: Iterable[str], settings: Settings) -> tuple[list[Codec], list[str]]:
    """Codecs that run here, and a line for each that does not. Raises BsqError for an unknown name."""
    chosen: list[Codec] = []
    skipped = []
    for name in dict.fromkeys(names):
        if name not in CODECS:
            raise BsqError(f"no codec called {name}; known codecs: {', '.join(CODECS)}")
        codec = CODECS[name](settings)
        missing = codec.missing()
        if missing:
            skipped.append(f"codec {name} skipped: {missing}")
        else:
            chosen.append(codec)
    return chosen, skipped
