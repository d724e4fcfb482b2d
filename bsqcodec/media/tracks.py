"""Sound and subtitles of a video: what FFmpeg knows of them, and tracks of an output to copy them to."""

import ctypes
import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
from av.stream import Discard, Disposition

from ..errors import BsqError, shown
from ..settings import SourceOptions
from ..types import Packet, Track
from .base import VIDEO_FORMATS, reason_of
from .video_metadata import language_code

_LANGUAGE = re.compile("[A-Za-z0-9-]{1,40}")
# Begin of an ASS file, without which FFmpeg opens no encoder of text
_ASS = b"[Script Info]\r\n"
_LISTED = " channels ("  # in FFmpeg's name of a channel layout that lists its channels one by one
_Warn = Callable[[str], None]


def find(container: Any, video: Any, options: SourceOptions, warn: _Warn) -> list[tuple[Any, Track]]:
    """The streams of an input that can be copied, sound first, with what is known of each; warns of the others.

    video: the stream that is decoded.
    """
    found: list[tuple[Any, Track]] = []
    left: Counter[str] = Counter()
    for stream in sorted(container.streams, key=lambda s: s.type == "subtitle"):
        if stream.index == video.index or stream.discard == Discard.all:  # FFmpeg has read the chapters' own track
            continue
        if stream.disposition & Disposition.attached_pic:
            left["attached picture"] += 1
        elif stream.type == "attachment":
            left["attachment"] += 1
        elif stream.type not in ("audio", "subtitle"):
            left[f"{stream.type} track"] += 1
        elif options.audio if stream.type == "audio" else options.subtitles:
            if stream.codec_context is None or stream.time_base is None:
                warn(f"the {stream.type} track number {stream.index} is left out: FFmpeg does not know its format")
            else:
                found.append((stream, _describe(stream)))
    for what, count in left.items():
        warn(f"{count} {what}s are left out" if count > 1 else f"1 {what} is left out")
    return found


def _describe(stream: Any) -> Track:
    context, tags, rate, layout = stream.codec_context, stream.metadata, 0, ""
    if stream.type == "audio":
        rate, layout = context.sample_rate, _layout_of(context)
    language = tags.get("language", "")
    return Track(
        codec=context.codec.canonical_name,
        time_base=stream.time_base,
        sample_rate=rate,
        layout=layout,
        extradata=bytes(context.extradata or b""),
        kind=stream.type,
        language=language if _LANGUAGE.fullmatch(language) and language != "und" else "",
        disposition=int(stream.disposition),
        title=tags.get("title") or tags.get("name", ""),  # the second is that of MP4
    )


def _layout_of(context: Any) -> str:
    """Name of the channel layout of an audio stream."""
    layout = context.layout
    if _LISTED in layout.name:
        # PyAV frees the list of channels with this object, and FFmpeg once more: so it lives for ever
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    if layout.name.endswith("channels"):  # their places are not told
        return {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}.get(layout.nb_channels, layout.name)
    return str(layout.name)


def _settable(layout: str) -> str:
    """The channel layout, without the places of channels if they are in no order that has a name.

    Raises ValueError if it is none.
    """
    known = av.AudioLayout(layout)
    return f"{known.nb_channels} channels" if _LISTED in known.name else known.name  # PyAV would free the list twice


class CopiedTrack:
    """A track of an output, for packets as they are, or for text that is converted to the format the output takes."""

    def __init__(self, stream: Any, track: Track, container: Any, convert: "_TextConverter | None", warn: _Warn):
        self._stream, self._track, self._convert, self._warn = stream, track, convert, warn
        strict = container.format.name != "matroska" and track.kind == "audio"
        self._step = int(strict)  # units of time from a packet to the next, at least
        self._next: int | None = None

    def packet(self, packet: Packet) -> av.Packet | None:
        """A packet as FFmpeg writes it; None for one that holds nothing."""
        data = packet.data
        if self._convert:
            try:
                data = self._convert(data)
            except av.FFmpegError:
                self._warn("subtitles that FFmpeg cannot read are left out")
                return None
            if not data:
                return None
        pts = packet.pts
        if self._next is not None and pts < self._next:
            self._warn(f"time stamps of {name(self._track)} that do not rise are moved")
            pts = self._next
        self._next = pts + self._step
        copy = av.Packet(data)
        copy.pts = copy.dts = pts
        copy.duration, copy.time_base, copy.stream = packet.duration, self._track.time_base, self._stream
        copy.is_keyframe = True
        return copy


