"""Pictures, videos and their sound, from files, folders and pipes and into them. Uncompressed frames are 8-bit RGB."""

import math
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from ..errors import first_line
from ..types import AudioPacket, Frame, MediaInfo

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2"}
ANIMATION_SUFFIXES = {".gif", ".apng"}
VIDEO_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
STILL_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

FOLDER_RATE = Fraction(25)
EXIF_ROTATION = {1: 0, 6: 90, 3: 180, 8: 270}  # the orientations without a mirror

if av.logging.get_level() is None:
    # FFmpeg stays silent, but PyAV keeps its last error, which says more than the error code
    av.logging.set_level(av.logging.FATAL)


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


def suffix_of(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def natural(name: str) -> list[tuple[int, str]]:
    """Key that sorts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def reason_of(error: Exception) -> str:
    """The one line of an error that helps most."""
    if isinstance(error, av.FFmpegError):
        error_log: Any = error.log
        detail = f" ({error_log[2].strip()})" if error_log else ""
        return f"{error.strerror}{detail}".replace("\n", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


def ticks(seconds: float, time_base: Fraction) -> int:
    """First multiple of time_base at or after that many seconds, as exact as a person types them."""
    return math.ceil(Fraction(seconds).limit_denominator(1_000_000) / time_base)
