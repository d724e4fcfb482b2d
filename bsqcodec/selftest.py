"""Does this machine decode exactly? The streams in `conformance/` must give their checksums, the networks the integers
of an int64 oracle."""

import copy
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .api import Decoder, device_of
from .codec import Symbols, decode_symbols
from .errors import BsqError
from .exact import freeze
from .model import Model, find_model
from .stream import Gop, StreamReader

FOLDER = resources.files("bsqcodec") / "conformance"
ORACLE_GRID = 9, 11  # tokens: neither side is even or a multiple of a window


@dataclass
class Report:
    """What was run.

    Attributes:
        streams, frames: that were decoded.
        bits: that were decoded in them: those of tokens that the prior codes.
        differences: one line each; none on an exact machine.
    """

    streams: int = 0
    frames: int = 0
    bits: int = 0
    differences: list[str] = field(default_factory=list)

    def summary(self) -> str:
        ran = f"{self.streams} streams, {self.frames} frames, {self.bits} bits, int64 oracle"
        return f"{ran}: {f'{len(self.differences)} differ' if self.differences else 'this machine decodes exactly'}"


def vectors() -> list[dict[str, Any]]:
    """The conformance streams: "file", "model" (id), "frames", "bits" and "pictures" (MD5 each). Raises BsqError."""
    try:
        return json.loads((FOLDER / "vectors.json").read_text())
    except (OSError, ValueError) as e:
        raise BsqError("the conformance streams are not installed") from e


def checksums(data: bytes, model: Model) -> tuple[dict[str, Any], int]:
    """What `vectors` holds of a stream, as this machine decodes it, and the number of bits decoded.

    "bits": MD5 of, for each frame in the order of coding, 1 if it has references or 0, its quality (a byte each), its
    vectors (int16, little-endian), and the token bits, 8 a byte, first one highest. "pictures": MD5 of the frames,
    uint8 RGB.
    """
    bits, pictures = hashlib.md5(), hashlib.md5()
    frames = count = 0
    reader = StreamReader(io.BytesIO(data))
    for gop in reader.chunks():
        if isinstance(gop, Gop):
            for s in decode_symbols(model, gop.payload, reader.info.height, reader.info.width, len(gop.pts)):
                bits.update(_packed(s))
                count += _active(model, s.quality) * s.bits.shape[1] * s.bits.shape[2]
    for frame in Decoder(io.BytesIO(data), model=model).frames():
        pictures.update(frame.rgb.tobytes())
        frames += 1
    found = {"model": model.id.hex(), "frames": frames, "bits": bits.hexdigest(), "pictures": pictures.hexdigest()}
    return found, count


def _active(model: Model, quality: int) -> int:
    """Bits of a token that are coded."""
    return int(model.network.prior.active_mask(torch.tensor(quality, device=model.device)).sum())


def _packed(s: Symbols) -> bytes:
    field = b"".join(vectors.astype("<i2").tobytes() for vectors in s.vectors.values())
    return bytes([bool(s.vectors), s.quality]) + field + np.packbits(s.bits.cpu().numpy().astype(np.uint8)).tobytes()


def selftest(device: str = "auto") -> Report:
    """Run everything. Raises BsqError if the streams or a model are not installed."""
    report = Report()
    models: dict[str, Model] = {}
    for vector in vectors():
        identity = vector["model"]
        if identity not in models:
            models[identity] = find_model(bytes.fromhex(identity), device_of(device))
        try:
            found, bits = checksums((FOLDER / vector["file"]).read_bytes(), models[identity])
        except (OSError, BsqError) as e:
            report.differences.append(f"{vector['file']}: {e}")
            continue
        report.streams, report.frames, report.bits = (
            report.streams + 1,
            report.frames + found["frames"],
            report.bits + bits,
        )
        wrong = [key for key in found if found[key] != vector[key]]
        if wrong:
            report.differences.append(f"{vector['file']}: other {' and '.join(wrong)}")
    for model in models.values():
        report.differences += oracle(model)
    return report


@torch.inference_mode()
def oracle(model: Model) -> list[str]:
    """Run prior and decoder on random input, in float32 on the model's device and in int64 on the CPU: differences."""
    exact = copy.deepcopy(model.network).cpu()
    freeze(exact.prior, torch.int64)
    freeze(exact.decoder, torch.int64)
    rows, columns = ORACLE_GRID
    generator = torch.Generator().manual_seed(0)
    reference = torch.randint(0, 256, (1, 3, 16 * rows, 16 * columns), generator=generator)
    differences = []
    for kind, quality in ((0, 1), (1, 60), (2, 100)):
        where = f"{model.name}, quality {quality}"
        mask = exact.prior.active_mask(torch.tensor(quality)).long()
        shape = (1, rows, columns, len(mask))
        bits = torch.randint(0, 2, shape, generator=generator) * mask
        previous = torch.randint(0, 2, shape, generator=generator) * bool(kind)
        seen: list[Tensor] = []
        known: list[Tensor] = []
        exact.prior.run(previous, kind, quality, _recorder(known), bits)
        model.network.prior.run(_float(previous, model), kind, quality, _recorder(seen), _float(bits, model))
        wrong = sum(int((a != b).sum()) for a, b in zip(known, seen, strict=True))
        if wrong:
            total = sum(a.numel() for a in known)
            differences.append(f"{where}, prior: {wrong} of {total} probabilities are not the oracle's")
        condition = torch.tensor([kind]), torch.tensor([quality])
        right = exact.decoder(bits, reference, condition)
        there = condition[0].to(model.device), condition[1].to(model.device)
        got = model.network.decoder(_float(bits, model), _float(reference, model), there).cpu().long()
        if not torch.equal(got, right):
            wrong = int((got != right).sum())
            differences.append(f"{where}, decoder: {wrong} of {got.numel()} values are not the oracle's")
    return differences


def _float(x: Tensor, model: Model) -> Tensor:
    return x.float().to(model.device)


def _recorder(seen: list[Tensor]) -> Callable[[Tensor, Tensor | None], Tensor]:
    def code(p: Tensor, bits: Tensor | None) -> Tensor:
        assert bits is not None
        seen.append(p.cpu())
        return bits

    return code
