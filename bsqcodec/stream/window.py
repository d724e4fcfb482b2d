"""A file that is read once, front to back, with some bytes looked at ahead."""

from typing import BinaryIO

PIECE = 1 << 20  # bytes read at once, so that a length is not believed before the bytes are there


class Window:
    """The bytes of a file from the place where it is, which counts as offset 0.

    Attributes:
        ahead: bytes that were read from the file, but not yet taken.
        at: offset of the first of them, counted from where the file was; so many bytes were taken.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        seekable = getattr(file, "seekable", None)  # which an object that only reads may lack
        self._base = file.tell() if seekable and seekable() else 0
        self.ahead = bytearray()
        self.at = 0

    def take(self, n: int) -> bytes:
        """The next n bytes, fewer at the end of the file."""
        parts = [bytes(self.ahead[:n])]
        del self.ahead[:n]
        missing = n - len(parts[0])
        while missing and (part := self.file.read(min(missing, PIECE))):
            parts.append(part)
            missing -= len(part)
        data = b"".join(parts)
        self.at += len(data)
        return data

    def put_back(self, data: bytes) -> None:
        """Undo the `take` of `data`."""
        self.ahead[:0] = data
        self.at -= len(data)

    def fill(self, n: int) -> bool:
        """Look n bytes ahead; False if the file ends before."""
        while len(self.ahead) < n and (part := self.file.read(max(n - len(self.ahead), 4096))):
            self.ahead += part
        return len(self.ahead) >= n

    def skip(self, n: int) -> None:
        """Drop n bytes that were looked at."""
        del self.ahead[:n]
        self.at += n

    def go(self, offset: int) -> None:
        """Go on at another offset of a file that can seek."""
        self.file.seek(self._base + offset)
        self.ahead.clear()
        self.at = offset
