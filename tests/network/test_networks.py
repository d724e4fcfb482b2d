"""Decoder, prior and encoder: exact, causal, and in real numbers what they are in integers."""

import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from skimage import data as skdata

from bsqcodec.errors import ModelError
from bsqcodec.model_files import find_file
from bsqcodec.network import tiling as bands
from bsqcodec.network.config import ModelConfig
from bsqcodec.network.export import decoding, integers, restore, round_rows
from bsqcodec.network.layers import LIMIT
from bsqcodec.network.objective import Objective
from bsqcodec.network.patches import (
    PHASES,
    add_windows,
    canvas,
    cells,
    merge,
    overlap,
    patches,
    quarter,
    quarters,
    rings,
    split,
    unpatch,
    windows,
)
from bsqcodec.network.quantiser import groups, log2_step
from bsqcodec.network.tokenizer import Condition, smooth
from bsqcodec.network.unrounded import Unrounded
from bsqcodec.network.weights import Model, load_model, model_id, read_network, save_model
from bsqcodec.selftest import oracle
from bsqcodec.stream.range_coder import BitEncoder
from helpers import TINY, random_network

CONDITIONS = [Condition(0, 40, 0), Condition(1, 37, 1), Condition(2, 90, 0)]


def sources(network, condition, rows, columns, seed=0):
    """Context and coefficients of a random frame."""
    g = torch.Generator().manual_seed(seed)
    prediction = classes = None
    if condition.frame_type:
        prediction = torch.randint(0, 256, (1, 3, 16 * rows, 16 * columns), generator=g)
        prediction[..., : 8 * columns] = prediction[..., : 8 * columns] // 32 + 100
    else:
        classes = torch.randint(-3, 4, (1, rows, columns), generator=g)
    spread = torch.exp(4 * torch.rand(1, rows, columns, network.n_coded(condition.quality), generator=g) ** 4)
    y = (torch.randn(spread.shape, generator=g) * spread).round().to(torch.int32)
    return network.context(condition, prediction, classes), y


def steps(network, context, condition, y):
    """Every call of the coder: probabilities and bits."""
    seen = []

    def coder(p, bits):
        seen.append((p.copy(), bits.copy()))
        return bits

    coded = network.code(context, condition, coder, y)
    assert coded.shape == y.shape
    return seen, coded


def test_prior_and_decoder_equal_the_int64_oracle(model, tiny):
    """I, P and B, both tunes, on a grid with odd sides."""
    assert oracle(model) == [] and oracle(tiny) == []


@pytest.mark.parametrize("rows,columns", [(1, 1), (1, 5), (6, 1), (3, 8)])
def test_small_and_odd_grids_equal_the_oracle(tiny, rows, columns):
    exact = tiny.network.oracle()
    for condition in CONDITIONS:
        results = []
        for network in (tiny.network, exact):
            context, y = sources(network, condition, rows, columns)
            seen, coded = steps(network, context, condition, y)
            results.append((seen, coded, network.decode(coded, context, condition)))
        (a, x, p), (b, y, q) = results
        assert all(np.array_equal(s[0], t[0]) and np.array_equal(s[1], t[1]) for s, t in zip(a, b, strict=True))
        assert torch.equal(x, y) and torch.equal(p, q) and p.shape == (1, 3, 16 * rows, 16 * columns)


def test_the_oracle_finds_a_wrong_integer():
    tensors = integers(random_network())
    broken = Model(TINY, tensors, Objective(), "broken")
    broken.network.prior.phase[1, 3] += 1 << 8
    broken.network.decoder.unit[2] += 9
    found = oracle(broken)
    assert any("prior" in line for line in found) and any("decoder" in line for line in found)


def test_probabilities_are_possible_and_decoding_asks_for_the_same(tiny):
    for condition in CONDITIONS:
        context, y = sources(tiny.network, condition, 5, 7)
        seen, coded = steps(tiny.network, context, condition, y)
        given = iter(seen)

        def decode(p, bits, given=given):
            expected, known = next(given)
            assert bits is None and np.array_equal(p, expected)
            return known

        assert all(not p.size or 1 <= p.min() and p.max() < 65536 for p, _ in seen)
        assert torch.equal(tiny.network.code(context, condition, decode), coded)
        assert next(given, None) is None


