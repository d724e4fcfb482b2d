"""The choice of references: where both show what a frame shows, and where only one of them does."""

import contextlib

import numpy as np
import torch

from bsqcodec.errors import FormatError
from bsqcodec.gop.decoder import decode_symbols
from bsqcodec.gop.encoder import GopEncoder
from bsqcodec.gop.motion import combine, mean
from bsqcodec.gop.motion_search import search_field
from bsqcodec.gop.vector_search import cheapest_vectors, vector_bits
from bsqcodec.settings import EncodeSettings
from bsqcodec.stream.group import BOTH, FIRST, SECOND
from bsqcodec.stream.motion_vectors import VectorCoder
from helpers import photo, same_pictures


def occluded() -> list[np.ndarray]:
    """Three noisy frames of 96x144: the last shows the left third of the middle one no more, the first not the right.

    Half of the middle third of each of them is there in both.
    """
    rng = np.random.default_rng(0)
    first = photo(96, 144, 90, 160)
    last = first.copy()
    first[:, 96:] = photo(96, 48, 300, 20)
    last[:, :48] = photo(96, 48, 10, 300)
    now = first.copy()
    now[:, 48:] = last[:, 48:]
    return [np.clip(x + rng.normal(0, 6, x.shape), 0, 255).astype(np.uint8) for x in (first, now, last)]


def test_a_block_takes_the_reference_that_shows_it(model) -> None:
    frames = occluded()
    encoder = GopEncoder(model, 96, 144, EncodeSettings(), 2)
    decoded = [picture for frame in frames for picture in encoder.push(frame, 60)] + encoder.flush()
    payload = encoder.finish()
    symbols = {s.place.number: s for s in decode_symbols(model, payload, 96, 144, 3)}
    assert same_pictures([symbols[i].picture for i in range(3)], decoded)
    assert symbols[0].modes is None and symbols[2].modes is None
    modes = symbols[1].modes
    assert list(symbols[1].vectors) == [0, 2] and modes.shape == (6, 9)
    assert (modes[:, :3] == FIRST).mean() > 0.8 and (modes[:, 6:] == SECOND).mean() > 0.8
    assert (modes[:, 3:6] == BOTH).mean() > 0.5
    rng = np.random.default_rng(0)
    for _ in range(6):  # damage of what tells modes and vectors
        bad = bytearray(payload)
        bad[int(rng.integers(len(bad) - 200, len(bad)))] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(FormatError):
            damaged = list(decode_symbols(model, bytes(bad), 96, 144, 3))
            assert all(s.modes is None or s.modes.max() <= SECOND for s in damaged)


def test_modes_combine_two_predictions() -> None:
    a, b = (torch.randint(0, 256, (1, 3, 32, 48)).float() for _ in range(2))
    out = combine(a, b, torch.tensor([[BOTH, FIRST, SECOND], [SECOND, BOTH, FIRST]]))
    assert torch.equal(out[..., :16, :16], mean(a, b)[..., :16, :16])
    assert torch.equal(out[..., :16, 16:32], a[..., :16, 16:32]) and torch.equal(out[..., :16, 32:], b[..., :16, 32:])
    assert torch.equal(out[..., 16:, :16], b[..., 16:, :16]) and torch.equal(out[..., 16:, 32:], a[..., 16:, 32:])


def test_blocks_without_weight_take_what_is_cheapest() -> None:
    cur, ref = (torch.from_numpy(photo(96, 112, *at)).permute(2, 0, 1)[None] for at in ((93, 82), (90, 80)))
    coder, weights = VectorCoder(), np.ones((6, 7))
    weights[:, 4:] = 0
    whole = cheapest_vectors(search_field(cur, ref, 4.0), coder, 50.0)
    part = cheapest_vectors(search_field(cur, ref, 4.0), coder, 50.0, weights)
    assert np.array_equal(whole[:, :3], part[:, :3])
    assert vector_bits(part, coder)[:, 4:].sum() <= vector_bits(whole, coder)[:, 4:].sum()


def test_a_field_that_is_aimed_at_another_frame_predicts_it() -> None:
    cur, ref = (torch.from_numpy(photo(64, 80, *at)).permute(2, 0, 1)[None] for at in ((93, 82), (90, 80)))
    field, wanted = search_field(ref, ref, 4.0), search_field(cur, ref, 4.0)
    field.aim(cur)
    field.set(wanted.v)
    assert torch.equal(field.sad, wanted.sad)
