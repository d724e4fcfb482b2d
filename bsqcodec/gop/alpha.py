"""The alpha plane of a group of pictures: as a gray video, or as few values. Section 11 of bitstream_spec.md."""

import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..errors import FormatError
from ..network.patches import TOKEN
from ..network.weights import Model
from ..settings import MAX_QUALITY, EncodeSettings
from ..stream.fields import Fields, block
from ..stream.levels import MAX_VALUES, LevelCoder
from ..stream.range_coder import BitDecoder, BitEncoder
from .decoder import decode_gop
from .encoder import GopEncoder

OPAQUE = 255
GRAY, LEVELS = 1, 2  # methods
# Samples of a gray frame for alpha 0 and 255, if they were like all others; what the codec adds to them shall not show.
_LOW, _HIGH = 24, 231
_MARGIN = 4  # by which these two lie outside
_SMOOTH = 8  # difference from the pixels to the left and above, up to which a value between is part of a slope
_MIDDLE = 128  # sample of what is not seen at all
_MAX_SHIFT = 4  # log2 of how many times smaller a gray video may be than its frames
_ERROR = 160  # largest error of alpha by that, times the quality
_MANY = 500  # one pixel of so many may be off by more than that, and be told
_MORE_QUALITY = 10  # for each halving, for errors get larger, too
_MIN_QUALITY = 20  # unless one is asked for