def test_one_thread_equals_many(tiny):
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            context, y = sources(tiny.network, CONDITIONS[1], 9, 12)
            seen, coded = steps(tiny.network, context, CONDITIONS[1], y)
            results.append((np.concatenate([p for p, _ in seen]), tiny.network.decode(coded, context, CONDITIONS[1])))
    finally:
        torch.set_num_threads(threads)
    for p, picture in results[1:]:
        assert np.array_equal(p, results[0][0]) and torch.equal(picture, results[0][1])


def by_step(monkeypatch, network, context, condition, y):
    """The means and scales of every step: what all its probabilities follow from."""
    seen = []
    those = network.quantiser.coded

    def watched(mean, scale):
        seen.append((mean.numpy().ravel().copy(), scale.numpy().ravel().copy()))
        return those(mean, scale)

    with monkeypatch.context() as patch:
        patch.setattr(network.quantiser, "coded", watched)
        network.code(context, condition, lambda p, bits: bits, y)
    return seen


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_prior_is_causal(tiny, monkeypatch, condition):
    """Changing the coefficients of a group changes no mean and no scale of a step at or before its own."""
    network = tiny.network
    context, y = sources(network, condition, 8, 8)
    before = by_step(monkeypatch, network, context, condition, y)
    places = groups(y.shape[-1])
    assert len(before) == 4 * len(places)
    later = 0
    for k, (i, j) in enumerate(PHASES):
        for n, place in enumerate(places):
            other = y.clone()
            other[:, i::2, j::2, place] = 3 - other[:, i::2, j::2, place]
            after = by_step(monkeypatch, network, context, condition, other)
            same = [np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in zip(before, after)]
            now = k * len(places) + n
            assert all(same[: now + 1])
            later += not all(same[now + 1 :])
    assert later == 4 * len(places) - 1  # every step but the last informs a later one


@pytest.mark.parametrize("condition", CONDITIONS[:2])
def test_one_token_tells_nothing_before_it(tiny, monkeypatch, condition):
    network = tiny.network
    context, y = sources(network, condition, 8, 8)
    before = by_step(monkeypatch, network, context, condition, y)
    count = len(groups(y.shape[-1]))
    for row, column in ((0, 0), (3, 5), (4, 7), (7, 2)):
        other = y.clone()
        other[0, row, column] += 2
        phase = PHASES.index((row % 2, column % 2))
        after = by_step(monkeypatch, network, context, condition, other)
        for a, b in zip(before[: phase * count + 1], after):
            assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
        # within its phase the groups after it differ for the token alone
        token = row // 2 * 4 + column // 2
        for a, b in zip(before[phase * count + 1 : (phase + 1) * count], after[phase * count + 1 :]):
            wrong = (a[0] != b[0]).reshape(16, -1).any(1) | (a[1] != b[1]).reshape(16, -1).any(1)
            assert set(np.flatnonzero(wrong)) <= {token}


