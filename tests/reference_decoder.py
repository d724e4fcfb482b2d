"""A second decoder, written from bitstream_spec.md alone: it shares no line with the package, and needs numpy only.

    python reference_decoder.py FILE.bsq [--model PATH]

prints the MD5 of all frames, RGB in raster order, a byte a sample, or two of more than 8 bits, as `bsqcodec decode
--md5` does. The model is that of ../models with the id in the stream. All is int64, but for the products of `linear`,
which are float64: exact below 2**53.
"""

import argparse
import hashlib
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from reference_alpha import decode_values
from reference_networks import Model, clip, decode_frame, div


def numbers(text):
    return np.array(text.split(), np.int64)


TAPS = numbers("0 0 0 64 0 0 0 0 -1 4 -10 58 17 -5 1 0 -1 4 -11 40 40 -11 4 -1 0 1 -5 17 58 -10 4 -1").reshape(4, 8)
VECTOR_START = numbers("""4 38 63 13 38 62 73 54 64 111 101 91 64 148 137 115 94 167 192 161 3 30 31 8 34 64 59 52 52
    117 96 87 54 143 120 105 60 142 145 113 45 147 205 138 45 81 108 65 82 138 135 117 100 182 177 154 149 200 215 198
    139 107 117 182 188 190 190 150 112 70 75 128 145 133 107 130 95 81 107 132 110 191 162 135 113 87 102 227 220 213
    199 175 119 128 71 82 85 76 98 89 96 21 64 128 128""")
SPLIT_START = numbers("""1 5 14 34 56 76 141 198 105 91 218 133 110 203 165 250 130 123 107 138 98 110 120 128 128 126
    155 163 128 128 128 128 128 128 128 128""")
MODE_START = numbers("12 66 124 176 226 64 40 128 216")
CLASS_START = numbers("74 115 141 154 220 128 128 128 15 26 38 51 118")


class Reader:  # section 1
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        self.at += n
        assert self.at <= len(self.data), "it is cut short"
        return self.data[self.at - n : self.at]

    def v(self, shift=0):
        assert shift < 63, "an integer has more than 9 bytes"
        byte = self.take(1)[0]
        return (byte & 127) << shift | (self.v(shift + 7) if byte > 127 else 0)

    def checksum(self, start):
        crc = zlib.crc32(self.data[start : self.at])
        assert struct.unpack("<I", self.take(4))[0] == crc, f"the checksum at byte {self.at - 4} is wrong"

    def header(self):
        assert self.take(5) == b"BSQ\x1a\1", "it is no .bsq stream of version 1"
        fields = Reader(self.take(self.take(1)[0]))
        self.checksum(0)
        identity, depth, alpha, width, height = fields.take(8), *(fields.v() for _ in range(4))
        assert 8 <= depth <= 12 and alpha < 2, "bit depth or alpha are not supported"
        assert 0 < width * height <= 1 << 26, "the size is not supported"
        return identity, width, height, depth, alpha

    def groups(self):  # of each group of pictures, how many frames, the payload, and the body of its alpha
        frames, type_, alpha = 0, b"", None
        while type_ != b"E":
            before, start, type_, body = type_, self.at, self.take(1), Reader(self.take(self.v()))
            self.checksum(start)
            assert type_ in (b"A", b"P", b"G", b"E") or b"a" <= type_ <= b"z", f"a chunk is of the unknown type {type_}"
            assert type_ not in (b"G", b"E") or body.v() == frames, "frames are missing"
            if type_ == b"G":
                n, _ = body.v(), body.v()
                assert n, "a group has no frames"
                frames, _ = frames + n, [body.v() for _ in range(n - 1 if n > 1 and not body.v() else 0)]
                yield n, body.data[body.at :], alpha if before == b"a" else b"\2\0\xff"
            alpha = body.data


