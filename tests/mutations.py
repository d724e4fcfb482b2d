"""Mutations of streams for the fuzzer: damage that knows nothing of the format, and changes behind good checksums.

All that is random is drawn from the generator that is passed in, so a seed always gives the same mutation.
"""

import contextlib
import random

from bsqcodec.errors import BsqError
from bsqcodec.gop.quality import B_LEVEL_OFFSET
from bsqcodec.stream.fields import Fields, signed, varint
from bsqcodec.stream.group import GROUP_HEADER_BYTES
from helpers import checked

EDGE_NUMBERS = (
    *(0, 1, 2, 3, 15, 16, 17, 127, 128, 255, 256, 65535, 65536),
    *(1 << 28, 1 << 31, 1 << 32, 1 << 48, (1 << 62) - 1),
)
MAX_NUMBER = (1 << 63) - 1  # the largest that a field holds

Chunk = tuple[bytes, bytes]  # type, body


def split(data: bytes) -> tuple[list[int], bytes, list[Chunk]]:
    """Header fields, model id and chunks of an undamaged stream."""
    fields = Fields(data[6 : 6 + data[5]])
    model = fields.take(8)
    numbers = []
    while fields.rest():
        numbers.append(fields.varint())
    rest, chunks = Fields(data[10 + data[5] :]), []
    while rest.rest():
        chunks.append((rest.take(1), rest.block()))
        rest.take(4)
    return numbers, model, chunks


def join(numbers: list[int], model: bytes, chunks: list[Chunk]) -> bytes:
    """The stream of what `split` returns, with checksums that hold."""
    body = (model + b"".join(map(varint, numbers)))[:255]
    head = checked(b"BSQ\x1a\x01" + bytes([len(body)]) + body)
    return head + b"".join(checked(chunk_type + varint(len(body)) + body) for chunk_type, body in chunks)


def damage(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A stream with bits flipped, cut, with bytes lost or added, or ending as another stream does."""
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    match rng.randrange(6):
        case 0 | 1:
            out = bytearray(data)
            for _ in range(rng.choice((1, 1, 1, 2, 8))):
                out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
            return bytes(out)
        case 2:
            return data[:a]
        case 3:
            return data[:a] + data[b:]
        case 4:
            return data[:a] + rng.randbytes(rng.choice((1, 4, 100))) + data[a:]
        case _:
            return data[:a] + other[rng.randrange(len(other)) :]


def change_number(rng: random.Random, n: int) -> int:
    """A number near another one, at an edge, or small, 0 to MAX_NUMBER."""
    return min(max(0, rng.choice((n + 1, n - 1, 2 * n, rng.choice(EDGE_NUMBERS), rng.randrange(300)))), MAX_NUMBER)


def change_bytes(rng: random.Random, body: bytes) -> bytes:
    """The body of a chunk with bytes changed, lost, or added."""
    match rng.randrange(5):
        case 0:
            return body[: rng.randrange(len(body) + 1)]
        case 1:
            return body + rng.randbytes(rng.randrange(1, 40))
        case 2:
            return rng.randbytes(rng.randrange(60))
        case _:
            out = bytearray(body)
            for _ in range(rng.choice((1, 1, 3, 10)) if out else 0):
                out[rng.randrange(len(out))] = rng.randrange(256)
            return bytes(out)


def change_group(rng: random.Random, body: bytes) -> bytes:
    """A group of pictures with its numbers changed, or with another header for another number of frames."""
    fields = Fields(body)
    first, frames, start = fields.varint(), fields.varint(), fields.signed()
    step = fields.varint() if frames > 1 else 1
    payload = fields.rest()
    match rng.randrange(5):
        case 0:
            first = change_number(rng, first)
        case 1:
            frames = change_number(rng, frames)
        case 2:
            start = rng.choice((1, -1)) * change_number(rng, abs(start)) // 2
        case 3:
            step = change_number(rng, step)
        case _:
            frames, mini = rng.randrange(1, 30), rng.choice((0, 1, 2, 4, 16, rng.randrange(20)))
            more = rng.choice((0, 1, 3))
            anchors = 1 + -(-(frames - 1) // max(1, mini))
            anchor_headers = [rng.randrange(1, 101) | rng.choice((0, 128)) * (i > 0) for i in range(anchors)]
            header = bytes(
                [mini, rng.choice((B_LEVEL_OFFSET, 0, rng.randrange(256))), rng.choice((0, 1, 0, 1, 2)), more]
            )
            header += b"".join(bytes([byte]) + rng.randbytes(more) for byte in anchor_headers)
            payload = header + rng.choice(
                (payload, payload[GROUP_HEADER_BYTES + 1 :], rng.randbytes(rng.randrange(80)), b"")
            )
    return varint(first) + varint(frames) + signed(start) + (varint(step) if frames > 1 else b"") + payload


def change_fields(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A stream with fields and chunks changed under checksums that hold."""
    numbers, model, chunks = split(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        i = rng.randrange(len(chunks)) if chunks else 0
        match rng.randrange(9) if chunks else 0:
            case 0:
                k = rng.randrange(len(numbers))
                numbers[k] = change_number(rng, numbers[k])
            case 1:
                numbers[rng.randrange(2)] = rng.randrange(1, 100)
            case 2:
                chunks.pop(i)
            case 3:
                chunks.insert(i, rng.choice(chunks + split(other)[2]))
            case 4:
                k = rng.randrange(len(chunks))
                chunks[i], chunks[k] = chunks[k], chunks[i]
            case 5:
                chunks[i] = (rng.choice((b"G", b"A", b"P", b"E", b"Z")), chunks[i][1])
            case 6 | 7 if chunks[i][0] == b"G":
                with contextlib.suppress(BsqError):  # of a group that is broken already
                    chunks[i] = (b"G", change_group(rng, chunks[i][1]))
            case _:
                chunks[i] = (chunks[i][0], change_bytes(rng, chunks[i][1]))
    if rng.random() < 0.01:
        model = rng.randbytes(8)
    return join(numbers, model, chunks)


def mutate(rng: random.Random, streams: list[bytes]) -> bytes:
    """One of the streams, changed: four times in ten by `damage`, five by `change_fields`, one by both."""
    data, other = rng.choice(streams), rng.choice(streams)
    share = rng.random()
    if share < 0.4:
        return damage(rng, data, other)
    data = change_fields(rng, data, other)
    return damage(rng, data, other) if share < 0.5 else data
