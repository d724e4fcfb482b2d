"""Groups of pictures as a stream has them: colour and, of videos that have it, alpha. The one way to code a group."""

from collections.abc import Iterator

import numpy as np

from ..network.weights import Model
from ..settings import EncodeSettings
from ..types import FrameFormat, FrameStats, rescaled
from .alpha import OPAQUE, AlphaEncoder, decode_alpha, fill_transparent
from .decoder import decode_gop
from .encoder import GopEncoder


class PictureGroupEncoder:
    """Encodes the frames of one group, as `GopEncoder` does, and their alpha.

    Args:
        model: a model that `load_model` gives.
        frame_format: of all frames.
        settings: how to encode; the quality comes with each frame.
        decoded: if False, there is one frame, which is not returned decoded.

    Attributes:
        stats: of the colour of every frame encoded so far, in the order of coding.
    """

    def __init__(self, model: Model, frame_format: FrameFormat, settings: EncodeSettings, decoded: bool = True):
        height, width = frame_format.height, frame_format.width
        self._format = frame_format
        self._colour = GopEncoder(model, height, width, settings, depth=frame_format.bit_depth, decoded=decoded)
        self._decoded = decoded
        self._alpha = AlphaEncoder(model, height, width, settings) if frame_format.alpha else None
        self._waiting: list[np.ndarray] = []  # decoded colour that waits for its alpha
        self._alpha_body = b""
        self.stats: list[FrameStats] = self._colour.stats

    @property
    def bits(self) -> float:
        """Ideal code length of every frame encoded so far, in bits."""
        return self._colour.bits + 8 * len(self._alpha_body)

    def push(self, frame: np.ndarray, quality: int) -> list[np.ndarray]:
        """Take the next frame, uint8 (H, W, 3) RGB, or (H, W, 4) with alpha. Returns and raises as `GopEncoder.push`.

        With alpha no frame is returned before `flush`.
        """
        if self._alpha is None:
            return self._colour.push(frame, quality)
        if frame.shape != self._format.shape or frame.dtype != np.uint8:
            raise ValueError(f"frame is {frame.dtype} {frame.shape}, not uint8 {self._format.shape}")
        self._waiting += self._colour.push(colour_of(frame), quality)
        self._alpha.push(np.ascontiguousarray(frame[..., 3]))
        return []

    def flush(self) -> list[np.ndarray]:
        """Encode the frames that still wait; none may follow. Returns the frames that were not returned before."""
        decoded = self._colour.flush()
        if self._alpha is None:
            return decoded
        self._alpha_body, planes = self._alpha.finish()
        if not self._decoded:
            return []
        depth = self._format.bit_depth
        return [_joined(rgb, alpha, depth) for rgb, alpha in zip([*self._waiting, *decoded], planes, strict=True)]

    def finish(self) -> tuple[bytes, bytes]:
        """The payload of all frames pushed, and that of their alpha; `flush` comes before."""
        return self._colour.finish(), self._alpha_body


def decode_group(
    model: Model, payload: bytes, alpha: bytes, frame_format: FrameFormat, frames: int
) -> Iterator[np.ndarray]:
    """Decode `frames` frames, in the order of time. Raises FormatError if the payloads cannot be theirs.

    alpha: the payload of their alpha; empty if they are opaque.
    """
    height, width = frame_format.height, frame_format.width
    pictures = decode_gop(model, payload, height, width, frames, frame_format.bit_depth)
    if not frame_format.alpha:
        yield from pictures
        return
    opaque = np.full((height, width), OPAQUE, np.uint8)
    planes = decode_alpha(model, alpha, height, width, frames) if alpha else (opaque for _ in range(frames))
    for rgb, plane in zip(pictures, planes, strict=True):
        yield _joined(rgb, plane, frame_format.bit_depth)


def colour_of(frame: np.ndarray) -> np.ndarray:
    """The colour that is encoded of a frame with or without alpha, uint8 (H, W, 3)."""
    return fill_transparent(frame) if frame.shape[2] == 4 else frame


def _joined(rgb: np.ndarray, alpha: np.ndarray, depth: int) -> np.ndarray:
    """A frame (H, W, 3) of `depth` bits a sample and its alpha, uint8 (H, W), as (H, W, 4)."""
    return np.concatenate([rgb, rescaled(alpha, 8, depth)[..., None]], axis=2)
