"""Training data: photographs and short frame strips, as sequences of crops."""

import io
import logging
import tarfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

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

    The images lie in the memory of `device`, and crops are made there.

    Args:
        photos: uint8 (H, W, 3) each.
        strips: uint8 (T * W, W, 3) each, T frames one above the other.
    """

    def __init__(self, photos: list[np.ndarray], strips: list[np.ndarray], device: str | torch.device = "cpu"):
        self.photos = [torch.tensor(p, device=device) for p in photos]
        self.strips = [torch.tensor(s, device=device).unflatten(0, (-1, s.shape[1])) for s in strips]

    def photo(self, rng: np.random.Generator, size: int) -> Tensor:
        """One crop, uint8 (3, size, size)."""
        image = self.photos[rng.integers(len(self.photos))]
        h, w, _ = image.shape
        # photographs are seen at 1:1 and reduced by up to 2, so that blurred ones become sharp ones
        factor = min(rng.choice([1.0, 1.0, rng.uniform(1.0, 2.0)]), w / size, h / size)
        span = int(size * factor)
        x, y = int(rng.integers(0, w - span + 1)), int(rng.integers(0, h - span + 1))
        crop = image[y : y + span, x : x + span].permute(2, 0, 1)
        if span != size:
            crop = F.interpolate(crop[None].float(), (size, size), mode="bicubic", antialias=True)[0]
            crop = crop.round().clamp(0, 255).to(torch.uint8)
        return flip(crop, rng)

    def sequence(self, rng: np.random.Generator, size: int, length: int) -> Tensor:
        """uint8 (length, 3, size, size)."""
        if self.strips and rng.random() < 0.6:
            return flip(self.clip(rng, size, length), rng)
        return flip(self.moving_photo(rng, size, length), rng)

    def clip(self, rng: np.random.Generator, size: int, length: int) -> Tensor:
        frames = self.strips[rng.integers(len(self.strips))]
        forwards = rng.random() < 0.8
        first = rng.integers(0, len(frames) - length + 1)
        x, y = rng.integers(0, frames.shape[1] - size + 1, 2)
        frames = frames[first : first + length, y : y + size, x : x + size].permute(0, 3, 1, 2)
        return frames if forwards else frames.flip(0)

    def moving_photo(self, rng: np.random.Generator, size: int, length: int) -> Tensor:
        """Pan, zoom and rotation of a photograph, now and then with a moving patch, noise or a change of brightness."""
        out = self._path(rng, size, length)
        device = out.device
        if rng.random() < 0.4:
            other = self._path(rng, size, length)
            radius = size * rng.uniform(0.15, 0.4)
            time = np.arange(length)[:, None]
            centre = rng.uniform(0.2, 0.8, 2) * size + rng.normal(0, 3, 2) * time
            cy, cx = torch.tensor(centre, dtype=torch.float32, device=device).T[:, :, None, None, None]
            at = torch.arange(size, device=device)
            inside = (radius - torch.hypot(at[:, None] - cy, at - cx)).clamp(-1, 1) / 2 + 0.5
            out = torch.lerp(other, out, inside)
        if rng.random() < 0.2:
            out = out * torch.linspace(1, 1 + rng.normal(0, 0.08), length, device=device)[:, None, None, None]
        if rng.random() < 0.3:
            generator = torch.Generator(device).manual_seed(int(rng.integers(1 << 62)))
            out = out + rng.uniform(0.5, 3) * torch.randn(out.shape, generator=generator, device=device)
        return out.round().clamp(0, 255).to(torch.uint8)

    def _path(self, rng: np.random.Generator, size: int, length: int) -> Tensor:
        image = self.photos[rng.integers(len(self.photos))]
        h, w, _ = image.shape
        zoom, turn = rng.uniform(0.8, 1.4), 0.0
        dz, dturn = rng.normal(0, 0.01), rng.normal(0, 0.01) * (rng.random() < 0.5)
        speed = rng.exponential(3.0) * (rng.random() < 0.85)
        angle = rng.uniform(0, 2 * np.pi)
        vx, vy = speed * np.cos(angle), speed * np.sin(angle)
        margin = min(size * 0.75, w / 2 - 1, h / 2 - 1)
        cx, cy = rng.uniform(margin, w - margin), rng.uniform(margin, h - margin)
        views = []
        for _ in range(length):
            # affine_grid has both views and image reach from -1 to 1
            a, b = size * zoom * np.cos(turn), size * zoom * np.sin(turn)
            views.append([[a / w, -b / w, 2 * cx / w - 1], [b / h, a / h, 2 * cy / h - 1]])
            cx, cy, zoom, turn = cx + vx, cy + vy, zoom * (1 + dz), turn + dturn
        matrices = torch.tensor(views, dtype=torch.float32, device=image.device)
        grid = F.affine_grid(matrices, [length, 3, size, size], align_corners=False)
        source = image.permute(2, 0, 1).float().expand(length, -1, -1, -1)
        return F.grid_sample(source, grid, mode="bicubic", padding_mode="border", align_corners=False)


def flip(x: Tensor, rng: np.random.Generator) -> Tensor:
    """A random one of the eight symmetries of the square, on the last two axes."""
    x = torch.rot90(x, int(rng.integers(4)), (-2, -1))
    return x.flip(-1) if rng.random() < 0.5 else x
