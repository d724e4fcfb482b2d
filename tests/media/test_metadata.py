"""What files carry beside pictures and sound: ICC profiles, EXIF, XMP, text, colours of PNG, tags and chapters."""

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from bsqcodec import exif as tiff
from bsqcodec.media import open_sink, open_source, png_chunks
from helpers import CLIP, mean_error, read_media, waves, write_media

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
GPS = {1: "N", 2: (37.0, 20.0, 1.5)}
STILL = replace(CLIP, frame_rate=None, metadata={"icc": SRGB, "xmp": XMP % 1})


def exif_bytes(orientation, note=b"note", **options):
    """EXIF with a place, a note of the maker, and an orientation."""
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    exif[0x010F], exif[0x8825], exif[0x8769] = "Maker", GPS, {0x927C: note}
    return exif.tobytes(**options).removeprefix(tiff.PREFIX)


def parsed(exif):
    found = Image.Exif()
    found.load(exif)
    return found


def png(path, chunks=(), picture=None):
    """A PNG of `waves` with these chunks, written by hand."""
    file = io.BytesIO()
    Image.fromarray(waves(1)[0] if picture is None else picture).save(file, "PNG")
    path.write_bytes(png_chunks.with_chunks(file.getvalue(), chunks))


def opened(path):
    with open_source(str(path)) as source:
        return source.info, source.warnings


def other_profile(space):
    """The profile of sRGB, of which the head says another colour space: what there is of it cannot be used."""
    return SRGB[:16] + space + SRGB[20:]


