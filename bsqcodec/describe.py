"""The description of a stream that `bsqcodec info` shows. Headers are read without torch, in a tenth of a second."""

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from .errors import BsqError, FormatError, shown
from .model_files import packaged_ids
from .output import open_input
from .settings import MAX_PIXELS, TUNES
from .stream.container import VERSION, Gop
from .stream.group import parse_group
from .stream.reader import StreamReader
from .types import MediaInfo

MAX_SHOWN = 2000  # characters of a value of the metadata in a line


@dataclass
class _Account:
    """What the chunks of a stream hold, counted."""

    frame_types: Counter[str] = field(default_factory=Counter)
    tunes: Counter[str] = field(default_factory=Counter)  # frames of each
    qualities: set[int] = field(default_factory=set)
    gops: int = 0
    track_bytes: Counter[int] = field(default_factory=Counter)
    first: int | None = None  # time of the first frame
    last: int | None = None
    interval: int | None = None  # time from the last frame but one to the last

    def add(self, gop: Gop) -> None:
        self.gops += 1
        frames = len(gop.pts)
        group = parse_group(gop.payload, frames)
        self.tunes[TUNES[group.tune]] += frames
        self.frame_types.update(header.frame_type for header in group.headers)
        self.qualities.update(header.quality for header in group.headers)
        if frames > 1:
            self.interval = gop.pts[-1] - gop.pts[-2]
        elif self.last is not None:
            self.interval = gop.pts[-1] - self.last
        self.first, self.last = gop.pts[0] if self.first is None else self.first, gop.pts[-1]

    def seconds(self, info: MediaInfo, duration: int) -> float | None:
        """Duration of a video; of its last frame, `duration` or as long as the one before."""
        if not info.frame_rate or self.first is None or self.last is None:
            return None
        end = Fraction(duration or self.interval or 0) or 1 / (info.frame_rate * info.time_base)
        return float((self.last - self.first + end) * info.time_base)


