"""Frames, sound and subtitles, and what is known of a video beside them. Shared by media files and .bsq streams."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np

MODEL_ID_BYTES = 8
TRACK_KINDS = ("audio", "subtitle")  # the index of a name is its number in a stream


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
class Track:
    """A compressed track beside the pictures; its packets are copied, never decoded.

    Attributes:
        codec: FFmpeg's name of the codec, for example "aac", "opus" or "subrip".
        time_base: seconds per unit of the packets' times.
        sample_rate: of sound, in Hz; 0 for subtitles.
        layout: of sound, FFmpeg's name of the channel layout, for example "stereo"; "" for subtitles.
        extradata: the codec's own header.
        kind: "audio" or "subtitle".
        language: as the container has it, for example "eng" (ISO 639-2); "" if unknown.
        disposition: FFmpeg's bits: 1 default, 2 dub, 4 original, 64 forced, 128 hearing impaired ...
        title: name of the track, "" if it has none.
    """

    codec: str
    time_base: Fraction
    sample_rate: int = 0
    layout: str = ""
    extradata: bytes = b""
    kind: str = TRACK_KINDS[0]
    language: str = ""
    disposition: int = 0
    title: str = ""


@dataclass(frozen=True)
class Packet:
    """Some compressed sound, or a subtitle.

    Attributes:
        pts: presentation time in units of the track's time base; negative of what is before the begin.
        duration: in the same units.
        data: as the codec made it.
        track: number of the track in `MediaInfo.tracks`.
    """

    pts: int
    duration: int
    data: bytes
    track: int = 0


class FrameFormat(NamedTuple):
    """What all frames of a stream have in common.

    Attributes:
        height, width: in pixels as stored, before rotation.
        alpha: whether frames have an alpha channel.
        bit_depth: bits of a sample of decoded frames, 8..12.
    """

    height: int
    width: int
    alpha: bool = False
    bit_depth: int = 8

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a frame as an array."""
        return self.height, self.width, 4 if self.alpha else 3

    def gray(self) -> np.ndarray:
        """A decoded frame that is gray, and opaque."""
        frame = np.full(self.shape, 128, np.uint8)
        frame[..., 3:] = 255
        return rescaled(frame, 8, self.bit_depth)


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
        tracks: sound and subtitles.
        metadata: what else is kept, by name: "icc" and "xmp" of a picture as image files hold them; "exif", a TIFF
            structure with orientation 1 and without a thumbnail; "png:gAMA" and "png:cHRM", colours that `primaries`
            and `transfer` cannot express, as in these chunks; "loop", how often an animation is shown, a decimal
            number, 0 for ever; "mdcv" and "clli", the mastering display and the content light level, as in the SEI
            messages of ITU-T H.265; "chapters", a line "START END TITLE" in milliseconds for each; "language" of the
            pictures, for example "eng"; "tag:title" and the like, tags of a video and text of an image. Text is UTF-8.
        bit_depth: bits of a sample of decoded frames, 8..12, or 16 if they were asked for.
        alpha: whether the frames have an alpha channel.
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
    tracks: tuple[Track, ...] = ()
    metadata: Mapping[str, bytes] = field(default_factory=dict)
    bit_depth: int = 8
    alpha: bool = False

    @property
    def frame_format(self) -> FrameFormat:
        """What all frames have in common."""
        return FrameFormat(self.height, self.width, self.alpha, self.bit_depth)

    @property
    def loop(self) -> int | None:
        """How often an animation is shown, 0 for ever; None if that is not told."""
        text = self.metadata.get("loop", b"")
        return int(text) if text.isdigit() and len(text) < 10 else None

    @property
    def image(self) -> bool:
        """Whether this is a still image."""
        return self.frame_rate is None

    @property
    def frame_bytes(self) -> int:
        """Bytes of a decoded frame."""
        return (3 + self.alpha) * self.width * self.height * (1 if self.bit_depth == 8 else 2)


class Frame(NamedTuple):
    """A picture and its time.

    Attributes:
        rgb: RGB, uint8 (H, W, 3); if `MediaInfo.alpha` RGBA (H, W, 4), colours not multiplied by alpha; decoded
            frames of more than 8 bits are uint16, 0..2**bit_depth - 1.
        pts: presentation time in units of `MediaInfo.time_base`.
        duration: of the last frame, in the same units, if it is known; 0 for all others.
    """

    rgb: np.ndarray
    pts: int
    duration: int = 0


Items = Iterator[Frame | Packet]  # of an input, in its order


def rescaled(samples: np.ndarray, depth: int, target: int) -> np.ndarray:
    """Samples of `depth` bits, up to 16, as the nearest of `target` bits: uint8 of 8, uint16 of more.

    0 stays 0, and the largest becomes the largest.
    """
    if depth == target:
        return samples
    low, high = (1 << depth) - 1, (1 << target) - 1
    return ((samples.astype(np.uint32) * high + low // 2) // low).astype(np.uint8 if target == 8 else np.uint16)


def packed(frame: np.ndarray) -> bytes:
    """The samples of a frame in raster order, those of more than 8 bits little-endian: what checksums are of."""
    return frame.astype(frame.dtype.newbyteorder("<"), copy=False).tobytes()
