"""Tags and chapters of videos, as PyAV gives them and takes them."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from . import chapters
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
    if lines := chapters.pack_part(map(_chapter, container.chapters()), start, end):
        found[chapters.NAME] = lines
    return found


def _chapter(given: Mapping[str, Any]) -> chapters.Chapter:
    start, end = (given[side] * given["time_base"] for side in ("start", "end"))
    return chapters.Chapter(start, end, " ".join(given["metadata"].get("title", "").split()))


def holds(name: str, value: bytes) -> bool:
    """Whether Matroska, MP4 and MOV hold an item of `MediaInfo.metadata`."""
    return name in (chapters.NAME, LANGUAGE, MASTERING, LIGHT) or name.startswith(TAG)


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
    found = [
        {
            "id": number, "start": int(start / _MILLISECOND), "end": int(end / _MILLISECOND),
            "time_base": _MILLISECOND, "metadata": {"title": title} if title else {},
        }
        for number, (start, end, title) in enumerate(chapters.unpack(metadata.get(chapters.NAME, b"")), 1)
    ]  # fmt: skip
    if found:
        container.set_chapters(found)
