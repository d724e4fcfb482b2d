"""A group of pictures to bytes and back.

Payload of a group: four bytes (length of the mini-GOPs, by how many steps of quality each level of B frames is lower,
the tune, how many bytes a frame header has beyond one), a header for each anchor (bit 7: predicted, bits 0..6: quality
1..100), then one range-coded stream of, for each frame, its motion vectors (of predicted frames) or its classes of
contrast (of others) and its coefficients. Nothing predicts the first frame. With mini-GOPs of 4 frames, the order of
coding is 0 4 2 1 3 8 6 5 7 .. (`coding_order`). Frames are coded on a canvas whose sides are multiples of 16.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import gains, vector_search
from .coder import ONE, BitDecoder, BitEncoder
from .errors import FormatError
from .model import Model
from .motion import MOTION_LAMBDA, VECTOR_LAMBDA, compensate, find, mean
from .network import TOKEN, Condition, Context
from .order import DROP, MAX_MINI_GOP, P_DROPS, P_DROPS_AMONG_B, Place, coding_order, mini_gop
from .tune import TUNES, tune_number
from .vectors import LIMIT, VectorCoder

_T = TypeVar("_T")

GROUP_HEADER = 4  # bytes
PREDICTED = 0x80
MINI_GOP = 4  # frames from one anchor to the next where an encoder is free to choose
SOME = 65208  # of ONE: how likely a B frame has a reference
BOTH = 49152  # and two, if it has any
# Motion of the tune perceptual is weighed as if the step were so much finer than that of a token of class 0.
MOTION_GAIN = 1.2
# bits that an error of one quantiser step of a coefficient is worth: of I frames, of P and B frames
WORTH = {"perceptual": (14.0, 8.0), "psnr": (18.0, 8.0)}


@dataclass
class FrameStats:
    """Ideal code length of one frame in bits, -sum log2 P: `bits` of the coefficients, `side_bits` of the motion
    vectors or classes of contrast; and `count`, of how many bits all this is.

    `kind` is "I", "P" or "B".
    """

    kind: str
    quality: int
    bits: float
    side_bits: float
    count: int


def grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tokens (and of blocks of motion) that cover a frame."""
    return -(-height // TOKEN), -(-width // TOKEN)


class _Pictures:
    """The decoded frames on their canvases, and how others follow from them."""

    def __init__(self, model: Model, height: int, width: int):
        self.model, self.height, self.width = model, height, width
        self.rows, self.columns = grid(height, width)
        self.canvases: dict[int, Tensor] = {}  # uint8 (1, 3, 16 * rows, 16 * columns)

    def predicted(self, reference: int, vectors: np.ndarray) -> Tensor:
        field = torch.from_numpy(vectors.astype(np.int32))[None].to(self.model.device)
        return compensate(self.canvases[reference], field)

    def predict(self, vectors: dict[int, np.ndarray]) -> Tensor | None:
        """The prediction from all references of a frame, integers 0..255, float32; None if it has none."""
        several = [self.predicted(reference, field) for reference, field in vectors.items()]
        return mean(*several) if len(several) == 2 else several[0] if several else None

    def reconstruct(self, place: Place, coefficients: Tensor, context: Context, condition: Condition) -> np.ndarray:
        """The frame that follows, uint8 (H, W, 3)."""
        _forget(self.canvases, place)
        canvas = self.canvases[place.number] = self.model.network.decode(coefficients, context, condition)
        return canvas[0, :, : self.height, : self.width].permute(1, 2, 0).contiguous().cpu().numpy()


def _forget(items: dict[int, _T], place: Place) -> None:
    """Remove what was kept of the frames that nothing refers to from here on."""
    if place.after is None:
        for number in [n for n in items if place.before is None or n < place.before]:
            del items[number]


class _Past:
    """What the motion vectors of a frame are predicted from: those of the frames that were coded before it."""

    def __init__(self, rows: int, columns: int):
        self.size = (rows, columns)
        self._coders: dict[str, VectorCoder] = {}
        self._vectors: dict[int, dict[int, np.ndarray]] = {}  # of each frame, for each of its references

    def add(self, place: Place, vectors: dict[int, np.ndarray]) -> None:
        """Keep the vectors of a frame. After an I frame their coders begin anew."""
        if place.after is None and not vectors:
            self._coders = {"P": VectorCoder(), "B": VectorCoder()}
        _forget(self._vectors, place)
        self._vectors[place.number] = vectors

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
        effort: steps of the search for better coefficients (`network.refine`).
        mini: length of the mini-GOPs, 1..16. 1: no B frames, and every frame is encoded when it comes.
        tune: "perceptual" or "psnr".

    Attributes:
        stats: of every frame encoded so far, in the order of coding.
    """

    def __init__(self, model: Model, height: int, width: int, effort: int = 0, mini: int = 1, tune: str = TUNES[0]):
        if not 1 <= mini <= MAX_MINI_GOP:
            raise ValueError(f"mini-GOPs of {mini} frames; they may have 1 to {MAX_MINI_GOP}")
        self._model, self._effort, self._mini, self._tune = model, effort, mini, tune_number(tune)
        self._worth = WORTH[tune]
        self._pictures = _Pictures(model, height, width)
        self._past = _Past(self._pictures.rows, self._pictures.columns)
        self._coder = BitEncoder()
        self._drops = P_DROPS if mini == 1 else P_DROPS_AMONG_B
        self._since = 0  # P frames since the last I frame
        self._headers: dict[int, int] = {}  # of each anchor that is encoded
        self._waiting: list[tuple[np.ndarray, int]] = []  # frames, and the quality that is asked for
        self._error = torch.tensor(0.0)  # mean absolute error of the last frame
        self.stats: list[FrameStats] = []

    def push(self, frame: np.ndarray, quality: int) -> list[np.ndarray]:
        """Take the next frame, uint8 (H, W, 3) RGB, to be encoded at quality 1..100; most P and all B frames get less.

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
        start = bytes([self._mini if len(self.stats) > 1 else 1, DROP, self._tune, 0])
        return start + bytes(self._headers.values()) + self._coder.finish()

    def _encode(self, places: list[Place]) -> list[np.ndarray]:
        first, waiting, self._waiting = len(self.stats), self._waiting, []
        decoded = {place.number: self._encode_frame(*waiting[place.number - first], place) for place in places}
        return [picture for _, picture in sorted(decoded.items())]

    @torch.inference_mode()
    def _encode_frame(self, frame: np.ndarray, quality: int, place: Place) -> np.ndarray:
        s = self._pictures
        x = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None].to(self._model.device)
        bottom, right = s.rows * TOKEN - s.height, s.columns * TOKEN - s.width
        x = F.pad(x.float(), (0, right, 0, bottom), mode="replicate")
        if place.after is not None:
            expected = place.quality(self._headers[place.anchor] & ~PREDICTED, DROP)
        else:
            expected = max(1, quality - self._drops[self._since % len(self._drops)])
        prediction, vectors = self._predict(x, expected, place)
        if vectors or place.after is not None:
            quality = expected
        if place.after is None:
            self._since = self._since + 1 if vectors else 0
        condition = Condition(place.frame_type(bool(vectors)), quality, self._tune)
        network, start, count = self._model.network, self._coder.bits, self._coder.count
        if place.after is not None:
            _code_references(list(vectors), place, self._encode_bit)
        known: dict[int, np.ndarray] = {}
        for number, field in vectors.items():
            self._past.coder(place, number, known).encode(field, self._coder)
            known[number] = field
        classes = None
        if prediction is None:
            classes = network.classes(x)
            gains.encode_classes(classes[0].cpu().numpy(), self._coder)
        context = network.context(condition, prediction, classes)
        middle = self._coder.bits
        coefficients = network.encode(x, context, condition, self._effort)
        coefficients = network.code(context, condition, self._encode_step, coefficients, self._worth[bool(vectors)])
        self._past.add(place, vectors)
        letter = place.letter(bool(vectors))
        bits, side_bits = self._coder.bits - middle, middle - start
        self.stats.append(FrameStats(letter, quality, bits, side_bits, self._coder.count - count))
        if place.after is None:
            self._headers[place.number] = quality | (PREDICTED if vectors else 0)
        decoded = s.reconstruct(place, coefficients, context, condition)
        self._error = (x - s.canvases[place.number]).abs().mean()
        return decoded

    def _predict(self, x: Tensor, quality: int, place: Place) -> tuple[Tensor | None, dict[int, np.ndarray]]:
        """The prediction of the frame and, for each of its references, the vectors; none for an I frame."""
        if place.before is not None:
            prediction, vectors = self._motion(x, quality, place)
            # a scene cut: the frame is closer to the mean of each of its tokens than to its prediction, and that is
            # not because the last frame was coded as coarsely
            flat = F.interpolate(F.avg_pool2d(x, TOKEN), scale_factor=float(TOKEN))
            if (x - prediction).abs().mean() < max((x - flat).abs().mean(), 1.2 * self._error):
                return prediction, vectors
        return None, {}

    def _motion(self, x: Tensor, quality: int, place: Place) -> tuple[Tensor, dict[int, np.ndarray]]:
        """The best prediction and its vectors: from one frame or, for a B frame, perhaps from both."""
        step = self._model.network.step(quality) / (1 if self._tune else MOTION_GAIN)
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

    def _encode_step(self, p: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        assert bits is not None
        self._coder.encode(bits, p)
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
        condition: what it is coded as.
        vectors: for each frame that it is predicted from, int32 (ceil(H / 16), ceil(W / 16), 2).
        classes: of contrast, int64 (ceil(H / 16), ceil(W / 16)), of a frame that is not predicted.
        coefficients: int32 (1, ceil(H / 16), ceil(W / 16), active).
        stats: what they cost.
        picture: the frame, uint8 (H, W, 3), which the symbols of later frames depend on.
    """

    place: Place
    condition: Condition
    vectors: dict[int, np.ndarray]
    classes: np.ndarray | None
    coefficients: Tensor
    stats: FrameStats
    picture: np.ndarray


class Header(NamedTuple):
    """What the payload tells of a frame before its symbols. `kind` is "I", "P" or "B" (even without a reference)."""

    place: Place
    kind: str
    quality: int


class _Group(NamedTuple):
    """A payload taken apart: tune, headers in the order of coding, coded bits."""

    tune: int
    headers: list[Header]
    coded: bytes


def _parts(payload: bytes, frames: int) -> _Group:
    """Raises as `frame_headers`."""
    if len(payload) < GROUP_HEADER or frames < 1:
        raise FormatError("a group of pictures is too short for its frames")
    mini, drop, tune, more = payload[:GROUP_HEADER]
    if not 1 <= mini <= MAX_MINI_GOP:
        raise FormatError(f"a group of pictures has mini-GOPs of {mini} frames")
    if tune >= len(TUNES):
        raise FormatError(f"a group of pictures has the unknown tune {tune}")
    anchors, size = 1 + -(-(frames - 1) // mini), 1 + more
    end = GROUP_HEADER + anchors * size
    if len(payload) < end:
        raise FormatError("a group of pictures is too short for its frames")
    headers: list[Header] = []
    for place in coding_order(frames, mini):
        byte = payload[GROUP_HEADER + -(-place.anchor // mini) * size]
        predicted, quality = divmod(byte, PREDICTED)
        if not 1 <= quality <= 100 or predicted and not place.anchor:
            raise FormatError(f"frame {place.anchor} of a group of pictures has an impossible header {byte:#04x}")
        headers.append(Header(place, place.letter(predicted > 0), place.quality(quality, drop)))
    return _Group(tune, headers, payload[end:])


def frame_headers(payload: bytes, frames: int) -> list[Header]:
    """Of each frame, in the order of coding. Raises FormatError if there is one that no encoder writes."""
    return _parts(payload, frames).headers


def group_tune(payload: bytes, frames: int) -> str:
    """What the group is tuned for. Raises as `frame_headers`."""
    return TUNES[_parts(payload, frames).tune]


@torch.inference_mode()
def decode_symbols(model: Model, payload: bytes, height: int, width: int, frames: int) -> Iterator[Symbols]:
    """Every symbol of `frames` frames, and their pixels, in the order of coding.

    Raises FormatError as `decode_gop`.
    """
    group = _parts(payload, frames)
    coder = BitDecoder(group.coded)
    pictures, network = _Pictures(model, height, width), model.network
    past = _Past(pictures.rows, pictures.columns)

    def decode(p: np.ndarray, _: np.ndarray | None) -> np.ndarray:
        return coder.decode(p).view(bool)

    for place, letter, quality in group.headers:
        before, count = coder.bits, coder.count
        references: list[int] = []
        if letter == "B":
            references = _code_references(None, place, lambda _, p: int(coder.decode(np.array([p]))[0]))
        elif letter == "P" and place.before is not None:
            references = [place.before]
        condition = Condition(place.frame_type(bool(references)), quality, group.tune)
        vectors: dict[int, np.ndarray] = {}
        for number in references:
            vectors[number] = past.coder(place, number, vectors).decode(*past.size, coder)
        classes = None if vectors else gains.decode_classes(*past.size, coder)
        there = None if classes is None else torch.from_numpy(classes)[None].to(model.device)
        context = network.context(condition, pictures.predict(vectors), there)
        middle = coder.bits
        coefficients = network.code(context, condition, decode)
        past.add(place, vectors)
        stats = FrameStats(letter, quality, coder.bits - middle, middle - before, coder.count - count)
        picture = pictures.reconstruct(place, coefficients, context, condition)
        yield Symbols(place, condition, vectors, classes, coefficients, stats, picture)


@torch.inference_mode()
def decode_gop(model: Model, payload: bytes, height: int, width: int, frames: int) -> Iterator[np.ndarray]:
    """Decode `frames` frames, uint8 (H, W, 3) RGB each. Raises FormatError if the payload cannot be theirs."""
    ready: dict[int, np.ndarray] = {}
    shown = 0
    for symbols in decode_symbols(model, payload, height, width, frames):
        ready[symbols.place.number] = symbols.picture
        while shown in ready:
            yield ready.pop(shown)
            shown += 1
