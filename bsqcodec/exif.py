"""EXIF as bytes: a TIFF structure that begins with "II" or "MM", changed in place; and the orientation that it tells.

Nothing is parsed and written anew, for what makers put in there has offsets that only their own programs know.
"""

import struct

from PIL import Image

PREFIX = b"Exif\0\0"  # what stands before the structure in JPEG, and in Pillow
ROTATIONS = {1: 0, 6: 90, 3: 180, 8: 270}  # degrees clockwise of the orientations without a mirror
ORIENTATIONS = {degrees: orientation for orientation, degrees in ROTATIONS.items()}
TURNS = {  # by orientation: what makes a picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

EMPTY = b"MM\0*\0\0\0\x08" + bytes(6)  # a directory without entries

_ORIENTATION, _THUMBNAIL, _THUMBNAIL_BYTES = 0x0112, 0x0201, 0x0202
_SHORT, _ENTRY = 3, 12  # a type; bytes of an entry of a directory


def stored(exif: bytes) -> bytes:
    """EXIF as `MediaInfo.metadata` has it: orientation 1, no thumbnail. Raises ValueError if it is broken."""
    return without_thumbnail(with_orientation(exif.removeprefix(PREFIX), 1))


def shown(stored: bytes, rotation: int) -> bytes:
    """EXIF for an output, with the orientation of a rotation; empty if there is nothing to tell.

    stored: as `MediaInfo.metadata` has it; empty, or broken by somebody else, is nothing.
    """
    orientation = ORIENTATIONS[rotation]
    try:
        exif = with_orientation(stored or EMPTY, orientation)
    except ValueError:
        exif = with_orientation(EMPTY, orientation)
    return b"" if exif == EMPTY else exif


def with_orientation(exif: bytes, orientation: int) -> bytes:
    """The same with this orientation, 1..8. Raises ValueError if `exif` is broken."""
    order, at, entries, following = _first_directory(exif)
    entry = struct.pack(f"{order}HHIHH", _ORIENTATION, _SHORT, 1, orientation, 0)
    tags = [struct.unpack(f"{order}H", e[:2])[0] for e in entries]
    if _ORIENTATION in tags:
        begin = at + 2 + _ENTRY * tags.index(_ORIENTATION)
        return exif[:begin] + entry + exif[begin + _ENTRY :]
    if orientation == 1:
        return exif
    # a longer directory at the end, so that all offsets stay
    exif += bytes(len(exif) % 2)
    head = exif[:4] + struct.pack(f"{order}I", len(exif)) + exif[8:]
    place = sum(tag < _ORIENTATION for tag in tags)
    entries.insert(place, entry)
    return head + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + struct.pack(f"{order}I", following)


def without_thumbnail(exif: bytes) -> bytes:
    """The same without the small copy of the picture that cameras add. Raises ValueError if `exif` is broken."""
    order, at, entries, following = _first_directory(exif)
    if not following:
        return exif
    found = {}
    for entry in _directory(exif, order, following)[0]:
        tag, kind = struct.unpack(f"{order}HH", entry[:4])
        found[tag] = struct.unpack(f"{order}H", entry[8:10])[0] if kind == _SHORT else _number(order, entry[8:])
    begin, size = found.get(_THUMBNAIL, 0), found.get(_THUMBNAIL_BYTES, 0)
    link = at + 2 + _ENTRY * len(entries)
    exif = exif[:link] + bytes(4) + exif[link + 4 :]
    if not link + 4 <= begin < begin + size <= len(exif):
        return exif
    rest = exif[begin + size :]
    return exif[:begin] + (bytes(size) + rest if rest.strip(b"\0") else b"")


def _first_directory(exif: bytes) -> tuple[str, int, list[bytes], int]:
    """Byte order as `struct` has it; of the first directory offset, entries, and the offset of the one that follows."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        raise ValueError("no TIFF structure")
    at = _number(order, exif[4:8])
    return order, at, *_directory(exif, order, at)


def _directory(exif: bytes, order: str, at: int) -> tuple[list[bytes], int]:
    """Entries of a directory, and the offset of the one that follows; 0 is none."""
    if len(exif) < at + 2:
        raise ValueError("a directory is missing")
    [count] = struct.unpack(f"{order}H", exif[at : at + 2])
    end = at + 2 + _ENTRY * count
    if len(exif) < end:
        raise ValueError("a directory is cut short")
    following = _number(order, exif[end : end + 4]) if len(exif) >= end + 4 else 0  # which some writers leave out
    return [exif[i : i + _ENTRY] for i in range(at + 2, end, _ENTRY)], following


def _number(order: str, four: bytes) -> int:
    if len(four) < 4:
        raise ValueError("cut short")
    return int(struct.unpack(f"{order}I", four[:4])[0])
