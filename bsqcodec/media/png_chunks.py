"""Chunks of PNG beside the pixels: colours, ICC profile, EXIF, XMP, text."""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping

from .. import exif as tiff
from ..types import MediaInfo
from . import colour, hdr
from .metadata import RAW, TAG

_RAW_CHUNKS = {RAW + "gAMA": 4, RAW + "cHRM": 32}  # bytes
XMP_KEYWORD = "XML:com.adobe.xmp"

HEAD_BYTES = 8 + 25  # signature and IHDR
# bytes that are needed of each
_COLOUR_CHUNKS = {b"cICP": 4, b"iCCP": 0, b"sRGB": 0, b"gAMA": 4, b"cHRM": 32, b"mDCV": 24, b"cLLI": 8}
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_LONGEST_KEYWORD = 79
_NOT_KEPT = {b"bKGD": "background colour", b"tIME": "time of change", b"caBX": "content credentials"}
_PRIMARIES = {  # by number of H.273: x and y of white, red, green, blue, times 1000
    1: (312.7, 329, 640, 330, 300, 600, 150, 60),
    4: (310, 316, 670, 330, 210, 710, 140, 80),
    5: (312.7, 329, 640, 330, 290, 600, 150, 60),
    6: (312.7, 329, 630, 340, 310, 595, 155, 70),
    9: (312.7, 329, 708, 292, 170, 797, 131, 46),
    11: (314, 351, 680, 320, 265, 690, 150, 60),
    12: (312.7, 329, 680, 320, 265, 690, 150, 60),
}
_GAMMAS = {colour.GAMMA_22: 45455, 5: 35714, 8: 100000}  # by transfer of H.273: 100000 / gamma
_CLLI_UNIT = 10_000  # of the chunk, in 1 cd/m²
_CLOSE = 200  # of 100000: how far numbers may be from those above
# text that PNG has a name for; the same names differ in other formats by their case only
_KEYWORDS = {
    word.lower(): word
    for word in (
        "Title",
        "Author",
        "Description",
        "Copyright",
        "Software",
        "Disclaimer",
        "Warning",
        "Source",
        "Comment",
    )
}


def read_colour_chunks(png: str | io.BytesIO) -> dict[bytes, bytes]:
    """The chunks of a PNG, by its path or content, that tell what its colours are; an empty body of `iCCP` and `sRGB`.

    A PNG that is cut short has those that come before.
    """
    chunks = _chunks(png, max(_COLOUR_CHUNKS.values()))
    return {
        kind: body[: _COLOUR_CHUNKS[kind]]
        for kind, body in chunks
        if kind in _COLOUR_CHUNKS and len(body) >= _COLOUR_CHUNKS[kind]
    }


def not_kept(png: str | io.BytesIO) -> list[str]:
    """What a PNG carries before its pixels that is not kept: texts whose keyword comes again, and chunks."""
    kinds, keywords = set[bytes](), list[bytes]()
    for kind, begin in _chunks(png, _LONGEST_KEYWORD + 1):
        kinds.add(kind)
        if kind in _TEXTS:
            keywords.append(begin.partition(b"\0")[0])
    repeated = len(set(keywords)) < len(keywords)
    return [name for kind, name in _NOT_KEPT.items() if kind in kinds] + [
        "texts of one keyword but the last"
    ] * repeated


def _chunks(png: str | io.BytesIO, longest: int) -> Iterator[tuple[bytes, bytes]]:
    """Kind and at most `longest` bytes of the body of each chunk before the pixels of a PNG, by its path or content."""
    with open(png, "rb") if isinstance(png, str) else png as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            size, kind = struct.unpack(">I4s", head)
            body = file.read(min(size, longest))
            yield kind, body
            file.seek(size + 4 - len(body), 1)


def colours(chunks: Mapping[bytes, bytes]) -> tuple[int, int, dict[str, bytes]]:
    """What chunks say: primaries and transfer of H.273, and as metadata what these cannot express.

    As the PNG specification has it, cICP goes before iCCP, that before sRGB, that before gAMA and cHRM.
    """
    if b"cICP" in chunks and chunks[b"cICP"][2] == colour.IDENTITY:
        return chunks[b"cICP"][0], chunks[b"cICP"][1], {}
    if b"iCCP" in chunks or b"sRGB" in chunks:
        return colour.BT709, colour.SRGB, {}
    primaries, transfer = colour.BT709, colour.SRGB
    if b"cHRM" in chunks:
        numbers = struct.unpack(">8I", chunks[b"cHRM"])
        primaries = next(
            (n for n, known in _PRIMARIES.items() if _close(numbers, [100 * k for k in known])), colour.UNSPECIFIED
        )
    [gamma] = struct.unpack(">I", chunks.get(b"gAMA", bytes(4)))
    if gamma:
        transfer = next((n for n, known in _GAMMAS.items() if _close([gamma], [known])), colour.UNSPECIFIED)
        if transfer == colour.GAMMA_22 and primaries == colour.BT709:
            transfer = colour.SRGB  # which writers mean by these chunks
    if colour.UNSPECIFIED not in (primaries, transfer):
        return primaries, transfer, {}
    return primaries, transfer, {RAW + kind.decode(): chunks[kind] for kind in (b"gAMA", b"cHRM") if kind in chunks}


