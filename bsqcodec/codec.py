"""A group of pictures to bytes and back.

Payload of a GOP: one byte a frame (bit 7: P frame, bits 0..6: quality 1..100), then one range-coded stream of, for
each frame, its motion vectors (P frames) and its tokens. Frames are coded on a canvas whose sides are multiples of 16.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .coder import BitDecoder, BitEncoder
from .errors import FormatError
from .model import Model
from .motion import compensate, search
from .network import GRAY
from .tokenizer import TOKEN, to_pixels
from .vectors import VectorCoder

P_FRAME = 0x80
MOTION_LAMBDA = 0.5  # SAD a bit of vectors may cost, in quantiser steps


@dataclass
class FrameStats:
    """Ideal code length of one frame in bits, -sum log2 P: `bits` of the tokens, `vector_bits` of the vectors."""

    kind: str
    quality: int
    bits: float
    vector_bits: float


class _State:
    """What encoder and decoder both know after each frame: the last frame, its bits, the vectors' statistics."""

    def __init__(self, model: Model, height: int, width: int):
        self.model, self.height, self.width = model, height, width
        self.rows, self.columns = -(-height // TOKEN), -(-width // TOKEN)
        self.reset()

    def reset(self) -> None:
        shape = (1, self.rows, self.columns, self.model.network.config.bits)
        self.bits = torch.zeros(shape, device=self.model.device)
        self.canvas: Tensor | None = None  # uint8 (1, 3, H, W)
        self.vectors = VectorCoder()

    def reconstruct(self, bits: Tensor, reference: Tensor, kind: int, quality: int) -> np.ndarray:
        decoded = self.model.network.decoder(bits, reference, self.condition(kind, quality))
        self.canvas = to_pixels(decoded).to(torch.uint8)
        self.bits = bits
        return self.canvas[0, :, : self.height, : self.width].permute(1, 2, 0).contiguous().cpu().numpy()

    def condition(self, kind: int, quality: int) -> tuple[Tensor, Tensor]:
        device = self.model.device
        return torch.tensor([kind], device=device), torch.tensor([quality], device=device)

    def gray(self) -> Tensor:
        shape = (1, 3, self.rows * TOKEN, self.columns * TOKEN)
        return torch.full(shape, GRAY, device=self.model.device)

    def predicted(self, vectors: np.ndarray) -> Tensor:
        assert self.canvas is not None
        field = torch.from_numpy(vectors.astype(np.int32))[None].to(self.model.device)
        return compensate(self.canvas, field)


class GopEncoder:
    """Encodes frames that depend on each other; the first is an I frame, as is any that the last does not predict.

    Args:
        model: from `load_model`.
        height, width: of the frames, in pixels.
    """

    def __init__(self, model: Model, height: int, width: int):
        self._state = _State(model, height, width)
        self._network = model.network
        self._coder = BitEncoder()
        self._frames = bytearray()
        self.stats: list[FrameStats] = []

    @torch.inference_mode()
    def push(self, frame: np.ndarray, quality: int) -> np.ndarray:
        """Encode one frame, uint8 (H, W, 3) RGB, at quality 1..100; returns it as the decoder will give it."""
        s = self._state
        if frame.shape != (s.height, s.width, 3) or frame.dtype != np.uint8:
            raise ValueError(f"frame is {frame.dtype} {frame.shape}, not uint8 {(s.height, s.width, 3)}")
        if not 1 <= quality <= 100:
            raise ValueError(f"quality {quality} is not in 1..100")
        x = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None].to(s.model.device)
        bottom, right = s.rows * TOKEN - s.height, s.columns * TOKEN - s.width
        x = F.pad(x.float(), (0, right, 0, bottom), mode="replicate")
        kind, reference, vectors = self._predict(x, quality)
        before = self._coder.bits
        if kind:
            s.vectors.encode(vectors, self._coder)
        middle = self._coder.bits
        bits = self._network.bits(x, reference, s.condition(kind, quality))
        self._network.prior.run(s.bits, kind, quality, self._encode, bits)
        self.stats.append(FrameStats("IP"[kind], quality, self._coder.bits - middle, middle - before))
        self._frames.append(quality | (P_FRAME if kind else 0))
        return s.reconstruct(bits, reference, kind, quality)

    def finish(self) -> bytes:
        """The payload of all frames pushed."""
        return bytes(self._frames) + self._coder.finish()

    def _predict(self, x: Tensor, quality: int) -> tuple[int, Tensor, np.ndarray]:
        """Choose the frame's kind: (0, gray, -) or (1, compensated reference, vectors)."""
        s = self._state
        none = np.zeros((0, 0, 2), np.int32)
        if s.canvas is not None:
            step = float(self._network.step(torch.tensor(quality)))
            found = search(x.to(torch.uint8), s.canvas, MOTION_LAMBDA * step)
            vectors = found[0].cpu().numpy()
            reference = s.predicted(vectors)
            # a scene cut: the frame is closer to the mean of each of its tokens than to its prediction
            mean = F.interpolate(F.avg_pool2d(x, TOKEN), scale_factor=float(TOKEN))
            if (x - reference).abs().mean() < (x - mean).abs().mean():
                return 1, reference, vectors
            s.reset()
        return 0, s.gray(), none

    def _encode(self, p: Tensor, bits: Tensor | None) -> Tensor:
        assert bits is not None
        self._coder.encode(bits.cpu().numpy().astype(np.uint8).ravel(), p.cpu().numpy().ravel())
        return bits


@torch.inference_mode()
def decode_gop(model: Model, payload: bytes, height: int, width: int, frames: int) -> Iterator[np.ndarray]:
    """Decode `frames` frames, uint8 (H, W, 3) RGB each. Raises FormatError if the payload cannot be theirs."""
    if len(payload) < frames or frames < 1:
        raise FormatError("a group of pictures is too short for its frames")
    coder = BitDecoder(payload[frames:])
    state = _State(model, height, width)

    def decode(p: Tensor, _: Tensor | None) -> Tensor:
        bits = coder.decode(p.cpu().numpy().ravel())
        return torch.from_numpy(bits).to(model.device)

    for i, byte in enumerate(payload[:frames]):
        kind, quality = byte >> 7, byte & 0x7F
        if not 1 <= quality <= 100 or (kind and i == 0):
            raise FormatError(f"frame {i} of a group of pictures has an impossible header {byte:#04x}")
        if kind:
            reference = state.predicted(state.vectors.decode(state.rows, state.columns, coder))
        else:
            state.reset()
            reference = state.gray()
        bits = model.network.prior.run(state.bits, kind, quality, decode)
        yield state.reconstruct(bits, reference, kind, quality)
