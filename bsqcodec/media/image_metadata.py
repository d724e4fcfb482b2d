"""What image files say beside their pixels, as Pillow gives it and takes it."""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

from PIL import ExifTags, Image, ImageCms

from .. import exif as tiff
from .hdr import LIGHT, MASTERING
from .metadata import LOOP, TAG
from .png_chunks import XMP_KEYWORD, is_keyword, is_raw

_RAW_EXIF = "Raw profile type exif"  # PNG text with EXIF in hexadecimal, by ImageMagick
_TIFF_TAGS = (  # of the first directory of a TIFF, those that are not about how its pixels are stored
    ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.XResolution,
    ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit, ExifTags.Base.Software, ExifTags.Base.DateTime,
    ExifTags.Base.Artist, ExifTags.Base.HostComputer, ExifTags.Base.Copyright,
)  # fmt: skip
_JPEG_SEGMENT = 65533  # bytes at most
_JPEG_LIMITS = {  # bytes of what goes into segments, heads taken off
    "icc": 255 * (_JPEG_SEGMENT - 14),
    "exif": _JPEG_SEGMENT - len(tiff.PREFIX),
    "xmp": _JPEG_SEGMENT - 29,
    "tag:comment": _JPEG_SEGMENT,
}
_JFIF_DENSITY = 65535  # at most
_SEGMENTS = {  # of JPEG, by how they begin, with what they are called; what is kept, or of use to no one else, has ""
    b"JFIF": "", b"JFXX": "thumbnail of JFIF", b"Exif\0\0": "", b"http://ns.adobe.com/xap/1.0/\0": "",
    b"http://ns.adobe.com/xmp/extension/": "extended XMP", b"ICC_PROFILE\0": "", b"MPF\0": "", b"Adobe": "",
    b"Photoshop 3.0\0": "", b"Ducky": "",
}  # fmt: skip
_IPTC = 0x0404  # a resource of Photoshop
_TIFF_DATA = {33723: "IPTC", 34377: "data of Photoshop", 34735: "GeoTIFF"}  # by tag
Warn = Callable[[str], None]


def orientation_of(image: Any) -> int:
    """EXIF orientation, 1..8; 1 if it is missing or broken."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow documents no class for broken EXIF
        return 1
    return found if found in tiff.TURNS else 1


def upright(image: Any, orientation: int) -> Any:
    """The image turned as its EXIF orientation says."""
    return image.transpose(tiff.TURNS[orientation]) if orientation in tiff.TURNS else image


def icc_of(image: Any) -> bytes | None:
    """The ICC profile, if it is one of RGB, as the pixels will be."""
    profile = image.info.get("icc_profile")
    return profile if profile and _space(profile) == "RGB" else None


def as_rgb(image: Any, warn: Warn) -> Any:
    """An image in a space of its own, CMYK, Lab or gray of an ICC profile, as sRGB by its profile; any other as it is.

    Warns of a profile that can be neither used nor kept.
    """
    profile = image.info.get("icc_profile") or b""
    space = _space(profile)
    if image.mode == "LAB" and space != "Lab":
        source: Any = ImageCms.createProfile("LAB")
    elif (space, image.mode) in (("Lab", "LAB"), ("CMYK", "CMYK"), ("GRAY", "L"), ("GRAY", "LA")):
        source = io.BytesIO(profile)
    else:
        if profile and icc_of(image) is None:
            warn(f"the ICC profile is left out: it is not of RGB but of {space or 'nothing known'}")
        return image
    if image.mode == "L" and image.has_transparency_data:
        image = image.convert("LA")
    try:
        pixels = image.getchannel("L") if image.mode == "LA" else image
        exact: Any = {"outputMode": "RGB", "flags": ImageCms.Flags.HIGHRESPRECALC}  # or what is dark gets darker
        rgb: Any = ImageCms.profileToProfile(pixels, source, ImageCms.createProfile("sRGB"), **exact)
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError):
        warn(f"the ICC profile of {space} is left out: it cannot be read")
        return image
    if image.mode == "LA":
        rgb.putalpha(image.getchannel("A"))
    return rgb


def metadata_of(image: Any, animated: bool, warn: Warn) -> dict[str, bytes]:
    """ICC profile, EXIF, XMP, text and loop count of an image that is loaded. Warns of what is broken."""
    found: dict[str, bytes | None] = {
        "icc": icc_of(image),
        "exif": _with_density(image, _exif(image, warn)),
        "xmp": _xmp(image),
    }
    if animated:
        found[LOOP] = str(_loop(image)).encode()
    text = getattr(image, "text", {})
    found |= {TAG + k: v.encode() for k, v in text.items() if k not in (XMP_KEYWORD, _RAW_EXIF)}
    if comment := image.info.get("comment"):
        comment = comment if isinstance(comment, bytes) else comment.encode()
        found[TAG + "comment"] = comment.decode(errors="replace").rstrip("\0").encode()
    return {name: value for name, value in found.items() if value}


def not_kept(image: Any) -> list[str]:
    """What an image that is loaded carries beside `metadata_of` and its pixels, as far as Pillow tells."""
    names = [name for tag, name in _TIFF_DATA.items() if tag in getattr(image, "tag_v2", ())]
    if resources := image.info.get("photoshop"):
        names.append("IPTC" if _IPTC in resources else "data of Photoshop")
    segments = getattr(image, "applist", [])
    for kind, data in segments:
        if kind != "COM":
            names.append(next((name for begin, name in _SEGMENTS.items() if data.startswith(begin)), f"segment {kind}"))
    if sum(kind == "COM" for kind, _ in segments) > 1:
        names.append("all comments but the last")
    return list(dict.fromkeys(filter(None, names)))


def holds(format: str, name: str, value: bytes) -> bool:
    """Whether a format, by Pillow's name, holds an item of `MediaInfo.metadata`."""
    if name == LOOP:  # which a still image does not need
        return True
    if format == "PNG":
        keyword = name.startswith(TAG) and is_keyword(name.removeprefix(TAG))
        return keyword or name in ("icc", "exif", "xmp", MASTERING, LIGHT) or is_raw(name, value)
    if format == "JPEG":
        return len(value) <= _JPEG_LIMITS.get(name.lower(), -1)
    return format in ("WEBP", "AVIF") and name in ("icc", "exif", "xmp")


