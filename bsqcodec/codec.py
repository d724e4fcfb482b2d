"""A group of pictures to bytes and back.

Payload of a group: one byte a frame (bit 7: predicted, bits 0..6: quality 1..100), then one range-coded stream of, for
each frame, its motion vectors (of predicted frames) and its tokens. Nothing predicts the first frame: there, bit 7 says
that bits of the smallest probability are left out (`BitEncoder.encode_step`), as they are not in streams of version 1.
A group with B frames (version 3) begins with a byte 0, the length of its mini-GOPs, and how many steps of quality each
level of B frames is below; only anchors have a byte, and bits are left out. With mini-GOPs of 4 frames, the order of
coding is 0 4 2 1 3 8 6 5 7 .. (`coding_order`). Frames are coded on a canvas whose sides are multiples of 16.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import bands, vector_search
from .ahead import read_ahead
from .coder import ONE, BitDecoder, BitEncoder
from .errors import FormatError
from .model import Model
from .motion import MOTION_LAMBDA, VECTOR_LAMBDA, compensate, find, mean
from .network import GRAY
from .order import DROP, Place, coding_order, mini_gop
from .rate import GroupQuality
from .tokenizer import TOKEN, to_pixels
from .vectors import LIMIT, VectorCoder

_T = TypeVar("_T")

PREDICTED = 0x80
LEAVES_OUT = 0x80  # in the first byte
MINI_GOP = 4  # frames from one anchor to the next where an encoder is free to choose
MAX_MINI_GOP = 16
SOME = 65208  # of ONE: how likely a B frame has a reference
BOTH = 49152  # and two, if it has any


@dataclass
class FrameStats:
    """Ideal code length of one frame in bits, -sum log2 P: `bits` of the tokens, `vector_bits` of the vectors.

    `kind` is "I", "P" or "B".
    """

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


class _Pictures:
    """The decoded frames on their canvases, and how others follow from them."""

    def __init__(self, model: Model, height: int, width: int):
        self.model, self.height, self.width = model, height, width
        self.rows, self.columns = grid(height, width)
        self.canvases: dict[int, Tensor] = {}  # uint8 (1, 3, 16 * rows, 16 * columns)

    def gray(self) -> Tensor:
        shape = (1, 3, self.rows * TOKEN, self.columns * TOKEN)
        return torch.full(shape, GRAY, device=self.model.device)

    def predicted(self, reference: int, vectors: np.ndarray) -> Tensor:
        field = torch.from_numpy(vectors.astype(np.int32))[None].to(self.model.device)
        return compensate(self.canvases[reference], field)

    def of(self, s: "Symbols") -> np.ndarray:
        """The frame that follows, uint8 (H, W, 3)."""
        predictions = [self.predicted(reference, vectors) for reference, vectors in s.vectors.items()]
        reference = mean(*predictions) if len(predictions) == 2 else predictions[0] if predictions else self.gray()
        return self.reconstruct(s.place, s.bits, reference, s.kind, s.quality)

    def reconstruct(self, place: Place, bits: Tensor, reference: Tensor, kind: int, quality: int) -> np.ndarray:
        condition = _condition(self.model, kind, quality)
        decoder = self.model.network.decoder
        _forget(self.canvases, place)
        canvas = self.canvases[place.number] = bands.decode(decoder, bits, reference, condition, _to_uint8)
        return canvas[0, :, : self.height, : self.width].permute(1, 2, 0).contiguous().cpu().numpy()


def _forget(items: dict[int, _T], place: Place) -> None:
    """Remove what was kept of the frames that nothing refers to from here on."""
    if place.after is None:
        for number in [n for n in items if place.before is None or n < place.before]:
            del items[number]


class _Past:
    """What the symbols of a frame are predicted from: vectors and token bits of those that were coded before it."""

    def __init__(self, model: Model, rows: int, columns: int):
        self._model, self.size = model, (rows, columns)
        self._coders: dict[str, VectorCoder] = {}
        self._bits: dict[int, Tensor] = {}  # uint8: they may be several
        self._vectors: dict[int, dict[int, np.ndarray]] = {}  # of each frame, for each of its references

    def bits(self, place: Place, kind: int) -> Tensor:
        """Of the frame before, as the prior takes them: none for a frame without references."""
        if not kind:
            return no_bits(self._model, *self.size)
        assert place.before is not None
        return self._bits[place.before].float()

    def add(self, place: Place, vectors: dict[int, np.ndarray], bits: Tensor) -> None:
        """Keep the symbols of a frame. After an I frame the coders of vectors begin anew."""
        if place.after is None and not vectors:
            self._coders = {"P": VectorCoder(), "B": VectorCoder()}
        _forget(self._bits, place)
        _forget(self._vectors, place)
        self._bits[place.number], self._vectors[place.number] = bits.to(torch.uint8), vectors

    def coder(self, place: Place, reference: int, vectors: dict[int, np.ndarray]) -> VectorCoder:
        """What codes the frame's vectors into `reference`, after `vectors`, and expects them where motion is steady."""
        known = {**self._vectors, place.number: vectors}
        expected = None
        for source, towards in (
            (place.number, None),
            (place.after, place.before),
            (place.before, place.after),
        ):
            if source is not None and (fields := known.get(source)):
                towards = towards if towards in fields else next(iter(fields))
                expected = _scaled(fields[towards], reference - place.number, towards - source)
                break
        coder = self._coders["P" if place.after is None else "B"]
        coder.expect(expected)
        return coder


