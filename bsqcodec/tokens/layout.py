"""What both directions share: the arrays of a stream and of its frames."""

from typing import NamedTuple

import numpy as np

from ..network.quantiser import EXCESS_MAX, PLANE_BOUNDS
from ..settings import TUNES
from ..stream.fields import MAX_TIME

LAYOUT = 1
MAX_COEFFICIENT = int(PLANE_BOUNDS[-1]) + EXCESS_MAX
MAX_FRAMES = 1 << 48
# the numbers of a header in their order; how many each array has
FIELDS = {
    "bit_depth": 1, "alpha": 1, "width": 1, "height": 1, "time_base": 2, "frame_rate": 2, "sample_aspect_ratio": 2,
    "quarter_turns": 1, "primaries": 1, "transfer": 1, "matrix": 1, "color_range": 1,
}  # fmt: skip


class _Column(NamedTuple):
    """An array with a row for each frame: type, shape of a row, least and largest value."""

    dtype: type
    shape: tuple[int, ...]
    low: int
    high: int


COLUMNS = {
    "pts": _Column(np.int64, (), 1 - MAX_TIME, MAX_TIME - 1),
    "group": _Column(np.int64, (), 0, MAX_FRAMES),
    "tune": _Column(np.uint8, (), 0, len(TUNES) - 1),
    "quality": _Column(np.uint8, (), 1, 100),
    "mini_gop": _Column(np.uint8, (2,), 0, 255),
    "references": _Column(np.int64, (2,), -1, MAX_FRAMES),
}
