"""What quality each frame of a group gets of the one that is asked for. Free to change: a header tells it of each."""

from ..stream.group import PREDICTED, Place

# Steps of quality that each level of B frames is below its anchor: fewer frames or none are predicted from them.
B_LEVEL_OFFSET = 9
# Steps of quality that the P frames after an I frame are below it, in turn. What a coarse quantiser leaves adds up from
# P frame to P frame; a fine one now and then ends it, and costs less than if all were alike.
P_OFFSETS = (8, 7, 8, 5, 8, 7, 8, 0)
P_OFFSETS_AMONG_B = (5, 0)


class FrameQualities:
    """The qualities of a group's frames, in the order of coding.

    Args:
        mini_gop: frames from one anchor to the next.

    Attributes:
        headers: the byte that the payload has of each anchor so far.
    """

    def __init__(self, mini_gop: int):
        self.headers: dict[int, int] = {}
        self._offsets = P_OFFSETS if mini_gop == 1 else P_OFFSETS_AMONG_B
        self._p_frames = 0  # since the last I frame

    def predicted(self, quality: int, place: Place) -> int:
        """What a frame gets if it is predicted, or lies between anchors; quality: 1..100, what is asked for."""
        if place.after is not None:
            return place.quality(self.headers[place.anchor] & ~PREDICTED, B_LEVEL_OFFSET)
        return max(1, quality - self._offsets[self._p_frames % len(self._offsets)])

    def choose(self, quality: int, place: Place, is_predicted: bool) -> int:
        """What a frame gets now that it is known whether it is predicted."""
        if is_predicted or place.after is not None:
            quality = self.predicted(quality, place)
        if place.after is None:
            self._p_frames = self._p_frames + 1 if is_predicted else 0
            self.headers[place.number] = quality | (PREDICTED if is_predicted else 0)
        return quality
