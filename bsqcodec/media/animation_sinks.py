"""Outputs for decoded frames that are animations, through Pillow: GIF, WebP, APNG and AVIF; stills of one frame."""

import io
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import BsqError
from ..settings import SinkOptions
from ..types import MediaInfo
from .image_metadata import held, save_options
from .image_sinks import StillSink
from .png_chunks import chunks_of, with_chunks
from .sinks import upright

# Of the frames as they are held, for they are written when the last one is there; Pillow then takes twice as much more.
MAX_BYTES = 1 << 30


class AnimationFormat(NamedTuple):
    """What an animation can hold.

    Attributes:
        name: Pillow's name of the format.
        unit: of durations, in milliseconds; they are multiples of it.
        shortest, longest: duration of a frame in milliseconds; browsers slow a GIF down whose frames are shorter.
        bytes: of a pixel of a frame that is held.
    """

    name: str
    unit: int
    shortest: int
    longest: int
    bytes: int


ANIMATION_FORMATS = {  # by suffix
    ".gif": AnimationFormat("GIF", 10, 20, 655350, 1),
    ".webp": AnimationFormat("WEBP", 1, 1, (1 << 24) - 1, 4),
    ".apng": AnimationFormat("PNG", 1, 1, 65535, 4),
    ".avif": AnimationFormat("AVIF", 1, 1, (1 << 31) - 1, 4),
}
_MAX_LOOP = 65535  # of GIF and WebP
_OPAQUE = 128  # alpha from which on a pixel of a GIF is opaque
_COLOURS = 255  # of a frame of a GIF, and one that is transparent
_EFFORT = {"method": 4, "speed": 8}  # of WebP and AVIF; speed 6 takes ten times as long for files half as large again
_SAMPLE = 128, 128  # pixels that the palette is made for


class AnimationSink(StillSink):
    """An animation, upright; a still image if there is one frame."""

    max_depth = 8

    def __init__(self, path: str, info: MediaInfo, options: SinkOptions, format: AnimationFormat):
        Image.init()
        if format.name not in Image.SAVE_ALL:
            raise BsqError(f"{path}: this installation of Pillow cannot write {format.name}")
        super().__init__(path, info, options, format.name)
        self._animation = format
        self._frame_bytes = self._info.width * self._info.height * format.bytes
        self._first: np.ndarray | None = None
        self._pictures: list[Image.Image] = []
        self._pts: list[int] = []

    def _write(self, frame: np.ndarray, pts: int) -> None:
        if self._frames and (self._frames + 1) * self._frame_bytes > MAX_BYTES:
            raise BsqError(
                f"{self._path}: an animation of more than {self._frames} frames of this size takes too much memory; "
                "give a video, or a folder, as in frames/"
            )
        self._first = None if self._frames else frame
        picture = Image.fromarray(np.ascontiguousarray(upright(frame, self._info.rotation)))
        self._pictures.append(self._with_palette(picture) if self._format == "GIF" else picture)
        self._pts.append(pts)

    def _finish(self) -> None:
        if self._first is not None and self._format != "GIF":
            self._save(self._first)
            return
        options = self._options() | {"save_all": True, "append_images": self._pictures[1:], **_EFFORT}
        metadata = held(self._format, self._info.metadata, rotation=0)
        options |= {} if self._format == "PNG" else save_options(metadata)
        if durations := self._durations():
            options["duration"] = durations if len(durations) > 1 else durations[0]
        if len(self._pictures) > 1 and (loop := self._loop()) is not None:
            options["loop"] = loop
        if self._format == "GIF" and self._info.alpha:
            options["disposal"] = 2  # what was opaque may become transparent
        try:
            file = io.BytesIO()
            self._pictures[0].save(file, self._format, **options)
        except (struct.error, OverflowError):  # of a picture that stays, whose durations are added up
            raise ValueError(f"a picture stays longer than {self._animation.longest / 1000} s") from None
        content = file.getvalue()
        if self._format == "PNG":
            content = with_chunks(content, chunks_of(self._info, metadata))
        with open(self._part, "wb") as output:
            output.write(content)

    def _loop(self) -> int | None:
        """How often the animation is shown, as the format counts it, 0 is for ever; None: once, of a GIF."""
        count = min(self._info.loop or 0, _MAX_LOOP)
        if self._format == "AVIF" and count:
            self.warnings.append(f"the animation repeats for ever, not {count} times, which AVIF output cannot tell")
        if self._format == "GIF" and count:
            return count - 1 or None  # which counts what comes after the first
        return count

    def _durations(self) -> list[int]:
        """Milliseconds of each frame, empty if nothing is known; it is ends that are rounded: errors do not add up."""
        last = self.duration or (self._pts[-1] - self._pts[-2] if len(self._pts) > 1 else 0)
        if not last:
            return []
        _, unit, shortest, longest, _ = self._animation
        step = 1000 * self._info.time_base
        now, worst, durations = 0, 0.0, []
        for pts in [*self._pts[1:], self._pts[-1] + last]:
            end = (pts - self._pts[0]) * step
            durations.append(min(max(round((end - now) / unit) * unit, shortest), longest))
            now += durations[-1]
            worst = max(worst, abs(float(end - now)))
        if worst > unit / 2:
            self.warnings.append(
                f"the frames appear up to {worst:.0f} ms too early or late, for here each is shown for "
                f"{shortest} to {longest} ms"
            )
        return durations

    def _with_palette(self, picture: Image.Image) -> Image.Image:
        """A picture with a palette of its own, dithered; the last colour of one with alpha is transparent."""
        rgb = picture.convert("RGB")
        sample = rgb if rgb.getcolors(_COLOURS) else rgb.resize(_SAMPLE, Image.Resampling.NEAREST)
        # this method alone does well on smooth pictures and on detailed ones
        palette = sample.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=2)
        result = rgb.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        if picture.mode == "RGBA":
            alpha = picture.getchannel("A")
            if any(alpha.histogram()[1:255]):
                self._warn("pixels that are partly transparent are opaque or not, for GIF knows nothing between")
            colours = (result.getpalette() or [])[: 3 * _COLOURS]
            result.putpalette(colours + [0] * (768 - len(colours)))
            result.paste(_COLOURS, mask=alpha.point(lambda a: 255 * (a < _OPAQUE)))
            result.info["transparency"] = _COLOURS
        return result
