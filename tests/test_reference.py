"""The second decoder, reference_decoder.py, gives the frames that the package gives."""

import hashlib
import io
import re
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from skimage import data as skdata
from test_spec import annotated

import bsqcodec
from bsqcodec.gop.decoder import decode_symbols
from bsqcodec.network.weights import load_model
from bsqcodec.settings import DEFAULT_MODEL
from bsqcodec.stream.container import Gop
from bsqcodec.stream.reader import StreamReader
from bsqcodec.types import Packet, Track, packed
from helpers import photo

REFERENCE, *PARTS = (Path(__file__).parent / f"reference_{name}.py" for name in ("decoder", "networks", "alpha"))
MODELS = Path(__file__).parent.parent / "models"


def reference(path: Path, *words: str) -> str:
    """Output of the second decoder, in a process of its own that knows nothing of the package."""
    run = subprocess.run([sys.executable, "-E", REFERENCE, path, *words], capture_output=True, text=True, timeout=300)
    return run.stdout + run.stderr


def check(data: bytes, folder: Path, *words: str) -> None:
    """Both decoders give a stream the same frames."""
    path = folder / "stream.bsq"
    path.write_bytes(data)
    frames = [packed(frame.rgb) for frame in bsqcodec.Decoder(io.BytesIO(data)).frames()]
    assert reference(path, *words) == hashlib.md5(b"".join(frames)).hexdigest() + "\n"


def test_it_needs_numpy_only():
    whole = "".join(path.read_text() for path in (REFERENCE, *PARTS))
    found = re.findall(r"^\s*(?:import|from) (\w+)", whole, re.MULTILINE)
    assert set(found) - sys.stdlib_module_names == {"numpy", *(path.stem for path in PARTS)}


def test_the_annotated_file(tmp_path):
    check(annotated(), tmp_path)


def test_a_photo(tmp_path):
    data = bsqcodec.encode_image(photo(73, 67, 60, 180), quality=60, tune="psnr")
    check(data, tmp_path, "--model", str(MODELS / f"{DEFAULT_MODEL}.safetensors"))


@pytest.mark.parametrize(("height", "width", "quality"), [(1, 1, 100), (7, 41, 1), (33, 3, 15)])
def test_a_picture_of_few_tokens(height, width, quality, tmp_path):
    check(bsqcodec.encode_image(photo(height, width, 100, 200), quality=quality), tmp_path)


def test_a_clip_with_b_frames_sound_and_chunks_that_nobody_knows(tmp_path):
    whole, file = skdata.astronaut(), io.BytesIO()
    info = bsqcodec.MediaInfo(
        33, 50, frame_rate=Fraction(25), tracks=(Track("opus", Fraction(1, 48000), 48000, "mono"),)
    )
    encoder = bsqcodec.Encoder(file, info, quality=45)  # where borders are smoothed
    for i in range(5):
        frame = whole[100 + 3 * i :, 200 - 2 * i :][:50, :33].copy()
        frame[5 + 5 * i : 15 + 5 * i, 10 + 2 * i : 22 + 2 * i] = whole[10:20, 10:22]  # moves otherwise
        encoder.write(frame, i)
    encoder.write_packet(Packet(0, 960, b"sound"))
    encoder.close()
    data = file.getvalue()
    reader = StreamReader(io.BytesIO(data))
    group = next(chunk for chunk in reader.chunks() if isinstance(chunk, Gop))
    symbols = list(decode_symbols(load_model(), group.payload, 50, 33, 5))
    assert {s.stats.frame_type for s in symbols} == set("IPB")
    assert {len(s.vectors) for s in symbols} == {0, 1, 2}
    chosen = [s for s in symbols if s.modes is not None and 0 < (s.modes > 0).mean() < 1]
    assert any(field.split.any() for s in chosen for field in s.vectors.values())
    chunk = b"x\x05what?"
    at = group.offset
    check(data[:at] + chunk + zlib.crc32(chunk).to_bytes(4, "little") + data[at:], tmp_path)


@pytest.mark.parametrize(("depth", "quality"), [(9, 100), (11, 20), (12, 45)])
def test_a_picture_of_more_than_8_bits(depth, quality, tmp_path):
    file = io.BytesIO()
    with bsqcodec.Encoder(file, bsqcodec.MediaInfo(37, 35, bit_depth=depth), quality=quality) as encoder:
        encoder.write(photo(35, 37, 60, 180))
    check(file.getvalue(), tmp_path)


def test_mini_gops_of_several_lengths(tmp_path):
    rng, still, file = np.random.default_rng(0), photo(33, 50, 100, 200), io.BytesIO()
    info = bsqcodec.MediaInfo(50, 33, frame_rate=Fraction(25), bit_depth=10)
    with bsqcodec.Encoder(file, info, quality=40) as encoder:
        for t in range(14):
            frame = still.copy()
            if t > 8:
                frame[:, 20:] = rng.integers(0, 256, (33, 30, 3))
            encoder.write(frame, t)
    data = file.getvalue()
    group = next(chunk for chunk in StreamReader(io.BytesIO(data)).chunks() if isinstance(chunk, Gop))
    assert group.payload[0] == 0
    check(data, tmp_path)


def test_damage_is_refused(tmp_path):
    path = tmp_path / "stream.bsq"
    good = annotated()
    for at, why in ((4, "version"), (10, "checksum"), (len(good) // 2, "checksum"), (len(good) - 1, "checksum")):
        path.write_bytes(good[:at] + bytes([good[at] ^ 64]) + good[at + 1 :])
        assert why in reference(path)


@pytest.mark.parametrize("depth", [8, 10])
def test_alpha(depth, tmp_path):
    """An edge, a slope, and a group that is opaque."""
    file, whole = io.BytesIO(), skdata.astronaut()
    info = bsqcodec.MediaInfo(33, 30, frame_rate=Fraction(25), alpha=True, bit_depth=depth)
    edge, slope = np.zeros((30, 33), np.uint8), np.broadcast_to(np.arange(0, 231, 7), (30, 33)).astype(np.uint8)
    edge[4:20, 5:22], edge[20, 5:22] = 255, 100
    planes = [edge, np.roll(edge, 1, 1), slope, slope, edge | 255, edge | 255]
    with bsqcodec.Encoder(file, info, quality=40, gop=2) as encoder:
        for t, plane in enumerate(planes):
            encoder.write(np.dstack([whole[100 + t :, 200:][:30, :33], plane]), t)
    data = file.getvalue()
    groups = [chunk for chunk in StreamReader(io.BytesIO(data)).chunks() if isinstance(chunk, Gop)]
    assert [group.alpha[:1] for group in groups] == [b"\2", b"\1", b""]
    check(data, tmp_path)
