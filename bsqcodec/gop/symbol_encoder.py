"""Codes given symbols of a group of pictures: the inverse of `decoder.decode_symbols`, exact like it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..network.tokenizer import Condition, Context
from ..network.weights import Model
from ..stream import contrast
from ..stream.group import Place
from ..stream.range_coder import BitEncoder
from ..types import FrameStats
from .references import Motion, ReferenceBuffer, VectorContexts


class SymbolEncoder:
    """Takes the symbols of the frames of a group in the order of coding, and decodes along: contexts and predictions
    depend on the frames before.

    Args:
        model: whose networks the stream needs.
        height, width: of the frames, in pixels.
        depth: bits of a sample of the decoded frames, as `decode_gop` takes it.

    Attributes:
        references: the decoded frames that the next one may be predicted from.
        contexts: their motion.
        stats: of every frame coded so far, in the order of coding.
    """

    def __init__(self, model: Model, height: int, width: int, depth: int = 8):
        self._network, self._device = model.network, model.device
        self.references = ReferenceBuffer(model, height, width, depth)
        self.contexts = VectorContexts(self.references.rows, self.references.columns)
        self.stats: list[FrameStats] = []
        self._coder = BitEncoder()

    @property
    def bits(self) -> float:
        """Ideal code length of every frame coded so far, in bits."""
        return self._coder.bits

    @torch.inference_mode()
    def add(
        self,
        place: Place,
        condition: Condition,
        motion: Motion,
        classes: np.ndarray | None,
        choose: Callable[[Context], Tensor],
        *,
        prediction: Tensor | None = None,
        error_bits: float = 0.0,
        decoded: bool = True,
    ) -> tuple[Tensor, np.ndarray | None]:
        """Code a frame.

        Args:
            place: the frame's place in its group.
            condition: its type, quality and tune.
            motion: how it is predicted, with references as `place` has them; vectors within +-2047.
            classes: of contrast, integers -3..3 (rows, columns), of a frame without reference; else None.
            choose: gives the coefficients, as `Network.code` takes them, when their context is known.
            prediction: what `motion` gives, if that is known.
            error_bits: as `Network.code` takes it.
            decoded: if False, the frame is not decoded, and no other one may follow.

        Returns:
            The coefficients as they will decode, int32 (1, rows, columns, n_coded), and the decoded frame. Where the
            prior is certain of a 0 there is nothing but 0, and no value passes the bound of its bit planes by more than
            65535.
        """
        coder, network = self._coder, self._network
        start, count = coder.bits, coder.count
        motion = self.contexts.encode(motion, place, coder)
        on_device = None
        if classes is not None:
            contrast.encode_classes(classes, coder)
            on_device = torch.from_numpy(classes.astype(np.int64))[None].to(self._device)
        if motion.vectors and prediction is None:
            prediction = self.references.predict(motion)
        context = network.context(condition, prediction, on_device)
        middle = coder.bits
        coded = network.code(context, condition, self._encode_step, choose(context), error_bits)
        frame_type, bits = place.frame_type(bool(motion.vectors)), coder.bits - middle
        self.stats.append(FrameStats(frame_type, condition.quality, bits, middle - start, coder.count - count))
        return coded, self.references.reconstruct(place, coded, context, condition) if decoded else None

    def finish(self) -> bytes:
        """What the range coder made of all frames: the payload behind the header of the group."""
        return self._coder.finish()

    def _encode_step(self, p: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        assert bits is not None
        self._coder.encode(bits, p)
        return bits
