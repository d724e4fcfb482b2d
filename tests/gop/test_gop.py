"""Groups of pictures: what the decoder gives is what the encoder predicted from."""

import contextlib
import itertools

import numpy as np
import pytest
import torch

from bsqcodec.errors import BsqError, FormatError, ModelError
from bsqcodec.gop.decoder import decode_gop, decode_symbols
from bsqcodec.gop.encoder import GopEncoder
from bsqcodec.gop.quality import B_LEVEL_OFFSET
from bsqcodec.network.weights import find_model, load_model
from bsqcodec.rate import find_quality
from bsqcodec.settings import TUNES, EncodeSettings
from bsqcodec.stream.group import GROUP_HEADER_BYTES, MiniGop, group_header, parse_group
from bsqcodec.stream.motion_vectors import VectorCoder
from helpers import moving, psnr, same_pictures


def moving_texture(frames, height, width, seed=0):
    """A texture of random colours that moves by (1, 2) pixels per frame, uint8 (frames, height, width, 3)."""
    rng = np.random.default_rng(seed)
    base = rng.normal(128, 40, (height // 4 + 8, width // 4 + 8, 3)).clip(0, 255)
    big = np.kron(base, np.ones((4, 4, 1)))
    return np.stack([big[t : t + height, 2 * t : 2 * t + width] for t in range(frames)]).astype(np.uint8)


def encode(model, frames, qualities, mini=1, tune="perceptual"):
    """The payload of a group of pictures, its frames as they will decode, and their statistics.

    qualities: one for each frame; what follows these is not used.
    """
    encoder = GopEncoder(model, *frames.shape[1:3], EncodeSettings(tune=tune), mini)
    decoded = []
    for frame, quality in zip(frames, qualities, strict=False):  # the qualities may go on for ever
        decoded += encoder.push(frame, quality)
    decoded += encoder.flush()
    assert len(decoded) == len(frames)
    return encoder.finish(), decoded, encoder.stats


@pytest.mark.parametrize("tune", ["perceptual", "psnr"])
@pytest.mark.parametrize(
    ("height", "width", "frames"), [(48, 64, 3), (1, 1, 2), (15, 17, 3), (16, 16, 1), (33, 100, 2)]
)
def test_decoder_gives_the_frames_the_encoder_predicted_from(tiny, height, width, frames, tune):
    x = moving_texture(frames, height, width)
    payload, decoded, stats = encode(tiny, x, [30, 60, 90], tune=tune)
    out = list(decode_gop(tiny, payload, height, width, frames))
    assert len(out) == frames == len(stats)
    assert same_pictures(out, decoded)
    assert stats[0].frame_type == "I"
    assert TUNES[parse_group(payload, frames).tune] == tune


def test_the_default_model_decodes_as_it_said(model):
    """I, P and B frames of an odd size at the ends of the range."""
    x = moving(4, 37, 45, left=180, step=(1, 2))
    for tune, qualities in (("perceptual", [1] * 4), ("psnr", [100] * 4), ("perceptual", [100, 1, 50, 99])):
        payload, decoded, stats = encode(model, x, qualities, 3, tune)
        assert [s.frame_type for s in stats] == ["I", "P", "B", "B"]
        assert same_pictures(decode_gop(model, payload, 37, 45, 4), decoded)


def test_an_error_comes_in_its_place(tiny, monkeypatch):
    payload, decoded, _ = encode(tiny, moving_texture(4, 32, 32), [50] * 4)
    original = decode_symbols

    def broken(*arguments):
        yield from itertools.islice(original(*arguments), 3)
        raise FormatError("broken")

    monkeypatch.setattr("bsqcodec.gop.decoder.decode_symbols", broken)
    frames = decode_gop(tiny, payload, 32, 32, 4)
    assert all(np.array_equal(next(frames), decoded[i]) for i in range(3))
    with pytest.raises(FormatError, match="broken"):
        next(frames)


def test_symbols_are_what_was_coded(model):
    x = moving(5, 48, 64, left=180, step=(1, 2))
    payload, decoded, stats = encode(model, x, [60] * 5, 4)
    symbols = list(decode_symbols(model, payload, 48, 64, 5))
    for s, coded in zip(symbols, stats, strict=True):
        assert (s.stats.frame_type, s.stats.quality, s.stats.count) == (coded.frame_type, coded.quality, coded.count)
        assert s.stats.bits == pytest.approx(coded.bits) and s.stats.side_bits == pytest.approx(coded.side_bits)
        assert np.array_equal(s.picture, decoded[s.place.number])
        assert s.coefficients.shape == (1, 3, 4, model.network.n_coded(s.condition.quality))
        assert (s.classes is None) == bool(s.vectors) == (s.condition.frame_type > 0)
    classes = model.network.classes(torch.from_numpy(x[0]).permute(2, 0, 1)[None])
    assert np.array_equal(symbols[0].classes, classes[0].numpy())


def test_file_is_as_long_as_the_ideal_code(tiny):
    payload, _, stats = encode(tiny, moving_texture(4, 64, 96), [50] * 4)
    ideal = sum(s.bits + s.side_bits for s in stats)
    assert ideal <= 8 * len(payload) <= ideal * 1.002 + 8 * (GROUP_HEADER_BYTES + len(stats)) + 64


def test_statistics_add_up_to_the_size(model):
    """Within half a percent, headers and all, above 10 kB."""
    payload, _, stats = encode(model, moving(3, 160, 192, left=180, step=(1, 2)), [85] * 3)
    assert len(payload) > 10_000
    assert sum(s.bits + s.side_bits for s in stats) / 8 == pytest.approx(len(payload), rel=0.005)
    assert all(s.bits > 0 and s.side_bits > 0 and s.count > 0 for s in stats)


@pytest.mark.parametrize("size", [900, 3000])
def test_the_tune_psnr_has_the_higher_psnr_at_the_same_size(model, size):
    x = moving(1, 96, 128, left=180, step=(1, 2))
    found = {}
    for tune in ("perceptual", "psnr"):
        quality = find_quality(lambda q, tune=tune: float(len(encode(model, x, [q], tune=tune)[0])), size, 8)
        payload, (decoded,), _ = encode(model, x, [quality], tune=tune)
        assert 0.9 * size < len(payload) <= size
        found[tune] = psnr(decoded, x[0])
    assert found["psnr"] > found["perceptual"]


def test_quality_costs_and_pays(model):
    x = moving(1, 64, 96, left=180, step=(1, 2))
    sizes, errors = [], []
    for quality in (1, 20, 40, 60, 80, 100):
        payload, (decoded,), _ = encode(model, x, [quality])
        sizes.append(len(payload))
        errors.append(psnr(decoded, x[0]))
    assert sizes == sorted(sizes) and errors == sorted(errors) and errors[-1] > errors[0] + 15


def test_a_scene_cut_starts_over(model):
    x = np.concatenate([moving_texture(2, 32, 32), 255 - moving_texture(2, 32, 32, seed=9)])
    x[:2] //= 8
    payload, decoded, stats = encode(model, x, [90] * 4)
    assert stats[2].frame_type == "I"
    assert np.array_equal(list(decode_gop(model, payload, 32, 32, 4))[3], decoded[3])


def test_coarse_coding_is_no_scene_cut(model):
    _, _, stats = encode(model, moving(4, 64, 96, left=100, step=(1, 0)), [1] * 4)
    assert [s.frame_type for s in stats] == ["I", "P", "P", "P"]


def test_decoder_uses_no_state_of_the_encoder(tiny):
    """Two interleaved encoders and decoders do not disturb each other."""
    a, b = moving_texture(2, 32, 48), moving_texture(2, 32, 48, seed=5)
    ea, eb = (GopEncoder(tiny, 32, 48, EncodeSettings(low_delay=True)) for _ in range(2))
    coded = [(ea.push(x, 40)[0], eb.push(y, 70)[0]) for x, y in zip(a, b, strict=True)]
    pairs = zip(decode_gop(tiny, ea.finish(), 32, 48, 2), decode_gop(tiny, eb.finish(), 32, 48, 2), strict=True)
    for (x, y), (u, v) in zip(pairs, coded, strict=True):
        assert np.array_equal(x, u) and np.array_equal(y, v)


def test_threads_do_not_change_a_bit(tiny):
    x = moving_texture(2, 48, 80)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        payload, decoded, _ = encode(tiny, x, [55, 55])
        torch.set_num_threads(2)
        assert same_pictures(decode_gop(tiny, payload, 48, 80, 2), decoded)
    finally:
        torch.set_num_threads(threads)


def test_prefix_of_frames_does_not_depend_on_later_ones(tiny):
    x = moving_texture(3, 32, 32)
    y = x.copy()
    y[2] = 255 - y[2]
    _, a, _ = encode(tiny, x, [50] * 3)
    _, b, _ = encode(tiny, y, [50] * 3)
    assert np.array_equal(a[1], b[1]) and not np.array_equal(a[2], b[2])


def group(frames, headers, mini=1, tune=0, more=0, rest=b""):
    return bytes([mini, B_LEVEL_OFFSET, tune, more]) + bytes(headers) + rest


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\1",
        b"\1\6\0",
        b"\1\6\0\0",  # no headers
        group(2, [50]),  # one
        group(2, [0x80 | 50, 50], rest=bytes(40)),  # the first is predicted
        group(2, [0, 50], rest=bytes(40)),
        group(2, [101, 50], rest=bytes(40)),
        group(2, [50, 0x7F], rest=bytes(40)),
        group(2, [50, 0x80], rest=bytes(40)),
        group(2, [50, 50], mini=0, rest=bytes(40)),  # no lengths
        group(2, [50, 0, 50, 1], mini=0, more=1, rest=bytes(40)),  # two frames further, where there is but one
        group(3, [50, 0, 50], mini=0, more=1),
        group(2, [50, 50], mini=17, rest=bytes(40)),
        group(2, [50, 50], tune=2, rest=bytes(40)),
        group(2, [50, 50], tune=255, rest=bytes(40)),
        group(2, [50, 50, 0], more=1),  # headers of two bytes
    ],
)
def test_broken_payloads_are_format_errors(tiny, payload):
    with pytest.raises(FormatError):
        parse_group(payload, 2)
    with pytest.raises(FormatError):
        list(decode_gop(tiny, payload, 32, 32, 2))


