"""The self-test: every conformance stream decodes to its checksums, and what is not exact is found."""

import hashlib
import io
import json

import pytest

from bsqcodec import selftest as selftest_module
from bsqcodec.api import Decoder, Encoder
from bsqcodec.errors import BsqError
from bsqcodec.model_files import packaged_ids
from bsqcodec.network.weights import find_model
from bsqcodec.types import MediaInfo
from helpers import exit_status, moving, random_model


@pytest.fixture
def coded(tiny):
    """A stream of six frames in three groups."""
    file = io.BytesIO()
    with Encoder(file, MediaInfo(20, 17, frame_rate=25), model=tiny, quality=60, gop=2) as encoder:
        for t, picture in enumerate(moving(6, 17, 20)):
            encoder.write(picture, t)
    return file.getvalue()


def listed():
    """The conformance streams; none where they are not installed, so that the tests can be collected."""
    try:
        return selftest_module.conformance_streams()
    except BsqError:
        return []


def test_there_are_conformance_streams():
    """`python tests/conformance/make.py` writes those of a new model."""
    models = {bytes.fromhex(stream["model"]) for stream in listed()}
    assert models == packaged_ids().keys(), "a model that was released once stays, with its streams"
    assert models and len(listed()) >= 13 * len(models)


@pytest.mark.parametrize("listed_stream", listed(), ids=lambda listed_stream: listed_stream["file"])
def test_conformance_stream_decodes(listed_stream):
    model = find_model(bytes.fromhex(listed_stream["model"]))
    data = (selftest_module.FOLDER / listed_stream["file"]).read_bytes()
    found, bits = selftest_module.checksums(data, model)
    assert {"file": listed_stream["file"], **found} == listed_stream and bits > 0


def test_selftest_tells_what_differs(tiny, tmp_path, monkeypatch, coded, capsys):
    entry, bits = selftest_module.checksums(coded, tiny)
    assert bits > 1000 and entry["frames"] == 6
    decoded = b"".join(f.rgb.tobytes() for f in Decoder(io.BytesIO(coded), "cpu", tiny).frames())
    assert entry["pictures"] == hashlib.md5(decoded).hexdigest()
    (tmp_path / "a.bsq").write_bytes(coded)
    (tmp_path / "b.bsq").write_bytes(coded[:-30])
    monkeypatch.setattr(selftest_module, "FOLDER", tmp_path)
    monkeypatch.setattr(selftest_module, "find_model", lambda *_: tiny)
    (tmp_path / "streams.json").write_text(json.dumps([{"file": "a.bsq", **entry}]))
    report = selftest_module.selftest("cpu")
    assert not report.differences and report.bits == bits and "decodes exactly" in report.summary()
    wrong = [{"file": "a.bsq", **entry, "bits": "0"}, {"file": "b.bsq", **entry}]
    (tmp_path / "streams.json").write_text(json.dumps(wrong))
    first, second = selftest_module.selftest("cpu").differences
    assert first == "a.bsq: other bits" and second.startswith("b.bsq: the stream is cut short")
    assert exit_status("selftest", "--device", "cpu") == 1
    assert "does not decode exactly" in capsys.readouterr().err


def test_oracle_finds_an_inexact_network(tiny):
    assert not selftest_module.oracle(tiny)
    bad = random_model()
    bad.network.prior.table += 1 << 8
    bad.network.decoder.out.high = 0
    assert len(selftest_module.oracle(bad)) == 8
