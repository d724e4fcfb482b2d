"""A group of pictures to bytes and back.

Payload of a GOP: one byte a frame (bit 7: P frame, bits 0..6: quality 1..100), then one range-coded stream of, for
each frame, its motion vectors (P frames) and its tokens. The first frame is no P frame: there, bit 7 says that bits
of the smallest probability are left out (`BitEncoder.encode_step`), as they are not in streams of version 1. Frames are
coded on a canvas whose sides are multiples of 16.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import bands, vector_search
from .ahead import read_ahead
from .coder import BitDecoder, BitEncoder
from .errors import FormatError
from .model import Model
from .motion import compensate, find
from .network import GRAY
from .tokenizer import TOKEN, to_pixels
from .vectors import VectorCoder

P_FRAME = 0x80
LEAVES_OUT = 0x80  # in the first byte
MOTION_LAMBDA = 0.35  # SAD a bit of vectors may cost, in quantiser steps, while they are searched
VECTOR_LAMBDA = 0.1  # squared error that it may cost in the end, in squared steps


@dataclass
class FrameStats:
    """Ideal code length of one frame in bits, -sum log2 P: `bits` of the tokens, `vector_bits` of the vectors."""

    kind: str
    quality: int
    bits: float
    vector_bits: float


def grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tokens (and of blocks of motion) that cover a frame."""
    return -(-height // TOKEN), -(-width // TOKEN)


def no_bits(model: Model, rows: int, columns: int) -> Tensor:
    """The bits that stand for those of the frame before an I frame."""
    return torch.zeros((1, rows, columns, model.network.config.bits), device=model.device)


def _condition(model: Model, kind: int, quality: int) -> tuple[Tensor, Tensor]:
    return torch.tensor([kind], device=model.device), torch.tensor([quality], device=model.device)


def _to_uint8(x: Tensor) -> Tensor:
    return to_pixels(x).to(torch.uint8)


class _Picture:
    """The last decoded frame on its canvas, and how the next one follows from it."""

    def __init__(self, model: Model, height: int, width: int):
        self.model, self.height, self.width = model, height, width
        self.rows, self.columns = grid(height, width)
        self.canvas: Tensor | None = None  # uint8 (1, 3, 16 * rows, 16 * columns)

    def gray(self) -> Tensor:
        shape = (1, 3, self.rows * TOKEN, self.columns * TOKEN)
        return torch.full(shape, GRAY, device=self.model.device)

    def predicted(self, vectors: np.ndarray) -> Tensor:
        assert self.canvas is not None
        field = torch.from_numpy(vectors.astype(np.int32))[None].to(self.model.device)
        return compensate(self.canvas, field)

    def of(self, s: "Symbols") -> np.ndarray:
        """The frame that follows, uint8 (H, W, 3)."""
        reference = self.gray() if s.vectors is None else self.predicted(s.vectors)
        return self.reconstruct(s.bits, reference, s.kind, s.quality)

    def reconstruct(self, bits: Tensor, reference: Tensor, kind: int, quality: int) -> np.ndarray:
        condition = _condition(self.model, kind, quality)
        decoder = self.model.network.decoder
        self.canvas = bands.decode(decoder, bits, reference, condition, _to_uint8)
        return self.canvas[0, :, : self.height, : self.width].permute(1, 2, 0).contiguous().cpu().numpy()


class GopEncoder:
    """Encodes frames that depend on each other; the first is an I frame, as is any that the last does not predict.

    Args:
        model: from `load_model`.
        height, width: of the frames, in pixels.
        effort: steps of the search for better bits (`refine`).
    """

    def __init__(self, model: Model, height: int, width: int, effort: int = 0):
        self._model, self._effort = model, effort
        self._picture = _Picture(model, height, width)
        self._bits = no_bits(model, self._picture.rows, self._picture.columns)
        self._vectors = VectorCoder()
        self._coder = BitEncoder()
        self._frames = bytearray()
        self._error = torch.tensor(0.0)  # mean absolute error of the last frame
        self.stats: list[FrameStats] = []

    @torch.inference_mode()
    def push(self, frame: np.ndarray, quality: int) -> np.ndarray:
        """Encode one frame, uint8 (H, W, 3) RGB, at quality 1..100; returns it as the decoder will give it."""
        s = self._picture
        if frame.shape != (s.height, s.width, 3) or frame.dtype != np.uint8:
            raise ValueError(f"frame is {frame.dtype} {frame.shape}, not uint8 {(s.height, s.width, 3)}")
        if not 1 <= quality <= 100:
            raise ValueError(f"quality {quality} is not in 1..100")
        x = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None].to(self._model.device)
        bottom, right = s.rows * TOKEN - s.height, s.columns * TOKEN - s.width
        x = F.pad(x.float(), (0, right, 0, bottom), mode="replicate")
        reference, vectors = self._predict(x, quality)
        kind = int(vectors is not None)
        before = self._coder.bits
        if vectors is not None:
            self._vectors.encode(vectors, self._coder)
        else:
            self._vectors, self._bits = VectorCoder(), no_bits(self._model, s.rows, s.columns)
        middle = self._coder.bits
        network = self._model.network
        condition = _condition(self._model, kind, quality)
        if self._effort:
            from . import refine  # which loads much that is not needed otherwise

            bits = refine.encode(self._model, x, reference, self._bits, condition, self._effort)
        else:
            bits = bands.encode(network, x, reference, condition)
        network.prior.run(self._bits, kind, quality, self._encode, bits)
        self._bits = bits
        self.stats.append(FrameStats("IP"[kind], quality, self._coder.bits - middle, middle - before))
        self._frames.append(quality | (0 if self._frames else LEAVES_OUT) | (P_FRAME if kind else 0))
        decoded = s.reconstruct(bits, reference, kind, quality)
        assert s.canvas is not None
        self._error = (x - s.canvas).abs().mean()
        return decoded

    def finish(self) -> bytes:
        """The payload of all frames pushed."""
        return bytes(self._frames) + self._coder.finish()

    def _predict(self, x: Tensor, quality: int) -> tuple[Tensor, np.ndarray | None]:
        """The reference of the frame and, if it is a P frame, its vectors."""
        s = self._picture
        if s.canvas is not None:
            step = float(self._model.network.step(torch.tensor(quality)))
            field = find(x.to(torch.uint8), s.canvas, MOTION_LAMBDA * step)
            vectors = vector_search.refine(field, self._vectors, VECTOR_LAMBDA * step**2)
            reference = s.predicted(vectors)
            # a scene cut: the frame is closer to the mean of each of its tokens than to its prediction, and that is
            # not because the last frame was coded as coarsely
            mean = F.interpolate(F.avg_pool2d(x, TOKEN), scale_factor=float(TOKEN))
            if (x - reference).abs().mean() < max((x - mean).abs().mean(), 1.2 * self._error):
                return reference, vectors
        return s.gray(), None

    def _encode(self, p: Tensor, bits: Tensor | None) -> Tensor:
        assert bits is not None
        self._coder.encode_step(bits.numpy(), p.numpy())
        return bits


