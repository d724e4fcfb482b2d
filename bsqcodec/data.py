"""Training data: photographs and short frame strips, as sequences of crops."""

import io
import logging
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from .errors import BsqError

log = logging.getLogger(__name__)
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
VIDEO_SUFFIXES = {".mp4", ".mkv", ".mov", ".webm", ".avi", ".y4m"}
STRIP_SIDE = 256
STRIPS_A_VIDEO = 16


def load_images(paths: list[str], minimum: int) -> list[np.ndarray]:
    """All images of tar shards and folders, uint8 (H, W, 3), each side at least `minimum` pixels.

    Broken items are counted and skipped. Raises BsqError for a path that is neither a tar nor a folder, or if
    nothing was found.
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


def load_videos(folders: list[str], minimum: int, length: int) -> list[np.ndarray]:
    """Strips of `length` frames from evenly spaced places of all videos in folders, uint8 (length * S, S, 3).

    S is at least `minimum` and at most `STRIP_SIDE`; where in the frame a strip lies does not depend on the run. Broken
    and too small videos are counted and skipped. Needs PyAV. Raises BsqError for what is no folder, or if nothing was
    found.
    """
    from .info import Frame
    from .media import open_source

    strips: list[np.ndarray] = []
    skipped = 0
    for folder in folders:
        if not Path(folder).is_dir():
            raise BsqError(f"{folder}: not a folder of videos")
        for file in sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES):
            rng = np.random.default_rng(len(strips))
            found = []
            try:
                with open_source(str(file), audio=False) as source:
                    info, total, rate = source.info, source.total or length, float(source.info.frame_rate or 0)
                side = min(info.width, info.height, STRIP_SIDE)
                count = min(STRIPS_A_VIDEO, total // length) if side >= minimum and rate else 0
                for i in range(count):
                    start, span = i * (total - length) / max(count - 1, 1), length + 1
                    with open_source(str(file), start / rate, span / rate, audio=False) as source:
                        frames = [item.rgb for item in source if isinstance(item, Frame)][:length]
                    y, x = rng.integers(0, info.height - side + 1), rng.integers(0, info.width - side + 1)
                    if len(frames) == length:
                        found.append(np.concatenate([f[y : y + side, x : x + side] for f in frames]))
            except BsqError:
                pass  # what was read before is good
            strips += found
            skipped += not found
    if skipped:
        log.warning("%d videos were broken, too small or too short and skipped", skipped)
    if not strips:
        raise BsqError(f"no training videos in {', '.join(folders)}")
    return strips


def _items(path: Path):
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


class Sampler:
    """Draws random sequences of crops from photographs (synthetic motion) and frame strips (real motion).

    Args:
        photos: uint8 (H, W, 3) each.
        strips: uint8 (T * W, W, 3) each, T frames one above the other.
    """

    def __init__(self, photos: list[np.ndarray], strips: list[np.ndarray]):
        self.photos = [Image.fromarray(p) for p in photos]
        self.strips = strips

    def photo(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """One crop, uint8 (size, size, 3)."""
        image = self.photos[rng.integers(len(self.photos))]
        w, h = image.size
        # photographs are seen at 1:1 and reduced by up to 2, so that blurred ones become sharp ones
        factor = min(rng.choice([1.0, 1.0, rng.uniform(1.0, 2.0)]), w / size, h / size)
        span = int(size * factor)
        x, y = int(rng.integers(0, w - span + 1)), int(rng.integers(0, h - span + 1))
        crop = image.crop((x, y, x + span, y + span))
        if span != size:
            crop = crop.resize((size, size), Image.Resampling.LANCZOS)
        return flip(np.asarray(crop), rng)

    def sequence(self, rng: np.random.Generator, size: int, length: int) -> np.ndarray:
        """uint8 (length, size, size, 3)."""
        if self.strips and rng.random() < 0.6:
            frames = self.clip(rng, size, length)
        else:
            frames = self.moving_photo(rng, size, length)
        return flip(frames.transpose(1, 2, 0, 3), rng).transpose(2, 0, 1, 3)

    def clip(self, rng: np.random.Generator, size: int, length: int) -> np.ndarray:
        strip = self.strips[rng.integers(len(self.strips))]
        side = strip.shape[1]
        frames = strip.reshape(-1, side, side, 3)
        step = 1 if rng.random() < 0.8 else -1
        first = rng.integers(0, len(frames) - length + 1)
        frames = frames[first : first + length][::step]
        x, y = rng.integers(0, side - size + 1, 2)
        return frames[:, y : y + size, x : x + size]

    def moving_photo(self, rng: np.random.Generator, size: int, length: int) -> np.ndarray:
        """Pan, zoom and rotation of a photograph, now and then with a moving patch, noise or a change of brightness."""
        layers = [self._path(rng, size, length)]
        if rng.random() < 0.4:
            layers.append(self._path(rng, size, length))
            mask = Image.new("L", (size, size))
            radius = size * rng.uniform(0.15, 0.4)
            y, x = np.mgrid[:size, :size]
            centre = rng.uniform(0.2, 0.8, 2) * size
            velocity = rng.normal(0, 3, 2)
            masks = []
            for t in range(length):
                cy, cx = centre + velocity * t
                inside = ((y - cy) ** 2 + (x - cx) ** 2 < radius**2).astype(np.uint8) * 255
                mask = Image.fromarray(inside).filter(ImageFilter.GaussianBlur(1))
                masks.append(np.asarray(mask, np.float32)[..., None] / 255)
            frames = [a * (1 - m) + b * m for a, b, m in zip(*layers, masks)]
        else:
            frames = layers[0]
        out = np.stack(frames)
        if rng.random() < 0.2:
            out = out * (1 + np.linspace(0, rng.normal(0, 0.08), length)[:, None, None, None])
        if rng.random() < 0.3:
            out = out + rng.normal(0, rng.uniform(0.5, 3), out.shape)
        return out.clip(0, 255).round().astype(np.uint8)

    def _path(self, rng: np.random.Generator, size: int, length: int) -> list[np.ndarray]:
        image = self.photos[rng.integers(len(self.photos))]
        w, h = image.size
        zoom, turn = rng.uniform(0.8, 1.4), 0.0
        dz, dturn = rng.normal(0, 0.01), rng.normal(0, 0.01) * (rng.random() < 0.5)
        speed = rng.exponential(3.0) * (rng.random() < 0.85)
        angle = rng.uniform(0, 2 * np.pi)
        vx, vy = speed * np.cos(angle), speed * np.sin(angle)
        margin = min(size * 0.75, w / 2 - 1, h / 2 - 1)
        cx, cy = rng.uniform(margin, w - margin), rng.uniform(margin, h - margin)
        frames = []
        for _ in range(length):
            a, b = zoom * np.cos(turn), zoom * np.sin(turn)
            matrix = (a, -b, cx - (a - b) * size / 2, b, a, cy - (a + b) * size / 2)
            frame = image.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
            frames.append(np.asarray(frame, np.float32))
            cx, cy, zoom, turn = cx + vx, cy + vy, zoom * (1 + dz), turn + dturn
        return frames


def flip(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random one of the eight symmetries of the square, on the first two axes."""
    x = np.rot90(x, int(rng.integers(4)))
    return x[::-1] if rng.random() < 0.5 else x
