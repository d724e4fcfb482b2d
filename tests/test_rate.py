"""Finding a quality for a rate, and keeping to the rate."""

import pytest

from bsqcodec.file_encoder import encode_file
from bsqcodec.rate import RateControl, find_quality
from helpers import moving, write_video


@pytest.mark.parametrize("slope", [0.02, 0.06, 0.15])
@pytest.mark.parametrize("right", [1, 2, 37, 99, 100])
def test_the_highest_quality_that_fits_is_found(slope, right):
    tried = []

    def bits(quality):
        tried.append(quality)
        return 1000 * 2 ** (slope * quality)

    target = bits(right) * 1.001
    tried.clear()
    assert find_quality(bits, target, 20) == right
    assert len(tried) <= 8 and len(set(tried)) == len(tried)


def test_no_quality_fits():
    assert find_quality(lambda q: 1000.0 * q, 10.0, 8) == 1


def test_control_reaches_the_size():
    """A source of twice the expected rate, and rising: the average still comes near the target."""
    control = RateControl(60, 1000.0, frames=640)
    size = 0.0
    for group in range(20):
        size += 32 * 2000 * (1 + group / 20) * 2 ** (0.06 * (control.quality - 60)) / 8
        control.next(32 * (group + 1), int(size), 0)
    assert 8 * size / 640 == pytest.approx(1000, rel=0.1)


def test_sound_counts_only_if_it_is_to_be_included():
    """Of 1000 bits per frame, sound takes 400."""
    frames, pictures, audio = 32, 32 * 600 // 8, 32 * 400 // 8
    assert RateControl(60, 1000.0, 64, include_tracks=True).next(frames, pictures + audio, audio) == 60
    assert RateControl(60, 1000.0, 64).next(frames, pictures + audio, audio) > 60


def test_quality_changes_little_from_one_group_to_the_next():
    control = RateControl(50, 1000.0)
    assert control.next(32, 10**9, 0) == 40
    assert control.next(64, 2 * 10**9, 0) == 30


def test_a_short_video_with_sound_has_the_size_that_was_asked_for(tmp_path):
    write_video(tmp_path / "a.mkv", moving(6, 64, 96), audio=True)
    encode_file(f"{tmp_path}/a.mkv", f"{tmp_path}/a.bsq", quality=50)
    wanted = (tmp_path / "a.bsq").stat().st_size
    result = encode_file(f"{tmp_path}/a.mkv", f"{tmp_path}/b.bsq", size=wanted)
    assert abs(result.size / wanted - 1) < 0.15 and result.track_bytes > wanted / 8