def test_the_prediction_informs_the_prior(tiny, monkeypatch):
    condition = CONDITIONS[1]
    context, y = sources(tiny.network, condition, 4, 4)
    darker = tiny.network.context(condition, (context.prediction + 128) // 2, None)
    a = by_step(monkeypatch, tiny.network, context, condition, y)[0]
    b = by_step(monkeypatch, tiny.network, darker, condition, y)[0]
    assert not np.array_equal(a[0], b[0])


# Real numbers and integers.


def photo(top=100, left=200, size=96):
    """A crop of a photograph, and the same moved by two pixels with some noise, as its prediction."""
    x = torch.from_numpy(skdata.astronaut()).permute(2, 0, 1)[None].float()
    crop = x[:, :, top : top + size, left : left + size]
    noise = 2 * torch.randn(crop.shape, generator=torch.Generator().manual_seed(0))
    near = (x[:, :, top + 1 : top + 1 + size, left + 2 : left + 2 + size] + noise).round().clamp(0, 255)
    return crop, near


def psnr(a, b):
    return 10 * math.log10(255**2 / (a.double() - b.double()).square().mean().item())


def coded(network, context, condition, y):
    """What is coded of y, and its bits."""
    encoder = BitEncoder()

    def write(p, bits):
        encoder.encode(bits, p)
        return bits

    out = network.code(context, condition, write, y)
    wrong = out != y  # the prior was certain of a 0
    assert not out[wrong].any() and wrong.float().mean() < 5e-3
    return out, encoder.bits


@pytest.mark.parametrize("predicted", [0, 1])
@pytest.mark.parametrize("tune", [0, 1])
@torch.inference_mode()
def test_real_numbers_and_integers_agree(model, tune, predicted):
    network, unrounded = model.network, model.network.unrounded
    x, near = photo()
    for quality in (10, 50, 90):
        condition = Condition(predicted, quality, tune)
        prediction = near if predicted else None
        classes = None if predicted else network.classes(x)
        context = network.context(condition, prediction, classes)
        y, used = coded(network, context, condition, network.encode(x, context, condition).round().int())
        one = torch.ones(1)
        frame = unrounded.condition(
            x,
            log2_step(quality).float() * one,
            tune * one,
            prediction,
            0 * one,
            network.n_coded(quality),
            torch.float32,
        )
        mean, scale = unrounded.prior(y.float(), frame)
        bits = unrounded.bits(y.float(), y.float(), mean, scale, frame).sum().item()
        assert used == pytest.approx(bits, rel=0.035 if predicted else 0.015, abs=20)
        exact = network.decode(y, context, condition)
        real = unrounded.decode(y.float(), frame).round().clamp(0, 255)
        real = smooth(real, network.quantiser.smooth[quality - 1])
        assert psnr(exact, x) == pytest.approx(psnr(real, x), abs=0.15)
        assert psnr(exact, real) > psnr(exact, x) + 6


@pytest.mark.parametrize("inputs", [1, 384, 511, 2304])
@pytest.mark.parametrize("in_max", [127, 511])
def test_weights_that_are_all_alike_stay_exact(inputs, in_max):
    """As they are after a few steps of Adam from 0."""
    w = torch.tensor([[0.001], [-0.0123], [0.0]]).expand(3, inputs)
    integers, shift = round_rows(w, 0, in_max)
    assert integers.double().abs().sum(1).max() * in_max < LIMIT
    assert torch.allclose(integers * 2.0 ** -shift.double()[:, None], w.double(), atol=6e-4)
    assert inputs > 1 or integers.abs().max() > 63


def test_restored_integers_are_the_same(model, tiny):
    for stored in (tiny.network._tensors, model.network._tensors):
        config = tiny.network.config if stored is tiny.network._tensors else model.network.config
        network = Unrounded(config)
        restore(network, stored)
        again = integers(network)
        assert again.keys() == stored.keys()
        for name, t in stored.items():
            if name.endswith((".w", ".shift")):
                continue
            assert torch.equal(again[name].long(), t.long()), name
        for name, t in stored.items():
            if name.endswith(".w"):  # a row of even integers may be kept with one bit less
                shift = f"{name[:-2]}.shift"
                a = again[name].double() * 2.0 ** -again[shift].double()[:, None]
                assert torch.equal(a, t.double() * 2.0 ** -stored[shift].double()[:, None]), name


def test_other_tensors_are_refused(tiny):
    stored = dict(tiny.network._tensors)
    for wrong in (
        {k: t for k, t in stored.items() if k != "p_phase"},
        stored | {"more": torch.zeros(1)},
        stored | {"p_phase": stored["p_phase"][:, :-1]},
    ):
        with pytest.raises(ValueError, match="other tensors"):
            restore(Unrounded(TINY), wrong)


def test_rows_are_rounded_to_their_best_bits():
    g = torch.Generator().manual_seed(0)
    w = torch.randn(50, 40, generator=g) * 2 ** (8 * torch.rand(50, 1, generator=g) - 6)
    w[0] = 0
    whole, shift = round_rows(w, 3)
    assert whole.dtype == shift.dtype == torch.int8 and whole.abs().max() <= 127 and 3 <= shift.min()
    assert shift.max() <= 18
    error = (whole * 2.0 ** -shift[:, None] - w).abs()
    fits = w.abs().amax(1) * 2.0**shift <= 127.5
    assert (error[fits] <= 2.0 ** -shift[fits, None] / 2 + 1e-9).all() and fits.float().mean() > 0.5


# Model files.


def test_model_file_round_trip(tmp_path, tiny):
    path = tmp_path / "tiny.safetensors"
    objective = Objective(mse=0.5)
    identity = save_model(random_network(), path, objective)
    loaded = load_model(str(path))
    assert loaded.id == identity == tiny.id and loaded.name == "tiny"
    assert loaded.network.objective == objective and loaded.network.config == TINY
    network, found = read_network(path)
    assert found == identity and all(
        torch.equal(a, b) for a, b in zip(integers(network).values(), integers(random_network()).values())
    )


def test_a_flipped_byte_is_refused(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_model(random_network(), path)
    data = bytearray(path.read_bytes())
    for position in [4, 12, *np.linspace(8 + int.from_bytes(data[:8], "little"), len(data) - 1, 12).astype(int)]:
        bad = bytearray(data)
        bad[position] ^= 1
        path.write_bytes(bad)
        with pytest.raises(ModelError):
            load_model(str(path))
    for size in (0, 7, 100, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ModelError):
            load_model(str(path))


def test_the_packaged_model_with_a_flipped_byte_is_refused(tmp_path, model):
    data = bytearray(find_file("bsq1").read_bytes())
    path = tmp_path / "bsq1.safetensors"
    data[-1000] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(ModelError, match="weights are not the ones"):
        load_model(str(path))


def test_wrong_metadata_is_refused(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_model(random_network(), path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    config = json.loads(metadata["config"])
    for change in (
        {"id": "00" * 8},
        {"encoder": ""},
        {"config": "{"},
        {"config": json.dumps(config | {"width": 37})},
        {"config": json.dumps(config | {"depth": 3})},
        {"objective": json.dumps({"mse": -1})},
    ):
        safetensors.torch.save_file(tensors, path, metadata=metadata | change)
        with pytest.raises(ModelError):
            load_model(str(path))
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ModelError):
        load_model(str(path))


def test_encoder_and_name_are_not_part_of_the_id():
    tensors = integers(random_network())
    identity = model_id(TINY, tensors)
    assert {name[0] for name in tensors if name not in decoding(tensors)} == {"e"}
    other = {name: t + 1 if name.startswith("e") else t for name, t in tensors.items()}
    named = ModelConfig.from_dict(TINY.to_dict() | {"name": "other"})
    assert model_id(named, other) == identity == model_id(TINY, decoding(tensors))
    wide = {name: t.to(torch.int64) for name, t in tensors.items()}  # the type that holds the values does not count
    assert model_id(TINY, wide) == identity
    for name in decoding(tensors):
        changed = tensors[name].clone()
        changed.view(-1)[-1] ^= 1
        assert model_id(TINY, tensors | {name: changed}) != identity, name
    longer = ModelConfig.from_dict(TINY.to_dict() | {"prior_blocks": 2})
    assert model_id(longer, tensors) != identity


def test_impossible_configurations_raise():
    with pytest.raises(ValueError, match="unknown key.*depth"):
        ModelConfig.from_dict({"depth": 3})
    for wrong in ({"width": 0}, {"width": 1.5}, {"blocks": 5000}, {"prior_width": 33}, {"width": True}):
        with pytest.raises(ValueError):
            ModelConfig.from_dict(wrong)


# Bands.


@pytest.mark.parametrize("name", ["tiny", "deep", "bsq1"])
@torch.inference_mode()
def test_decoding_in_bands_is_the_same_bit_for_bit(name, model, tiny, monkeypatch):
    if name == "deep":
        config = ModelConfig.from_dict(TINY.to_dict() | {"blocks": 3, "fine_blocks": 3})
        network = Model(config, integers(random_network(config)), Objective(), name).network
    else:
        network = (tiny if name == "tiny" else model).network
    reach, columns = network.decoder.halo, 2
    rows = 3 * reach + 5
    for condition in [Condition(0, 20, 0), Condition(1, 37, 1)][: 1 if name == "bsq1" else 2]:
        context, y = sources(network, condition, rows, columns)
        whole = network.decode(y, context, condition)
        for most in (1, columns * (2 * reach + 4)):
            monkeypatch.setattr(bands, "MOST", most)
            assert torch.equal(network.decode(y, context, condition), whole)
        monkeypatch.undo()
    # and without a halo it is not: what is wrong beside a cut is wrong up to there, or nearly
    if name != "bsq1":
        cut = reach + 2
        part = [None if t is None else t[:, cut:] for t in context[:3]]
        part.append(None if context.prediction is None else context.prediction[:, :, 16 * cut :])
        below = network.decode(y[:, cut:], type(context)(*part), condition)
        wrong = (below != whole[:, :, 16 * cut :]).any(3).any(1)[0].nonzero()
        assert reach // 3 <= int(wrong.max()) // 16 < reach


@torch.inference_mode()
def test_encoding_in_bands_is_the_same_but_for_rounding(model, monkeypatch):
    x = torch.from_numpy(skdata.astronaut()[:, 200:232]).permute(2, 0, 1)[None].float()
    condition = Condition(0, 50, 0)
    context = model.network.context(condition, None, model.network.classes(x))
    whole = model.network.encode(x, context, condition)
    monkeypatch.setattr(bands, "MOST", 2 * (2 * model.network.decoder.halo + 5))
    parts = model.network.encode(x, context, condition)
    assert parts.shape == whole.shape and parts.dtype == whole.dtype == torch.float32
    assert (parts - whole).abs().mean() < 2e-3 and (parts - whole).abs().max() < 0.5 and whole.abs().max() > 10
    assert (parts.round() != whole.round()).float().mean() < 1e-3


def test_bands_cover_the_picture_once():
    for rows, columns, reach, most in (
        (1, 1, 3, 1),
        (135, 240, 6, 1 << 15),
        (270, 480, 6, 1 << 15),
        (270, 480, 14, 1 << 12),
        (97, 2000, 6, 9),
        (97, 3, 5, 100),
    ):
        seen = []
        for run, keep in bands.bands(rows, columns, reach, most):
            assert (run.stop - run.start) * columns <= max(most, (2 * reach + 1) * columns)
            kept = list(range(run.start, run.stop))[keep]
            assert run.start <= max(0, kept[0] - reach) and run.stop >= min(rows, kept[-1] + 1 + reach)
            seen += kept
        assert seen == list(range(rows))


# Patches and borders.


def test_patches_are_inverted():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 32, 48, generator=g)
    t = patches(x)
    assert torch.equal(unpatch(t), x)
    assert torch.equal(t[1, 1, 2], x[1, :, 16:32, 32:48].flatten())
    small = quarters(t)
    assert torch.equal(small[1, 3, 4], x[1, :, 24:32, 32:40].flatten())
    assert torch.equal(merge(split(t)), t)
    assert torch.equal(quarter(t)[:, 1::2, ::2], t) and torch.equal(quarter(t)[:, ::2, 1::2], t)


def test_rings_see_around_and_overlap_adds_up():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 3, 32, 48), generator=g).float()
    r = rings(x)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
    for i, j in ((0, 0), (3, 5), (1, 2)):
        assert torch.equal(r[1, i, j], padded[1, :, 8 * i : 8 * i + 12, 8 * j : 8 * j + 12].flatten())
    t = torch.randint(-9, 9, r.shape, generator=g).float()
    total = torch.zeros_like(padded)
    for i in range(4):
        for j in range(6):
            total[:, :, 8 * i : 8 * i + 12, 8 * j : 8 * j + 12] += t[:, i, j].view(2, 3, 12, 12)
    assert torch.equal(overlap(t), total[:, :, 2:-2, 2:-2])
    room, inside = canvas(torch.Size((2, 2, 3)), torch.float32, x.device)
    inside.copy_(x)
    seen = windows(room)
    assert torch.equal(seen.flatten(3), r)
    add_windows(seen, t)
    assert torch.equal(inside, x + overlap(t))


