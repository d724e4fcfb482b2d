"""Choosing the quality for a rate. The rate rises with the quality, about exponentially."""

import math
from collections.abc import Callable

SLOPE = 0.095  # log2 of the rate, a step of quality: what a model does on average


def find_quality(bits: Callable[[int], float], target: float, tries: int) -> int:
    """The highest quality whose `bits(quality)` is at most `target`, by at most `tries` calls; 1 if there is none.

    With fewer tries than the search takes, the best so far.
    """
    low, high = 0, 101  # low is known to fit, high is known not to
    quality, slope = 50, SLOPE
    last: tuple[int, float] | None = None
    for _ in range(tries):
        used = math.log2(max(bits(quality), 1.0) / target)
        if used <= 0:
            low = quality
        else:
            high = quality
        if high - low <= 1:
            break
        if last and last[0] != quality:
            slope = min(max((used - last[1]) / (quality - last[0]), SLOPE / 4), SLOPE * 4)
        last = quality, used
        quality = min(max(quality - math.ceil(used / slope), low + 1), high - 1)
    return max(low, 1)


class RateControl:
    """Keeps a video near its rate by a change of quality from one group of pictures to the next.

    Args:
        quality: of the first group.
        target: bits a frame.
        frames: of the whole video, if known: then what was saved or overspent is spread over the rest.
        include_audio: the target holds for pictures and sound together.
    """

    def __init__(self, quality: int, target: float, frames: int | None = None, include_audio: bool = False):
        self.quality, self.target, self.frames, self.include_audio = quality, target, frames, include_audio
        self._frames = 0
        self._bits = 0.0

    def next(self, frames: int, size: int, audio_size: int) -> int:
        """The quality of the next group, after `frames` frames in `size` bytes, `audio_size` of them audio."""
        bits = 8.0 * (size - audio_size)
        rate = (bits - self._bits) / (frames - self._frames)
        self._frames, self._bits = frames, bits
        target = self.target - (8 * audio_size / frames if self.include_audio else 0)
        horizon = max(1, self.frames - frames) if self.frames else frames
        wanted = max(target + (target * frames - bits) / horizon, target / 4, 1)
        change = math.log2(wanted / max(rate, 1)) / SLOPE
        self.quality = min(max(self.quality + round(min(max(change, -10), 10)), 1), 100)
        return self.quality