def add(container: Any, track: Track, path: str, warn: _Warn) -> CopiedTrack | None:
    """Add a track to an output that is not yet begun; None, with a warning, if it cannot be held.

    Raises BsqError for sound that this output cannot hold while another can: a video that has lost its sound is
    nothing that one expects.
    """
    format = container.format.name
    encoder, reason = _way(format, track)
    if not reason:
        _tell_lost(format, track, warn)
        return CopiedTrack(_add(container, track, encoder), track, container, None, warn)
    if track.kind == "subtitle" and _is_text(track.codec):
        convert = _TextConverter(track, "subrip" if format == "matroska" else "mov_text")
        warn(f"{name(track)} becomes {convert.track.codec}, which may lose styles")
        _tell_lost(format, track, warn)
        return CopiedTrack(_add(container, convert.track, True), track, container, convert, warn)
    others = [suffix for suffix, other in VIDEO_FORMATS.items() if not _way(other, track)[1]]
    hint = f"; try {' or '.join(others)}" if others else ""
    if track.kind == "audio" and others:
        raise BsqError(f"{path} cannot hold {track.codec} audio ({reason}){hint}")
    warn(f"{name(track)} is left out, which this output cannot hold{hint}")
    return None


def _tell_lost(format: str, track: Track, warn: _Warn) -> None:
    """Warn of what a format cannot hold of a track that it holds."""
    lost = {
        "language": format != "matroska" and not re.fullmatch("([a-z]{3})?", track.language),
        "disposition": format == "mov" and track.disposition & ~int(Disposition.default),
        "order of channels": track.kind == "audio" and _settable(track.layout) != av.AudioLayout(track.layout).name,
    }
    for what in lost:
        if lost[what]:
            warn(f"the {what} of {name(track)} is left out, which this output cannot hold")


def name(track: Track) -> str:
    """A track in a message."""
    return f"the {track.kind} track ({', '.join(filter(None, (track.codec, track.language, shown(track.title))))})"


class _TextConverter:
    """Makes subtitles of one text format those of another.

    Attributes:
        track: what it makes of the track it is given.
    """

    def __init__(self, track: Track, codec: str):
        decoder: Any = av.CodecContext.create(track.codec, "r")
        decoder.extradata = track.extradata or None
        decoder.open()
        encoder: Any = av.CodecContext.create(codec, "w")
        encoder.subtitle_header = decoder.subtitle_header
        encoder.open()
        self._decoder, self._encoder = decoder, encoder
        self.track = replace(track, codec=codec, extradata=bytes(encoder.extradata or b""))

    def __call__(self, data: bytes) -> bytes:
        """A packet's data in the other format; none of a packet without text. Raises av.FFmpegError if it is broken."""
        packet = av.Packet(data)
        packet.pts, packet.time_base = 0, self.track.time_base
        found = self._decoder.decode2(packet)
        return bytes(self._encoder.encode_subtitle(found)) if found else b""


def _is_text(codec: str) -> bool:
    try:
        return av.Codec(codec, "r").text_sub
    except ValueError:
        return False


def _way(format: str, track: Track) -> tuple[bool, str]:
    """Whether a stream for `track` is described by an encoder; why there can be none in `format`, or ""."""
    reasons = []
    for encoder in (True, False):
        try:
            with av.open(io.BytesIO(), "w", format=format) as scratch:
                _add(scratch, track, encoder)
                scratch.start_encoding()
            return encoder, ""
        except av.codec.codec.UnknownCodecError:  # of this kind
            continue
        except (av.FFmpegError, ValueError) as error:
            reasons.append(reason_of(error))
    return False, next(iter(reasons), "unknown to FFmpeg")


def _add(container: Any, track: Track, encoder: bool) -> Any:
    """A stream to copy packets to.

    PyAV can describe one only by a codec's context. An encoder is opened for the sake of what it tells of its delay and
    the size of its frames, and never fed; where there is none, or none for this sound, a decoder has to do.
    """
    if encoder:
        stream = container.add_stream(track.codec, track.sample_rate or None)
        context: Any = stream.codec_context
    else:
        stream = container.add_stream_from_template(_read_back(track))
        context = stream.codec_context
    if stream.type != track.kind:
        raise ValueError(f"{track.codec} is no {track.kind} codec")
    if track.kind == "audio":
        context.layout, context.sample_rate = _settable(track.layout), track.sample_rate
    if encoder and track.kind == "audio":
        context.options = {"strict": "experimental"}  # Vorbis
        context.open()
    elif encoder:
        context.subtitle_header = _ASS
        context.open()
    context.extradata = track.extradata or None
    stream.time_base, stream.disposition = track.time_base, track.disposition
    language = language_code(container.format.name, track.language)
    stream.metadata.update({k: v for k, v in (("language", language), ("title", track.title)) if v})
    return stream


def _read_back(track: Track) -> Any:
    """A stream of the track's codec, from a file that holds one packet of nonsense."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_mux_stream(track.codec, track.sample_rate or None)
        stream.time_base = Fraction(1, 1000)
        packet = av.Packet(b"0")
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream = stream.time_base, stream
        output.mux(packet)
    file.seek(0)
    return av.open(file).streams[0]
