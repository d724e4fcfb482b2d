"""Large pictures in bands of rows: the same result as of the whole picture."""

import pytest
import torch

from bsqcodec.network import tiling
from bsqcodec.network.config import ModelConfig
from bsqcodec.network.export import integers
from bsqcodec.network.objective import Objective
from bsqcodec.network.tokenizer import Condition
from bsqcodec.network.weights import Model
from helpers import TINY, as_batch, photo, random_frame, random_network


@pytest.mark.parametrize("name", ["tiny", "deep", "bsq1"])
@torch.inference_mode()
def test_decoding_in_bands_is_the_same_bit_for_bit(name, model, tiny, monkeypatch):
    if name == "deep":
        config = ModelConfig.from_dict(TINY.to_dict() | {"blocks": 3, "fine_blocks": 3})
        network = Model(config, integers(random_network(config)), Objective(), name).network
    else:
        network = (tiny if name == "tiny" else model).network
    halo, columns = network.decoder.halo, 2
    rows = 3 * halo + 5
    for condition in [Condition(0, 20, 0), Condition(1, 37, 1)][: 1 if name == "bsq1" else 2]:
        context, y = random_frame(network, condition, rows, columns)
        whole, shown = network.decode(y, context, condition, 12)
        for max_tokens in (1, columns * (2 * halo + 4)):
            monkeypatch.setattr(tiling, "MAX_TOKENS_PER_BAND", max_tokens)
            assert all(map(torch.equal, network.decode(y, context, condition, 12), (whole, shown)))
        monkeypatch.undo()
    # and without a halo it is not: what is wrong beside a cut is wrong up to there, or nearly
    if name != "bsq1":
        cut = halo + 2
        part = [None if t is None else t[:, cut:] for t in context[:3]]
        part.append(None if context.prediction is None else context.prediction[:, :, 16 * cut :])
        [below] = network.decode(y[:, cut:], type(context)(*part), condition)
        wrong = (below != whole[:, :, 16 * cut :]).any(3).any(1)[0].nonzero()
        assert halo // 3 <= int(wrong.max()) // 16 < halo


@torch.inference_mode()
def test_encoding_in_bands_is_the_same_but_for_rounding(model, monkeypatch):
    x = as_batch(photo(512, 32, 0, 200))
    condition = Condition(0, 50, 0)
    context = model.network.context(condition, None, model.network.classes(x))
    whole = model.network.encode(x, context, condition)
    monkeypatch.setattr(tiling, "MAX_TOKENS_PER_BAND", 2 * (2 * model.network.decoder.halo + 5))
    parts = model.network.encode(x, context, condition)
    assert parts.shape == whole.shape and parts.dtype == whole.dtype == torch.float32
    assert (parts - whole).abs().mean() < 2e-3 and (parts - whole).abs().max() < 0.5 and whole.abs().max() > 10
    assert (parts.round() != whole.round()).float().mean() < 1e-3


def test_bands_cover_the_picture_once():
    for rows, columns, halo, max_tokens in (
        (1, 1, 3, 1),
        (135, 240, 6, 1 << 15),
        (270, 480, 6, 1 << 15),
        (270, 480, 14, 1 << 12),
        (97, 2000, 6, 9),
        (97, 3, 5, 100),
    ):
        seen = []
        for run, keep in tiling.bands(rows, columns, halo, max_tokens):
            assert (run.stop - run.start) * columns <= max(max_tokens, (2 * halo + 1) * columns)
            kept = list(range(run.start, run.stop))[keep]
            assert run.start <= max(0, kept[0] - halo) and run.stop >= min(rows, kept[-1] + 1 + halo)
            seen += kept
        assert seen == list(range(rows))
