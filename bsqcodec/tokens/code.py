"""Arrays as a stream."""

import io
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import torch

from ..errors import BsqError, FormatError
from ..gop.references import Motion, frame_condition
from ..gop.symbol_encoder import SymbolEncoder
from ..network.patches import TOKEN
from ..network.quantiser import COEFFICIENTS
from ..network.weights import Model, model_of
from ..settings import MAX_PIXELS
from ..stream.container import (
    END,
    GOP,
    MAGIC,
    VERSION,
    Ending,
    StreamWriter,
    checked,
    pack_chunk,
    pack_end,
    unpack_header,
)
from ..stream.contrast import MAX_CLASS, MIN_CLASS
from ..stream.fields import MAX_TIME, varint
from ..stream.group import (
    BOTH,
    MAX_MINI_GOP,
    MAX_VECTOR,
    PREDICTED_BIT,
    SECOND,
    MiniGop,
    Place,
    group_header,
    parse_group,
)
from ..stream.motion_fields import MotionField
from ..stream.reader import StreamReader
from ..types import MODEL_ID_BYTES
from .layout import COLUMNS, FIELDS, LAYOUT, MAX_COEFFICIENT
from .npz import NpzReader


def arrays_to_stream(
    source: BinaryIO,
    target: BinaryIO,
    *,
    model: Model | str | None = None,
    device: str = "auto",
    max_pixels: int = MAX_PIXELS,
) -> int:
    """Code the arrays of an archive as a stream: the inverse of `stream_to_arrays`.

    Arrays that are as they were give the same stream, byte for byte, if bsqcodec made it. Others give a valid one: what
    they change is decoded along, so that everything that depends on it follows.

    Args:
        source: open for reading in binary; it can seek.
        target: open for writing in binary; a pipe will do. Nothing is written unless all is well.
        model, device, max_pixels: as for `stream_to_arrays`.

    Returns:
        How many coefficients come out as other values than they have in the arrays: where the prior is certain of a 0,
        which depends on the frames before, there are no bits for another value; and none behind the coefficients that a
        quality codes.

    Raises BsqError for an archive that is broken, arrays that are missing, have another shape or type than they should,
    or values that cannot be coded; ModelError if the model is not there.
    """
    with NpzReader(source) as npz, tempfile.TemporaryFile() as file:
        changed = _Recoder(npz, model, device, max_pixels).write(file)
        file.seek(0)
        try:
            for _ in StreamReader(file, max_pixels).chunks():
                pass
        except FormatError as e:
            raise BsqError(f"the chunks make no stream: {e}") from e
        file.seek(0)
        shutil.copyfileobj(file, target)
    return changed


