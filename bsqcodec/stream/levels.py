"""Lossless coding of pictures of few values, such as masks: method 2 of section 11 of bitstream_spec.md.

Pixels at the same place of their 16x16 blocks are coded at once, for all blocks: first the corners of the blocks, as a
picture of their own in the same way, then place after place in raster order. So of every pixel those to the left and
above are known, nearly as in raster order, and farther ones below and to the right, in the next blocks.
"""

import numpy as np

from ..errors import FormatError
from .contexts import PROBABILITY_ONE, CodeBits, Contexts
from .range_coder import BitDecoder, BitEncoder, read_by, written_by

MAX_VALUES = 256
_BLOCK = 16
_NEAR = np.array([6, 6, 1, 1, 1, 1, 1, 1])  # weights, in the first counts, of the pixels that a context is made of
_CERTAIN = 4096  # first count of what all these pixels are
_MAX_COUNT = 1 << 14  # sum of the two counts of a context above which they are halved
_GUESSES = 16  # classes of what a value between is guessed to be
_TREE = 5  # high bits of a value between whose contexts depend on the bits before
_LOW = _GUESSES << _TREE  # number of the first context of the other bits
_EVEN = np.array([PROBABILITY_ONE // 2])


class LevelCoder:
    """Codes the frames of a group of pictures in order, and learns.

    Args:
        height, width: of the frames, in pixels.
        values: how many there are, 2..256: the frames hold the numbers 0 .. values - 1.
    """

    def __init__(self, height: int, width: int, values: int):
        self._values, self._bits = values, max(0, values - 3).bit_length()
        self._grids = [_Grid(height, width)]
        while max(height, width) > 1:
            height, width = -(-height // _BLOCK), -(-width // _BLOCK)
            self._grids.append(_Grid(height, width))
        self._differs = Contexts(_votes(2).repeat(3, 1), _MAX_COUNT)
        # of the places in the first row of a block, and of the others
        self._above_least, self._largest = ([Contexts(_votes(3), _MAX_COUNT) for _ in range(2)] for _ in range(2))
        self._between = Contexts(np.full(_LOW + 8, 128), _MAX_COUNT)
        self._before: np.ndarray | None = None

    def encode(self, frame: np.ndarray, encoder: BitEncoder) -> None:
        """Append a frame, uint8 (H, W)."""
        before = self._before
        changes = before is not None and np.count_nonzero(frame != before)
        if before is not None:
            encoder.encode(np.array([not changes]), _EVEN)
            if not changes:
                return
            edges = np.count_nonzero(frame[1:] != frame[:-1]) + np.count_nonzero(frame[:, 1:] != frame[:, :-1])
            encoder.encode(np.array([changes < edges // 2]), _EVEN)
            before = before if changes < edges // 2 else None
        self._before = self._code(frame, before, written_by(encoder))

    def decode(self, decoder: BitDecoder) -> np.ndarray:
        """The next frame, uint8 (H, W). Raises FormatError for a number out of range."""
        before = self._before
        if before is not None:
            if decoder.decode(_EVEN)[0]:
                return before
            before = before if decoder.decode(_EVEN)[0] else None
        self._before = self._code(None, before, read_by(decoder))
        return self._before

    def _code(self, truth: np.ndarray | None, before: np.ndarray | None, code: CodeBits) -> np.ndarray:
        """Code a frame, or decode it where `truth` is None; where `before` is not, by what differs from that frame."""
        picture: np.ndarray | None = None
        for scale, grid in reversed(list(enumerate(self._grids))):
            spacing = _BLOCK**scale
            wanted, earlier = (None if of is None else of[::spacing, ::spacing] for of in (truth, before))
            coarse, picture = picture, np.zeros((grid.height, grid.width), np.uint8)
            for y in range(min(grid.height, _BLOCK)):
                for x in range(min(grid.width, _BLOCK)):
                    those = slice(y, None, _BLOCK), slice(x, None, _BLOCK)
                    target, old = (None if of is None else of[those].ravel() for of in (wanted, earlier))
                    grid.move(y, x)
                    if coarse is not None and x == y == 0:
                        found = coarse.ravel()
                    else:
                        found = self._code_place(grid, target, old, code)
                    picture[those] = found.reshape(grid.count)
                    grid.set(found, self._digits(found), 0 if old is None else found != old)
        assert picture is not None
        return picture

    def _digits(self, values: np.ndarray) -> np.ndarray:
        """0 for the least, 2 for the largest, 1 for those between, uint8."""
        return (values > 0).astype(np.uint8) + (values == self._values - 1)

    def _code_place(
        self, grid: "_Grid", truth: np.ndarray | None, before: np.ndarray | None, code: CodeBits
    ) -> np.ndarray:
        """Code the numbers (n,) at a place of all blocks, or decode them where `truth` is None."""
        found, top = np.zeros(grid.count[0] * grid.count[1], np.uint8), self._values - 1
        those = np.arange(len(found))  # the pixels that a decision is for

        def decide(contexts: Contexts, context: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
            return contexts.code(None if truth is None else bits, context, code) != 0

        def wanted() -> np.ndarray:  # when decoding anything: it is not used
            return those if truth is None else truth[those].astype(np.int64)

        if before is not None:
            context = 3 * grid.context(grid.differs, 2) + self._digits(before)
            differs = decide(self._differs, context, wanted() != before)
            found[:] = before
            those = np.flatnonzero(differs)
            if self._values == 2:
                found[those] ^= 1
                return found
        context, row = grid.context(grid.digits, 3), int(grid.y > 0)
        above_least = decide(self._above_least[row], context[those], wanted() > 0)
        found[those] = 0
        those = those[above_least]
        found[those] = top
        if self._values > 2:
            largest = decide(self._largest[row], context[those], wanted() == top)
            those = those[~largest]
            if len(those):
                guess = (grid.guess()[those].clip(0, top) * _GUESSES // self._values) << _TREE
                found[those] = self._code_between(guess, None if truth is None else wanted(), code)
        return found

    def _code_between(self, guess: np.ndarray, truth: np.ndarray | None, code: CodeBits) -> np.ndarray:
        """Code numbers 1 .. values - 2, (n,), or decode them where `truth` is None.

        guess: the number of the first context for each, (n,).
        """
        node = np.ones(len(guess), np.int64)  # a bit that is set, and below it those that are known
        for i in range(self._bits):
            bit = None if truth is None else (truth - 1) >> (self._bits - 1 - i) & 1
            bit = self._between.code(bit, guess + node if i < _TREE else np.full(len(guess), _LOW + i), code)
            node = 2 * node + bit
        values = node - (1 << self._bits) + 1
        if values.max() > self._values - 2:
            raise FormatError("a value of alpha is out of range")
        return values


class _Grid:
    """A picture, by the places in its blocks; `move` tells the place that is coded.

    Attributes:
        height, width: in pixels.
        y, x, count: the place, and the rows and columns of blocks that have it.
        values, digits, differs: what is known of each pixel, else 0, uint8 (16, 16, rows + 2, columns + 2): the value,
            its digit, whether it differs from the frame before; place by place, with a ring of blocks around.
    """

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        self.y, self.x, self.count = 0, 0, (1, 1)
        rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
        self.values, self.digits, self.differs = np.zeros((3, _BLOCK, _BLOCK, rows + 2, columns + 2), np.uint8)

    def move(self, y: int, x: int) -> None:
        self.y, self.x, self.count = y, x, (-(-(self.height - y) // _BLOCK), -(-(self.width - x) // _BLOCK))

    def at(self, plane: np.ndarray, dy: int, dx: int) -> np.ndarray:
        """The pixels at a distance from those of this place, a view of a plane."""
        (down, y), (right, x) = divmod(self.y + dy, _BLOCK), divmod(self.x + dx, _BLOCK)
        return plane[y, x, 1 + down : 1 + down + self.count[0], 1 + right : 1 + right + self.count[1]]

    def set(self, *known: np.ndarray | int) -> None:
        for plane, of_plane in zip((self.values, self.digits, self.differs), known, strict=True):
            self.at(plane, 0, 0)[:] = np.reshape(of_plane, self.count) if np.ndim(of_plane) else of_plane

    def around(self) -> list[tuple[int, int]]:
        """Where the eight pixels are that tell of those at this place; one that is not known yet is another one."""
        x, y = self.x, self.y
        left = (0, -1) if x else (-1, 0)
        above = (-1, 0) if y else left
        right, below = (0, _BLOCK - x) if x else above, (_BLOCK - y, 0)
        if not y:
            return [left] * 6 + [right, left]
        return [left, above, (-1, -1), (-1, 1), (-1, 2), (-2, 0) if y > 1 else above, right, below]

    def context(self, plane: np.ndarray, base: int) -> np.ndarray:
        """What is known around each pixel, a digit for each of eight, (n,)."""
        total = np.zeros(self.count, np.int32)
        for power, place in enumerate(self.around()):
            total += self.at(plane, *place) * np.int32(base**power)
        return total.ravel()

    def guess(self) -> np.ndarray:
        """What the values are if they go on evenly from the left and from above, int64 (n,)."""
        left, above, corner = (self.at(self.values, *place).astype(np.int64).ravel() for place in self.around()[:3])
        return left + above - corner


def _votes(base: int) -> np.ndarray:
    """First counts of contexts of eight digits, (2, base^8), by how high these are."""
    digits = np.arange(base ** len(_NEAR))[:, None] // base ** np.arange(len(_NEAR)) % base
    vote = digits @ _NEAR * 2 // (base - 1)
    counts = np.stack([2 * _NEAR.sum() - vote, vote]) + 1
    counts[0, 0] = counts[1, -1] = _CERTAIN
    return counts
