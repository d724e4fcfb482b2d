"""Drawing from a model: the same everywhere, with the probabilities of a decoder, and only where it is asked for."""

import io
from decimal import Decimal

import numpy as np
import pytest
import torch
from PIL import Image

from bsqcodec import sample_frames, stream_to_arrays
from bsqcodec.api import decode_image, encode_image
from bsqcodec.gop.decoder import decode_gop
from bsqcodec.gop.references import Motion
from bsqcodec.gop.symbol_encoder import SymbolEncoder
from bsqcodec.media import open_source
from bsqcodec.network import network as network_module
from bsqcodec.network.tokenizer import Condition
from bsqcodec.network.unrounded import DEAD_ZONE, quantise
from bsqcodec.network.weights import Model
from bsqcodec.sample.bits import BitSampler, costs, tempered
from bsqcodec.stream.contrast import complete_classes, encode_classes
from bsqcodec.stream.group import Place, group_header
from bsqcodec.stream.range_coder import BitEncoder
from helpers import as_batch, exit_status, photo, psnr

ODD = (45, 37)  # width, height


def sample(*arguments, **options):
    """The frames that are drawn, (frames, H, W, 3)."""
    return np.stack(list(sample_frames(*arguments, **options)))


def drawn_symbols(network, quality, rows, columns, sampler):
    """Condition, classes and coefficients of an I frame that is drawn."""
    condition = Condition(0, quality, 0)
    classes = complete_classes(np.ma.masked_all((rows, columns), np.int64), sampler.complete)
    context = network.context(condition, None, torch.from_numpy(classes)[None])
    return condition, classes, context, network.code(context, condition, sampler.draw)


# ---------------------------------------------------------------- bits


def test_temperature_is_symmetric_and_monotone_and_changes_nothing_at_one():
    p = np.arange(65537)
    assert np.array_equal(tempered(Decimal(1)), p)
    cold, hot = tempered(Decimal("0.5")), tempered(Decimal(2))
    for q in (cold, hot):
        assert np.array_equal(q + q[::-1], np.full(65537, 65536)) and (np.diff(q) >= 0).all()
    odds = p[1:-1] / (65536 - p[1:-1])
    assert np.abs(cold[1:-1] - 65536 * odds**2 / (1 + odds**2)).max() <= 0.5001
    assert np.abs(hot[1:-1] - 65536 * odds**0.5 / (1 + odds**0.5)).max() <= 0.5001
    assert set(tempered(Decimal("1e-300"))) == {0, 32768, 65536}


def test_costs_are_logarithms():
    p = np.arange(1, 65537)
    assert np.abs(costs()[1:] / 65536 + np.log2(p / 65536)).max() < 2.0**-15


def test_random_numbers_are_those_of_philox():
    """Of the key 7 the highest 16 bits are these, on every machine."""
    r = np.array([0xDF40, 0x4B9D, 0x6B8B, 0x67C7, 0x1535, 0xB256, 0x4BDE, 0x9EDD, 0x039C, 0xC96F])
    assert BitSampler(7).decode(r).tolist() == [0] * 10
    assert BitSampler(7).decode(r + 1).tolist() == [1] * 10
    half = BitSampler(2**64 - 1)
    assert abs(int(half.decode(np.full(10_000, 32768)).sum()) - 5000) < 200
    assert half.bits == half.count == 10_000


@pytest.mark.parametrize("quality", [25, 60])
def test_drawn_bits_cost_what_the_prior_expects(model, quality):
    """The code length of what is drawn is the entropy of the probabilities, but for chance: five deviations of it."""
    seen = []

    class Noted(BitSampler):
        def decode(self, p1):
            bits = super().decode(p1)
            seen.append(np.stack([np.ravel(p1) / 65536, bits]))
            return bits

    sampler = Noted(3)
    drawn_symbols(model.network, quality, 6, 6, sampler)
    p, bits = np.concatenate(seen, 1)
    assert len(p) == sampler.count > 1000
    cost = -np.log2(np.where(bits == 1, p, 1 - p))
    expected = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    deviation = np.sqrt((p * (1 - p) * np.log2(p / (1 - p)) ** 2).sum())
    assert abs((cost - expected).sum()) < 5 * deviation < 0.25 * expected.sum()
    assert sampler.bits == pytest.approx(cost.sum(), rel=1e-4)
    cold = BitSampler(3, Decimal("0.5"))
    drawn_symbols(model.network, quality, 6, 6, cold)
    assert cold.bits < 0.8 * sampler.bits


