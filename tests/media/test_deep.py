"""More than 8 bits a sample, and HDR, in and out; what is written is read back by FFmpeg."""

import io
import struct
import sys
import zlib
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from bsqcodec import Decoder, MediaInfo
from bsqcodec.file_decoder import decode_file
from bsqcodec.file_encoder import encode_file
from bsqcodec.media import colour, max_depth, open_sink, open_source
from bsqcodec.media.png_chunks import with_chunks
from bsqcodec.types import rescaled
from helpers import exit_status, read_media, waves

HDR = {
    "mdcv": struct.pack(">8H2I", 13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450, 10_000_000, 50),
    "clli": struct.pack(">2H", 1000, 400),
}
PQ = MediaInfo(
    *(64, 32, Fraction(1, 25), Fraction(25), (1, 1)), primaries=9, transfer=16, matrix=9, color_range=1, bit_depth=10,
    metadata=HDR,
)  # fmt: skip


def ramp(depth, width=64, height=32):
    """Gray from black to white, uint16 (height, width, 3) of `depth` bits."""
    line = np.linspace(0, (1 << depth) - 1, width).round().astype(np.uint16)
    return np.ascontiguousarray(np.broadcast_to(line[None, :, None], (height, width, 3)))


def write(path, info, frames):
    with open_sink(str(path), info) as sink:
        for t, frame in enumerate(frames):
            sink.write(frame, t)
    return sink.warnings


def first_frame(path):
    with av.open(str(path)) as file:
        return next(file.decode(video=0))


def plane(frame, i=0):
    there = frame.planes[i]
    return np.frombuffer(there, "<u2").reshape(there.height, -1)[:, : there.width]


def planar(pixel_format, *planes):
    """An `av.VideoFrame` of uint16 (height, width) each."""
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], pixel_format)
    for there, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((there.height, there.line_size // 2), np.uint16)
        rows[:, : there.width] = values
        there.update(rows.tobytes())
    return frame


@pytest.mark.parametrize("matrix", [1, 4, 6, 7, 9])
@pytest.mark.parametrize("full", [False, True])
def test_colours_of_more_than_8_bits(matrix, full):
    """Every sample is the nearest to what H.273 asks for, and gives the colour again within a code value or two."""
    rng = np.random.default_rng(0)
    for depth, bits in ((10, 10), (12, 12), (9, 10), (16, 16)):
        rgb = rng.integers(0, 1 << depth, (4, 64, 3)).astype(np.uint16)
        rgb[0], rgb[1] = 0, (1 << depth) - 1
        frame = colour.to_deep_yuv(rgb, depth, f"yuv444p{bits}le", matrix, full)
        red, blue = colour.MATRICES[matrix]
        r, g, b = np.moveaxis(rgb / ((1 << depth) - 1), 2, 0)
        y = red * r + (1 - red - blue) * g + blue * b
        both = (y, (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red))
        unit, top = 1 << (bits - 8), (1 << bits) - 1
        for i, values in enumerate(both):
            scale, offset = (top, 0) if full else ((224 if i else 219) * unit, 16 * unit)
            exact = (values * scale + (128 * unit if i else offset)).clip(0, top)
            assert np.abs(plane(frame, i) - exact).max() <= 0.5 + 2e-7 * top * top
        assert plane(frame)[0, 0] == (0 if full else 16 * unit) and plane(frame)[1, 0] == (top if full else 235 * unit)
        y, u, v = (plane(frame, i).astype(float) for i in range(3))
        y = y / top if full else (y - 16 * unit) / (219 * unit)
        u, v = ((c - 128 * unit) / (top if full else 224 * unit) for c in (u, v))
        r, b = y + (2 - 2 * red) * v, y + (2 - 2 * blue) * u
        again = np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], 2)
        error = np.abs(again - rgb / ((1 << depth) - 1)) * top
        assert error[:2].max() < 1 and error.max() < 2


