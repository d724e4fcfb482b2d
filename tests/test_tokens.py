"""Streams as arrays, and arrays as streams: byte for byte, with changes, and what is refused."""

import io
from fractions import Fraction

import numpy as np
import pytest

from bsqcodec import arrays_to_stream, stream_to_arrays
from bsqcodec.api import Decoder, Encoder, encode_image
from bsqcodec.errors import BsqError, FormatError, ModelError
from bsqcodec.selftest import FOLDER, conformance_streams
from bsqcodec.stream.container import Gop, StreamWriter
from bsqcodec.stream.reader import StreamReader
from bsqcodec.tokens.digits import from_digits, to_digits
from bsqcodec.types import MediaInfo, Packet, Track
from helpers import PACKETS, TRACK, Pipe, exit_status, moving, same_pictures


def arrays_of(stream, model=None):
    """All arrays of a stream, by name."""
    archive = io.BytesIO()
    stream_to_arrays(io.BytesIO(stream), archive, model=model)
    archive.seek(0)
    with np.load(archive, allow_pickle=False) as arrays:
        return dict(arrays)


def stream_of(arrays, model=None):
    """The stream of these arrays, and how many coefficients are changed in it."""
    archive, stream = io.BytesIO(), io.BytesIO()
    np.savez(archive, **arrays)
    changed = arrays_to_stream(archive, stream, model=model)
    return stream.getvalue(), changed


def differing(a, b):
    """Names of the arrays that are not the same, but for those that are not read back."""
    names = {name for name in a.keys() | b.keys() if name != "bits" and not name.endswith(".steps")}
    return {n for n in names if n not in a or n not in b or not np.array_equal(a[n], b[n])}


