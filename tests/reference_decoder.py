"""A second decoder, written from bitstream_spec.md alone: it shares no line with the package, and needs numpy only.

    python reference_decoder.py FILE.bsq [MODEL]

prints the MD5 of all frames, uint8 RGB in raster order, as `bsqcodec decode --md5` does. The model is that of ../models
with the id in the stream. All is int64, but for the products of `linear`, which are float64: exact below 2**53.
"""

import hashlib
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

TAPS, VECTOR_START, MODE_START, CLASS_START, UNIT = (np.array(text.split(), np.int64) for text in (
    "0 0 0 64 0 0 0 0 -1 4 -10 58 17 -5 1 0 -1 4 -11 40 40 -11 4 -1 0 1 -5 17 58 -10 4 -1",
    """4 38 63 13 38 62 73 54 64 111 101 91 64 148 137 115 94 167 192 161 3 30 31 8 34 64 59 52 52
    117 96 87 54 143 120 105 60 142 145 113 45 147 205 138 45 81 108 65 82 138 135 117 100 182 177 154 149 200 215 198
    139 107 117 182 188 190 190 150 112 70 75 128 145 133 107 130 95 81 107 132 110 191 162 135 113 87 102 227 220 213
    199 175 119 128 71 82 85 76 98 89 96 21 64 128 128""",
    "12 66 124 176 226 64 40 128 216", "74 115 141 154 220 128 128 128 15 26 38 51 118", "91 64 45 32 23 16 11",
))  # fmt: skip
BOUNDS, PHASES = (0, 8, 32, 96, 192, 416, 768), ((0, 0), (1, 1), (0, 1), (1, 0))
SIZES = ("fine_width", "fine_blocks", "width", "blocks", "prior_width", "prior_blocks", "prior_head")


def r(x, n):
    return (x + (1 << (n - 1))) >> n


def div(n, d):
    return (2 * n + d) // (2 * d)


def clip(x, low, high=None):
    return np.clip(x, -low, low) if high is None else np.clip(x, low, high)


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
        assert (depth, alpha) == (8, 0) and 0 < width * height <= 1 << 26, "bit depth, alpha or size are not supported"
        return identity, width, height

    def groups(self):  # of each group of pictures, how many frames and the payload
        frames, type_ = 0, b""
        while type_ != b"E":
            start, type_, body = self.at, self.take(1), Reader(self.take(self.v()))
            self.checksum(start)
            assert type_ in (b"A", b"P", b"G", b"E") or b"a" <= type_ <= b"z", f"a chunk is of the unknown type {type_}"
            assert type_ not in (b"G", b"E") or body.v() == frames, "frames are missing"
            if type_ == b"G":
                n, _ = body.v(), body.v()
                assert n, "a group has no frames"
                frames, _ = frames + n, [body.v() for _ in range(n - 1 if n > 1 and not body.v() else 0)]
                yield n, body.data[body.at :]


