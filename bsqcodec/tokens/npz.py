"""Archives of NumPy arrays (.npz), written and read one array at a time: never all of them in memory."""

import struct
import types
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, DTypeLike

from ..errors import BsqError

_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    struct.error,
)


class NpzWriter:
    """Writes an archive that `numpy.load(..., allow_pickle=False)` reads: a context manager. A pipe will do.

    file: open for writing in binary; it is left open.
    """

    def __init__(self, file: BinaryIO):
        # an archive that can seek would go back to tell sizes, which a file opened for appending cannot
        self._target: Any = types.SimpleNamespace(write=file.write, flush=file.flush)
        self._archive = zipfile.ZipFile(self._target, "w")

    def __enter__(self) -> "NpzWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # what was written stays without an end
            self._target.write = len
        self._archive.close()

    def add(self, name: str, values: ArrayLike, dtype: DTypeLike | None = None) -> None:
        """Write the array `name`, in another type if one is given."""
        member = zipfile.ZipInfo(f"{name}.npy")  # of 1980, so that the same arrays make the same file
        member.compress_type = zipfile.ZIP_DEFLATED
        with self._archive.open(member, "w", force_zip64=True) as file:
            npy.write_array(file, np.asarray(values, dtype), allow_pickle=False)


class NpzReader:
    """Reads arrays of an archive by name, and checks that they are what they should be: a context manager.

    file: open for reading in binary; it can seek, and is left open. Raises BsqError for what is no archive.
    """

    def __init__(self, file: BinaryIO):
        if not file.seekable():
            raise BsqError("arrays cannot be read from a pipe: give a file")
        try:
            self._archive = zipfile.ZipFile(file)
        except _BROKEN as e:
            raise BsqError("not an archive of arrays (.npz), or a broken one") from e

    def __enter__(self) -> "NpzReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def integers(
        self, name: str, shape: tuple[int | None, ...], low: int, high: int, dtype: DTypeLike = np.int64
    ) -> np.ndarray:
        """An array of integers `low` to `high`, in whatever type it has them, as `dtype`.

        shape: what the array should have; None where any length will do. Raises BsqError for an array that is missing,
        broken, of another shape or type, or has a value out of range.
        """
        values = self._read(name, shape, "iu", "integers")
        if values.size and not (low <= values.min() and values.max() <= high):
            wrong = values.min() if values.min() < low else values.max()
            raise BsqError(f"array {name!r} has the value {wrong}, which is not in {low} .. {high}")
        return values.astype(dtype, order="C", copy=False)

    def letters(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """An array of texts. Raises BsqError as `integers` does."""
        return self._read(name, shape, "U", "text")

    def _read(self, name: str, shape: tuple[int | None, ...], kinds: str, meaning: str) -> np.ndarray:
        member = f"{name}.npy"
        if member not in self._archive.NameToInfo:
            raise BsqError(f"array {name!r} is missing")
        try:
            with self._archive.open(member) as file:
                old = npy.read_magic(file) == (1, 0)
                found, _, dtype = (npy.read_array_header_1_0 if old else npy.read_array_header_2_0)(file)
            if dtype.kind not in kinds:
                raise BsqError(f"array {name!r} is {dtype}, not {meaning}")
            if len(found) != len(shape) or any(n not in (m, None) for m, n in zip(found, shape, strict=True)):
                wanted = ", ".join("n" if n is None else str(n) for n in shape)
                raise BsqError(f"array {name!r} has the shape {found}, not ({wanted})")
            if self._archive.getinfo(member).file_size < dtype.itemsize * np.prod(
                found, dtype=object
            ):  # before memory is taken for it
                raise BsqError(f"array {name!r} is cut short")
            with self._archive.open(member) as file:
                return npy.read_array(file, allow_pickle=False)
        except _BROKEN as e:
            raise BsqError(f"array {name!r} is broken") from e
