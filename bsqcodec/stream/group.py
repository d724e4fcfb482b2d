"""Section 2 of bitstream_spec.md: how a group of pictures begins, and the order its frames are coded in.

Four bytes (length of the mini-GOPs or 0, by how much the quality falls from level to level of B frames, tune, bytes of
an anchor's header beyond one), a header for each anchor (bit 7: predicted, bits 0..6: quality 1..100; if mini-GOPs
differ, a second byte with length and fall of quality of the one that ends here), then what is range-coded: of each
frame its modes and motion vectors (if it is predicted) or its classes of contrast (if not), and its coefficients.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ..errors import FormatError
from ..settings import TUNES

MAX_MINI_GOP = 16  # frames from one anchor to the next
MAX_VECTOR = 2047  # largest |component| of a motion vector, in quarter pixels
BOTH, FIRST, SECOND = 0, 1, 2  # modes of blocks: the mean of two references, the first, the second
GROUP_HEADER_BYTES = 4  # of the header of a group
LENGTH_BITS = 4  # of the byte that tells a mini-GOP: its frames - 1; above them by how much the quality falls
PREDICTED_BIT = 0x80  # of an anchor's header
P_REFERENCE = 65208  # of 65536: that a B frame has a reference
P_BOTH = 49152  # that it has two, if it has any
P_AFTER = 32768  # that the only one is the frame after


class MiniGop(NamedTuple):
    """The frames behind an anchor, up to the next one and with it.

    Attributes:
        frames: their number, 1..16.
        level_offset: by how much the quality falls from level to level of the B frames among them; 0..15 if a group has
            several kinds of mini-GOPs.
    """

    frames: int
    level_offset: int


class Place(NamedTuple):
    """A frame's place in its group.

    Attributes:
        number: from 0, in the order of time.
        anchor: the anchor that ends its mini-GOP; `number` if it is one itself.
        before: the frame that an anchor may be predicted from, and one of two for a B frame; None for the first.
        after: the other one; None for an anchor.
        level: 0 for an anchor, and for a B frame one more than the higher level of the frames around it.
    """

    number: int
    anchor: int
    before: int | None = None
    after: int | None = None
    level: int = 0

    def frame_type(self, predicted: bool) -> str:
        """ "I", "P" or "B": a frame between two anchors is a B frame even if it is not predicted."""
        if self.after is not None:
            return "B"
        return "P" if predicted else "I"

    def quality(self, anchor: int, level_offset: int) -> int:
        """Quality 1..100 of the frame, by that of the anchor which ends its mini-GOP, lower by an offset per level."""
        return max(1, anchor - level_offset * self.level)


def mini_gop(first: int, last: int) -> Iterator[Place]:
    """The anchor `last`, which follows the anchor `first`, and the B frames between, in the order of coding."""

    def between(before: int, after: int, level: int) -> Iterator[Place]:
        middle = (before + after) // 2
        if middle > before:
            yield Place(middle, last, before, after, level)
            yield from between(before, middle, level + 1)
            yield from between(middle, after, level + 1)

    yield Place(last, last, first)
    yield from between(first, last, 1)


def code_references(numbers: list[int] | None, place: Place, code: Callable[[bool, int], int]) -> list[int]:
    """Code which frames a B frame is predicted from; `numbers` is None when decoding, and `code` ignores its bit."""
    assert place.before is not None and place.after is not None
    if not code(bool(numbers), P_REFERENCE):
        return []
    if code(numbers is not None and len(numbers) == 2, P_BOTH):
        return [place.before, place.after]
    return [place.after if code(numbers == [place.after], P_AFTER) else place.before]


class FrameHeader(NamedTuple):
    """Type and quality of a frame, as its group tells them before the symbols.

    Attributes:
        place: the frame's place in its group.
        frame_type: "I", "P" or "B".
        quality: 1..100.
    """

    place: Place
    frame_type: str
    quality: int


class Group(NamedTuple):
    """A payload taken apart.

    Attributes:
        tune: its number, an index of `settings.TUNES`.
        headers: of every frame, in the order of coding.
        mini_gops: one for each anchor but the first.
        coded: what the range coder reads.
    """

    tune: int
    headers: list[FrameHeader]
    mini_gops: list[MiniGop]
    coded: bytes


def group_header(tune: int, anchors: Sequence[int], mini_gops: Sequence[MiniGop]) -> bytes:
    """What a payload begins with.

    tune: its number. anchors: the header byte of each. mini_gops: one for each anchor but the first.
    """
    usual = mini_gops[0] if mini_gops else MiniGop(1, 0)
    if all(mini == usual for mini in mini_gops[:-1]) and all(
        mini.frames <= usual.frames and mini.level_offset == usual.level_offset for mini in mini_gops[-1:]
    ):
        return bytes([*usual, tune, 0, *anchors])
    kinds = [0, *(mini.level_offset << LENGTH_BITS | mini.frames - 1 for mini in mini_gops)]
    return bytes([0, 0, tune, 1, *itertools.chain(*zip(anchors, kinds, strict=True))])


def parse_group(payload: bytes, frames: int) -> Group:
    """Take a payload of `frames` frames apart. Raises FormatError if it has a header that no encoder writes."""
    if len(payload) < GROUP_HEADER_BYTES or frames < 1:
        raise FormatError("a group of pictures is too short for its frames")
    mini, level_offset, tune, more = payload[:GROUP_HEADER_BYTES]
    if mini > MAX_MINI_GOP or (not mini and not more):
        raise FormatError(f"a group of pictures has mini-GOPs of {mini} frames")
    if tune >= len(TUNES):
        raise FormatError(f"a group of pictures has the unknown tune {tune}")
    at, anchor = GROUP_HEADER_BYTES, 0
    headers: list[FrameHeader] = []
    mini_gops: list[MiniGop] = []
    while True:
        header, at = payload[at : at + 1 + more], at + 1 + more
        if at > len(payload):
            raise FormatError("a group of pictures is too short for its frames")
        places: Iterable[Place] = [Place(0, 0)]
        if headers:
            length = min(mini, frames - 1 - anchor)
            if not mini:
                level_offset, length = header[1] >> LENGTH_BITS, 1 + header[1] % (1 << LENGTH_BITS)
            places = mini_gop(anchor, anchor + length)
            mini_gops.append(MiniGop(length, level_offset))
            anchor += length
        predicted, quality = divmod(header[0], PREDICTED_BIT)
        if not 1 <= quality <= 100 or (predicted and not anchor) or anchor >= frames:
            raise FormatError(f"frame {anchor} of a group of pictures has an impossible header {header[0]:#04x}")
        for place in places:
            headers.append(FrameHeader(place, place.frame_type(predicted > 0), place.quality(quality, level_offset)))
        if anchor == frames - 1:
            return Group(tune, headers, mini_gops, payload[at:])
