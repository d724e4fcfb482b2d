"""Frames of a file or folder as the benchmark sees them: uint8 (H, W, 3) RGB."""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from ..api import Decoder
from ..errors import BsqError, first_line
from ..media import colour
from ..suffixes import IMAGE_SUFFIXES

RAW_SUFFIX = ".yuv"


def frames_of(path: Path, limit: int | None = None) -> Iterator[np.ndarray]:
    """Frames of an image, a video, a folder of images, or a .bsq file, each uint8 (H, W, 3) RGB.

    Args:
        limit: at most that many frames.

    Raises:
        BsqError: the file cannot be read, or the images of a folder differ in size.
    """
    if not path.exists():
        raise BsqError(f"no such file: {path}")
    if path.is_dir():
        reader: Callable[[Path], Iterator[np.ndarray]] = _folder_frames
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        reader = _image_frames
    elif path.suffix.lower() == ".bsq":
        reader = _bsq_frames
    else:
        reader = _video_frames
    return islice(reader(path), limit)


def frame_rate(path: Path) -> float:
    """Frames per second of an image (0), a video, or a folder of images (25)."""
    if path.is_dir():
        return 25.0
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return 0.0
    with _open_video(path) as container:
        stream = container.streams.video[0]
        return float(stream.average_rate or stream.guessed_rate or 25)


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
    fps = rate[1] if rate and not (chroma and rate[1] == chroma[0]) else "25"
    deep = bits is not None and bits[1] == "10"
    pixel_format = f"yuv{chroma[0] if chroma else '420'}p{'10le' if deep else ''}"
    return {"video_size": f"{size[1]}x{size[2]}", "framerate": fps, "pixel_format": pixel_format}


def _image_frames(path: Path) -> Iterator[np.ndarray]:
    try:
        with Image.open(path) as image:
            yield np.array(image.convert("RGB"))
    except Exception as error:
        raise BsqError(f"{path.name} is broken or not an image ({first_line(error)})") from None


def _folder_frames(path: Path) -> Iterator[np.ndarray]:
    shape = None
    for file in sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
        for frame in _image_frames(file):
            if shape not in (None, frame.shape):
                raise BsqError(f"{path.name}: {file.name} differs in size from the images before it")
            shape = frame.shape
            yield frame


def _bsq_frames(path: Path) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        for frame in Decoder(file).frames():
            yield frame.rgb


def _open_video(path: Path) -> Any:
    if path.suffix.lower() == ".yuv":
        options = raw_format(path)
        width, height = map(int, options["video_size"].split("x"))
        samples = {"20": 1.5, "22": 2, "44": 3}[options["pixel_format"][4:6]]
        frame = int(width * height * samples) * (2 if "10le" in options["pixel_format"] else 1)
        if path.stat().st_size % frame:
            raise BsqError(f"{path.name} is not a whole number of {options['video_size']} frames")
        return av.open(str(path), format="rawvideo", options=options)
    return av.open(str(path))


def _video_frames(path: Path) -> Iterator[np.ndarray]:
    try:
        with _open_video(path) as container:
            if not container.streams.video:
                raise BsqError(f"{path.name} has no video stream")
            for frame in container.decode(video=0):
                stated = int(frame.colorspace)
                yield colour.to_rgb(frame, stated if stated in colour.MATRICES else colour.BT709)
    except (av.FFmpegError, OSError) as error:
        raise BsqError(f"{path.name} is broken or not a video ({first_line(error)})") from None
