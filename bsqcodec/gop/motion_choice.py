"""Chooses what a frame is predicted from: one reference or two, by which vectors, and of two by which in each block."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..stream.group import BOTH, FIRST, SECOND, Place
from ..stream.modes import used
from ..stream.motion_fields import FieldCoder, MotionField
from ..stream.range_coder import BitEncoder
from .motion import BLOCK, mean
from .motion_search import MOTION_LAMBDA, VECTOR_LAMBDA, Field, search_field
from .references import Motion, ReferenceBuffer, VectorContexts
from .split_search import cheapest_split, split_bits
from .vector_search import cheapest_vectors, vector_bits

ROUNDS = 1  # of refinement of the vectors into two references
SHARED_WEIGHT = 0.25  # of the squared error of one of two predictions, which both count half in their mean


class _Candidate(NamedTuple):
    """The motion that the search finds into one reference.

    Attributes:
        field: of the search, which holds the pixels of the reference.
        vectors: of its blocks and of their quarters.
        prediction: the reference moved by these, float32 (1, 3, H, W).
    """

    field: Field
    vectors: MotionField
    prediction: Tensor


class MotionChoice:
    """Chooses the motion of one frame, which is no I frame.

    Args:
        x: the frame, float32 (1, 3, 16 * rows, 16 * columns), integers 0..255.
        step: of the quantiser, in sample values.
        place: of the frame.
        references: what it may be predicted from.
        contexts: what will code its motion.
    """

    def __init__(self, x: Tensor, step: float, place: Place, references: ReferenceBuffer, contexts: VectorContexts):
        self._x, self._step, self._place = x, step, place
        self._references, self._contexts = references, contexts
        self._lam = VECTOR_LAMBDA * step**2

    def best(self) -> tuple[Tensor, Motion]:
        """The prediction and the motion that cost least: from one frame or, for a B frame, perhaps from two."""
        before, after = self._place.before, self._place.after
        assert before is not None
        first = self._search(before, {})
        options = [(first.prediction, Motion({before: first.vectors}))]
        if after is not None:
            second = self._search(after, {before: first.vectors})
            options.append((second.prediction, Motion({after: second.vectors})))
            options.append(self._both(before, first, after, second))
        return min(options, key=lambda option: self._cost(*option)) if len(options) > 1 else options[0]

    def _cost(self, prediction: Tensor, motion: Motion) -> float:
        """Squared error and bits together; the error over all three colours counts as luma's does."""
        scratch, known = BitEncoder(), dict[int, MotionField]()
        for i, (number, vectors) in enumerate(motion.vectors.items()):
            known[number] = self._coder(number, known).copy().encode(vectors, scratch, used(motion.modes, i))
        if motion.modes is not None:
            self._contexts.modes.copy().encode(motion.modes, scratch)
        return float((self._x - prediction).square().sum() / 3) + self._lam * scratch.bits

    def _coder(self, reference: int, known: dict[int, MotionField]) -> FieldCoder:
        """What will code the vectors into `reference`, after those that are `known`; good until it is asked again."""
        return self._contexts.coder(self._place, reference, known)

    def _search(self, reference: int, known: dict[int, MotionField]) -> _Candidate:
        """The best motion into `reference` alone."""
        coder = self._coder(reference, known)
        start, size = None, self._contexts.size
        if self._place.after is not None and (expected := coder.vectors.expected(*size)) is not None:
            start = torch.from_numpy(expected.reshape(1, *size, 2)).to(self._x.device)
        target, lam = self._references.frames[reference], MOTION_LAMBDA * self._step
        field = search_field(self._x.to(torch.uint8), target, lam, start, start is None)
        return self._found(reference, field, coder)

    def _found(self, reference: int, field: Field, coder: FieldCoder, weights: np.ndarray | None = None) -> _Candidate:
        """What is best where the search in `field` ends; the errors of blocks count by their weights."""
        vectors = cheapest_vectors(field, coder.vectors, self._lam, weights)
        motion = cheapest_split(field, coder, vectors, self._lam, weights)
        return _Candidate(field, motion, self._references.predicted(reference, motion))

    def _both(self, before: int, first: _Candidate, after: int, second: _Candidate) -> tuple[Tensor, Motion]:
        """The best motion into two references, from what was found into each; leaves the fields of the search changed.

        The vectors into one reference are chosen anew for what the other one leaves to them, and so in turn.
        """
        modes = self._modes(before, first, after, second)
        for _ in range(ROUNDS):
            second = self._refined(after, second, {before: first.vectors}, modes, SECOND, first.prediction)
            first = self._refined(before, first, {}, modes, FIRST, second.prediction)
            modes = self._modes(before, first, after, second)
        motion = Motion({before: first.vectors, after: second.vectors}, modes)
        return self._references.predict(motion), motion

    def _modes(self, before: int, first: _Candidate, after: int, second: _Candidate) -> np.ndarray:
        """The modes that cost least with these vectors, where bits of vectors without use count as saved."""
        both = mean(first.prediction, second.prediction)
        errors = [self._block_errors(p) / self._lam for p in (both, first.prediction, second.prediction)]
        bits = self._bits(first.vectors, self._coder(before, {}))
        more = self._bits(second.vectors, self._coder(after, {before: first.vectors}))
        return self._contexts.modes.cheapest(np.stack(errors, -1) + np.stack([bits + more, bits, more], -1))

    def _bits(self, motion: MotionField, coder: FieldCoder) -> np.ndarray:
        """Estimated bits of each block's vectors, (rows, columns)."""
        return vector_bits(motion.vectors, coder.vectors) + split_bits(motion, coder)

    def _refined(
        self,
        reference: int,
        found: _Candidate,
        known: dict[int, MotionField],
        modes: np.ndarray,
        own: int,
        other: Tensor,
    ) -> _Candidate:
        """The vectors that are best where the mean with the prediction `other`, or this reference alone, predicts.

        own: the mode of this reference alone. Where neither, the vectors are those that take least bits.
        """
        shared = torch.from_numpy(modes == BOTH).to(self._x.device)
        shared = shared.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        field = found.field
        field.aim(torch.where(shared, 2 * self._x - other, self._x))
        field.set(torch.from_numpy(found.vectors.vectors)[None].to(self._x.device))
        weights = np.select([modes == BOTH, modes == own], [SHARED_WEIGHT, 1.0], 0.0)
        return self._found(reference, field, self._coder(reference, known), weights)

    def _block_errors(self, prediction: Tensor) -> np.ndarray:
        """Squared error summed over each block, mean of the three colours, float64 (rows, columns)."""
        rows, columns = self._contexts.size
        errors = (self._x - prediction).square().sum((0, 1)).view(rows, BLOCK, columns, BLOCK).sum((1, 3))
        return errors.cpu().numpy().astype(np.float64) / 3