def test_what_is_drawn_is_what_a_stream_decodes_to(tiny):
    """The symbols of a sample, coded as a stream: that costs what was drawn, and decodes to the sample."""
    for seed in range(20):  # until no class had to be clipped
        sampler = BitSampler(seed)
        condition, classes, _, coefficients = drawn_symbols(tiny.network, 40, 3, 3, sampler)
        encoder = SymbolEncoder(tiny, ODD[1], ODD[0])
        encoder.add(Place(0, 0), condition, Motion({}), classes, lambda _, y=coefficients: y)
        if encoder.bits == pytest.approx(sampler.bits, abs=0.1):
            break
    else:
        pytest.fail("no sample costs what was drawn")
    payload = group_header(0, [40], []) + encoder.finish()
    (decoded,) = decode_gop(tiny, payload, ODD[1], ODD[0], 1)
    assert np.array_equal(decoded, sample(ODD, quality=40, seed=seed, model=tiny)[0])


# ---------------------------------------------------------------- frames


def test_a_seed_draws_the_same_again_and_on_the_oracle(tiny):
    options = {"quality": 40, "frames": 2}
    first = sample(ODD, seed=5, model=tiny, **options)
    assert first.shape == (3, 37, 45, 3) and first.dtype == np.uint8
    assert np.array_equal(first, sample(ODD, seed=5, model=tiny, **options))
    assert not np.array_equal(first, sample(ODD, seed=6, model=tiny, **options))
    assert not np.array_equal(first, sample(ODD, seed=5, temperature=0.5, model=tiny, **options))
    assert not np.array_equal(first[0], first[1])
    oracle = oracle_of(tiny)
    assert np.array_equal(first, sample(ODD, seed=5, model=oracle, **options))
    picture, mask = photo(37, 45), np.zeros((37, 45), bool)
    mask[20:30, 20:30] = True
    completed = sample(picture=picture, mask=mask, seed=5, model=tiny, **options)
    assert np.array_equal(completed, sample(picture=picture, mask=mask, seed=5, model=oracle, **options))


def oracle_of(model):
    """A model whose decoder and prior compute in int64."""
    found = Model.__new__(Model)
    found.__dict__ |= {**model.__dict__, "network": model.network.oracle()}
    return found


def test_the_first_frame_is_the_coded_picture(model):
    picture = photo(61, 77)
    coded = decode_image(encode_image(picture, quality=30, model=model), model=model)
    shown = sample(picture=picture, quality=30, frames=1, model=model)
    # an encoder weighs rates, too
    assert psnr(picture, coded) - 0.2 < psnr(picture, shown[0]) < psnr(picture, coded) + 1
    assert not np.array_equal(shown[1], shown[0])


def test_a_picture_is_coded_alike_where_other_numbers_are_fast(model, monkeypatch):
    options = {"picture": photo(61, 77), "quality": 60, "frames": 1, "seed": 4, "model": model}
    found = []
    for fast in (False, True):
        monkeypatch.setattr(network_module, "bf16_is_fast", lambda device, fast=fast: fast)
        found.append(sample(**options))
    assert np.array_equal(*found)


