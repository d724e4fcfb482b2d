"""The encoder's search: better by its own measure, and nothing that a decoder could notice."""

import io
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import exit_status
from skimage import data as skdata

import bsqcodec
from bsqcodec import refine
from bsqcodec.bench.metrics import psnr
from bsqcodec.codec import GopEncoder, no_bits
from bsqcodec.info import MediaInfo
from bsqcodec.model import load_model
from bsqcodec.network import GRAY
from bsqcodec.objective import cost, measure


@pytest.fixture(scope="module")
def model():
    return load_model()


def picture(height: int, width: int, shift: int = 0) -> np.ndarray:
    return skdata.astronaut()[60 : 60 + height, 180 + shift : 180 + shift + width].copy()


@pytest.mark.parametrize("quality", [50, 80])
def test_the_search_finds_bits_of_lower_cost(model, quality):
    frame = torch.from_numpy(picture(96, 128).transpose(2, 0, 1)[None]).float()
    reference, before = torch.full_like(frame, GRAY), no_bits(model, 6, 8)
    condition = torch.tensor([0]), torch.tensor([quality])

    def price(bits):
        m, _ = measure(model.unrounded, bits, frame, reference, before, condition, refine.WEIGHTS)
        return cost(model.unrounded, m.bpp, m.distortion, condition, refine.WEIGHTS)[0].item()

    with torch.inference_mode():
        start = model.network.bits(frame, reference, condition)
    found = refine.encode(model, frame, reference, before, condition, 4)
    assert found.shape == start.shape and set(found.unique().tolist()) <= {0.0, 1.0}
    assert not found[..., ~model.network.prior.active_mask(condition[1])[0]].any()
    assert price(found) < 0.995 * price(start)


def test_odd_frames_decode_as_the_encoder_said(model):
    file = io.BytesIO()
    encoder = bsqcodec.Encoder(file, MediaInfo(45, 37, Fraction(1, 25), Fraction(25)), model, quality=60, effort=2)
    shown = [x for t in range(3) for x in encoder.write(picture(37, 45, 3 * t), t)] + encoder.close()
    file.seek(0)
    decoded = [frame.rgb for frame in bsqcodec.Decoder(file, model=model).frames()]
    assert len(decoded) == 3 and all(np.array_equal(a, b) for a, b in zip(shown, decoded))
    assert all(psnr(picture(37, 45, 3 * t), decoded[t]) > 22 for t in range(3))


def test_large_pictures_are_searched_in_bands(model, monkeypatch):
    monkeypatch.setattr(refine, "MOST", 8 * 4)
    rgb = picture(16 * 19 + 5, 60)
    encoder = GopEncoder(model, *rgb.shape[:2], effort=1)
    (decoded,) = encoder.push(rgb, 50)
    assert decoded.shape == rgb.shape and psnr(rgb, decoded) > 22


def test_the_same_bytes_from_two_processes_and_from_any_threads(tmp_path):
    from PIL import Image

    for i in range(4):
        Image.fromarray(picture(48, 64, 4 * i)).save(tmp_path / f"{i}.png")
    threads = torch.get_num_threads()
    try:
        for name, jobs, count in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
            torch.set_num_threads(count)
            bsqcodec.encode_file(str(tmp_path / "*.png"), str(tmp_path / name), gop=2, effort=1, jobs=jobs)
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_resume_goes_on_with_the_same_effort_only(tmp_path):
    from PIL import Image

    for i in range(4):
        Image.fromarray(picture(64, 64, 4 * i)).save(tmp_path / f"{i}.png")
    source, out = str(tmp_path / "*.png"), tmp_path / "out.bsq"
    bsqcodec.encode_file(source, str(out), quality=80, gop=2, effort=4)
    whole = out.read_bytes()
    for effort, works in ((0, False), (4, True)):
        out.unlink(missing_ok=True)
        (tmp_path / ".out.bsq.7.part").write_bytes(whole[: len(whole) * 3 // 4])
        if works:
            assert bsqcodec.encode_file(source, str(out), quality=80, gop=2, effort=effort, resume=True).kept
            assert out.read_bytes() == whole
        else:
            with pytest.raises(bsqcodec.BsqError, match="another input or options"):
                bsqcodec.encode_file(source, str(out), quality=80, gop=2, effort=effort, resume=True)


def test_effort_out_of_range(tmp_path, capsys):
    with pytest.raises(ValueError, match="effort 1001"):
        bsqcodec.encode_image(picture(16, 16), effort=1001)
    assert exit_status("encode", tmp_path / "a.png", tmp_path / "a.bsq", "--effort", -1) == 2
    assert "effort" in capsys.readouterr().err