def test_no_frames_are_a_format_error():
    with pytest.raises(FormatError):
        parse_group(group(0, [50]), 0)


def test_what_a_header_has_beyond_is_skipped(tiny):
    """A later encoder may write more bytes for each frame; they change nothing."""
    x = moving_texture(6, 33, 48)
    payload, decoded, _ = encode(tiny, x, [50] * 6, 3)
    anchors = 3
    start, headers, rest = payload[:3], payload[4 : 4 + anchors], payload[4 + anchors :]
    for more in (1, 3, 255):
        longer = start + bytes([more]) + b"".join(bytes([h]) + b"\xa5" * more for h in headers) + rest
        assert parse_group(longer, 6).headers == parse_group(payload, 6).headers
        assert same_pictures(decode_gop(tiny, longer, 33, 48, 6), decoded)


def test_headers_are_short_where_mini_gops_are_alike():
    same, shorter, other = MiniGop(4, 9), MiniGop(2, 9), MiniGop(8, 6)
    assert group_header(1, [50], []) == bytes([1, 0, 1, 0, 50])
    for mini_gops in ([same], [same, same], [same, shorter]):
        assert group_header(0, [50] * (1 + len(mini_gops)), mini_gops)[:4] == bytes([4, 9, 0, 0])
    for mini_gops in ([same, other], [same, shorter, same], [shorter, same], [other, same, MiniGop(1, 9)]):
        anchors = range(50, 51 + len(mini_gops))
        payload = group_header(0, anchors, mini_gops)
        assert payload[0] == 0
        headers = parse_group(payload, 1 + sum(mini.frames for mini in mini_gops)).headers
        assert [h.quality for h in headers if h.place.after is None] == list(anchors)
        ends = np.cumsum([mini.frames for mini in mini_gops])
        for end, quality, mini in zip(ends, anchors[1:], mini_gops, strict=True):
            inside = [h for h in headers if h.place.anchor == end]
            assert len(inside) == mini.frames
            assert all(h.quality == quality - h.place.level * mini.level_offset for h in inside)


