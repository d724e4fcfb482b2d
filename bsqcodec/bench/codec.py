"""The face of every codec that the benchmark compares.

A codec turns frames into chunks of bytes, whose total length is the rate, and chunks into frames. Image codecs give
one chunk per frame, video codecs one elementary stream with its headers (no container), ours one whole .bsq file.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..settings import EncodeSettings


@dataclass(frozen=True)
class BenchSettings:
    """Settings that every codec of a run shares.

    Attributes:
        ours: settings of our encoder; its `gop` is everybody's, its `quality` is replaced by each point.
        mode: mode of the video anchors, "low-delay" (no B frames, no look-ahead) or "random-access" (the encoder's own
            defaults).
        pixel_format: pixel format of the video anchors, "yuv420p" or "yuv444p".
        device: device that our networks run on: "auto", "cpu" or "cuda".
    """

    ours: EncodeSettings = field(default_factory=EncodeSettings)
    mode: str = "low-delay"
    pixel_format: str = "yuv420p"
    device: str = "cpu"


@dataclass(frozen=True)
class Codec:
    """Base class of the codecs.

    Attributes:
        settings: settings of the run.
        name: name of the codec on the command line.
        label: name of the codec in tables and plots.
        points: default quality settings, of which each gives one point of the curve.
        parameter: name that the encoder's own options have for a point.
        rising: whether a higher point gives more bits.
    """

    settings: BenchSettings = BenchSettings()
    name: ClassVar[str] = ""
    label: ClassVar[str] = ""
    points: ClassVar[tuple[float, ...]] = ()
    parameter: ClassVar[str] = "quality"
    rising: ClassVar[bool] = True

    def missing(self) -> str:
        """The reason why the codec cannot run here, or ""."""
        return ""

    def options(self) -> str:
        """All options but the point, in words from which a run can be repeated."""
        raise NotImplementedError

    def load(self) -> float:
        """Load what encoding and decoding need; returns the seconds that it took."""
        return 0.0

    def device(self) -> str:
        """Name of the device that the codec runs on."""
        return "cpu"

    def encode(self, frames: Iterable[np.ndarray], fps: float, point: float) -> list[bytes]:
        """Encode frames, uint8 (H, W, 3) RGB, at `fps` frames per second; 0 is a still image. Raises BsqError."""
        raise NotImplementedError

    def decode(self, chunks: list[bytes], height: int, width: int) -> Iterator[np.ndarray]:
        """Decode the chunks of `encode`, from nothing else but the size in pixels, to uint8 (H, W, 3) RGB."""
        raise NotImplementedError


class Identity(Codec):
    """Frames as they are, for tests of the benchmark."""

    name, label, points = "identity", "identity", (1,)

    def options(self) -> str:
        return "raw RGB"

    def encode(self, frames: Iterable[np.ndarray], fps: float, point: float) -> list[bytes]:
        return [frame.tobytes() for frame in frames]

    def decode(self, chunks: list[bytes], height: int, width: int) -> Iterator[np.ndarray]:
        for chunk in chunks:
            yield np.frombuffer(chunk, np.uint8).reshape(height, width, 3)