def icc_profile(kind, space, connection, tags):
    """An ICC profile, version 2, of a device of this kind and colour space."""
    head = bytes(8) + struct.pack(">I4s4s4s", 0x02400000, kind, space, connection) + bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061) + bytes(48)  # D50
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">2I", 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    return struct.pack(">I", len(head) + len(table) + len(body)) + head[4:] + table + body


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_in_exif(order):
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F], exif[0x927C], exif[0x0131] = "Maker", b"opaque", "Software"
    exif = exif.tobytes(8).removeprefix(tiff.PREFIX)
    assert tiff.with_orientation(exif, 1) == exif
    turned = tiff.with_orientation(exif, 6)
    assert parsed(turned)[0x0112] == 6 and parsed(turned)[0x010F] == "Maker" and parsed(turned)[0x0131] == "Software"
    again = tiff.with_orientation(turned, 8)
    assert len(again) == len(turned) and parsed(again)[0x0112] == 8
    [begin] = struct.unpack_from(f"{order}I", again, 4)
    assert struct.unpack_from(f"{order}HH10xH10xH", again, begin) == (4, 0x010F, 0x0112, 0x0131)
    assert dict(parsed(tiff.with_orientation(tiff.EMPTY, 3))) == {0x0112: 3}
    for broken in (b"", b"II*\0", b"II*\0\xff\0\0\0", exif[:20], b"PNG" + exif):
        with pytest.raises(ValueError, match=r"TIFF|directory|short"):
            tiff.with_orientation(broken, 1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("behind", [b"", b"more"])
def test_thumbnails_are_removed_from_exif(order, behind):
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    first = struct.pack(f"{order}HHHIHHI", 1, 0x0112, 3, 1, 1, 0, 26)
    second = struct.pack(f"{order}HHHIIHHIII", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, 100, 0)
    exif = head + first + second + b"t" * 100 + behind
    found = tiff.without_thumbnail(exif)
    assert b"t" * 100 not in found and parsed(found)[0x0112] == 1 and found.endswith(behind)
    assert len(found) == len(exif) if behind else len(found) == 56
    assert tiff.without_thumbnail(found) == found
    for end in (26, 30, 50):
        with pytest.raises(ValueError, match=r"TIFF|directory|short"):
            tiff.without_thumbnail(exif[:end])
    assert len(tiff.without_thumbnail(exif[:100])) == 100  # the thumbnail itself is cut short


@pytest.mark.parametrize("first", ["png", "jpg", "webp", "avif"])
def test_images_keep_what_they_carry(tmp_path, first):
    options = {"icc_profile": SRGB, "exif": exif_bytes(6) if first == "avif" else tiff.PREFIX + exif_bytes(6)}
    if first == "png":
        options["pnginfo"] = text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", (XMP % 6).decode())
        text.add_text("Title", "Größe")
        text.add_text("date:create", "2020")
    else:
        options |= {"xmp": XMP % 6, "comment": b"a comment"}
    Image.fromarray(waves(1)[0]).save(tmp_path / f"a.{first}", **options)
    info, warnings = opened(tmp_path / f"a.{first}")
    kept = {name: value for name, value in info.metadata.items() if name != "exif"}
    text = {"png": {"tag:Title": "Größe".encode(), "tag:date:create": b"2020"}, "jpg": {"tag:comment": b"a comment"}}
    assert not warnings and info.rotation == 90
    assert kept == {"icc": SRGB, "xmp": XMP % 1} | text.get(first, {})
    exif = parsed(info.metadata["exif"])
    assert exif[0x0112] == 1 and exif[0x010F] == "Maker" and exif.get_ifd(0x8825) == GPS
    assert exif.get_ifd(0x8769)[0x927C] == b"note"
    for name in ("b.png", "b.jpg", "b.webp", "b/"):
        upright = name == "b/"
        write_media(f"{tmp_path}/{name}", waves(1), info)
        path = tmp_path / ("b/000000.png" if upright else name)
        with Image.open(path) as image:
            image.load()
            assert image.info["icc_profile"] == SRGB and image.getexif()[0x0112] == (1 if upright else 6)
            assert image.getexif().get_ifd(0x8825) == GPS
        again, _ = opened(path)
        lost = {name for name in text.get(first, {}) if name[-3:].lower() != "ent" or "png" not in str(path)}
        lost = set() if path.suffix == ".png" else lost - ({"tag:comment"} if path.suffix == ".jpg" else set())
        same = {k.replace("tag:comment", "tag:Comment") if path.suffix == ".png" else k for k in info.metadata} - lost
        assert again.metadata.keys() == same and again.rotation == (0 if upright else 90)
        assert again.metadata["exif"] == info.metadata["exif"] and again.metadata["xmp"] == XMP % 1


def test_exif_of_tiff_is_that_of_its_directories(tmp_path):
    options = {"icc_profile": SRGB, "exif": tiff.PREFIX + exif_bytes(6)}
    Image.fromarray(waves(1)[0]).save(tmp_path / "a.tiff", **options)
    info, _ = opened(tmp_path / "a.tiff")
    exif = parsed(info.metadata["exif"])
    assert (info.width, info.height, info.rotation) == (32, 48, 0)  # Pillow turns it
    assert exif.keys() == {0x010F, 0x8825, 0x8769} and exif.get_ifd(0x8825) == GPS and info.metadata["icc"] == SRGB


@pytest.mark.parametrize("orientation", [2, 4, 5, 7])
def test_mirrored_images_are_turned_and_their_exif_says_so(tmp_path, orientation):
    picture = waves(1)[0]
    Image.fromarray(picture).save(tmp_path / "a.png", exif=tiff.PREFIX + exif_bytes(orientation))
    info, [frame], _ = read_media(tmp_path / "a.png")
    turned = {2: picture[:, ::-1], 4: picture[::-1], 5: np.swapaxes(picture, 0, 1)}
    turned[7] = np.rot90(turned[5], 2)
    assert np.array_equal(frame.rgb, turned[orientation]) and parsed(info.metadata["exif"])[0x0112] == 1


def test_broken_metadata_never_fails(tmp_path):
    picture = Image.fromarray(waves(1)[0])
    for i, exif in enumerate((b"Exif\0\0nonsense", tiff.PREFIX + exif_bytes(6)[:30], b"Exif\0\0II*\0\xff\xff\xff\x7f")):
        picture.save(tmp_path / f"{i}.jpg", exif=exif, icc_profile=b"no profile")
        info, warnings = opened(tmp_path / f"{i}.jpg")
        assert info.metadata == {} and info.rotation == 0
        assert len(warnings) == 2 and "ICC profile is left out" in warnings[0] and "EXIF is broken" in warnings[1]
    info = replace(
        CLIP, rotation=90, metadata={"exif": b"broken", "icc": b"", "chapters": b"9 x\n\xff", "tag:\xff": b"\xff"}
    )
    for name in ("a.png", "a.jpg", "a.webp", "a.mkv", "a.mp4", "a.y4m", "a/"):
        write_media(f"{tmp_path}/{name}", waves(1), info)
    with Image.open(tmp_path / "a.jpg") as image:
        assert dict(image.getexif()) == {0x0112: 6}


def gama(value):
    return b"gAMA", struct.pack(">I", value)


def chrm(*values):
    return b"cHRM", struct.pack(">8I", *values)


ADOBE = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
BT709 = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
BT2020 = (31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600)
DISPLAY_P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
PNG_COLOURS = {
    "nothing": ([], (1, 13), set()),
    "sRGB": ([(b"sRGB", b"\0"), gama(100000)], (1, 13), set()),
    "cICP": ([(b"cICP", b"\x09\x10\0\1"), gama(45455)], (9, 16), {b"cICP", b"cHRM"}),
    "linear": ([gama(100000)], (1, 8), {b"cICP", b"gAMA", b"cHRM"}),
    "gamma 2.2": ([gama(45455)], (1, 13), set()),
    "gamma 2.2 of BT.709": ([gama(45455), chrm(*BT709)], (1, 13), set()),
    "gamma 2.8": ([gama(35714)], (1, 5), {b"cICP", b"gAMA", b"cHRM"}),
    "BT.2020": ([chrm(*BT2020)], (9, 13), {b"cICP", b"cHRM"}),
    "P3": ([gama(45455), chrm(*DISPLAY_P3)], (12, 4), {b"cICP", b"gAMA", b"cHRM"}),
    "Adobe": ([gama(45470), chrm(*ADOBE)], (2, 4), {b"gAMA", b"cHRM"}),
    "gamma 1.8": ([gama(55556)], (1, 2), {b"gAMA"}),
    "no gamma": ([gama(0)], (1, 13), set()),
    "too short": ([(b"cICP", b"\x09"), (b"cHRM", b"")], None, None),
}


@pytest.mark.parametrize("case", PNG_COLOURS)
@pytest.mark.parametrize("depth", [8, 12])
def test_colours_of_png(tmp_path, case, depth):
    chunks, expected, written = PNG_COLOURS[case]
    png(tmp_path / "a.png", chunks)
    if expected is None:
        assert png_chunks.colours(png_chunks.read_colour_chunks(str(tmp_path / "a.png"))) == (1, 13, {})
        return
    info, _ = opened(tmp_path / "a.png")
    assert (info.primaries, info.transfer) == expected
    assert {"png:gAMA", "png:cHRM"} & info.metadata.keys() == (
        {"png:" + k.decode() for k, _ in chunks} if 2 in expected else set()
    )
    frame = waves(1)[0] if depth == 8 else waves(1)[0].astype(np.uint16) * 16
    write_media(tmp_path / "b.png", [frame], replace(info, bit_depth=depth))
    found = png_chunks.read_colour_chunks(str(tmp_path / "b.png"))
    assert found.keys() == written
    if b"cICP" not in found:
        assert all(found[kind] == body for kind, body in chunks if kind in found)
    again, _ = opened(tmp_path / "b.png")
    assert (again.primaries, again.transfer, again.metadata) == (info.primaries, info.transfer, info.metadata)
    for name in ("b.jpg", "b.y4m"):
        with open_sink(str(tmp_path / name), info) as sink:
            sink.write(waves(1)[0], 0)
            told = any(word in line for line in sink.warnings for word in ("colours", "gAMA", "HDR"))
            assert told == bool(written) and len(sink.warnings) == told


def test_colours_of_a_png_in_a_pipe(tmp_path, monkeypatch):
    png(tmp_path / "a.png", [gama(100000), (b"iTXt", b"Title" + bytes(5) + b"T")])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "a.png").read_bytes())))
    info, _ = opened("-")
    assert info.transfer == 8 and info.metadata == {"tag:Title": b"T"}


