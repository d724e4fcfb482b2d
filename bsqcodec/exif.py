"""EXIF as bytes: a TIFF structure that begins with "II" or "MM", changed in place; its orientation and pixel density.

Nothing is parsed and written anew, for what makers put in there has offsets that only their own programs know.
"""

import struct
from fractions import Fraction

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
_ACROSS, _DOWN, _UNIT = 0x011A, 0x011B, 0x0128  # pixels in a unit, of a width and of a height
_NO_UNIT, _INCH, _CENTIMETRE = 1, 2, 3
_SHORT, _RATIONAL, _ENTRY = 3, 5, 12  # types; bytes of an entry of a directory
_MOST_DPI, _FRACTION = 100_000, 10_000  # larger numbers mean nothing; the largest denominator: both fit in 32 bits
_METRES = Fraction(254, 10_000)  # of an inch
_DEFAULT_DPI = 72  # what is taken for granted where nothing is told


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
    order, at, entries, _ = _first_directory(exif)
    entry = struct.pack(f"{order}HHIHH", _ORIENTATION, _SHORT, 1, orientation, 0)
    tags = [_tag(order, e) for e in entries]
    if _ORIENTATION in tags:
        begin = at + 2 + _ENTRY * tags.index(_ORIENTATION)
        return exif[:begin] + entry + exif[begin + _ENTRY :]
    if orientation == 1:
        return exif
    return _with_entries(exif, [entry])


def density(exif: bytes) -> tuple[Fraction, Fraction, bool] | None:
    """Pixels in an inch, across and down, and True; if the inch is not known, how they compare, and False.

    None if the EXIF, which may be broken, does not tell.
    """
    try:
        order, _, entries, _ = _first_directory(exif)
        found = {_tag(order, entry): entry[8:] for entry in entries}
        places = [_number(order, found[tag]) for tag in (_ACROSS, _DOWN)]
        across, down = [Fraction(*struct.unpack_from(f"{order}2I", exif, place)) for place in places]
    except (ValueError, KeyError, struct.error, ZeroDivisionError):
        return None
    unit = struct.unpack_from(f"{order}H", found[_UNIT])[0] if _UNIT in found else _INCH
    inch = Fraction(254, 100) if unit == _CENTIMETRE else 1
    return (across * inch, down * inch, unit != _NO_UNIT) if across and down else None


def with_density(exif: bytes, across: float, down: float, inch: bool = True) -> bytes:
    """The same, made if it is empty, with a density as `density` gives it, unless it tells one, or this says nothing.

    That is a density that is no sensible number, 72 pixels in an inch, or pixels that are as wide as high where the
    inch is not known. Raises ValueError if `exif` is broken.
    """
    order, _, entries, _ = _first_directory(exif or EMPTY)
    known = {_ACROSS, _DOWN} & {_tag(order, entry) for entry in entries}
    if known or not (0 < across < _MOST_DPI and 0 < down < _MOST_DPI):
        return exif
    if round(across) == round(down) == _DEFAULT_DPI if inch else across == down:
        return exif
    exif = exif or EMPTY
    exif += bytes(len(exif) % 2)
    rows, numbers = [struct.pack(f"{order}HHIHH", _UNIT, _SHORT, 1, _INCH if inch else _NO_UNIT, 0)], b""
    for tag, value in ((_ACROSS, across), (_DOWN, down)):
        rows.append(struct.pack(f"{order}HHII", tag, _RATIONAL, 1, len(exif) + len(numbers)))
        numbers += struct.pack(f"{order}2I", *_nearest(value).as_integer_ratio())
    return _with_entries(exif + numbers, rows)


def per_metre(dpi: float | Fraction) -> int:
    """The whole number of pixels in a metre of a number of them in an inch."""
    return round(Fraction(dpi) / _METRES)


def _nearest(dpi: float) -> Fraction:
    """A number of pixels as a short fraction: whole if it says so but for how PNG rounds it."""
    whole = Fraction(round(dpi))
    return whole if per_metre(whole) == per_metre(dpi) else Fraction(dpi).limit_denominator(_FRACTION)


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


def _with_entries(exif: bytes, rows: list[bytes]) -> bytes:
    """EXIF with these entries in its first directory, which gets longer and goes to the end, so that offsets stay."""
    order, _, entries, following = _first_directory(exif)
    tags = {_tag(order, row) for row in rows}
    rows = sorted(
        (e for e in [*entries, *rows] if e in rows or _tag(order, e) not in tags), key=lambda e: _tag(order, e)
    )
    exif += bytes(len(exif) % 2)
    head = exif[:4] + struct.pack(f"{order}I", len(exif)) + exif[8:]
    return head + struct.pack(f"{order}H", len(rows)) + b"".join(rows) + struct.pack(f"{order}I", following)


def _tag(order: str, entry: bytes) -> int:
    return int(struct.unpack(f"{order}H", entry[:2])[0])


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
