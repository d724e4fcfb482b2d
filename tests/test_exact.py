"""The integers are the same however they are computed."""

import copy

import pytest
import torch
from conftest import TINY, random_network

from bsqcodec import exact
from bsqcodec.exact import LIMIT, Linear, Matrix, Norm, divide, freeze, scale
from bsqcodec.prior import PHASES, cells, pad_even, tokens

KIND, QUALITY = 1, 37


def condition(batch=1):
    return torch.full((batch,), KIND), torch.full((batch,), QUALITY)


def random_bits(network, batch, height, width, seed=0):
    g = torch.Generator().manual_seed(seed)
    bits = torch.rand(batch, height, width, TINY.bits, generator=g) < 0.3
    return bits * network.prior.active_mask(torch.tensor(QUALITY)).float()


def steps(prior, previous, bits):
    """Probabilities of every step of encoding `bits`."""
    seen = []

    def coder(p, known):
        seen.append(p)
        return known

    assert torch.equal(prior.run(previous, KIND, QUALITY, coder, bits), bits)
    return seen


@pytest.fixture
def frozen():
    network = random_network()
    freeze(network.prior)
    freeze(network.decoder)
    return network


@pytest.fixture
def oracle():
    network = random_network()
    freeze(network.prior, torch.int64)
    freeze(network.decoder, torch.int64)
    return network


def test_divide_rounds_half_up_exactly():
    n = torch.tensor([7, -7, 5, -5, 2**50 + 1, -(2**50) - 1, 3 * 2**40])
    d = torch.tensor([2, 2, 3, 3, 2, 2, 2**41])
    expected = [(2 * a + b) // (2 * b) for a, b in zip(n.tolist(), d.tolist())]
    assert divide(n, d).tolist() == expected
    assert divide(n.double(), d.double()).tolist() == expected


def test_scale_agrees_with_integer_shift():
    x = torch.arange(-5000, 5000)
    for bits in (-1, -4, -8):
        assert torch.equal(scale(x, bits, -127, 127), scale(x.float(), bits, -127, 127).long())


@pytest.mark.parametrize("rows", [1, 2, 33])
def test_fast_products_are_exact_in_every_shape_and_layout(rows):
    g = torch.Generator().manual_seed(rows)
    for inner in (1, 2, 5, 192):
        for columns in (1, 3, 64):
            x = torch.randint(-127, 128, (rows, 2 * inner), generator=g)[:, ::2]
            for limit in (127, 1 << 13):
                weight = torch.randint(-limit, limit + 1, (2 * columns, inner), generator=g)[::2]
                weight[0], x[0] = limit, -127
                for layout in (x, x.float(), x.to(torch.int8), x.T.contiguous().T):
                    for kind in (torch.int64, torch.float32):
                        product = Matrix(weight.to(kind)).product(layout)
                        assert torch.equal(product.long(), x @ weight.T)


def test_products_in_float32_where_int8_would_not_be_exact(monkeypatch, frozen):
    bits, previous = random_bits(frozen, 1, 9, 11), random_bits(frozen, 1, 9, 11, 1)
    reference = torch.full((1, 3, 144, 176), 100.0)
    fast = steps(frozen.prior, previous, bits), frozen.decoder(bits, reference, condition())
    monkeypatch.setattr(exact, "int8_is_exact", lambda: False)
    freeze(frozen.prior)
    freeze(frozen.decoder)
    slow = steps(frozen.prior, previous, bits), frozen.decoder(bits, reference, condition())
    assert all(torch.equal(a, b) for a, b in zip(fast[0], slow[0])) and torch.equal(fast[1], slow[1])


def test_a_wrong_int8_product_is_found_out(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.int() @ b.int()).clamp(-(1 << 15), (1 << 15) - 1))
    assert not exact.int8_is_exact.__wrapped__()


def test_overflow_is_refused_at_freeze():
    layer = Linear(2000, 1)
    layer.weight.data.fill_(127 / 256)
    with pytest.raises(AssertionError, match="partial sum"):
        freeze(layer)
    layer.in_max = LIMIT // (2000 * 127) - 1
    freeze(layer)