def test_hdr_metadata_of_png(tmp_path):
    display = struct.pack(">8H2I", 13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450, 10_000_000, 50)
    info = replace(STILL, primaries=9, transfer=16, metadata={"mdcv": display, "clli": struct.pack(">2H", 1000, 400)})
    write_media(tmp_path / "a.png", waves(1), info)
    data = (tmp_path / "a.png").read_bytes()
    assert b"mDCV" + struct.pack(">6H", 34000, 16000, 13250, 34500, 7500, 3000) in data  # red, green, blue
    assert b"cLLI" + struct.pack(">2I", 10_000_000, 4_000_000) in data
    assert opened(tmp_path / "a.png")[0].metadata == info.metadata


@pytest.mark.parametrize(
    ("mode", "space", "kept"), [("CMYK", b"CMYK", 0), ("L", b"GRAY", 0), ("L", b"RGB ", 1), ("RGB", b"GRAY", 0)]
)
def test_profiles_of_other_spaces_are_not_kept(tmp_path, mode, space, kept):
    picture = Image.fromarray(waves(1)[0]).convert(mode)
    picture.save(tmp_path / "a.jpg", icc_profile=other_profile(space), quality=95)
    info, [frame], _ = read_media(tmp_path / "a.jpg")
    assert ("icc" in info.metadata) == kept and mean_error(frame.rgb, picture.convert("RGB")) < 3
    assert ["ICC profile" in line for line in opened(tmp_path / "a.jpg")[1]] == [True] * (1 - kept)


