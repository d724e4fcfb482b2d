"""Mutations of streams for the fuzzer: damage that knows nothing of the format, and changes behind good checksums.

All that is random is drawn from the generator that is passed in, so a seed always gives the same mutation.
"""

import contextlib
import random
from fractions import Fraction

from bsqcodec.errors import BsqError
from bsqcodec.gop.quality import B_LEVEL_OFFSET
from bsqcodec.stream.fields import Fields, signed, varint
from bsqcodec.stream.group import GROUP_HEADER_BYTES
from bsqcodec.stream.tracks import pack_metadata, pack_packets, pack_track
from bsqcodec.types import TRACK_KINDS, Packet, Track
from helpers import checked

EDGE_NUMBERS = (
    *(0, 1, 2, 3, 15, 16, 17, 127, 128, 255, 256, 65535, 65536),
    *(1 << 28, 1 << 31, 1 << 32, 1 << 48, (1 << 62) - 1),
)
MAX_NUMBER = (1 << 63) - 1  # the largest that a field holds
CODECS = (
    *("aac", "opus", "vorbis", "flac", "mp3", "ac3", "alac", "pcm_s16le", "pcm_f64be", "adpcm_ms", "wmav2", "truehd"),
    *("subrip", "ass", "webvtt", "mov_text", "dvb_subtitle", "dvd_subtitle", "hdmv_pgs_subtitle", "dvb_teletext"),
    *("h264", "rawvideo", "png", "libx264", "prores_ks", "ttf", "nothing", "copy", "0"),
)
LAYOUTS = ("mono", "stereo", "5.1", "7.1.4", "64 channels", "stereo)garbage", "ambisonic 3", "FL+FR+FL", "%n%s", " ")
METADATA = (
    *("icc", "exif", "xmp", "loop", "mdcv", "clli", "chapters", "language", "png:gAMA", "png:cHRM", "png:IDAT"),
    *("tag:title", "tag:Comment", "tag:comment", "tag:", "tag:a\nb\0c", "tag:ü€", "tag:=;#\\", "ICC", "", "x" * 300),
)
TEXTS = (
    *(b"", b"0", b"1", b"-1", b"65536", b"9" * 5000, b"nan", b"eng", b"deutsch", b"a\0b", b"\xff\xfe", b"x" * 70000),
    *(b"0 1000 One\n1000 2000 Two", b"5 3 back", b"0 999999999999999 far\n1 2 inside", b"-1 5 before"),
    *(b"MM\0*\0\0\0\x08\xff\xff", b"II*\0\x08\0\0\0\0\0\0\0\0\0", b"=;#\\\n[CHAPTER]\nSTART=1", bytes(16) + b"RGB "),
)

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


def change_alpha(rng: random.Random, body: bytes) -> bytes:
    """The alpha of a group with another method, other values, or values before what was something else."""
    match rng.randrange(4):
        case 0:
            return bytes([rng.choice((0, 1, 2, 3, 255))]) + body[1:]
        case 1:
            return body[:1] + bytes([rng.randrange(256)]) + body[2:]
        case 2:
            return b"\1" + body
        case _:
            count = rng.choice((1, 2, 3, 4, 5, 255, 256))
            values = sorted(rng.sample(range(256), count))
            if rng.random() < 0.2:
                rng.shuffle(values)
            return bytes([2, count - 1, *values]) + rng.choice((body[-40:], rng.randbytes(rng.randrange(80)), b""))


def some_metadata(rng: random.Random) -> bytes:
    """A body of a chunk of metadata that nobody would write."""
    names = rng.sample(METADATA, rng.randrange(1, 6))
    return pack_metadata(
        {n: rng.choice((rng.choice(TEXTS), rng.randbytes(rng.choice((4, 24, 32, 99))))) for n in names}
    )


def some_track(rng: random.Random) -> bytes:
    """A description of a track that no container has."""
    kind = rng.choice(TRACK_KINDS)
    base = Fraction(*(rng.choice((1, 2, 1000, 48000, 90000, (1 << 31) - 1)) for _ in range(2)))
    rate = rng.choice((0, 1, 8000, 44100, 48000, 1 << 20, 1 << 30)) if kind == "audio" else 0
    return pack_track(Track(
        rng.choice(CODECS), base, rate, rng.choice(LAYOUTS) if kind == "audio" else "",
        rng.choice((b"", b"\x11\x88", rng.randbytes(rng.randrange(200)), bytes(4096))), kind,
        rng.choice(("", "eng", "de-DE", "ABCDEFGHIJKLMN")), rng.choice((0, 1, 1024, (1 << 31) - 1)),
        rng.choice(("", "Title", "a\nb\0c\x1b[31m", "x" * 5000)),
    ))  # fmt: skip


