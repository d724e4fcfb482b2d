"""y4m through standard input and output, pipes and devices."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import pytest

from bsqcodec.errors import BsqError
from bsqcodec.media import open_sink, open_source
from helpers import CLIP, mean_error, read_media, waves, write_media


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
    with pytest.raises(BsqError, match="standard input is not a y4m stream"):
        open_source("-")


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
