"""Frames, sound, and what is known of a video beside them. Shared by media files and .bsq streams."""

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

MODEL_ID_BYTES = 8


@dataclass
class FrameStats:
    """The cost of one frame.

    Attributes:
        frame_type: "I", "P" or "B".
        quality: 1..100.
        bits: ideal code length of the coefficients in bits, -sum log2 P.
        side_bits: the same of the modes and motion vectors, or of the classes of contrast of a frame without reference.
        count: how many binary symbols all this is.
    """

    frame_type: str
    quality: int
    bits: float
    side_bits: float
    count: int


@dataclass(frozen=True)
class AudioTrack:
    """A compressed audio track; its packets are copied, never decoded.

    Attributes:
        codec: FFmpeg's name of the codec, for example "aac" or "opus".
        time_base: seconds per unit of the packets' times.
        sample_rate: in Hz.
        layout: FFmpeg's name of the channel layout, for example "stereo".
        extradata: the codec's own header.
    """

    codec: str
    time_base: Fraction
    sample_rate: int
    layout: str
    extradata: bytes


@dataclass(frozen=True)
class AudioPacket:
    """Some compressed audio.

    Attributes:
        pts: presentation time in units of the track's time base; negative before the first frame.
        duration: in the same units.
        data: as the codec made it.
    """

    pts: int
    duration: int
    data: bytes


@dataclass(frozen=True)
class MediaInfo:
    """What is known of a still image or a video beside its frames.

    Attributes:
        width, height: in pixels as stored, before rotation.
        time_base: seconds per unit of the frames' presentation times (pts).
        frame_rate: average, frames per second; None for a still image.
        sample_aspect_ratio: width and height of a pixel; (0, 1) if unknown.
        rotation: degrees clockwise that a player must turn the picture: 0, 90, 180 or 270.
        primaries, transfer, matrix: code points of ITU-T H.273; 2 is unspecified.
        color_range: 0 unspecified, 1 limited, 2 full.
        audio: the audio track, if there is one.
        bit_depth: bits of a sample in a .bsq stream; 8 is the only one that is supported.
        alpha: whether a .bsq stream has an alpha channel, which is not supported.
    """

    width: int
    height: int
    time_base: Fraction = Fraction(1, 25)
    frame_rate: Fraction | None = None
    sample_aspect_ratio: tuple[int, int] = (0, 1)
    rotation: int = 0
    primaries: int = 2
    transfer: int = 2
    matrix: int = 2
    color_range: int = 0
    audio: AudioTrack | None = None
    bit_depth: int = 8
    alpha: bool = False

    @property
    def image(self) -> bool:
        """Whether this is a still image."""
        return self.frame_rate is None


class Frame(NamedTuple):
    """A picture and its time.

    Attributes:
        rgb: uint8 (H, W, 3).
        pts: presentation time in units of `MediaInfo.time_base`.
    """

    rgb: np.ndarray
    pts: int
