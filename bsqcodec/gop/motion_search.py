"""The search for motion vectors, from a coarse grid to quarter pixels."""

import copy
import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..stream.group import MAX_VECTOR
from .motion import BLOCK, TAPS

MOTION_LAMBDA = 0.35  # SAD that a bit of the vectors is worth while they are searched, in quantiser steps
SOURCE_LAMBDA = 4.0  # SAD that a bit is worth between sources, whatever the quantiser step
VECTOR_LAMBDA = 0.1  # squared error that a bit is worth in the final choice, in squared quantiser steps
_BEND = 2.0  # squared error of a pixel, in what a bit is worth, at which more of it counts half as much
_RANGE = 16  # of the exhaustive search, in pixels of the quarter-size frame
_MARGIN = 20  # pixels around the reference that a block may read: more would only repeat the border
_DISTANCES = (8, 4, 2, 1)  # of the vectors that refinement tries, in quarter pixels
_NEAR_DISTANCES = (4, 1)  # where the search begins near its end


@torch.no_grad()
def search_field(
    cur: Tensor, ref: Tensor, lam: float | Tensor, start: Tensor | None = None, exhaustive: bool = True
) -> "Field":
    """The field of vectors that predicts `cur` from `ref`, chosen by luma SAD + lam * (estimate of their bits).

    An exhaustive search on the quarter-size frame (+-64 pixels, less on small frames) gives the first vectors.
    Refinement at full size follows, in which every block also tries its neighbours' vectors.

    Args:
        cur, ref: uint8 (B, 3, H, W).
        lam: luma SAD of a block (sum of 256 absolute differences of 0..255) that one bit is worth, >= 0;
            one for all pictures or (B,), one for each.
        start: vectors to try as well, (B, ceil(H / 16), ceil(W / 16), 2), for example those of the last frame.
        exhaustive: without it, `start` stands for what the exhaustive search would find.

    Returns:
        A field; its `v`, int32 (B, ceil(H / 16), ceil(W / 16), 2), holds (dy, dx) in quarter pixels, within +-2047.
    """
    now, before = _luma(cur), _luma(ref)
    lam = lam.float() if isinstance(lam, Tensor) else torch.full((len(now),), float(lam), device=now.device)
    field = Field(now, before, lam)
    first = _coarse(now, before, lam) if exhaustive else []
    if start is not None:
        first.append(start.to(torch.int32))
    field.set(first[0])
    field.sweep(lambda v: torch.stack([*first[1:], torch.zeros_like(v)]))
    for distance in _DISTANCES if exhaustive else _NEAR_DISTANCES:
        ring = _ring(distance, now.device)
        field.sweep(functools.partial(torch.add, ring))
        field.sweep(_neighbours)
    return field


def _luma(x: Tensor) -> Tensor:
    """(R + 2 G + B) / 4 as float32 integers (B, H', W'), sides extended to multiples of 16."""
    h, w = x.shape[-2:]
    x = x.to(torch.float32)
    y = ((x[:, 0] + 2 * x[:, 1] + x[:, 2]) * 0.25).floor_()
    return F.pad(y[:, None], (0, -w % BLOCK, 0, -h % BLOCK), mode="replicate")[:, 0]