@pytest.mark.parametrize(
    ("pixel_format", "bits", "depth"),
    [
        *(("yuv420p10le", 10, 10), ("yuv444p12le", 12, 12), ("yuv422p16le", 16, 12), ("yuv420p9le", 9, 9)),
        *(("gbrp10le", 10, 10), ("gbrp12le", 12, 12), ("rgb48le", 16, 12), ("gray10le", 10, 10), ("yuv420p", 8, 8)),
    ],
)
def test_sources_tell_their_depth_and_are_rounded_to_8_bits(tmp_path, pixel_format, bits, depth):
    path = str(tmp_path / "a.mkv")
    top = (1 << bits) - 1
    line = np.linspace(0, top, 256)
    if "yuv" in pixel_format:
        line = (16 << (bits - 8)) + line * (219 << (bits - 8)) / top
    line = np.broadcast_to(line.round().astype(np.uint16), (16, 256))
    with av.open(path, "w") as output:
        stream = output.add_stream("ffv1", 25, width=256, height=16, pix_fmt=pixel_format)
        if pixel_format == "rgb48le":
            frame = av.VideoFrame.from_ndarray(np.stack([line] * 3, 2), pixel_format)
        elif bits == 8:
            frame = colour.to_yuv(np.stack([line.astype(np.uint8)] * 3, 2), pixel_format)
        else:
            middle = np.full_like(line, 1 << (bits - 1))
            across, down = 2 - ("444" in pixel_format), 1 + ("420" in pixel_format)
            chroma = [] if "gray" in pixel_format else [middle[::down, ::across]] * 2
            frame = planar(pixel_format, line, *([line] * 2 if "gbr" in pixel_format else chroma))
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with open_source(path) as source:
        assert source.info.bit_depth == depth
        expected = [f"{path}: of the {bits} bits of a sample 8 are coded; decoded it has {depth} bits again"]
        assert source.warnings == (expected if bits > 8 else [])
        [found] = source
    if bits > 8:
        assert found.rgb.dtype == np.uint8
        assert np.abs(found.rgb[8] - np.linspace(0, 255, 256)[:, None]).max() <= (1 if "gray" in pixel_format else 0.75)


@pytest.mark.parametrize(
    ("name", "depth", "pixel_format"),
    [
        *(("a.mp4", 10, "yuv420p10le"), ("a.mkv", 9, "yuv420p10le"), ("odd.mov", 10, "yuv444p10le")),
        *(("a.y4m", 9, "yuv444p10le"), ("a.y4m", 12, "yuv444p12le"), ("a.y4m", 16, "yuv444p16le")),
    ],
)
def test_videos_of_more_bits(tmp_path, name, depth, pixel_format):
    width = 63 if name.startswith("odd") else 64
    picture = ramp(depth, width)
    write(tmp_path / name, replace(PQ, width=width, bit_depth=depth, transfer=1), [picture] * 2)
    frame = first_frame(tmp_path / name)
    assert frame.format.name == pixel_format
    unit = 1 << (colour.bits_of(frame.format) - 8)
    exact = 16 * unit + 219 * unit * picture[..., 0].astype(float) / ((1 << depth) - 1)
    assert np.abs(plane(frame)[:, :width] - exact).max() < (0.51 if name == "a.y4m" else 10)
    if not name.endswith("y4m"):
        assert "High" in frame_profile(tmp_path / name)
    assert read_media(tmp_path / name)[0].bit_depth == colour.bits_of(frame.format) - 4 * (depth == 16)


def frame_profile(path):
    with av.open(str(path)) as file:
        return file.streams.video[0].codec_context.profile


