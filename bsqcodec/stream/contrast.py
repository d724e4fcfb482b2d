"""Lossless coding of the classes of contrast of an I frame: interlaced prediction, adaptive binary contexts, exact.

The tokens are coded on the pyramid of the motion vectors (`motion_vectors.pyramid_steps`): the class of each is
guessed as the mean of its neighbours that are known, floor(sum / n + 1/2), and the difference is coded: whether there
is one, its sign, and its size in unary, at most six. Every decision of a step of the pyramid is coded for all its
tokens before the next one.
"""

import numpy as np

from ..errors import FormatError
from .contexts import CodeBits, Contexts
from .motion_vectors import pyramid_steps
from .range_coder import BitDecoder, BitEncoder, read_by, written_by

MIN_CLASS, MAX_CLASS = -3, 3
_SPREADS = 4  # disagreement of the neighbours: 0, 1, 2, more
# contexts: zero flag (spread), sign (sign of what the guess lacks of the neighbours' mean), size (spread)
_SIGN, _SIZE = _SPREADS + 1, _SPREADS + 4
# first P(1) of each context in 1/256
_START = np.array([74, 115, 141, 154, 220, 128, 128, 128, 15, 26, 38, 51, 118], np.int64)
_MAX_COUNT = 1 << 12  # sum of the two counts of a context above which they are halved


def encode_classes(classes: np.ndarray, encoder: BitEncoder) -> None:
    """Append the classes of a frame, integers -3..3, (rows, columns)."""
    rows, columns = classes.shape
    _run(rows, columns, classes.astype(np.int64).ravel(), written_by(encoder))


def decode_classes(rows: int, columns: int, decoder: BitDecoder) -> np.ndarray:
    """The classes of the next frame, int64 (rows, columns). Raises FormatError if one is out of range."""
    return _run(rows, columns, None, read_by(decoder)).reshape(rows, columns)


def complete_classes(classes: np.ma.MaskedArray, code: CodeBits) -> np.ndarray:
    """The classes of a frame, int64 (rows, columns), of which those that are masked follow from the bits of `code`.

    It gets masked bits where it is to decide. Where its bits lead beyond -3..3, which a decoder refuses, the class is
    the nearest of these.
    """
    rows, columns = classes.shape
    return _run(rows, columns, classes.astype(np.int64).ravel(), code, clipped=True).reshape(rows, columns)


def _run(rows: int, columns: int, truth: np.ndarray | None, code: CodeBits, clipped: bool = False) -> np.ndarray:
    """Code the classes `truth`, raster order, or decode them where it is None; returns them in raster order."""
    contexts = Contexts(_START, _MAX_COUNT)
    field = np.zeros(rows * columns + 1, np.int64)
    known = np.zeros(rows * columns + 1, bool)
    for step in pyramid_steps(rows, columns):
        around, there = field[step.predictors], known[step.predictors]
        n = there.sum(0)
        total = (around * there).sum(0)
        guess = np.where(n > 0, (2 * total + n) // np.maximum(2 * n, 1), 0)
        spread = np.where(there, around, MIN_CLASS).max(0) - np.where(there, around, MAX_CLASS).min(0)
        spread = np.where(n > 0, spread.clip(0, _SPREADS - 1), _SPREADS)
        side = np.sign(total - guess * n) + 1
        d = None if truth is None else truth[step.blocks] - guess
        out = np.zeros(len(guess), np.int64)
        some = np.flatnonzero(contexts.code(None if d is None else d != 0, spread, code))
        negative = contexts.code(None if d is None else d[some] < 0, _SIGN + side[some], code)
        size, going = np.ones(len(some), np.int64), np.arange(len(some))
        while going.size and size.max() < MAX_CLASS - MIN_CLASS:
            more = None if d is None else np.abs(d[some[going]]) > size[going]
            going = going[contexts.code(more, _SIZE + spread[some[going]], code) != 0]
            size[going] += 1
        out[some] = np.where(negative != 0, -size, size)
        field[step.blocks] = np.clip(guess + out, MIN_CLASS, MAX_CLASS) if clipped else guess + out
        known[step.blocks] = True
    if field.min() < MIN_CLASS or field.max() > MAX_CLASS:
        raise FormatError("a class of contrast is out of range")
    return field[:-1]