def _coarse(now: Tensor, before: Tensor, lam: Tensor) -> list[Tensor]:
    """Exhaustive search on the quarter-size frames: the best vectors for windows of 32 and of 16 pixels."""
    now, before = F.avg_pool2d(now, 4), F.avg_pool2d(before, 4)
    h, w = now.shape[1:]
    r = min(_RANGE, max(2, min(h, w) // 4))
    # (B, rows, 2 r + 1, w): every horizontal shift of every row
    shifted = F.pad(before[:, None], (r, r, r, r), mode="replicate")[:, 0].unfold(2, w, 1)
    offset = torch.arange(-r, r + 1, device=now.device)
    best: list[tuple[Tensor, Tensor]] = []
    for i in range(2 * r + 1):
        error = (shifted[:, i : i + h].transpose(1, 2) - now[:, None]).abs_()
        bias = (1 + offset.abs() + abs(i - r)).float().log2_() * (2 * (lam[:, None] + 4) / BLOCK**2)
        narrow = F.avg_pool2d(error, 4)
        wide = F.avg_pool2d(error, 8, 4, 2, count_include_pad=False)
        for k, cost in enumerate((wide, narrow)):
            cost, at = (cost + bias[..., None, None]).min(1)
            at += i * (2 * r + 1)
            if i == 0:
                best.append((cost, at))
            else:
                better = cost < best[k][0]
                best[k] = (torch.where(better, cost, best[k][0]), torch.where(better, at, best[k][1]))
    return [(torch.stack([at // (2 * r + 1), at % (2 * r + 1)], -1) - r).mul_(16).to(torch.int32) for _, at in best]


def _phases(y: Tensor) -> Tensor:
    """The 16 quarter-pixel phases of luma (B, H, W) with a margin: uint8 (16, B, H + 2 M, W + 2 M)."""
    b, h, w = y.shape
    m = _MARGIN
    y = F.pad(y[:, None], (m + 3, m + 4, m + 3, m + 4), mode="replicate")[:, 0]
    h, w = h + 2 * m, w + 2 * m

    def filtered(x: Tensor, taps: tuple[int, ...], dim: int, size: int) -> Tensor:
        total = torch.zeros((), device=x.device)
        for k, tap in enumerate(taps):
            if tap:
                total = torch.add(total, x.narrow(dim, k, size), alpha=float(tap))
        return total

    out = torch.empty((4, 4, b, h, w), dtype=torch.uint8, device=y.device)
    for fx in range(4):
        horizontal = filtered(y, TAPS[fx], 2, w)
        for fy in range(4):
            out[fy, fx] = filtered(horizontal, TAPS[fy], 1, h).add_(2048).mul_(2.0**-12).clamp_(0, 255)
    return out.view(16, b, h, w)


def _ring(distance: int, device: torch.device) -> Tensor:
    """The 8 vectors around zero at a distance, (8, 1, 1, 1, 2)."""
    ring = [(dy * distance, dx * distance) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    return torch.tensor(ring, dtype=torch.int32, device=device).view(8, 1, 1, 1, 2)


def _neighbours(v: Tensor) -> Tensor:
    """The vectors above, below, left and right of every block, (4, B, Hb, Wb, 2); its own beyond the frame."""
    up, down = torch.cat([v[:, :1], v[:, :-1]], 1), torch.cat([v[:, 1:], v[:, -1:]], 1)
    left, right = torch.cat([v[:, :, :1], v[:, :, :-1]], 2), torch.cat([v[:, :, 1:], v[:, :, -1:]], 2)
    return torch.stack([up, down, left, right])


class Field:
    """A vector field under refinement.

    Args:
        now, before: luma of frame and reference, float32 (B, H, W), sides multiples of 16.
        lam: SAD that a bit is worth, (B,).

    Attributes:
        rows, columns: of blocks.
        v: the vectors, int32 (B, rows, columns, 2), (dy, dx) in quarter pixels.
        low, high: bounds of the vectors of each block, int32 (rows, columns, 2).
    """

    def __init__(self, now: Tensor, before: Tensor, lam: Tensor):
        phases = _phases(before)
        self.batch, self.height, self.width = phases.shape[1:]
        self.pixels = phases.reshape(-1)
        self._cut(now, lam, BLOCK)

    def quarters(self) -> "Field":
        """The same frame and reference in blocks of 8x8, without vectors. It shares the reference's pixels."""
        other = copy.copy(self)
        other._cut(self._now, self._lam, BLOCK // 2)
        return other

    def _cut(self, now: Tensor, lam: Tensor, size: int) -> None:
        """Cut the frame into blocks of that side."""
        b, h, w = now.shape
        self._now, self._lam, device = now, lam, now.device
        self.rows, self.columns = h // size, w // size
        self.lam = lam.repeat_interleave(self.rows * self.columns)  # of every block
        index = torch.int32 if self.pixels.numel() < 1 << 31 else torch.int64
        blocks = now.view(b, self.rows, size, self.columns, size).permute(2, 4, 0, 1, 3)
        self.blocks = blocks.reshape(size * size, -1).contiguous()
        inside = torch.arange(size, dtype=index, device=device)
        self.inside = (inside[:, None] * self.width + inside).reshape(-1, 1)
        y = torch.arange(self.rows, device=device) * size
        x = torch.arange(self.columns, device=device) * size
        corner = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)
        # vectors that keep every block within the margin, and within the format
        far = torch.tensor([h - size, w - size], device=device)
        m = _MARGIN - 1
        self.low = (4 * (-corner - m)).clamp(min=-MAX_VECTOR).to(torch.int32)
        self.high = (4 * (far - corner + m)).clamp(max=MAX_VECTOR).to(torch.int32)
        origin = (corner[..., 0] + _MARGIN) * self.width + corner[..., 1] + _MARGIN
        frame = torch.arange(b, device=device)[:, None, None] * (self.height * self.width)
        self.origin = (frame + origin).reshape(-1).to(index)
        odd = (y[:, None] + x) // size % 2
        self.parity = odd.expand(b, -1, -1).reshape(-1)

    def aim(self, cur: Tensor) -> None:
        """Predict other pixels from the same reference, (B, 3, H, W); they may lie beyond 0..255. `set` comes next."""
        self._cut(_luma(cur), self._lam, BLOCK)

    def set(self, v: Tensor) -> None:
        """Begin anew with the vectors `v`, (B, Hb, Wb, 2), as far as they lie within the margin."""
        self.v = v.clamp(self.low, self.high)
        self.sad = self.error(torch.arange(len(self.origin), device=v.device), self.v.view(-1, 2))

    def bits(self) -> Tensor:
        """Estimated cost of the vectors of every picture, in bits (B,)."""
        d = self.v.view(-1, 2) - _neighbours(self.v).view(4, -1, 2)
        return _bits(d).view(self.batch, -1).sum(1)

    def sweep(self, propose: Callable[[Tensor], Tensor]) -> None:
        """Let every block take the best of its vector and those of `propose(v)`, (K, B, Hb, Wb, 2).

        Half of the blocks move at a time, as on a checkerboard, so that no two neighbours move at once.
        """
        for parity in (0, 1):
            proposed = propose(self.v).clamp(self.low, self.high)
            k = len(proposed)
            flat = proposed.view(k, -1, 2)
            changed = (flat != self.v.view(-1, 2)).any(-1) & (self.parity == parity)
            which, block = changed.nonzero(as_tuple=True)
            if not len(which):
                continue
            around = _neighbours(self.v).view(4, 1, -1, 2)
            cost = torch.full((k + 1, flat.shape[1]), float("inf"), device=flat.device)
            sad = torch.zeros_like(cost)
            sad[which, block] = self.error(block, flat[which, block])
            cost[which, block] = sad[which, block] + self.lam[block] * _bits(flat[which, block] - around[:, 0, block])
            sad[k] = self.sad
            cost[k] = self.sad + self.lam * _bits(self.v.view(-1, 2) - around[:, 0])
            best = cost.argmin(0)[None]
            self.sad = sad.gather(0, best)[0]
            every = torch.cat([flat, self.v.view(1, -1, 2)])
            self.v = every.gather(0, best[..., None].expand(-1, -1, 2)).view_as(self.v)

    def error(self, block: Tensor, v: Tensor, squared: bool = False) -> Tensor:
        """SAD, or sum of squared differences, of the blocks numbered `block` (P,) with vectors `v` (P, 2)."""
        phase = (v[:, 0] & 3) * 4 + (v[:, 1] & 3)
        at = self.origin[block] + (v[:, 0] >> 2) * self.width + (v[:, 1] >> 2)
        at = at + phase.to(at.dtype) * (self.batch * self.height * self.width)
        out = torch.empty(len(at), device=v.device)
        pixels = len(self.inside)  # of a block
        blocks_at_once = (1 << 18 if v.device.type == "cpu" else 1 << 24) // pixels
        for n in range(0, len(at), blocks_at_once):
            index = (self.inside + at[n : n + blocks_at_once]).view(-1)
            guess = self.pixels.index_select(0, index).view(pixels, -1)
            truth = self.blocks.index_select(1, block[n : n + blocks_at_once])
            difference = truth.sub_(guess)
            out[n : n + blocks_at_once] = (difference.square_() if squared else difference.abs_()).sum(0)
        return out

    def cost(self, block: np.ndarray, v: np.ndarray, lam: float, weights: np.ndarray | float = 1.0) -> np.ndarray:
        """What it costs to code what the prediction of blocks lacks, as a squared error of luma.

        The larger the error of a block is, the less it costs to code some more: bits grow with its logarithm.

        Args:
            block: numbers of the blocks, (P,).
            v: their vectors, integers (P, 2).
            lam: squared error that one bit is worth, > 0.
            weights: what part of the squared error of a block its final prediction has, (P,) or one for all.

        Returns:
            float64 (P,), close to the weighted sum of squared differences where that is small.
        """
        numbers, vectors = (torch.from_numpy(a).to(self.origin.device) for a in (block, v.astype(np.int32)))
        error = self.error(numbers, vectors, squared=True).cpu().numpy().astype(np.float64)
        bend = _BEND * lam * len(self.inside)
        return bend * np.log1p(weights * error / bend)


def _bits(d: Tensor) -> Tensor:
    """Estimated cost of vectors that differ by `d` (4, P, 2) from their neighbours, in bits (P,).

    About 2 log2(1 + |d|) + 1.5 bits for a component that is not zero. A block's vector takes part in four such
    differences but, over the frame, one prediction is paid for a block: hence the half.
    """
    d = d.abs().float()
    return ((1 + d).log2_().mul_(2) + d.clamp_(max=1).mul_(1.5)).sum((0, 2)).mul_(0.5)
