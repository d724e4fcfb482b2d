"""YUV4MPEG2 as a source: from a pipe, and whether it is whole."""

import os
import sys


class Pipe:
    """Standard input for PyAV, after `begun`, what was read of it; it counts its bytes and keeps the first line."""

    def __init__(self, begun: bytes):
        self._begun = begun
        self.size = 0
        self.head = b""

    def read(self, n: int) -> bytes:
        data, self._begun = self._begun[:n], self._begun[n:]
        data += sys.stdin.buffer.read(n - len(data))
        if b"\n" not in self.head:
            self.head += data
        self.size += len(data)
        return data


def is_cut(source: Pipe | str, frames: int, frame_size: int) -> bool:
    """Whether the bytes after the first line, of a pipe or a file, are not just the frames that were read."""
    if isinstance(source, Pipe):
        head, size = source.head, source.size
    elif os.path.isfile(source):
        size = os.path.getsize(source)
        with open(source, "rb") as file:
            head = file.readline()
    else:
        return False
    rest = size - head.find(b"\n") - 1
    return rest > 0 and rest != frames * (len(b"FRAME\n") + frame_size)