def some_packets(rng: random.Random) -> bytes:
    """Packets of a track, at any times, without its number."""
    packets = []
    for _ in range(rng.choice((1, 1, 3, 40))):
        pts = rng.choice((1, -1)) * rng.choice((0, 1000, 1920, 1 << 31, 1 << 40, (1 << 62) - 1))
        duration = rng.choice((0, 1024, 1 << 31, 1 << 62))
        packets.append(Packet(pts, duration, rng.choice((b"", b"text", b"0,0,Default,,0,0,0,,x", rng.randbytes(30)))))
    with contextlib.suppress(ValueError):  # they are too far apart
        return pack_packets(packets)
    return pack_packets(packets[:1])


def some_chunk(rng: random.Random) -> Chunk:
    """An ancillary chunk, or one of the first track."""
    match rng.randrange(6):
        case 0:
            return b"a", change_alpha(rng, b"")
        case 1:
            return b"m", some_metadata(rng)
        case 2:
            return rng.choice((b"t", b"A")), some_track(rng)
        case 3:
            return b"p", varint(rng.choice((0, 0, 0, 1, 2, (1 << 31) - 1))) + some_packets(rng)
        case 4:
            return b"P", some_packets(rng)
        case _:
            return b"E", varint(rng.randrange(8)) + varint(0) + varint(change_number(rng, 1)) + bytes(4)


def dressed(rng: random.Random, chunks: list[Chunk]) -> list[Chunk]:
    """The groups and their alpha with other tracks, packets and metadata around them, each where it belongs."""
    tracks = [(b"t", some_track(rng)) for _ in range(rng.choice((0, 1, 1, 2, 5)))]
    found = [(b"A", some_track(rng))] if rng.random() < 0.3 else []
    found += tracks + ([(b"m", some_metadata(rng))] if rng.random() < 0.8 else [])
    for kind, body in chunks:
        if kind in (b"G", b"E", b"a"):
            if kind == b"E" or rng.random() < 0.5:
                found += [(b"P", some_packets(rng))] if found[:1] and found[0][0] == b"A" else []
                found += [(b"p", varint(i) + some_packets(rng)) for i in range(len(tracks))]
            found.append((kind, body))
    return found


def change_chunk(rng: random.Random, kind: bytes, body: bytes) -> Chunk:
    """A chunk of the same type with another body, often one that looks like it."""
    if kind == b"a" and rng.random() < 0.7:
        return kind, change_alpha(rng, body)
    if kind == b"G" and rng.random() < 0.5:
        with contextlib.suppress(BsqError):  # of a group that is broken already
            return kind, change_group(rng, body)
    return kind, change_bytes(rng, body)


def change_fields(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A stream with fields and chunks changed under checksums that hold."""
    numbers, model, chunks = split(data)
    if rng.random() < 0.15:
        chunks = dressed(rng, chunks)
    for _ in range(rng.choice((1, 1, 2, 4))):
        i = rng.randrange(len(chunks)) if chunks else 0
        match rng.randrange(13) if chunks else 0:
            case 0:
                k = rng.randrange(len(numbers))
                numbers[k] = change_number(rng, numbers[k])
            case 1:
                k = rng.randrange(4)  # bits a sample, alpha, width, height
                numbers[k] = rng.randrange(*((8, 14), (0, 3), (1, 100), (1, 100))[k])
            case 2:
                chunks.pop(i)
            case 3:
                chunks.insert(i, rng.choice(chunks + split(other)[2]))
            case 4:
                k = rng.randrange(len(chunks))
                chunks[i], chunks[k] = chunks[k], chunks[i]
            case 5:
                chunks[i] = (rng.choice((b"G", b"A", b"P", b"E", b"Z", b"a", b"t", b"p", b"m", b"q")), chunks[i][1])
            case 6:
                chunks.insert(rng.choice((i, 0)), some_chunk(rng))
            case 7 if b"a" in dict(chunks):
                k = rng.choice([k for k, chunk in enumerate(chunks) if chunk[0] == b"a"])
                chunks[k] = change_chunk(rng, *chunks[k])
            case _:
                chunks[i] = change_chunk(rng, *chunks[i])
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
