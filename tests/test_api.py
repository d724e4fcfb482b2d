"""The library as a newcomer uses it: reading again and backwards, closing twice, with a model of one's own."""

import inspect
import io
from dataclasses import FrozenInstanceError, fields, replace
from fractions import Fraction

import numpy as np
import pytest

import bsqcodec
from bsqcodec import BsqError, Decoder, Encoder, EncodeSettings, FormatError, MediaInfo, ModelError
from bsqcodec.__main__ import encode as encode_command
from bsqcodec.api import encode_image
from bsqcodec.network import weights
from bsqcodec.network.saving import save_model
from bsqcodec.settings import MAX_EFFORT, MAX_GOP
from bsqcodec.stream.reader import StreamReader
from bsqcodec.types import Packet, Track
from helpers import Pipe, moving, random_network, same_pictures

INFO = MediaInfo(32, 24, frame_rate=Fraction(25))
FRAMES, GOP = 7, 3


@pytest.fixture(scope="module")
def coded(tiny):
    """A stream of seven frames in three groups, and the frames as they decode."""
    file, decoded = io.BytesIO(), []
    with Encoder(file, INFO, model=tiny, gop=GOP, quality=60) as encoder:
        for t, picture in enumerate(moving(FRAMES, 24, 32)):
            decoded += encoder.write(picture, t)
        decoded += encoder.close()
    return file.getvalue(), decoded


def same(frames, expected, first):
    """Whether frames are those expected, from number `first` on."""
    frames = list(frames)
    right = expected[first : first + len(frames)]
    assert [frame.pts for frame in frames] == list(range(first, first + len(right)))
    return len(frames) > 0 and same_pictures([frame.rgb for frame in frames], right)


def test_frames_again_and_backwards(coded, tiny):
    data, decoded = coded
    decoder = Decoder(io.BytesIO(data), model=tiny)
    for _ in range(2):
        assert len(list(decoder.frames())) == FRAMES and same(decoder.frames(), decoded, 0)
    for start, stop in ((2, 4), (0, 2), (6, None), (5, 6), (0, 1), (1, 7), (0, None)):
        assert same(decoder.frames(start, stop), decoded, start)
    assert len(list(decoder.symbols())) == FRAMES == len(list(decoder.symbols()))
    assert same(decoder.frames(3, 5), decoded, 3)


def test_a_file_of_one_group_has_no_index_and_is_read_again(tiny):
    data = encode_image(moving(1, 24, 32)[0], model=tiny)
    decoder = Decoder(io.BytesIO(data), model=tiny)
    first, second = [next(iter(decoder.frames())).rgb for _ in range(2)]
    assert np.array_equal(first, second) and list(decoder.frames(1)) == []
    assert len(list(decoder.frames())) == 1


def test_an_iteration_left_early_does_not_matter(coded, tiny):
    data, decoded = coded
    decoder = Decoder(io.BytesIO(data), model=tiny)
    for _ in decoder.frames(4):
        break
    assert same(decoder.frames(), decoded, 0)


def test_a_new_iteration_ends_the_one_before(coded, tiny):
    data, decoded = coded
    decoder = Decoder(io.BytesIO(data), model=tiny)
    old = decoder.frames()
    next(old)
    assert same(decoder.frames(1, 3), decoded, 1)
    with pytest.raises(BsqError, match="read anew"):
        list(old)


def test_a_damaged_stream_is_concealed_alike_each_time(coded, tiny):
    data, _ = coded
    reader = StreamReader(io.BytesIO(data))
    offset = reader.index()[1].offset
    broken = data[: offset + 12] + bytes([data[offset + 12] ^ 1]) + data[offset + 13 :]
    decoder = Decoder(io.BytesIO(broken), model=tiny)
    results = []
    for _ in range(2):
        pictures = [frame.rgb.tobytes() for frame in decoder.frames(conceal=True)]
        results.append((pictures, list(decoder.warnings)))
    assert results[0] == results[1] and len(results[0][0]) == FRAMES and len(results[0][1]) == 1


def test_sound_comes_again(tiny):
    track = Track("pcm_s16le", Fraction(1, 8000), 8000, "mono", b"")
    file = io.BytesIO()
    with Encoder(file, MediaInfo(32, 24, frame_rate=Fraction(25), tracks=(track,)), model=tiny) as encoder:
        encoder.write_packet(Packet(0, 160, b"x" * 320))
        encoder.write(moving(1, 24, 32)[0], 0)
    file.seek(0)
    decoder, heard = Decoder(file, model=tiny), []
    decoder.on_packet = heard.append
    for _ in range(2):
        assert len(list(decoder.frames())) == 1
    assert len(heard) == 2 and heard[0] == heard[1]


