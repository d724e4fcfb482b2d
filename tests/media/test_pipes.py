"""y4m through standard input and output, pipes and devices."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from bsqcodec.errors import BsqError
from bsqcodec.media import open_sink, open_source
from bsqcodec.types import MediaInfo
from helpers import CLIP, Pipe, mean_error, read_media, same_pictures, waves, write_media


def test_y4m_through_pipes(tmp_path):
    """Standard input to standard output in a process of its own, and what it says of a stream that is cut off."""
    frames = waves(5, 47, 33)
    write_media(tmp_path / "a.y4m", frames, replace(CLIP, sample_aspect_ratio=(4, 3), frame_rate=Fraction(30000, 1001)))
    code = """if True:
        from bsqcodec.errors import BsqError
        from bsqcodec.media import open_sink, open_source
        try:
            with open_source("-") as source, open_sink("-", source.info) as sink:
                for frame in source:
                    sink.write(*frame)
        except BsqError as error:
            raise SystemExit(str(error))
    """
    data = (tmp_path / "a.y4m").read_bytes()
    result = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True)
    assert result.returncode == 0, result.stderr
    (tmp_path / "b.y4m").write_bytes(result.stdout)
    info, found, _ = read_media(tmp_path / "b.y4m")
    assert (info.frame_rate, info.sample_aspect_ratio) == (Fraction(30000, 1001), (4, 3)) and len(found) == 5
    assert all(mean_error(f.rgb, g) < 1.5 for f, g in zip(found, frames, strict=True))
    result = subprocess.run([sys.executable, "-c", code], input=data[:-100], capture_output=True, text=False)
    assert result.returncode == 1 and b"standard input is cut off at frame 4" in result.stderr
    assert result.stdout.count(b"FRAME\n") == 4


def test_closed_pipe(monkeypatch):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe))
        with pytest.raises(BrokenPipeError), open_sink("-", CLIP) as sink:
            sink.write(waves(1)[0], 0)


def test_standard_input_may_be_anything_with_a_buffer(monkeypatch, tmp_path):
    write_media(tmp_path / "a.y4m", waves(5))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "a.y4m").read_bytes())))
    assert len(read_media("-", start=0.08)[1]) == 3
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"nothing of that kind")))
    with pytest.raises(BsqError, match="standard input, which is not y4m, is broken or not an image"):
        open_source("-")
    for nothing, match in ((b"", "is empty"), (b"YUV4MPEG2 W48\n", "is not a y4m stream")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(nothing)))
        with pytest.raises(BsqError, match=f"standard input {match}"):
            open_source("-")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "ppm", "pgm", "tiff", "bmp", "avif", "gif", "apng"])
def test_images_on_standard_input(monkeypatch, tmp_path, suffix):
    """The same as from a file whose name tells the format; those that can be animated are, with their times."""
    file = tmp_path / f"a.{suffix}"
    images = [Image.fromarray(frame) for frame in waves(3)]
    more = {"save_all": True, "append_images": images[1:], "duration": [40, 90, 200]}
    many = suffix in ("gif", "apng", "webp")
    first = images[0].convert("L") if suffix == "pgm" else images[0]
    first.save(file, "PNG" if suffix == "apng" else None, **more if many else {})
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Pipe(file.read_bytes(), 7))))
    (info, frames, _), (same, expected, _) = read_media("-"), read_media(file)
    assert info == same and info.image != many
    assert [f.pts for f in frames] == [f.pts for f in expected] == ([0, 40, 130] if many else [0])
    assert same_pictures([f.rgb for f in frames], [f.rgb for f in expected])


def test_images_that_standard_input_cannot_give(monkeypatch, tmp_path):
    Image.fromarray(waves(1)[0]).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for content, match in ((data[:-200], "standard input is broken"), (data + bytes(9000), "no more than 8000 bytes")):
        monkeypatch.setattr("bsqcodec.media._MAX_PIPED", 8000)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        with pytest.raises(BsqError, match=match):
            open_source("-")


def test_a_still_image_on_standard_output_is_a_png(monkeypatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out))
    picture = waves(1)[0]
    with open_sink("-", MediaInfo(48, 32)) as sink:
        sink.write(picture, 0)
    assert out.getvalue().startswith(b"\x89PNG") and same_pictures([np.asarray(Image.open(out))], [picture])


def test_special_files_are_written_in_place(tmp_path):
    write_media("/dev/null", waves(2))
    assert not os.path.isfile("/dev/null")
    os.mkfifo(tmp_path / "a.y4m")
    with subprocess.Popen(["cat", str(tmp_path / "a.y4m")], stdout=subprocess.PIPE) as reader:
        write_media(tmp_path / "a.y4m", waves(2))
        assert reader.communicate()[0].startswith(b"YUV4MPEG2 W48 H32 F25:1 ")
    os.symlink(tmp_path / "a.y4m", tmp_path / "a.mp4")
    with pytest.raises(BsqError, match="pipe"):
        write_media(tmp_path / "a.mp4", waves(2))
