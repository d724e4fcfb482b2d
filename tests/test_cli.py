"""The command line on real files: round trips, what is kept, and what a user sees when something is wrong."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction

import av
import click
import numpy as np
import pytest
from PIL import Image
from skimage import data as skdata

import bsqcodec
from bsqcodec.media import open_source
from bsqcodec.settings import TUNES
from helpers import exit_status, moving, same_pictures, with_fields, write_video


def run(*words, code=0):
    """Run the command in this process; it must end with this exit status."""
    assert exit_status(*words) == code


def shell(*words, **options):
    """Run the command in a process of its own; returns the CompletedProcess."""
    command = [sys.executable, "-m", "bsqcodec", *map(str, words)]
    return subprocess.run(command, capture_output=True, timeout=600, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "clip.mp4", moving(7), audio=True)
    Image.fromarray(skdata.astronaut()[:101, 200:333]).save(folder / "photo.png")
    bsqcodec.encode_file(str(folder / "clip.mp4"), str(folder / "clip.bsq"), gop=3)
    return folder


def read(path):
    """Time in seconds and RGB of every frame of a video."""
    with av.open(str(path)) as container:
        return [(f.pts * f.time_base, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def test_image_round_trip_in_separate_processes(folder, tmp_path):
    a = shell("encode", folder / "photo.png", tmp_path / "a.bsq", "-q", 60, "--md5", "--threads", 1)
    b = shell("decode", tmp_path / "a.bsq", tmp_path / "a.png", "--md5", "--threads", 2)
    assert a.returncode == b.returncode == 0
    assert a.stdout.strip() == b.stdout.strip() and len(a.stdout.strip()) == 32
    decoded, original = np.asarray(Image.open(tmp_path / "a.png")), np.asarray(Image.open(folder / "photo.png"))
    assert decoded.shape == original.shape
    assert np.abs(decoded.astype(int) - original).mean() < 12
    assert b"bits per pixel" in a.stderr and a.stderr.count(b"\n") == 1


def test_bits_per_pixel_are_those_of_pictures(folder, tmp_path, capsys):
    run("encode", folder / "clip.mp4", tmp_path / "a.bsq", "--duration", 0.1, "--json")
    encoded = json.loads(capsys.readouterr().out)
    run("info", tmp_path / "a.bsq", "--json")
    shown = json.loads(capsys.readouterr().out)
    # heads of packets are counted with the pictures there
    assert shown["tracks"] and encoded["bits_per_pixel"] <= shown["bits_per_pixel"] < 1.2 * encoded["bits_per_pixel"]
    assert encoded["bits_per_pixel"] < 8 * encoded["bytes"] / (encoded["frames"] * shown["width"] * shown["height"])
    run("verify", tmp_path / "a.bsq", "--json")
    assert "bits_per_pixel" not in json.loads(capsys.readouterr().out)


def test_video_keeps_frames_times_and_audio(folder, tmp_path, capsys):
    run("encode", folder / "clip.mp4", tmp_path / "v.bsq", "--gop", 3, "--md5")
    run("decode", tmp_path / "v.bsq", tmp_path / "v.mkv", "--md5")
    first, second = capsys.readouterr().out.split()
    assert first == second
    before, after = read(folder / "clip.mp4"), read(tmp_path / "v.mkv")
    assert [float(t) for t, _ in after] == pytest.approx([float(t) for t, _ in before], abs=1e-3)
    with av.open(str(folder / "clip.mp4")) as x, av.open(str(tmp_path / "v.mkv")) as y:
        sound = [bytes(p) for p in x.demux(audio=0) if p.size]
        assert sound and sound == [bytes(p) for p in y.demux(audio=0) if p.size]


def test_variable_frame_rate_aspect_and_colour(tmp_path, capsys):
    pts = [0, 40, 90, 200, 210, 400]
    write_video(
        tmp_path / "in.mkv",
        moving(6, 35, 51),
        pts,
        sample_aspect_ratio=Fraction(4, 3),
        color_primaries=5,
        color_trc=6,
        colorspace=5,
    )
    run("encode", tmp_path / "in.mkv", tmp_path / "v.bsq")
    with open_source(str(tmp_path / "in.mkv")) as source:
        seconds = float(max(frame.pts + frame.duration for frame in source) * source.info.time_base)
    assert f", {8 * (tmp_path / 'v.bsq').stat().st_size / seconds / 1000:.0f} kbit/s" in capsys.readouterr().err
    run("decode", tmp_path / "v.bsq", tmp_path / "out.mkv", "--quiet")
    assert [round(float(t) * 1000) for t, _ in read(tmp_path / "out.mkv")] == pts
    with av.open(str(tmp_path / "in.mkv")) as x, av.open(str(tmp_path / "out.mkv")) as y:
        x, y = x.streams.video[0], y.streams.video[0]
        assert (x.width, x.height, x.sample_aspect_ratio) == (y.width, y.height, y.sample_aspect_ratio)
        for name in ("color_primaries", "color_trc", "colorspace"):
            assert getattr(x.codec_context, name) == getattr(y.codec_context, name) != 2


def test_range_of_frames_is_a_part_of_the_whole(folder, tmp_path):
    frames = [f.rgb for f in decoder(folder / "clip.bsq").frames()]
    assert len(frames) == 7
    for text, part in (("2:5", frames[2:5]), ("4:", frames[4:]), (":1", frames[:1]), ("6", frames[6:])):
        run("decode", folder / "clip.bsq", f"{tmp_path}/some/", "--frames", text, "--quiet")
        files = sorted((tmp_path / "some").iterdir())
        assert same_pictures([np.asarray(Image.open(f)) for f in files], part)
        for f in files:
            f.unlink()


def decoder(path):
    return bsqcodec.Decoder(io.BytesIO(path.read_bytes()))


def test_seeking_does_not_touch_other_groups(folder):
    data = bytearray((folder / "clip.bsq").read_bytes())
    index = decoder(folder / "clip.bsq").index()
    data[index[0].offset + 20] ^= 1
    frames = list(bsqcodec.Decoder(io.BytesIO(bytes(data))).frames(3, 5))
    assert len(frames) == 2
    with pytest.raises(bsqcodec.FormatError):
        list(bsqcodec.Decoder(io.BytesIO(bytes(data))).frames())


def test_pipes(folder):
    y4m = shell("decode", folder / "clip.bsq", "-", "--quiet").stdout
    assert y4m.startswith(b"YUV4MPEG2 W64 H48")
    coded = shell("encode", "-", "-", "--gop", 3, "--quiet", input=y4m)
    assert coded.returncode == 0, coded.stderr
    again = shell("decode", "-", "-", "--frames", "5:", "--quiet", input=coded.stdout)
    assert again.stdout.count(b"FRAME") == 2


def test_info_and_verify(folder, capsys):
    run("info", folder / "clip.bsq", "--json", "--bits")
    found = json.loads(capsys.readouterr().out)
    assert (found["width"], found["height"], found["frames"], found["gops"]) == (64, 48, 7, 3)
    assert found["i_frames"] >= 3 and found["tracks"][0]["codec"] == "aac" and found["duration"] == pytest.approx(0.28)
    assert found["bytes"] == (folder / "clip.bsq").stat().st_size and found["bits"]["I"] > 0
    assert (found["version"], found["bit_depth"], found["alpha"]) == (1, 8, False)
    run("info", folder / "clip.bsq")
    text = capsys.readouterr().out
    assert ".bsq version 1, " in text and "64x48, 8 bits a sample, no alpha" in text
    run("verify", folder / "clip.bsq")
    assert "7 frames" in capsys.readouterr().out
    run("info", "-", "--bits", code=1)
    assert "give a file" in capsys.readouterr().err


def test_tunes(folder, tmp_path, capsys):
    assert TUNES[0] == "perceptual" and TUNES == ("perceptual", "psnr")  # by which streams number them
    for source, gop, frames in (("clip.mp4", 3, 7), ("photo.png", 1, 1)):
        for name, chosen in (("default", ()), *((tune, ("--tune", tune)) for tune in TUNES)):
            words = ("-f", "--gop", gop, "--low-delay", "--quiet", *chosen)
            run("encode", folder / source, tmp_path / f"{name}.bsq", *words)
            tune = TUNES[0] if name == "default" else name
            run("info", tmp_path / f"{name}.bsq", "--json")
            assert json.loads(capsys.readouterr().out)["tune"] == {tune: frames}
            run("info", tmp_path / f"{name}.bsq")
            assert f"tune       {tune}\n" in capsys.readouterr().out
        default, perceptual, psnr = ((tmp_path / f"{n}.bsq").read_bytes() for n in ("default", *TUNES))
        assert default == perceptual != psnr


def test_tunes_of_the_library(folder, tmp_path):
    picture = skdata.astronaut()[:40, :50]
    coded = {tune: bsqcodec.encode_image(picture, quality=40, tune=tune) for tune in TUNES}
    assert coded["perceptual"] == bsqcodec.encode_image(picture, quality=40) != coded["psnr"]
    error = {t: np.square(bsqcodec.decode_image(data) - picture.astype(float)).mean() for t, data in coded.items()}
    size = {t: len(data) for t, data in coded.items()}
    assert error["psnr"] < error["perceptual"] or size["psnr"] < size["perceptual"]
    for bad in ("sharp", "", "PSNR"):
        with pytest.raises(ValueError, match=f"^tune '{bad}' is not one of perceptual, psnr$"):
            bsqcodec.encode_image(picture, tune=bad)
        with pytest.raises(ValueError, match="is not one of"):
            bsqcodec.encode_file(str(folder / "photo.png"), str(tmp_path / "x.bsq"), tune=bad)
    assert not list(tmp_path.iterdir())


def test_rate_targets(folder, tmp_path):
    run("encode", folder / "photo.png", tmp_path / "a.bsq", "--size", 1500, "--quiet")
    assert 1300 < (tmp_path / "a.bsq").stat().st_size <= 1500
    words = ("--bpp", 0.7, "--no-audio", "--quiet", "--gop", 2, "--low-delay")
    run("encode", folder / "clip.mp4", tmp_path / "v.bsq", *words)
    bits = 8 * (tmp_path / "v.bsq").stat().st_size / (7 * 48 * 64)
    assert 0.4 < bits < 1.1


def test_part_of_a_clip(folder, tmp_path):
    words = ("--start", 0.08, "--duration", 0.12, "--low-delay", "--quiet")
    run("encode", folder / "clip.mp4", tmp_path / "p.bsq", *words)
    assert len(list(decoder(tmp_path / "p.bsq").frames())) == 3


def test_api_in_memory():
    picture = skdata.astronaut()[:40, :50]
    data = bsqcodec.encode_image(picture, quality=80)
    assert bsqcodec.decode_image(data).shape == picture.shape
    assert len(bsqcodec.encode_image(picture, quality=20)) < len(data)


# ---------------------------------------------------------------- what is wrong


def fails(capsys, *words, match, code=1):
    """The command ends with this exit status and, for 1, with one line on standard error that contains `match`."""
    run(*words, code=code)
    err = capsys.readouterr().err
    assert match in err and "Traceback" not in err
    if code == 1:
        assert err.startswith("bsqcodec: ") and err.count("\n") == 1


def test_bad_inputs(folder, tmp_path, capsys):
    out = tmp_path / "o.bsq"
    (tmp_path / "noise.bsq").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    clip = (folder / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(clip[: len(clip) // 2])
    stream = (folder / "clip.bsq").read_bytes()
    (tmp_path / "newer.bsq").write_bytes(stream[:4] + b"\x09" + stream[5:])
    (tmp_path / "deep.bsq").write_bytes(with_fields(lambda numbers: [13, *numbers[1:]]))
    (tmp_path / "alpha.bsq").write_bytes(with_fields(lambda numbers: [8, 2, *numbers[2:]]))
    (tmp_path / "cut.bsq").write_bytes(stream[: len(stream) // 2])
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("hello")
    fails(capsys, "encode", tmp_path / "no.mp4", out, match="no.mp4")
    fails(capsys, "encode", tmp_path / "noise.mp4", out, match="noise.mp4")
    fails(capsys, "encode", tmp_path / "text.mp4", out, match="text.mp4")
    fails(capsys, "encode", tmp_path / "cut.mp4", out, match="cut.mp4")
    fails(capsys, "encode", tmp_path / "empty", out, match="no images")
    fails(capsys, "encode", folder / "photo.png", tmp_path / "no" / "o.bsq", match="does not exist")
    fails(capsys, "encode", folder / "photo.png", folder / "clip.bsq", match="exists already")
    fails(capsys, "encode", folder / "photo.png", out, "--model", "huge", match="no model 'huge'")
    fails(capsys, "encode", folder / "photo.png", out, "--size", "many", match="not a size")
    fails(capsys, "encode", folder / "photo.png", out, "-q", 0, match="1<=x<=100", code=2)
    fails(capsys, "encode", folder / "photo.png", out, "--tune", "sharp", match="'perceptual', 'psnr'", code=2)
    fails(capsys, "bench", "--dataset", "kodak", "--tune", "sharp", match="'perceptual', 'psnr'", code=2)
    fails(capsys, "decode", tmp_path / "no.bsq", tmp_path / "x.png", match="no.bsq")
    for command, *more in (("decode", "x.png"), ("tokens", "x.npz"), ("verify",), ("info",)):
        more, noise = [tmp_path / name for name in more], tmp_path / "noise.bsq"
        fails(capsys, command, noise, *more, match=f"bsqcodec: {noise}: not a .bsq stream\n")
    newer = "the stream has version 9; this decoder reads version 1\n"
    fails(capsys, "decode", tmp_path / "newer.bsq", tmp_path / "x.png", match=newer)
    for command in ("info", "verify"):
        fails(capsys, command, tmp_path / "newer.bsq", match=newer)
        fails(capsys, command, tmp_path / "deep.bsq", match="bit depth of 13 is not supported by this decoder\n")
        fails(
            capsys,
            command,
            tmp_path / "alpha.bsq",
            match="alpha channel of another kind is not supported by this decoder\n",
        )
    fails(capsys, "decode", tmp_path / "cut.bsq", tmp_path / "x.mp4", match="cut short")
    fails(capsys, "decode", folder / "clip.bsq", tmp_path / "x.png", match="one image")
    fails(capsys, "decode", folder / "clip.bsq", tmp_path / "x.xyz", match=".mp4")
    fails(capsys, "decode", folder / "clip.bsq", tmp_path / "x.mp4", "--frames", "90:", match="no such frames")
    fails(capsys, "decode", folder / "clip.bsq", match="give OUTPUT", code=2)
    fails(capsys, "encode", folder / "photo.png", match="OUTPUT is missing", code=2)
    fails(capsys, "encode", folder / "photo.png", tmp_path / "x.png", match="encode makes .bsq files; decode")
    for command in ("encode", "decode"):
        fails(capsys, command, "a.png", "b.png", "c.png", match="3 paths without --to: give INPUT OUTPUT", code=2)
    fails(capsys, "verify", tmp_path / "cut.bsq", match="cut short")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("alpha.bsq", "cut.bsq", "cut.mp4", "deep.bsq", "empty", "newer.bsq", "noise.bsq", "noise.mp4", "text.mp4")
    ]


def test_unknown_model_is_named(folder, tmp_path, capsys):
    from bsqcodec.stream.container import StreamWriter
    from bsqcodec.stream.reader import StreamReader

    with open(folder / "clip.bsq", "rb") as file:
        info = StreamReader(file).info
    with open(tmp_path / "other.bsq", "wb") as file:
        writer = StreamWriter(file, bytes(range(8)), info)
        writer.gop([0], b"\x32abc")
        writer.close()
    fails(capsys, "decode", tmp_path / "other.bsq", tmp_path / "x.png", match="0001020304050607")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk(folder, capsys):
    fails(capsys, "encode", folder / "photo.png", "/dev/full", "-f", match="No space")
    fails(capsys, "decode", folder / "clip.bsq", "/dev/full", "-f", match="No space")


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_stopped_half_way(tmp_path, signum):
    write_video(tmp_path / "long.mp4", np.concatenate([moving(40, 96, 96)] * 5))
    command = [sys.executable, "-m", "bsqcodec", "encode", str(tmp_path / "long.mp4"), str(tmp_path / "o.bsq")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 600
    while not any(p.name.startswith(".o.bsq") for p in tmp_path.iterdir()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signum)
    _, err = process.communicate(timeout=600)
    assert process.returncode != 0 and err == b"bsqcodec: interrupted\n"
    assert [p.name for p in tmp_path.iterdir()] == ["long.mp4"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX pipes")
def test_broken_pipe(folder):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "bsqcodec", "decode", folder / "clip.bsq", "-", "--quiet"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=600)
    os.close(writer)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"bsqcodec: ")


def test_help_is_quick_to_import():
    code = "import sys, bsqcodec.__main__; sys.exit(bool({'torch', 'av', 'numpy', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == 0


def test_every_option_has_help():
    from bsqcodec.__main__ import cli

    for name in ("encode", "decode", "info", "verify", "bench", "compare"):
        command = cli.get_command(None, name)
        assert command.help and all(p.help for p in command.params if isinstance(p, click.Option)), name
        assert '[default: ""]' not in command.get_help(click.Context(command)), name
