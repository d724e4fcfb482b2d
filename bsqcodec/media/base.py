"""The interface of all inputs (`Source`), and what inputs and outputs share."""

import math
import os
from fractions import Fraction
from typing import Any

import av

from ..errors import first_line
from ..types import Items, MediaInfo
from .metadata import MAX_BYTES, MAX_ITEMS, size

DEFAULT_RATE = Fraction(25)  # frames per second where nothing tells, as in a folder of images
MAX_TIME = 1 << 60  # in units of a time base; a stream holds times up to 2^62
MAX_DEPTH = 12  # bits of a sample that a stream keeps
VIDEO_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}  # FFmpeg's names of outputs by suffix

if av.logging.get_level() is None:
    # FFmpeg stays silent, but PyAV keeps its last error, which says more than the error code
    av.logging.set_level(av.logging.FATAL)


class Source:
    """An open input: a context manager, and an iterable (once) of Frame and Packet in the order of the file.

    The first frame has pts 0, or its time after the first sound of a video that begins with sound; pts rise strictly.
    Iterating raises BsqError where the input turns out to be broken, or to hold what is not supported.

    Attributes:
        info: what the input holds.
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

    def __iter__(self) -> Items:
        raise NotImplementedError

    def _warn(self, line: str) -> None:
        """Add a warning, once."""
        if line not in self.warnings:
            self.warnings.append(line)

    def _if_small(self, metadata: dict[str, bytes]) -> dict[str, bytes]:
        """The metadata; nothing, with a warning, if it is too much to go into memory and streams as a whole."""
        if size(metadata) <= MAX_BYTES and len(metadata) <= MAX_ITEMS:
            return metadata
        self._warn(f"the metadata is left out: it has more than {MAX_BYTES // 1_000_000} MB, or {MAX_ITEMS} items")
        return {}


def coded_from_8_bits(name: str, bits: int, depth: int) -> str:
    """The warning for a source of `bits` a sample, which is decoded with `depth`."""
    return f"{name}: of the {bits} bits of a sample 8 are coded; decoded it has {depth} bits again"


def suffix_of(path: str) -> str:
    """The suffix of a path in lower case, with its dot; an empty string if there is none."""
    return os.path.splitext(path)[1].lower()


def ticks(seconds: float, time_base: Fraction) -> int:
    """First multiple of `time_base` at or after a time, which is taken as exactly as a person types it."""
    return math.ceil(Fraction(seconds).limit_denominator(1_000_000) / time_base)


def reason_of(error: Exception) -> str:
    """The most helpful single line of an error of FFmpeg, of the system, or of any other."""
    if isinstance(error, av.FFmpegError):
        error_log: Any = error.log
        detail = f" ({error_log[2].strip()})" if error_log else ""
        return f"{error.strerror}{detail}".replace("\n", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)
