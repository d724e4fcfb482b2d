"""`decode --frames`: a part of a video begins at 0, with its own sound and chapters."""

from fractions import Fraction

import av
import pytest

import bsqcodec
from bsqcodec.network.saving import save_model
from helpers import moving, random_network, write_video

FRAMES = 12  # at 25 a second; sound of half a second


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("part")
    save_model(random_network(), folder / "tiny.safetensors")
    write_video(folder / "plain.mkv", moving(FRAMES, 32, 48), audio=True)
    with av.open(str(folder / "plain.mkv")) as source, av.open(str(folder / "clip.mkv"), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in source.streams}
        spans = [(0, 160, "one"), (160, 320, "two"), (320, 480, "three")]
        base = Fraction(1, 1000)
        out.set_chapters(
            [
                {"id": i, "start": a, "end": b, "time_base": base, "metadata": {"title": title}}
                for i, (a, b, title) in enumerate(spans, 1)
            ]
        )
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    bsqcodec.encode_file(
        str(folder / "clip.mkv"), str(folder / "clip.bsq"), gop=4, model=str(folder / "tiny.safetensors"), device="cpu"
    )
    return folder


def read(path):
    """Times of frames in seconds; of packets of sound their times and bytes; chapters."""
    with av.open(str(path)) as file:
        chapters = [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in file.chapters()]
        sound = [(float(p.pts * p.time_base), bytes(p)) for p in file.demux(audio=0) if p.size]
    with av.open(str(path)) as file:
        return [frame.time for frame in file.decode(video=0)], sound, chapters


@pytest.mark.parametrize(("start", "stop"), [(5, 9), (4, None), (0, 6), (8, 12)])
def test_a_part_begins_at_0_with_its_own_sound(coded, tmp_path, start, stop):
    model = str(coded / "tiny.safetensors")
    bsqcodec.decode_file(str(coded / "clip.bsq"), str(tmp_path / "whole.mkv"), model=model, device="cpu")
    bsqcodec.decode_file(str(coded / "clip.bsq"), str(tmp_path / "a.mkv"), (start, stop), model=model, device="cpu")
    times, sound, chapters = read(tmp_path / "a.mkv")
    all_times, all_sound, _ = read(tmp_path / "whole.mkv")
    origin, end = all_times[start], (stop or FRAMES) / 25
    assert times == pytest.approx([time - origin for time in all_times[start:stop]], abs=0.0011)
    # what was begun before may be heard or not
    sound = [(t, data) for t, data in sound if t >= 0]
    wanted = [(t - origin, data) for t, data in all_sound if t >= origin and (stop is None or t < end - 0.001)]
    assert len(sound) >= 4 and [data for _, data in sound] == [data for _, data in wanted]
    assert [t for t, _ in sound] == pytest.approx([t for t, _ in wanted], abs=0.0021)
    titles = {(5, 9): ["two", "three"], (4, None): ["two", "three"], (0, 6): ["one", "two"], (8, 12): ["three"]}
    assert [metadata["title"] for *_, metadata in chapters] == titles[start, stop]
    assert chapters[0][0] == 0 and float(chapters[-1][1]) <= end - origin + 0.001