WHITE = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_gray_profiles_are_used(tmp_path, mode):
    linear = icc_profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": WHITE, b"kTRC": b"curv" + bytes(8)})
    gray = np.arange(0, 256, 5, np.uint8)[None].repeat(8, 0)
    Image.fromarray(gray).convert(mode).save(tmp_path / "a.png", icc_profile=linear)
    info, [frame], _ = read_media(tmp_path / "a.png")
    light = gray / 255
    expected = 255 * np.where(light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(frame.rgb - expected[..., None]).max() < 1.5 and "icc" not in info.metadata
    assert opened(tmp_path / "a.png")[1] == [] and (info.primaries, info.transfer) == (1, 13)


def test_cmyk_profiles_are_used(tmp_path):
    """By one in which cyan is gray."""
    corners = b"".join(bytes((0 if n & 1 else 100 if n & 8 else 255, 128, 128)) for n in range(16))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    table += bytes(range(256)) * 4 + corners + bytes(range(256)) * 3
    profile = icc_profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": WHITE, b"A2B0": table})
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[4:, :, 0] = 255
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tiff", icc_profile=profile)
    _, [frame], _ = read_media(tmp_path / "a.tiff")
    assert frame.rgb[:4].min() > 250 and opened(tmp_path / "a.tiff")[1] == []
    assert np.ptp(frame.rgb[4:]) < 3 and abs(int(frame.rgb[5, 5, 0]) - 93) < 3  # L* of 100 / 2.55


def test_pictures_beside_the_first_are_no_animation(tmp_path):
    """As in photographs of many telephones, and TIFFs of several pages."""
    for name, format in (("a.jpg", "MPO"), ("a.tiff", "TIFF")):
        first, second = [Image.fromarray(frame) for frame in waves(2)]
        first.save(tmp_path / name, format, save_all=True, append_images=[second])
        info, [frame], _ = read_media(tmp_path / name)
        assert info.image and mean_error(frame.rgb, first) < 6
        assert opened(tmp_path / name)[1] == [f"{tmp_path / name}: of 2 pictures all but the first are left out"]


def test_pictures_in_lab_are_converted(tmp_path):
    picture = Image.fromarray(waves(1)[0])
    lab = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    lab.save(tmp_path / "a.tiff")
    info, [frame], _ = read_media(tmp_path / "a.tiff")
    assert mean_error(frame.rgb, picture) < 4 and (info.primaries, info.transfer) == (1, 13)


def test_loop_counts_tell_how_often_an_animation_is_shown(tmp_path):
    first, *rest = [Image.fromarray(frame) for frame in waves(3)]
    for name, loop, expected in [
        ("a.gif", {"loop": 0}, b"0"), ("b.gif", {"loop": 2}, b"3"), ("c.gif", {}, b"1"),
        ("a.png", {"loop": 2}, b"2"), ("a.webp", {"loop": 2}, b"2"), ("b.webp", {}, b"0"),
    ]:  # fmt: skip
        first.save(tmp_path / name, save_all=True, append_images=rest, duration=40, **loop)
        assert opened(tmp_path / name)[0].metadata == {"loop": expected}, name
    for name in ("still.webp", "still.gif", "still.apng"):
        first.save(tmp_path / name, "PNG" if name.endswith("apng") else None)
        info = opened(tmp_path / name)[0]
        assert info.image and info.metadata == {}, name


def test_an_image_is_known_by_its_content(tmp_path):
    for name in ("photo", "a.jfif", "a.tmp"):
        picture = Image.fromarray(waves(1)[0])
        picture.save(tmp_path / name, "JPEG", icc_profile=SRGB, exif=tiff.PREFIX + exif_bytes(6))
        info = opened(tmp_path / name)[0]
        assert info.image and info.rotation == 90 and info.metadata.keys() == {"icc", "exif"}, name


def test_a_folder_keeps_the_profile_only(tmp_path):
    (tmp_path / "in").mkdir()
    for i, profile in enumerate((SRGB, SRGB, None)):
        picture = Image.fromarray(waves(1)[0])
        picture.save(tmp_path / "in" / f"{i}.png", icc_profile=profile, exif=tiff.PREFIX + exif_bytes(6))
    with open_source(str(tmp_path / "in")) as source:
        assert source.info.metadata == {"icc": SRGB} and source.info.height == 48 and len(source.warnings) == 1
        assert len(list(source)) == 3
        assert "EXIF" in source.warnings[0] and "2.png: its ICC profile" in source.warnings[1]


def test_what_is_too_large_is_left_out(tmp_path):
    Image.fromarray(waves(1)[0]).save(tmp_path / "a.webp", xmp=bytes(16_000_000), lossless=True)
    info, warnings = opened(tmp_path / "a.webp")
    assert info.metadata == {} and warnings == ["the metadata is left out: it has more than 16 MB, or 10000 items"]
    metadata = {"exif": exif_bytes(1, bytes(70_000)), "xmp": bytes(65_505), "tag:comment": bytes(65_534), "icc": SRGB}
    for name, lost in [
        ("a.jpg", "EXIF, XMP and comment"),
        ("a.webp", "comment"),
        ("a.y4m", "EXIF, XMP, ICC profile and comment"),
    ]:
        with open_sink(str(tmp_path / name), replace(STILL, metadata=metadata)) as sink:
            sink.write(waves(1)[0], 0)
            assert sink.warnings == [f"metadata left out, which this output cannot hold: {lost}"]
    metadata = {"exif": exif_bytes(1, bytes(65_300)), "xmp": bytes(65_504), "tag:comment": bytes(65_533)}
    assert len(metadata["exif"]) in range(65_300, 65_527)
    write_media(tmp_path / "b.jpg", waves(1), replace(STILL, metadata=metadata | {"icc": SRGB + bytes(100_000)}))
    with Image.open(tmp_path / "b.jpg") as image:
        assert {"exif", "xmp", "comment", "icc_profile"} <= image.info.keys()
    write_media(tmp_path / "c.png", waves(1), replace(STILL, metadata={"png:IDAT": b"x", "png:gAMA": b"", "clli": b""}))
    assert opened(tmp_path / "c.png")[0].metadata == {}
    names = {f"tag:{name}": b"x" for name in ("a", "b", "\n", "Ω", "x" * 80, " y", "d")}
    with open_sink(str(tmp_path / "a.png"), replace(STILL, metadata=names)) as sink:
        sink.write(waves(1)[0], 0)
        assert len(sink.warnings) == 1 and sink.warnings[0].isprintable()
    assert opened(tmp_path / "a.png")[0].metadata == {f"tag:{name}": b"x" for name in "abd"}
