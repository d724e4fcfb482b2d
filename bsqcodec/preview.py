"""The frames of an encode as every decoder will give them, written as media while it goes on, with its tracks."""

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from . import media
from .errors import BsqError
from .output import check_free
from .suffixes import MEDIA_SUFFIXES
from .types import Frame, Items, MediaInfo, Packet, rescaled


def check_outputs(target: str, path: str, force: bool, resume: bool) -> None:
    """Raise BsqError if an encode to `target` cannot have the preview `path`; none is asked for if that is empty.

    Neither if the name of `target` is that of another format: then it is most likely one of a file to be kept.
    """
    if (suffix := media.suffix_of(target)) in MEDIA_SUFFIXES:
        raise BsqError(f"{target}: encode makes .bsq files; decode makes {suffix} of them")
    if not path:
        return
    if path == "-":
        raise BsqError("a preview needs the name of a file or a folder, not standard output")
    if resume:
        raise BsqError("--preview is of frames that --resume does not make again: decode the file in place of it")
    if os.path.realpath(path) == os.path.realpath(target):
        raise BsqError(f"{path} is both the output and its preview; give two names")
    check_free(path, force)


class Preview:
    """Takes what an encoder is given, and what it gives back, and writes it to a sink, if there is one.

    name: of the sink, for warnings. depth, shown_depth: bits of a sample of the frames, and of those in the sink.
    """

    def __init__(self, sink: media.Sink | None = None, name: str = "", depth: int = 8, shown_depth: int = 8):
        self._sink = sink
        self._waiting: deque[Packet | tuple[Any, ...]] = deque()  # packets, and frames without their pixels
        self._name, self._depth, self._shown_depth = name, depth, shown_depth

    @property
    def warnings(self) -> list[str]:
        """A line for each thing that the sink cannot hold."""
        if not self._sink:
            return []
        rounded = f"the preview has {self._shown_depth} bits a sample, the stream {self._depth}"
        lines = [rounded] if self._shown_depth < self._depth else []
        return [f"{self._name}: {line}" for line in lines + self._sink.warnings]

    def watch(self, items: Items) -> Items:
        """The items of an encode, on their way to the encoder: their times and packets are those of the preview."""
        return self._noted(items) if self._sink else items

    def _noted(self, items: Items) -> Items:
        for item in items:
            self._waiting.append(item[1:] if isinstance(item, Frame) else item)
            yield item

    def add(self, picture: np.ndarray) -> None:
        """Write the next frame as it was encoded, after the packets before it. Raises as `media.Sink.write`."""
        if self._sink:
            self.write_packets()
            time = self._waiting.popleft()
            assert isinstance(time, tuple)
            self._sink.write(rescaled(picture, self._depth, self._shown_depth), *time)

    def write_packets(self) -> None:
        """Write the packets of sound and subtitles that come before the next frame."""
        while self._sink and self._waiting and isinstance(self._waiting[0], Packet):
            packet = self._waiting.popleft()
            assert isinstance(packet, Packet)
            self._sink.write_packet(packet)


@contextlib.contextmanager
def previewing(path: str, info: MediaInfo) -> Iterator[Preview]:
    """A preview at `path`, as `media.open_sink` takes it, of an encode of `info`; without effect if `path` is empty.

    It gets its name on normal exit; on an exception nothing is left. Samples are rounded to the bits that it holds.
    Raises BsqError as `media.open_sink`.
    """
    if not path:
        yield Preview()
        return
    depth = min(info.bit_depth, media.max_depth(path))
    with media.open_sink(path, replace(info, bit_depth=depth)) as sink:
        preview = Preview(sink, path, info.bit_depth, depth)
        yield preview
        preview.write_packets()