@pytest.mark.parametrize("candidates", [1, 3])
def test_a_mask_changes_only_the_tokens_that_it_touches(tiny, candidates):
    picture, mask = photo(53, 61), np.zeros((53, 61), bool)
    mask[15, 40] = mask[52, 60] = True
    coded = sample(picture=picture, quality=40, model=tiny)[0]
    shown = sample(picture=picture, mask=mask, quality=40, candidates=candidates, model=tiny)[0]
    drawn = np.zeros((53, 61), bool)
    drawn[:16, 32:48] = drawn[48:, 48:] = True
    assert np.array_equal(shown[~drawn], coded[~drawn])
    assert all((shown != coded)[part].any() for part in (np.s_[:16, 32:48], np.s_[48:, 48:]))
    nothing = sample(picture=picture, mask=np.zeros_like(mask), quality=40, model=tiny)[0]
    assert np.array_equal(nothing, coded)


def test_known_tokens_keep_their_coefficients_and_are_seen(model):
    """They come back as given, cost nothing when they are not coded, and inform those that are drawn."""
    network, condition = model.network, Condition(0, 40, 0)
    _, _, context, coefficients = drawn_symbols(network, 40, 4, 4, BitSampler(1))
    only = torch.zeros(1, 4, 4, dtype=torch.bool)
    only[0, 1, 1:3] = True

    def drawn(given):
        sampler = BitSampler(2)
        values = network.code(context, condition, sampler.draw, given, only=only)
        assert torch.equal(values[~only], given[~only])
        return values[only], sampler

    values, sampler = drawn(coefficients)
    other = coefficients.clone()
    other[0, 0, 0, :8] += 3  # a token before them in the order of coding
    changed, other_sampler = drawn(other)
    assert not torch.equal(values, changed) or sampler.bits != other_sampler.bits
    weights = BitSampler(0)
    for part in (only, ~only):
        network.code(context, condition, weights.weigh, coefficients, only=part)
    encoder = BitEncoder()

    def measure(p, bits):
        encoder.encode(bits, p)
        return bits

    network.code(context, condition, measure, coefficients)
    assert weights.weighed / 65536 == pytest.approx(encoder.bits, rel=1e-4)
    assert weights.count == 0


def test_known_classes_are_kept_and_weighed():
    classes = np.array([[0, 1, 2], [-3, 3, 0], [0, 0, -1]])
    encoder = BitEncoder()
    encode_classes(classes, encoder)
    sampler = BitSampler(1)
    assert np.array_equal(complete_classes(np.ma.masked_array(classes, False), sampler.complete), classes)
    assert sampler.weighed / 65536 == pytest.approx(encoder.bits, rel=1e-4) and sampler.count == 0
    drawn = complete_classes(np.ma.masked_array(classes, classes == 0), sampler.complete)
    assert np.array_equal(drawn[classes != 0], classes[classes != 0])
    assert sampler.count >= 4 and abs(drawn).max() <= 3


def test_of_several_candidates_the_one_is_taken_that_makes_the_rest_likeliest(model):
    """Bits of all of the frame without those that were drawn: measured here by coding it as an encoder does."""
    picture, mask, network = photo(48, 48), np.zeros((48, 48), bool), model.network
    mask[16:32, 16:32] = True
    condition = Condition(0, 40, 0)
    pixels, only = as_batch(picture), torch.from_numpy(mask[::16, ::16].copy())[None]
    classes = network.classes(pixels)[0].numpy()
    context = network.context(condition, None, network.classes(pixels))
    known = quantise(network.encode(pixels, context, condition, double=True), DEAD_ZONE[0]).int()
    sampler, found = BitSampler(9), []
    for _ in range(4):
        before, encoder = sampler.bits, BitEncoder()
        some = complete_classes(np.ma.masked_array(classes, only[0].numpy()), sampler.complete)
        encode_classes(some, encoder)
        context = network.context(condition, None, torch.from_numpy(some)[None])
        values = network.code(context, condition, sampler.draw, known, only=only)
        network.code(context, condition, lambda p, bits, e=encoder: (e.encode(bits, p), bits)[1], values)
        shown = network.decode(values, context, condition)[0][0, :, 16:32, 16:32].permute(1, 2, 0).numpy()
        found.append((encoder.bits - (sampler.bits - before), shown))
    best = min(found, key=lambda candidate: candidate[0])[1]
    chosen = sample(picture=picture, mask=mask, quality=40, seed=9, candidates=4, model=model)[0]
    assert np.array_equal(chosen[16:32, 16:32], best) and not np.array_equal(best, found[0][1])