def hdr_metadata(chunks: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """The metadata `mdcv` and `clli` of the chunks mDCV and cLLI, which have another order and other units."""
    found = {}
    if display := chunks.get(b"mDCV"):  # red, green, blue and the rest, to green, blue, red and the rest
        found[hdr.MASTERING] = display[4:12] + display[:4] + display[12:]
    if light := chunks.get(b"cLLI"):
        found[hdr.LIGHT] = struct.pack(">2H", *(min(n // _CLLI_UNIT, 65535) for n in struct.unpack(">2I", light)))
    return found


def chunks_of(info: MediaInfo, metadata: Mapping[str, bytes]) -> list[tuple[bytes, bytes]]:
    """Kinds and bodies of the chunks that hold `metadata`, and the colours of `info`, in a PNG of RGB or RGBA."""
    chunks = []
    if "icc" in metadata:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata["icc"])))
    elif raw := [(name.removeprefix(RAW).encode(), body) for name, body in metadata.items() if is_raw(name, body)]:
        chunks += raw
    elif not colour.looks_like_srgb(info):
        # the newer chunk, which readers prefer, and what older ones know of it
        chunks.append((b"cICP", bytes([info.primaries, info.transfer, colour.IDENTITY, 1])))
        if info.transfer in _GAMMAS:
            chunks.append((b"gAMA", struct.pack(">I", _GAMMAS[info.transfer])))
        if info.primaries in _PRIMARIES:
            chunks.append((b"cHRM", struct.pack(">8I", *[round(100 * n) for n in _PRIMARIES[info.primaries]])))
    if len(display := metadata.get(hdr.MASTERING, b"")) == _COLOUR_CHUNKS[b"mDCV"]:
        chunks.append((b"mDCV", display[8:12] + display[:8] + display[12:]))
    if len(light := metadata.get(hdr.LIGHT, b"")) == 4:
        chunks.append((b"cLLI", struct.pack(">2I", *(n * _CLLI_UNIT for n in struct.unpack(">2H", light)))))
    if "exif" in metadata:
        chunks.append((b"eXIf", metadata["exif"]))
        chunks += _density(metadata["exif"])
    if "xmp" in metadata:
        chunks.append(_text(XMP_KEYWORD, metadata["xmp"]))
    for name, value in metadata.items():
        if name.startswith(TAG):
            keyword = name.removeprefix(TAG)
            chunks.append(_text(_KEYWORDS.get(keyword.lower(), keyword), value))
    return chunks


def with_chunks(png: bytes, chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A PNG with more chunks, kind and body each, directly after its header."""
    more = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return png[:HEAD_BYTES] + more + png[HEAD_BYTES:]


def is_raw(name: str, body: bytes) -> bool:
    """Whether an item of metadata is a chunk as it is."""
    return _RAW_CHUNKS.get(name) == len(body)


def is_keyword(name: str) -> bool:
    """Whether PNG can have text of this name."""
    encoded = name.encode("latin-1", "replace")
    printable = all(32 <= c <= 126 or c > 160 for c in encoded)
    return name == encoded.decode("latin-1") and 0 < len(encoded) < 80 and printable and "  " not in f" {name} "


def _density(exif: bytes) -> list[tuple[bytes, bytes]]:
    """The chunk pHYs, if EXIF tells of it: pixels in a metre, or how width and height compare."""
    if not (density := tiff.density(exif)):
        return []
    across, down, inch = density
    scale = across.denominator * down.denominator
    numbers = [tiff.per_metre(n) if inch else int(n * scale) for n in (across, down)]
    return [(b"pHYs", struct.pack(">2IB", *numbers, inch))] if 0 < min(numbers) <= max(numbers) < 1 << 31 else []


def _text(keyword: str, value: bytes) -> tuple[bytes, bytes]:
    """Text in UTF-8, not compressed."""
    return b"iTXt", keyword.encode("latin-1") + bytes(5) + value.replace(b"\0", b"")


def _close(numbers: Iterable[float], known: Iterable[float]) -> bool:
    return all(abs(a - b) <= _CLOSE for a, b in zip(numbers, known, strict=True))
