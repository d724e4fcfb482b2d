"""When a video begins and when it ends, in units of its time base."""

import contextlib
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av


def lead(first: av.VideoFrame, streams: Iterable[Any], time_base: Fraction) -> int:
    """Time from the first sound to the first frame; 0 if no sound comes earlier.

    That of subtitles does not count: FFmpeg knows it only when it has read them.
    """
    sounds = [s for s in streams if s.type == "audio" and s.start_time is not None]
    starts = [s.start_time * s.time_base for s in sounds]
    return max(0, round((first.pts or 0) - min(starts) / time_base)) if starts else 0


def first_time(container: Any, video: Any) -> int | None:
    """Time of the first frame of a file that can be sought in, None if nothing tells it. May read on in the file."""
    if "matroska" in container.format.name:  # for which FFmpeg may tell the time of the first sound
        with contextlib.suppress(av.FFmpegError):
            for packet in container.demux(video):
                if packet.size and packet.pts is not None:
                    return packet.pts
    return video.start_time


def last_duration(last: av.VideoFrame, in_order: bool, container: Any, video: Any, rate: Fraction) -> int:
    """Duration of the last frame of a video; where nothing tells it, one interval of the frame rate.

    in_order: whether the packet of the frame was the last of all.
    """
    pts, time_base = last.pts or 0, video.time_base
    # of Matroska, FFmpeg knows no durations, but guesses them; the tag is the end of the track
    hours, minutes, seconds = [*re.findall(r"[0-9.]+", video.metadata.get("DURATION", "")), 0, 0, 0][:3]
    end = (int(hours) * 60 + int(minutes)) * 60 + Fraction(seconds)
    told = container.duration is not None and end <= Fraction(container.duration + 1000, av.time_base)
    if told and end > pts * time_base:
        return max(1, round(end / time_base) - pts)
    if not in_order and video.duration and video.start_time is not None and video.start_time + video.duration > pts:
        return video.start_time + video.duration - pts
    return last.duration or max(1, round(1 / (rate * time_base)))
