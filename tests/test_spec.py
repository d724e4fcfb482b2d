"""bitstream_spec.md: the annotated file in it is a real one, its notes are right, and it decodes to the frames it says.

After a change of the model or of the bits, `python tests/test_spec.py --write` makes the file and its notes anew.
"""

import hashlib
import io
import re
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
from skimage import data as skdata

import bsqcodec
from bsqcodec.gop.decoder import decode_symbols
from bsqcodec.settings import TUNES
from bsqcodec.stream.fields import Fields
from bsqcodec.stream.group import GROUP_HEADER_BYTES, parse_group

SPEC = Path(__file__).parent.parent / "bitstream_spec.md"
SAID = re.compile(r"(\d+) frames of (\d+)x(\d+) in (\d+) bytes\. .*MD5 `([0-9a-f]{32})`")
FENCE = "```"


def annotated() -> bytes:
    """The bytes of the hex dump: lines of "offset  bytes  meaning" in the last code block."""
    data = b""
    for line in SPEC.read_text().split(FENCE)[-2].strip().splitlines():
        match = re.fullmatch(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} ?)+)(?:  .*)?", line)
        assert match, line
        assert int(match[1], 16) == len(data), line
        data += bytes.fromhex(match[2])
    return data


def example() -> bytes:
    """A file for the page: an I, a B and a P frame of 32x24 pixels that move."""
    file, whole = io.BytesIO(), skdata.astronaut()[::4, ::4]
    encoder = bsqcodec.Encoder(file, bsqcodec.MediaInfo(32, 24, frame_rate=Fraction(25)), quality=35)
    for i in range(3):
        encoder.write(np.ascontiguousarray(whole[10 + i :, 40 - i :][:24, :32]), i)
    encoder.close()
    return file.getvalue()


def facts(data: bytes) -> tuple[str, ...]:
    """Of a file, what SAID finds in the page."""
    decoder = bsqcodec.Decoder(io.BytesIO(data))
    frames = [frame.rgb.tobytes() for frame in decoder.frames()]
    numbers = len(frames), decoder.info.width, decoder.info.height, len(data)
    return *map(str, numbers), hashlib.md5(b"".join(frames)).hexdigest()


def dump(data: bytes) -> str:
    """The lines for a file such as `example` makes."""
    decoder = bsqcodec.Decoder(io.BytesIO(data))
    info, group = decoder.info, next(iter(decoder.reader.chunks()))
    payload, n = group.payload, len(group.pts)
    headers = [h for h in parse_group(payload, n).headers if h.frame_type != "B"]
    mini, level_offset, _, more = payload[:GROUP_HEADER_BYTES]
    start, end = group.offset, decoder.reader.size
    fields = Fields(data[start + 1 : end])
    length = fields.varint()
    coded = len(payload) - GROUP_HEADER_BYTES - len(headers) * (1 + more)
    before = length - len(payload)  # bytes of the body

    parts = [
        (6, f"magic; version {data[4]}; {data[5]} bytes of fields"),
        (8, "model id"),
        (8, f"{info.bit_depth} bits, no alpha; {info.width}x{info.height}; time base {info.time_base}; "
            f"frame rate {info.frame_rate}/1"),
        (7, "aspect ratio unknown, no turn; primaries .. range unspecified"),
        (4, "crc of the header"),
        (1 + fields.at, f"G: group of pictures; {length} bytes of body"),
        (before, f"first frame {group.first}; {n} frames; first time {group.pts[0]}; {group.pts[1] - group.pts[0]} "
                 "from frame to frame"),
        (GROUP_HEADER_BYTES, f"M = {mini}, D = {level_offset}, tune {TUNES[parse_group(payload, n).tune]}, h = {more}"),
        (len(headers), "; ".join(f"frame {h.place.number}: {h.frame_type}, quality {h.quality}" for h in headers)),
        (coded, "range coder, bits of the frames in order of coding:"),
        (4, "crc of the chunk"),
        (4, f"E: end; {data[end + 1]} bytes of body; {data[end + 2]} frames; no index, for there is one G"),
        (8, "size of this chunk; crc of the chunk"),
    ]  # fmt: skip
    assert sum(size for size, _ in parts) == len(data)
    notes = {parts[-4][1]: [parts[-4][1]]}
    for s in decode_symbols(decoder.model, payload, info.height, info.width, n):
        side = "classes" if s.classes is not None else "vectors"
        notes[parts[-4][1]].append(
            f"{s.place.number}, {s.stats.frame_type} of quality {s.condition.quality}: "
            f"{side} {s.stats.side_bits:.1f}, coefficients {s.stats.bits:.1f}"
        )
    lines, at = [], 0
    for size, note in parts:
        words = notes.get(note, [note])
        for i in range(0, size, 16):
            word = words[i // 16] if i // 16 < len(words) else ""
            lines.append(f"{at:04x}  {data[at : at + min(16, size - i)].hex(' '):47}  {word}".rstrip())
            at += min(16, size - i)
    assert max(map(len, lines)) <= 120 and -(-coded // 16) > n
    return "\n".join(lines)


def test_the_annotated_file_decodes():
    data = annotated()
    assert len(data) < 300
    said = SAID.search(SPEC.read_text())
    assert said and said.groups() == facts(data)


def test_the_notes_are_right():
    assert SPEC.read_text().split(FENCE)[-2].strip() == dump(annotated())


def test_the_page_is_short():
    lines = SPEC.read_text().splitlines()
    assert len(lines) <= 290 and max(map(len, lines)) <= 120


def write() -> None:
    data = example()
    assert len(data) < 300, f"the file has {len(data)} bytes; lower its quality"
    text = SPEC.read_text()
    n, width, height, size, digest = facts(data)
    said = f"{n} frames of {width}x{height} in {size} bytes. The decoded frames have the MD5 `{digest}`"
    text, found = SAID.subn(said, text)
    assert found == 1
    head, _, tail = text.rpartition(FENCE)
    SPEC.write_text(f"{head.rpartition(FENCE)[0]}{FENCE}\n{dump(data)}\n{FENCE}{tail}")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
