"""Frames of a file or folder as the benchmark sees them: uint8 (H, W, 3) RGB.

Media files are read by `media.open_source`, as the program reads them. Raw .yuv files, which have no header and which
the program does not take, are read here.
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np

from ..api import Decoder
from ..errors import BsqError
from ..media import colour, open_source
from ..media.base import reason_of
from ..media.transparency import colour_of, composited
from ..types import Frame

RAW_SUFFIX = ".yuv"
_DEFAULT_RAW_RATE = "25"
_BACKGROUND = "black"  # behind what is transparent
_SAMPLES_PER_PIXEL = {"420": 1.5, "422": 2, "444": 3}


def frames_of(path: Path, limit: int | None = None, start: int = 0) -> Iterator[np.ndarray]:
    """Frames of an image, a video, a folder of images, or a .bsq file.

    Args:
        path: of the file or folder.
        limit: largest number of frames; None is all.
        start: number of the first frame; of a .bsq file none before is decoded that is not needed.

    Raises:
        BsqError: the file cannot be read, or its frames differ in size.
    """
    if not path.exists():
        raise BsqError(f"no such file: {path}")
    suffix = path.suffix.lower()
    if suffix == ".bsq":
        return islice(_bsq_frames(path, start), limit)
    frames = _raw_frames(path) if suffix == RAW_SUFFIX else _media_frames(path)
    return islice(frames, start, None if limit is None else start + limit)


def frame_rate(path: Path) -> float:
    """Frames per second of an image (0), a video, or a folder of images. Raises BsqError if it cannot be read."""
    if path.suffix.lower() == RAW_SUFFIX:
        return float(raw_format(path)["framerate"])
    with open_source(str(path), audio=False, subtitles=False) as source:
        return float(source.info.frame_rate or 0)


def raw_format(path: Path) -> dict[str, str]:
    """Size, rate and pixel format of a raw .yuv from its name, as options of FFmpeg's rawvideo reader.

    Understood: NAME_WxH_FPS.yuv, NAME_WxH_FPSfps_420_8bit_YUV.yuv and the like; without a rate 25, without a format
    4:2:0, 8 bits. Raises BsqError if no size is in the name.
    """
    name = path.stem
    size = re.search(r"(?<!\d)(\d{2,5})x(\d{2,5})(?!\d)", name)
    if not size:
        raise BsqError(f"{path}: a raw video needs its size in the name, for example NAME_1920x1080_50.yuv")
    rest = name[size.end() :]
    rate = re.search(r"_(\d+(?:\.\d+)?)(?:fps|hz)?(?=_|$)", rest, re.IGNORECASE)
    chroma = re.search(r"4(?:44|22|20)", rest)
    bits = re.search(r"(8|10)[ _-]?bit", rest, re.IGNORECASE)
    fps = rate[1] if rate and not (chroma and rate[1] == chroma[0]) else _DEFAULT_RAW_RATE
    deep = bits is not None and bits[1] == "10"
    pixel_format = f"yuv{chroma[0] if chroma else '420'}p{'10le' if deep else ''}"
    return {"video_size": f"{size[1]}x{size[2]}", "framerate": fps, "pixel_format": pixel_format}


def _media_frames(path: Path) -> Iterator[np.ndarray]:
    try:
        with open_source(str(path), audio=False, subtitles=False, background=_BACKGROUND) as source:
            for item in source:
                if isinstance(item, Frame):
                    yield item.rgb
    except BsqError as error:  # results may be passed on, so they do not tell where the files are
        raise BsqError(str(error).replace(str(path), path.name)) from None


def _bsq_frames(path: Path, start: int) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        for frame in Decoder(file, depth=8).frames(start):
            yield composited(frame.rgb, colour_of(_BACKGROUND)) if frame.rgb.shape[2] == 4 else frame.rgb


def _raw_frames(path: Path) -> Iterator[np.ndarray]:
    """Frames of a raw .yuv file, taken for BT.709, limited range."""
    options = raw_format(path)
    width, height = map(int, options["video_size"].split("x"))
    bytes_per_sample = 2 if options["pixel_format"].endswith("10le") else 1
    size = int(width * height * _SAMPLES_PER_PIXEL[options["pixel_format"][3:6]]) * bytes_per_sample
    if path.stat().st_size % size:
        raise BsqError(f"{path.name} is not a whole number of {options['video_size']} frames")
    try:
        with av.open(str(path), format="rawvideo", options=options) as container:
            for frame in container.decode(video=0):
                yield colour.to_rgb(frame, colour.BT709)
    except (av.FFmpegError, OSError) as error:
        raise BsqError(f"{path.name} cannot be read: {reason_of(error)}") from None