def _scaled(field: np.ndarray, part: int, whole: int) -> np.ndarray:
    """The vectors times part / whole, rounded to the nearest."""
    part, whole = (part, whole) if whole > 0 else (-part, -whole)
    return np.clip((2 * field.astype(np.int64) * part + whole) // (2 * whole), -LIMIT, LIMIT)


class GopEncoder:
    """Encodes frames that depend on each other; the first is an I frame, as is any that no other one predicts.

    Args:
        model: from `load_model`.
        height, width: of the frames, in pixels.
        effort: steps of the search for better bits (`refine`).
        mini: length of the mini-GOPs, 1..16. 1: no B frames, and every frame is encoded when it comes.

    Attributes:
        stats: of every frame encoded so far, in the order of coding.
    """

    def __init__(self, model: Model, height: int, width: int, effort: int = 0, mini: int = 1):
        if not 1 <= mini <= MAX_MINI_GOP:
            raise ValueError(f"mini-GOPs of {mini} frames; they may have 1 to {MAX_MINI_GOP}")
        self._model, self._effort, self._mini = model, effort, mini
        self._pictures = _Pictures(model, height, width)
        self._past = _Past(model, self._pictures.rows, self._pictures.columns)
        self._coder = BitEncoder()
        self._headers: dict[int, int] = {}  # of each anchor that is encoded
        self._waiting: list[tuple[np.ndarray, int]] = []  # frames, and the quality that is asked for
        self._quality = GroupQuality()
        self._error = torch.tensor(0.0)  # mean absolute error of the last frame
        self.stats: list[FrameStats] = []

    def push(self, frame: np.ndarray, quality: int) -> list[np.ndarray]:
        """Take the next frame, uint8 (H, W, 3) RGB, to be encoded at about quality 1..100 (`rate.GroupQuality`).

        Returns the frames that are encoded by now and were not returned before, in the order of time, as the decoder
        will give them.
        """
        s = self._pictures
        if frame.shape != (s.height, s.width, 3) or frame.dtype != np.uint8:
            raise ValueError(f"frame is {frame.dtype} {frame.shape}, not uint8 {(s.height, s.width, 3)}")
        if not 1 <= quality <= 100:
            raise ValueError(f"quality {quality} is not in 1..100")
        self._waiting.append((frame, quality))
        if not self._headers:
            return self._encode([Place(0, 0)])
        return self.flush() if len(self._waiting) == self._mini else []

    def flush(self) -> list[np.ndarray]:
        """Encode the frames that still wait, the last one as an anchor; none may follow. Returns them like `push`."""
        last = len(self.stats) - 1
        return self._encode(list(mini_gop(last, last + len(self._waiting)))) if self._waiting else []

    @property
    def bits(self) -> float:
        """Ideal code length of every frame encoded so far."""
        return self._coder.bits

    def finish(self) -> bytes:
        """The payload of all frames pushed; `flush` comes before."""
        assert not self._waiting, "there are frames that are not encoded"
        headers = bytes(self._headers.values())
        if self._mini > 1 and len(headers) > 1:
            start = bytes([0, self._mini, DROP])
        else:
            start, headers = b"", bytes([headers[0] | LEAVES_OUT]) + headers[1:]
        return start + headers + self._coder.finish()

    def _encode(self, places: list[Place]) -> list[np.ndarray]:
        first, waiting, self._waiting = len(self.stats), self._waiting, []
        decoded = {place.number: self._encode_frame(*waiting[place.number - first], place) for place in places}
        return [picture for _, picture in sorted(decoded.items())]

    @torch.inference_mode()
    def _encode_frame(self, frame: np.ndarray, quality: int, place: Place) -> np.ndarray:
        s = self._pictures
        if place.after is None:
            quality = self._quality.of_next(quality)
        else:
            quality = place.quality(self._headers[place.anchor] & ~PREDICTED, DROP)
        x = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None].to(self._model.device)
        bottom, right = s.rows * TOKEN - s.height, s.columns * TOKEN - s.width
        x = F.pad(x.float(), (0, right, 0, bottom), mode="replicate")
        reference, vectors = self._predict(x, quality, place)
        kind = place.kind(bool(vectors))
        start = self._coder.bits
        previous = self._past.bits(place, kind)
        if place.after is not None:
            _code_references(list(vectors), place, self._encode_bit)
        known: dict[int, np.ndarray] = {}
        for number, field in vectors.items():
            self._past.coder(place, number, known).encode(field, self._coder)
            known[number] = field
        middle = self._coder.bits
        network = self._model.network
        condition = _condition(self._model, kind, quality)
        if self._effort:
            from . import refine  # which loads much that is not needed otherwise

            bits = refine.encode(self._model, x, reference, previous, condition, self._effort)
        else:
            bits = bands.encode(network, x, reference, condition)
        network.prior.run(previous, kind, quality, self._encode_step, bits)
        self._past.add(place, vectors, bits)
        letter = place.letter(kind > 0)
        self.stats.append(FrameStats(letter, quality, self._coder.bits - middle, middle - start))
        if place.after is None:
            self._headers[place.number] = quality | (PREDICTED if kind else 0)
        decoded = s.reconstruct(place, bits, reference, kind, quality)
        self._error = (x - s.canvases[place.number]).abs().mean()
        if place.after is None:
            self._quality.seen(letter, frame, decoded)
        return decoded

    def _predict(self, x: Tensor, quality: int, place: Place) -> tuple[Tensor, dict[int, np.ndarray]]:
        """The reference of the frame and, for each frame that it is made of, the vectors; none for an I frame."""
        s = self._pictures
        if place.before is not None:
            reference, vectors = self._motion(x, quality, place)
            # a scene cut: the frame is closer to the mean of each of its tokens than to its prediction, and that is
            # not because the last frame was coded as coarsely
            flat = F.interpolate(F.avg_pool2d(x, TOKEN), scale_factor=float(TOKEN))
            if (x - reference).abs().mean() < max((x - flat).abs().mean(), 1.2 * self._error):
                return reference, vectors
        return s.gray(), {}

    def _motion(self, x: Tensor, quality: int, place: Place) -> tuple[Tensor, dict[int, np.ndarray]]:
        """The best prediction and its vectors: from one frame or, for a B frame, perhaps from both."""
        step = float(self._model.network.step(torch.tensor(quality)))
        lam = VECTOR_LAMBDA * step**2
        pixels = x.to(torch.uint8)
        single, costs = [], []
        known: dict[int, np.ndarray] = {}
        assert place.before is not None
        references = [place.before] if place.after is None else [place.before, place.after]
        for number in references:
            coder = self._past.coder(place, number, known).copy()
            start = None
            if place.after is not None and (expected := coder.expected(*self._past.size)) is not None:
                start = torch.from_numpy(expected.reshape(1, *self._past.size, 2)).to(self._model.device)
            field = find(pixels, self._pictures.canvases[number], MOTION_LAMBDA * step, start, start is None)
            known[number] = vector_search.refine(field, coder, lam)
            single.append(self._pictures.predicted(number, known[number]))
            if place.after is None:  # there is nothing to choose from
                return single[0], known
            scratch = BitEncoder()
            coder.encode(known[number], scratch)
            costs.append(scratch.bits)
        assert place.after is not None
        options = [
            (single[0], costs[0], {place.before: known[place.before]}),
            (single[1], costs[1], {place.after: known[place.after]}),
            (mean(*single), sum(costs), known),
        ]
        # the error over all three colours counts as luma's does
        best = min(options, key=lambda o: float((x - o[0]).square().sum() / 3) + lam * o[1])
        return best[0], best[2]

    def _encode_bit(self, bit: bool, p: int) -> bool:
        self._coder.encode(np.array([bit]), np.array([p]))
        return bit

    def _encode_step(self, p: Tensor, bits: Tensor | None) -> Tensor:
        assert bits is not None
        self._coder.encode_step(bits.numpy(), p.numpy())
        return bits