def test_mini_gops_of_any_lengths_decode_as_the_encoder_said(tiny, monkeypatch):
    lengths = [2, 8, 3, 1, 4, 16]
    x = moving(35, 33, 48, left=180, step=(1, 2))
    anchors = iter([0, *np.cumsum(lengths).tolist()])
    monkeypatch.setattr(GopEncoder, "_choose_anchor", lambda self, last, ending: next(anchors) if ending else None)
    payload, decoded, stats = encode(tiny, x, [50] * len(x), None)
    assert len(decoded) == len(stats) == len(x) == 1 + sum(lengths)
    assert same_pictures(decode_gop(tiny, payload, 33, 48, len(x)), decoded)
    headers = parse_group(payload, len(x)).headers
    assert [(h.frame_type, h.quality) for h in headers] == [(s.frame_type, s.quality) for s in stats]
    assert [h.place.number for h in headers if h.place.after is None] == [0, *np.cumsum(lengths)]


def test_the_drop_of_b_frames_is_read_from_the_group():
    payload = bytearray(group(5, [50, 0x80 | 50], mini=4))
    qualities = []
    for level_offset in (0, 1, B_LEVEL_OFFSET, 60, 255):
        payload[1] = level_offset
        qualities.append({h.place.number: h.quality for h in parse_group(bytes(payload), 5).headers})
        assert all(1 <= q <= 100 for q in qualities[-1].values())
        assert qualities[-1][0] == qualities[-1][4] == 50
    assert set(qualities[0].values()) == {50} and qualities[1][2] < 50 and qualities[-1][1] == 1


