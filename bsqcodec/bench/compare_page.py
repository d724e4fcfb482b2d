"""Two pictures or videos in one HTML page: some frames on top of each other, sizes and metrics."""

import math
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from .frames import frames_of
from .html_parts import WIDTH, Slider, document, largest_window, png, slider, table
from .metrics import BY_KEY, METRICS, measure

MAX_BYTES = 48_000_000  # of all pictures of a page, as PNG; as text they take a third more
_NOTE = (
    "Bits per pixel: all bytes of a file, its headers and sound too, times 8 over width x height x frames. A metric is "
    "the mean over frames of its value for each. Frames are counted from 0."
)


@dataclass
class _Seen:
    """The frames that were compared: which to show, and what was measured of all.

    Attributes:
        key: the metric that tells which is the worst.
        values: metrics of each frame.
        first, worst: the frames of both videos.
        worst_number: which frame the worst is.
    """

    key: str
    values: list[dict[str, float]] = field(default_factory=list)
    first: tuple[np.ndarray, ...] = ()
    worst: tuple[np.ndarray, ...] = ()
    worst_number: int = 0
    _lowest: float = math.inf

    def look(self, a: np.ndarray, b: np.ndarray, values: dict[str, float]) -> None:
        """Note the next frame."""
        quality = BY_KEY[self.key].quality(values[self.key]) if self.key else math.nan
        if not self.values:
            self.first = a, b
        if quality < self._lowest:
            self._lowest, self.worst_number, self.worst = quality, len(self.values), (a, b)
        self.values.append(values)


def write_page(target: Path, a: Path, b: Path, names: tuple[str, ...], limit: int | None) -> dict[str, float]:
    """Compare two files as `measure` does, and write the page; returns what `measure` does, and raises as it.

    Of a video it shows the worst frame by the first metric, the first, and the one in the middle. Pictures that would
    take more than MAX_BYTES are cut to where they differ the most.

    Args:
        target: file to write.
        a, b: as `frames_of` takes them.
        names: metrics, keys of METRICS.
        limit: largest number of frames; None is all.
    """
    seen = _Seen(METRICS[names[0]].key if names else "")
    values = measure(frames_of(a, limit), frames_of(b, limit), names, seen.look)
    count = len(seen.values)
    chosen: dict[int, tuple[list[str], tuple[np.ndarray, ...]]] = {}

    def choose(number: int, why: str, pictures: tuple[np.ndarray, ...]) -> None:
        chosen.setdefault(number, ([], pictures))[0].append(why)

    if seen.worst and count > 1:
        choose(seen.worst_number, f"the worst by {seen.key}", seen.worst)
    choose(0, "the first", seen.first)
    if count > 2:
        middle = count // 2
        choose(middle, "in the middle", tuple(next(frames_of(path, 1, middle)) for path in (a, b)))
    parts = [f"<h1>{escape(a.name)} and {escape(b.name)}</h1>", _files((a, b), seen, limit), _metrics(values)]
    for n, (number, (reasons, pictures)) in enumerate(chosen.items()):
        title = f"Frame {number} of {count}, {' and '.join(reasons)}: {_line(seen.values[number])}" if count > 1 else ""
        parts.append(slider(_slider(title, (a.name, b.name), pictures, MAX_BYTES // len(chosen)), n))
    parts.append(f'<p class="note">{escape(_NOTE)}</p>')
    target.write_text(document(f"{a.name} and {b.name}", parts, broad=True))
    return values


def _files(paths: tuple[Path, Path], seen: _Seen, limit: int | None) -> str:
    """A table of both files."""
    (height, width, _), count = seen.first[0].shape, len(seen.values)
    rows = [["file", "width", "height", "frames", "bytes", "bits per pixel"]]
    for path in paths:
        size = sum(p.stat().st_size for p in path.iterdir() if p.is_file()) if path.is_dir() else path.stat().st_size
        rate = f"{8 * size / (width * height * count):.4f}" if limit is None or count < limit else "-"  # not of a part
        rows.append([path.name, str(width), str(height), str(count), str(size), rate])
    return table(rows)


def _metrics(values: dict[str, float]) -> str:
    """A table of metrics, as the command prints them."""
    rows = [["B against A", "value", "dB"]]
    for key, value in values.items():
        metric = BY_KEY[key]
        rows.append([key, f"{value:.5f}", f"{metric.quality(value):.3f}" if metric.decibels else ""])
    return table(rows)


def _line(values: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4f}" for key, value in values.items() if not math.isnan(value))


def _slider(title: str, names: tuple[str, str], pictures: tuple[np.ndarray, ...], limit: int) -> Slider:
    """Both pictures, cut to where they differ the most if their files had more than `limit` bytes."""
    files = [png(picture) for picture in pictures]
    height, width, _ = pictures[0].shape
    side, error = max(height, width), np.square(pictures[0].astype(np.float32) - pictures[1]).sum(2)
    while sum(map(len, files)) > limit:
        side //= 2
        rows, columns = largest_window(error, side)
        files = [png(picture[rows, columns]) for picture in pictures]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        part = f"{width}x{height} pixels from ({columns.start}, {rows.start}) on, where the difference is largest"
    if side < max(error.shape):
        title = f"{title}; {part}" if title else part
    images = list(zip("AB", names, files, strict=True))
    return Slider(title, images, 0, 1, width * max(1, WIDTH // width))
