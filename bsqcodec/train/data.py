"""Training data as files: photographs and short strips of frames, from tar shards, folders, and folders of videos."""

import contextlib
import io
import logging
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import BsqError
from ..suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ..types import Frame

log = logging.getLogger(__name__)
MAX_STRIP_SIDE = 256  # pixels, of strips that are cut from videos
STRIPS_PER_VIDEO = 16


def load_images(paths: list[str], minimum: int) -> list[np.ndarray]:
    """All images of tar shards and folders, uint8 (H, W, 3), with sides of at least `minimum` pixels.

    A warning counts the broken and small ones, which are skipped. Raises BsqError for a path that is neither a tar nor
    a folder, or if nothing was found.
    """
    images, skipped = [], 0
    for path in paths:
        for data in _items(Path(path)):
            try:
                image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            except Exception:
                skipped += 1
                continue
            if min(image.shape[:2]) < minimum:
                skipped += 1
            else:
                images.append(image)
    if skipped:
        log.warning("%d items were broken or too small and skipped", skipped)
    if not images:
        raise BsqError(f"no training images in {', '.join(paths)}")
    return images


def whole_strips(strips: Sequence[np.ndarray], frames: int) -> list[np.ndarray]:
    """The strips with at least `frames` square frames, and nothing beyond them; a warning counts the others.

    A strip is an image of frames, one above the other or side by side.
    """
    shapes = [sorted(s.shape[:2]) for s in strips]
    whole = [s for s, (side, long) in zip(strips, shapes, strict=True) if long % side == 0 and long >= frames * side]
    if len(whole) < len(strips):
        log.warning("%d strips have not %d square frames and are left out", len(strips) - len(whole), frames)
    return whole


class Incoming:
    """Shards `photos*.tar` (photographs) and `clips*.tar` (strips) that appear in a folder during a run.

    A thread reads them.

    Args:
        folder: where they appear; it may be made later.
        minimum: smallest side in pixels of an image that is taken.
        frames: smallest number of frames of a strip that is taken.
    """

    def __init__(self, folder: str | Path, minimum: int, frames: int):
        self.folder, self.minimum, self.frames = Path(folder), minimum, frames
        self._pool = ThreadPoolExecutor(1)
        self._seen: dict[Path, Future[list[np.ndarray]]] = {}
        self._taken: set[Path] = set()

    def arrived(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Photographs and strips that have been read since the last call; does not wait for any."""
        photos: list[np.ndarray] = []
        strips: list[np.ndarray] = []
        for path in sorted(self.folder.glob("*.tar")):
            if path.name.startswith(("photos", "clips")) and path not in self._seen:
                self._seen[path] = self._pool.submit(load_images, [str(path)], self.minimum)
        for path in self._seen.keys() - self._taken:
            if not self._seen[path].done():
                continue
            self._taken.add(path)
            try:
                images = self._seen[path].result()
            except BsqError as e:
                log.warning("a shard is left out: %s", e)
                continue
            if path.name.startswith("clips"):
                images = whole_strips(images, self.frames)
                strips += images
            else:
                photos += images
            log.info("%s: %d images", path.name, len(images))
        return photos, strips


def load_videos(folders: list[str], minimum: int, length: int) -> list[np.ndarray]:
    """Strips of `length` frames from evenly spaced times of all videos in folders, uint8 (length * S, S, 3).

    S is at least `minimum` and at most `MAX_STRIP_SIDE`; where in the frame a strip lies does not depend on the run. A
    warning counts broken, small and short videos, which are skipped. Needs PyAV. Raises BsqError for a path that is no
    folder, or if nothing was found.
    """
    strips: list[np.ndarray] = []
    skipped = 0
    for folder in folders:
        if not Path(folder).is_dir():
            raise BsqError(f"{folder}: not a folder of videos")
        for file in sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES):
            found = _video_strips(file, np.random.default_rng(len(strips)), minimum, length)
            strips += found
            skipped += not found
    if skipped:
        log.warning("%d videos were broken, too small or too short and skipped", skipped)
    if not strips:
        raise BsqError(f"no training videos in {', '.join(folders)}")
    return strips


def _video_strips(file: Path, rng: np.random.Generator, minimum: int, length: int) -> list[np.ndarray]:
    """The strips of one video, as those of `load_videos`; of a broken video those before the damage."""
    from ..media import open_source  # which imports PyAV

    found = []
    with contextlib.suppress(BsqError):
        with open_source(str(file), audio=False) as source:
            info, total, rate = source.info, source.total or length, float(source.info.frame_rate or 0)
        side = min(info.width, info.height, MAX_STRIP_SIDE)
        count = min(STRIPS_PER_VIDEO, total // length) if side >= minimum and rate else 0
        for i in range(count):
            start, span = i * (total - length) / max(count - 1, 1), length + 1
            with open_source(str(file), start=start / rate, duration=span / rate, audio=False) as source:
                frames = [item.rgb for item in source if isinstance(item, Frame)][:length]
            y, x = rng.integers(0, info.height - side + 1), rng.integers(0, info.width - side + 1)
            if len(frames) == length:
                found.append(np.concatenate([f[y : y + side, x : x + side] for f in frames]))
    return found


def _items(path: Path) -> Iterator[bytes]:
    """The contents of every image file in a tar or a folder. Raises BsqError if the path is neither."""
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
            yield file.read_bytes()
        return
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and Path(member.name).suffix.lower() in IMAGE_SUFFIXES:
                    data = tar.extractfile(member)
                    assert data is not None
                    yield data.read()
    except (tarfile.TarError, OSError) as e:
        raise BsqError(f"{path}: not a folder and not a readable tar ({e})") from e
