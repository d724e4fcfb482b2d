"""bitstream_spec.md: the annotated file in it is a real one, and decodes to the frames it says."""

import hashlib
import io
import re
from pathlib import Path

import bsqcodec

SPEC = Path(__file__).parent.parent / "bitstream_spec.md"


def annotated() -> bytes:
    """The bytes of the hex dump: lines of "offset  bytes  meaning" in the last code block."""
    block = SPEC.read_text().split("```")[-2]
    data = b""
    for line in block.strip().splitlines():
        match = re.fullmatch(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} ?)+)(?:  .*)?", line)
        assert match, line
        assert int(match[1], 16) == len(data), line
        data += bytes.fromhex(match[2])
    return data


def test_the_annotated_file_decodes():
    data = annotated()
    assert len(data) < 300
    decoder = bsqcodec.Decoder(io.BytesIO(data))
    frames = list(decoder.frames())
    digest = hashlib.md5(b"".join(f.rgb.tobytes() for f in frames)).hexdigest()
    said = re.search(r"(\d+) frames of (\d+)x(\d+) .* MD5 `([0-9a-f]{32})`", SPEC.read_text())
    assert said and said.groups() == (str(len(frames)), str(decoder.info.width), str(decoder.info.height), digest)
