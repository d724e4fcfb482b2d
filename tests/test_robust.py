"""Damaged, cut and hostile streams: what is lost is told, what is not lost decodes, and nothing hostile is believed."""

import contextlib
import io
import resource
import shutil
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import fuzz
import mutations
from bsqcodec.api import Decoder, Encoder
from bsqcodec.errors import BsqError, FormatError
from bsqcodec.file_decoder import decode_file
from bsqcodec.network.saving import save_model
from bsqcodec.stream.container import Gop, IndexEntry, StreamWriter, pack_header
from bsqcodec.stream.fields import varint
from bsqcodec.stream.reader import StreamReader
from bsqcodec.stream.recovery import Lost
from bsqcodec.types import MediaInfo
from helpers import GOPS, INFO, MODEL, Pipe, checked, exit_status, random_model, random_network, same_pictures, stream

PTS = [0, 10, 20, 30, 45, 50]  # three groups of two frames


@pytest.fixture(scope="module")
def model(tiny):
    return tiny


@pytest.fixture(scope="module")
def coded(model):
    file = io.BytesIO()
    encoder = Encoder(file, MediaInfo(20, 17, frame_rate=25), model=model, quality=60, gop=2)
    noise = np.random.default_rng(0).integers(0, 256, (17, 20, 3), np.uint8)
    for t, pts in enumerate(PTS):
        encoder.write(np.roll(noise, t, 1), pts)
    encoder.close()
    return file.getvalue()


@pytest.fixture(scope="module")
def good(model, coded):
    return list(Decoder(io.BytesIO(coded), "cpu", model).frames())


def offsets(data) -> list[int]:
    return [entry.offset for entry in StreamReader(io.BytesIO(data)).index()]


def flip(data, at):
    bad = bytearray(data)
    bad[at] ^= 1
    return bytes(bad)


def pipe(data):
    return io.BufferedReader(Pipe(data))


def pictures(frames):
    return [frame.rgb for frame in frames]


# ---------------------------------------------------------------- damage


def test_error_names_group_frame_and_byte(model, coded, good):
    at = offsets(coded)[1]
    for make in (io.BytesIO, pipe):
        seen = []
        with pytest.raises(FormatError, match=rf"byte {at} \(group 1, from frame 2\) is damaged"):
            seen.extend(Decoder(make(flip(coded, at + 9)), "cpu", model).frames())  # those before the error stay in it
        assert [f.pts for f in seen] == PTS[:2] and same_pictures(pictures(seen), pictures(good[:2]))
    # the type: the index still tells
    with pytest.raises(FormatError, match=rf"byte {at} \(group 1, from frame 2\)"):
        list(Decoder(io.BytesIO(flip(coded, at)), "cpu", model).frames())


@pytest.mark.parametrize("field", [0, 1, 9])  # type, length, payload
@pytest.mark.parametrize("make", [io.BytesIO, pipe])
def test_lost_group_is_concealed(model, coded, good, field, make):
    decoder = Decoder(make(flip(coded, offsets(coded)[1] + field)), "cpu", model)
    frames = list(decoder.frames(conceal=True))
    assert [f.pts for f in frames] == [0, 10, 21, 33, 45, 50]
    shown = [0, 1, 1, 1, 4, 5]
    assert same_pictures(pictures(frames), [good[i].rgb for i in shown])
    (warning,) = decoder.warnings
    assert warning.startswith("frames 2 to 3 are lost, the last good frame stays: ")


def test_first_and_last_group_are_concealed(model, coded, good):
    first, _, last = offsets(coded)
    decoder = Decoder(io.BytesIO(flip(coded, first + 9)), "cpu", model)
    frames = list(decoder.frames(conceal=True))
    assert [f.pts for f in frames] == [0, 10, 20, 30, 45, 50] and (frames[1].rgb == 128).all()
    assert "frames 0 to 1 are lost, gray" in decoder.warnings[0]
    decoder = Decoder(io.BytesIO(flip(coded, last + 9)), "cpu", model)
    frames = list(decoder.frames(conceal=True))
    assert [f.pts for f in frames] == [0, 10, 20, 30, 40, 50] and np.array_equal(frames[5].rgb, good[3].rgb)
    decoder = Decoder(io.BytesIO(flip(coded, last + 9)), "cpu", model)
    assert [f.pts for f in decoder.frames(3, 5, conceal=True)] == [30, 40]
    assert "frame 4 is lost" in decoder.warnings[0]


def test_damaged_bits_under_a_good_checksum_are_concealed(model, coded):
    numbers, identity, chunks = mutations.split(coded)
    chunks[1] = (b"G", varint(2) + varint(2) + varint(40) + varint(10) + b"\x01\x02\x00\x00\x05\x00")  # quality 0
    bad = mutations.join(numbers, identity, chunks)
    with pytest.raises(FormatError, match=f"frames 2 to 3, in the chunk at byte {offsets(coded)[1]}"):
        list(Decoder(io.BytesIO(bad), "cpu", model).frames())
    decoder = Decoder(io.BytesIO(bad), "cpu", model)
    assert len(list(decoder.frames(conceal=True))) == 6 and len(decoder.warnings) == 1


