"""What images carry that is not kept is told in one line."""

import io
import struct

import pytest
from PIL import Image, TiffImagePlugin

from bsqcodec.media import open_source, png_chunks
from helpers import waves


def jpeg(*segments):
    """A JPEG with these segments, marker and body each."""
    file = io.BytesIO()
    Image.fromarray(waves(1)[0]).save(file, "JPEG")
    data = file.getvalue()
    more = b"".join(bytes((0xFF, kind)) + struct.pack(">H", 2 + len(body)) + body for kind, body in segments)
    return data[:20] + more + data[20:]


def png(*chunks):
    file = io.BytesIO()
    Image.fromarray(waves(1)[0]).save(file, "PNG")
    return png_chunks.with_chunks(file.getvalue(), chunks)


def tiff(tags):
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory.tagtype[tag] = 7
        directory[tag] = value
    file = io.BytesIO()
    Image.fromarray(waves(1)[0]).save(file, "TIFF", tiffinfo=directory)
    return file.getvalue()


def resource(number):
    """A segment of Photoshop with one resource."""
    return 0xED, b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">H2xI", number, 4) + b"data"


COMMENT = 0xFE, b"a comment"
EXTENDED = 0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40)
IMAGES = {
    "plain.jpg": (jpeg(COMMENT), ""),
    "adobe.jpg": (jpeg((0xEE, b"Adobe\0" + bytes((100, 0, 0, 0, 0, 1))), (0xEC, b"Ducky")), ""),
    "iptc.jpg": (jpeg(resource(0x0404)), "IPTC"),
    "photoshop.jpg": (jpeg(resource(0x0425)), "data of Photoshop"),
    "xmp.jpg": (jpeg(EXTENDED, EXTENDED), "extended XMP"),
    "comments.jpg": (jpeg(COMMENT, COMMENT), "all comments but the last"),
    "several.jpg": (jpeg(resource(0x0404), (0xEB, b"JP\0\0")), "IPTC, segment APP11"),
    "plain.png": (png((b"tEXt", b"Title\0a"), (b"iTXt", b"Author" + bytes(5) + b"b"), (b"iDOT", bytes(4))), ""),
    "texts.png": (
        png((b"tEXt", b"Title\0a"), (b"iTXt", b"Title" + bytes(5) + b"b")),
        "texts of one keyword but the last",
    ),
    "chunks.png": (png((b"tIME", bytes(7)), (b"bKGD", bytes(6))), "background colour, time of change"),
    "plain.tiff": (tiff({}), ""),
    "data.tiff": (tiff({33723: b"data", 34377: b"8BIM"}), "IPTC, data of Photoshop"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_not_kept_is_told(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(IMAGES[name][0])
    lost = [f"{path}: left out, which is not kept: {IMAGES[name][1]}"] if IMAGES[name][1] else []
    with open_source(str(path)) as source:
        assert source.warnings == lost
    with open_source(str(path), strip=True) as source:
        assert source.warnings == []
