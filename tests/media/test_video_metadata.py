"""Tags, chapters and languages of videos, and what an encode with --strip leaves of them and of pictures."""

import io
from dataclasses import replace

import av
import pytest
from PIL import Image, ImageCms

import bsqcodec
from bsqcodec.media import open_sink, open_source
from bsqcodec.stream.reader import StreamReader
from helpers import CLIP, exit_status, sound, waves, write_media

TAGS = {
    "tag:title": "Größe".encode(),
    "tag:artist": b"Somebody",
    "tag:creation_time": b"2020-01-02T03:04:05.000000Z",
    "language": b"spa",
}
CHAPTERS = {"chapters": "0 1000 Eins\n1000 2000 Zwei drei\n2000 3000 Größe".encode()}
OTHER = {"tag:com.apple.quicktime.model": b"Phone", "tag:lyrics": b"la"}


def written(path, metadata, frames=75, **options):
    """A video of 3 s; returns the warnings of its output."""
    with open_sink(str(path), replace(CLIP, metadata=metadata, **options)) as sink:
        for i, frame in enumerate(waves(3) * (frames // 3)):
            sink.write(frame, i)
    return sink.warnings


def opened(path, **wanted):
    with open_source(str(path), **wanted) as source:
        return dict(source.info.metadata), source.warnings


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov"])
@pytest.mark.parametrize("more", [{}, OTHER], ids=["common", "other"])
def test_tags_and_chapters_round_trip(tmp_path, suffix, more):
    path = tmp_path / f"a.{suffix}"
    assert written(path, TAGS | CHAPTERS | more) == []
    assert opened(path) == (TAGS | CHAPTERS | more, [])
    chapters = opened(path, start=0.6, duration=1.2)[0]["chapters"]
    assert chapters.decode() == "0 400 Eins\n400 1200 Zwei drei"
    with av.open(str(path)) as container:
        assert container.streams.video[0].metadata["language"] == "spa"


@pytest.mark.parametrize(("suffix", "found"), [("mkv", "deu"), ("mp4", "deu"), ("mov", "ger")])
def test_languages_get_the_code_that_the_container_has(tmp_path, suffix, found):
    written(tmp_path / f"a.{suffix}", {"language": b"deu"}, 3)
    assert opened(tmp_path / f"a.{suffix}")[0] == {"language": found.encode()}


def test_tags_of_the_old_file_are_not_kept(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        out.metadata.update(
            {"title": "T", "ENCODER": "me", "MAJOR_BRAND": "isom", "_STATISTICS_TAGS": "x", "Mine": "y"}
        )
        stream = out.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.metadata["language"] = "und"
        out.set_chapters([{"id": 1, "start": 0, "end": 1, "time_base": 1 / CLIP.frame_rate, "metadata": {}}])
        out.mux(stream.encode(av.VideoFrame.from_ndarray(waves(1)[0])))
        out.mux(stream.encode(None))
    assert opened(tmp_path / "a.mkv")[0] == {"tag:title": b"T", "tag:mine": b"y", "chapters": b"0 40"}


def test_broken_text_never_fails(tmp_path):
    assert written(tmp_path / "a.mkv", TAGS, 3) == []
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data.replace(TAGS["tag:title"], b"Gr\xff\xff\xff\xffe"))
    assert opened(tmp_path / "a.mkv")[0]["tag:title"].decode() == "Gr" + 4 * "\ufffd" + "e"
    broken = {"chapters": b"9 x\n-1 2 a\n" + b"9" * 40 + b" 1 b\n0 40 kept\xff", "tag:": b"", "tag:a\0b": b"\0"}
    for suffix in ("mkv", "mp4", "mov"):
        written(tmp_path / f"b.{suffix}", broken, 3)
        assert opened(tmp_path / f"b.{suffix}")[0]["chapters"].decode() == "0 40 kept\ufffd"


def test_outputs_that_cannot_hold_it_say_so_in_one_line(tmp_path):
    metadata = {"icc": b"icc", "exif": b"exif", "loop": b"0"} | TAGS | CHAPTERS
    begin = "metadata left out, which this output cannot hold: "
    assert written(tmp_path / "a.mkv", metadata, 3) == [f"{begin}ICC profile, EXIF and loop count"]
    assert written(tmp_path / "a.y4m", metadata, 3) == [f"{begin}ICC profile, EXIF, loop count, chapters and 4 more"]
    assert written(tmp_path / "a.y4m", {}, 3) == []
    with open_sink(f"{tmp_path}/a/", replace(CLIP, metadata=TAGS | CHAPTERS)) as sink:
        sink.write(waves(1)[0], 0)
    assert sink.warnings == [f"{begin}chapters and language"]
    with Image.open(tmp_path / "a" / "000000.png") as image:
        assert image.text["Title"] == "Größe" and image.text["artist"] == "Somebody"


def streamed(path):
    return StreamReader(io.BytesIO(path.read_bytes())).info


def test_strip(tmp_path, tiny, capsys):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    Image.fromarray(waves(1)[0]).save(tmp_path / "a.jpg", exif=exif, icc_profile=profile, xmp=b"xmp", comment=b"c")
    track, packets = sound()
    info = replace(CLIP, metadata=TAGS | CHAPTERS, tracks=(replace(track, language="fra"),))
    write_media(tmp_path / "a.mkv", waves(3), info, audio=packets)
    for name, kept in (("a.jpg", {"icc": profile}), ("a.mkv", {"language": b"spa"})):
        source, target = str(tmp_path / name), tmp_path / "a.bsq"
        bsqcodec.encode_file(source, str(target), model=tiny, strip=True, force=True)
        assert streamed(target).metadata == kept
        bsqcodec.encode_file(source, str(target), model=tiny, force=True)
        assert streamed(target).metadata.keys() > kept.keys()
    assert streamed(target).metadata == TAGS | CHAPTERS
    decoded = bsqcodec.decode_file(str(target), str(tmp_path / "b.mp4"), model=tiny)
    assert opened(tmp_path / "b.mp4")[0] == TAGS | CHAPTERS and decoded.warnings == []
    assert exit_status("info", target) == 0
    shown = capsys.readouterr().out
    assert "tag:artist: Somebody" in shown and "chapters: 0 1000 Eins / 1000 2000 Zwei drei" in shown
    assert exit_status("encode", tmp_path / "a.jpg", target, "-f", "--strip", "--quiet") == 0
    assert streamed(target).metadata == {"icc": profile} and streamed(target).rotation == 90