@fuzz.remembered()
def test_every_cut_leaves_the_whole_groups(model, coded):
    starts = offsets(coded)
    payload = StreamReader(io.BytesIO(coded)).size
    ends = [*starts[1:], len(coded) - struct.unpack("<I", coded[-8:-4])[0]]
    for n in [payload, *starts, *ends, *range(payload + 1, len(coded), 7)]:
        decoder = Decoder(io.BytesIO(coded[:n]), "cpu", model)
        whole = 2 * sum(end <= n for end in ends)
        assert sum(1 for _ in decoder.frames(conceal=True)) == whole
        assert f"from frame {whole} on is lost" in decoder.warnings[-1]
    cut = Decoder(io.BytesIO(coded[: starts[2] + 5]), "cpu", model)
    assert [f.pts for f in until_error(cut.frames(3))] == [30]  # no index, yet the frame is found


def until_error(frames):
    with contextlib.suppress(FormatError):
        yield from frames


def test_no_flipped_bit_loses_more_than_its_chunk():
    data = stream(gops=[*GOPS, ((9999,), b"G\x03\x00E\x01")])
    whole = [c for c in StreamReader(io.BytesIO(data)).chunks() if isinstance(c, Gop)]
    header = 10 + data[5]
    for make, bits in ((io.BytesIO, range(8 * header, 8 * len(data), 3)), (pipe, range(8 * header, 8 * len(data), 41))):
        for i in bits:
            bad = bytearray(data)
            bad[i // 8] ^= 1 << i % 8
            chunks = [c for c in StreamReader(make(bytes(bad))).chunks(True) if not isinstance(c, list)]
            number, times = 0, []
            for c in chunks:
                assert c.first == number
                number += len(c.pts)
                times += c.pts
            assert times == sorted(set(times))
            (lost,) = [c for c in chunks if isinstance(c, Lost)]
            assert number == 8 or lost.ended
            read = [(c.pts, c.payload) for c in chunks if isinstance(c, Gop)]
            assert len(read) >= 3 and all((c.pts, c.payload) in read for c in whole if c.first != lost.first)


@fuzz.remembered()
def test_ancillary_chunks_change_no_frame(model, coded, good):
    numbers, identity, chunks = mutations.split(coded)
    assert mutations.join(numbers, identity, chunks) == coded
    text = b"q", b"made by somebody"
    for place in range(len(chunks)):
        more = mutations.join(numbers, identity, [*chunks[:place], text, *chunks[place:]])
        for conceal in (False, True):
            decoder = Decoder(io.BytesIO(more), "cpu", model)
            frames = list(decoder.frames(conceal=conceal))
            assert not decoder.warnings
            assert [f.pts for f in frames] == PTS and same_pictures(pictures(frames), pictures(good))
        # one that is damaged takes no frame with it, but is told
        bad = flip(more, more.index(text[1]) + 3)
        with pytest.raises(FormatError, match="is damaged"):
            list(Decoder(pipe(bad), "cpu", model).frames())
        decoder = Decoder(pipe(bad), "cpu", model)
        frames = list(decoder.frames(conceal=True))
        assert same_pictures(pictures(frames), pictures(good))
        (warning,) = decoder.warnings
        assert warning.startswith(f"no frame is lost before frame {2 * place}, but something else")


def test_unknown_critical_chunks_are_refused_or_told(model, coded, good):
    numbers, identity, chunks = mutations.split(coded)
    more = mutations.join(numbers, identity, [chunks[0], (b"T", b"text"), *chunks[1:]])
    with pytest.raises(FormatError, match="unknown kind b'T'"):
        list(Decoder(io.BytesIO(more), "cpu", model).frames())
    decoder = Decoder(io.BytesIO(more), "cpu", model)
    assert len(list(decoder.frames(conceal=True))) == len(good) and len(decoder.warnings) == 1


@pytest.mark.parametrize("version", [0, 2, 3])
def test_other_versions_are_refused_by_every_command(files, coded, capsys, version):
    (files / "other.bsq").write_bytes(coded[:4] + bytes([version]) + coded[5:])
    for words in (("decode", "--md5"), ("decode", "--md5", "--conceal"), ("info",), ("verify",)):
        status, err = command(capsys, words[0], files / "other.bsq", *words[1:])
        assert status == 1
        line = f"the stream has version {version}; this decoder reads version 1"
        assert err == f"bsqcodec: {files / 'other.bsq'}: {line}\n"


def test_missing_bytes_and_foreign_bytes_are_survived():
    data = stream(replace_audio(INFO))
    starts = offsets(data)
    for bad in (data[: starts[1]] + data[starts[2] :], data[: starts[1]] + bytes(5000) + data[starts[1] :]):
        for make in (io.BytesIO, pipe):
            chunks = list(StreamReader(make(bad)).chunks(True))
            assert [c.first for c in chunks if isinstance(c, Gop)] in ([0, 4], [0, 3, 4])
            assert sum(len(c.pts) for c in chunks) == 7


def replace_audio(info):
    return replace(info, tracks=())


def test_claims_of_lost_frames_are_bounded():
    """A whole group far away is not believed: nothing so large was ever there."""
    head = pack_header(MODEL, replace_audio(INFO))
    for first in (65536, 1 << 40):
        far = checked(b"G" + varint(len(body := varint(first) + varint(1) + varint(1 << 50) + b"x")) + body)
        with pytest.raises(FormatError, match="missing"):
            list(StreamReader(io.BytesIO(head + far)).chunks())
        (lost,) = StreamReader(io.BytesIO(head + far)).chunks(True)
        assert lost.ended and not lost.pts
    reader = StreamReader(io.BytesIO(stream()))
    reader.seek(IndexEntry(reader.index()[1].offset, 2))
    with pytest.raises(FormatError, match="begins with frame 3"):
        next(reader.chunks())


def test_writer_refuses_times_that_run_back():
    writer = StreamWriter(io.BytesIO(), MODEL, replace_audio(INFO))
    writer.gop([0, 5], b"x")
    for pts in ([5], [3, 9], [6, 6], [1 << 62]):
        with pytest.raises(ValueError, match="times"):
            writer.gop(pts, b"x")


def test_decode_file_with_nothing_left(tmp_path, coded, model):
    (tmp_path / "cut.bsq").write_bytes(coded[: offsets(coded)[0] + 9])
    with pytest.raises(BsqError, match="no such frames: whatever there was from frame 0 on is lost"):
        decode_file(str(tmp_path / "cut.bsq"), None, model=model, device="cpu", conceal=True)


# ---------------------------------------------------------------- command line


@pytest.fixture
def files(tmp_path, coded):
    at = offsets(coded)[1]
    (tmp_path / "bad.bsq").write_bytes(flip(coded, at + 9))
    save_model(random_network(), tmp_path / "tiny.safetensors")
    return tmp_path


def command(capsys, *words):
    """Exit status and standard error."""
    return exit_status(*words), capsys.readouterr().err


def test_decode_of_a_damaged_file(files, capsys):
    words = ("decode", files / "bad.bsq", f"{files}/o/", "--model", files / "tiny.safetensors", "--quiet")
    status, err = command(capsys, *words)
    assert status == 1 and "group 1, from frame 2" in err and not (files / "o").exists()
    status, err = command(capsys, *words, "--keep-partial")
    assert status == 1 and err.count("\n") == 1 and "what comes before is kept" in err
    assert len(list((files / "o").iterdir())) == 2
    shutil.rmtree(files / "o")
    status, err = command(capsys, *words, "--conceal")
    assert status == 0 and err.count("\n") == 1 and "warning: frames 2 to 3 are lost" in err
    assert len(list((files / "o").iterdir())) == 6
    status, err = command(capsys, *words[:-1], "--keep-partial", "--conceal", "-f")
    assert status == 1 and "not both" in err


def test_limit_of_pixels(files, capsys):
    for words in (("decode", "--md5"), ("info",), ("verify",)):
        status, err = command(capsys, words[0], files / "bad.bsq", *words[1:], "--max-pixels", 339)
        assert status == 1 and "above the limit of 339 pixels" in err
    assert command(capsys, "info", files / "bad.bsq", "--max-pixels", 340)[0] == 0


def test_no_memory(files, capsys, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("bsqcodec.file_decoder.decode_file", full)
    status, err = command(capsys, "decode", files / "bad.bsq", "--md5")
    assert status == 1 and err == "bsqcodec: not enough memory\n"


# ---------------------------------------------------------------- hostile input


def test_nothing_is_allocated_for_a_claim(model):
    """8192x8192 pixels and chunks of a gigabyte, in files of less than 100 bytes."""
    info = MediaInfo(8192, 8192, frame_rate=25)

    def large(*gops):
        file = io.BytesIO()
        writer = StreamWriter(file, model.id, info)
        for payload in gops:
            writer.gop([writer.frames], payload)
        writer.close()
        return file.getvalue()

    claims = [
        large(b""),  # no group header
        large(bytes([1, 0, 0, 0])),  # no frame header
        large(bytes([1, 0, 0, 0, 0])),  # of no quality
        large(bytes([1, 0, 0, 0, 0x7F])),  # of quality 127
        large(bytes([0, 0, 0, 0, 50])),  # of no length of its mini-GOPs
        large(bytes([1, 0, 2, 0, 50])),  # of a tune that there is not
        large(bytes([1, 0, 0, 255, 50])),  # of a frame header that is longer than the payload
        pack_header(model.id, info) + b"G" + varint(1 << 30),
        pack_header(model.id, info) + checked(b"G" + varint(9) + varint(0) + varint(1 << 50)),
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in claims:
        assert len(data) < 100
        tracemalloc.start()
        try:
            with pytest.raises(FormatError):
                list(Decoder(io.BytesIO(data), "cpu", model).frames())
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_fuzz_a_little(tmp_path):
    """`python tests/fuzz.py` is the long run."""
    outcome = fuzz.run(random_model(), 300, seed=1, minutes=0.25, out=str(tmp_path / "failures"))
    assert not outcome.failures
    assert outcome.decoded and outcome.refused and outcome.inner