def _code_references(numbers: list[int] | None, place: Place, code: Callable[[bool, int], int]) -> list[int]:
    """Code which frames a B frame is predicted from; `numbers` is None when decoding, and `code` ignores its bit."""
    assert place.before is not None and place.after is not None
    if not code(bool(numbers), SOME):
        return []
    if code(numbers is not None and len(numbers) == 2, BOTH):
        return [place.before, place.after]
    return [place.after if code(numbers == [place.after], ONE // 2) else place.before]


class Symbols(NamedTuple):
    """The decoded symbols of one frame.

    Attributes:
        place: of the frame.
        kind: 0 for a frame without reference, 1 for a P frame, 2 for a B frame.
        quality: 1..100.
        vectors: for each frame that it is predicted from, int32 (ceil(H / 16), ceil(W / 16), 2).
        bits: float32 (1, ceil(H / 16), ceil(W / 16), L) of 0.0 and 1.0.
        stats: what they cost.
    """

    place: Place
    kind: int
    quality: int
    vectors: dict[int, np.ndarray]
    bits: Tensor
    stats: FrameStats


class Header(NamedTuple):
    """What the payload tells of a frame before its symbols. `kind` is "I", "P" or "B" (even without a reference)."""

    place: Place
    kind: str
    quality: int


def _parts(payload: bytes, frames: int) -> tuple[int, list[Header], bytes]:
    """Length of the mini-GOPs, headers, coded bits. Raises as `frame_headers`."""
    mini, drop, start = 1, 0, 0
    if payload[:1] == b"\0":
        mini, drop, start = *payload[1:3].ljust(2, b"\0"), 3
        if not 2 <= mini <= MAX_MINI_GOP:
            raise FormatError(f"a group of pictures has mini-GOPs of {mini} frames")
    anchors = 1 + -(-(frames - 1) // mini)
    if len(payload) < start + anchors or frames < 1:
        raise FormatError("a group of pictures is too short for its frames")
    headers: list[Header] = []
    for place in coding_order(frames, mini):
        byte = payload[start + -(-place.anchor // mini)]
        predicted, quality = divmod(byte, PREDICTED)
        if mini == 1 and not place.number:
            predicted = 0  # the bit tells something else
        if not 1 <= quality <= 100 or predicted and not place.number:
            raise FormatError(f"frame {place.anchor} of a group of pictures has an impossible header {byte:#04x}")
        headers.append(Header(place, place.letter(predicted > 0), place.quality(quality, drop)))
    return mini, headers, payload[start + anchors :]


def frame_headers(payload: bytes, frames: int) -> list[Header]:
    """Of each frame, in the order of coding. Raises FormatError if there is one that no encoder writes."""
    return _parts(payload, frames)[1]


@torch.inference_mode()
def decode_symbols(model: Model, payload: bytes, height: int, width: int, frames: int) -> Iterator[Symbols]:
    """Entropy decoding alone: every symbol of `frames` frames, in the order of coding, no pixels.

    Raises FormatError as `decode_gop`.
    """
    mini, headers, coded = _parts(payload, frames)
    coder = BitDecoder(coded)
    step = coder.decode_step if mini > 1 or payload[0] & LEAVES_OUT else coder.decode
    rows, columns = grid(height, width)
    past = _Past(model, rows, columns)

    def decode(p: Tensor, _: Tensor | None) -> Tensor:
        return torch.from_numpy(step(p.numpy()))

    for place, letter, quality in headers:
        before = coder.bits
        references: list[int] = []
        if letter == "B":
            references = _code_references(None, place, lambda _, p: int(coder.decode(np.array([p]))[0]))
        elif letter == "P" and place.before is not None:
            references = [place.before]
        kind = place.kind(bool(references))
        previous = past.bits(place, kind)
        vectors: dict[int, np.ndarray] = {}
        for number in references:
            vectors[number] = past.coder(place, number, vectors).decode(rows, columns, coder)
        middle = coder.bits
        bits = model.network.prior.run(previous, kind, quality, decode)
        past.add(place, vectors, bits)
        stats = FrameStats(letter, quality, coder.bits - middle, middle - before)
        yield Symbols(place, kind, quality, vectors, bits, stats)


@torch.inference_mode()
def decode_gop(model: Model, payload: bytes, height: int, width: int, frames: int) -> Iterator[np.ndarray]:
    """Decode `frames` frames, uint8 (H, W, 3) RGB each. Raises FormatError if the payload cannot be theirs.

    With several threads, or on a GPU, the symbols of the next frame are decoded beside the pixels of this one, each
    with half of the threads: the steps of the prior are too small to keep several, or a GPU, busy. That takes a third
    more memory, and is not done to frames that are too large for one band.
    """
    ready: dict[int, np.ndarray] = {}
    shown = 0
    pictures = _decode_pictures(model, payload, height, width, frames)
    for number, picture in pictures:
        ready[number] = picture
        while shown in ready:
            yield ready.pop(shown)
            shown += 1


def _decode_pictures(
    model: Model, payload: bytes, height: int, width: int, frames: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Number and pixels of each frame, in the order of coding."""
    pictures = _Pictures(model, height, width)
    symbols = decode_symbols(model, payload, height, width, frames)
    threads = torch.get_num_threads()
    large = pictures.rows * pictures.columns > bands.MOST
    alone = threads == 1 and model.device.type == "cpu"
    if frames == 1 or alone or large:
        for s in symbols:
            yield s.place.number, pictures.of(s)
        return

    def beside() -> Iterator[Symbols]:
        torch.set_num_threads(threads - threads // 2)  # of this thread alone
        yield from symbols

    with read_ahead(beside(), 1) as ready:
        for s in ready:
            torch.set_num_threads(max(1, threads // 2))
            try:
                decoded = pictures.of(s)
            finally:
                torch.set_num_threads(threads)
            yield s.place.number, decoded