class Symbols(NamedTuple):
    """The decoded symbols of one frame.

    Attributes:
        kind: 0 for an I frame, 1 for a P frame.
        quality: 1..100.
        vectors: int32 (ceil(H / 16), ceil(W / 16), 2) of a P frame; None for an I frame.
        bits: float32 (1, ceil(H / 16), ceil(W / 16), L) of 0.0 and 1.0.
        stats: what they cost.
    """

    kind: int
    quality: int
    vectors: np.ndarray | None
    bits: Tensor
    stats: FrameStats


def frame_headers(payload: bytes, frames: int) -> list[tuple[int, int]]:
    """(kind, quality) of each frame. Raises FormatError if there is one that no encoder writes."""
    if len(payload) < frames or frames < 1:
        raise FormatError("a group of pictures is too short for its frames")
    headers = [(byte >> 7 if i else 0, byte & 0x7F) for i, byte in enumerate(payload[:frames])]
    for i, (_, quality) in enumerate(headers):
        if not 1 <= quality <= 100:
            raise FormatError(f"frame {i} of a group of pictures has an impossible header {payload[i]:#04x}")
    return headers


@torch.inference_mode()
def decode_symbols(model: Model, payload: bytes, height: int, width: int, frames: int) -> Iterator[Symbols]:
    """Entropy decoding alone: every symbol of `frames` frames, no pixels. Raises FormatError as `decode_gop`."""
    headers = frame_headers(payload, frames)
    coder = BitDecoder(payload[frames:])
    step = coder.decode_step if payload[0] & LEAVES_OUT else coder.decode
    rows, columns = grid(height, width)
    motion, bits = VectorCoder(), no_bits(model, rows, columns)

    def decode(p: Tensor, _: Tensor | None) -> Tensor:
        return torch.from_numpy(step(p.numpy()))

    for kind, quality in headers:
        before = coder.bits
        field = None
        if kind:
            field = motion.decode(rows, columns, coder)
        else:
            motion, bits = VectorCoder(), no_bits(model, rows, columns)
        middle = coder.bits
        bits = model.network.prior.run(bits, kind, quality, decode)
        yield Symbols(kind, quality, field, bits, FrameStats("IP"[kind], quality, coder.bits - middle, middle - before))


@torch.inference_mode()
def decode_gop(model: Model, payload: bytes, height: int, width: int, frames: int) -> Iterator[np.ndarray]:
    """Decode `frames` frames, uint8 (H, W, 3) RGB each. Raises FormatError if the payload cannot be theirs.

    With several threads, or on a GPU, the symbols of the next frame are decoded beside the pixels of this one, each
    with half of the threads: the steps of the prior are too small to keep several, or a GPU, busy. That takes a third
    more memory, and is not done to frames that are too large for one band.
    """
    picture = _Picture(model, height, width)
    symbols = decode_symbols(model, payload, height, width, frames)
    threads = torch.get_num_threads()
    large = picture.rows * picture.columns > bands.MOST
    alone = threads == 1 and model.device.type == "cpu"
    if frames == 1 or alone or large:
        for s in symbols:
            yield picture.of(s)
        return

    def beside() -> Iterator[Symbols]:
        torch.set_num_threads(threads - threads // 2)  # of this thread alone
        yield from symbols

    with read_ahead(beside(), 1) as ready:
        for s in ready:
            torch.set_num_threads(max(1, threads // 2))
            try:
                decoded = picture.of(s)
            finally:
                torch.set_num_threads(threads)
            yield decoded