@pytest.fixture(scope="module")
def coded(tiny):
    """Six frames in two groups with I, P and B frames, sound, and a chunk that no decoder knows."""
    file = io.BytesIO()
    tracks = TRACK, Track("subrip", Fraction(1, 1000), kind="subtitle")
    info = MediaInfo(45, 37, Fraction(1, 90), Fraction(25), (4, 3), 270, tracks=tracks, metadata={"tag:title": b"x"})
    with Encoder(file, info, model=tiny, quality=60, gop=3) as encoder:
        for t, picture in enumerate(moving(6, 37, 45)):
            encoder.write(picture, 7 * t + t // 4)
            if t == 4:
                encoder._writer._chunk(b"z", b"unknown")
                for packet in (*PACKETS, Packet(0, 40, b"text", 1)):
                    encoder.write_packet(packet)
    return file.getvalue()


@pytest.fixture(scope="module")
def read(coded, tiny):
    """Its arrays."""
    return arrays_of(coded, tiny)


@pytest.fixture
def arrays(read):
    """The same, to be changed."""
    return {name: a.copy() for name, a in read.items()}


# ---------------------------------------------------------------- what comes back

# a frame, P frames, B frames, mini-GOPs of several lengths, B frames without reference; both tunes, odd sizes
CHOSEN = ("15x17", "gray", "psnr-q45", "photo-q100", "low-delay", "motion-odd", "mini-gops", "cut-scene")


@pytest.mark.parametrize(
    "name", [s["file"] for s in conformance_streams() if any(part in s["file"] for part in CHOSEN)]
)
def test_conformance_streams_come_back(name):
    data = (FOLDER / name).read_bytes()
    archive, back = io.BytesIO(), io.BytesIO()
    stream_to_arrays(io.BytesIO(data), archive)
    assert arrays_to_stream(archive, back) == 0
    assert back.getvalue() == data


def test_a_stream_with_sound_and_unknown_chunks_comes_back_from_a_pipe(coded, tiny):
    archive, again, back = io.BytesIO(), io.BytesIO(), io.BytesIO()
    stream_to_arrays(Pipe(coded, 100), archive, model=tiny)
    stream_to_arrays(io.BytesIO(coded), again, model=tiny)
    assert archive.getvalue() == again.getvalue()
    assert arrays_to_stream(archive, back, model=tiny) == 0
    assert back.getvalue() == coded


def test_alpha_bit_depth_and_the_last_duration_come_back(coded, tiny):
    file = io.BytesIO()
    writer = StreamWriter(file, tiny.id, MediaInfo(45, 37, bit_depth=10, alpha=True))
    for gop in StreamReader(io.BytesIO(coded)).chunks():
        if isinstance(gop, Gop):
            writer.gop(list(gop.pts), gop.payload, b"some alpha")
    writer.close(9)
    arrays = arrays_of(file.getvalue(), tiny)
    assert arrays["chunks"].tobytes() == b"aGaG" and arrays["index"].tolist() == [0, 2]
    assert arrays["last_duration"] == 9 and arrays["alpha"] == 1 and arrays["bit_depth"] == 10
    assert stream_of(arrays, tiny) == (file.getvalue(), 0)


def test_a_stream_without_frames_comes_back(tiny):
    file = io.BytesIO()
    StreamWriter(file, tiny.id, MediaInfo(16, 16)).close()
    assert stream_of(arrays_of(file.getvalue(), tiny), tiny) == (file.getvalue(), 0)


def test_the_arrays_are_those_that_are_described(coded, arrays, tiny):
    assert arrays["chunks"].tobytes() == b"AtmGzGPp" and arrays["index"].tolist() == [3, 5]
    assert "".join(arrays["type"]) == "IBPIBP"
    assert arrays["width"] == 45 and arrays["time_base"].tolist() == [1, 90] and arrays["quarter_turns"] == 3
    assert arrays["pts"].tolist() == [0, 7, 14, 21, 29, 36]
    assert arrays["group"].tolist() == [0] * 3 + [1] * 3
    assert arrays["mini_gop"].dtype == np.uint8 and arrays["mini_gop"].tolist() == [[0, 0], [2, 9], [2, 9]] * 2
    for n, (kind, references) in enumerate(zip(arrays["type"], arrays["references"], strict=True)):
        some = int((references >= 0).sum())
        assert arrays[f"frame{n}.coefficients"].shape == (3, 3, 768)
        assert (f"frame{n}.classes" in arrays) == (some == 0) and (kind != "I" or some == 0)
        assert (f"frame{n}.modes" in arrays) == (some == 2) and (kind != "P" or some == 1)
        if some:
            assert arrays[f"frame{n}.vectors"].shape == (some, 3, 3, 2)
            assert arrays[f"frame{n}.quarters"].shape == (some, 6, 6, 2)
    step = tiny.network.quantiser_step(60)
    ratio = arrays["frame0.steps"] / 2 ** (9 / 16 * arrays["frame0.classes"])
    assert np.allclose(ratio, step, rtol=1e-3)
    assert arrays["bits"].sum() / 8 < len(coded)


def test_digits_are_those_of_the_bit_planes():
    values = np.random.default_rng(0).integers(-95059, 95060, (5, 7), np.int32)
    digits = to_digits(values)
    assert digits.dtype == np.int8 and digits.shape == (5, 7, 12) and np.array_equal(from_digits(digits), values)
    with pytest.raises(ValueError, match="beyond"):
        to_digits(np.array([14]), 3)


# ---------------------------------------------------------------- changed arrays


def test_coefficients_of_zero_decode_to_what_is_predicted(coded, arrays, tiny):
    zero = {name: a * 0 if name.endswith(".coefficients") else a for name, a in arrays.items()}
    stream, changed = stream_of(zero, tiny)
    assert not changed and not differing(zero, arrays_of(stream, tiny)) and len(stream) < len(coded)


def test_any_symbols_decode_to_themselves(arrays, tiny):
    """Random vectors, splits, modes, classes, qualities and times; an anchor that is no longer predicted."""
    g = np.random.default_rng(1)
    for n, references in enumerate(arrays["references"]):
        name = f"frame{n}"
        if f"{name}.vectors" in arrays:
            arrays[f"{name}.vectors"] = g.integers(-2047, 2048, arrays[f"{name}.vectors"].shape)
            quarters = arrays[f"{name}.vectors"].repeat(2, 1).repeat(2, 2)
            split = g.random((*quarters.shape[:3], 1)) < 0.2
            arrays[f"{name}.quarters"] = np.where(split, g.integers(-2047, 2048, quarters.shape), quarters)
        if (references >= 0).all():
            arrays[f"{name}.modes"] = 0 * arrays[f"{name}.modes"]  # so that every vector is read back
    last = int(np.flatnonzero(arrays["type"] == "P")[-1])
    arrays["type"][last], arrays["references"][last] = "I", -1
    for part in ("vectors", "quarters"):
        del arrays[f"frame{last}.{part}"]
    for n in (0, last):
        arrays[f"frame{n}.classes"] = g.integers(-3, 4, (3, 3))
    arrays["frame0.coefficients"][..., :8] = g.integers(-300, 300, (3, 3, 8))
    arrays["quality"][3], arrays["pts"] = 1, arrays["pts"] * 3 - 11
    stream, changed = stream_of(arrays, tiny)
    found = arrays_of(stream, tiny)
    wrong = differing(arrays, found)
    assert all(name.endswith(".coefficients") for name in wrong) and (not wrong or changed)
    assert stream_of(found, tiny) == (stream, 0)
    assert len(list(Decoder(io.BytesIO(stream), model=tiny).frames())) == 6


def test_modes_of_one_reference_leave_the_other_out(arrays, tiny):
    name = next(name for name in arrays if name.endswith(".modes"))
    arrays[name] = np.arange(9).reshape(3, 3) % 3
    stream, _ = stream_of(arrays, tiny)
    assert np.array_equal(arrays_of(stream, tiny)[name], arrays[name])


def test_coefficients_that_have_no_bits_are_counted(arrays, tiny):
    arrays["frame0.coefficients"][:] = 95059
    stream, changed = stream_of(arrays, tiny)
    found = arrays_of(stream, tiny)
    pairs = [(arrays[name], found[name]) for name in arrays if name.endswith(".coefficients")]
    assert changed == sum(np.count_nonzero(a != b) for a, b in pairs) > 0


def test_a_group_less(coded, arrays, tiny):
    """The second group on its own is a stream of the same pictures."""
    expected = [frame.rgb for frame in Decoder(io.BytesIO(coded), model=tiny).frames(3)]
    rows = {name: arrays[name][3:] for name in ("pts", "type", "tune", "quality", "mini_gop", "bits")}
    rows["group"] = arrays["group"][3:] - 1
    rows["references"] = np.where(arrays["references"][3:] < 0, -1, arrays["references"][3:] - 3)
    chunks = {"chunks": np.frombuffer(b"G", np.uint8), "index": np.zeros(0, int)}
    frames = {
        f"frame{int(n) - 3}.{p}": a for name, a in arrays.items() if "." in name for n, p in [name[5:].split(".")]
    }
    stream, changed = stream_of({**arrays, **frames, **rows, **chunks}, tiny)
    assert not changed
    assert same_pictures([frame.rgb for frame in Decoder(io.BytesIO(stream), model=tiny).frames()], expected)


# ---------------------------------------------------------------- what is refused


def _set(name, value, at=...):
    def change(arrays):
        arrays[name][at] = value

    return change


def _put(name, value):
    return lambda arrays: arrays.update({name: value})


REFUSED = [
    (lambda arrays: arrays.pop("pts"), "array 'pts' is missing"),
    (lambda arrays: arrays.pop("frame3.coefficients"), "array 'frame3.coefficients' is missing"),
    (lambda arrays: arrays.pop("chunk4"), "array 'chunk4' is missing"),
    (_put("layout", np.array(2)), "'layout' has the value 2"),
    (_put("frame0.coefficients", np.zeros((3, 3, 768))), "is float64, not integers"),
    (_put("type", np.zeros(6, int)), "is int64, not text"),
    (_put("pts", np.array([None] * 6)), "'pts' is object, not integers"),
    (_put("frame0.coefficients", np.zeros((3, 4, 768), int)), "has the shape (3, 4, 768), not (3, 3, 768)"),
    (_put("quality", np.zeros(8, int)), "has the shape (8,), not (6)"),
    (_set("frame0.coefficients", 95060, (1, 1, 5)), "'frame0.coefficients' has the value 95060"),
    (_set("frame0.classes", -4, (0, 0)), "has the value -4, which is not in -3 .. 3"),
    (_set("frame2.vectors", 2048, (0, 0, 0, 1)), "has the value 2048, which is not in -2047 .. 2047"),
    (_set("frame2.quarters", -2048, (0, 0, 0, 1)), "has the value -2048"),
    (_set("quality", 0, 0), "has the value 0, which is not in 1 .. 100"),
    (_set("quality", 99, 1), "by the anchors of its group it would be B"),
    (_set("tune", 1, 2), "by the anchors of its group it would be"),
    (_set("type", "X", 1), "frame 1 is X"),
    (_set("type", "P", 0), "it can be no P frame"),
    (_set("mini_gop", 0, 1), "frame 1 begins no mini-GOP of 0 frames"),
    (_set("mini_gop", 9, (slice(1, 3), 0)), "frame 1 begins no mini-GOP of 9 frames"),
    (_set("references", 1, (2, 0)), "frame 2 of type P cannot have the references [1, -1]"),
    (_set("references", -1, (2, 0)), "frame 2 of type P cannot have the references [-1, -1]"),
    (_set("group", 3, slice(3, 6)), "does not count the groups"),
    (_set("pts", 3, 2), "'pts' does not rise"),
    (_set("pts", 14, 3), "'pts' does not rise"),
    (_set("width", 0), "frames of 0x37 pixels are not supported"),
    (_set("width", 64), "has the shape (3, 3), not (3, 4)"),
    (_set("time_base", 0), "time base or frame rate is zero"),
    (_set("model", 7), "0707070707070707"),
    (_set("chunks", ord("z"), 3), "has not the 2 groups of pictures"),
    (_set("chunks", ord("Q"), 4), "the chunks make no stream"),
    (_set("index", 6, 0), "does not rise"),
    (_put("index", np.zeros(1, int)), "does not name a chunk for each of 2 groups"),
    (_put("header_more", np.zeros(255, np.uint8)), "more than 255 bytes"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_is_refused(arrays, tiny, change, message):
    change(arrays)
    with pytest.raises(BsqError) as caught:
        stream_of(arrays, tiny)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_broken_archive_ends_in_one_error(tiny):
    archive = io.BytesIO()
    stream_to_arrays(io.BytesIO(encode_image(moving(1, 20, 17)[0], model=tiny)), archive, model=tiny)
    data, refused = archive.getvalue(), 0
    g = np.random.default_rng(2)
    for _ in range(30):
        broken = bytearray(data)
        broken[g.integers(len(data))] ^= 1 << g.integers(8)
        out = io.BytesIO()
        try:
            arrays_to_stream(io.BytesIO(broken), out, model=tiny)
        except BsqError:
            refused += 1
            assert not out.getvalue()
    assert refused > 15
    for wrong in (b"", b"text", data[: len(data) // 2]):
        with pytest.raises(BsqError, match="not an archive of arrays"):
            arrays_to_stream(io.BytesIO(wrong), io.BytesIO())
    with pytest.raises(BsqError, match="pipe"):
        arrays_to_stream(Pipe(data), io.BytesIO())


def test_streams_that_are_refused(coded, tiny):
    with pytest.raises(ModelError, match=tiny.id.hex()):
        stream_to_arrays(io.BytesIO(coded), io.BytesIO())
    with pytest.raises(FormatError, match="needs model"):
        stream_to_arrays(io.BytesIO(coded), io.BytesIO(), model="bsq1")
    with pytest.raises(FormatError, match="limit"):
        stream_to_arrays(io.BytesIO(coded), io.BytesIO(), model=tiny, max_pixels=100)
    cut = len(coded) // 2
    for wrong in (coded[:250], coded[:cut], coded[:cut] + bytes([coded[cut] ^ 1]) + coded[cut + 1 :]):
        archive = io.BytesIO()
        with pytest.raises(FormatError):
            stream_to_arrays(io.BytesIO(wrong), archive, model=tiny)
        with pytest.raises(BsqError, match="not an archive of arrays"):
            arrays_to_stream(archive, io.BytesIO())


def test_the_command(tmp_path, capsys):
    source = FOLDER / next(s["file"] for s in conformance_streams() if "flat" in s["file"])
    arrays, back = tmp_path / "x.npz", tmp_path / "y.bsq"
    assert exit_status("tokens", source, arrays) == 0
    assert exit_status("tokens", arrays, back, "--to-bsq") == 0
    assert back.read_bytes() == source.read_bytes() and not capsys.readouterr().err
    assert exit_status("tokens", source, arrays) == 1 and "exists already" in capsys.readouterr().err
    with np.load(arrays) as found:
        changed = dict(found)
    changed["frame0.coefficients"][..., -1] = 1
    np.savez(arrays, **changed)
    assert exit_status("tokens", arrays, back, "--to-bsq", "-f") == 0
    assert "coefficients are not as asked for" in capsys.readouterr().err
    assert exit_status("verify", back, "--quiet") == 0
    del changed["quality"]
    np.savez(arrays, **changed)
    assert exit_status("tokens", arrays, tmp_path / "z.bsq", "--to-bsq") == 1
    assert capsys.readouterr().err == "bsqcodec: array 'quality' is missing\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npz", "y.bsq"]
