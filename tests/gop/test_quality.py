"""The qualities of frames, by the one that is asked for."""

import pytest

from bsqcodec.gop.quality import B_LEVEL_OFFSET, P_OFFSETS, P_OFFSETS_AMONG_B, FrameQualities
from bsqcodec.stream.group import Place, mini_gop


def anchors(qualities, quality, lengths):
    """The qualities of a group's anchors behind the first, each behind so many frames."""
    assert qualities.choose(quality, Place(0, 0), False) == quality
    first, found = 0, []
    for frames in lengths:
        qualities.begin(frames)
        found.append(qualities.choose(quality, next(mini_gop(first, first + frames)), True))
        first += frames
    return found


def test_p_frames_lose_quality_in_turn_and_less_of_a_low_one():
    assert anchors(FrameQualities(True), 60, [1] * 9) == [60 - offset for offset in (*P_OFFSETS, P_OFFSETS[0])]
    assert anchors(FrameQualities(True), 15, [1] * 8) == [15 - offset // 2 for offset in P_OFFSETS]
    assert anchors(FrameQualities(True), 1, [1] * 8) == [1] * 8


def test_anchors_behind_many_frames_lose_nothing():
    less = 50 - P_OFFSETS_AMONG_B[0]
    assert anchors(FrameQualities(False), 50, [4, 4, 4, 8, 4, 16, 2, 2]) == [less, 50, less, 50, less, 50, less, 50]


@pytest.mark.parametrize("frames", [2, 4, 8, 16])
def test_b_frames_lose_by_level(frames):
    qualities = FrameQualities(False)
    anchors(qualities, 90, [frames])
    found = {}
    for place in mini_gop(0, frames):
        if place.after is not None:
            found.setdefault(place.level, set()).add(qualities.choose(90, place, True))
    offset = qualities.mini_gops[0].level_offset
    assert offset == B_LEVEL_OFFSET if frames <= 4 else offset < B_LEVEL_OFFSET
    anchor = 90 if frames >= 8 else 90 - P_OFFSETS_AMONG_B[0]
    assert found == {level: {anchor - level * offset} for level in range(1, frames.bit_length())}
