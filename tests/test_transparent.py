"""Transparency through the whole codec: from files to streams and back, by every way that there is."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

import bsqcodec
from bsqcodec import Decoder, Encoder, FormatError, MediaInfo
from bsqcodec.network.saving import save_model
from bsqcodec.stream.reader import StreamReader
from bsqcodec.types import rescaled
from helpers import exit_status, moving, random_network, same_pictures
from mutations import join, split

FRAMES, HEIGHT, WIDTH = 5, 33, 47


def disc(t: int, soft: float) -> np.ndarray:
    """The alpha of a disc that moves, with an edge that is so many pixels wide."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    far = np.hypot(y - HEIGHT / 2, x - WIDTH / 2 - t)
    return np.clip((11 - far) * 255 / max(soft, 0.001) + 128, 0, 255).astype(np.uint8)


def clip(soft: float, frames: int = FRAMES) -> list[np.ndarray]:
    pictures = moving(frames, HEIGHT, WIDTH)
    return [np.dstack([picture, disc(t, soft)]) for t, picture in enumerate(pictures)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folders of pictures, "hard" ones of two values of alpha and "soft" ones, and "late": opaque but for the end."""
    folder = tmp_path_factory.mktemp("transparency")
    save_model(random_network(), folder / "tiny.safetensors")
    late = clip(0)
    for frame in late[:3]:
        frame[..., 3] = 255
    for name, frames in (("hard", clip(0)), ("soft", clip(9)), ("late", late)):
        (folder / name).mkdir()
        for t, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / name / f"{t}.png")
    return folder


@pytest.fixture(scope="module")
def tiny(folder):
    return bsqcodec.load_model(str(folder / "tiny.safetensors"))


def run(folder, command, source, target, *words, code=0):
    model = ("--model", folder / "tiny.safetensors", "--device", "cpu", "--quiet")
    assert exit_status(command, source, target, *model, *words) == code


def pictures(path):
    return [np.asarray(Image.open(file)) for file in sorted(path.iterdir())]


@pytest.mark.parametrize(
    ("name", "words"),
    [("hard", ()), ("late", ("-q", 90)), ("late", ("--gop", 2)), ("soft", ("--low-delay", "--gop", 3))],
)
def test_frames_come_back_as_the_encoder_said(folder, tmp_path, capsys, name, words):
    run(folder, "encode", folder / name, tmp_path / "a.bsq", "--md5", *words)
    said = capsys.readouterr().out
    run(folder, "decode", tmp_path / "a.bsq", f"{tmp_path}/out/", "--md5")
    assert capsys.readouterr().out == said
    found = pictures(tmp_path / "out")
    assert [f.shape for f in found] == [(HEIGHT, WIDTH, 4)] * FRAMES
    for a, b in zip(found, pictures(folder / name), strict=True):
        if name == "soft":
            assert np.abs(a[..., 3].astype(int) - b[..., 3]).mean() < 12
        else:
            assert np.array_equal(a[..., 3], b[..., 3])  # without loss
    assert exit_status("verify", tmp_path / "a.bsq", "--model", folder / "tiny.safetensors", "--quiet") == 0


def test_in_several_processes_and_resumed_it_is_the_same_stream(folder, tmp_path):
    name = "soft"
    words = ("--gop", 2, "--low-delay")
    run(folder, "encode", folder / name, tmp_path / "a.bsq", *words)
    whole = (tmp_path / "a.bsq").read_bytes()
    run(folder, "encode", folder / name, tmp_path / "b.bsq", *words, "--jobs", 2)
    assert (tmp_path / "b.bsq").read_bytes() == whole
    index = StreamReader(io.BytesIO(whole)).index()
    (tmp_path / ".c.bsq.1.part").write_bytes(whole[: index[2].offset + 7])
    run(folder, "encode", folder / name, tmp_path / "c.bsq", *words, "--resume")
    assert (tmp_path / "c.bsq").read_bytes() == whole
    run(folder, "decode", tmp_path / "a.bsq", f"{tmp_path}/one/")
    run(folder, "decode", tmp_path / "a.bsq", f"{tmp_path}/two/", "--jobs", 2)
    run(folder, "decode", tmp_path / "a.bsq", f"{tmp_path}/part/", "--frames", "3:5")
    assert same_pictures(pictures(tmp_path / "one"), pictures(tmp_path / "two"))
    assert same_pictures(pictures(tmp_path / "one")[3:], pictures(tmp_path / "part"))


def test_an_encode_is_not_resumed_with_another_alpha_quality(folder, tmp_path, capsys):
    words = ("--gop", 2, "--low-delay", "--resume", "--alpha-quality")
    run(folder, "encode", folder / "soft", tmp_path / "a.bsq", *words, 90)
    whole = (tmp_path / "a.bsq").read_bytes()
    index = StreamReader(io.BytesIO(whole)).index()
    for quality, code in ((30, 1), (90, 0)):
        (tmp_path / ".b.bsq.1.part").write_bytes(whole[: index[2].offset + 7])
        run(folder, "encode", folder / "soft", tmp_path / "b.bsq", *words, quality, code=code)
        assert ("--alpha-quality" in capsys.readouterr().err) == (code == 1)
    assert (tmp_path / "b.bsq").read_bytes() == whole


@pytest.mark.parametrize("words", [("--no-alpha",), ("--background", "white")], ids=str)
def test_it_can_be_left_out(folder, tmp_path, words):
    run(folder, "encode", folder / "soft" / "0.png", tmp_path / "a.bsq", *words)
    assert not StreamReader(io.BytesIO((tmp_path / "a.bsq").read_bytes())).info.alpha
    run(folder, "decode", tmp_path / "a.bsq", tmp_path / "a.png")
    corner = np.asarray(Image.open(tmp_path / "a.png"))[:6, :6].astype(int)
    expected = 255 if "white" in words else np.asarray(Image.open(folder / "soft" / "0.png"))[:6, :6, :3]
    assert corner.shape == (6, 6, 3) and np.abs(corner - expected).mean() < 30


def test_a_rate_is_found_where_pieces_that_are_tried_are_opaque(folder, tmp_path):
    """A video of which frames 8 to 35 are opaque: one of the three pieces that tell the quality is in the middle."""
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        stream = file.add_stream("ffv1", 25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "bgra"
        for t, picture in enumerate(clip(0, 40)):
            picture[..., 3] |= np.uint8(255 * (8 <= t < 36))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgba").reformat(format="bgra")))
        file.mux(stream.encode(None))
    run(folder, "encode", tmp_path / "a.mkv", tmp_path / "a.bsq", "--bpp", 0.5, "--gop", 8)
    assert StreamReader(io.BytesIO((tmp_path / "a.bsq").read_bytes())).info.alpha


def test_an_unknown_colour_is_refused_before_anything_is_written(folder, tmp_path, capsys):
    run(folder, "encode", folder / "hard", tmp_path / "a.bsq", "--background", "nice", code=1)
    assert capsys.readouterr().err == "bsqcodec: 'nice' is not a colour such as white or #ff8000\n"
    assert not list(tmp_path.iterdir())


def test_an_output_without_transparency_says_so(folder, tmp_path, capsys):
    run(folder, "encode", folder / "hard" / "0.png", tmp_path / "a.bsq")
    run(folder, "decode", tmp_path / "a.bsq", tmp_path / "black.jpg")
    assert capsys.readouterr().err.startswith("warning: transparency is left out, which this output cannot hold")
    run(folder, "decode", tmp_path / "a.bsq", tmp_path / "a.jpg", "--background", "#00ff00")
    assert "warning" not in capsys.readouterr().err
    assert np.abs(np.asarray(Image.open(tmp_path / "a.jpg"))[0, 0].astype(int) - [0, 255, 0]).max() < 20


def coded(tiny, frames, **options):
    file = io.BytesIO()
    info = MediaInfo(WIDTH, HEIGHT, frame_rate=Fraction(25), alpha=True, bit_depth=options.pop("bit_depth", 8))
    with Encoder(file, info, model=tiny, **options) as encoder:
        decoded = [picture for t, frame in enumerate(frames) for picture in encoder.write(frame, t)]
        decoded += encoder.close()
    return file.getvalue(), decoded


@pytest.mark.parametrize("bit_depth", [8, 10])
@pytest.mark.parametrize("soft", [0, 9])
def test_the_library_takes_and_gives_it(tiny, soft, bit_depth):
    data, decoded = coded(tiny, clip(soft), gop=2, bit_depth=bit_depth)
    decoder = Decoder(io.BytesIO(data), model=tiny)
    frames = list(decoder.frames())
    assert decoder.info.alpha and same_pictures([frame.rgb for frame in frames], decoded)
    if not soft:
        assert np.array_equal(frames[4].rgb[..., 3], rescaled(disc(4, 0), 8, bit_depth))


def test_a_picture_in_memory(tiny):
    picture = clip(0, 1)[0]
    data = bsqcodec.encode_image(picture, model=tiny)
    assert np.array_equal(bsqcodec.decode_image(data, model=tiny)[..., 3], picture[..., 3])
    with pytest.raises(ValueError, match="not uint8"):
        bsqcodec.encode_image(picture[..., :2], model=tiny)
    for wrong in (picture[..., :3], picture.astype(np.float32)):
        encoder = Encoder(io.BytesIO(), MediaInfo(WIDTH, HEIGHT, alpha=True), model=tiny)
        with pytest.raises(ValueError, match="not uint8"):
            encoder.write(wrong)


def test_colours_that_nobody_sees_cost_next_to_nothing(tiny):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    noise[..., 3] = 0
    assert len(bsqcodec.encode_image(noise, model=tiny)) < 200
    assert not bsqcodec.decode_image(bsqcodec.encode_image(noise, model=tiny), model=tiny)[..., 3].any()


def test_damage_to_it_is_found_and_concealed(tiny):
    data, decoded = coded(tiny, clip(9), gop=2)
    entry = StreamReader(io.BytesIO(data)).index()[1]
    assert data[entry.offset : entry.offset + 1] == b"a"
    bad = bytearray(data)
    bad[entry.offset + 9] ^= 1
    with pytest.raises(FormatError, match=rf"chunk at byte {entry.offset} \(group 1, from frame 2\) is damaged"):
        list(Decoder(io.BytesIO(bytes(bad)), model=tiny).frames())
    decoder = Decoder(io.BytesIO(bytes(bad)), model=tiny)
    frames = [frame.rgb for frame in decoder.frames(conceal=True)]
    assert len(frames) == FRAMES and len(decoder.warnings) == 1
    for t, (found, right) in enumerate(zip(frames, decoded, strict=True)):
        assert np.array_equal(found[..., :3], right[..., :3])  # the colours are not lost
        assert (found[..., 3] == 255).all() if t in (2, 3) else np.array_equal(found[..., 3], right[..., 3])


def test_a_damaged_body_behind_a_good_checksum_is_found(tiny):
    data, _ = coded(tiny, clip(0), gop=2)
    numbers, model, chunks = split(data)
    at = next(i for i, (kind, _) in enumerate(chunks) if kind == b"a")
    for body in (b"\x09", b"\x01", b"\x02", b"\x02\x01\xff\x00"):
        bad = join(numbers, model, [*chunks[:at], (b"a", body), *chunks[at + 1 :]])
        for use in (lambda decoder: decoder.frames(), lambda decoder: decoder.symbols()):
            with pytest.raises(FormatError, match="frames 0 to 1, in the chunk at byte"):
                list(use(Decoder(io.BytesIO(bad), model=tiny)))


def test_a_group_without_it_is_opaque_and_an_empty_one_is_refused(tiny):
    data, _ = coded(tiny, clip(0), gop=2)
    numbers, model, chunks = split(data)
    at = next(i for i, (kind, _) in enumerate(chunks) if kind == b"a")
    without = join(numbers, model, chunks[:at] + chunks[at + 1 :])
    first = next(Decoder(io.BytesIO(without), model=tiny).frames())
    assert first.rgb.shape == (HEIGHT, WIDTH, 4) and (first.rgb[..., 3] == 255).all()
    empty = join(numbers, model, [*chunks[:at], (b"a", b""), *chunks[at + 1 :]])
    with pytest.raises(FormatError, match="the chunk of its alpha is empty"):
        list(Decoder(io.BytesIO(empty), model=tiny).frames())
