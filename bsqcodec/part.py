"""A part of a stream as a video of its own: from time 0 on, with sound, subtitles and chapters of its time alone."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

from .decoder import Decoder
from .media import chapters
from .types import Frame, Packet


class Part:
    """Frames and packets of a decoder, moved in time so that the first frame is at 0.

    Args:
        decoder: whose packets are taken.
        frames: those that are wanted, as `decoder.frames` gives them.
        start, stop: number of the first of them and of the one after the last; None is the end.

    Raises what `frames` raises for the first frame.

    Attributes:
        info: what is known of the part.
    """

    def __init__(self, decoder: Decoder, frames: Iterator[Frame], start: int, stop: int | None):
        self._packets: list[Packet] = []  # that come before there is anybody to take them
        decoder.on_packet = self._packets.append
        self._decoder, self._frames = decoder, frames
        self._first = next(frames, None)
        info = decoder.info
        self._left = None if stop is None else stop - start  # frames to come
        self._interval = Fraction(1) / info.frame_rate if info.frame_rate else Fraction(0)
        # what comes before the first frame of the whole belongs to it
        self._origin = self._first.pts * info.time_base if self._first and start else Fraction(0)
        self._end = self._origin  # of the last frame so far, in seconds
        end = None if self._left is None else self._origin + self._left * self._interval
        metadata = dict(info.metadata)
        if lines := chapters.pack_part(chapters.unpack(metadata.pop(chapters.NAME, b"")), self._origin, end):
            metadata[chapters.NAME] = lines
        self.info = replace(info, metadata=metadata)

    def frames(self) -> Iterator[Frame]:
        """The frames, to be asked for once."""
        base, before = self._decoder.info.time_base, None
        origin = round(self._origin / base)
        frame = self._first
        while frame is not None:
            if before is not None:
                self._interval = (frame.pts - before) * base
            before, self._end = frame.pts, frame.pts * base + self._interval
            self._left = None if self._left is None else self._left - 1
            yield frame._replace(pts=frame.pts - origin)
            frame = next(self._frames, None)

    def pass_on(self, write: Callable[[Packet], None]) -> None:
        """Have `write` called with every packet that is heard or seen in the part."""

        def take(packet: Packet) -> None:
            base = self.info.tracks[packet.track].time_base
            start, ended = packet.pts * base, self._left == 0
            if (self._origin and start + packet.duration * base <= self._origin) or (ended and start >= self._end):
                return
            write(replace(packet, pts=packet.pts - round(self._origin / base)))

        for packet in self._packets:
            take(packet)
        self._decoder.on_packet = take