class _Recoder:
    """Codes the arrays of an archive. Raises BsqError where they make no stream."""

    def __init__(self, npz: NpzReader, model: Model | str | None, device: str, max_pixels: int):
        self._npz = npz
        npz.integers("layout", (), LAYOUT, LAYOUT)
        self._header = self._read_header()
        identity, self._info = unpack_header(io.BytesIO(self._header).read, max_pixels)
        self._model = model_of(identity, model, device)
        frames = len(npz.integers("pts", (None,), -MAX_TIME, MAX_TIME))
        self._columns = {
            name: npz.integers(name, (frames, *c.shape), c.low, c.high, c.dtype) for name, c in COLUMNS.items()
        }
        self._type = npz.letters("type", (frames,))
        self._first = np.flatnonzero(np.diff(self._columns["group"], prepend=-1))  # frames that begin a group
        if (self._columns["group"][self._first] != np.arange(len(self._first))).any():
            raise BsqError("array 'group' does not count the groups from 0 on")
        if (np.diff(self._columns["pts"]) < 1).any():
            raise BsqError("array 'pts' does not rise")
        self._changed = 0

    def _read_header(self) -> bytes:
        body = self._bytes("model", MODEL_ID_BYTES)
        for name, n in FIELDS.items():
            values = self._npz.integers(name, (n,) if n > 1 else (), 0, MAX_TIME)
            body += b"".join(varint(int(value)) for value in values.ravel())
        body += self._bytes("header_more")
        if len(body) > 255:
            raise BsqError("the header has more than 255 bytes")
        return checked(MAGIC + bytes([VERSION, len(body)]) + body)

    def _bytes(self, name: str, length: int | None = None) -> bytes:
        return self._npz.integers(name, (length,), 0, 255, np.uint8).tobytes()

    def write(self, file: BinaryIO) -> int:
        """Write the stream; returns how many coefficients were changed."""
        kinds = self._bytes("chunks")
        if kinds.count(GOP) != len(self._first) or END in kinds:
            raise BsqError(f"array 'chunks' has not the {len(self._first)} groups of pictures of array 'group'")
        index = self._npz.integers("index", (None,), 0, max(0, len(kinds) - 1)).tolist()
        if len(index) not in (0, len(self._first)) or sorted(set(index)) != index:
            raise BsqError(
                f"array 'index' does not name a chunk for each of {len(self._first)} groups, or does not rise"
            )
        offsets, size = {}, file.write(self._header)
        gops = self._gops()
        for number, kind in enumerate(kinds):
            offsets[number] = size
            if kind == ord(GOP):
                size += file.write(next(gops))
            else:
                size += file.write(pack_chunk(bytes([kind]), self._bytes(f"chunk{number}")))
        entries = [(0, 0), *zip((offsets[n] for n in index), self._first.tolist(), strict=False)]
        steps = (b - a for pair in itertools.pairwise(entries) for a, b in zip(*pair, strict=True))
        ending = Ending(len(self._type), int(self._npz.integers("last_duration", (), 0, MAX_TIME - 1)))
        file.write(pack_end(ending, len(index), b"".join(map(varint, steps))))
        return self._changed

    def _gops(self) -> Iterator[bytes]:
        """The chunks of the groups of pictures."""
        buffer = io.BytesIO()
        writer = StreamWriter(buffer, self._model.id, self._info)
        for first, stop in itertools.pairwise([*self._first.tolist(), len(self._type)]):
            pts = self._columns["pts"][first:stop].tolist()
            payload = self._payload(first, stop)
            buffer.seek(0)
            buffer.truncate()
            try:
                writer.gop(pts, payload)
            except ValueError as e:
                raise BsqError(f"frames {first} to {stop - 1}: {e}") from e
            yield buffer.getvalue()

    def _payload(self, first: int, stop: int) -> bytes:
        """The payload of a group of pictures, of the frames `first` to `stop` - 1."""
        header = self._group_header(first, stop)
        group = parse_group(header, stop - first)
        for place, frame_type, quality in group.headers:
            n = first + place.number
            found = self._type[n], self._columns["quality"][n], self._columns["tune"][n]
            if found != (frame_type, quality, group.tune):
                wanted = f"{frame_type}, quality {quality}, tune {group.tune}"
                given = "{}, quality {}, tune {}".format(*found)
                raise BsqError(f"frame {n} is {given}; by the anchors of its group it would be {wanted}")
        encoder = SymbolEncoder(self._model, self._info.height, self._info.width)
        for place, _, quality in group.headers:
            self._add(encoder, place, first, quality, group.tune)
        return header + encoder.finish()

    def _group_header(self, first: int, stop: int) -> bytes:
        """What the payload of a group begins with."""
        mini_gops, tune = self._columns["mini_gop"][first:stop], int(self._columns["tune"][first])
        anchors, found = [0], []
        while anchors[-1] < stop - first - 1:
            mini = MiniGop(*mini_gops[anchors[-1] + 1].tolist())
            among = mini_gops[anchors[-1] + 1 : anchors[-1] + 1 + mini.frames]
            if not 1 <= mini.frames <= MAX_MINI_GOP or len(among) < mini.frames or (among != mini).any():
                raise BsqError(f"frame {first + anchors[-1] + 1} begins no mini-GOP of {mini.frames} frames")
            anchors.append(anchors[-1] + mini.frames)
            found.append(mini)
        predicted = self._type[[first + n for n in anchors]] == "P"
        if predicted[0] or mini_gops[0].any():
            raise BsqError(f"frame {first} begins a group of pictures: it can be no P frame, and is in no mini-GOP")
        qualities = self._columns["quality"][[first + n for n in anchors]]
        try:
            return group_header(tune, (qualities + PREDICTED_BIT * predicted).tolist(), found)
        except ValueError as e:
            raise BsqError(f"frames {first} to {stop - 1}: the fall of quality in a mini-GOP is not in 0 .. 15") from e

    def _add(self, encoder: SymbolEncoder, place: Place, first: int, quality: int, tune: int) -> None:
        """Code a frame of the group that begins with frame `first`."""
        name = f"frame{first + place.number}"
        rows, columns = -(-self._info.height // TOKEN), -(-self._info.width // TOKEN)
        motion = self._motion(place, first, rows, columns)
        classes = None
        if not motion.vectors:
            classes = self._npz.integers(f"{name}.classes", (rows, columns), MIN_CLASS, MAX_CLASS)
        shape = rows, columns, COEFFICIENTS
        y = self._npz.integers(f"{name}.coefficients", shape, -MAX_COEFFICIENT, MAX_COEFFICIENT, np.int32)
        n_coded = self._model.network.n_coded(quality)
        condition = frame_condition(place, bool(motion.vectors), quality, tune)
        coefficients = torch.from_numpy(np.ascontiguousarray(y[..., :n_coded]))[None]
        coded, _ = encoder.add(place, condition, motion, classes, lambda _: coefficients)
        changed = coded[0].cpu().numpy() != y[..., :n_coded]
        self._changed += int(np.count_nonzero(changed) + np.count_nonzero(y[..., n_coded:]))

    def _motion(self, place: Place, first: int, rows: int, columns: int) -> Motion:
        """How a frame is predicted."""
        n, name = first + place.number, f"frame{first + place.number}"
        row = self._columns["references"][n].tolist()
        references = [reference - first for reference in row if reference >= 0]
        possible: list[list[int | None]] = [[]]
        if place.after is not None:
            possible += [[place.before], [place.after], [place.before, place.after]]
        elif self._type[n] == "P":
            possible = [[place.before]]
        if references not in possible or row[len(references) :] != [-1] * (2 - len(references)):
            raise BsqError(f"frame {n} of type {self._type[n]} cannot have the references {row}")
        if not references:
            return Motion({})
        modes = None
        if len(references) == 2:
            modes = self._npz.integers(f"{name}.modes", (rows, columns), BOTH, SECOND)
        vectors, quarters = (
            self._npz.integers(f"{name}.{part}", (len(references), k * rows, k * columns, 2), -MAX_VECTOR, MAX_VECTOR)
            for part, k in (("vectors", 1), ("quarters", 2))
        )
        fields = {number: MotionField(vectors[i], quarters[i]) for i, number in enumerate(references)}
        return Motion(fields, modes)
