"""Choosing the quality for a rate. The rate rises with the quality, about exponentially."""

import math
from collections.abc import Callable

from .settings import MAX_QUALITY, MIN_QUALITY

_SLOPE = 0.095  # rise of log2 of the rate when the quality rises by one, the average over many pictures
_SLOPE_SPREAD = 4  # factor by which pictures may differ from that, up or down
_MAX_CHANGE = 10  # of the quality from one group of pictures to the next
_MAX_CUT = 4  # factor by which a group may get less than the target, to make up for what was overspent


def find_quality(bits: Callable[[int], float], target: float, tries: int) -> int:
    """The highest quality, 1..100, whose `bits(quality)` is at most `target`, by at most `tries` calls; 1 if none is.

    With fewer tries than the search takes, the highest that is known to fit.
    """
    low, high = MIN_QUALITY - 1, MAX_QUALITY + 1  # low is known to fit, high is known not to
    quality, slope = (low + high) // 2, _SLOPE
    last: tuple[int, float] | None = None
    for _ in range(tries):
        excess = math.log2(max(bits(quality), 1.0) / target)
        if excess <= 0:
            low = quality
        else:
            high = quality
        if high - low <= 1:
            break
        if last and last[0] != quality:
            slope = (excess - last[1]) / (quality - last[0])
            slope = min(max(slope, _SLOPE / _SLOPE_SPREAD), _SLOPE * _SLOPE_SPREAD)
        last = quality, excess
        quality = min(max(quality - math.ceil(excess / slope), low + 1), high - 1)
    return max(low, MIN_QUALITY)


class RateControl:
    """Keeps a video near its rate by a change of quality from one group of pictures to the next.

    Args:
        quality: of the first group, 1..100.
        target: bits per frame.
        frames: of the whole video, if known: then what was saved or overspent is spread over the rest.
        include_tracks: whether the target holds for pictures, sound and subtitles together.

    Attributes:
        quality: of the next group, 1..100.
    """

    def __init__(self, quality: int, target: float, frames: int | None = None, include_tracks: bool = False):
        self.quality = quality
        self._target, self._total, self._include_tracks = target, frames, include_tracks
        self._frames, self._bits = 0, 0.0  # so far

    def next(self, frames: int, size: int, tracks_size: int) -> int:
        """Choose the quality of the next group after `frames` frames in `size` bytes, `tracks_size` of them tracks."""
        bits = 8.0 * (size - tracks_size)
        rate = (bits - self._bits) / (frames - self._frames)
        self._frames, self._bits = frames, bits
        target = self._target - (8 * tracks_size / frames if self._include_tracks else 0)
        rest = max(1, self._total - frames) if self._total else frames  # frames to make up in for what was overspent
        wanted = max(target + (target * frames - bits) / rest, target / _MAX_CUT, 1)
        change = math.log2(wanted / max(rate, 1)) / _SLOPE
        change = round(min(max(change, -_MAX_CHANGE), _MAX_CHANGE))
        self.quality = min(max(self.quality + change, MIN_QUALITY), MAX_QUALITY)
        return self.quality
