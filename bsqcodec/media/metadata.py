"""What is kept beside frames and tracks, by the names of `MediaInfo.metadata`: limits, and what outputs cannot hold."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from ..errors import shown
from ..types import MediaInfo
from . import chapters, colour

MAX_BYTES = 16_000_000  # of names and values together, which is less than a stream holds
MAX_ITEMS = 10_000
TAG = "tag:"  # begins the names of tags and text
RAW = "png:"  # begins the names of chunks of PNG as they are
LOOP = "loop"  # how often an animation is shown, in decimal; 0 is for ever
LANGUAGE = "language"  # of the pictures, for example "eng"

_SHOWN_AS = {
    "icc": "ICC profile", "exif": "EXIF", "xmp": "XMP", LOOP: "loop count", chapters.NAME: "chapters",
    "mdcv": "mastering display", "clli": "content light level",
}  # fmt: skip
_SHOWN = 4  # names in a line of what is left out, after which the others are counted
_OF_CONTENT = ("exif", "xmp", chapters.NAME, TAG)  # begin the names of what tells of people, places and makers


def stripped(info: MediaInfo) -> MediaInfo:
    """The same without EXIF, XMP, chapters, tags, and titles of tracks.

    What decides how it looks and which track is played stays: colours with an ICC profile, loop count, languages.
    """
    metadata = {name: value for name, value in info.metadata.items() if not name.startswith(_OF_CONTENT)}
    return replace(info, metadata=metadata, tracks=tuple(replace(track, title="") for track in info.tracks))


def left_out(info: MediaInfo, holds: Callable[[str, bytes], bool], colours: bool) -> str | None:
    """A line on the metadata that an output lacks, None if there is nothing to say.

    holds: tells of a name and its value whether the output holds it. colours: whether it holds primaries and transfer.
    """
    names = [name for name, value in info.metadata.items() if not holds(name, value)]
    names.sort(key=lambda name: name.startswith((TAG, LANGUAGE)))  # which are many, and count least
    lost = list(dict.fromkeys("gAMA and cHRM" if name.startswith(RAW) else _shown(name) for name in names))
    if not colours and not ("icc" in info.metadata and "icc" not in names) and not colour.looks_like_srgb(info):
        hdr = f"HDR ({colour.HDR_TRANSFERS[info.transfer]})" if info.transfer in colour.HDR_TRANSFERS else ""
        lost.insert(0, hdr or f"colours (primaries {info.primaries}, transfer {info.transfer})")
    if len(lost) > _SHOWN + 1:
        lost[_SHOWN:] = [f"{len(lost) - _SHOWN} more"]
    if not lost:
        return None
    *others, last = lost
    return f"metadata left out, which this output cannot hold: {', '.join(others) + ' and ' if others else ''}{last}"


def size(metadata: Mapping[str, bytes]) -> int:
    """Bytes of all names and values."""
    return sum(len(name.encode()) + len(value) for name, value in metadata.items())


def _shown(name: str) -> str:
    return shown(_SHOWN_AS.get(name, name.removeprefix(TAG)))