class AlphaEncoder:
    """Encodes the alpha plane of a group of pictures.

    Where most of what is neither transparent nor opaque is a slope, such as a shadow, it becomes a gray video, in which
    edges and what they enclose have values instead. Else, as at antialiased edges alone, it is coded by values:
    exactly, if there are few enough of them, else rounded to fewer.

    Args:
        model: a model that `load_model` gives.
        height, width: of the frames, in pixels.
        settings: how to encode; `alpha_quality` 100 is lossless.
    """

    def __init__(self, model: Model, height: int, width: int, settings: EncodeSettings):
        self._model, self._size, self._settings = model, (height, width), replace(settings, tune="psnr")
        self._quality = settings.alpha_quality or max(settings.quality, _MIN_QUALITY)
        self._frames: list[bytes] = []  # compressed, for a group may be long
        self._used = np.zeros(MAX_VALUES, bool)
        self._between = self._slopes = 0  # pixels

    def push(self, alpha: np.ndarray) -> None:
        """Take the next frame, uint8 (H, W), 0 transparent, 255 opaque. Raises ValueError for another size or type."""
        if alpha.shape != self._size or alpha.dtype != np.uint8:
            raise ValueError(f"alpha is {alpha.dtype} {alpha.shape}, not uint8 {self._size}")
        self._frames.append(zlib.compress(alpha.tobytes(), 1))
        self._used |= np.bincount(alpha.ravel(), minlength=MAX_VALUES) > 0
        between = (alpha > 0) & (alpha < OPAQUE)
        self._between += int(np.count_nonzero(between))
        self._slopes += int(np.count_nonzero(between & ~_is_steep(alpha)))

    def finish(self) -> tuple[bytes, list[np.ndarray]]:
        """The body of the group's chunk, empty if all is opaque, and the frames as they will decode."""
        if not self._used[:OPAQUE].any():
            return b"", [np.full(self._size, OPAQUE, np.uint8)] * len(self._frames)
        number = _number_of_values(self._quality)
        if self._used.sum() <= number:
            return self._code_levels(np.arange(MAX_VALUES, dtype=np.uint8))
        index = (np.arange(MAX_VALUES) * (number - 1) * 2 + OPAQUE) // (2 * OPAQUE)
        rounded = ((index * OPAQUE * 2 + number - 1) // (2 * (number - 1))).astype(np.uint8)
        return self._code_gray(rounded) if 2 * self._slopes > self._between else self._code_levels(rounded)

    def _pushed(self) -> Iterator[np.ndarray]:
        for frame in self._frames:
            yield np.frombuffer(zlib.decompress(frame), np.uint8).reshape(self._size)

    def _code_levels(self, rounded: np.ndarray) -> tuple[bytes, list[np.ndarray]]:
        """Code the frames by values. rounded: of each value of alpha, uint8 (256,)."""
        values, index = np.unique(rounded[self._used], return_inverse=True)
        table = np.zeros(MAX_VALUES, np.uint8)
        table[self._used] = index
        encoder = BitEncoder()
        if len(values) > 1:
            coder = LevelCoder(*self._size, len(values))
            for frame in self._pushed():
                coder.encode(table[frame], encoder)
        body = bytes([LEVELS, len(values) - 1, *values.tolist()]) + encoder.finish()
        return body, [rounded[frame] for frame in self._pushed()]

    def _code_gray(self, rounded: np.ndarray) -> tuple[bytes, list[np.ndarray]]:
        """Code the frames as a gray video, and edges by values unless the video may be small without that."""
        shift = next((s for s in range(_MAX_SHIFT, 0, -1) if all(self._fits(f, s) for f in self._pushed())), None)
        edges = None if shift else _Edges(rounded, self._used, self._size)
        shift = shift or self._choose_shift()
        quality = min(MAX_QUALITY, self._quality + _MORE_QUALITY * shift)
        video = GopEncoder(self._model, *_reduced(*self._size, shift), self._settings)
        decoded: list[np.ndarray] = []
        for frame in self._pushed():
            gray, inside = _without_edges(frame) if edges else (frame, None)
            small = _gray_of(gray, shift)
            decoded += video.push(small, quality)
            if edges:
                edges.push(frame, inside | self._is_off(_alpha_of(small, shift, *self._size), frame))
        decoded += video.flush()
        body = bytes([GRAY, shift]) + block(video.finish())
        planes = [_alpha_of(picture, shift, *self._size) for picture in decoded]
        return (body + edges.finish(), edges.over(planes, self._pushed())) if edges else (body, planes)

    def _choose_shift(self) -> int:
        """How much smaller the first frame may be, but for its edges and for few other pixels."""
        frame = next(self._pushed())
        gray, inside = _without_edges(frame)
        for shift in range(_MAX_SHIFT, 0, -1):
            off = self._is_off(_alpha_of(_gray_of(gray, shift), shift, *self._size), frame) & ~inside
            if np.count_nonzero(off) * _MANY < frame.size:
                return shift
        return 0

    def _is_off(self, found: np.ndarray, frame: np.ndarray) -> np.ndarray:
        return np.abs(found.astype(np.int16) - frame) * self._quality > _ERROR

    def _fits(self, frame: np.ndarray, shift: int) -> bool:
        """Whether a frame survives being coded 2**shift times smaller."""
        return not self._is_off(_alpha_of(_gray_of(frame, shift), shift, *self._size), frame).any()


class _Edges:
    """Values in place of a gray video, where there are edges, and where the video is off.

    Args:
        rounded: of each value of alpha, uint8 (256,).
        used: which values there are, bool (256,).
        size: height and width of the frames.
    """

    def __init__(self, rounded: np.ndarray, used: np.ndarray, size: tuple[int, int]):
        self._rounded, self._size = rounded, size
        self._values = np.unique(rounded[used])
        self._numbers = (1 + np.searchsorted(self._values, rounded)).astype(np.uint8)
        self._encoder, self._coder = BitEncoder(), LevelCoder(*size, len(self._values) + 1)
        self._insides: list[np.ndarray] = []  # packed bits of each frame

    def push(self, frame: np.ndarray, inside: np.ndarray) -> None:
        """Code a frame, uint8 (H, W), where `inside`, bool (H, W), says so."""
        self._coder.encode(np.where(inside, self._numbers[frame], 0).astype(np.uint8), self._encoder)
        self._insides.append(np.packbits(inside))

    def finish(self) -> bytes:
        """What comes behind the gray video."""
        return bytes([len(self._values), *self._values.tolist()]) + self._encoder.finish()

    def over(self, planes: list[np.ndarray], frames: Iterator[np.ndarray]) -> list[np.ndarray]:
        """The planes that a gray video decodes to, with the values of the frames."""
        height, width = self._size
        insides = (np.unpackbits(bits, count=height * width).reshape(self._size) for bits in self._insides)
        return [
            np.where(inside, self._rounded[frame], plane)
            for inside, frame, plane in zip(insides, frames, planes, strict=True)
        ]


def decode_alpha(model: Model, body: bytes, height: int, width: int, frames: int) -> Iterator[np.ndarray]:
    """The alpha plane of each frame of a group, uint8 (H, W). Raises FormatError if the body cannot be theirs."""
    fields = Fields(body)
    method = fields.take(1)[0]
    planes: Iterator[np.ndarray] | None = None
    if method == GRAY:
        planes = _decode_gray(model, fields, height, width, frames)
        if not fields.rest():
            yield from planes
            return
    elif method != LEVELS:
        raise FormatError(f"alpha is coded by the unknown method {method}")
    count = fields.take(1)[0] + 1
    values = np.frombuffer(fields.take(count - (method == GRAY)), np.uint8)  # a gray video stands for the first one
    if (values[1:] <= values[:-1]).any():
        raise FormatError("the values of alpha do not rise")
    if planes is not None:
        values = np.pad(values, (1, 0))
    decoder, coder = BitDecoder(fields.rest()), LevelCoder(height, width, max(2, count))
    for _ in range(frames):
        numbers = coder.decode(decoder) if count > 1 else np.zeros((height, width), np.uint8)
        yield values[numbers] if planes is None else np.where(numbers > 0, values[numbers], next(planes))


def _decode_gray(model: Model, fields: Fields, height: int, width: int, frames: int) -> Iterator[np.ndarray]:
    """The frames of a gray video, as alpha. Its fields are read at once."""
    shift, payload = fields.take(1)[0], fields.block()
    if shift > _MAX_SHIFT:
        raise FormatError(f"a gray video of alpha is reduced 2**{shift} times")
    pictures = decode_gop(model, payload, *_reduced(height, width, shift), frames)
    return (_alpha_of(picture, shift, height, width) for picture in pictures)


def fill_transparent(rgba: np.ndarray) -> np.ndarray:
    """The colours of a picture, uint8 (H, W, 3), those that nobody sees replaced by what costs few bits.

    That is mid-gray in tokens of which nothing is seen, from which an I frame starts, and in others what goes on
    smoothly from the pixels that are seen; those stay as they are.

    rgba: uint8 (H, W, 4), alpha last, 0 transparent.
    """
    rgb, seen = rgba[..., :3], rgba[..., 3] > 0
    if seen.all():
        return np.ascontiguousarray(rgb)
    height, width = seen.shape
    padded = np.pad(seen, ((0, -height % TOKEN), (0, -width % TOKEN)))
    tokens = padded.reshape(len(padded) // TOKEN, TOKEN, -1, TOKEN).any((1, 3))
    near = tokens.repeat(TOKEN, 0).repeat(TOKEN, 1)[:height, :width]
    filled = np.full(rgb.shape, _MIDDLE, np.float32)
    if seen.any():
        filled[near] = _pull_and_push(rgb * seen[..., None].astype(np.float32), seen.astype(np.float32))[near]
    return np.where(seen[..., None], rgb, np.rint(filled).astype(np.uint8))


def _pull_and_push(colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Colours everywhere, float32 (H, W, 3); colour: weighted by weight (H, W), 0..1."""
    if weight.all():
        return colour / weight[..., None]
    height, width = weight.shape
    odd = ((0, height % 2), (0, width % 2))
    sums = [
        np.pad(plane, (*odd, (0, 0))).reshape(-(-height // 2), 2, -(-width // 2), 2, plane.shape[-1]).sum((1, 3))
        for plane in (colour, weight[..., None])
    ]
    scale = np.maximum(sums[1], 1)
    coarse = _pull_and_push(sums[0] / scale, (sums[1] / scale)[..., 0])
    return colour + (1 - weight[..., None]) * _doubled(_doubled(coarse, 0, height), 1, width)


def _doubled(x: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Twice as many rows, or columns, `size` of them, interpolated linearly."""
    x = np.moveaxis(x, axis, 0)
    edge = np.concatenate([x[:1], x, x[-1:]])
    near, out = 0.75 * x, np.empty((2 * len(x), *x.shape[1:]), np.float32)
    out[::2], out[1::2] = near + 0.25 * edge[:-2], near + 0.25 * edge[2:]
    return np.moveaxis(out[:size], 0, axis)


def _is_steep(alpha: np.ndarray) -> np.ndarray:
    """Where alpha, uint8 (H, W), differs much from the pixel to the left or above."""
    steps = (np.diff(alpha.astype(np.int16), axis=axis, prepend=alpha.take([0], axis)) for axis in (0, 1))
    down, right = (np.abs(step) > _SMOOTH for step in steps)
    return down | right


def _without_edges(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Alpha, uint8 (H, W), smoothly continued where it is opaque or has edges, and where that is, bool (H, W)."""
    inside = (alpha == OPAQUE) | ((alpha > 0) & _is_steep(alpha))
    if inside.all() or not inside.any():
        return alpha, inside
    seen = (~inside).astype(np.float32)
    filled = _pull_and_push((alpha * seen)[..., None].astype(np.float32), seen)[..., 0]
    return np.where(inside, np.rint(filled), alpha).astype(np.uint8), inside


def _number_of_values(quality: int) -> int:
    """To how many values alpha is rounded: 5 at the least quality, 17 at 50, 65 at 99; all at 100."""
    return MAX_VALUES if quality == 100 else round(4 * 2 ** (quality / 25)) + 1


def _reduced(height: int, width: int, shift: int) -> tuple[int, int]:
    """The size of a gray video 2**shift times smaller."""
    return -(-height >> shift), -(-width >> shift)


def _gray_of(alpha: np.ndarray, shift: int) -> np.ndarray:
    """The frame of a gray video, uint8 (H, W, 3), 2**shift times smaller than alpha, uint8 (H, W)."""
    (rows, columns), f = _reduced(len(alpha), alpha.shape[1], shift), 1 << shift
    alpha = np.pad(alpha, ((0, rows * f - len(alpha)), (0, columns * f - alpha.shape[1])), mode="edge")
    mean = alpha.reshape(rows, f, columns, f).mean((1, 3), dtype=np.float32)
    gray = np.rint(_LOW + mean * ((_HIGH - _LOW) / OPAQUE)).astype(np.uint8)
    gray[mean == 0] = _LOW - _MARGIN
    gray[mean == OPAQUE] = _HIGH + _MARGIN
    return np.repeat(gray[..., None], 3, -1)


def _alpha_of(picture: np.ndarray, shift: int, height: int, width: int) -> np.ndarray:
    """Alpha, uint8 (height, width), of a frame of a gray video, uint8 (H, W, 3), 2**shift times smaller."""
    total = picture.sum(-1, dtype=np.int32)
    f = 1 << shift
    for axis, size in enumerate((height, width)):
        # linear between the middles of samples; numbers times 2 f
        at, part = np.divmod(2 * np.arange(size, dtype=np.int32) + 1 - f, 2 * f)
        near, next_one = (total.take(i.clip(0, total.shape[axis] - 1), axis) for i in (at, at + 1))
        part = part[:, None] if axis == 0 else part
        total = (2 * f - part) * near + part * next_one
    unit = 4 * f * f  # of `total`
    third = (_HIGH - _LOW) * 3 * unit
    return np.clip((2 * OPAQUE * (total - 3 * _LOW * unit) + third) // (2 * third), 0, OPAQUE).astype(np.uint8)
