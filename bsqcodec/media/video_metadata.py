"""Tags and chapters of videos, as PyAV gives them and takes them."""

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from .hdr import LIGHT, MASTERING
from .metadata import LANGUAGE, TAG

_MOV_LANGUAGES = {  # that MOV has by another code of ISO 639-2 only, or by one of Apple's
    "deu": "ger", "fre": "fra", "nld": "dut", "zho": "chi", "ell": "gre", "fas": "per", "isl": "ice", "sqi": "alb",
    "eus": "baq", "hye": "arm", "kat": "geo", "mkd": "mac", "msa": "may", "mya": "bur", "cym": "wel", "bod": "tib",
    "swe": "sve",
}  # fmt: skip
_MILLISECOND = Fraction(1, 1000)
_OF_THE_FILE = {  # tags that tell how the old file was made
    "encoder", "encoder_options", "encoding_tool", "major_brand", "minor_version", "compatible_brands", "handler_name",
    "vendor_id", "duration", "number_of_frames", "number_of_bytes", "bps", "wm/encodingtime",
}  # fmt: skip
# what MP4 and MOV hold in the form that most players read; other tags need another form for all of them
_COMMON = {"title", "artist", "album", "date", "comment", "genre", "copyright", "creation_time", "location"}
_HELD = {
    "mp4": _COMMON | {
        "album_artist", "composer", "grouping", "lyrics", "description", "synopsis", "show", "episode_id", "network",
        "keywords", "track", "disc",
    },
    "mov": _COMMON | {"make", "model"},
}  # fmt: skip


def metadata_of(container: Any, video: Any, start: Fraction, end: Fraction | None) -> dict[str, bytes]:
    """Tags, chapters and the language of the pictures of what is read of an `av` container.

    start, end: seconds of the file; chapters are moved to begin at `start`, and left out outside.
    """
    found = {}
    tags = container.metadata
    for key, value in tags.items():
        name = key.lower() if key.isupper() else key  # Matroska shouts
        in_a_language = tags.get(key.rpartition("-")[0]) == value  # told twice by FFmpeg
        if value and name.lower() not in _OF_THE_FILE and not name.startswith("_statistics") and not in_a_language:
            found[TAG + name] = value.encode()
    language = video.metadata.get("language", "und")
    if language != "und":
        found[LANGUAGE] = language.encode()
    if lines := _chapters(container, start, end):
        found["chapters"] = "\n".join(lines).encode()
    return found


def _chapters(container: Any, start: Fraction, end: Fraction | None) -> list[str]:
    lines = []
    for chapter in container.chapters():
        times = [chapter[side] * chapter["time_base"] for side in ("start", "end")]
        first, last = (max(0, math.floor((time - start) / _MILLISECOND + Fraction(1, 2))) for time in times)
        if last > 0 and (end is None or times[0] < end):
            title = " ".join(chapter["metadata"].get("title", "").split())
            if end is not None:
                last = min(last, math.floor((end - start) / _MILLISECOND + Fraction(1, 2)))
            lines.append(f"{first} {max(first, last)} {title}".rstrip())
    return lines


def holds(name: str, value: bytes) -> bool:
    """Whether Matroska, MP4 and MOV hold an item of `MediaInfo.metadata`."""
    return name in ("chapters", LANGUAGE, MASTERING, LIGHT) or name.startswith(TAG)


def container_options(format: str, metadata: Mapping[str, bytes]) -> dict[str, str]:
    """Options for FFmpeg's muxer of this name, so that no tag gets lost."""
    plain = _HELD.get(format)
    tags = {name.removeprefix(TAG) for name in metadata if name.startswith(TAG)}
    return {"movflags": "use_metadata_tags"} if plain and not tags <= plain else {}


def language_code(format: str, language: str) -> str:
    """The code of a language, ISO 639-2, that FFmpeg's muxer of this name can write."""
    return _MOV_LANGUAGES.get(language, language) if format == "mov" else language


def write_metadata(container: Any, video: Any, metadata: Mapping[str, bytes]) -> None:
    """Set tags, chapters and the language of the pictures of an `av` container that is not begun yet."""
    text = {name: value.decode(errors="replace") for name, value in metadata.items() if holds(name, value)}
    container.metadata.update({k.removeprefix(TAG): value for k, value in text.items() if k.startswith(TAG)})
    if LANGUAGE in text:
        video.metadata[LANGUAGE] = language_code(container.format.name, text[LANGUAGE])
    found: list[dict[str, Any]] = []
    for line in text.get("chapters", "").split("\n"):
        if match := re.fullmatch(r"([0-9]{1,15}) ([0-9]{1,15}) ?(.*)", line):
            start, end, title = match.groups()
            times = {"start": int(start), "end": int(end), "time_base": _MILLISECOND}
            found.append({"id": len(found) + 1, **times, "metadata": {"title": title} if title else {}})
    if found:
        container.set_chapters(found)