def arrays_of(stream, model):
    """All arrays of a stream, by name."""
    archive = io.BytesIO()
    stream_to_arrays(io.BytesIO(stream), archive, model=model)
    archive.seek(0)
    with np.load(archive, allow_pickle=False) as arrays:
        return dict(arrays)


# ---------------------------------------------------------------- command


def test_the_command_writes_pictures_and_videos(tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b.mp4"
    assert exit_status("sample", first, "--size", "45x37", "-q", 20, "--seed", 3, "--quiet") == 0
    assert np.array_equal(np.asarray(Image.open(first)), sample(ODD, quality=20, seed=3)[0])
    Image.fromarray(np.full((37, 45), 255, np.uint8)).save(tmp_path / "mask.png")
    words = ["sample", second, "--from", first, "--mask", tmp_path / "mask.png", "--frames", 2, "--fps", 50]
    assert exit_status(*words, "-q", 20, "--candidates", 1) == 0
    with open_source(str(second)) as source:
        assert source.info.frame_rate == 50 and (source.info.width, source.info.height) == ODD
        assert len(list(source)) == 3
    small = tmp_path / "c.mp4"  # the picture and its mask are scaled; a video has frames without being asked
    assert exit_status(*[small if word == second else word for word in words[:6]], "--size", "32x16", "-q", 20) == 0
    with open_source(str(small)) as source:
        assert (source.info.width, source.info.height) == (32, 16) and len(list(source)) == 25


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["x.png"], "give --size, or --from"),
        (["x.png", "--size", "64"], "'64' is not a size such as 256x256"),
        (["x.png", "--size", "0x5"], "frames of 0x5 pixels are not supported"),
        (["x.png", "--size", "99999x9"], "frames of 99999x9 pixels are not supported"),
        (["x.png", "--size", "9x9", "--temperature", "0"], "a temperature is a number above 0"),
        (["x.png", "--size", "9x9", "--temperature", "nan"], "a temperature is a number above 0"),
        (["x.png", "--size", "9x9", "--mask", "m.png"], "--mask needs a picture: give --from"),
        (["x.png", "--from", "p.png", "--mask", "m.png"], "a mask needs a picture of the same size"),
        (["x.png", "--from", "none.png"], "no such file: none.png"),
        (["x.xyz", "--size", "9x9"], "x.xyz: the name of an output ends in"),
        (["p.png", "--size", "9x9"], "p.png exists already; -f replaces it"),
        (["x.png", "--size", "9x9", "--frames", "2"], "x.png holds one image"),
        (["x.png", "--size", "9x9", "--model", "none"], "no model 'none'"),
    ],
)
def test_what_is_refused_is_told_in_one_line(tmp_path, monkeypatch, capsys, words, reason):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save("p.png")
    Image.new("L", (20, 21)).save("m.png")
    assert exit_status("sample", *words) == 1
    assert capsys.readouterr().err.startswith(f"bsqcodec: {reason}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.png", "p.png"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"quality": 0}, "quality 0"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**64}, "seed 18"),
        ({"temperature": 0}, "temperature 0"),
        ({"temperature": float("inf")}, "temperature Infinity"),
        ({"frames": -1}, "-1 frames"),
        ({"candidates": 0}, "0 candidates"),
        ({"tune": "x"}, "tune 'x'"),
        ({"picture": photo(9, 9)}, "either the size or a picture"),
        ({"mask": np.ones((9, 9), bool)}, "a mask needs a picture"),
    ],
)
def test_wrong_arguments_raise_at_once(wrong, reason):
    with pytest.raises(ValueError, match=reason):
        sample_frames((9, 9), **wrong)
