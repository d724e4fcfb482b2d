"""Samples of training data: crops of photographs, and sequences of crops with their motion vectors.

What is drawn at random is drawn on the host, and the same on every device; pixels are cut and resampled on the device,
all crops of a batch at once, and the host waits for nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..gop.motion import BLOCK
from ..gop.motion_search import search_field

MOTION_LAMBDA = 12.0  # luma SAD that a bit of vectors may cost, in strips
SPEED_DEVIATION, MAX_SPEED = 4.0, 12  # of a photograph that moves: standard deviation and bound, in pixels per frame
CPU_FIELDS, GPU_FIELDS = 16, 256  # motion fields that are searched at once
ZOOM = (0.75, 1.45)  # source pixels per pixel of a resampled crop
TURN = 0.1  # standard deviation of the angle of a resampled crop in radians, beside quarter turns
CONTRAST = (0.6, 1.2)  # factors of the distance from `CENTRE`
CENTRE = 120  # the pixel value that a change of contrast leaves as it is


class SequenceFrame(NamedTuple):
    """A frame of a training sequence, whose frames are listed in the order of coding.

    Attributes:
        distance: in frames, from the first frame of the sequence; never negative.
        references: the places in the list of the frames that predict it: none, one (a P frame) or two (a B frame).
    """

    distance: int
    references: tuple[int, ...]


Sequences = tuple[Tensor, dict[tuple[int, int], Tensor]]  # frames, and vectors by frame and reference


class Packed:
    """Images of any size in one buffer on a device, so that crops of many are cut at once.

    Args:
        images: (H, W, C) each, all of one type.
        device: where they lie from then on.

    Attributes:
        shapes: height and width of each image, (n, 2).
        first: the place of the first pixel of each image in `values`, (n,).
        values: the pixels of all images, (pixels, C).
    """

    def __init__(self, images: Sequence[np.ndarray], device: str | torch.device):
        self.shapes = np.array([image.shape[:2] for image in images], dtype=np.int64)
        ends = (self.shapes[:, 0] * self.shapes[:, 1]).cumsum()
        self.first = np.concatenate([[0], ends[:-1]])
        self.values = torch.from_numpy(np.concatenate([i.reshape(-1, i.shape[2]) for i in images])).to(device)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.shapes)

    def extend(self, images: Sequence[np.ndarray]) -> None:
        """Append images."""
        more = Packed(images, self.values.device)
        self.first = np.concatenate([self.first, more.first + len(self.values)])
        self.shapes = np.concatenate([self.shapes, more.shapes])
        self.values = torch.cat([self.values, more.values])

    def cut(self, which: np.ndarray, top: np.ndarray, left: np.ndarray, height: int, width: int) -> Tensor:
        """Crops, (n, height, width, C); beyond the border of an image its border pixels are repeated.

        which: numbers of the images, (n,); top, left: the corner of each crop in its image, (n,).
        """
        at = np.stack([self.first[which], self.shapes[which, 1], top, left, *(self.shapes[which] - 1).T])
        first, columns, *_ = at = on_device(self.values.device, at)[..., None]
        place = at[2:4] + torch.arange(max(height, width), device=at.device)
        y, x = place.clamp(min=0).minimum(at[4:])
        y, x = y[:, :height], x[:, :width]
        return self.values[(first + y * columns)[..., None] + x[:, None]]


class Sampler:
    """Draws crops of photographs, and sequences of them (synthetic motion) and of frame strips (real motion).

    Args:
        photos: uint8 (H, W, 3) each.
        strips: uint8 (T * S, S, 3) or (S, T * S, 3) each, T frames one above the other or side by side.
        device: where the pixels lie, and crops are made.

    Attributes:
        photos: the photographs.
        frames: the frames of all strips; None without strips.
        lengths: number of frames of each strip.
        starts: the number in `frames` of the first frame of each strip, and of one behind the last.
    """

    def __init__(
        self, photos: Sequence[np.ndarray], strips: Sequence[np.ndarray] = (), device: str | torch.device = "cpu"
    ):
        self.device = torch.device(device)
        self.photos = Packed(photos, device)
        self.lengths = np.zeros(0, np.int64)
        self.starts = np.zeros(1, np.int64)
        self.frames: Packed | None = None
        # by how many frames later the reference is: vectors of every frame, and whether they are known by now
        self._fields: dict[int, tuple[Packed, np.ndarray]] = {}
        self.extend([], strips)

    def extend(self, photos: Sequence[np.ndarray], strips: Sequence[np.ndarray]) -> None:
        """Add photographs and strips, as those of the constructor, to what is drawn from."""
        if photos:
            self.photos.extend(photos)
        if not strips:
            return
        several = [frames_of(strip) for strip in strips]
        self.lengths = np.concatenate([self.lengths, [len(frames) for frames in several]]).astype(np.int64)
        self.starts = np.concatenate([[0], self.lengths.cumsum()]).astype(np.int64)
        frames = [frame for frames in several for frame in frames]
        if self.frames is None:
            self.frames = Packed(frames, self.device)
        else:
            self.frames.extend(frames)
        for apart, (fields, known) in self._fields.items():
            fields.extend(_no_vectors(self.frames.shapes[len(known) :]))
            self._fields[apart] = fields, np.concatenate([known, np.zeros(len(frames), bool)])

    def plain(self, rng: np.random.Generator, n: int, size: int) -> Tensor:
        """Unchanged crops of photographs, uint8 (n, 3, size, size)."""
        which = rng.integers(len(self.photos), size=n)
        top, left = (rng.integers(0, self.photos.shapes[which] - size + 1)).T
        return self.photos.cut(which, top, left, size, size).permute(0, 3, 1, 2)

    def crops(self, rng: np.random.Generator, n: int, size: int) -> Tensor:
        """Crops of photographs, float32 (n, 3, size, size) holding integers 0..255.

        Two in five are turned and resampled, all may be mirrored, two in five have another contrast.
        """
        many = 2 * n // 5
        plain = self.plain(rng, n - many, size)
        plain = _choose(rng, 0.5, plain.flip(3), plain)
        plain = _choose(rng, 0.3, plain.transpose(2, 3), plain)
        crops = torch.cat([self._resampled(rng, many, size), plain.float()])
        contrast = np.where(rng.random(n) < 0.4, rng.uniform(*CONTRAST, n), 1.0)
        return ((crops - CENTRE) * self.on_device(contrast)[:, None, None, None] + CENTRE).round().clamp(0, 255)

    def _resampled(self, rng: np.random.Generator, n: int, size: int) -> Tensor:
        """Crops of turned, mirrored and scaled photographs, float32 (n, 3, size, size)."""
        if not n:
            return torch.zeros((0, 3, size, size), device=self.device)
        which = rng.integers(len(self.photos), size=n)
        zoom = rng.uniform(*ZOOM, n)
        angle = TURN * rng.standard_normal(n) + np.pi / 2 * rng.integers(4, size=n)
        mirror = rng.choice([-1.0, 1.0], n)
        window = int(size * ZOOM[1] * 1.2)  # holds any crop, but for corners of a few
        side = self.photos.shapes[which]
        # the crop's centre, so that the crop lies inside the photograph where it can
        reach = np.minimum(zoom[:, None] * size * 0.6, side / 2)
        centre = reach + rng.random((n, 2)) * (side - 2 * reach)
        corner = np.floor(centre).astype(np.int64) - window // 2
        top, left = corner.T
        source = self.photos.cut(which, top, left, window, window).permute(0, 3, 1, 2).float()
        # affine_grid has both the crop and its source reach from -1 to 1
        y, x = ((centre - corner) * 2 / window - 1).T
        c, s = zoom * size / window * np.cos(angle), zoom * size / window * np.sin(angle)
        matrix = np.stack([np.stack([c * mirror, -s, x], 1), np.stack([s * mirror, c, y], 1)], 1)
        grid = F.affine_grid(self.on_device(matrix), [n, 3, size, size], align_corners=False)
        return F.grid_sample(source, grid, mode="bicubic", padding_mode="reflection", align_corners=False)

    def sequences(self, rng: np.random.Generator, n: int, size: int, order: Sequence[SequenceFrame]) -> Sequences:
        """Crops of sequences of frames: a quarter are moving photographs, the others strips, where there are any.

        Args:
            n: number of sequences.
            size: of the crops in pixels, a multiple of 16.
            order: the frames of each sequence, in the order of coding.

        Returns the frames, uint8 (n, len(order), 3, size, size), in that order; and for each pair of a frame and its
        reference, places in `order`, the vectors of blocks of 16x16 pixels, int32 (n, size / 16, size / 16, 2), (dy,
        dx) in quarter pixels.
        """
        moving = n if self.frames is None else max(1, n // 4)
        parts = [self._moving(rng, moving, size, order)]
        if moving < n:
            parts.append(self._clips(rng, n - moving, size, order))
        vectors = {key: torch.cat([fields[key] for _, fields in parts]) for key in parts[0][1]}
        return torch.cat([frames for frames, _ in parts]), vectors

    def _moving(self, rng: np.random.Generator, n: int, size: int, order: Sequence[SequenceFrame]) -> Sequences:
        """Photographs that a camera passes at an even speed, in whole pixels per frame: their vectors are exact."""
        distances = np.array([frame.distance for frame in order])
        which = rng.integers(len(self.photos), size=n)
        free = self.photos.shapes[which] - size
        most = np.minimum(free // max(distances.max(), 1), MAX_SPEED)
        speed = np.clip(np.rint(SPEED_DEVIATION * rng.standard_normal((n, 2))).astype(np.int64), -most, most)
        path = speed[:, None] * distances[:, None]  # (n, frames, 2)
        low, high = path.min(1), path.max(1)
        corner = path - low[:, None] + rng.integers(0, free - (high - low) + 1)[:, None]
        top, left = corner.reshape(-1, 2).T
        frames = self.photos.cut(which.repeat(len(order)), top, left, size, size)
        frames = frames.permute(0, 3, 1, 2).unflatten(0, (n, len(order)))
        fields, blocks = {}, size // BLOCK
        at = self.on_device(speed.astype(np.int32))[:, None, None]
        for a, b in _pairs(order):
            # a frame that comes d frames later shows at p what its reference shows at p + d * speed
            v = at * (4 * (order[a].distance - order[b].distance))
            fields[a, b] = v.expand(n, blocks, blocks, 2)
        return frames, fields

    def _clips(self, rng: np.random.Generator, n: int, size: int, order: Sequence[SequenceFrame]) -> Sequences:
        """Crops of strips, cut along blocks; all crops of a call may be mirrored or turned."""
        assert self.frames is not None
        distances = np.array([frame.distance for frame in order])
        enough = np.flatnonzero(self.lengths > distances.max())
        which = enough[rng.integers(len(enough), size=n)]
        first = self.starts[which] + rng.integers(0, self.lengths[which] - distances.max())
        side = self.frames.shapes[first]
        top, left = (rng.integers(0, (side - size) // BLOCK + 1)).T
        flip, turn = rng.random() < 0.5, rng.random() < 0.3
        numbers = (first[:, None] + distances).reshape(-1)
        every = len(order)
        frames = self.frames.cut(numbers, (top * BLOCK).repeat(every), (left * BLOCK).repeat(every), size, size)
        frames = frames.permute(0, 3, 1, 2).unflatten(0, (n, every))
        frames = frames.flip(-1) if flip else frames
        frames = frames.transpose(-1, -2) if turn else frames
        fields = {}
        for a, b in _pairs(order):
            numbers, apart = first + order[a].distance, order[b].distance - order[a].distance
            v = self._vectors(numbers, apart).cut(numbers, top, left, size // BLOCK, size // BLOCK).int()
            v = torch.stack([v[..., 0], -v[..., 1]], -1).flip(2) if flip else v
            fields[a, b] = v.transpose(1, 2).flip(-1) if turn else v
        return frames, fields

    def _vectors(self, numbers: np.ndarray, apart: int) -> Packed:
        """Motion fields of all frames of strips; at least those of the frames numbered `numbers` have been searched.

        apart: by how many frames the reference is later. On a GPU, which searches many fields in the time of one, all
        fields are searched when the first is asked for.
        """
        assert self.frames is not None
        if apart not in self._fields:
            shapes = self.frames.shapes
            self._fields[apart] = Packed(_no_vectors(shapes), self.device), np.zeros(len(shapes), bool)
        fields, known = self._fields[apart]
        if known[numbers].all():
            return fields
        wanted, most = numbers, CPU_FIELDS
        if self.device.type != "cpu":
            most = GPU_FIELDS
            t = np.arange(len(known)) - self.starts[:-1].repeat(self.lengths) + apart
            wanted = np.flatnonzero((t >= 0) & (t < self.lengths.repeat(self.lengths)))
        by_side: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number in sorted(set(wanted[~known[wanted]].tolist())):
            height, width = self.frames.shapes[number].tolist()
            by_side[height, width].append(number)
        for (height, width), those in by_side.items():
            for i in range(0, len(those), most):
                some = np.array(those[i : i + most])
                zero = np.zeros_like(some)
                pair = [self.frames.cut(which, zero, zero, height, width) for which in (some, some + apart)]
                now, reference = (frames.permute(0, 3, 1, 2).contiguous() for frames in pair)
                v = search_field(now, reference, MOTION_LAMBDA).v.to(torch.int16)
                blocks = torch.arange(v.shape[1] * v.shape[2], device=v.device)
                fields.values[self.on_device(fields.first[some])[:, None] + blocks] = v.flatten(1, 2)
                known[some] = True
        return fields

    def on_device(self, values: np.ndarray) -> Tensor:
        """Numbers of the host as a tensor on the sampler's device; floating point as float32."""
        return on_device(self.device, values)