def describe(path: str, device: str | None = None, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """Everything about a .bsq file, as JSON has it. Reads all of it, and decodes its symbols only if given a device.

    A stream that is cut short or damaged is described up to there, with "error" saying where it ends. Raises BsqError
    for what cannot be read, FormatError for what is no stream.
    """
    if device and path == "-":
        raise BsqError("--bits reads its input twice: give a file, not standard input")
    account, error = _Account(), None
    with open_input(path) as file:
        reader = StreamReader(file, max_pixels)
        try:
            for chunk in reader.chunks():
                if isinstance(chunk, Gop):
                    account.add(chunk)
                elif isinstance(chunk, list):
                    for packet in chunk:
                        account.track_bytes[packet.track] += len(packet.data)
        except FormatError as e:
            error = str(e)
    found = _fields(reader, account)
    if error:
        found["error"] = error
    elif device:
        found["bits"] = _bits(path, device)
    return found


def _fields(reader: StreamReader, account: _Account) -> dict[str, Any]:
    """What is known of a stream without decoding it."""
    info, size, frames = reader.info, reader.size, account.frame_types.total()
    seconds = account.seconds(info, reader.last_duration)
    picture_bytes = size - account.track_bytes.total()
    tracks = [
        {
            "kind": track.kind, "codec": track.codec, "sample_rate": track.sample_rate, "layout": track.layout,
            "language": track.language, "title": track.title, "disposition": track.disposition,
            "bytes": account.track_bytes[number],
        }
        for number, track in enumerate(info.tracks)
    ]  # fmt: skip
    return {
        "version": VERSION,  # a reader refuses every other one
        "model": packaged_ids().get(reader.model),
        "model_id": reader.model.hex(),
        "width": info.width,
        "height": info.height,
        "bit_depth": info.bit_depth,
        "alpha": info.alpha,
        "frames": frames,
        "i_frames": account.frame_types["I"],
        "p_frames": account.frame_types["P"],
        "b_frames": account.frame_types["B"],
        "gops": account.gops,
        "quality": [min(account.qualities), max(account.qualities)] if account.qualities else None,
        "tune": {name: account.tunes[name] for name in TUNES if account.tunes[name]},
        "bytes": size,
        "bits_per_pixel": round(8 * picture_bytes / (frames * info.width * info.height), 5) if frames else None,
        "duration": None if seconds is None else round(seconds, 6),
        "frame_rate": str(info.frame_rate) if info.frame_rate else None,
        "kbit_per_second": None if seconds is None else round(8 * size / seconds / 1000, 3),
        "time_base": str(info.time_base),
        "sample_aspect_ratio": "{}:{}".format(*info.sample_aspect_ratio),
        "rotation": info.rotation,
        "primaries": info.primaries,
        "transfer": info.transfer,
        "matrix": info.matrix,
        "color_range": info.color_range,
        "tracks": tracks,
        "metadata": {name: _shown(value) for name, value in info.metadata.items()},
    }


def _shown(value: bytes) -> str:
    """A value of the metadata: its text, on one line, or how many bytes it has."""
    text = " / ".join(value.decode(errors="replace").split("\n"))
    return text if text.isprintable() and "\ufffd" not in text else f"{len(value)} bytes"


def _track_row(track: dict[str, Any]) -> tuple[str, str]:
    """A title and a line for a track."""
    sound = f"{track['sample_rate']} Hz, {track['layout']}" if track["sample_rate"] else ""
    parts = [track["codec"], sound, track["language"], shown(track["title"]), f"{track['bytes']} bytes"]
    return track["kind"], ", ".join(filter(None, parts))


def _bits(path: str, device: str) -> dict[str, float]:
    """Ideal code length in bits per frame: of the coefficients of I, P and B frames ("I", "P", "B"), of the classes of
    contrast of I frames ("classes"), and of what tells how P and B frames are predicted ("vectors").
    """
    from .decoder import Decoder  # loads torch

    totals: dict[str, float] = {}
    counts: Counter[str] = Counter()
    with open_input(path) as file:
        for s in Decoder(file, device).symbols():
            side = "classes" if s.frame_type == "I" else "vectors"
            for name, bits in ((s.frame_type, s.bits), (side, s.side_bits)):
                totals[name] = totals.get(name, 0.0) + bits
                counts[name] += 1
    return {name: round(totals[name] / n, 1) for name in ("I", "P", "B", "classes", "vectors") if (n := counts[name])}


def lines(found: dict[str, Any]) -> list[str]:
    """The result of `describe` as lines of text."""
    name = found["model"] or "not packaged"
    alpha = "alpha" if found["alpha"] else "no alpha"
    picture = "{width}x{height}, {bit_depth} bits a sample, {alpha}".format(**found | {"alpha": alpha})
    if found["rotation"]:
        picture += f", to be turned by {found['rotation']} degrees"
    rows = [
        ("format", f".bsq version {found['version']}, model {name} ({found['model_id']})"),
        ("picture", picture),
        ("frames", "{frames} ({i_frames} I, {p_frames} P, {b_frames} B) in {gops} GOPs".format(**found)),
    ]
    if found["sample_aspect_ratio"] not in ("0:1", "1:1"):
        rows.append(("aspect", f"pixels of {found['sample_aspect_ratio']}"))
    if found["frame_rate"]:
        rows.append(("time", f"{found['duration']} s at {float(Fraction(found['frame_rate'])):.3f} frames per second"))
    if found["quality"]:
        low, high = found["quality"]
        rows.append(("quality", f"{low}" if low == high else f"{low} to {high}"))
    if found["tune"]:
        many = len(found["tune"]) > 1
        rows.append(("tune", ", ".join(f"{name} ({n} frames)" if many else name for name, n in found["tune"].items())))
    rate = f"{found['bytes']} bytes, {found['bits_per_pixel']} bits per pixel"
    rows.append(("size", rate + (f", {found['kbit_per_second']} kbit/s" if found["kbit_per_second"] else "")))
    colour = (found["primaries"], found["transfer"], found["matrix"], found["color_range"])
    if colour != (2, 2, 2, 0):
        rows.append(("colour", "primaries {}, transfer {}, matrix {} (H.273), range {}".format(*colour)))
    rows += [_track_row(track) for track in found["tracks"]]
    rows += [("metadata", f"{shown(name)}: {shown(value, MAX_SHOWN)}") for name, value in found["metadata"].items()]
    rows += [(f"bits, {part}", f"{bits} per frame") for part, bits in found.get("bits", {}).items()]
    if "error" in found:
        rows.append(("broken", found["error"]))
    return [f"{title:10} {text}" for title, text in rows]
