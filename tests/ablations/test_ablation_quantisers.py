"""The quantisers that benchmarks/ablations compares: each is decoded as it was encoded, and costs what it says."""

import constriction
import numpy as np
import pytest
import torch

from ablations.code_quantisers import DEAD, Vectors
from ablations.comparison_of_quantisers import BASELINE, MAKERS, VARIANTS
from ablations.measures import curves_table
from ablations.network import LEVELS, Autoencoder, Quantised, Shape, contrast
from bsqcodec.network.patches import cells, uncells

LEVEL = 0
SHAPE = Shape(patch=8, width=32, blocks=1, prior_width=64, prior_blocks=1)
REACH = 40  # integers of coefficients lie within
INTEGERS = ("planes", "planes-without-gains", "rounding", "rounding-mixed")


@pytest.fixture(scope="module", params=MAKERS)
def made(request) -> tuple[str, Autoencoder, torch.Tensor]:
    """A small network with random weights and one of the quantisers, at work; and pictures, (1, 1, 3, 32, 32)."""
    torch.manual_seed(0)
    spread = torch.logspace(2.6, 0.5, SHAPE.channels)
    quantiser = MAKERS[request.param](spread)
    quantiser.begin(torch.randn(1024, SHAPE.channels) * spread)
    basis = torch.linalg.qr(torch.randn(192, 192)).Q
    network = Autoencoder(SHAPE, quantiser, basis).eval()
    for name, p in network.named_parameters():
        if name.startswith(("e_out", "d_out", "p_out", "p_seen", "p_past")):
            torch.nn.init.normal_(p, std=0.1)
    rough = torch.nn.functional.interpolate(torch.randn(1, 3, 8, 8), size=(32, 32), mode="bicubic")
    return request.param, network, (128 + 50 * rough + 5 * torch.randn(1, 3, 32, 32)).clamp(0, 255)[:, None]


def coded(network: Autoencoder, x: torch.Tensor, level: int) -> tuple[Quantised, torch.Tensor, torch.Tensor]:
    classes = contrast(x, SHAPE.patch) * network.quantiser.gains
    features = network.features(classes, level, torch.float32)
    z = network.encode(x, features, level, torch.float32)
    return network.quantiser(z, level, classes), features, classes


def prior(network: Autoencoder, seen: torch.Tensor, features: torch.Tensor, level: int) -> torch.Tensor:
    return network.prior(seen, features, torch.float32) + network.quantiser.start[level]


