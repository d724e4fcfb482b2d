"""A group of pictures to bytes and back.

Payload of a group: four bytes (length of the mini-GOPs, by how many steps of quality each level of B frames is lower,
the tune, how many bytes a frame header has beyond one), a header for each anchor (bit 7: predicted, bits 0..6: quality
1..100), then one range-coded stream of, for each frame, its motion vectors (of predicted frames) or its classes of
contrast (of others) and its coefficients. Nothing predicts the first frame. With mini-GOPs of 4 frames, the order of
coding is 0 4 2 1 3 8 6 5 7 .. (`coding_order`). Frames are coded on a canvas whose sides are multiples of 16.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..network.patches import TOKEN
from ..network.tokenizer import Condition
from ..network.weights import Model
from ..settings import EncodeSettings, check_quality, tune_number
from ..stream import contrast
from ..stream.group import MAX_MINI_GOP, PREDICTED, Place, code_references, mini_gop
from ..stream.range_coder import BitEncoder
from ..types import FrameStats
from . import vector_search
from .motion import mean
from .motion_search import MOTION_LAMBDA, VECTOR_LAMBDA, find
from .references import ReferenceBuffer, VectorContexts

# Motion of the tune perceptual is weighed as if the step were so much finer than that of a token of class 0.
MOTION_GAIN = 1.2
# bits that an error of one quantiser step of a coefficient is worth: of I frames, of P and B frames
WORTH = {"perceptual": (14.0, 8.0), "psnr": (18.0, 8.0)}


class GopEncoder:
    """Encodes frames that depend on each other; the first is an I frame, as is any that no other one predicts.

    Args:
        model: from `load_model`.
        height, width: of the frames, in pixels.
        settings: how to encode; the quality comes with each frame.
        mini_gop: frames from one anchor to the next, 1..16, in place of that of the settings.

    Attributes:
        stats: of every frame encoded so far, in the order of coding.
    """

    def __init__(self, model: Model, height: int, width: int, settings: EncodeSettings, mini_gop: int | None = None):
        mini = settings.mini_gop if mini_gop is None else mini_gop
        if not 1 <= mini <= MAX_MINI_GOP:
            raise ValueError(f"mini-GOPs of {mini} frames; they may have 1 to {MAX_MINI_GOP}")
        self._model, self._effort, self._mini = model, settings.effort, mini
        self._tune = tune_number(settings.tune)
        self._worth = WORTH[settings.tune]
        self._pictures = ReferenceBuffer(model, height, width)
        self._past = VectorContexts(self._pictures.rows, self._pictures.columns)
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
        check_quality(quality)
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
            code_references(list(vectors), place, self._encode_bit)
        known: dict[int, np.ndarray] = {}
        for number, field in vectors.items():
            self._past.coder(place, number, known).encode(field, self._coder)
            known[number] = field
        classes = None
        if prediction is None:
            classes = network.classes(x)
            contrast.encode_classes(classes[0].cpu().numpy(), self._coder)
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


DROP = 9  # steps of quality that each level of B frames is below: fewer frames or none are predicted from them
# Steps of quality that the P frames after an I frame are below it, in turn. What a coarse quantiser leaves adds up from
# P frame to P frame; a fine one now and then ends it, and costs less than if all were alike.
P_DROPS = (8, 7, 8, 5, 8, 7, 8, 0)
P_DROPS_AMONG_B = (5, 0)
