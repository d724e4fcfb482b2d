"""Pictures, videos and their tracks, from files, folders and pipes and into them.

Frames are RGB, of 8 bits from sources, of up to 16 into outputs.
"""

import glob
import os
import re
import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from ..errors import BsqError, shown
from ..output import is_special
from ..settings import MAX_PIXELS, MAX_SIDE, SinkOptions, SourceOptions
from ..suffixes import ANIMATION_SUFFIXES, IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ..types import MediaInfo
from .animation_sinks import ANIMATION_FORMATS, AnimationSink
from .base import VIDEO_FORMATS, Source, suffix_of
from .image_sinks import STILL_FORMATS, FolderSink, StillSink
from .images import ImageSource, is_image
from .metadata import stripped
from .sinks import Sink
from .transparency import OpaqueSource, colour_of
from .video import VideoSource
from .video_sinks import VideoSink, Y4mSink

__all__ = ["OUTPUT_SUFFIXES", "Sink", "Source", "max_depth", "open_sink", "open_source", "suffix_of"]

OUTPUT_SUFFIXES = (*VIDEO_FORMATS, ".y4m", *STILL_FORMATS, *ANIMATION_FORMATS)
_Y4M = b"YUV4MPEG2 "
_MAX_PIPED = 1 << 30  # bytes of an image on standard input: twice what the largest take uncompressed


def open_source(path: str, options: SourceOptions | None = None, **changes: Any) -> Source:
    """Open a video, a still or animated image, images in a folder (25 per second), or what a pipe holds.

    Args:
        path: a file, a folder, a pattern such as "frames/*.png", or "-" for standard input, which
            holds y4m, or a still or animated image of any format.
        options: what is wanted of it.
        changes: fields of SourceOptions, in place of those in `options`.

    Raises:
        BsqError: nothing there, nothing that can be read, a content or size that is not supported, an unknown colour.
    """
    options = replace(options or SourceOptions(), **changes)
    colour = colour_of(options.background) if options.background else None
    source = _source(path, options)
    width, height = source.info.width, source.info.height
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        source.close()
        raise BsqError(f"{path}: frames of {width}x{height} pixels are not supported")
    source.info = stripped(source.info) if options.strip else source.info
    return source if not source.info.alpha or (options.alpha and not colour) else OpaqueSource(source, colour)


def _source(path: str, options: SourceOptions) -> Source:
    """The source at a path, as `open_source` takes it; its frames may have alpha."""
    if path == "-":
        return _open_pipe(options)
    if not os.path.exists(path):
        files = glob.glob(path) if glob.has_magic(path) else []
        if not files:
            raise BsqError(f"no file matches {path}" if glob.has_magic(path) else f"no such file: {path}")
        return ImageSource(path, options, sorted(files, key=_natural))
    if os.path.isdir(path):
        return _open_folder(path, options)
    suffix = suffix_of(path)
    if suffix in IMAGE_SUFFIXES | ANIMATION_SUFFIXES or (suffix not in VIDEO_SUFFIXES and is_image(path)):
        return ImageSource(path, options)
    return VideoSource(path, options)


def _open_folder(path: str, options: SourceOptions) -> Source:
    """The images in a folder; warns of what else there is in it, but for what is hidden."""
    names = sorted((name for name in os.listdir(path) if not name.startswith(".")), key=_natural)
    images = [name for name in names if suffix_of(name) in IMAGE_SUFFIXES]
    if not images:
        raise BsqError(f"{path}: the folder holds no images")
    source = ImageSource(path, options, [os.path.join(path, name) for name in images])
    if others := [name for name in names if suffix_of(name) not in IMAGE_SUFFIXES]:
        count = "another file in the folder is" if len(others) == 1 else f"{len(others)} other files in the folder are"
        source.warnings.append(f"{path}: {count} passed over, such as {shown(others[0])}")
    return source


def _open_pipe(options: SourceOptions) -> Source:
    """Standard input: y4m, which is read as it comes, or an image, which is read whole."""
    begun = sys.stdin.buffer.read(len(_Y4M))
    if begun == _Y4M:
        return VideoSource("-", options, begun=begun)
    data = begun + sys.stdin.buffer.read(_MAX_PIPED - len(begun))
    if not data:
        raise BsqError("standard input is empty")
    if len(data) == _MAX_PIPED:
        raise BsqError(f"standard input is not a y4m stream, and of an image no more than {_MAX_PIPED} bytes are read")
    return ImageSource("standard input", options, data=data)


def open_sink(
    path: str, info: MediaInfo, options: SinkOptions | None = None, **changes: Any
) -> AbstractContextManager[Sink]:
    """Open an output, in the format that the suffix of `path` names; to be entered by `with`.

    .mp4, .mkv, .mov: H.264 (4:2:0, or 4:4:4 if a side is odd) with the packets of sound and subtitles as they are, or
    text subtitles in the format it takes. .y4m, or "-" for standard output: 4:4:4 at the average frame rate, upright.
    .png, .jpg: one still image; "-" is a PNG where `info` tells of a still image. .gif, .webp, .apng, .avif: an
    animation, upright, held in memory, 1 GiB at most; a still image if there is one frame. A folder, or a path that
    ends with "/": upright images 000000.png, 000001.png, ...
    Frames of more than 8 bits make H.264 of 10 bits, y4m of 10, 12 or 16, PNGs of 16. Frames with alpha make ProRes
    4444 in .mov, FFV1 in .mkv; .mp4, .y4m and .jpg show them on a background.

    All hold of `info.metadata` what their formats can; `Sink.warnings` has a line on what they cannot.

    The result gets its name on normal exit; on an exception nothing is left.

    Args:
        info: what the frames are, in full size; `bit_depth` is at most `max_depth` of the path.
        options: how to write them.
        changes: fields of SinkOptions, in place of those in `options`.

    Raises:
        BsqError: unknown suffix or scale, missing folder, folder with files in it, audio that needs another container;
            on exit, no frame was written, or the result cannot be.
    """
    return _sink(path, info, replace(options or SinkOptions(), **changes)).opened()


def max_depth(path: str) -> int:
    """Most bits of a sample that an output holds: 8, 10 or 16."""
    suffix = suffix_of(path)
    if path != "-" and not path.endswith("/") and not os.path.isdir(path):
        if suffix in VIDEO_FORMATS:
            return VideoSink.max_depth
        if suffix in ANIMATION_FORMATS or STILL_FORMATS.get(suffix, "PNG") != "PNG":
            return 8
    return Sink.max_depth


def _sink(path: str, info: MediaInfo, options: SinkOptions) -> Sink:
    suffix = suffix_of(path)
    if suffix == ".y4m":
        return Y4mSink(path, info, options)
    if path.endswith("/") or os.path.isdir(path):
        return FolderSink(path, info, options)
    if suffix in VIDEO_FORMATS:
        return VideoSink(path, info, options, VIDEO_FORMATS[suffix])
    if suffix in ANIMATION_FORMATS:
        return AnimationSink(path, info, options, ANIMATION_FORMATS[suffix])
    if suffix in STILL_FORMATS:
        return StillSink(path, info, options, STILL_FORMATS[suffix])
    if path == "-" or is_special(path):
        return StillSink(path, info, options, "PNG") if info.image else Y4mSink(path, info, options)
    known = ", ".join(OUTPUT_SUFFIXES)
    raise BsqError(f"{path}: the name of an output ends in {known}, or in / for a folder of images")


def _natural(name: str) -> list[tuple[int, str]]:
    """Key that sorts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]
