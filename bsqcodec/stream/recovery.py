"""Reading on in a damaged stream: where the next whole chunk is, and when the frames that are lost were due."""

import re
import zlib
from typing import NamedTuple

from ..errors import FormatError
from .fields import Fields
from .window import PIECE, Window

# Most frames that are assumed lost where no bytes are; otherwise one per lost byte.
MAX_GAP = 65535
SEARCH_BUDGET = 1 << 32  # bytes whose checksums are computed before the rest of a stream is given up
_TYPES = re.compile(b"[GPEa-z]")  # of the chunks that are looked for
_MAX_CHUNK = 1 << 26  # bytes of a chunk that is looked for
# One byte in ten looks like the type of an ancillary chunk. Longer ones are not looked for: checksums of all that might
# be one would cost more than they are worth, because the chunk after it is found as well.
MAX_ANCILLARY = 1 << 18


class Lost(NamedTuple):
    """A part of a stream that cannot be read.

    Attributes:
        first: number of the first frame that is lost.
        pts: times of the frames that are lost, spaced evenly; none if sound alone is.
        reason: what is wrong, and where.
        ended: nothing readable follows, and how many frames did is not known.
    """

    first: int
    pts: tuple[int, ...]
    reason: str
    ended: bool = False


def lost_times(n: int, end: int | None, after: tuple[int, ...], interval: int) -> tuple[int, ...]:
    """Presentation times for n lost frames.

    Args:
        end: time of the frame before, if there is one.
        after: times of the frames that follow, if there are any.
        interval: time from frame to frame where `after` does not tell.
    """
    if after and end is not None:
        return tuple(end + (after[0] - end) * (i + 1) // (n + 1) for i in range(n))
    interval = min(interval if len(after) < 2 else after[1] - after[0], 1 << 31)  # n of them stay below MAX_TIME
    if after and after[0] >= n > 0:
        interval = min(interval, after[0] // n)  # an encoder's first frame is at 0
    start = after[0] - n * interval if after else interval + end if end is not None else 0
    return tuple(start + i * interval for i in range(n))


def resynchronise(window: Window, limit: int | None, budget: int) -> tuple[bool, int]:
    """Go on to the next whole chunk after the first byte of the window, or to offset `limit` if none comes before.

    budget: bytes whose checksums may be computed. Returns whether there is such a chunk, and the budget that is left.
    """
    at = 1
    while budget > 0:
        if at > PIECE:
            window.skip(at)
            at = 0
        if not window.fill(at + 10) and at >= len(window.ahead):
            return False, budget
        found = _TYPES.search(window.ahead, at)
        at = found.start() if found else len(window.ahead)
        if limit is not None and window.at + at >= limit:
            window.go(limit)
            return True, budget
        if not found:
            continue
        end = _end_of_body(window, at)
        if end and (limit is None or window.at + end + 4 <= limit) and window.fill(end + 4):
            budget -= end - at
            checksum = zlib.crc32(bytes(window.ahead[at:end]))
            if window.ahead[end : end + 4] == checksum.to_bytes(4, "little"):
                window.skip(at)
                return True, budget
        at += 1
    return False, budget


def _end_of_body(window: Window, at: int) -> int:
    """Where the body of a chunk would end that began at index `at` of the bytes ahead; 0 if none can begin there."""
    window.fill(at + 10)
    longest = MAX_ANCILLARY if window.ahead[at : at + 1].islower() else _MAX_CHUNK
    fields = Fields(bytes(window.ahead[at + 1 : at + 10]))
    try:
        return at + fields.varint(longest) + 1 + fields.at
    except FormatError:
        return 0
