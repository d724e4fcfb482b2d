"""Decoded frames and their motion vectors, kept for the frames that are predicted from them."""

from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..network.patches import TOKEN
from ..network.tokenizer import Condition, Context
from ..network.weights import Model
from ..stream.group import MAX_VECTOR, Place, code_references
from ..stream.modes import ModeCoder, used
from ..stream.motion_fields import FieldCoder, MotionField
from ..stream.range_coder import BitEncoder
from .motion import combine, compensate

_T = TypeVar("_T")


def frame_condition(place: Place, predicted: bool, quality: int, tune: int) -> Condition:
    """The condition of a frame for the networks; its frame type is 0 without reference, 1 for P and 2 for B frames."""
    return Condition(0 if not predicted else 1 if place.after is None else 2, quality, tune)


class Motion(NamedTuple):
    """How a frame is predicted.

    Attributes:
        vectors: into each reference, by its number; none of a frame without reference.
        modes: of the blocks of a frame with two references, integers (rows, columns); else None.
    """

    vectors: dict[int, MotionField]
    modes: np.ndarray | None = None


class ReferenceBuffer:
    """The decoded frames that others may be predicted from, padded to whole tokens, and how others follow from them.

    Args:
        model: whose networks decode.
        height, width: of a frame, in pixels.
        depth: bits of a sample that is shown, as `decode_gop` takes it; references have 8.
    """

    def __init__(self, model: Model, height: int, width: int, depth: int = 8):
        self.model, self.height, self.width, self.depth = model, height, width, depth
        self.rows, self.columns = -(-height // TOKEN), -(-width // TOKEN)  # of tokens and of blocks of motion
        self.frames: dict[int, Tensor] = {}  # by number, uint8 (1, 3, 16 * rows, 16 * columns)

    def predicted(self, reference: int, field: MotionField) -> Tensor:
        """The prediction from one reference, integers 0..255, float32 (1, 3, 16 * rows, 16 * columns)."""
        return compensate(self.frames[reference], torch.from_numpy(field.quarters)[None])

    def predict(self, motion: Motion) -> Tensor:
        """The prediction from all references of a frame that has any, integers 0..255, float32."""
        several = [self.predicted(reference, field) for reference, field in motion.vectors.items()]
        if motion.modes is None:
            return several[0]
        return combine(several[0], several[1], torch.from_numpy(motion.modes).to(self.model.device))

    def reconstruct(self, place: Place, coefficients: Tensor, context: Context, condition: Condition) -> np.ndarray:
        """The decoded frame as it is shown, (H, W, 3); what others are predicted from is kept."""
        _forget(self.frames, place)
        pictures = self.model.network.decode(coefficients, context, condition, self.depth)
        self.frames[place.number] = pictures[0]
        frame = pictures[-1][0, :, : self.height, : self.width].permute(1, 2, 0).contiguous().cpu().numpy()
        return frame if self.depth == 8 else frame.astype(np.uint16)


def _forget(items: dict[int, _T], place: Place) -> None:
    """Remove what was kept of the frames that nothing refers to from here on."""
    if place.after is None:
        for number in [n for n in items if place.before is None or n < place.before]:
            del items[number]


class VectorContexts:
    """The motion of frames that were coded, from which that of later frames is predicted.

    Args:
        rows, columns: of the fields of vectors and modes.

    Attributes:
        modes: the coder of the modes.
    """

    def __init__(self, rows: int, columns: int):
        self.size = (rows, columns)
        self.modes = ModeCoder()
        self._coders: dict[str, FieldCoder] = {}
        self._vectors: dict[int, dict[int, MotionField]] = {}  # of each frame, for each of its references

    def add(self, place: Place, vectors: dict[int, MotionField]) -> None:
        """Keep the vectors of a frame, for each of its references. After an I frame their coders begin anew."""
        if place.after is None and not vectors:
            self._coders, self.modes = {"P": FieldCoder(), "B": FieldCoder()}, ModeCoder()
        _forget(self._vectors, place)
        self._vectors[place.number] = vectors

    def coder(self, place: Place, reference: int, vectors: dict[int, MotionField]) -> FieldCoder:
        """The coder of a frame's vectors into `reference`, after `vectors`; it expects them where motion is steady."""
        known = {**self._vectors, place.number: vectors}
        expected = None
        for source, towards in (
            (place.number, None),
            (place.after, place.before),
            (place.before, place.after),
        ):
            if source is not None and (fields := known.get(source)):
                towards = towards if towards in fields else next(iter(fields))
                expected = _scaled(fields[towards].vectors, reference - place.number, towards - source)
                break
        coder = self._coders["P" if place.after is None else "B"]
        coder.vectors.expect(expected)
        return coder

    def encode(self, motion: Motion, place: Place, encoder: BitEncoder) -> Motion:
        """Code which frames a B frame is predicted from, which of two in each block, and the vectors into each.

        Returns the motion as it will decode: where a block does not use a reference, its vector is what is guessed.
        """

        def encode_bit(bit: bool, p: int) -> bool:
            encoder.encode(np.array([bit]), np.array([p]))
            return bit

        if place.after is not None:
            code_references(list(motion.vectors), place, encode_bit)
        if motion.modes is not None:
            self.modes.encode(motion.modes, encoder)
        known: dict[int, MotionField] = {}
        for i, (number, field) in enumerate(motion.vectors.items()):
            known[number] = self.coder(place, number, known).encode(field, encoder, used(motion.modes, i))
        self.add(place, known)
        return Motion(known, motion.modes)


def _scaled(field: np.ndarray, part: int, whole: int) -> np.ndarray:
    """The vectors times part / whole, rounded to the nearest."""
    part, whole = (part, whole) if whole > 0 else (-part, -whole)
    return np.clip((2 * field.astype(np.int64) * part + whole) // (2 * whole), -MAX_VECTOR, MAX_VECTOR)
