"""The benchmark of speed: what it measures is there and adds up; how long things take is nobody's promise."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from bsqcodec.bench import clock, speed, speed_jobs
from helpers import exit_status


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    words = ["bench", "--speed", "--sizes", "64x48", "--frames", 2, "--repeats", 1, "--threads", 1, "--out", folder]
    measure = speed._measure

    def measure_peers_here(job):
        """In this process, which need not begin first; our codec in its own, for a clock cannot be taken off."""
        if job.measure != "anchor":
            return measure(job)
        return json.loads(json.dumps(speed_jobs.anchor(speed.Job(**json.loads(json.dumps(asdict(job)))))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "KODAK_SIZE", (96, 64))
        patch.setattr(speed, "_measure", measure_peers_here)
        patch.setenv("SVT_LOG", "1")
        assert exit_status(*words) == 0
    return json.loads((folder / "speed.json").read_text())


def test_parts_make_up_the_whole(result):
    assert [(x["size"], x["frames"], x["threads"]) for x in result["ours"]] == [([96, 64], 1, 1), ([64, 48], 2, 1)]
    for entry in result["ours"]:
        assert entry["bytes"] > 0 and entry["load"] > 0
        width, height = entry["size"]
        for what, wanted in (("encode", {"read"}), ("decode", {"write"})):
            parts = entry["parts"][what]
            assert {"tokenizer", "prior", "range coder"} | wanted <= set(parts) <= set(clock.PARTS)
            assert ("motion" in parts) == (entry["frames"] > 1)
            assert all(seconds > 0 for seconds in parts.values()) and sum(parts.values()) <= entry[what]
            alone = entry[what] - parts.get("read", 0) - parts.get("write", 0)
            assert entry[f"{what} a megapixel"] == pytest.approx(alone / (width * height / 1e6))
            assert entry[f"{what} peak MiB"] > 50


def test_peers_are_told_as_ratios_or_why_not(result):
    peers = {x["codec"]: x for x in result["peers"]}
    assert {"webp", "h264"} <= set(peers)
    for entry in peers.values():
        ours = next(x for x in result["ours"] if x["size"] == entry["size"])
        for what in ("encode", "decode"):
            assert entry[f"{what} / ours"] == pytest.approx(entry[what] / ours[what])
    known = {"webp", "avif", "h264", "hevc", "av1", *speed.NEURAL_CODECS}
    assert all(
        name in peers or any(name in line or "CompressAI" in line for line in result["problems"]) for name in known
    )


def test_the_machine_the_command_and_whole_processes_are_told(result):
    assert result["meta"]["command"] == "bsqcodec bench --speed --sizes 64x48 --repeats 1 --frames 2 --threads 1"
    assert "core" in result["meta"]["machine"] and result["meta"]["torch"]
    assert 0 < result["process"]["help"] < result["process"]["decode"]
    assert "whole process" in speed.table(result)


def test_growth_compares_videos_of_as_many_frames():
    entry = {"size": (10, 20), "frames": 2, "threads": 1, "encode a megapixel": 3.0}
    ours = [entry | {"frames": 1, "encode a megapixel": 9.0}, entry, entry | {"threads": 2},
            entry | {"size": (20, 20), "encode a megapixel": 2.0}]  # fmt: skip
    line = speed.growth({"ours": ours}, "encode", 1)
    assert line == "encode, 1 thr., s/megapixel: 10x20 3.000, 20x20 2.000: +-20 %"


def test_time_inside_another_part_counts_once(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(clock.time, "perf_counter", lambda: float(next(now)))
    parts = clock.Clock()
    with parts.part("prior"), parts.part("range coder"):  # from 0 to 3 and from 1 to 2
        pass
    assert parts.seconds == {"prior": 2.0, "range coder": 1.0}


def test_pictures_of_a_file_are_scaled_and_repeated(tmp_path):
    Image.fromarray(np.full((20, 30, 3), 77, np.uint8)).save(tmp_path / "x.png")
    frames = speed.pictures(str(tmp_path / "x.png"), 16, 8, 3)
    assert len(frames) == 3 and all(f.shape == (8, 16, 3) and (f == 77).all() for f in frames)
    a, b = speed.pictures("", 64, 48, 2)
    assert a.shape == (48, 64, 3) and (a != b).any()


def test_bad_input_is_one_line(tmp_path, capsys):
    assert exit_status("bench", "--speed", "--dataset", tmp_path / "none.mkv") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert exit_status("bench", "--speed", "--sizes", "12") == 2
    assert exit_status("bench") == 2