def test_norm_equals_int64_oracle():
    """Also where the quotient is an integer and a half, and for large gains."""
    for width, gain in ((192, 1.0), (144, 1.0), (96, 40.0)):
        norm = Norm(width)
        with torch.no_grad():
            norm.gain.anchors.mul_(gain)
            norm.gain.anchors[:, :, ::2].add_(torch.randn(width // 2))
            norm.offset.anchors.add_(5 * torch.randn(width))
        oracle = copy.deepcopy(norm)
        freeze(norm)
        freeze(oracle, torch.int64)
        for largest in (1, 2, 3, 50, 65535):
            x = torch.randint(-largest, largest + 1, (1, 500, width))
            x[0, :width] = largest * torch.eye(width, dtype=torch.int64)
            with torch.no_grad():
                assert torch.equal(norm(x.float(), condition()).long(), oracle(x, condition()))


def test_prior_equals_int64_oracle(frozen, oracle):
    bits, previous = random_bits(frozen, 2, 9, 11), random_bits(frozen, 2, 9, 11, 1)
    for a, b in zip(steps(frozen.prior, previous, bits), steps(oracle.prior, previous.long(), bits.long())):
        assert torch.equal(a, b)


def test_decoder_equals_int64_oracle(frozen, oracle):
    bits = random_bits(frozen, 2, 9, 11)
    reference = torch.randint(0, 256, (2, 3, 144, 176), generator=torch.Generator().manual_seed(2))
    exact = frozen.decoder(bits, reference.float(), condition(2))
    assert torch.equal(exact.long(), oracle.decoder(bits.long(), reference, condition(2)))
    assert exact.unique().numel() > 100


def test_prior_all_at_once_equals_step_by_step(frozen):
    prior = frozen.prior
    bits, previous = random_bits(frozen, 1, 9, 11), random_bits(frozen, 1, 9, 11, 1)
    logits = prior(pad_even(bits), pad_even(previous), condition())[:, :9, :11] * 4096
    p = prior.probabilities(logits)
    mask = prior.active_mask(torch.tensor(QUALITY))
    seen = iter(steps(prior, previous, bits))
    for i, j in PHASES:
        for group in prior.group_slices:
            if mask[group].any():
                assert torch.equal(p[:, i::2, j::2, group][..., mask[group]].flatten(0, 2), next(seen))
    assert next(seen, None) is None


def test_training_arithmetic_is_inference_arithmetic(frozen):
    """With rounding on, gradients and all, training computes the very integers of inference."""
    training = copy.deepcopy(frozen).requires_grad_(True)
    for part in (training.prior, training.decoder):
        for module in part.modules():
            if hasattr(module, "frozen"):
                module.frozen = {}
    bits, previous = random_bits(frozen, 1, 8, 8), random_bits(frozen, 1, 8, 8, 1)
    logits = training.prior(bits, previous, condition())
    assert logits.requires_grad
    assert torch.equal(logits.detach(), frozen.prior(bits, previous, condition()))
    reference = torch.randint(0, 256, (1, 3, 128, 128), generator=torch.Generator().manual_seed(2)).float()
    pixels = training.decoder(bits, reference, condition())
    assert torch.equal(pixels.detach(), frozen.decoder(bits, reference, condition()))


def test_one_thread_equals_many(frozen):
    bits, previous = random_bits(frozen, 1, 12, 20), random_bits(frozen, 1, 12, 20, 1)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(steps(frozen.prior, previous, bits))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_batch_of_one_equals_batch_of_many(frozen):
    bits, previous = random_bits(frozen, 3, 7, 10), random_bits(frozen, 3, 7, 10, 1)
    many = steps(frozen.prior, previous, bits)
    one = steps(frozen.prior, previous[1:2], bits[1:2])
    for a, b in zip(many, one):
        assert torch.equal(a.view(3, -1, a.shape[1])[1], b)


def test_prior_is_causal(frozen):
    """Changing any bit changes no probability of a step at or before its own."""
    prior = frozen.prior
    bits, previous = random_bits(frozen, 1, 8, 8), random_bits(frozen, 1, 8, 8, 1)
    before = steps(prior, previous, bits)
    groups = [g for g in prior.group_slices if prior.active_mask(torch.tensor(QUALITY))[g].any()]
    changed_later = 0
    for k, (i, j) in enumerate(PHASES):
        for n, group in enumerate(groups):
            other = bits.clone()
            block = other[:, i::2, j::2, group]
            block[:] = (1 - block) * prior.active_mask(torch.tensor(QUALITY))[group].float()
            after = steps(prior, previous, other)
            now = k * len(groups) + n
            assert all(torch.equal(a, b) for a, b in zip(before[: now + 1], after[: now + 1]))
            changed_later += any(not torch.equal(a, b) for a, b in zip(before[now + 1 :], after[now + 1 :]))
    assert changed_later == 4 * len(groups) - 1  # every step but the last informs a later one


def test_previous_frame_informs_the_prior(frozen):
    bits, previous = random_bits(frozen, 1, 8, 8), random_bits(frozen, 1, 8, 8, 1)
    a, b = steps(frozen.prior, previous, bits), steps(frozen.prior, 0 * previous, bits)
    assert not torch.equal(a[0], b[0])


def test_cells_and_tokens_are_inverse():
    x = torch.arange(2 * 4 * 6 * 3).view(2, 4, 6, 3)
    assert torch.equal(tokens(cells(x)), x)
    assert torch.equal(cells(x)[0, 0, 0, 1], x[0, 1, 1])
