"""Codes given symbols of a group of pictures: the inverse of `decoder.decode_symbols`, exact like it."""

import numpy as np
import torch

from ..network.tokenizer import Condition
from ..network.weights import Model
from ..stream import contrast
from ..stream.group import Place
from ..stream.range_coder import BitEncoder
from .references import Motion, ReferenceBuffer, VectorContexts


class SymbolEncoder:
    """Takes the symbols of the frames of a group in the order of coding, and decodes along: contexts and predictions
    depend on the frames before.

    Args:
        model: whose networks the stream needs.
        height, width: of the frames, in pixels.
    """

    def __init__(self, model: Model, height: int, width: int):
        self._model = model
        self._buffer = ReferenceBuffer(model, height, width)
        self._contexts = VectorContexts(self._buffer.rows, self._buffer.columns)
        self._coder = BitEncoder()

    @torch.inference_mode()
    def add(
        self, place: Place, condition: Condition, motion: Motion, classes: np.ndarray | None, coefficients: np.ndarray
    ) -> np.ndarray:
        """Code a frame.

        Args:
            place: the frame's place in its group.
            condition: its type, quality and tune.
            motion: how it is predicted, with references as `place` has them; vectors within +-2047.
            classes: of contrast, integers -3..3 (rows, columns), of a frame without reference; else None.
            coefficients: int32 (rows, columns, n_coded), n_coded as the quality has it.

        Returns:
            The coefficients as they will decode, int32 (rows, columns, n_coded). Where the prior is certain of a 0
            there is nothing but 0, and no value passes the bound of its bit planes by more than 65535.
        """
        network = self._model.network
        motion = self._contexts.encode(motion, place, self._coder)
        on_device = None
        if classes is not None:
            contrast.encode_classes(classes, self._coder)
            on_device = torch.from_numpy(classes.astype(np.int64))[None].to(self._model.device)
        prediction = self._buffer.predict(motion) if motion.vectors else None
        context = network.context(condition, prediction, on_device)
        coded = network.code(context, condition, self._encode_step, torch.from_numpy(coefficients)[None])
        self._buffer.reconstruct(place, coded, context, condition)
        return coded[0].cpu().numpy()

    def finish(self) -> bytes:
        """What the range coder made of all frames: the payload behind the header of the group."""
        return self._coder.finish()

    def _encode_step(self, p: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        assert bits is not None
        self._coder.encode(bits, p)
        return bits
