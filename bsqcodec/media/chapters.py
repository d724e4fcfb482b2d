"""Chapters of a video as `MediaInfo.metadata` has them: lines "START END TITLE", in milliseconds."""

import math
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

NAME = "chapters"  # of the metadata
_LINE = re.compile(r"([0-9]{1,15}) ([0-9]{1,15}) ?(.*)")


class Chapter(NamedTuple):
    """A chapter: when it begins and ends, in seconds, and its title, which may be empty."""

    start: Fraction
    end: Fraction
    title: str


def unpack(value: bytes) -> list[Chapter]:
    """The chapters of a stream; a line that is none is passed over."""
    found = map(_LINE.fullmatch, value.decode(errors="replace").split("\n"))
    return [Chapter(Fraction(int(m[1]), 1000), Fraction(int(m[2]), 1000), m[3]) for m in found if m]


def pack_part(chapters: Iterable[Chapter], start: Fraction, end: Fraction | None) -> bytes:
    """The chapters of a part of a video, from `start` to `end` in seconds, None is its end; moved to begin at 0."""
    lines = []
    for chapter in chapters:
        first, last = (max(0, _milliseconds(time - start)) for time in chapter[:2])
        if last > 0 and (end is None or chapter.start < end):
            last = last if end is None else min(last, _milliseconds(end - start))
            lines.append(f"{first} {max(first, last)} {chapter.title}".rstrip())
    return "\n".join(lines).encode()


def _milliseconds(seconds: Fraction) -> int:
    """The nearest number, the larger of two."""
    return math.floor(1000 * seconds + Fraction(1, 2))
