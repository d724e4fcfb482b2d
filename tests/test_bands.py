"""Bands give what the whole picture gives."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY, random_network

from bsqcodec import bands
from bsqcodec.model import Model, load_model, packaged_models
from bsqcodec.tokenizer import to_pixels


def models() -> list[str]:
    return ["tiny", "deep", *packaged_models()]


def load(name: str) -> Model:
    if name == "tiny":
        return Model(random_network(), name)
    if name == "deep":
        return Model(random_network(replace(TINY, decoder_blocks=5, detail_blocks=4, encoder_blocks=3, window=4)), name)
    return load_model(name)


@pytest.mark.parametrize("name", models())
@torch.inference_mode()
def test_decoder_is_the_same_bit_for_bit(name, monkeypatch):
    network = load(name).network
    config, columns = network.config, 3
    generator = torch.Generator().manual_seed(0)
    for rows in (1, 8, 41, 67):
        bits = torch.randint(0, 2, (1, rows, columns, config.bits), generator=generator).float()
        reference = torch.randint(0, 256, (1, 3, 16 * rows, 16 * columns), generator=generator).float()
        condition = torch.tensor([1]), torch.tensor([70])
        whole = network.decoder(bits, reference, condition)
        reach = bands.halo(network.decoder.blocks, len(network.decoder.detail_blocks))
        for most in (1, columns * (2 * reach + 3 * config.window)):
            monkeypatch.setattr(bands.bands, "__defaults__", (most,))
            assert torch.equal(bands.decode(network.decoder, bits, reference, condition, lambda x: x), whole), (
                rows,
                most,
            )
        # and the halo is not larger than it must be: what is wrong beside a cut is wrong up to there
        cut = 2 * -(-reach // config.window) * config.window
        if rows > cut + reach:
            below = network.decoder(bits[:, cut:], reference[:, :, 16 * cut :], condition)
            wrong = (below != whole[:, :, 16 * cut :]).any(3).any(1)[0].nonzero()
            assert reach - 1 <= int(wrong.max()) // 16 < reach


@torch.inference_mode()
def test_encoder_is_the_same_but_for_rounding(monkeypatch):
    network = load("tiny").network
    generator = torch.Generator().manual_seed(0)
    frame = torch.randint(0, 256, (1, 3, 16 * 50, 48), generator=generator).float()
    condition = torch.tensor([0]), torch.tensor([70])
    whole = network.bits(frame, torch.full_like(frame, 128), condition)
    monkeypatch.setattr(bands.bands, "__defaults__", (1,))
    parts = bands.encode(network, frame, torch.full_like(frame, 128), condition)
    assert parts.shape == whole.shape and (parts != whole).float().mean() < 1e-3


def test_bands_cover_the_picture_once():
    for rows, columns, most in (
        (1, 1, 1),
        (135, 240, 1 << 16),
        (270, 480, 1 << 16),
        (270, 480, 1 << 15),
        (97, 2000, 9),
    ):
        seen = []
        for run, keep in bands.bands(rows, columns, 8, 10, most):
            size = (run.stop - run.start) * columns
            assert run.start % 8 == 0 and (run.stop % 8 == 0 or run.stop == rows)
            assert size <= max(most, 8 * 5 * columns)
            seen += list(range(run.start, run.stop))[keep]
        assert seen == list(range(rows))


def test_pixels_are_finished_in_the_bands():
    model = load("tiny")
    bits = torch.zeros(1, 2, 2, model.network.config.bits)
    reference = torch.full((1, 3, 32, 32), 128.0)
    picture = bands.decode(
        *(model.network.decoder, bits, reference, (torch.tensor([0]), torch.tensor([1]))),
        lambda x: to_pixels(x).to(torch.uint8),
    )
    assert picture.dtype == torch.uint8 and picture.shape == (1, 3, 32, 32)
