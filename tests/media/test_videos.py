"""Videos and their sound, written and read again."""

import os
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from bsqcodec.errors import BsqError
from bsqcodec.media import colour, open_source
from helpers import CLIP, mean_error, read_media, sound, waves, write_media


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("size", [(48, 32), (47, 33)])
def test_video_round_trip(tmp_path, suffix, size):
    frames = waves(6, *size)
    write_media(tmp_path / f"a.{suffix}", frames)
    info, found, _ = read_media(tmp_path / f"a.{suffix}")
    assert (info.width, info.height, info.image, info.tracks) == (*size, False, ())
    assert info.frame_rate == 25 and (info.primaries, info.transfer, info.matrix, info.color_range) == (1, 1, 1, 1)
    assert [f.pts * info.time_base for f in found] == [Fraction(i, 25) for i in range(6)]
    assert mean_error(np.stack([f.rgb for f in found]), np.stack(frames)) < 3
    assert os.listdir(tmp_path) == [f"a.{suffix}"]
    with av.open(str(tmp_path / f"a.{suffix}")) as file:
        assert file.streams.video[0].pix_fmt == ("yuv420p" if size == (48, 32) else "yuv444p")
    with open_source(str(tmp_path / f"a.{suffix}")) as source:
        assert source.total == 6 and not source.warnings


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_times_shape_rotation_and_colours_are_kept(tmp_path, suffix, rotation):
    tags = dict(primaries=5, transfer=6, matrix=5, color_range=2)
    given = replace(CLIP, time_base=Fraction(1, 1000), sample_aspect_ratio=(4, 3), rotation=rotation, **tags)
    frames, times = waves(), [0, 40, 73, 130, 171, 500]
    write_media(tmp_path / f"a.{suffix}", frames, given, times)
    info, found, _ = read_media(tmp_path / f"a.{suffix}")
    assert [f.pts * info.time_base for f in found] == [Fraction(t, 1000) for t in times]
    assert (info.sample_aspect_ratio, info.rotation) == ((4, 3), rotation)
    assert (info.primaries, info.transfer, info.color_range) == (5, 6, 2) and info.matrix in (5, 6)
    assert mean_error(found[0].rgb, frames[0]) < 3


def test_mirrored_video_is_turned_over(tmp_path):
    [picture] = waves(1)
    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        stream = output.add_stream("libx264", 25, width=48, height=32)
        stream.set_display_rotation(-90, hflip=True)
        output.mux(stream.encode(colour.to_yuv(picture, "yuv420p")) + stream.encode(None))
    info, [frame], _ = read_media(tmp_path / "a.mp4")
    assert info.rotation in (90, 270)
    shown = np.rot90(frame.rgb, -info.rotation // 90)
    assert mean_error(shown, np.rot90(picture, -1)[:, ::-1]) < 8


@pytest.mark.parametrize(
    ("codec", "container", "outputs"),
    [
        ("aac", "mp4", "mp4 mkv mov"),
        ("libmp3lame", "mp4", "mp4 mkv mov"),
        ("libopus", "mp4", "mp4 mkv"),
        ("vorbis", "matroska", "mp4 mkv"),
        ("flac", "matroska", "mp4 mkv"),
        ("pcm_s16le", "mov", "mp4 mkv mov"),
        ("ac3", "mp4", "mp4 mkv mov"),
    ],
)
def test_audio_is_copied_bit_for_bit(tmp_path, codec, container, outputs):
    track, packets = sound(codec, container)
    for suffix in outputs.split():
        path = tmp_path / f"a.{suffix}"
        write_media(path, waves(12), replace(CLIP, tracks=(track,)), audio=packets)
        info, frames, found = read_media(path)
        assert len(frames) == 12 and info.tracks
        assert [p.data for p in found] == [p.data for p in packets]
        assert (info.tracks[0].codec, info.tracks[0].sample_rate, info.tracks[0].layout) == (
            track.codec,
            48000,
            "stereo",
        )
        assert info.tracks[0].extradata == track.extradata
        late = [b.pts * info.tracks[0].time_base - a.pts * track.time_base for a, b in zip(packets, found, strict=True)]
        assert max(map(abs, late)) <= Fraction(1, 1000)
        with av.open(str(path)) as file:
            assert abs(sum(f.samples for f in file.decode(audio=0)) - 24000) < 3000
        assert read_media(path, audio=False)[0].tracks == ()
    refused = {"mp4", "mkv", "mov"} - set(outputs.split())
    for suffix in refused:
        with pytest.raises(BsqError, match=r"cannot hold .* audio .*; try .*\.mkv"):
            write_media(tmp_path / f"b.{suffix}", waves(1), replace(CLIP, tracks=(track,)))
        assert not list(tmp_path.glob("*b.*"))


def test_cut(tmp_path):
    """Frames and audio are cut to the same second and moved together."""
    track, packets = sound(seconds=2)
    frames = waves(50)
    write_media(tmp_path / "a.mp4", frames, replace(CLIP, tracks=(track,)), audio=packets)
    info, found, audio = read_media(tmp_path / "a.mp4", start=0.6, duration=1)
    assert [f.pts * info.time_base for f in found] == [Fraction(i, 25) for i in range(25)]
    assert mean_error(found[0].rgb, frames[15]) < 3
    times = [p.pts * track.time_base for p in audio]
    assert -Fraction(1024, 48000) < times[0] <= 0 and 1 - Fraction(1024, 48000) <= times[-1] < 1
    first = next(i for i, p in enumerate(packets) if p.data == audio[0].data)
    assert packets[first].pts * track.time_base - times[0] == Fraction(3, 5)
    assert len(read_media(tmp_path / "a.mp4", start=1.9)[1]) == 2
    with pytest.raises(BsqError, match="no frame in the time"):
        open_source(str(tmp_path / "a.mp4"), start=5)