@pytest.mark.parametrize("name", ["tiny", "model"])
def test_garbage_decodes_or_is_refused_but_never_crashes(name, request):
    model = request.getfixturevalue(name)
    rng = np.random.default_rng(0)
    for n in range(24 if name == "tiny" else 6):
        tune, mini = n % 2, 1 + n % 3
        anchors = 1 + -(-2 // mini)
        headers = [int(rng.integers(1, 101)), *(0x80 | rng.integers(1, 101, anchors - 1))]
        noise = [rng.bytes(20 * n), b"\xff" * 40 * n, b"\0" * n, rng.bytes(3000)][n % 4]
        payload = group(3, [int(h) for h in headers], mini, tune, 0, noise)
        try:
            frames = list(decode_gop(model, payload, 32, 40, 3))
        except FormatError:
            continue
        assert len(frames) == 3 and all(f.shape == (32, 40, 3) and f.dtype == np.uint8 for f in frames)


def test_damage_decodes_or_is_refused(tiny):
    payload, _, _ = encode(tiny, moving_texture(4, 32, 48), [60] * 4, 3)
    rng = np.random.default_rng(1)
    for n in range(18):
        bad = bytearray(payload)
        if n % 3 == 2:
            bad = bad[: int(rng.integers(len(bad)))]
        else:
            at = int(rng.integers(4 if n % 3 else 0, len(bad)))
            bad[at] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(FormatError):
            assert len(list(decode_gop(tiny, bytes(bad), 32, 48, 4))) == 4


def test_wrong_frames_are_refused(tiny):
    encoder = GopEncoder(tiny, 32, 32, EncodeSettings(low_delay=True))
    with pytest.raises(ValueError, match="uint8"):
        encoder.push(np.zeros((32, 31, 3), np.uint8), 50)
    for quality in (0, 101):
        with pytest.raises(ValueError, match="quality"):
            encoder.push(np.zeros((32, 32, 3), np.uint8), quality)
    for mini in (0, 17):
        with pytest.raises(ValueError, match="mini-GOPs"):
            GopEncoder(tiny, 32, 32, EncodeSettings(), mini)
    with pytest.raises(ValueError, match="tune 'nothing' is not one of"):
        GopEncoder(tiny, 32, 32, EncodeSettings(tune="nothing"))


def test_unknown_models_are_named():
    with pytest.raises(ModelError, match="0102030405060708"):
        find_model(bytes(range(1, 9)))
    with pytest.raises(BsqError, match="packaged models"):
        load_model("no-such-model")


def test_order_of_coding():
    def order(frames, payload):
        return [header.place for header in parse_group(payload, frames).headers]

    assert [p.number for p in order(10, group(10, [50] * 4, 4))] == [0, 4, 2, 1, 3, 8, 6, 5, 7, 9]
    lengths = [0x91, 0x93, 0x90]
    several = group(8, itertools.chain(*zip([50] * 4, [0, *lengths], strict=True)), 0, more=1)
    assert [p.number for p in order(8, several)] == [0, 2, 1, 6, 4, 3, 5, 7]
    for frames, mini in itertools.product(range(1, 40), (1, 2, 3, 4, 7, 16)):
        seen = set()
        for place in order(frames, group(frames, [50] * (1 + -(-(frames - 1) // mini)), mini)):
            assert {place.before, place.after} - {None} <= seen
            assert place.before is None or place.before < place.number
            assert place.after is None or place.after > place.number
            seen.add(place.number)
        assert seen == set(range(frames))


@pytest.mark.parametrize(("mini", "frames"), [*itertools.product((2, 3, 4, 16), (1, 2, 3, 6)), (4, 11), (16, 11)])
def test_b_frames_decode_as_the_encoder_said(tiny, mini, frames):
    x = moving_texture(frames, 33, 48)
    payload, decoded, stats = encode(tiny, x, itertools.cycle([30, 60, 90]), mini)
    assert len(decoded) == len(stats) == frames
    assert same_pictures(decode_gop(tiny, payload, 33, 48, frames), decoded)
    headers = parse_group(payload, frames).headers
    assert [(h.frame_type, h.quality) for h in headers] == [(s.frame_type, s.quality) for s in stats]
    assert any(h.frame_type == "B" for h in headers) == (frames > 2)


def test_a_scene_cut_between_anchors(model):
    """The anchor after it is an I frame, and every B frame is predicted from its own side."""
    x = np.concatenate([moving_texture(3, 32, 48), 255 - moving_texture(2, 32, 48, seed=9)])
    x[:3] //= 8
    payload, decoded, stats = encode(model, x, [70] * 5, 4)
    assert [s.frame_type for s in stats[:2]] == ["I", "I"]
    assert same_pictures(decode_gop(model, payload, 32, 48, 5), decoded)
    symbols = {s.place.number: s for s in decode_symbols(model, payload, 32, 48, 5)}
    assert 4 not in symbols[1].vectors and 4 not in symbols[2].vectors and 0 not in symbols[3].vectors


def test_little_is_kept_of_frames_that_are_done(tiny):
    x = moving_texture(6, 32, 32)
    encoder = GopEncoder(tiny, 32, 32, EncodeSettings(), 4)
    for t in range(14):
        encoder.push(x[t % 6], 50)
        symbols = encoder._symbols
        assert len(symbols.references.frames) <= 5 and len(symbols.contexts._vectors) <= 5


def test_vectors_are_expected_by_the_book(tiny, monkeypatch):
    """Against bitstream_spec.md, section 4, in its words."""
    x = moving_texture(12, 64, 96)
    expected = []
    original = VectorCoder.expect
    monkeypatch.setattr(VectorCoder, "expect", lambda self, e: expected.append(e) or original(self, e))
    payload, _, _ = encode(tiny, x, [50] * 12, 5)
    expected.clear()
    fields, seen = {}, 0
    for s in decode_symbols(tiny, payload, 64, 96, 12):
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
            fields[f][r] = field.vectors
            seen += 1
    assert seen == len(expected) > 12
