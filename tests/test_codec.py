"""Groups of pictures: what the decoder gives is what the encoder predicted from."""

import itertools
import threading

import numpy as np
import pytest
import torch
from conftest import random_network
from skimage import data as skdata

from bsqcodec import codec
from bsqcodec.codec import GopEncoder, coding_order, decode_gop, frame_headers
from bsqcodec.errors import BsqError, FormatError, ModelError
from bsqcodec.exact import set_kinds
from bsqcodec.model import Model, find_model, integers, load_model, model_id, save_model
from bsqcodec.vectors import VectorCoder


@pytest.fixture(scope="module")
def model():
    return Model(random_network(), "tiny")


def clip(height, width, frames, seed=0):
    """A textured image that drifts, uint8 (frames, height, width, 3)."""
    rng = np.random.default_rng(seed)
    base = rng.normal(128, 40, (height // 4 + 8, width // 4 + 8, 3)).clip(0, 255)
    big = np.kron(base, np.ones((4, 4, 1)))
    return np.stack([big[t : t + height, 2 * t : 2 * t + width] for t in range(frames)]).astype(np.uint8)


def encode(model, frames, qualities, mini=1):
    encoder = GopEncoder(model, *frames.shape[1:3], mini=mini)
    decoded = [picture for f, q in zip(frames, qualities) for picture in encoder.push(f, q)] + encoder.flush()
    return encoder.finish(), decoded, encoder.stats


@pytest.mark.parametrize("height,width,frames", [(48, 64, 3), (1, 1, 2), (15, 17, 3), (16, 16, 1), (33, 100, 2)])
def test_decoder_gives_the_frames_the_encoder_predicted_from(model, height, width, frames):
    x = clip(height, width, frames)
    payload, decoded, stats = encode(model, x, [30, 60, 90])
    out = list(decode_gop(model, payload, height, width, frames))
    assert len(out) == frames
    assert all(np.array_equal(a, b) for a, b in zip(out, decoded))
    assert [s.kind for s in stats][0] == "I"


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_symbols_are_decoded_beside_the_pixels_where_there_are_threads(model, monkeypatch, set_threads):
    payload, decoded, _ = encode(model, clip(33, 48, 4), [30, 60, 90, 40])
    seen = []
    original = codec.decode_symbols

    def watched(*arguments):
        for s in original(*arguments):
            seen.append((threading.current_thread() is threading.main_thread(), s.bits.is_inference()))
            yield s

    monkeypatch.setattr(codec, "decode_symbols", watched)
    for threads in (1, 2, 3):
        set_threads(threads)
        for frame, expected in zip(decode_gop(model, payload, 33, 48, 4), decoded, strict=True):
            assert np.array_equal(frame, expected) and torch.get_num_threads() == threads
        assert seen == [(threads == 1, True)] * 4
        seen.clear()


def test_an_error_beside_comes_in_its_place_and_nothing_is_left(model, monkeypatch, set_threads):
    payload, decoded, _ = encode(model, clip(32, 32, 4), [50] * 4)
    set_threads(2)
    threads = threading.active_count()
    frames = decode_gop(model, payload, 32, 32, 4)
    assert np.array_equal(next(frames), decoded[0])
    frames.close()
    assert threading.active_count() == threads and torch.get_num_threads() == 2
    original = codec.decode_symbols

    def broken(*arguments):
        yield from itertools.islice(original(*arguments), 3)
        raise FormatError("broken")

    monkeypatch.setattr(codec, "decode_symbols", broken)
    frames = decode_gop(model, payload, 32, 32, 4)
    assert all(np.array_equal(next(frames), decoded[i]) for i in range(3))
    with pytest.raises(FormatError, match="broken"):
        next(frames)
    assert threading.active_count() == threads


def test_file_is_as_long_as_the_ideal_code(model):
    payload, _, stats = encode(model, clip(64, 96, 4), [50] * 4)
    ideal = sum(s.bits + s.vector_bits for s in stats)
    assert ideal <= 8 * len(payload) <= ideal * 1.002 + 8 * len(stats) + 64


def test_a_scene_cut_starts_over():
    model = load_model()
    x = np.concatenate([clip(32, 32, 2), 255 - clip(32, 32, 2, seed=9)])
    x[:2] //= 8
    payload, decoded, stats = encode(model, x, [90] * 4)
    assert stats[2].kind == "I"
    assert np.array_equal(list(decode_gop(model, payload, 32, 32, 4))[3], decoded[3])


def test_coarse_coding_is_no_scene_cut():
    picture = skdata.astronaut()
    frames = [picture[100 + t : 164 + t, 100:196] for t in range(4)]
    _, _, stats = encode(load_model(), np.stack(frames), [1] * 4)
    assert [s.kind for s in stats] == ["I", "P", "P", "P"]


def test_decoder_uses_no_state_of_the_encoder(model):
    """Two interleaved encoders and decoders do not disturb each other."""
    a, b = clip(32, 48, 2), clip(32, 48, 2, seed=5)
    ea, eb = GopEncoder(model, 32, 48), GopEncoder(model, 32, 48)
    ra, rb = zip(*[(ea.push(x, 40)[0], eb.push(y, 70)[0]) for x, y in zip(a, b)])
    pairs = zip(decode_gop(model, ea.finish(), 32, 48, 2), decode_gop(model, eb.finish(), 32, 48, 2))
    for (x, y), u, v in zip(pairs, ra, rb):
        assert np.array_equal(x, u) and np.array_equal(y, v)


def test_threads_do_not_change_a_bit(model):
    x = clip(48, 80, 2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        payload, decoded, _ = encode(model, x, [55, 55])
        torch.set_num_threads(2)
        assert all(np.array_equal(a, b) for a, b in zip(decode_gop(model, payload, 48, 80, 2), decoded))
    finally:
        torch.set_num_threads(threads)


def test_prefix_of_frames_does_not_depend_on_later_ones(model):
    x = clip(32, 32, 3)
    y = x.copy()
    y[2] = 255 - y[2]
    _, a, _ = encode(model, x, [50] * 3)
    _, b, _ = encode(model, y, [50] * 3)
    assert np.array_equal(a[1], b[1]) and not np.array_equal(a[2], b[2])


@pytest.mark.parametrize("payload", [b"", b"\x32", b"\xb2" + bytes(40), b"\x00" + bytes(40), b"\x7f" + bytes(40)])
def test_broken_payloads_are_format_errors(model, payload):
    with pytest.raises(FormatError):
        list(decode_gop(model, payload, 32, 32, 2))


def test_garbage_decodes_or_is_refused_but_never_crashes(model):
    rng = np.random.default_rng(0)
    for n in range(20):
        payload = b"\x32\xb2" + rng.integers(0, 256, 4 * n, dtype=np.uint8).tobytes()
        try:
            assert len(list(decode_gop(model, payload, 32, 32, 2))) == 2
        except FormatError:
            pass


def test_wrong_frames_are_refused(model):
    encoder = GopEncoder(model, 32, 32)
    with pytest.raises(ValueError, match="uint8"):
        encoder.push(np.zeros((32, 31, 3), np.uint8), 50)
    with pytest.raises(ValueError, match="quality"):
        encoder.push(np.zeros((32, 32, 3), np.uint8), 101)


def test_model_file_round_trip(tmp_path, model):
    path = tmp_path / "tiny.safetensors"
    identity = save_model(random_network(), path)
    loaded = load_model(str(path))
    assert loaded.id == identity == model.id
    payload, decoded, _ = encode(model, clip(32, 32, 2), [50, 50])
    assert all(np.array_equal(a, b) for a, b in zip(decode_gop(loaded, payload, 32, 32, 2), decoded))


def test_a_model_of_two_kinds_codes_b_frames_as_p_frames(tmp_path):
    network = random_network()
    set_kinds(network, 2)
    identity = save_model(network, tmp_path / "two.safetensors")
    loaded = load_model(str(tmp_path / "two.safetensors"))
    assert loaded.id == identity
    set_kinds(network, 3)
    three = Model(network, "three")
    assert three.id != identity
    assert torch.equal(loaded.unrounded.prior.logit_bias.anchors, loaded.network.prior.logit_bias.anchors)
    payload, decoded, stats = encode(loaded, clip(32, 32, 5), [50] * 5, mini=4)
    assert {s.kind for s in stats} == {"I", "P", "B"}
    for model in (loaded, three):
        assert all(np.array_equal(a, b) for a, b in zip(decode_gop(model, payload, 32, 32, 5), decoded))


def test_tampered_weights_are_refused(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_model(random_network(), path)
    data = bytearray(path.read_bytes())
    for position in (len(data) - 3, len(data) // 2, 4):
        bad = bytearray(data)
        bad[position] ^= 1
        path.write_bytes(bad)
        with pytest.raises(ModelError):
            load_model(str(path))


def test_the_encoder_is_not_part_of_the_id():
    a, b = random_network(), random_network()
    b.encoder.out.bias.data += 1
    assert model_id(a.config, integers(a)) == model_id(b.config, integers(b))
    b.prior.phase.data += 1
    assert model_id(a.config, integers(a)) != model_id(b.config, integers(b))


def test_unknown_models_are_named():
    with pytest.raises(ModelError, match="0102030405060708"):
        find_model(bytes(range(1, 9)))
    with pytest.raises(BsqError, match="packaged models"):
        load_model("no-such-model")


def test_order_of_coding():
    assert [p.number for p in coding_order(10, 4)] == [0, 4, 2, 1, 3, 8, 6, 5, 7, 9]
    for frames, mini in itertools.product(range(1, 40), (1, 2, 3, 4, 7, 16)):
        seen = set()
        for place in coding_order(frames, mini):
            assert {place.before, place.after} - {None} <= seen
            assert place.before is None or place.before < place.number
            assert place.after is None or place.after > place.number
            seen.add(place.number)
        assert seen == set(range(frames))


@pytest.mark.parametrize("mini", [2, 3, 4, 16])
@pytest.mark.parametrize("frames", [1, 2, 3, 6, 11])
def test_b_frames_decode_as_the_encoder_said(model, mini, frames):
    x = clip(33, 48, frames)
    payload, decoded, stats = encode(model, x, itertools.cycle([30, 60, 90]), mini)
    assert len(decoded) == len(stats) == frames
    assert all(np.array_equal(a, b) for a, b in zip(decode_gop(model, payload, 33, 48, frames), decoded, strict=True))
    headers = frame_headers(payload, frames)
    assert [(h.kind, h.quality) for h in headers] == [(s.kind, s.quality) for s in stats]
    assert any(h.kind == "B" for h in headers) == (frames > 2)


def test_a_scene_cut_between_anchors():
    """The anchor after it is an I frame, and every B frame is predicted from its own side."""
    model = load_model()
    x = np.concatenate([clip(32, 48, 3), 255 - clip(32, 48, 2, seed=9)])
    x[:3] //= 8
    payload, decoded, stats = encode(model, x, [70] * 5, 4)
    assert [s.kind for s in stats[:2]] == ["I", "I"]
    assert all(np.array_equal(a, b) for a, b in zip(decode_gop(model, payload, 32, 48, 5), decoded, strict=True))
    symbols = {s.place.number: s for s in codec.decode_symbols(model, payload, 32, 48, 5)}
    assert 4 not in symbols[1].vectors and 4 not in symbols[2].vectors and 0 not in symbols[3].vectors


def test_little_is_kept_of_frames_that_are_done(model):
    x = clip(32, 32, 6)
    encoder = GopEncoder(model, 32, 32, mini=4)
    for t in range(30):
        encoder.push(x[t % 6], 50)
        assert len(encoder._pictures.canvases) <= 5 and len(encoder._past._bits) <= 5


@pytest.mark.parametrize(
    "start", [b"\0", b"\0\1\6  ", b"\0\x11\6  ", b"\0\2\6", b"\0\2\6 ", b"\0\2\6\xa0 ", b"\0\2\6 \0"]
)
def test_impossible_headers_of_b_frames(start):
    with pytest.raises(FormatError):
        frame_headers(start, 2)


def test_vectors_are_expected_by_the_book(monkeypatch):
    """Against bitstream_spec.md, section 4, in its words."""
    model = load_model()
    x = clip(64, 96, 12)
    expected = []
    original = VectorCoder.expect
    monkeypatch.setattr(VectorCoder, "expect", lambda self, e: expected.append(e) or original(self, e))
    payload, _, _ = encode(model, x, [50] * 12, 5)
    expected.clear()
    fields, seen = {}, 0
    for s in codec.decode_symbols(model, payload, 64, 96, 12):
        f, a, b = s.place.number, s.place.before, s.place.after
        fields[f] = {}
        for r, field in s.vectors.items():
            g = next((g for g in ([f, b, a] if b is not None else [a]) if fields[g]), None)
            if g is None:
                assert expected[seen] is None
            else:
                h = next((h for h in fields[g] if h in (a, b)), next(iter(fields[g])))
                numerator, denominator = (f - r, g - h) if g > h else (r - f, h - g)
                values = np.floor((2 * fields[g][h] * numerator + denominator) / (2 * denominator))
                assert np.array_equal(expected[seen], np.clip(values, -2047, 2047))
            fields[f][r] = field
            seen += 1
    assert seen == len(expected) > 12
