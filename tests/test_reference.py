"""The second decoder, reference_decoder.py, gives the frames that the package gives."""

import hashlib
import io
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
from skimage import data as skdata
from test_spec import annotated

import bsqcodec
from bsqcodec.info import AudioPacket, AudioTrack

REFERENCE = Path(__file__).parent / "reference_decoder.py"
MODELS = Path(__file__).parent.parent / "models"


def reference(path: Path, *words: str) -> str:
    """What the second decoder prints, in a process of its own that knows nothing of the package."""
    run = subprocess.run([sys.executable, "-I", REFERENCE, path, *words], capture_output=True, text=True, timeout=300)
    return run.stdout + run.stderr


def check(data: bytes, folder: Path, *words: str) -> None:
    path = folder / "stream.bsq"
    path.write_bytes(data)
    frames = [frame.rgb.tobytes() for frame in bsqcodec.Decoder(io.BytesIO(data)).frames()]
    assert reference(path, *words) == hashlib.md5(b"".join(frames)).hexdigest() + "\n"


def test_the_annotated_file(tmp_path):
    check(annotated(), tmp_path)


def test_a_photo(tmp_path):
    picture = np.ascontiguousarray(skdata.astronaut()[60:133, 180:247])  # 73 x 67
    check(bsqcodec.encode_image(picture, 60), tmp_path, "--model", str(MODELS / "bsq1.safetensors"))


def test_a_clip_with_b_frames_sound_and_chunks_that_nobody_knows(tmp_path):
    whole, file = skdata.astronaut(), io.BytesIO()
    info = bsqcodec.MediaInfo(
        50, 33, frame_rate=Fraction(25), audio=AudioTrack("opus", Fraction(1, 48000), 48000, "mono", b"")
    )
    encoder = bsqcodec.Encoder(file, info, quality=75, tune="psnr")
    for i in range(5):
        frame = whole[100 + 3 * i :, 200 - 2 * i :][:33, :50].copy()
        frame[5 + 2 * i : 15 + 2 * i, 10 + 6 * i : 22 + 6 * i] = whole[10:20, 10:22]  # moves otherwise
        encoder.write(frame, i)
    encoder.write_audio(AudioPacket(0, 960, b"sound"))
    encoder.close()
    data = file.getvalue()
    chunk = b"x\x05what?"
    at = data.index(b"G", 6 + data[5] + 4)  # the audio track has no such letter
    check(data[:at] + chunk + zlib.crc32(chunk).to_bytes(4, "little") + data[at:], tmp_path)


def test_damage_is_refused(tmp_path):
    path = tmp_path / "stream.bsq"
    good = annotated()
    for at, why in ((4, "version"), (10, "checksum"), (len(good) // 2, "checksum"), (len(good) - 1, "checksum")):
        path.write_bytes(good[:at] + bytes([good[at] ^ 64]) + good[at + 1 :])
        assert why in reference(path)