def held(format: str, metadata: Mapping[str, bytes], rotation: int) -> dict[str, bytes]:
    """What a format holds of `metadata`, its EXIF with the orientation of a rotation; made for it if there was none."""
    found = {name: value for name, value in metadata.items() if holds(format, name, value)}
    exif = tiff.shown(found.pop("exif", b""), rotation)
    return found | {"exif": exif} if exif else found


def save_options(metadata: Mapping[str, bytes]) -> dict[str, Any]:
    """Options of Pillow's writers of all formats but PNG for metadata that these hold."""
    options: dict[str, Any] = {}
    for name, value in metadata.items():
        if name != LOOP:
            option = {"icc": "icc_profile", "exif": "exif", "xmp": "xmp", "tag:comment": "comment"}[name.lower()]
            options[option] = tiff.PREFIX + value if name == "exif" else value
    density = tiff.density(metadata.get("exif", b""))
    if density and density[2] and max(density[:2]) <= _JFIF_DENSITY:
        options["dpi"] = density[0], density[1]
    return options


def _space(profile: bytes) -> str:
    """The colour space of the pixels that an ICC profile is for: "RGB", "GRAY", "CMYK", "Lab" ..."""
    text = profile[16:20].decode("ascii", "replace").strip() if profile[36:40] == b"acsp" else ""
    return text if text.isalnum() else ""


def _exif(image: Any, warn: Warn) -> bytes | None:
    """EXIF as a TIFF structure, its orientation 1, without the thumbnail."""
    try:
        if image.format == "TIFF":
            exif = _exif_of_tiff(image)
        elif not (exif := image.info.get("exif", b"")) and _RAW_EXIF in image.info:
            exif = bytes.fromhex("".join(image.info[_RAW_EXIF].split("\n")[3:]))
        return tiff.stored(exif) if exif else None
    except Exception:  # Pillow documents no class for broken EXIF
        warn("the EXIF is broken and left out")
        return None


def _with_density(image: Any, exif: bytes | None) -> bytes | None:
    """EXIF, made if there is none, with the density of the pixels that PNG, JFIF and others tell beside it."""
    if image.format == "TIFF":  # which tells it in the EXIF; where it does not, Pillow makes one up
        return exif
    told, inch = image.info.get("dpi"), True
    if told is None:
        told = image.info.get("aspect") or (image.info.get("jfif_unit") == 0 and image.info.get("jfif_density"))
        inch = False
    return tiff.with_density(exif or b"", told[0], told[1], inch) if told else exif


def _exif_of_tiff(image: Any) -> bytes:
    """EXIF made of the directories of a TIFF."""
    found, exif = image.getexif(), Image.Exif()
    for tag in _TIFF_TAGS:
        if tag in found:
            exif[tag] = found[tag]
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if entries := found.get_ifd(directory):
            exif[directory] = dict(entries)
    return exif.tobytes() if len(exif) else b""


def _xmp(image: Any) -> bytes | None:
    """XMP, its orientation 1."""
    xmp = image.info.get("xmp")
    if not xmp:
        return None
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    return re.sub(rb'(tiff:Orientation(?:="|>))[2-8]', rb"\g<1>1", xmp)


def _loop(image: Any) -> int:
    """How often an animation is shown; 0 is for ever."""
    loop = image.info.get("loop")
    if image.format != "GIF":
        return int(loop or 0)
    return 1 if loop is None else int(loop) + (loop > 0)  # GIF tells how often it is repeated
