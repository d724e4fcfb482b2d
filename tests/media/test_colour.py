"""Matrices of YUV: those that files name, and the one that is assumed."""

from dataclasses import replace

import av
import pytest

from bsqcodec.media import colour
from helpers import CLIP, mean_error, read_media, waves, write_media


@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9])
def test_matrix_is_honoured(tmp_path, matrix):
    """What FFmpeg itself makes of the file by its tags is the picture."""
    frames = waves(1, 47, 33)  # 4:4:4, where the colours come back almost exactly
    write_media(tmp_path / "a.mkv", frames, replace(CLIP, matrix=matrix, color_range=1), crf=1)
    with av.open(str(tmp_path / "a.mkv")) as file:
        frame = next(file.decode(video=0))
    assert frame.colorspace == matrix
    assert mean_error(colour.to_rgb(frame, matrix), frames[0]) < 2
    assert mean_error(read_media(tmp_path / "a.mkv")[1][0].rgb, frames[0]) < 2


def test_untagged_video_is_taken_as_players_do(tmp_path):
    assert colour.assumed_matrix(720, 576) == 6 and colour.assumed_matrix(1280, 720) == 1
    frames = waves(1)
    write_media(tmp_path / "a.y4m", frames)
    with av.open(str(tmp_path / "a.y4m")) as file:
        frame = next(file.decode(video=0))
    assert frame.format.name == "yuv444p" and mean_error(colour.to_rgb(frame, 6), frames[0]) < 1
