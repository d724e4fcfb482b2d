"""Does this machine decode exactly? The streams in `conformance/` must give their checksums, the networks the integers
of an int64 oracle."""

import hashlib
import io
import json
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
import torch

from .decoder import Decoder
from .errors import BsqError
from .gop.decoder import Symbols, decode_symbols
from .network.quantiser import Coder
from .network.tokenizer import Condition
from .network.weights import Model, device_of, find_model
from .stream.container import Gop
from .stream.reader import StreamReader
from .types import packed

FOLDER = resources.files("bsqcodec") / "conformance"
ORACLE_GRID = 9, 11  # tokens: neither side is even or a multiple of a window


@dataclass
class Report:
    """The result of a self-test.

    Attributes:
        streams, frames: numbers of streams and of frames that were decoded.
        bits: number of bits that the range coder gave for them.
        differences: one line for each difference; none on an exact machine.
    """

    streams: int = 0
    frames: int = 0
    bits: int = 0
    differences: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line with the numbers and the verdict."""
        ran = f"{self.streams} streams, {self.frames} frames, {self.bits} bits, int64 oracle"
        return f"{ran}: {f'{len(self.differences)} differ' if self.differences else 'this machine decodes exactly'}"


def conformance_streams() -> list[dict[str, Any]]:
    """What each conformance stream must decode to.

    Returns for each stream "file" (its name in FOLDER), "model" (the id in hexadecimal), "frames" (their number), and
    "bits" and "pictures" (the MD5 sums that `checksums` takes). Raises BsqError if the streams are not installed.
    """
    try:
        return json.loads((FOLDER / "streams.json").read_text())
    except (OSError, ValueError) as e:
        raise BsqError("the conformance streams are not installed") from e


def checksums(data: bytes, model: Model) -> tuple[dict[str, Any], int]:
    """The entry of a stream in `conformance_streams`, as this machine decodes it, and the number of bits decoded.

    "bits": MD5 of, for each frame in the order of coding, its frame type and quality (a byte each), its modes (int8)
    and, of each reference, the vectors of blocks, then of their quarters (int16, little-endian), or classes of contrast
    (int8), and its coefficients (int32, little-endian). "pictures": MD5 of the frames, `packed`.
    """
    bits, pictures = hashlib.md5(), hashlib.md5()
    frames = count = 0
    reader = StreamReader(io.BytesIO(data))
    for gop in reader.chunks():
        if isinstance(gop, Gop):
            for s in decode_symbols(model, gop.payload, reader.info.height, reader.info.width, len(gop.pts)):
                bits.update(_packed(s))
                count += s.stats.count
    for frame in Decoder(io.BytesIO(data), model=model).frames():
        pictures.update(packed(frame.rgb))
        frames += 1
    found = {"model": model.id.hex(), "frames": frames, "bits": bits.hexdigest(), "pictures": pictures.hexdigest()}
    return found, count


def _packed(s: Symbols) -> bytes:
    side = b"" if s.modes is None else s.modes.astype("i1").tobytes()
    side += b"".join(part.astype("<i2").tobytes() for field in s.vectors.values() for part in field)
    if s.classes is not None:
        side = s.classes.astype("i1").tobytes()
    head = bytes([s.condition.frame_type, s.condition.quality])
    return head + side + s.coefficients.cpu().numpy().astype("<i4").tobytes()


def selftest(device: str = "auto") -> Report:
    """Decode all conformance streams, and run the int64 oracle of their models.

    Raises BsqError if the streams or a model are not installed.
    """
    report = Report()
    models: dict[str, Model] = {}
    for stream in conformance_streams():
        identity = stream["model"]
        if identity not in models:
            models[identity] = find_model(bytes.fromhex(identity), device_of(device))
        try:
            found, bits = checksums((FOLDER / stream["file"]).read_bytes(), models[identity])
        except (OSError, BsqError) as e:
            report.differences.append(f"{stream['file']}: {e}")
            continue
        report.streams += 1
        report.frames += found["frames"]
        report.bits += bits
        wrong = [key for key in found if found[key] != stream[key]]
        if wrong:
            report.differences.append(f"{stream['file']}: other {' and '.join(wrong)}")
    for model in models.values():
        report.differences += oracle(model)
    return report


@torch.inference_mode()
def oracle(model: Model) -> list[str]:
    """Run prior and decoder on random input, in float32 on the model's device and in int64 on the CPU: differences."""
    exact = model.network.oracle()
    rows, columns = ORACLE_GRID
    generator = torch.Generator().manual_seed(0)
    differences = []
    conditions = Condition(0, 1, 0), Condition(0, 100, 1), Condition(1, 60, 0), Condition(2, 100, 0)
    for condition, depth in zip(conditions, (12, 9, 10, 8), strict=True):
        where = f"{model.name}, {condition}"
        prediction = classes = None
        if condition.frame_type:
            prediction = torch.randint(0, 256, (1, 3, 16 * rows, 16 * columns), generator=generator)
            prediction[..., : 8 * columns] = prediction[..., : 8 * columns] // 32 + 100
        else:
            classes = torch.randint(-3, 4, (1, rows, columns), generator=generator)
        size = (1, rows, columns, exact.n_coded(condition.quality))
        # mostly small ones, and some as large as a stream can hold
        spread = torch.exp(6 * torch.rand(size, generator=generator) ** 4)
        y = (torch.randn(size, generator=generator) * spread).round().to(torch.int32)
        y[0, 0, 0, :2] = torch.tensor([95000, -95000])
        results = []
        for network in (exact, model.network):
            here = [None if t is None else t.to(network.device) for t in (prediction, classes)]
            context = network.context(condition, *here)
            seen: list[np.ndarray] = []
            coded = network.code(context, condition, _recorder(seen), y.to(network.device))
            results.append((np.concatenate(seen), coded.cpu(), network.decode(coded, context, condition, depth)))
        (p, coded, right), (q, also, got) = results
        if p.shape != q.shape or (wrong := int((p != q).sum())) or not torch.equal(coded, also):
            wrong = wrong if p.shape == q.shape else len(p)
            differences.append(f"{where}, prior: {wrong} of {len(p)} probabilities are not the oracle's")
        wrong = sum(int((a.cpu() != b).sum()) for a, b in zip(got, right, strict=True))
        if wrong:
            differences.append(f"{where}, decoder: {wrong} of {got[0].numel()} pixels are not the oracle's")
    return differences


def _recorder(seen: list[np.ndarray]) -> Coder:
    def code(p: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        assert bits is not None
        seen.append(p)
        return bits

    return code