class Coder:  # section 3
    def __init__(self, data):
        data = data[: len(data) // 4 * 4] + bytes(-len(data) % 4) + data[len(data) // 4 * 4 :]
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

    def decide(self, n, contexts):  # section 4; n: counts of all contexts; None: k = 32768; -1: no bit is coded
        k = [32768 if i is None else min(max(65536 * n[i][1] // sum(n[i]), 1), 65535) for i in contexts]
        bits = [0 if i == -1 else self.bit(one) for i, one in zip(contexts, k, strict=True)]
        for i, bit in zip(contexts, bits, strict=True):
            if i not in (None, -1):
                n[i][bit] += 16
        for pair in n:
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

    def modes(self, n, rows, columns):  # section 5
        field = np.zeros((rows, columns), np.int64)
        for step in pyramid(rows, columns):
            near = [[int(field[place]) for place in places] for _, places in step]
            single = [sum(map(bool, v)) if v else 5 for v in near]
            which = [7 + int(np.sign(v.count(2) - v.count(1))) for v in near]
            for j, sign, _ in self.differences(n, single, which, [[]]):
                field[step[j][0]] = 1 if sign > 0 else 2
        return field

    def vectors(self, n, used, expected):  # section 5
        field = np.zeros((*used.shape, 2), np.int64)
        for step in pyramid(*used.shape):
            around = [[field[place].tolist() for place in places] for _, places in step]
            s = [int(np.digitize(np.ptp(v, 0).sum(), (1, 3, 9, 33))) if v else 4 for v in around]
            part = [0] * len(step)
            for c in (0, 1):
                guess, zero, side = [], [], []
                for (block, _), near, p, i in zip(step, around, part, s, strict=True):
                    b = None if expected is None else int(expected[block][c])
                    v = sorted(vector[c] for vector in near) or [b or 0]
                    low, high = v[(len(v) - 1) // 2], v[len(v) // 2]
                    guess.append(low if b is None or abs(low - b) <= abs(high - b) else high)
                    t = 3 if b is None else sum(abs(b - guess[-1]) >= limit for limit in (1, 3))
                    zero.append(4 * (5 * p + i) + t if used[block] else -1)
                    side.append(61 if b is None else 61 + int(np.sign(b - guess[-1])))
                some = self.differences(n, zero, side, [[63 + 6 * one + min(i, 5) for i in range(11)] for one in s])
                low = iter(self.decide(n, [None if i else 93 + e for _, _, e in some for i in range(e)]))
                for j, sign, e in some:
                    guess[j] += sign * ((1 << e) + sum(next(low) << i for i in range(e - 1, -1, -1)))
                part = [1 + (j in {j for j, _, _ in some}) for j in range(len(step))]
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
        at = at[self.bits(clip(65536 * (2**32 - g(w + 16, at)) // np.maximum(1, 2**32 - g(w - 16, at)), 16, 32768)) > 0]
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
    v, (_, height, width) = field.repeat(16, 0).repeat(16, 1), canvas.shape
    y, x = np.arange(height)[:, None] + (v[..., 0] >> 2), np.arange(width) + (v[..., 1] >> 2)
    taps, total = TAPS.reshape(4, 8)[v & 3], np.zeros_like(canvas)
    for i, j in np.ndindex(8, 8):
        at = clip(y + i - 3, 0, height - 1), clip(x + j - 3, 0, width - 1)
        total += taps[..., 0, i] * taps[..., 1, j] * canvas[:, at[0], at[1]]
    return clip((total + 2048) >> 12, 0, 255)


class Model(dict):  # sections 7 and 8; matrices are float64 and transposed, other tensors int64
    def __init__(self, path):
        data = path.read_bytes()
        start = 8 + struct.unpack("<Q", data[:8])[0]
        header, data = json.loads(data[8:start]), memoryview(data)[start:]
        self.sizes = json.loads(header.pop("__metadata__")["config"])
        sha = hashlib.sha256(json.dumps([[key, self.sizes[key]] for key in SIZES], separators=(",", ":")).encode())
        for name, h in sorted((name, h) for name, h in header.items() if name[0] != "e"):
            t = np.frombuffer(data[slice(*h["data_offsets"])], f"<i{int(h['dtype'][1:]) // 8}").reshape(h["shape"])
            n = next(n for n in (1, 2, 4, 8) if -(1 << (8 * n - 1)) <= t.min() and t.max() < 1 << (8 * n - 1))
            sha.update(f"{name}{h['shape']}{n}".encode() + t.astype(f"<i{n}").tobytes())
            self[name] = t.T.astype(np.float64) if name.endswith(".w") else t.astype(np.int64)
        self.id = sha.digest()[:8]

    def linear(self, name, x, i=5, o=6, limit=1 << 15):
        return clip(r((x @ self[f"{name}.w"]).astype(np.int64), self[f"{name}.shift"] + i - o), limit)

    def shift_blocks(self, stack, count, x):
        (height, width, n), m = x.shape, x.shape[-1] // 9
        edges = np.cumsum([0, m, m, m, m, n - 8 * m, m, m, m, m])
        for s in range(self.sizes[count]):
            y = np.pad(norm(x), ((1, 1), (1, 1), (0, 0)))
            y = [y[i // 3 :, i % 3 :, edges[i] : edges[i + 1]][:height, :width] for i in range(9)]
            y = self.linear(f"{stack}.{s}.a", np.concatenate(y, -1), o=5, limit=127)
            x = x + self.linear(f"{stack}.{s}.b", np.maximum(0, y))
        return x

    def attention_block(self, s, shift, x, phase, known):  # known: keys and values so far; it adds its own
        (height, width, n), bias = x.shape, self[f"{s}.bias"]
        y = self.linear(f"{s}.a", norm(x), o=5, limit=127)
        q, *kv = np.moveaxis(y[..., : 3 * n].reshape(height, width, 3, n // 32, 32), 2, 0)
        known.append(np.stack(kv))
        out, place = np.zeros_like(q), np.stack(np.mgrid[:height, :width], -1)
        for top, left in np.ndindex((height + shift + 3) // 4, (width + shift + 3) // 4):
            at = tuple(slice(max(0, 4 * i - shift), 4 * i - shift + 4) for i in (top, left))
            keys, values = np.concatenate([kv[:, *at].reshape(2, -1, n // 32, 32) for kv in known], 1)
            dy, dx = np.moveaxis(place[at].reshape(-1, 1, 2) - place[at].reshape(-1, 2), -1, 0)
            index = [((dy + 3) * 7 + dx + 3) * 16 + 4 * phase + p for p in range(phase + 1)]
            queries = q[at].reshape(-1, n // 32, 32).transpose(1, 0, 2)
            score = queries @ keys.transpose(1, 2, 0) + bias[:, np.concatenate(index, 1)]
            e = np.maximum(0, 255 + ((score - score.max(-1, keepdims=True)) >> 6)) ** 2 >> 8
            out[at] = div(e @ values.transpose(1, 0, 2), e.sum(-1)[..., None]).transpose(1, 0, 2).reshape(q[at].shape)
        return x + self.linear(f"{s}.b", np.concatenate([out.reshape(x.shape), np.maximum(0, y[..., 3 * n :])], -1))


def norm(x):
    x = clip(x, 1 << 15)
    return clip(div(32 * x.shape[-1] * x, np.maximum(1, abs(x).sum(-1, keepdims=True))), 127)


def views(y):
    return np.concatenate([clip(y, 60), clip((y + 2) >> 2, 60), clip((y + 10) // 20, 120)], -1)


def unite(tokens):  # (R, C, 768) to (3, 16 R, 16 C)
    return tokens.reshape(*tokens.shape[:2], 3, 16, 16).transpose(2, 0, 3, 1, 4).reshape(3, 16 * len(tokens), -1)


def rings(tokens):  # the patches with their rings, (2 R, 2 C, 432)
    near = np.pad(unite(tokens), ((0, 0), (2, 2), (2, 2)), "edge")
    windows = np.lib.stride_tricks.sliding_window_view(near, (12, 12), (1, 2))[:, ::8, ::8]
    return windows.transpose(1, 2, 0, 3, 4).reshape(*windows.shape[1:3], 432)


def decode_frame(model, coder, type_, quality, tune, prediction, classes):
    """The canvas. prediction: (3, 16 R, 16 C) of a frame of type 1 or 2; classes: of others, as the stream tells."""
    (rows, columns), p = classes.shape, np.zeros((*classes.shape, 768), np.int64)
    if type_:
        t = prediction.reshape(3, rows, 16, columns, 16).transpose(1, 3, 0, 2, 4).reshape(rows, columns, 768)
        g, p = t.reshape(rows, columns, 3, 256).sum(2), t - 128
        spread = 256 * (g * g).sum(-1) - g.sum(-1) ** 2
        classes = (model["quantiser.contrast"] <= spread[..., None]).sum(-1) - 3
    step, weight = model["quantiser.step"][tune, quality - 1][classes + 3][..., None], model["quantiser.weight"][tune]
    active, level, smooth = (model[f"quantiser.{name}"][quality - 1] for name in ("active", "level", "smooth"))
    seen = clip(div(30 * (clip(p, 127) @ div(model["basis"] << 11, weight)), step), 2400) * (np.arange(768) < active)
    rest = [32 * classes, *(0 * classes + f for f in (level, 32, 32 * (type_ > 0), 32 * tune, 32 * (type_ == 2)))]
    features = np.stack([clip(div(p.sum(-1), 768), 127), *rest], -1)
    y = coefficients(model, coder, type_, quality, tune, features, views(seen))
    x = clip(r(clip(y @ r(model["basis"] * weight, 12).T, 1 << 24) * step, 18) + 16 * p, 1 << 13)  # section 10
    mean = div(x.sum(-1), 768)
    a = model.linear("d_feature", np.stack([clip(r(mean, 4), 127), *rest], -1))
    a = a + model.linear("d_in", views(60 * y), i=6)
    a = model.shift_blocks("d16", "blocks", a + model.linear("d_prediction", views(seen), i=6) if type_ else a)
    b = model.linear("d_split", norm(a)).reshape(rows, columns, 2, 2, -1).transpose(0, 2, 1, 3, 4)
    mean, unit, steps = np.stack([mean, UNIT[classes + 3], step[..., 0]]).repeat(2, 1).repeat(2, 2)[..., None]
    b = b.reshape(2 * rows, 2 * columns, -1) + model.linear("d_pixels", clip(r((rings(x) - mean) * unit, 8), 127), i=4)
    b = b + model.linear("d_reference", clip(r((16 * rings(p) - mean) * unit, 8), 127), i=4) if type_ else b
    e = r(model.linear("d_out", norm(model.shift_blocks("d8", "fine_blocks", b)), o=10, limit=1 << 13) * steps, 16)
    total = np.pad(unite(x), ((0, 0), (2, 10), (2, 10)))
    for n in range(432):
        total[n // 144, n // 12 % 12 :, n % 12 :][: 16 * rows : 8, : 16 * columns : 8] += e[..., n]
    out = clip(r(total[:, 2:-10, 2:-10] + 2048, 4), 0, 255)
    for lines in (out.transpose(2, 0, 1), out.transpose(1, 0, 2)):  # both are views of it
        for at in range(16, len(lines) if smooth else 0, 16):
            p2, p1, p0, q0, q1, q2 = lines[at - 3 : at + 3].copy()
            soft = abs(p0 - q0) < 6 * smooth
            d = clip(r(4 * (q0 - p0) + p1 - q1, 3), smooth) * soft
            more = [soft * clip(r(t, 2), smooth >> 1) for t in (p2 + p0 - 2 * p1 + 2 * d, q2 + q0 - 2 * q1 - 2 * d)]
            lines[at - 2 : at + 2] = p1 + more[0], p0 + d, q0 - d, q1 + more[1]
    return clip(out, 0, 255)


def coefficients(model, coder, type_, quality, tune, f, look):  # section 9; f: features; look: views of the prediction
    rows, columns, _ = f.shape
    f, look = (np.pad(t, ((0, rows % 2), (0, columns % 2), (0, 0))) for t in (f, look))
    y = np.zeros((*f.shape[:2], 768), np.int64)
    base = model.linear("p_feature", np.concatenate([f[i::2, j::2] for i, j in PHASES], -1))
    for k, (i, j) in enumerate(PHASES if type_ else ()):
        base = base + model.linear(f"p_prediction.{k}", look[i::2, j::2], i=6)
    (i, f), table = divmod(10 * (100 - quality), 99), model["p_bias"][type_, tune]
    bias = ((table[i] * (99 - f) + table[min(i + 1, 10)] * f + 49) // 99).reshape(2, 768)
    caches = [[] for _ in range(model.sizes["prior_blocks"])]
    for k, (i, j) in enumerate(PHASES):
        x = base + model["p_phase"][k]
        for b, before in enumerate(caches):
            x = model.attention_block(f"prior16.{b}", b % 2 * 2, x, k, before)
        here = y[i:rows:2, j:columns:2]  # those tokens that are coded
        t = model.linear("p_head", norm(x), o=8, limit=1 << 20)[: here.shape[0], : here.shape[1]]
        for g in range(BOUNDS.index(model["quantiser.active"][quality - 1])):
            group = slice(BOUNDS[g], BOUNDS[g + 1])
            both = model.linear(f"p_out.{g}", clip(r(t, 3), 0, 511), o=10, limit=1 << 22)
            m, scale = np.moveaxis(both.reshape(*t.shape[:2], 2, both.shape[-1] // 2) + bias[:, group], 2, 0)
            new = here[..., group] = coder.digits(model, clip(r(m, 5), 1 << 19), clip(r(scale, 7), -40, 72) + 40)
            if g < 5:
                t = clip(t + model.linear(f"p_seen.{g}", views(60 * new), i=6, o=8, limit=1 << 20), 1 << 20)
        if k < 3:
            base = base + model.linear(f"p_known.{k}", views(60 * y[i::2, j::2]), i=6)
    return y[:rows, :columns]


def between(a, b, level, head):  # section 2
    f = (a + b) // 2
    return [] if f == a else [(f, a, b, level, head), *between(a, f, level + 1, head), *between(f, b, level + 1, head)]


def decode_group(model, payload, frames, width, height):  # the frames in the order of time, uint8 (H, W, 3)
    mini, drop, tune, more = payload[:4]
    assert 1 <= mini <= 16 and tune <= 1, "the header of a group is wrong"
    anchors = [*range(0, frames - 1, mini), frames - 1]
    end = 4 + len(anchors) * (1 + more)
    headers, coder = payload[4 : end : 1 + more], Coder(payload[end:])
    assert end <= len(payload) and headers[0] < 128 and all(0 < i & 127 < 101 for i in headers), "a header is wrong"
    order = [(0, None, None, 0, headers[0])]
    for s, e, head in zip(anchors[:-1], anchors[1:], headers[1:], strict=True):
        order += [(e, s, None, 0, head), *between(s, e, 1, head)]
    rows, columns, canvases, fields = -(-height // 16), -(-width // 16), {}, {None: {}}
    for f, a, b, level, head in order:
        references, parts, fields[f] = [a] if head > 127 else [], [], {}
        if b is not None:
            references = [] if not coder.bit(65208) else [a, b] if coder.bit(49152) else [b if coder.bit(32768) else a]
        elif not references:
            contexts = [np.stack([256 - t, t], 1).tolist() for t in (VECTOR_START, VECTOR_START, MODE_START)]
        modes = coder.modes(contexts[2], rows, columns) if len(references) == 2 else np.zeros((rows, columns), np.int64)
        for i, to in enumerate(references):
            expected = None
            for g, other in ((a, b), (b, a), (f, None)):  # the last of these that has a field
                if fields[g]:
                    h = other if other in fields[g] else next(iter(fields[g]))
                    expected = clip(div(np.sign(h - g) * (to - f) * fields[g][h], abs(h - g)), 2047)
            fields[f][to] = coder.vectors(contexts[b is not None], modes != 2 - i, expected)
            parts.append(compensate(canvases[to], fields[f][to]))
        type_ = 0 if not parts else 1 if b is None else 2
        parts = parts and [(parts[0] + parts[-1] + 1) >> 1, parts[0], parts[-1]]
        prediction = np.choose(modes.repeat(16, 0).repeat(16, 1), parts) if parts else None
        classes = np.zeros((rows, columns), np.int64) if type_ else coder.classes(rows, columns)
        canvases[f] = decode_frame(model, coder, type_, max(1, (head & 127) - drop * level), tune, prediction, classes)
    return [canvases[f][:, :height, :width].transpose(1, 2, 0).astype(np.uint8) for f in range(frames)]


if __name__ == "__main__":
    path, *paths = map(Path, sys.argv[1:])
    paths, md5 = paths or sorted(Path(__file__).parents[1].glob("models/*.safetensors")), hashlib.md5()
    try:
        identity, width, height = (file := Reader(path.read_bytes())).header()
        model = next((model for model in map(Model, paths) if model.id == identity), None)
        assert model, f"model {identity.hex()} is not there"
        for frames, payload in file.groups():
            md5.update(b"".join(frame.tobytes() for frame in decode_group(model, payload, frames, width, height)))
    except AssertionError as e:
        sys.exit(f"{path}: {e}")
    print(md5.hexdigest())