def test_a_stream_that_begins_within_a_file(coded, tiny):
    data, decoded = coded
    file = io.BytesIO(b"x" * 100 + data)
    file.seek(100)
    decoder = Decoder(file, model=tiny)
    for start in (0, 0, 4, 1):
        assert same(decoder.frames(start), decoded, start)


def test_streams_one_after_the_other(coded, tiny):
    data, decoded = coded
    other = encode_image(255 - moving(1, 24, 32)[0], model=tiny)
    file = io.BytesIO(other + data)
    first = list(Decoder(file, model=tiny).frames())
    assert len(first) == 1 and not np.array_equal(first[0].rgb, decoded[0])
    assert same(Decoder(file, model=tiny).frames(), decoded, 0)


class ReadOnly:
    """An object that can do nothing but read."""

    def __init__(self, data):
        self.read = io.BytesIO(data).read


def test_what_can_only_read_is_enough(coded, tiny):
    data, decoded = coded
    assert same(Decoder(ReadOnly(data), model=tiny).frames(), decoded, 0)


def test_a_pipe_is_read_once(coded, tiny):
    data, decoded = coded
    decoder = Decoder(io.BufferedReader(Pipe(data)), model=tiny)
    assert same(decoder.frames(2, 4), decoded, 2)
    with pytest.raises(BsqError, match="only once"):
        list(decoder.frames())


