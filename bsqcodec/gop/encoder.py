"""Encodes a group of pictures: which frames are predicted, from what, at what quality. All of it is free to change."""

import operator
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..network.patches import TOKEN
from ..network.weights import Model
from ..settings import EncodeSettings, check_quality, tune_number
from ..stream.group import MAX_MINI_GOP, Place, mini_gop
from ..types import FrameStats
from .mini_gop_choice import MiniGopChoice
from .motion import flat
from .motion_choice import MotionChoice
from .quality import FrameQualities
from .references import Motion, frame_condition
from .symbol_encoder import SymbolEncoder
from .temporal_filter import REACH, temporal_filter

# Motion is weighed as if the quantiser step were so many times that of a token of class 0: without B frames, and with.
MOTION_STEP = {"perceptual": (0.83, 1.18), "psnr": (1.0, 1.0)}
# Bits that an error of one quantiser step of a coefficient may cost: of frames without reference, and with.
ERROR_BITS = {"perceptual": (14.0, 8.0), "psnr": (18.0, 8.0)}
# A prediction no worse than so many times the last frame's coding error is no scene cut.
SCENE_CUT_ERROR = 1.2


class GopEncoder:
    """Encodes frames that depend on each other; the first is an I frame, as is any that no other one predicts.

    Args:
        model: a model that `load_model` gives.
        height, width: of the frames, in pixels.
        settings: how to encode; the quality comes with each frame.
        mini_gop: frames from one anchor to the next, 1..16; else the encoder chooses, or `settings.low_delay` says 1.
        depth: bits of a sample of the decoded frames that are returned, as `decode_gop` takes it.
        decoded: if False, there is one frame, which is not decoded: that takes a third of its time.

    Raises ValueError for another length of the mini-GOPs.

    Attributes:
        stats: of every frame encoded so far, in the order of coding.
    """

    def __init__(
        self, model: Model, height: int, width: int, settings: EncodeSettings, mini_gop: int | None = None,
        depth: int = 8, decoded: bool = True,
    ):  # fmt: skip
        self._decoded = decoded
        self._mini_gop = 1 if settings.low_delay and mini_gop is None else mini_gop
        if self._mini_gop is not None and not 1 <= self._mini_gop <= MAX_MINI_GOP:
            raise ValueError(f"mini-GOPs of {mini_gop} frames; they may have 1 to {MAX_MINI_GOP}")
        self._network, self._device, self._settings = model.network, model.device, settings
        self._tune = tune_number(settings.tune)
        self._symbols = SymbolEncoder(model, height, width, depth)
        low_delay = self._mini_gop == 1
        self._qualities = FrameQualities(low_delay)
        self._lookahead = 0 if low_delay else REACH  # frames that an anchor waits for
        self._sources: dict[int, Tensor] = {}  # frames to be encoded, and those that the next anchor is filtered with
        self._asked: list[int] = []  # the quality that is asked for, of every frame
        self._anchor = -1  # the last one that is encoded
        self._choice: MiniGopChoice | None = None  # of the next one
        self._error = torch.tensor(0.0)  # mean absolute coding error of the last frame
        self.stats: list[FrameStats] = self._symbols.stats

    def push(self, frame: np.ndarray, quality: int) -> list[np.ndarray]:
        """Take the next frame, uint8 (H, W, 3) RGB, to be encoded at quality 1..100; most P and all B frames get less.

        Returns the frames that are encoded by now and were not returned before, in the order of time, as the decoder
        will give them. Raises ValueError for a frame of another size or type and for a quality out of range.
        """
        size = self._symbols.references.height, self._symbols.references.width
        if frame.shape != (*size, 3) or frame.dtype != np.uint8:
            raise ValueError(f"frame is {frame.dtype} {frame.shape}, not uint8 {(*size, 3)}")
        check_quality(quality)
        self._sources[len(self._asked)] = self._padded(frame)
        self._asked.append(operator.index(quality))
        return self._encode(False)

    def flush(self) -> list[np.ndarray]:
        """Encode the frames that still wait, the last one as an anchor; none may follow. Returns them like `push`."""
        return self._encode(True)

    @property
    def bits(self) -> float:
        """Ideal code length of every frame encoded so far, in bits."""
        return self._symbols.bits

    def finish(self) -> bytes:
        """The payload of all frames pushed; `flush` comes before."""
        assert len(self.stats) == len(self._asked), "there are frames that are not encoded"
        return self._qualities.header(self._tune) + self._symbols.finish()

    def _encode(self, ending: bool) -> list[np.ndarray]:
        """Encode the mini-GOPs whose frames have all come, and those that the next anchor waits for; or all frames."""
        decoded: list[np.ndarray] = []
        last = len(self._asked) - 1
        while self._anchor < last:
            anchor = self._choose_anchor(last, ending)
            if anchor is None or (not ending and anchor > last - self._lookahead):
                break
            decoded += self._encode_mini_gop(min(anchor, last))
        return decoded

    def _choose_anchor(self, last: int, ending: bool) -> int | None:
        """The next anchor, perhaps one that is yet to come; None as long as that cannot be told.

        last: the newest frame. ending: whether it is the last one.
        """
        if self._anchor < 0:
            return 0
        if self._mini_gop:
            return self._anchor + self._mini_gop
        if self._choice is None:
            step = self._network.quantiser_step(self._asked[self._anchor])
            self._choice = MiniGopChoice(self._anchor, step)
        length = self._choice.length(self._sources, last, ending)
        return None if length is None else self._anchor + length

    def _encode_mini_gop(self, anchor: int) -> list[np.ndarray]:
        """Encode an anchor and the B frames before it. Returns them decoded, in the order of time."""
        places: Iterable[Place] = [Place(0, 0)]
        if anchor:
            self._qualities.begin(anchor - self._anchor)
            places = mini_gop(self._anchor, anchor)
        decoded = {place.number: self._encode_frame(place) for place in places}
        self._anchor, self._choice = anchor, None
        # what the next anchor may be filtered with stays, and the frames that wait
        for number in [n for n in self._sources if n <= anchor - self._lookahead]:
            del self._sources[number]
        return [picture for _, picture in sorted(decoded.items()) if picture is not None]

    @torch.inference_mode()
    def _encode_frame(self, place: Place) -> np.ndarray | None:
        """Encode a frame at the quality that is asked for, or at less; returns it decoded, if that is wanted."""
        quality = self._asked[place.number]
        x = self._sources[place.number].float()
        if place.after is None and self._lookahead:
            x = temporal_filter(self._sources, place.number, self._network.quantiser_step(quality))
        prediction, motion = self._predict(x, quality, place)
        predicted = prediction is not None
        quality = self._qualities.choose(quality, place, predicted)
        condition = frame_condition(place, predicted, quality, self._tune)
        classes = None if predicted else self._network.classes(x)[0].cpu().numpy()
        _, decoded = self._symbols.add(
            place, condition, motion, classes,
            lambda context: self._network.encode(x, context, condition, self._settings.effort),
            prediction=prediction, error_bits=ERROR_BITS[self._settings.tune][predicted], decoded=self._decoded,
        )  # fmt: skip
        if decoded is not None:
            self._error = (x - self._symbols.references.frames[place.number]).abs().mean()
        return decoded

    def _padded(self, frame: np.ndarray) -> Tensor:
        """The frame as uint8 (1, 3, 16 * rows, 16 * columns) on the device, its last row and column repeated."""
        s = self._symbols.references
        x = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None].to(self._device)
        bottom, right = s.rows * TOKEN - s.height, s.columns * TOKEN - s.width
        return F.pad(x.float(), (0, right, 0, bottom), mode="replicate").to(torch.uint8)

    def _predict(self, x: Tensor, quality: int, place: Place) -> tuple[Tensor | None, Motion]:
        """The prediction of the frame and its motion; none for an I frame.

        quality: what is asked for.
        """
        if place.before is None:
            return None, Motion({})
        step = self._network.quantiser_step(self._qualities.predicted(quality, place))
        step *= MOTION_STEP[self._settings.tune][self._lookahead > 0]
        prediction, motion = MotionChoice(x, step, place, self._symbols.references, self._symbols.contexts).best()
        # a scene cut: the frame is closer to the mean of each of its tokens than to its prediction, and that is
        # not because the last frame was coded as coarsely
        if (x - prediction).abs().mean() < max((x - flat(x)).abs().mean(), SCENE_CUT_ERROR * self._error):
            return prediction, motion
        return None, Motion({})
