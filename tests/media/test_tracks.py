"""Sound and subtitles that are copied, with all that is known of them, and what is said of those that are not."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from bsqcodec import Decoder
from bsqcodec.errors import BsqError
from bsqcodec.file_decoder import decode_file
from bsqcodec.file_encoder import encode_file
from bsqcodec.media import colour, open_sink, open_source
from bsqcodec.media.video import VideoSource
from bsqcodec.types import Packet, Track
from helpers import CLIP, exit_status, random_model, read_media, sound, waves, write_media

MS = Fraction(1, 1000)
ASS = (
    b"[Script Info]\r\nScriptType: v4.00+\r\n\r\n[V4+ Styles]\r\nFormat: Name, Fontname, Fontsize, PrimaryColour\r\n"
    b"Style: Default,Arial,20,&Hffffff\r\n\r\n[Events]\r\n"
    b"Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\r\n"
)
SUBRIP = Track("subrip", MS, kind="subtitle", language="ger", disposition=64, title="Schilder")
LINES = [Packet(100, 80, b"Gr\xc3\xbc\xc3\x9fe"), Packet(240, 120, b"<i>two</i>\nlines")]


def kept(path, **options):
    """Tracks of a file, and the packets of each."""
    info, _, packets = read_media(path, **options)
    return info.tracks, [[p for p in packets if p.track == number] for number in range(len(info.tracks))]


def film(path, suffix="mkv"):
    """A file of two sounds and two kinds of subtitles, as `open_sink` writes it; returns its tracks and packets."""
    (german, spoken), (english, comment) = sound("aac"), sound("ac3")
    german = replace(german, language="ger", title="Ton", disposition=int(Disposition.default))
    english = replace(english, language="eng", disposition=int(Disposition.comment))
    ass = Track("ass", MS, extradata=ASS, kind="subtitle", language="eng", disposition=int(Disposition.default))
    dialogue = [Packet(40, 400, b"0,0,Default,,0,0,0,,{\\i1}Hello{\\i0}")]
    given = [(german, spoken), (english, comment), (SUBRIP, LINES), (ass, dialogue)]
    packets = [replace(p, track=number) for number, (_, some) in enumerate(given) for p in some]
    write_media(path, waves(12), replace(CLIP, tracks=tuple(track for track, _ in given)), audio=packets)
    return given


def test_tracks_go_through_a_stream(tmp_path):
    """Each packet of four tracks comes back from a .bsq file; Matroska keeps it all, MP4 but the styles of text."""
    given, model = film(tmp_path / "a.mkv"), random_model()
    result = encode_file(f"{tmp_path}/a.mkv", f"{tmp_path}/a.bsq", quality=5, model=model)
    assert not result.warnings and len(result.info.tracks) == 4
    assert not decode_file(f"{tmp_path}/a.bsq", f"{tmp_path}/b.mkv", model=model).warnings
    tracks, packets = kept(tmp_path / "b.mkv")
    for (track, expected), found, copies in zip(given, tracks, packets, strict=True):
        same = ("kind", "codec", "sample_rate", "layout", "extradata", "language", "title", "disposition")
        assert all(getattr(track, name) == getattr(found, name) for name in same)
        assert [p.data for p in copies] == [p.data for p in expected]
        late = [q.pts * found.time_base - p.pts * track.time_base for p, q in zip(expected, copies, strict=True)]
        assert max(map(abs, late)) <= MS
    assert [p.duration for p in packets[2]] == [80, 120]
    warnings = decode_file(f"{tmp_path}/a.bsq", f"{tmp_path}/b.mp4", model=model).warnings
    assert warnings == [
        "the subtitle track (subrip, ger, Schilder) becomes mov_text, which may lose styles",
        "the subtitle track (ass, eng) becomes mov_text, which may lose styles",
    ]
    tracks, packets = kept(tmp_path / "b.mp4")
    assert [t.codec for t in tracks] == ["aac", "ac3", "mov_text", "mov_text"]
    assert [t.language for t in tracks] == ["ger", "eng", "ger", "eng"]
    assert [t.title for t in tracks] == ["Ton", "", "Schilder", ""]
    assert [t.disposition & 65 for t in tracks] == [1, 0, 64, 1]
    texts = [
        [(p.pts, p.duration, p.data[2 : 2 + p.data[1]].decode()) for p in some if p.data[1]] for some in packets[2:]
    ]
    assert texts == [[(100, 80, "Grüße"), (240, 120, "two\nlines")], [(40, 400, "Hello")]]


def test_tracks_that_are_not_wanted(tmp_path):
    film(tmp_path / "a.mkv")
    for options, kinds in (
        ({"audio": False}, ["subtitle"] * 2),
        ({"subtitles": False}, ["audio"] * 2),
        ({"audio": False, "subtitles": False}, []),
    ):
        with open_source(f"{tmp_path}/a.mkv", **options) as source:
            assert [t.kind for t in source.info.tracks] == kinds and not source.warnings
    words = ("--no-audio", "--no-subtitles", "--duration", 0.04, "--quiet")
    assert exit_status("encode", tmp_path / "a.mkv", tmp_path / "a.bsq", *words) == 0
    with open(tmp_path / "a.bsq", "rb") as file:
        assert Decoder(file).info.tracks == ()


def test_mov_holds_no_dispositions_but_default(tmp_path):
    track = Track("mov_text", MS, kind="subtitle", language="ger", disposition=int(Disposition.default))
    tracks = (track, replace(track, disposition=int(Disposition.forced)))
    with open_sink(f"{tmp_path}/a.mov", replace(CLIP, tracks=tracks)) as sink:
        sink.write(waves(1)[0], 0)
        for number in range(2):
            sink.write_packet(Packet(0, 40, b"\0\2ok", number))
    found, packets = kept(tmp_path / "a.mov")
    assert [t.disposition for t in found] == [1, 0] and [p.data for [p] in packets] == [b"\0\2ok"] * 2
    which = "the subtitle track (mov_text, ger)"
    assert sink.warnings == [f"the disposition of {which} is left out, which this output cannot hold"]


def test_mp4_holds_languages_of_three_letters(tmp_path):
    track, _ = sound()
    with open_sink(f"{tmp_path}/a.mp4", replace(CLIP, tracks=(replace(track, language="en-GB"),))) as sink:
        sink.write(waves(1)[0], 0)
    assert sink.warnings == ["the language of the audio track (aac, en-GB) is left out, which this output cannot hold"]


def test_mov_gets_the_codes_of_languages_that_it_has(tmp_path):
    track, packets = sound()
    write_media(tmp_path / "a.mov", waves(1), replace(CLIP, tracks=(replace(track, language="deu"),)), audio=packets)
    assert kept(tmp_path / "a.mov")[0][0].language == "ger"


def test_mov_text_becomes_subrip_in_matroska(tmp_path):
    film(tmp_path / "a.mp4")
    info, frames, packets = read_media(tmp_path / "a.mp4")
    with open_sink(f"{tmp_path}/a.mkv", info) as sink:
        for frame in frames:
            sink.write(*frame)
        for packet in packets:
            sink.write_packet(packet)
    assert sink.warnings[0] == "the subtitle track (mov_text, ger, Schilder) becomes subrip, which may lose styles"
    tracks, texts = kept(tmp_path / "a.mkv")
    assert [t.codec for t in tracks] == ["aac", "ac3", "subrip", "subrip"] and tracks[2].title == "Schilder"
    assert [(p.pts, p.duration, p.data.decode()) for p in texts[2]] == [
        (100, 80, "Grüße"),
        (240, 120, "<i>two</i>\nlines"),
    ]


def test_tracks_that_an_output_cannot_hold(tmp_path):
    """Bitmaps are left out with a warning that tells where they fit; sound is refused if it fits elsewhere."""
    bitmaps = Track("hdmv_pgs_subtitle", MS, kind="subtitle", language="en-GB")
    packets = [Packet(0, 0, b"\x16\0\x13" + bytes(19) + b"\x80\0\0")]  # a picture without anything
    for suffix in ("mp4", "mov"):
        with open_sink(f"{tmp_path}/a.{suffix}", replace(CLIP, tracks=(bitmaps,))) as sink:
            sink.write(waves(1)[0], 0)
            sink.write_packet(packets[0])
        which = "the subtitle track (hdmv_pgs_subtitle, en-GB)"
        assert sink.warnings == [f"{which} is left out, which this output cannot hold; try .mkv"]
        assert read_media(tmp_path / f"a.{suffix}")[0].tracks == ()
    write_media(tmp_path / "a.mkv", waves(1), replace(CLIP, tracks=(bitmaps,)), audio=packets)
    [track], [[packet]] = kept(tmp_path / "a.mkv")
    assert (track.codec, track.language, packet.data) == ("hdmv_pgs_subtitle", "en-GB", packets[0].data)
    vorbis, _ = sound("vorbis", "matroska")
    with pytest.raises(BsqError, match=r"a\.mov cannot hold vorbis audio .*; try \.mp4 or \.mkv"):
        write_media(tmp_path / "a.mov", waves(1), replace(CLIP, tracks=(vorbis,)))
    windows = Track("wmav2", MS, 48000, "stereo", bytes(10))
    with open_sink(f"{tmp_path}/b.mkv", replace(CLIP, tracks=(windows,))) as sink:
        sink.write(waves(1)[0], 0)
    assert sink.warnings == ["the audio track (wmav2) is left out, which this output cannot hold"]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_sound_that_ffmpeg_only_decodes(tmp_path, suffix):
    track, packets = Track("dts", Fraction(1, 48000), 48000, "5.1", disposition=1), [Packet(0, 512, bytes(96))]
    write_media(tmp_path / f"a.{suffix}", waves(1), replace(CLIP, tracks=(track,)), audio=packets)
    with av.open(f"{tmp_path}/a.{suffix}") as file:
        context = file.streams.audio[0].codec_context
        assert (context.codec.canonical_name, context.sample_rate, context.layout.nb_channels) == ("dts", 48000, 6)
        assert [bytes(p) for p in file.demux(audio=0) if p.size] == [bytes(96)]


def test_what_else_is_in_a_file_is_said(tmp_path):
    picture = bytes.fromhex("89504e470d0a1a0a")
    with av.open(f"{tmp_path}/a.mkv", "w") as output:
        videos: list[Any] = [output.add_stream("mpeg4", 25, width=48, height=32) for _ in range(3)]
        videos[0].disposition = Disposition.default
        for number in range(2):
            output.add_attachment(f"{number}.ttf", "font/ttf", b"a font")
        output.add_attachment("cover.png", "image/png", picture)
        for video in videos:
            output.mux(video.encode(colour.to_yuv(waves(1)[0], "yuv420p")) + video.encode(None))
    with open_source(f"{tmp_path}/a.mkv") as source:
        assert sorted(source.warnings) == [
            "1 attached picture is left out",
            "2 attachments are left out",
            "2 video tracks are left out",
        ]
    with av.open(f"{tmp_path}/a.mov", "w") as output:
        output.metadata["timecode"] = "01:00:00:00"
        video = output.add_stream("mpeg4", 25, width=48, height=32)
        output.mux(video.encode(colour.to_yuv(waves(1)[0], "yuv420p")) + video.encode(None))
    with open_source(f"{tmp_path}/a.mov") as source:
        assert source.warnings == ["1 data track is left out"]


def onset(path):
    """Seconds from the first frame to the first loud sample, as a player has it."""
    with av.open(str(path)) as file:
        begin = min(float(f.pts * f.time_base) for f in file.decode(video=0))
        file.seek(0)
        for frame in file.decode(audio=0):
            loud = np.flatnonzero(np.abs(frame.to_ndarray()[0].astype(float)) > 0.1)
            if len(loud):
                return float(frame.pts * frame.time_base) + loud[0] / 48000 - begin
    raise AssertionError("silence")


@pytest.mark.parametrize("codec", ["aac", "libopus", "libmp3lame"])
def test_sound_stays_with_the_picture(tmp_path, codec):
    """What the encoder of the sound puts before its begin is not heard, and a beep comes when it came."""
    with av.open(f"{tmp_path}/a.mp4", "w") as output:
        video: Any = output.add_stream("libx264", 25, width=48, height=32)
        audio: Any = output.add_stream(codec, 48000, layout="mono")
        for i, rgb in enumerate(waves(20)):
            picture = colour.to_yuv(rgb, "yuv420p")
            picture.pts, picture.time_base = i, Fraction(1, 25)
            output.mux(video.encode(picture))
        beep = np.where(np.arange(38400) < 14400, 0, 0.7 * np.sin(np.arange(38400) / 5)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(beep[None], "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        output.mux(audio.encode(frame) + audio.encode(None) + video.encode(None))
    assert abs(onset(tmp_path / "a.mp4") - 0.3) < 0.01
    for suffix in ("mp4", "mkv", "mov")[: 2 if codec == "libopus" else 3]:
        info, frames, packets = read_media(tmp_path / "a.mp4")
        write_media(f"{tmp_path}/b.{suffix}", [f.rgb for f in frames], info, [f.pts for f in frames], packets)
        assert abs(onset(f"{tmp_path}/b.{suffix}") - onset(tmp_path / "a.mp4")) < 0.0015


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_packets_that_do_not_rise_are_moved(tmp_path, suffix):
    track, packets = sound("ac3", "mp4", 0.2)
    with open_sink(f"{tmp_path}/a.{suffix}", replace(CLIP, tracks=(track,))) as sink:
        sink.write(waves(1)[0], 0)
        for packet in packets[:3]:
            sink.write_packet(packet)
        sink.write_packet(replace(packets[3], pts=packets[1].pts))
    assert sink.warnings == ["time stamps of the audio track (ac3) that do not rise are moved"]
    assert [p.data for p in kept(f"{tmp_path}/a.{suffix}")[1][0]] == [p.data for p in packets[:4]]


@pytest.mark.parametrize(
    ("suffix", "picture", "codec"),
    [("ts", "mpeg2video", "aac"), ("avi", "mpeg4", "libmp3lame"), ("ogv", "vp8", "vorbis")],
)
def test_sound_of_other_containers(tmp_path, suffix, picture, codec):
    """MPEG-TS has no header for AAC, and puts one before each packet; AVI has no durations; Ogg has odd ones."""
    with av.open(f"{tmp_path}/a.{suffix}", "w") as output:
        video: Any = output.add_stream(picture, 25, width=48, height=32)
        audio: Any = output.add_stream(codec, 48000, layout="stereo", options={"strict": "experimental"})
        for i, rgb in enumerate(waves(12)):
            frame = colour.to_yuv(rgb, "yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            output.mux(video.encode(frame))
        sine = (0.3 * np.sin(np.arange(24000) / 20)).astype(np.float32)
        heard = av.AudioFrame.from_ndarray(np.stack([sine, sine]), "fltp", "stereo")
        heard.sample_rate, heard.pts, heard.time_base = 48000, 0, Fraction(1, 48000)
        output.mux(audio.encode(heard) + audio.encode(None) + video.encode(None))
    info, frames, packets = read_media(f"{tmp_path}/a.{suffix}")
    for target in ("mp4", "mkv"):
        path = f"{tmp_path}/b.{target}"
        write_media(path, [f.rgb for f in frames], info, [f.pts for f in frames], packets)
        with av.open(path) as file:
            assert abs(sum(f.samples for f in file.decode(audio=0)) - 24000) < 2000


def test_packets_without_times(tmp_path, monkeypatch):
    """Their time of decoding has to do; without that they are left out, and it is said."""
    track, packets = sound()
    write_media(tmp_path / "a.mp4", waves(1), replace(CLIP, tracks=(track,)), audio=packets)

    def demux(source):
        for number, packet in enumerate(whole(source)):
            if packet.stream.type == "audio":
                packet.pts, packet.dts = None, packet.dts if number % 2 else None
            yield packet

    whole = VideoSource._demux
    monkeypatch.setattr(VideoSource, "_demux", demux)
    with open_source(f"{tmp_path}/a.mp4") as source:
        found = [item for item in source if isinstance(item, Packet)]
    assert source.warnings == ["what has no time in the audio track (aac) is left out"]
    assert 0 < len(found) < len(packets) and {(p.pts, p.data) for p in found} < {(p.pts, p.data) for p in packets}


@pytest.mark.parametrize(
    ("kind", "codec"), [("audio", "h264"), ("audio", "subrip"), ("subtitle", "aac"), ("audio", "nonsense")]
)
def test_a_codec_that_is_none_of_its_kind(tmp_path, kind, codec):
    """A stream may say anything; such a track is left out."""
    track = Track(codec, MS, 48000, "stereo" if kind == "audio" else "", kind=kind)
    for suffix in ("mkv", "mp4"):
        with open_sink(f"{tmp_path}/a.{suffix}", replace(CLIP, tracks=(track,))) as sink:
            sink.write(waves(1)[0], 0)
            sink.write_packet(Packet(0, 10, b"abc"))
        assert sink.warnings == [f"the {kind} track ({codec}) is left out, which this output cannot hold"]


def test_broken_subtitles_are_left_out(tmp_path):
    track = Track("mov_text", MS, kind="subtitle")
    with open_sink(f"{tmp_path}/a.mkv", replace(CLIP, tracks=(track,))) as sink:
        sink.write(waves(1)[0], 0)
        for packet in (Packet(0, 10, b"\0"), Packet(10, 10, b"\0\0"), Packet(20, 10, b"\0\2ok")):
            sink.write_packet(packet)
    assert sink.warnings[1:] == ["subtitles that FFmpeg cannot read are left out"]
    assert [p.data for p in kept(tmp_path / "a.mkv")[1][0]] == [b"ok"]


def test_subtitles_are_cut_with_the_frames(tmp_path):
    """A line that is shown when the part begins is shown from its begin."""
    lines = [Packet(0, 300, b"one"), Packet(500, 800, b"two"), Packet(1700, 100, b"three")]
    write_media(tmp_path / "a.mkv", waves(50), replace(CLIP, tracks=(SUBRIP,)), audio=lines)
    [found] = kept(tmp_path / "a.mkv", start=1, duration=0.5)[1]
    assert [(p.pts, p.duration, p.data) for p in found] == [(0, 300, b"two")]
