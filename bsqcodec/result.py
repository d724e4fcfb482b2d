"""What encoding or decoding a file comes to, and how it is told meanwhile."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .types import MediaInfo, packed


@dataclass
class Result:
    """What was encoded or decoded.

    Attributes:
        info: attributes of the video.
        frames: number of frames.
        kept: frames of these that were encoded before, by an encode that is now resumed; `md5` does not have them.
        size: bytes of the .bsq stream; of one that is decoded, those that were read, and 0 in the end if only a part
            was wanted.
        track_bytes: those of `size` that are sound and subtitles; None, of a stream that is not encoded, if not known.
        bits: ideal code length of the pictures of an encoded stream.
        seconds: when the last frame of a video that was encoded ends, 0 if this is not known.
        qualities: lowest and highest quality that was asked for, or found by `verify_file`.
        warnings: a line for each thing that was lost.
    """

    info: MediaInfo
    frames: int = 0
    kept: int = 0
    size: int = 0
    track_bytes: int | None = None
    bits: float = 0.0
    seconds: float = 0.0
    qualities: tuple[int, int] = (100, 1)
    warnings: list[str] = field(default_factory=list)
    _digest: "hashlib._Hash" = field(default_factory=hashlib.md5, repr=False)

    def add(self, rgb: np.ndarray) -> None:
        """Count a decoded frame and add it to the MD5."""
        self.frames += 1
        self._digest.update(packed(rgb))

    @property
    def md5(self) -> str:
        """MD5 of all decoded frames, `packed`, one after the other. A still image may be encoded without it."""
        return self._digest.hexdigest()


# called after each frame with what is done so far and the number of frames to expect, if known
Progress = Callable[[Result, int | None], None]
