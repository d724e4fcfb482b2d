"""The quality of each frame of a group, given the one that is asked for. Free to change: headers tell the result."""

from ..stream.group import PREDICTED_BIT, MiniGop, Place, group_header

# By how much the quality falls from level to level of B frames: fewer frames, or none, are predicted from them.
B_LEVEL_OFFSET = 9
LONG_B_LEVEL_OFFSETS = {8: 8, 16: 5}  # in mini-GOPs of so many frames, which have more levels
# By how much the quality of the P frames after an I frame is lower than its own, in turn. What a coarse quantiser
# leaves adds up from P frame to P frame; a fine one now and then ends it, and costs less than if all were alike.
P_OFFSETS = (6, 5, 6, 4, 6, 5, 6, 0)
WHOLE_OFFSETS = 30  # the quality from which on they are so large; below it, quality is lost faster than bits
P_OFFSETS_AMONG_B = (5, 0)  # the same where there are B frames, but for anchors behind many of these: they lose nothing
MANY_FRAMES = 8  # of a mini-GOP


class FrameQualities:
    """The qualities of a group's frames, in the order of coding.

    Args:
        low_delay: whether there are no B frames.

    Attributes:
        mini_gops: those that `begin` began.
    """

    def __init__(self, low_delay: bool):
        self.mini_gops: list[MiniGop] = []
        self._headers: dict[int, int] = {}  # the header byte of each anchor so far, by the number of its frame
        self._low_delay = low_delay
        self._offsets = P_OFFSETS if low_delay else P_OFFSETS_AMONG_B
        self._p_frames = 0  # since the last anchor of full quality

    def begin(self, frames: int) -> None:
        """Begin a mini-GOP of so many frames."""
        self.mini_gops.append(MiniGop(frames, LONG_B_LEVEL_OFFSETS.get(frames, B_LEVEL_OFFSET)))

    def header(self, tune: int) -> bytes:
        """What the payload begins with. tune: its number."""
        return group_header(tune, list(self._headers.values()), self.mini_gops)

    def predicted(self, quality: int, place: Place) -> int:
        """Quality of a frame that is predicted, or lies between anchors; quality: the one that is asked for, 1..100."""
        if place.after is not None:
            return place.quality(self._headers[place.anchor] & ~PREDICTED_BIT, self.mini_gops[-1].level_offset)
        if self.mini_gops[-1].frames >= MANY_FRAMES:
            return quality
        offset = self._offsets[self._p_frames % len(self._offsets)]
        if self._low_delay:
            offset = offset * min(quality, WHOLE_OFFSETS) // WHOLE_OFFSETS
        return max(1, quality - offset)

    def choose(self, quality: int, place: Place, is_predicted: bool) -> int:
        """Quality of a frame, now that it is known whether it is predicted; notes the header of an anchor."""
        asked = quality
        if is_predicted or place.after is not None:
            quality = self.predicted(quality, place)
        if place.after is None:
            self._p_frames = 0 if quality == asked else self._p_frames + 1
            self._headers[place.number] = quality | (PREDICTED_BIT if is_predicted else 0)
        return quality