@pytest.mark.parametrize("name", ["a.png", "folder/"])
@pytest.mark.parametrize("depth", [9, 12, 16])
def test_png_of_16_bits(tmp_path, name, depth):
    picture = np.random.default_rng(0).integers(0, 1 << depth, (32, 64, 3)).astype(np.uint16)
    info = replace(PQ, bit_depth=depth, rotation=90)
    assert write(f"{tmp_path}/{name}", info, [picture]) == []
    path = tmp_path / (name if name == "a.png" else "folder/000000.png")
    frame = first_frame(path)
    assert frame.format.name == "rgb48be" and (frame.color_primaries, frame.color_trc) == (9, 16)
    upright = np.rot90(picture, -1) if name != "a.png" else picture
    assert np.array_equal(frame.to_ndarray(), rescaled(upright, depth, 16))
    found, [again], _ = read_media(path)
    assert (found.bit_depth, found.rotation, found.primaries, found.transfer) == (12, 90 * (name == "a.png"), 9, 16)
    if name != "a.png":  # beside EXIF, PyAV tells of no other side data
        assert {key: found.metadata.get(key) for key in HDR} == HDR
    assert np.array_equal(again.rgb, rescaled(rescaled(upright, depth, 16), 16, 8))


@pytest.mark.parametrize("suffix", ["tiff", "png"])
def test_images_of_16_bits_are_rounded_not_cut(tmp_path, suffix, monkeypatch):
    picture = ramp(16, 400)
    with av.open(str(tmp_path / f"a.{suffix}"), "w", format="image2") as output:
        pixel_format = "rgb48be" if suffix == "png" else "rgb48le"
        stream = output.add_stream(suffix, 1, width=400, height=32, pix_fmt=pixel_format)
        frame = av.VideoFrame.from_ndarray(picture, pixel_format)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / f"a.{suffix}").read_bytes())))
    for name in (str(tmp_path / f"a.{suffix}"), "-"):
        with open_source(name) as source:
            assert source.info.bit_depth == 12 and "of the 16 bits of a sample 8 are coded" in source.warnings[0]
            [frame] = source
        assert np.array_equal(frame.rgb, rescaled(picture, 16, 8))


def test_a_gray_of_16_bits_may_be_transparent(tmp_path):
    gray = np.arange(48 * 32, dtype=np.uint16).reshape(32, 48) * 40
    Image.fromarray(gray).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(with_chunks(data, [(b"tRNS", struct.pack(">H", gray[7, 9]))]))
    info, [frame], _ = read_media(tmp_path / "a.png")
    assert info.alpha and np.array_equal(frame.rgb[..., 3], np.where(gray == gray[7, 9], 0, 255))
    assert np.abs(frame.rgb[..., :3] - gray[..., None] / 257).max() < 0.51


def test_a_mirrored_image_of_16_bits_is_turned_over(tmp_path):
    write(tmp_path / "a.png", replace(PQ, bit_depth=16, rotation=90), [ramp(16)])
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(b"eXIf") - 4
    old = data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
    exif = Image.Exif()
    exif[0x0112] = 2
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    new = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(data.replace(old, new))
    info, [frame], _ = read_media(tmp_path / "a.png")
    assert info.rotation == 0 and np.array_equal(frame.rgb, rescaled(ramp(16), 16, 8)[:, ::-1])


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_comes_back(tmp_path, transfer):
    info = replace(PQ, transfer=transfer)
    for name in ("a.mp4", "a.mkv"):
        assert write(tmp_path / name, info, [ramp(10)] * 2) == []
        found = read_media(tmp_path / name)[0]
        assert (found.primaries, found.transfer, found.matrix, found.bit_depth) == (9, transfer, 9, 10)
        assert {key: found.metadata.get(key) for key in HDR} == HDR
    plain = replace(info, metadata={"mdcv": b"short", "clli": b""})
    write(tmp_path / "b.mkv", plain, [ramp(10)])
    assert not read_media(tmp_path / "b.mkv")[0].metadata.keys() & HDR.keys()


def test_outputs_that_do_not_tell_of_hdr_say_so(tmp_path):
    lost = "HDR (PQ), mastering display and content light level"
    line = [f"metadata left out, which this output cannot hold: {lost}"]
    assert write(tmp_path / "a.y4m", PQ, [ramp(10)]) == line
    for name in ("a.jpg", "a.webp"):
        assert write(tmp_path / name, replace(PQ, bit_depth=8), waves(1, 64, 32)) == line
    assert write(tmp_path / "a.png", replace(PQ, bit_depth=8), waves(1, 64, 32)) == []