def test_an_encoder_closes_once(tiny):
    file = io.BytesIO()
    encoder = Encoder(file, INFO, model=tiny)
    encoder.write(moving(1, 24, 32)[0], 0)
    encoder.close()
    data = file.getvalue()
    assert encoder.close() == [] and file.getvalue() == data and not file.closed
    for use in (
        lambda: encoder.write(moving(1, 24, 32)[0], 1),
        lambda: encoder.write_coded([1], b"", b"", 0.0),
        lambda: encoder.write_packet(Packet(0, 1, b"")),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert file.getvalue() == data


def test_a_frame_that_is_refused_changes_nothing(tiny):
    file = io.BytesIO()
    with Encoder(file, INFO, model=tiny) as encoder:
        for wrong in (np.zeros((8, 8, 3), np.uint8), np.zeros((24, 32, 3), np.float32)):
            with pytest.raises(ValueError, match="frame is"):
                encoder.write(wrong)
        encoder.write(moving(1, 24, 32)[0], 0)
    file.seek(0)
    assert len(list(Decoder(file, model=tiny).frames())) == 1


def test_context_managers(coded, tiny):
    data, _ = coded
    with Decoder(io.BytesIO(data), model=tiny) as decoder:
        assert len(list(decoder.frames())) == FRAMES
    with pytest.raises(ValueError, match="closed"):
        next(decoder.frames())
    file = io.BytesIO()

    def fail_after_a_frame(encoder):
        encoder.write(moving(1, 24, 32)[0], 0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Encoder(file, INFO, model=tiny) as encoder:
        fail_after_a_frame(encoder)
    with pytest.raises(ValueError, match="closed"):
        encoder.write(moving(1, 24, 32)[0], 1)
    with pytest.raises(FormatError, match="cut short"):  # no end was written: what failed does not look whole
        list(StreamReader(io.BytesIO(file.getvalue())).chunks())


def test_decode_image_with_a_model_and_a_limit(tiny, tmp_path):
    picture = moving(1, 24, 32)[0]
    data = bsqcodec.encode_image(picture, model=tiny, quality=70)
    with pytest.raises(ModelError, match="not installed"):
        bsqcodec.decode_image(data)
    save_model(random_network(), tmp_path / "tiny.safetensors")
    for model in (tiny, str(tmp_path / "tiny.safetensors")):
        assert bsqcodec.decode_image(data, model=model).shape == picture.shape
    assert bsqcodec.decode_image(data, model=tiny, max_pixels=32 * 24).shape == picture.shape
    with pytest.raises(FormatError, match="above the limit"):
        bsqcodec.decode_image(data, model=tiny, max_pixels=32 * 24 - 1)


def test_a_model_is_loaded_once(tmp_path, monkeypatch):
    path, reads = tmp_path / "one.safetensors", []
    save_model(random_network(), path)
    read = weights.read_file
    monkeypatch.setattr(weights, "read_file", lambda p: reads.append(p) or read(p))
    model = bsqcodec.load_model(str(path))
    assert isinstance(model, bsqcodec.Model) and bsqcodec.load_model(str(path)) is model
    picture = moving(1, 24, 32)[0]
    data = bsqcodec.encode_image(picture, model=str(path))
    bsqcodec.decode_image(data, model=str(path), device="cpu")
    assert len(reads) == 1
    (tmp_path / "link.safetensors").symlink_to(path)
    assert bsqcodec.load_model(str(tmp_path / "link.safetensors")).name == "link"
    reads.clear()
    changed = random_network()
    changed.p_phase.data += 1
    save_model(changed, path)
    assert bsqcodec.load_model(str(path)).id != model.id and len(reads) == 1


def test_settings_are_frozen_and_checked():
    settings = EncodeSettings()
    with pytest.raises(FrozenInstanceError):
        settings.quality = 3
    for bad in (
        *({"quality": q} for q in (0, 101)),
        *({"gop": n} for n in (0, MAX_GOP + 1)),
        *({"effort": n} for n in (-1, MAX_EFFORT + 1)),
        {"tune": "ssim"},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            EncodeSettings(**bad)
    for bad in ({"quality": 40.0}, {"gop": 2.5}, {"effort": "3"}):
        with pytest.raises(TypeError):
            EncodeSettings(**bad)
    with pytest.raises(TypeError, match="quality=40"):
        bsqcodec.encode_image(np.zeros((8, 8, 3), np.uint8), 40)
    assert type(EncodeSettings(quality=np.uint8(3)).quality) is int
    with pytest.raises(TypeError):
        bsqcodec.encode_image(np.zeros((8, 8, 3), np.uint8), speed=3)


def test_every_setting_is_an_option_with_the_same_default():
    options = encode_command.make_context("encode", ["in", "out"]).params
    for setting in fields(EncodeSettings):
        assert options[setting.name] == setting.default


def test_a_still_image_need_not_be_decoded(tiny):
    """The same bytes, and nothing given back; a video is decoded all the same."""
    frames, still = moving(2, 24, 32), MediaInfo(32, 24)
    clear = np.dstack([frames[0], frames[0][..., 0]])
    for info, first in ((still, frames[0]), (replace(still, alpha=True), clear), (INFO, frames[0])):
        streams = []
        for decoded in (True, False):
            file = io.BytesIO()
            with Encoder(file, info, model=tiny, decoded=decoded) as encoder:
                given = encoder.write(first)
                given += encoder.write(frames[1], 1) if info.frame_rate else []
                given += encoder.close()
            streams.append(file.getvalue())
            assert len(given) == encoder.frames * (decoded or not info.image) and encoder.stats.bits > 0
        assert streams[0] == streams[1]


def test_options_stand_in_for_settings(tiny):
    picture = moving(1, 24, 32)[0]
    plain = encode_image(picture, EncodeSettings(30, tune="psnr"), model=tiny)
    assert plain == encode_image(picture, model=tiny, quality=30, tune="psnr")
    assert plain == encode_image(picture, EncodeSettings(80, tune="psnr"), model=tiny, quality=30)
    assert plain != encode_image(picture, EncodeSettings(30), model=tiny)


def test_public_names_are_there_and_documented():
    for name in bsqcodec.__all__:
        assert inspect.getdoc(getattr(bsqcodec, name)), name
    with pytest.raises(AttributeError):
        bsqcodec.nothing  # noqa: B018


def lasting(tiny, frames=3):
    """A video whose last frame is shown for 7 units of time."""
    file = io.BytesIO()
    with Encoder(file, MediaInfo(32, 24, frame_rate=Fraction(25)), model=tiny, gop=2) as encoder:
        for t, picture in enumerate(moving(frames, 24, 32)):
            encoder.write(picture, t, 7 if t == frames - 1 else 0)
    return file.getvalue()


@pytest.mark.parametrize("make", [io.BytesIO, Pipe])
def test_the_last_frame_has_its_duration(tiny, make):
    decoder = Decoder(make(lasting(tiny)), model=tiny)
    seen = []
    for frame in decoder.frames():
        seen.append((frame.duration, decoder.last_duration))
    known = 7 if make is io.BytesIO else 0  # a pipe tells it after the frame
    assert seen == [(0, 0), (0, 0), (known, known)] and decoder.last_duration == 7


def test_a_part_has_the_duration_of_its_own_last_frame(tiny):
    decoder = Decoder(io.BytesIO(lasting(tiny)), model=tiny)
    assert [frame.duration for frame in decoder.frames(0, 2)] == [0, 0] and decoder.last_duration == 0
    assert [frame.duration for frame in decoder.frames(2, 3)] == [7] and decoder.last_duration == 7
