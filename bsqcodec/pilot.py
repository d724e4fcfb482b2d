"""The quality for a rate, found by encoding a few frames before the rest."""

import functools
import io
import itertools
from collections.abc import Callable

import numpy as np

from . import media
from .encoder import Encoder
from .errors import BsqError
from .gop.picture_group import PictureGroupEncoder
from .network.weights import Model
from .rate import RateControl, find_quality
from .settings import EncodeSettings
from .types import Frame, Items, MediaInfo, Packet

PILOT_FRAMES = 4  # frames of each piece of a video that is encoded to find the quality
Reopen = Callable[..., media.Source]  # by its name, with other fields of SourceOptions


def pilot(
    opened: media.Source,
    reopen: Reopen | None,
    items: Items,
    model: Model,
    settings: EncodeSettings,
    bpp: float | None,
    size: int | None,
) -> tuple[Items, RateControl | None]:
    """Find the quality for a rate, from a whole still image or from some frames of a video.

    Args:
        opened, reopen: the input, and what opens it once more, to look at it in several places; None for a pipe.
        items: what is still to come of `opened`.
        settings: how to encode, but for the quality.
        bpp, size: bits per pixel, or bytes of the whole stream; one of them is None, or both.

    Returns:
        The items, none missing, and the control to go on with, whose quality is the first; None if no rate is given.

    Raises BsqError for a size of a video whose number of frames is not known.
    """
    info = opened.info
    if bpp is None and size is None:
        return items, None
    if size is None:
        assert bpp is not None
        target = bpp * info.width * info.height
    elif info.image:
        target = 8.0 * size
    elif opened.total is None:
        raise BsqError("the number of frames is not known beforehand: give --bpp in place of --size")
    else:
        target = 8 * size / opened.total
    if info.image:
        frame = next(items)
        assert isinstance(frame, Frame)
        tried = functools.partial(_picture_bits, frame, info, model, settings)
        return iter([frame]), RateControl(find_quality(tried, target, tries=8), target, 1)
    seen, items = _ahead(items)
    pieces = _pieces(opened, reopen, seen)
    gop = min(settings.gop, opened.total or settings.gop)
    tried = functools.partial(_video_bits, pieces, info, model, settings, gop)
    if size is None:
        return items, RateControl(find_quality(tried, target, tries=4), target)
    quality = find_quality(tried, max(target - _track_bits(seen, info), 1), tries=4)
    return items, RateControl(quality, target, opened.total, include_tracks=True)


def _picture_bits(frame: Frame, info: MediaInfo, model: Model, settings: EncodeSettings, quality: int) -> float:
    """Bits of the file of a still image."""
    with Encoder(io.BytesIO(), info, settings, model=model, decoded=False, quality=quality) as encoder:
        encoder.write(*frame)
    return 8.0 * encoder.size


def _video_bits(
    pieces: list[list[np.ndarray]], info: MediaInfo, model: Model, settings: EncodeSettings, gop: int, quality: int
) -> float:
    """Bits per frame of a video in groups of `gop`, estimated from some frames of a few places."""
    total = 0.0
    for piece in pieces:
        # a piece of a video with alpha may be opaque, and is then read without
        frame_format = info.frame_format._replace(alpha=piece[0].shape[2] == 4)
        encoder = PictureGroupEncoder(model, frame_format, settings)
        for frame in piece:
            encoder.push(frame, quality)
        encoder.flush()
        first = encoder.stats[0].bits + encoder.stats[0].side_bits
        rest = encoder.bits - first
        total += first if len(piece) == 1 else (first + (gop - 1) * rest / (len(piece) - 1)) / gop
    return total / len(pieces)


def _ahead(items: Items) -> tuple[list[Frame | Packet], Items]:
    """The first few frames with the packets between, and the items, none missing."""
    seen: list[Frame | Packet] = []
    frames = 0
    for item in items:
        seen.append(item)
        frames += isinstance(item, Frame)
        if frames == 2 * PILOT_FRAMES:
            break
    return seen, itertools.chain(seen, items)


def _track_bits(seen: list[Frame | Packet], info: MediaInfo) -> float:
    """Bits of sound and subtitles per frame, as far as packets tell how long they take."""
    per_second = 0.0
    for number, track in enumerate(info.tracks):
        packets = [item for item in seen if isinstance(item, Packet) and item.track == number and item.duration]
        if packets:
            seconds = sum(packet.duration for packet in packets) * track.time_base
            per_second += float(8 * sum(len(packet.data) for packet in packets) / seconds)
    return per_second / float(info.frame_rate or 1)


def _pieces(opened: media.Source, reopen: Reopen | None, seen: list[Frame | Packet]) -> list[list[np.ndarray]]:
    """A few frames of three places of a file, or the first few of a pipe or of a short video, which were `seen`."""
    rate = opened.info.frame_rate
    if reopen is None or not opened.total or not rate or opened.total < 8 * PILOT_FRAMES:
        return [[item.rgb for item in seen if isinstance(item, Frame)]]
    pieces = []
    for part in (1, 3, 5):
        begin, length = float(opened.total * part / 6 / rate), PILOT_FRAMES / float(rate)
        with reopen(start=begin, duration=length) as piece:
            pieces.append([item.rgb for item in itertools.islice(piece, PILOT_FRAMES) if isinstance(item, Frame)])
    return [piece for piece in pieces if piece]