def frames_of(strip: np.ndarray) -> np.ndarray:
    """The square frames of a strip, (T, S, S, 3)."""
    height, width = strip.shape[:2]
    if height < width:
        return strip.reshape(height, width // height, height, 3).transpose(1, 0, 2, 3)
    return strip.reshape(height // width, width, width, 3)


def _no_vectors(shapes: np.ndarray) -> list[np.ndarray]:
    """Zero vectors for frames of the given heights and widths, int16 (rows, columns, 2) each."""
    return [np.zeros((-(-h // BLOCK), -(-w // BLOCK), 2), np.int16) for h, w in shapes]


def _pairs(order: Sequence[SequenceFrame]) -> list[tuple[int, int]]:
    """Places of every predicted frame and each of its references."""
    return [(a, b) for a, frame in enumerate(order) for b in frame.references]


def _choose(rng: np.random.Generator, probability: float, a: Tensor, b: Tensor) -> Tensor:
    """Items of `a`, each with the given probability, and else those of `b`."""
    which = torch.from_numpy(rng.random(len(a)) < probability).to(a.device, non_blocking=True)
    return torch.where(which[:, None, None, None], a, b)


def on_device(device: torch.device, values: np.ndarray) -> Any:
    """Numbers of the host as a tensor on a device; floating point as float32."""
    values = values.astype(np.float32) if values.dtype == np.float64 else values
    return torch.from_numpy(np.ascontiguousarray(values)).to(device, non_blocking=True)
