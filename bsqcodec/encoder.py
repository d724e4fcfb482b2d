"""Frames to a .bsq stream, one after the other."""

from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from .gop.picture_group import PictureGroupEncoder
from .network.weights import Model, device_of, load_model
from .settings import EncodeSettings
from .stream.container import StreamWriter
from .stream.tracks import MAX_PACKETS
from .types import FrameStats, MediaInfo, Packet

MAX_PENDING = 1 << 20  # bytes of packets that wait for the end of a group of pictures


def choose(
    settings: EncodeSettings | None, model: Model | str | None, device: str, options: dict[str, Any]
) -> tuple[EncodeSettings, Model]:
    """The settings with `options` in place of some fields, and the loaded model. Raises as `Encoder` does."""
    if not isinstance(settings, EncodeSettings | None):
        raise TypeError(f"settings are {settings!r}, not EncodeSettings; a quality is given as quality=40")
    settings = replace(settings or EncodeSettings(), **options)
    if isinstance(model, Model):
        return replace(settings, model=model.name), model
    settings = replace(settings, model=model or settings.model)
    return settings, load_model(settings.model, device_of(device))


class Encoder:
    """Writes a .bsq stream frame by frame: a context manager. Memory does not depend on the number of frames.

    Args:
        file: open for writing in binary; a pipe will do. It is left open.
        info: what the frames are. `info.frame_rate` None makes a still image, of one frame.
        settings: how to encode.
        model: a model that is loaded, or the name or path of one, in place of that of the settings.
        device: "auto", "cpu" or "cuda"; not used if `model` is loaded already.
        decoded: whether a still image is returned decoded by `write` or `close`, which takes a third of the time.
        options: fields of EncodeSettings, in place of those in `settings`: `Encoder(file, info, quality=40)`.

    Raises ModelError for a model that is not there, ValueError for numbers out of range and an unknown tune, TypeError
    for an unknown option.

    Attributes:
        settings: how to encode, with `options` in their place.
        quality: quality of the frames that follow, 1..100; may be changed between frames.
        frames: number of frames written so far.
        stats: cost of the last frame that was encoded, in the order of coding.
        bits: ideal code length of all frames that are encoded.
        size, tracks_size: bytes written so far, and those of them that are sound and subtitles.
    """

    def __init__(
        self,
        file: BinaryIO,
        info: MediaInfo,
        settings: EncodeSettings | None = None,
        *,
        model: Model | str | None = None,
        device: str = "auto",
        decoded: bool = True,
        **options: Any,
    ):
        self.settings, self.model = choose(settings, model, device, options)
        self.info, self.quality = info, self.settings.quality
        self._decoded = decoded or not info.image
        self.frames = 0
        self.stats: FrameStats | None = None
        self.tracks_size = 0
        self._writer = StreamWriter(file, self.model.id, info)
        self._bits = 0.0  # of the groups before the one that is open
        self._group: PictureGroupEncoder | None = None
        self._pts: list[int] = []
        self._duration = 0  # of the last frame
        self._packets: list[Packet] = []
        self._pending = 0  # bytes of them
        self._closed = False

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the stream, unless an exception passes: then it stays cut short, as what it is."""
        if kind is None:
            self.close()
        self._closed = True

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._writer.size

    @property
    def bits(self) -> float:
        """Ideal code length of all frames that are encoded, in bits."""
        return self._bits + (self._group.bits if self._group else 0.0)

    def write(self, rgb: np.ndarray, pts: int = 0, duration: int = 0) -> list[np.ndarray]:
        """Take the next frame, uint8 (H, W, 3), or (H, W, 4) if `info.alpha`; `pts` must rise.

        duration: of the last frame, if it is known.

        Returns the frames that are encoded by now and were not returned before, in order, as every decoder will give
        them. Up to nineteen wait for later ones, unless `low_delay`; with alpha all of a group wait. Raises ValueError
        after `close`, for a frame of another size or type, and for the second frame of a still image.
        """
        self._check_open()
        if self.info.image and self.frames:
            raise ValueError("a still image has one frame")
        group = self._group or PictureGroupEncoder(self.model, self.info.frame_format, self.settings, self._decoded)
        decoded = group.push(rgb, self.quality)  # which may refuse the frame: then there is no group yet
        self._group = group
        self.frames += 1
        self._pts.append(pts)
        self._duration = duration
        self.stats = group.stats[-1] if group.stats else self.stats
        return decoded + self._end_group() if len(self._pts) == self.settings.gop else decoded

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the encoder is closed")

    def _end_group(self) -> list[np.ndarray]:
        """Encode and write what belongs to the group that is open, if one is."""
        if self._group is None:
            self._finish_group(None)
            return []
        decoded = self._group.flush()
        self.stats = self._group.stats[-1]
        self._bits += self._group.bits
        self._finish_group(*self._group.finish())
        return decoded

    def write_coded(self, pts: list[int], payload: bytes, alpha: bytes, bits: float, duration: int = 0) -> None:
        """Append a group of pictures that was encoded before, or elsewhere, in place of `write` for its frames.

        pts: presentation time of each frame. payload, alpha: as `PictureGroupEncoder.finish` gives them. bits: its
        ideal code length. duration: as for `write`.
        """
        self._check_open()
        self._duration = duration
        self.frames += len(pts)
        self._pts += pts
        self._bits += bits
        self._finish_group(payload, alpha)

    def write_packet(self, packet: Packet) -> None:
        """Pass on a packet of `info.tracks`; it is written after the open group of pictures, or before if too large."""
        self._check_open()
        self._packets.append(packet)
        self._pending += len(packet.data)
        if self._pending > MAX_PENDING or len(self._packets) >= MAX_PACKETS:
            self._write_packets()

    def close(self) -> list[np.ndarray]:
        """Finish the stream, once. The file is left open. Returns the rest of the frames, as `write` does."""
        if self._closed:
            return []
        decoded = self._end_group()
        self._writer.close(self._duration)
        self._closed = True
        return decoded

    def _finish_group(self, payload: bytes | None, alpha: bytes = b"") -> None:
        if payload is not None:
            self._writer.gop(self._pts, payload, alpha)
            self._group, self._pts = None, []
        if self._packets:
            self._write_packets()
        self._writer.flush()  # so that whole groups outlive this process

    def _write_packets(self) -> None:
        before = self._writer.size
        self._writer.packets(self._packets)
        self._packets, self._pending = [], 0
        self.tracks_size += self._writer.size - before
