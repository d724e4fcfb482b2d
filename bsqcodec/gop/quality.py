"""The quality of each frame of a group, given the one that is asked for. Free to change: headers tell the result."""

from ..stream.group import PREDICTED_BIT, Place

# By how much the quality falls from level to level of B frames: fewer frames, or none, are predicted from them.
B_LEVEL_OFFSET = 9
# By how much the quality of the P frames after an I frame is lower than its own, in turn. What a coarse quantiser
# leaves adds up from P frame to P frame; a fine one now and then ends it, and costs less than if all were alike.
P_OFFSETS = (6, 5, 6, 4, 6, 5, 6, 0)
P_OFFSETS_AMONG_B = (5, 0)


class FrameQualities:
    """The qualities of a group's frames, in the order of coding.

    Args:
        mini_gop: frames from one anchor to the next.

    Attributes:
        headers: the header byte of each anchor so far, by the number of its frame.
    """

    def __init__(self, mini_gop: int):
        self.headers: dict[int, int] = {}
        self._offsets = P_OFFSETS if mini_gop == 1 else P_OFFSETS_AMONG_B
        self._p_frames = 0  # since the last I frame

    def predicted(self, quality: int, place: Place) -> int:
        """Quality of a frame that is predicted, or lies between anchors; quality: the one that is asked for, 1..100."""
        if place.after is not None:
            return place.quality(self.headers[place.anchor] & ~PREDICTED_BIT, B_LEVEL_OFFSET)
        return max(1, quality - self._offsets[self._p_frames % len(self._offsets)])

    def choose(self, quality: int, place: Place, is_predicted: bool) -> int:
        """Quality of a frame, now that it is known whether it is predicted; notes the header of an anchor."""
        if is_predicted or place.after is not None:
            quality = self.predicted(quality, place)
        if place.after is None:
            self._p_frames = self._p_frames + 1 if is_predicted else 0
            self.headers[place.number] = quality | (PREDICTED_BIT if is_predicted else 0)
        return quality
