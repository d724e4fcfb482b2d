"""A stream as arrays."""

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np

from ..errors import FormatError
from ..gop.decoder import Symbols, decode_symbols
from ..network.quantiser import COEFFICIENTS, STEP_BITS
from ..network.weights import Model, model_of
from ..settings import MAX_PIXELS
from ..stream.container import END, GOP, Gop, IndexEntry, unpack_end
from ..stream.fields import Fields
from ..stream.group import parse_group
from ..stream.reader import StreamReader
from ..types import MODEL_ID_BYTES, MediaInfo
from .layout import COLUMNS, FIELDS, LAYOUT
from .npz import NpzWriter


def stream_to_arrays(
    source: BinaryIO,
    target: BinaryIO,
    *,
    model: Model | str | None = None,
    device: str = "auto",
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Write all that a stream codes as an archive of arrays, which `numpy.load(target, allow_pickle=False)` reads.

    Memory depends on the size of a frame; on their number only by a few kilobytes for each. The docstring of
    `bsqcodec.tokens` tells what the archive holds.

    Args:
        source: open for reading in binary, at the start of the stream; a pipe will do.
        target: open for writing in binary; a pipe will do. It is left open.
        model: where the packaged models lack the one that the stream needs: a model file, or a model that is loaded.
        device: "auto", "cpu" or "cuda".
        max_pixels: streams of larger frames are refused.

    Raises FormatError for a stream that is damaged or cut short, ModelError if its model is not there.
    """
    copy = _Copy(source)
    reader = StreamReader(copy.file, max_pixels)
    loaded = model_of(reader.model, model, device)
    columns: dict[str, list] = {name: [] for name in (*COLUMNS, "type", "bits")}
    kinds, index = bytearray(), list[IndexEntry]()
    numbers: dict[int, int] = {}  # of chunks, by their offsets
    with NpzWriter(target) as npz:
        _write_header(npz, copy.take(10 + copy.data[5]))
        for item in itertools.chain(reader.chunks(), [None]):  # behind the last item is the end
            for kind, offset, body in copy.chunks(reader.size):
                if kind == END:
                    (_, duration), index = unpack_end(body[:-4], reader.size)
                    npz.add("last_duration", duration, np.int64)
                    break
                numbers[offset] = len(kinds)
                if kind == GOP:
                    assert isinstance(item, Gop)
                    _write_group(npz, item, kinds.count(GOP), reader.info, loaded, columns)
                else:
                    npz.add(f"chunk{len(kinds)}", np.frombuffer(body, np.uint8))
                kinds += kind
        if any(entry.offset not in numbers for entry in index):
            raise FormatError("the index does not point at chunks")
        npz.add("index", [numbers[entry.offset] for entry in index], np.int64)
        npz.add("chunks", np.frombuffer(kinds, np.uint8))
        for name, column in COLUMNS.items():
            rows = columns[name]
            npz.add(name, np.reshape(np.array(rows, column.dtype), (len(rows), *column.shape)))
        npz.add("type", columns["type"], "<U1")
        npz.add("bits", np.reshape(columns["bits"], (-1, 2)), np.float64)


class _Copy:
    """A stream while it is read, and its bytes that were read but not yet taken, as they are."""

    def __init__(self, source: BinaryIO):
        self._source = source
        self.data = bytearray()
        self._at = 0  # offset of their first
        self.file: Any = SimpleNamespace(read=self._read, seekable=lambda: False)

    def _read(self, n: int) -> bytes:
        data = self._source.read(n)
        self.data += data
        return data

    def take(self, n: int) -> bytes:
        """The next n bytes."""
        data = bytes(self.data[:n])
        del self.data[:n]
        self._at += n
        return data

    def chunks(self, end: int) -> Iterator[tuple[bytes, int, bytes]]:
        """Type, offset and body of the next chunks, up to offset `end`; the reader found them whole."""
        start = self._at
        fields = Fields(self.take(end - start))
        while fields.at < len(fields.data):
            offset = start + fields.at
            yield fields.take(1), offset, fields.block()
            fields.take(4)


def _write_header(npz: NpzWriter, header: bytes) -> None:
    fields = Fields(header[6:-4])
    npz.add("layout", LAYOUT, np.int64)
    npz.add("model", np.frombuffer(fields.take(MODEL_ID_BYTES), np.uint8))
    for name, n in FIELDS.items():
        values = [fields.varint() for _ in range(n)]
        npz.add(name, values if n > 1 else values[0], np.int64)
    npz.add("header_more", np.frombuffer(fields.rest(), np.uint8))


def _write_group(
    npz: NpzWriter, gop: Gop, number: int, info: MediaInfo, model: Model, columns: dict[str, list]
) -> None:
    """Write the arrays of the frames of a group, and append their rows to the columns."""
    frames, rows = len(gop.pts), {}
    with gop.located():
        group = parse_group(gop.payload, frames)
        for s in decode_symbols(model, gop.payload, info.height, info.width, frames):
            references = [gop.first + n for n in s.vectors] + [-1] * (2 - len(s.vectors))
            bits = (s.stats.bits, s.stats.side_bits)
            rows[s.place.number] = (s.stats.frame_type, s.condition.quality, references, bits)
            _write_frame(npz, f"frame{gop.first + s.place.number}", s, model)
    columns["pts"] += gop.pts
    columns["group"] += [number] * frames
    columns["tune"] += [group.tune] * frames
    columns["mini_gop"] += [(0, 0), *(mini for mini in group.mini_gops for _ in range(mini.frames))]
    for _, row in sorted(rows.items()):
        for name, value in zip(("type", "quality", "references", "bits"), row, strict=True):
            columns[name].append(value)


def _write_frame(npz: NpzWriter, name: str, s: Symbols, model: Model) -> None:
    coded = s.coefficients[0].cpu().numpy()
    npz.add(f"{name}.coefficients", np.pad(coded, ((0, 0), (0, 0), (0, COEFFICIENTS - coded.shape[-1]))))
    if s.classes is not None:
        npz.add(f"{name}.classes", s.classes, np.int8)
    if s.modes is not None:
        npz.add(f"{name}.modes", s.modes, np.uint8)
    if s.vectors:
        npz.add(f"{name}.vectors", [field.vectors for field in s.vectors.values()], np.int16)
        npz.add(f"{name}.quarters", [field.quarters for field in s.vectors.values()], np.int16)
    steps = model.network.quantiser.steps(s.condition.quality, s.condition.tune, s.contrast)[0]
    npz.add(f"{name}.steps", steps.cpu().numpy() / (1 << STEP_BITS), np.float32)