@torch.no_grad()
def test_what_a_decoder_restores_is_what_the_encoder_saw(made):
    _, network, x = made
    for level in range(LEVELS):
        q, _, classes = coded(network, x, level)
        seen, values = network.quantiser.restored(q.symbols, level, classes)
        torch.testing.assert_close(seen, q.seen, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(values, q.values, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_prior_sees_no_symbols_that_are_coded_later(made):
    """Groups of a token, and phases: what is seen of one changes nothing that was predicted before."""
    _, network, x = made
    q, features, _ = coded(network, x, LEVEL)
    groups, outputs = network.quantiser.groups, network.quantiser.outputs
    before = cells(prior(network, q.seen, features, LEVEL).flatten(0, 1))
    for group in (0, len(groups) // 2, len(groups) - 1):
        for phase in range(4):
            changed = cells(q.seen.flatten(0, 1).clone())
            first = sum(groups[:group])
            changed[:, :, :, phase, first : first + groups[group]] += 1.0
            seen = uncells(changed)[:, None]
            after = cells(prior(network, seen, features, LEVEL).flatten(0, 1))
            same = sum(outputs[: group + 1])
            assert torch.equal(after[:, :, :, phase, :same], before[:, :, :, phase, :same])
            assert torch.equal(after[:, :, :, :phase], before[:, :, :, :phase])
            later = after[:, :, :, phase:] - before[:, :, :, phase:]
            assert later.abs().max() > 0 or (phase == 3 and group == len(groups) - 1)


def costs(network: Autoencoder, name: str, run: slice, known: torch.Tensor, outputs: torch.Tensor) -> np.ndarray:
    """Code lengths of all values, from the lowest one, of a run of symbols after the known ones, (n, run, alphabet)."""
    low, size = alphabet(network, name, run)
    tried = known.expand(size, *known.shape).clone()
    tried[..., run] = torch.arange(size)[:, None, None] + low
    seen, values = network.quantiser.restored(tried, LEVEL, torch.zeros(tried.shape[:-1]))
    q = Quantised(seen, values, tried, torch.zeros(()))
    return network.quantiser.bits(q, outputs.expand(size, *outputs.shape), LEVEL)[..., run].movedim(0, -1).numpy()


def alphabet(network: Autoencoder, name: str, run: slice) -> tuple[int, int]:
    """The lowest value of symbols, and how many there are."""
    if name in INTEGERS:
        return -REACH, 2 * REACH + 1
    half = int(network.quantiser.bound[LEVEL, run].max()) if name == "fsq" else 0
    return (-half, 2 * half + 1) if half else (0, 512 if name == "vq" else 2)


@torch.no_grad()
def code(made, coder, symbols: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Code symbols with the prior's probabilities: of each phase the groups, bits of a token one after the other.

    symbols: those to encode; a decoder has only their shape. Returns them, and their code length.
    """
    name, network, x = made
    quantiser, total = network.quantiser, 0.0
    q, features, classes = coded(network, x, LEVEL)
    n_coded = quantiser.bits(q, prior(network, q.seen, features, LEVEL), LEVEL).shape[-1]
    given, known = cells(symbols.flatten(0, 1)), cells(torch.zeros_like(symbols).flatten(0, 1))
    for phase in range(4):
        first = 0
        for n in (g // 8 if name == "vq" else g for g in quantiser.groups):
            if first >= n_coded:
                break
            seen, _ = quantiser.restored(uncells(known)[:, None], LEVEL, classes)
            outputs = cells(prior(network, seen, features, LEVEL).flatten(0, 1))[:, :, :, phase].flatten(0, 2)
            end, step = min(first + n, n_coded), 1 if name in ("bsq", "lfq") else n
            for start in range(first, end, step):
                run = slice(start, min(start + step, end))
                at = known[:, :, :, phase]
                bits = costs(network, name, run, at.flatten(0, 2), outputs)
                bits = bits.reshape(-1, bits.shape[-1]).astype(np.float64)
                p = np.ascontiguousarray(np.exp2(-bits))
                np.testing.assert_allclose(p.sum(1), 1, atol=1e-3)
                low, _ = alphabet(network, name, run)
                chosen = coder(p, given[:, :, :, phase, run].flatten().numpy().astype(np.int32) - low)
                total += float(bits[np.arange(len(chosen)), chosen].sum())
                at[..., run] = torch.from_numpy(chosen + low).view(at[..., run].shape)
            first += n
    return uncells(known)[:, None], total


def test_symbols_are_coded_at_the_length_that_the_table_tells(made):
    """By a range coder, each symbol with the distribution that a decoder has when it comes to it."""
    _, network, x = made
    model = constriction.stream.model.Categorical(perfect=False)
    encoder = constriction.stream.queue.RangeEncoder()

    def encode(p: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        encoder.encode(symbols, model, p)
        return symbols

    with torch.no_grad():
        q, features, _ = coded(network, x, LEVEL)
        told = float(network.quantiser.bits(q, prior(network, q.seen, features, LEVEL), LEVEL).sum())
    symbols, length = code(made, encode, q.symbols)
    assert torch.equal(symbols, q.symbols)
    assert length == pytest.approx(told, rel=1e-3)
    words = encoder.get_compressed()
    assert abs(32 * len(words) - told) < 0.01 * told + 64
    decoder = constriction.stream.queue.RangeDecoder(words)
    decoded, _ = code(made, lambda p, _: decoder.decode(model, p), torch.zeros_like(q.symbols))
    assert torch.equal(decoded, q.symbols)


@torch.no_grad()
def test_a_level_ignores_what_finer_levels_code(made):
    name, network, x = made
    if name in INTEGERS:
        return
    quantiser = network.quantiser
    q, _, classes = coded(network, x, LEVEL)
    outputs = torch.randn(*q.seen.shape[:-1], sum(quantiser.outputs))
    n = quantiser.bits(q, outputs, LEVEL).shape[-1]
    assert 0 < n < q.symbols.shape[-1] and not q.symbols[..., n:].any()
    others = q.symbols.clone()
    others[..., n:] = 1
    seen, values = quantiser.restored(others, LEVEL, classes)
    torch.testing.assert_close((seen, values), (q.seen, q.values), rtol=1e-4, atol=1e-4)
    finer = quantiser.bits(coded(network, x, LEVEL + 1)[0], outputs, LEVEL + 1)
    assert finer.shape[-1] > n


@torch.no_grad()
def test_usage_is_the_share_of_the_alphabet(made):
    name, network, x = made
    quantiser, symbols = network.quantiser, coded(network, x, LEVEL)[0].symbols
    alike = quantiser.usage(symbols[:, :, :1, :1].expand_as(symbols), LEVEL)
    assert alike < quantiser.usage(symbols, LEVEL) <= 1
    sizes = {"bsq": 2, "lfq": 2, "vq": 512} | dict.fromkeys(INTEGERS, 3)
    if name in sizes:
        assert alike == pytest.approx(1 / sizes[name], rel=1e-4)  # one symbol of each alphabet


def test_everything_that_is_trained_has_a_gradient(made):
    """Of encoder, quantiser, decoder and prior, in training; a level moves what is its own."""
    _, network, x = made
    network.train()
    decoded, bits, q = network(x, LEVEL, torch.float32)
    ((decoded - x).square().mean() / 100 + bits.mean() / 100 + q.loss).backward()
    network.eval()
    for name, p in network.named_parameters():
        if name == "p_past.w":  # of the frame before, which there is none
            continue
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
        if name.startswith(("e_in", "e_out", "d_out", "quantiser", "p_out.0")):
            assert p.grad.abs().sum() > 0, name
    network.zero_grad()


def test_a_code_that_nothing_takes_starts_again_from_a_token():
    torch.manual_seed(0)
    quantiser = Vectors(torch.ones(192), commitment=0.25)
    quantiser.begin(torch.randn(2048, 192))
    quantiser.codes[0, :5] = 1e4  # far from all tokens
    quantiser.taken[0, :5] = DEAD
    z = torch.randn(1, 1, 16, 16, 192)
    quantiser.train()(z, 0, torch.zeros(1, 1, 16, 16))
    tokens = z.flatten(0, -2) * 2**8.0 @ quantiser.directions[0]
    for code, taken in zip(quantiser.codes[0, :5], quantiser.taken[0, :5], strict=True):
        assert (tokens - code).abs().amax(1).min() < 1e-3 and taken == 1
    assert quantiser.codes[0, 5:].abs().max() < 1e4
    before = quantiser.codes.clone()
    quantiser.eval()(z, 0, torch.zeros(1, 1, 16, 16))
    assert torch.equal(quantiser.codes, before)


def test_the_table_names_spread_and_partial_ranges():
    curve = [[0.1 * 2**i, 25.0 + 3 * i, 8.0 + 3 * i, 0.2 / 2**i] for i in range(LEVELS)]
    worse = [[1.1 * rate, psnr, similar + 9, far] for rate, psnr, similar, far in curve]
    rows = [
        {"variant": v, "seed": s, "points": points, "usage": 0.5, "steps per second": 2.0}
        for v, s, points in ((BASELINE, 0, curve), (BASELINE, 1, worse), ("bsq", 1, worse))
    ]
    lines = curves_table(rows, BASELINE, VARIANTS).splitlines()
    head, _, planes, bsq = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:4])
    planes, bsq = (dict(zip(head, line, strict=True)) for line in (planes, bsq))
    assert planes["variant"].startswith("`planes`: ") and bsq["variant"].startswith("`bsq`: ")
    rates = [f"BD-rate by {name}" for name in ("PSNR", "MS-SSIM", "ST-LPIPS")]
    assert planes[rates[0]] == "+0.0 %, +10.0 %"  # the second seed against the first
    assert planes[rates[1]] == "+0.0 %, (14 %)"
    assert bsq["PSNR, MS-SSIM, ST-LPIPS at 0.25 bpp"] == "28.55, 20.55, 0.091"  # of 1.1 times the rate: 0.25 / 1.1
    assert [bsq[name] for name in rates] == ["+0.0 %"] * 3  # against that of its own seed
    assert lines[7].startswith("| `planes` | 0 | 0.100 0.200 0.400 0.800 1.600 | ")