class Coder:  # section 3
    def __init__(self, data):
        whole = len(data) // 4 * 4
        data = data[:whole] + bytes(-len(data) % 4) + data[whole:]
        self.words = iter(struct.unpack(f"<{len(data) // 4}I", data))
        self.range, self.x = 2**64 - 1, next(self.words, 0) << 32 | next(self.words, 0)

    def bit(self, k):
        z, scale = (((65536 - k) * (2**24 - 2)) >> 16) + 1, self.range >> 24
        assert self.x < scale << 24, "the coded bits are damaged"
        bit = int(self.x >= scale * z)
        self.x, self.range = self.x - bit * scale * z, scale * (2**24 - z if bit else z)
        if self.range < 2**32:
            self.range, self.x = self.range << 32, self.x << 32 | next(self.words, 0)
        return bit

    def bits(self, k):
        return np.array([self.bit(one) for one in k.tolist()], np.int64)

    def decide(self, n, contexts):
        """Section 4: a decision for many blocks. n: counts of all contexts; None: k = 32768; -1: no bit is coded."""
        k = [32768 if i is None else min(max(65536 * n[i][1] // sum(n[i]), 1), 65535) for i in contexts]
        bits = [0 if i == -1 else self.bit(one) for i, one in zip(contexts, k, strict=True)]
        for i, bit in zip(contexts, bits, strict=True):
            if i not in (None, -1):
                n[i][bit] += 16
        for pair in (n[i] for i in set(contexts) - {None, -1}):
            while sum(pair) > (16384 if len(n) > 13 else 4096):
                pair[:] = [(one + 1) >> 1 for one in pair]
        return bits

    def differences(self, n, nonzero, negative, more):
        """Of those blocks that differ: number, sign, and how many of the decisions of a unary code are 1."""
        those = [j for j, bit in enumerate(self.decide(n, nonzero)) if bit]
        signs = [-1 if bit else 1 for bit in self.decide(n, [negative[j] for j in those])]
        e, going = dict.fromkeys(those, 0), those
        for i in range(len(more[0])):
            going = [j for j, bit in zip(going, self.decide(n, [more[j][i] for j in going]), strict=True) if bit]
            e |= dict.fromkeys(going, i + 1)
        return list(zip(those, signs, e.values(), strict=True))

    def numbers(self, n, nonzero, negative, more, low):
        out, more = [0] * len(nonzero), [[first + min(i, 5) for i in range(11)] for first in more]
        some = self.differences(n, nonzero, negative, more) if more else []
        bits = iter(self.decide(n, [None if i else low + e for _, _, e in some for i in range(e)]))
        for j, sign, e in some:
            out[j] = sign * ((1 << e) + sum(next(bits) << i for i in range(e - 1, -1, -1)))
        return out

    def modes(self, n, rows, columns):  # section 5
        field = np.zeros((rows, columns), np.int64)
        for step in pyramid(rows, columns):
            near = [[int(field[place]) for place in places] for _, places in step]
            single = [sum(map(bool, v)) if v else 5 for v in near]
            which = [7 + int(np.sign(v.count(2) - v.count(1))) for v in near]
            for j, sign, _ in self.differences(n, single, which, [[]]):
                field[step[j][0]] = 1 if sign > 0 else 2
        return field

    def quarters(self, n, used, field):  # section 5
        out, near = field.repeat(2, 0).repeat(2, 1), np.pad(field, ((1, 1), (1, 1), (0, 0)), "edge")
        beside = near[:-2, 1:-1], near[2:, 1:-1], near[1:-1, :-2], near[1:-1, 2:]  # above, below, left, right
        split = np.where(used, sum((one != field).any(-1) for one in beside), -1)
        split = self.decide(n, split.ravel().tolist())
        split = np.reshape(split, field.shape[:2]).repeat(2, 0).repeat(2, 1)
        those = {(y, x): (field, beside[y % 2], beside[2 + x % 2]) for y, x in np.argwhere(split).tolist()}
        those = {p: [one[p[0] // 2, p[1] // 2].tolist() for one in near] for p, near in those.items()}
        bits = self.decide(n, [5 + (v != w) + (h != w) for w, v, h in those.values()])
        those = {p: vectors for (p, vectors), bit in zip(those.items(), bits, strict=True) if bit}
        for k in (1, 2):
            asked = {p: (w, v, h) for p, (w, v, h) in those.items() if (v != w if k == 1 else h not in (w, v))}
            contexts = [11 + (v != w) if k == 2 else 8 + (h != w) + (h == v) for w, v, h in asked.values()]
            for p, bit in zip(asked, self.decide(n, contexts), strict=True):
                if bit:
                    out[p] = those.pop(p)[k]
        part = [13] * len(those)
        for c in (0, 1):
            d = self.numbers(n, part, [16 + c] * len(those), [18] * len(those), 24)
            part = [15 - (one != 0) for one in d]
            for p, one in zip(those, d, strict=True):
                out[p][c] += one
        assert abs(out).max() <= 2047, "a vector is out of range"
        return out

    def vectors(self, n, used, expected):  # section 5
        field = np.zeros((*used.shape, 2), np.int64)
        for step in pyramid(*used.shape):
            around = [[field[place].tolist() for place in places] for _, places in step]
            s = [int(np.digitize(np.ptp(v, 0).sum(), (1, 3, 9, 33))) if v else 4 for v in around]
            part = [0] * len(step)
            for c in (0, 1):
                guess, t, side = [], [], []
                for (block, _), near in zip(step, around, strict=True):
                    b = None if expected is None else int(expected[block][c])
                    v = sorted(vector[c] for vector in near) or [b or 0]
                    low, high = v[(len(v) - 1) // 2], v[len(v) // 2]
                    guess.append(low if b is None or abs(low - b) <= abs(high - b) else high)
                    t.append(3 if b is None else sum(abs(b - guess[-1]) >= limit for limit in (1, 3)))
                    side.append(61 if b is None else 61 + int(np.sign(b - guess[-1])))
                zero = [4 * (5 * p + i) + j for p, i, j in zip(part, s, t, strict=True)]
                zero = [i if used[block] else -1 for i, (block, _) in zip(zero, step, strict=True)]
                d = self.numbers(n, zero, side, [63 + 6 * one for one in s], 93)
                guess = [value + one for value, one in zip(guess, d, strict=True)]
                part = [1 + (one != 0) for one in d]
                for value, (block, _) in zip(guess, step, strict=True):
                    field[block][c] = value
            assert abs(field).max() <= 2047, "a vector is out of range"
        return field

    def classes(self, rows, columns):  # section 6
        field, n = np.zeros((rows, columns), np.int64), np.stack([256 - CLASS_START, CLASS_START], 1).tolist()
        for step in pyramid(rows, columns):
            around = [[int(field[place]) for place in places] for _, places in step]
            guess = [(2 * sum(v) + len(v)) // (2 * len(v)) if v else 0 for v in around]
            s = [min(3, max(v) - min(v)) if v else 4 for v in around]
            side = [6 + int(np.sign(sum(v) - len(v) * one)) for v, one in zip(around, guess, strict=True)]
            d = {j: sign * (e + 1) for j, sign, e in self.differences(n, s, side, [[8 + one] * 5 for one in s])}
            for j, (block, _) in enumerate(step):
                field[block] = guess[j] + d.get(j, 0)
        assert abs(field).max() <= 3, "a class of contrast is out of range"
        return field

    def digits(self, model, m, scale):  # section 9: coefficients of those means and scales; scale: index in the tables
        sigmoid, inverse, reach = (model[f"quantiser.{name}"] for name in ("sigmoid", "inverse", "certain"))

        def g(z, at):
            t = clip((z * inverse[scale[at]] >> 13) + 81920, 0, 163839)
            return sigmoid[t >> 8] + ((sigmoid[(t >> 8) + 1] - sigmoid[t >> 8]) * (t & 255) >> 8)

        shape, m, scale = m.shape, m.ravel(), scale.ravel()
        n, y = (16 * 3 ** np.arange(10) < (abs(m) + reach[scale])[:, None]).sum(1), np.zeros_like(m)
        for j in range(9, -1, -1):
            at = np.flatnonzero(n > j)
            f3, f1, f_1, f_3 = (g(z, at) + z for z in (32 * y[at] - m[at] + c * 16 * 3**j for c in (3, 1, -1, -3)))
            above = self.bits(clip(65536 * (f3 - f1) // (f3 - f_3), 1, 65535)) > 0
            below = self.bits(clip(65536 * (f_1 - f_3) // (f1 - f_3), 1, 65535)[~above])
            y[at[above]] += 3**j
            y[at[~above]] -= 3**j * below
        at = np.flatnonzero((n > 0) & (abs(y) == (3**n - 1) // 2))
        w = 32 * abs(y[at]) - np.sign(y[at]) * m[at]
        k = clip(65536 * (2**32 - g(w + 16, at)) // np.maximum(1, 2**32 - g(w - 16, at)), 16, 32768)
        at = at[self.bits(k) > 0]
        e, u = np.zeros_like(at), np.ones_like(at)
        for i in range(15):
            e[e == i] += self.bits(np.full_like(at[e == i], 32768))
        for i in range(14, -1, -1):
            u[e > i] = 2 * u[e > i] + self.bits(np.full_like(at[e > i], 32768))
        y[at] += np.sign(y[at]) * u
        return y.reshape(shape)


def pyramid(rows, columns):  # the blocks of each step, each with its neighbours
    h = 1 << max(0, (max(rows, columns) - 1).bit_length() - 1)
    yield [((y, x), []) for y in range(0, rows, h) for x in range(0, columns, h)]
    while (h := h // 2) > 0:
        for odd in (2, 1):
            near = [(i, j) for i in (-h, 0, h) for j in (-h, 0, h) if abs(i) + abs(j) == odd * h]
            grid = [(y, x) for y in range(0, rows, h) for x in range(0, columns, h) if y // h % 2 + x // h % 2 == odd]
            inside = [[(y + i, x + j) for i, j in near if -1 < y + i < rows and -1 < x + j < columns] for y, x in grid]
            if grid:
                yield list(zip(grid, inside, strict=True))


def compensate(canvas, field):
    v, (_, height, width) = field.repeat(8, 0).repeat(8, 1), canvas.shape
    y, x = np.arange(height)[:, None] + (v[..., 0] >> 2), np.arange(width) + (v[..., 1] >> 2)
    ty, tx, total = TAPS[v[..., 0] & 3], TAPS[v[..., 1] & 3], np.zeros_like(canvas)
    for i, j in np.ndindex(8, 8):
        at = clip(y + i - 3, 0, height - 1), clip(x + j - 3, 0, width - 1)
        total += ty[..., i] * tx[..., j] * canvas[:, at[0], at[1]]
    return clip((total + 2048) >> 12, 0, 255)


def between(a, b, level):  # section 2
    f = (a + b) // 2
    return [] if f == a else [(f, a, b, level), *between(a, f, level + 1), *between(f, b, level + 1)]


def decode_group(model, payload, frames, width, height, depth):  # the frames in the order of time, (H, W, 3)
    mini, drop, tune, more = payload[:4]
    assert mini <= 16 and mini + more and tune <= 1, "the header of a group is wrong"
    order, at, e = [(0, None, None, 0, payload[4], drop)], 5 + more, 0
    while e < frames - 1:
        head, at, s = payload[at : at + 1 + more], at + 1 + more, e
        assert at <= len(payload), "a payload is shorter than its headers"
        e = min(s + mini, frames - 1)
        if mini == 0:
            drop, e = head[1] >> 4, s + (head[1] & 15) + 1
        order += [(e, s, None, 0, head[0], drop), *((*frame, head[0], drop) for frame in between(s, e, 1))]
    coder = Coder(payload[at:])
    assert e < frames and order[0][4] < 128 and all(0 < frame[4] & 127 < 101 for frame in order), "a header is wrong"
    rows, columns, canvases, fields = -(-height // 16), -(-width // 16), {}, {None: {}}
    shown, sample = {}, "u1" if depth == 8 else "<u2"
    for f, a, b, level, head, drop in order:
        references, parts, fields[f] = [a] if head > 127 else [], [], {}
        if b is not None:
            references = [] if not coder.bit(65208) else [a, b] if coder.bit(49152) else [b if coder.bit(32768) else a]
        elif not references:
            contexts = [[np.stack([256 - t, t], 1).tolist() for t in (VECTOR_START, SPLIT_START)] for _ in "PB"]
            mode_contexts = np.stack([256 - MODE_START, MODE_START], 1).tolist()
        modes = np.zeros((rows, columns), np.int64)
        if len(references) == 2:
            modes = coder.modes(mode_contexts, rows, columns)
        for i, to in enumerate(references):
            expected = None
            for g, other in ((a, b), (b, a), (f, None)):  # the last of these that has a field
                if fields[g]:
                    h = other if other in fields[g] else next(iter(fields[g]))
                    expected = clip(div(np.sign(h - g) * (to - f) * fields[g][h], abs(h - g)), 2047)
            (for_vectors, for_quarters), used = contexts[b is not None], modes != 2 - i
            fields[f][to] = coder.vectors(for_vectors, used, expected)
            parts.append(compensate(canvases[to], coder.quarters(for_quarters, used, fields[f][to])))
        type_ = 0 if not parts else 1 if b is None else 2
        parts = parts and [(parts[0] + parts[-1] + 1) >> 1, parts[0], parts[-1]]
        prediction = np.choose(modes.repeat(16, 0).repeat(16, 1), parts) if parts else None
        classes = np.zeros((rows, columns), np.int64) if type_ else coder.classes(rows, columns)
        quality = max(1, (head & 127) - drop * level)
        canvases[f], shown[f] = decode_frame(model, coder, type_, quality, tune, prediction, classes, depth)
    return [shown[f][:, :height, :width].transpose(1, 2, 0).astype(sample) for f in range(frames)]


def decode_alpha(model, body, frames, width, height):  # section 11: of each frame, (H, W, 1)
    body = Reader(body)
    method, planes = body.take(1)[0], []
    assert method in (1, 2), "alpha is coded by an unknown method"
    if method == 2:
        return [plane[..., None] for plane in decode_values(body.data[1:], frames, width, height, Coder)]
    f = 1 << body.take(1)[0]
    assert f <= 16, "the gray video of alpha is too small"
    for picture in decode_group(model, body.take(body.v()), frames, -(-width // f), -(-height // f), 8):
        s, c, d = picture.sum(-1, dtype=np.int64), *(2 * np.arange(size) + 1 - f for size in (height, width))
        a, b, u, v = c // (2 * f), d // (2 * f), (c % (2 * f))[:, None], d % (2 * f)
        s = np.pad(s, 1, "edge")  # so that a and b, which begin at -1, count from 0
        t = (2 * f - u) * ((2 * f - v) * s[a + 1][:, b + 1] + v * s[a + 1][:, b + 2])
        t += u * ((2 * f - v) * s[a + 2][:, b + 1] + v * s[a + 2][:, b + 2])
        planes.append(clip(div(85 * (t - 288 * f * f), 828 * f * f), 0, 255))
    rest = body.data[body.at :]
    planes = decode_values(rest, frames, width, height, Coder, planes) if rest else planes
    return [plane[..., None] for plane in planes]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the MD5 of the frames of a .bsq file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    folder, md5, file = Path(__file__).parent.parent / "models", hashlib.md5(), Reader(options.file.read_bytes())
    try:
        identity, width, height, depth, alpha = file.header()
        paths = [options.model] if options.model else sorted(folder.glob("*.safetensors"))
        model = next((model for model in map(Model, paths) if model.id == identity), None)
        assert model, f"model {identity.hex()} is not there"
        for n, payload, body in file.groups():
            frames = decode_group(model, payload, n, width, height, depth)
            if alpha:
                planes = [div(plane * (2**depth - 1), 255) for plane in decode_alpha(model, body, n, width, height)]
                both = zip(frames, planes, strict=True)
                frames = [np.concatenate([rgb, plane.astype(rgb.dtype)], -1) for rgb, plane in both]
            md5.update(b"".join(frame.tobytes() for frame in frames))
    except AssertionError as e:
        sys.exit(f"{options.file}: {e}")
    print(md5.hexdigest())
