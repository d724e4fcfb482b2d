"""What all outputs for decoded frames share."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import av
import numpy as np

from ..errors import BsqError
from ..output import replacing
from ..settings import SinkOptions
from ..types import MediaInfo, Packet
from .base import reason_of
from .metadata import left_out
from .resample import reduced, reduced_info, reduction
from .transparency import colour_of, composited

NO_ALPHA = "transparency is left out, which this output cannot hold; the background is black, if none is chosen"
_BLACK = 0, 0, 0


class Sink:
    """An output that takes frames while it is `opened`.

    Args:
        path: as `open_sink` takes it.
        info: what the frames are, in full size.
        options: how to write them.
        holds_alpha: whether the output holds alpha; else they are composited on a background.

    Raises BsqError for an unknown scale or colour.

    Attributes:
        max_depth: most bits of a sample that the output holds.
        warnings: one line for each thing that the output cannot hold.
        duration: of the last frame, in units of MediaInfo's time_base; 0 if unknown. May be set until `opened` ends.
    """

    max_depth = 16

    def __init__(self, path: str, info: MediaInfo, options: SinkOptions, holds_alpha: bool = False):
        assert info.bit_depth <= self.max_depth
        self.warnings: list[str] = []
        self.duration = 0
        self._factor = reduction(options.scale)  # by what the sides of the frames are divided first
        self._background = colour_of(options.background) if options.background else None
        self._flatten = info.alpha and not holds_alpha
        self._path, self._frames = path, 0
        self._info = replace(reduced_info(info, self._factor), alpha=info.alpha and holds_alpha)  # of what is written

    @contextlib.contextmanager
    def opened(self) -> Iterator["Sink"]:
        """Write to a hidden file or folder, which gets its name on normal exit; on an exception nothing is left.

        Raises BsqError if the output cannot be opened or finished, or if there was no frame.
        """
        with contextlib.nullcontext("-") if self._path == "-" else replacing(self._path) as part:
            try:
                self._open(part)
                yield self
                if not self._frames:
                    raise BsqError(f"{self._path}: no frame to write")
                with self._writing():
                    self._finish()
            except BaseException:
                with contextlib.suppress(Exception):
                    self._abandon()
                raise

    def write(self, frame: np.ndarray, pts: int, duration: int = 0) -> None:
        """Append a frame of MediaInfo's `frame_format`; `pts` in its time_base, rising strictly.

        duration: of the last frame, if it is known.

        Raises:
            BsqError: it cannot be written.
            BrokenPipeError: nobody reads the pipe any more.
        """
        frame = reduced(frame, self._factor)
        if self._flatten:
            frame = self._flattened(frame)
        assert frame.shape == self._info.frame_format.shape
        assert frame.dtype == (np.uint8 if self._info.bit_depth == 8 else np.uint16)
        with self._writing():
            self._write(frame, pts)
        self._frames += 1
        self.duration = duration

    def _flattened(self, frame: np.ndarray) -> np.ndarray:
        """A frame with alpha on the background; warns if it is not opaque, and no background was chosen."""
        depth = self._info.bit_depth
        if not self._background and frame[..., 3].min() < (1 << depth) - 1:
            self._warn(NO_ALPHA)
        return composited(frame, self._background or _BLACK, depth)

    def write_packet(self, packet: Packet) -> None:
        """Append a packet of MediaInfo's tracks. Outputs without tracks ignore it. Raises as `write` does."""

    def _leave_out_tracks(self) -> None:
        """Warn of the tracks, where the output holds none."""
        for kind in sorted({track.kind for track in self._info.tracks}):
            count = sum(track.kind == kind for track in self._info.tracks)
            tracks = f"{count} {kind} tracks are" if count > 1 else f"the {kind} track is"
            self.warnings.append(f"{tracks} left out, which this output cannot hold")

    def _leave_out_aspect(self) -> None:
        """Warn of pixels that are no squares, where the output cannot tell."""
        across, down = self._info.sample_aspect_ratio
        if across and down and across != down:
            self.warnings.append(f"the output does not tell that pixels are {across}:{down}")

    def _leave_out_metadata(self, holds: Callable[[str, bytes], bool], colours: bool = False) -> None:
        """Warn of the metadata that the output does not hold, as `left_out` has it."""
        if line := left_out(self._info, holds, colours):
            self._warn(line)

    def _warn(self, line: str) -> None:
        """Add a warning, once."""
        if line not in self.warnings:
            self.warnings.append(line)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what FFmpeg, Pillow and the system raise into a BsqError of one line."""
        try:
            yield
        except BrokenPipeError:
            raise
        except (av.FFmpegError, OSError, ValueError) as error:
            name = self._path if self._path != "-" else "standard output"
            raise BsqError(f"cannot write {name}: {reason_of(error)}") from None

    def _open(self, part: str) -> None:
        """Begin to write to `part`; "-" is standard output."""
        raise NotImplementedError

    def _write(self, frame: np.ndarray, pts: int) -> None:
        """Append a frame as `write` takes it; errors of FFmpeg, Pillow and the system may pass."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Write what is left and close the file."""

    def _abandon(self) -> None:
        """Close the file, whatever its state. What this raises is ignored."""


def upright(frame: np.ndarray, rotation: int) -> np.ndarray:
    """A frame (H, W, C) turned clockwise by a multiple of 90 degrees, as it is to be shown."""
    return np.rot90(frame, -rotation // 90)
