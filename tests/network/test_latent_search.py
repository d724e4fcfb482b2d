"""The encoder's search: better by its own measure, and nothing that a decoder could notice."""

import io
from fractions import Fraction

import numpy as np
import pytest
import torch

import bsqcodec
from bsqcodec.gop.decoder import decode_gop
from bsqcodec.gop.encoder import GopEncoder
from bsqcodec.network import latent_search
from bsqcodec.network.quantiser import log2_step
from bsqcodec.network.tokenizer import Condition
from bsqcodec.settings import EncodeSettings
from bsqcodec.types import MediaInfo
from helpers import as_batch, exit_status, photo, psnr


def crop(height: int, width: int, left: int = 180) -> np.ndarray:
    return photo(height, width, 60, left)


@pytest.mark.parametrize(("frame_type", "quality", "tune"), [(0, 50, 0), (0, 75, 1), (1, 60, 0), (2, 60, 1)])
@torch.inference_mode()
def test_the_search_lowers_the_objective(model, frame_type, quality, tune):
    """And the networks are left as they were."""
    network, unrounded = model.network, model.network.unrounded
    before = [p.clone() for p in unrounded.parameters()]
    x = as_batch(crop(64, 80))
    prediction = as_batch(crop(64, 80, left=181)) if frame_type else None
    condition = Condition(frame_type, quality, tune)
    context = network.context(condition, prediction, None if frame_type else network.classes(x))
    level, one = torch.tensor([float(log2_step(quality))]), torch.ones(1)
    batch = unrounded.prepare(
        x, level, tune * one, prediction, (frame_type == 2) * one, network.n_coded(quality), torch.float32
    )

    def price(y):
        mean, scale = unrounded.prior(y.float(), batch)
        rate = unrounded.bits(y.float(), y.float(), mean, scale, batch).sum((1, 2, 3)) / (64 * 80)
        decoded = unrounded.decode(y.float(), batch)
        return network.objective.cost(decoded, x, rate, level, tune * one, frame_type > 0).item()

    start = unrounded.quantise(network.encode(x, context, condition), batch)
    found = network.encode(x, context, condition, 4)
    assert found.shape == start.shape and torch.equal(found, found.round()) and not found.requires_grad
    assert price(found) < 0.998 * price(start)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, unrounded.parameters(), strict=True))


def test_no_steps_find_what_the_encoder_says(model):
    """The search keeps the best it saw, the start among it: it cannot be worse."""
    network = model.network
    x = as_batch(crop(32, 48))
    batch = network.unrounded.prepare(
        x, torch.tensor([4.0]), torch.zeros(1), n_coded=network.n_coded(50), dtype=torch.float32
    )
    start = network.unrounded.quantise(network.unrounded.coefficients(batch), batch)
    assert torch.equal(latent_search.search(network.unrounded, batch, x, network.objective, 0), start)


@pytest.mark.parametrize("tune", ["perceptual", "psnr"])
def test_effort_never_breaks_the_round_trip(model, tune):
    """I, P and B frames of odd sides; a prefix of what follows from the same frames."""
    frames = [crop(29, 43, left=180 + 2 * t) for t in range(4)]
    encoder = GopEncoder(model, 29, 43, EncodeSettings(effort=2, tune=tune), 3)
    decoded = [x for f in frames for x in encoder.push(f, 55)] + encoder.flush()
    assert [s.frame_type for s in encoder.stats] == ["I", "P", "B", "B"]
    out = list(decode_gop(model, encoder.finish(), 29, 43, 4))
    assert len(out) == 4 and all(np.array_equal(a, b) for a, b in zip(out, decoded, strict=True))


def test_odd_frames_decode_as_the_encoder_said(model):
    file = io.BytesIO()
    encoder = bsqcodec.Encoder(
        file, MediaInfo(45, 37, Fraction(1, 25), Fraction(25)), model=model, quality=60, effort=2
    )
    shown = [x for t in range(3) for x in encoder.write(crop(37, 45, left=180 + 3 * t), t)] + encoder.close()
    file.seek(0)
    decoded = [frame.rgb for frame in bsqcodec.Decoder(file, model=model).frames()]
    assert len(decoded) == 3 and all(np.array_equal(a, b) for a, b in zip(shown, decoded, strict=True))
    assert all(psnr(crop(37, 45, left=180 + 3 * t), decoded[t]) > 22 for t in range(3))


def test_large_pictures_are_searched_in_bands(tiny, monkeypatch):
    monkeypatch.setattr(latent_search, "MAX_TOKENS_PER_BAND", 8 * 4)
    rgb = crop(16 * 19 + 5, 60)
    encoder = GopEncoder(tiny, *rgb.shape[:2], EncodeSettings(effort=1, low_delay=True))
    (decoded,) = encoder.push(rgb, 50)
    assert decoded.shape == rgb.shape and psnr(rgb, decoded) > 22


def test_the_same_bytes_from_another_process_and_from_any_threads(tmp_path):
    from PIL import Image

    for i in range(2):  # one group, and so one process more: each takes seconds to begin
        Image.fromarray(crop(32, 64, left=180 + 4 * i)).save(tmp_path / f"{i}.png")
    settings = bsqcodec.EncodeSettings(gop=2, effort=1, low_delay=True)
    threads = torch.get_num_threads()
    try:
        for name, jobs, count in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
            torch.set_num_threads(count)
            bsqcodec.encode_file(str(tmp_path / "*.png"), str(tmp_path / name), settings, jobs=jobs)
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_resume_goes_on_with_the_same_effort_only(tiny, tmp_path):
    from PIL import Image

    for i in range(3):
        Image.fromarray(crop(64, 64, left=180 + 4 * i)).save(tmp_path / f"{i}.png")
    source, out = str(tmp_path / "*.png"), tmp_path / "out.bsq"
    options = {"model": tiny, "quality": 80, "gop": 2, "low_delay": True}
    bsqcodec.encode_file(source, str(out), effort=4, **options)
    whole = out.read_bytes()
    for effort, works in ((0, False), (4, True)):
        out.unlink(missing_ok=True)
        (tmp_path / ".out.bsq.7.part").write_bytes(whole[: len(whole) * 3 // 4])
        if works:
            assert bsqcodec.encode_file(source, str(out), effort=effort, resume=True, **options).kept
            assert out.read_bytes() == whole
        else:
            with pytest.raises(bsqcodec.BsqError, match="another input or options"):
                bsqcodec.encode_file(source, str(out), effort=effort, resume=True, **options)


def test_effort_out_of_range(tmp_path, capsys):
    with pytest.raises(ValueError, match="effort 1001"):
        bsqcodec.encode_image(crop(16, 16), effort=1001)
    assert exit_status("encode", tmp_path / "a.png", tmp_path / "a.bsq", "--effort", -1) == 2
    assert "effort" in capsys.readouterr().err
