"""The order of coding of a group of pictures: anchors, and B frames between them in dyadic levels."""

from collections.abc import Iterator
from typing import NamedTuple

MAX_MINI_GOP = 16  # frames from one anchor to the next
DROP = 9  # steps of quality that each level of B frames is below: fewer frames or none are predicted from them
# Steps of quality that the P frames after an I frame are below it, in turn. What a coarse quantiser leaves adds up from
# P frame to P frame; a fine one now and then ends it, and costs less than if all were alike.
P_DROPS = (8, 7, 8, 5, 8, 7, 8, 0)
P_DROPS_AMONG_B = (5, 0)


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

    def frame_type(self, predicted: bool) -> int:
        """As the networks count them: 0 for a frame without reference, 1 for a P frame, 2 for a B frame."""
        return 0 if not predicted else 1 if self.after is None else 2

    def letter(self, predicted: bool) -> str:
        """ "I", "P" or "B" (even if nothing predicts it)."""
        return "B" if self.after is not None else "IP"[predicted]

    def quality(self, anchor: int, drop: int) -> int:
        """Quality 1..100 of the frame if that of the anchor which ends its mini-GOP is `anchor`."""
        return max(1, anchor - drop * self.level)


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


def coding_order(frames: int, mini: int) -> Iterator[Place]:
    """Every frame of a group in the order of coding. Anchors are the first, every `mini`-th and the last frame."""
    yield Place(0, 0)
    for first in range(0, frames - 1, mini):
        yield from mini_gop(first, min(first + mini, frames - 1))