def test_dynamic_metadata_are_left_out_with_a_warning(tmp_path, monkeypatch):
    write(tmp_path / "a.mkv", PQ, [ramp(10)])
    monkeypatch.setattr("bsqcodec.media.hdr.is_dynamic", lambda frame: True)
    with open_source(str(tmp_path / "a.mkv")) as source:
        assert any("Dolby Vision" in line for line in source.warnings)


def test_what_outputs_hold(tmp_path):
    held = {8: ("a.jpg", "a.jpeg", "a.webp"), 10: ("a.mp4", "a.mkv", "a.mov"), 16: ("a.y4m", "-", "a.png")}
    assert all(max_depth(name) == bits for bits, names in held.items() for name in names)
    assert max_depth("a.jpg/") == max_depth(str(tmp_path)) == 16


def test_there_and_back_again(tmp_path, capsys):
    """From H.264 of 10 bits to a stream, and into every output; what it cannot hold is said."""
    source, stream = tmp_path / "a.mkv", str(tmp_path / "a.bsq")
    write(source, PQ, [ramp(10)] * 3)
    result = encode_file(str(source), stream, quality=90)
    assert result.warnings == [f"{source}: of the 10 bits of a sample 8 are coded; decoded it has 10 bits again"]
    with open(stream, "rb") as file:
        info = Decoder(file).info
    assert (info.bit_depth, info.transfer, dict(info.metadata)) == (10, 16, HDR)
    again = decode_file(stream, str(tmp_path / "b.mkv"))
    assert again.warnings == [] and again.md5 == result.md5
    found = read_media(tmp_path / "b.mkv")[0]
    assert (found.bit_depth, found.transfer, dict(found.metadata)) == (10, 16, HDR)
    assert np.abs(plane(first_frame(tmp_path / "b.mkv")) - plane(first_frame(source)).astype(int)).mean() < 4
    for depth, name, pixel_format in ((16, "c.y4m", "yuv444p16le"), (8, "c.mkv", "yuv420p"), (12, "f/", "rgb48be")):
        assert exit_status("decode", stream, f"{tmp_path}/{name}", "--depth", depth, "--frames", 0) == 0
        path = tmp_path / ("f/000000.png" if name == "f/" else name)
        assert first_frame(path).format.name == pixel_format
    capsys.readouterr()
    assert exit_status("decode", stream, tmp_path / "d.jpg", "--frames", 0) == 0
    assert f"warning: {tmp_path}/d.jpg has 8 bits a sample, the stream 10\n" in capsys.readouterr().err
    for depth, name, holds in ((10, "e.jpg", 8), (12, "e.mp4", 10)):
        assert exit_status("decode", stream, tmp_path / name, "--depth", depth) == 1
        expected = f"bsqcodec: {tmp_path}/{name} cannot have {depth} bits a sample, but at most {holds}\n"
        assert capsys.readouterr().err == expected and not (tmp_path / name).exists()
    assert exit_status("decode", stream, tmp_path / "e.png", "--depth", 11) == 2


def test_a_still_of_more_bits_becomes_a_png_of_16(tmp_path):
    write(tmp_path / "a.png", replace(PQ, frame_rate=None, bit_depth=12), [ramp(12)])
    encode_file(str(tmp_path / "a.png"), str(tmp_path / "a.bsq"), quality=95)
    decode_file(str(tmp_path / "a.bsq"), str(tmp_path / "b.png"))
    frame = first_frame(tmp_path / "b.png")
    assert frame.format.name == "rgb48be" and (frame.color_primaries, frame.color_trc) == (9, 16)
    picture = frame.to_ndarray()
    assert np.abs(picture / 65535 - ramp(12) / 4095).mean() < 1 / 400 and len(np.unique(picture)) > 300
