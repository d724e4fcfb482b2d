"""How large the pixels of a picture are: from PNG, JPEG and EXIF, in a stream, into PNG and JPEG."""

import struct

import pytest
from PIL import Image

import bsqcodec.pillow
from bsqcodec import exif as tiff
from bsqcodec.media import open_source, png_chunks
from helpers import exit_status, waves


def saved(path, **options):
    Image.fromarray(waves(1)[0]).save(path, **options)


def jfif(path, unit, across, down):
    """A JPEG whose head tells of a density in this unit: 0 none, 1 inch, 2 cm."""
    saved(path)
    data = path.read_bytes()
    assert data[6:11] == b"JFIF\0"
    path.write_bytes(data[:13] + struct.pack(">B2H", unit, across, down) + data[18:])


def kept(path):
    with open_source(str(path)) as source:
        assert source.warnings == []
        return source.info.metadata.get("exif")


def phys(path):
    """The bodies of all chunks pHYs."""
    data = path.read_bytes()
    parts = data.split(b"\0\0\0\x09pHYs")
    return [struct.unpack(">2IB", part[:9]) for part in parts[1:]]


def coded(folder, source, target, *words):
    """Through a stream into `target`."""
    assert exit_status("encode", source, folder / "a.bsq", "-f", "--quiet", *words) == 0
    assert exit_status("decode", folder / "a.bsq", folder / target, "-f", "--quiet") == 0
    return folder / target


def test_of_pictures_through_streams(tmp_path, capsys):
    saved(tmp_path / "a.png", dpi=(300, 150))
    png = phys(tmp_path / "a.png")
    assert png == [(11811, 5906, 1)] and phys(coded(tmp_path, tmp_path / "a.png", "b.png")) == png
    with Image.open(coded(tmp_path, tmp_path / "a.png", "b.jpg")) as image:
        assert image.info["jfif_unit"] == 1 and image.info["jfif_density"] == (300, 150)
    assert phys(coded(tmp_path, tmp_path / "b.jpg", "c.png")) == png
    with Image.open(coded(tmp_path, tmp_path / "b.jpg", "c.jpg")) as image:
        assert image.info["jfif_density"] == (300, 150)
    with Image.open(coded(tmp_path, tmp_path / "b.jpg", "c.webp")) as image:
        assert (image.getexif()[0x011A], image.getexif()[0x011B], image.getexif()[0x0128]) == (300, 150, 2)
    assert phys(coded(tmp_path, tmp_path / "a.png", "d.png", "--strip")) == []
    gray = Image.fromarray(waves(1)[0]).convert("L").convert("I").point(lambda v: v * 257).convert("I;16")
    gray.save(tmp_path / "deep.png", dpi=(300, 300))
    assert phys(coded(tmp_path, tmp_path / "deep.png", "e.png")) == [(11811, 11811, 1)]
    gray.save(tmp_path / "deep.png")
    assert phys(coded(tmp_path, tmp_path / "deep.png", "e.png")) == []
    assert capsys.readouterr().err.count("\n") == 2  # of the bits that are not coded


@pytest.mark.parametrize(
    ("unit", "told", "expected", "chunk"),
    [
        (1, (72, 72), None, []),
        (0, (1, 1), None, []),
        (2, (118, 118), (118 * 2.54, 118 * 2.54, True), [(11800, 11800, 1)]),
        (1, (72, 36), (72, 36, True), [(2835, 1417, 1)]),
        (0, (4, 3), (4, 3, False), [(4, 3, 0)]),
        (1, (0, 0), None, []),
    ],
)
def test_units(tmp_path, unit, told, expected, chunk):
    jfif(tmp_path / "a.jpg", unit, *told)
    exif = kept(tmp_path / "a.jpg") or b""
    assert tiff.density(exif) == (expected and pytest.approx(expected)) and bool(exif) == bool(expected)
    assert [(kind, struct.unpack(">2IB", body)) for kind, body in chunks(exif)] == [(b"pHYs", c) for c in chunk]
    if chunk:  # the same is told by PNG
        picture = tmp_path / "b.png"
        saved(picture)
        picture.write_bytes(png_chunks.with_chunks(picture.read_bytes(), chunks(exif)))
        assert chunks(kept(picture)) == chunks(exif)


def chunks(exif):
    with_exif = png_chunks.chunks_of(bsqcodec.MediaInfo(48, 32, primaries=1, transfer=13), {"exif": exif})
    return [chunk for chunk in with_exif if chunk[0] == b"pHYs"]


@pytest.mark.parametrize("order", ["<", ">"])
def test_what_exif_tells_stays(tmp_path, order):
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F], exif[0x0131] = "Maker", "Software"
    plain = exif.tobytes().removeprefix(tiff.PREFIX)
    more = tiff.with_density(plain, 299.9994, 200.5)
    found = Image.Exif()
    found.load(more)
    assert dict(found) == {0x010F: "Maker", 0x011A: 300, 0x011B: 200.5, 0x0128: 2, 0x0131: "Software"}
    assert tiff.with_density(more, 1200, 1200) == more and tiff.density(more) == (300, 200.5, True)
    exif[0x011A], exif[0x011B], exif[0x0128] = 100.0, 100.0, 3
    assert tiff.density(exif.tobytes().removeprefix(tiff.PREFIX)) == (254, 254, True)
    saved(tmp_path / "a.jpg", exif=exif, dpi=(600, 600))
    assert tiff.density(kept(tmp_path / "a.jpg")) == (254, 254, True)
    for broken in (b"", b"nonsense", more[:-20], more[:20]):
        assert tiff.density(broken) is None
    for number in (float("nan"), float("inf"), -1, 0, 1e9):
        assert tiff.with_density(plain, number, 300) == plain
    assert tiff.with_density(b"", 72, 72) == b"" and tiff.with_density(b"", 2, 2, inch=False) == b""


def test_pillow(tmp_path):
    saved(tmp_path / "a.bsq", dpi=(300, 300))
    with Image.open(tmp_path / "a.bsq") as image:
        assert image.info["dpi"] == (300, 300) and image.getexif()[0x011A] == 300
    saved(tmp_path / "b.bsq")
    with Image.open(tmp_path / "b.bsq") as image:
        assert "dpi" not in image.info and "exif" not in image.info