def test_cells_are_in_the_order_of_the_phases():
    x = torch.arange(2 * 4 * 6 * 3).view(2, 4, 6, 3)
    for k, (i, j) in enumerate(PHASES):
        assert torch.equal(cells(x)[:, 1, 2, k], x[:, 2 + i, 4 + j])


@pytest.mark.parametrize("most", [0, 1, 2])
def test_smoothing_leaves_what_is_flat_or_steep(most):
    flat = torch.full((1, 3, 48, 64), 77.0)
    assert torch.equal(smooth(flat.clone(), most), flat)
    ramp = torch.arange(64.0).expand(1, 3, 48, 64).contiguous()
    assert torch.equal(smooth(ramp.clone(), most), ramp)
    for axis in (2, 3):
        edge = torch.full((1, 3, 48, 64), 100.0)
        edge.narrow(axis, 16, 16).add_(6 * max(most, 1))
        assert torch.equal(smooth(edge.clone(), most), edge)
        edge.narrow(axis, 16, 16).add_(-1)  # less steep by one
        assert torch.equal(smooth(edge.clone(), most), edge) == (most == 0)


@pytest.mark.parametrize("most", [0, 1, 2])
def test_smoothing_changes_no_pixel_by_more_than_its_bound(most):
    g = torch.Generator().manual_seed(0)
    for spread in (1, 3, 8, 40, 255):
        x = (128 + spread * torch.randn(2, 3, 48, 64, generator=g)).round().clamp(0, 255)
        y = smooth(x.clone(), most)
        whole = smooth(x.long(), most)
        assert torch.equal(y.long(), whole)
        change = (y - x).abs()
        assert 0 <= y.min() and y.max() <= 255
        # along rows, then along columns: a pixel where borders cross may change twice
        assert change.max() <= 2 * most and (change[:, :, 3:13] <= most).all() and (change[..., 3:13] <= most).all()
        inside = change[:, :, 2:14, 2:14]
        assert not inside.any()
    for size in ((16, 16), (16, 48), (48, 16)):
        x = torch.randint(90, 110, (1, 3, *size), generator=g).float()
        assert smooth(x.clone(), most).shape == x.shape


def test_smoothing_makes_blocks_smaller():
    x = torch.full((1, 3, 32, 32), 100.0)
    x[..., 16:] += 5
    y = smooth(x.clone(), 2)
    assert (y[..., 16] - y[..., 15]).abs().max() <= 2


def test_the_encoder_looks_around_and_the_quality_conditions(model):
    """A change far away moves nothing here; a change of quality moves the coefficients."""
    x = torch.rand(1, 3, 16 * 24, 16, generator=torch.Generator().manual_seed(0)).mul(255).round()
    y = x.clone()
    y[:, :, -16:] = 0

    @torch.inference_mode()
    def encoded(x, quality):
        condition = Condition(0, quality, 0)
        context = model.network.context(condition, None, model.network.classes(x))
        return model.network.encode(x, context, condition).round()

    a, b = encoded(x, 60), encoded(y, 60)
    far = 24 - model.network.decoder.halo - 2
    assert (a[:, :far] != b[:, :far]).float().mean() < 1e-3 and not torch.equal(a[:, -1:], b[:, -1:])
    assert not torch.equal(a, encoded(x, 62))
