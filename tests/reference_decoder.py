#!/usr/bin/env python3
"""A second decoder, written from bitstream_spec.md alone: it shares no line with the package, and needs numpy only.

    python reference_decoder.py FILE.bsq [--model PATH]

Decodes every frame and prints the MD5 of all, uint8 RGB in raster order, which is what `bsqcodec decode --md5` prints.
Sound and ancillary chunks are skipped. The model is the file of ../models that has the id in the stream.

Everything is int64. Products of matrices are taken in float64, which a BLAS makes fast: they are exact as well, in any
order, for no sum of integers here reaches 2**53.
"""

import argparse
import hashlib
import json
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

TAPS = np.array([[0, 0, 0, 64, 0, 0, 0, 0], [-1, 4, -10, 58, 17, -5, 1, 0], [-1, 4, -11, 40, 40, -11, 4, -1],
                 [0, 1, -5, 17, 58, -10, 4, -1]])  # fmt: skip
GROUPS = (8, 24, 64, 96, 224, 352)
PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
UNIT = np.array([91, 64, 45, 32, 23, 16, 11])
CLASS_START = [int(t) for t in "74 115 141 154 220 128 128 128 15 26 38 51 118".split()]
VECTOR_START = [int(t) for t in """
      4  38  63  13   38  62  73  54   64 111 101  91   64 148 137 115   94 167 192 161    3  30  31   8   34  64  59  52
     52 117  96  87   54 143 120 105   60 142 145 113   45 147 205 138   45  81 108  65   82 138 135 117  100 182 177 154
    149 200 215 198  139 107 117  182 188 190 190 150 112   70  75 128 145 133 107  130  95  81 107 132 110
    191 162 135 113  87 102  227 220 213 199 175 119  128  71  82  85  76  98  89  96  21  64 128 128""".split()]  # fmt: skip


class Refused(Exception):
    """A stream that a decoder must not decode."""


def check(condition, why):
    if not condition:
        raise Refused(why)


def r(x, n):
    return (x + (1 << (n - 1))) >> n


def div(n, d):
    return (2 * n + d) // (2 * d)


def clip(x, low, high=None):
    return np.clip(x, -low, low) if high is None else np.clip(x, low, high)


def product(a, b):
    """Of integers, exact while every sum stays below 2**53."""
    return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64)


# ---------------------------------------------------------------- 1. container


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        part = self.data[self.at : self.at + n]
        check(len(part) == n, "cut short")
        self.at += n
        return part

    def v(self, limit=2**63 - 1):
        n = 0
        for i in range(9):
            byte = self.take(1)[0]
            n |= (byte & 127) << 7 * i
            if byte < 128:
                check(n <= limit, "a field is out of range")
                return n
        raise Refused("an integer of more than 9 bytes")

    def s(self):
        n = self.v()
        return -(n >> 1) - 1 if n & 1 else n >> 1

    def crc(self, start):
        expected = zlib.crc32(self.data[start : self.at])
        check(struct.unpack("<I", self.take(4))[0] == expected, "a checksum is wrong")

    def block(self):
        return self.take(self.v())


def read_header(file):
    """Id of the model, height, width."""
    check(file.take(4) == b"BSQ\x1a", "no .bsq stream")
    check(file.take(1) == b"\1", "another version")
    f = Reader(file.take(file.take(1)[0]))
    file.crc(0)
    identity = f.take(8)
    check(f.v() == 8 and f.v() == 0, "bits a sample, or alpha")
    width, height = f.v(65535), f.v(65535)
    check(0 < width * height <= 1 << 26, "the size of the frames")
    base, rate = [f.v(2**31 - 1) for _ in "nd"], [f.v(2**31 - 1) for _ in "nd"]
    check(all(base) and (all(rate) or not rate[0]), "a time base or rate of 0")
    for limit in (2**31 - 1, 2**31 - 1, 3, 255, 255, 255, 2):
        f.v(limit)
    return identity, height, width


def read_groups(file):
    """Of each group of pictures, the number of frames and the payload."""
    frames, last, number, track, ended = 0, -(2**62), 0, False, False
    while not ended:
        start = file.at
        kind, size = file.take(1), file.v(1 << 30)
        b = Reader(file.take(size))
        file.crc(start)
        if kind == b"A":
            check(number == 0, "an audio track that is not directly after the header")
            check(all([f.v(2**31 - 1) for f in (b, b)]), "a time base of 0")
            b.v(1 << 30)
            check(re.fullmatch(rb"[a-z0-9_]{1,40}", b.block()) and re.fullmatch(rb"[ -~]{1,200}", b.block()), "names")
            b.block()
            track = True
        elif kind == b"G":
            check(b.v() == frames, "frames are missing")
            n, time = b.v(size), b.s()
            check(n > 0, "a group without frames")
            times = [time]
            if n > 1:
                step = b.v()
                for _ in range(n - 1):
                    times.append(times[-1] + (step or b.v()))
            check(all(x < y for x, y in zip([last, *times], [*times, 2**62])), "times")
            frames, last = frames + n, times[-1]
            yield n, b.data[b.at :]
        elif kind == b"E":
            check(b.v() == frames, "frames are missing")
            ended = True
        elif kind == b"P":
            check(track, "sound without a track")
        else:
            check(b"a" <= kind <= b"z", "an unknown type of chunk")
        number += 1
    check(file.at == len(file.data), "something follows the end")


# ---------------------------------------------------------------- 3, 4. range coder, contexts, pyramid


class Coder:
    def __init__(self, data):
        whole = len(data) // 4 * 4
        data = data[:whole] + bytes(-len(data) % 4) + data[whole:]
        self.words = iter(struct.unpack(f"<{len(data) // 4}I", data))
        self.range = 2**64 - 1
        self.x = next(self.words, 0) << 32
        self.x += next(self.words, 0)

    def bit(self, k):
        z = (((65536 - k) * (2**24 - 2)) >> 16) + 1
        scale = self.range >> 24
        check(self.x < scale << 24, "the coded bits are damaged")
        bit = self.x >= scale * z
        if bit:
            self.x -= scale * z
        self.range = scale * (2**24 - z if bit else z)
        if self.range < 2**32:
            self.range <<= 32
            self.x = self.x << 32 | next(self.words, 0)
        return int(bit)

    def bits(self, k):
        return np.array([self.bit(one) for one in k.tolist()], np.int64)


class Contexts:
    def __init__(self, start, full):
        self.n, self.full = [[256 - t, t] for t in start], full

    def decide(self, coder, contexts):
        """A decision for many blocks; None stands for k = 32768 outside all contexts."""
        k = [32768 if i is None else min(max(65536 * self.n[i][1] // sum(self.n[i]), 1), 65535) for i in contexts]
        bits = [coder.bit(one) for one in k]
        for i, bit in zip(contexts, bits):
            if i is not None:
                self.n[i][bit] += 16
        for n in self.n:
            while sum(n) > self.full:
                n[:] = [(one + 1) >> 1 for one in n]
        return bits


def pyramid(rows, columns):
    """Of each step, the blocks and, for each, where its neighbours are."""
    s = 1
    while 2 * s < max(rows, columns):
        s *= 2
    yield [((y, x), []) for y in range(0, rows, s) for x in range(0, columns, s)]
    h = s
    while h > 1:
        h //= 2
        grid = [(y, x) for y in range(0, rows, h) for x in range(0, columns, h)]
        cross = [(-h, 0), (h, 0), (0, -h), (0, h)]
        for odd, offsets in (((1, 1),), [(i, j) for i in (-h, h) for j in (-h, h)]), (((0, 1), (1, 0)), cross):
            yield [
                ((y, x), [(y + i, x + j) for i, j in offsets if 0 <= y + i < rows and 0 <= x + j < columns])
                for y, x in grid
                if (y // h % 2, x // h % 2) in odd
            ]


# ---------------------------------------------------------------- 5, 6. vectors, prediction, classes


def sign(x):
    return (x > 0) - (x < 0)


def read_vectors(coder, contexts, rows, columns, expected):
    field = np.zeros((rows, columns, 2), np.int64)
    for step in pyramid(rows, columns):
        parts = [0] * len(step)
        around = [[field[place].tolist() for place in places] for _, places in step]
        spread = [sum(max(c) - min(c) for c in zip(*vectors)) for vectors in around]
        s = [sum(n >= limit for limit in (1, 3, 9, 33)) if near else 4 for n, near in zip(spread, around)]
        for c in (0, 1):
            guess, t, side = [], [], []
            for (block, _), near in zip(step, around):
                b = None if expected is None else int(expected[block][c])
                v = sorted(vector[c] for vector in near)
                if not v:
                    guess.append(b or 0)
                else:
                    low, high = v[(len(v) - 1) // 2], v[len(v) // 2]
                    guess.append(low if b is None or abs(low - b) <= abs(high - b) else high)
                t.append(3 if b is None else sum(abs(b - guess[-1]) >= limit for limit in (1, 3)))
                side.append(0 if b is None else sign(b - guess[-1]))
            some = contexts.decide(coder, [4 * (5 * p + s) + t for p, s, t in zip(parts, s, t)])
            those = [i for i, bit in enumerate(some) if bit]
            negative = contexts.decide(coder, [61 + side[i] for i in those])
            e, going = dict.fromkeys(those, 0), those
            for i in range(11):
                more = contexts.decide(coder, [63 + 6 * s[j] + min(i, 5) for j in going])
                going = [j for j, bit in zip(going, more) if bit]
                e |= {j: i + 1 for j in going}
            low = iter(contexts.decide(coder, [93 + e[j] if i == 0 else None for j in those for i in range(e[j])]))
            d = [0] * len(step)
            for j, minus in zip(those, negative):
                size = 1
                for _ in range(e[j]):
                    size = 2 * size + next(low)
                d[j] = -size if minus else size
            for j, (block, _) in enumerate(step):
                field[block][c] = guess[j] + d[j]
            parts = [2 if n else 1 for n in d]
        check(abs(field).max() <= 2047, "a vector is out of range")
    return field


def compensate(canvas, field):
    v = field.repeat(16, 0).repeat(16, 1)
    height, width = v.shape[:2]
    y, x = np.arange(height)[:, None] + (v[..., 0] >> 2), np.arange(width) + (v[..., 1] >> 2)
    ty, tx = TAPS[v[..., 0] & 3], TAPS[v[..., 1] & 3]
    total = np.zeros_like(canvas)
    for i in range(8):
        row = clip(y + i - 3, 0, height - 1)
        for j in range(8):
            total += ty[..., i] * tx[..., j] * canvas[:, row, clip(x + j - 3, 0, width - 1)]
    return clip((total + 2048) >> 12, 0, 255)


def read_classes(coder, rows, columns):
    field, contexts = np.zeros((rows, columns), np.int64), Contexts(CLASS_START, 4096)
    for step in pyramid(rows, columns):
        around = [[int(field[place]) for place in places] for _, places in step]
        guess = [(2 * sum(v) + len(v)) // (2 * len(v)) if v else 0 for v in around]
        s = [min(3, max(v) - min(v)) if v else 4 for v in around]
        those = [i for i, bit in enumerate(contexts.decide(coder, s)) if bit]
        side = [sign(sum(v) - len(v) * one) for v, one in zip(around, guess)]
        negative = contexts.decide(coder, [6 + side[i] for i in those])
        d, going = dict.fromkeys(those, 1), those
        for i in range(1, 6):
            more = contexts.decide(coder, [8 + s[j] for j in going])
            going = [j for j, bit in zip(going, more) if bit]
            d |= {j: i + 1 for j in going}
        for j, minus in zip(those, negative):
            guess[j] += -d[j] if minus else d[j]
        for one, (block, _) in zip(guess, step):
            field[block] = one
    check(abs(field).max() <= 3, "a class of contrast is out of range")
    return field


# ---------------------------------------------------------------- 7, 8. model and layers


class Model:
    def __init__(self, path):
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        config = json.loads(header.pop("__metadata__")["config"])
        self.tensors = {}
        for name, t in header.items():
            start, stop = t["data_offsets"]
            values = np.frombuffer(data[8 + size + start : 8 + size + stop], f"<i{int(t['dtype'][1:]) // 8}")
            self.tensors[name] = values.reshape(t["shape"])
        keys = ("fine_width", "fine_blocks", "width", "blocks", "prior_width", "prior_blocks", "prior_head")
        sha = hashlib.sha256(json.dumps([[key, config[key]] for key in keys], separators=(",", ":")).encode())
        for name in sorted(name for name in self.tensors if not name.startswith("e")):
            t = self.tensors[name]
            n = next(n for n in (1, 2, 4, 8) if -(1 << (8 * n - 1)) <= t.min() and t.max() < 1 << (8 * n - 1))
            sha.update(f"{name}{list(t.shape)}{n}".encode() + t.astype(f"<i{n}").tobytes())
        self.id = sha.digest()[:8]
        self.kept = {}

    def __getitem__(self, name):
        """A tensor, int64."""
        return self.keep(name, lambda: self.tensors[name].astype(np.int64))

    def keep(self, key, make):
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def blocks(self, stack):
        return len({name.split(".")[1] for name in self.tensors if name.startswith(f"{stack}.")})

    def linear(self, name, x, i=5, o=6, limit=1 << 15):
        w = self.keep((name, "w"), lambda: self.tensors[f"{name}.w"].T.astype(np.float64))
        return clip(r(product(x, w), self[f"{name}.shift"] + i - o), limit)

    def shift_block(self, s, x):
        y, n = np.pad(norm(x), ((1, 1), (1, 1), (0, 0))), x.shape[-1]
        edges = np.cumsum([0] + [n // 9] * 4 + [n - 8 * (n // 9)] + [n // 9] * 4)
        height, width = x.shape[:2]
        parts = [y[i // 3 :][:height, i % 3 :][:, :width, edges[i] : edges[i + 1]] for i in range(9)]
        hidden = self.linear(f"{s}.a", np.concatenate(parts, -1), o=5, limit=127)
        return x + self.linear(f"{s}.b", np.maximum(hidden, 0))

    def attention_block(self, i, x, phase, known):
        """`known`: keys and values of the phases before; those of this one are added."""
        height, width, n = x.shape
        y = self.linear(f"prior16.{i}.a", norm(x), o=5, limit=127)
        q, k, v = (part.reshape(height, width, n // 32, 32) for part in np.split(y[..., : 3 * n], 3, -1))
        known.append((k, v))
        out, j = np.zeros_like(q), i % 2 * 2
        bias = self[f"prior16.{i}.bias"]
        for top in range(-j, height, 4):
            for left in range(-j, width, 4):
                a, b = slice(max(0, top), top + 4), slice(max(0, left), left + 4)
                queries = q[a, b].reshape(-1, n // 32, 32).transpose(1, 0, 2)
                keys, values = (np.concatenate([t[a, b].reshape(-1, n // 32, 32) for t in p]) for p in zip(*known))
                cells = np.stack(np.mgrid[a.start : min(a.stop, height), b.start : min(b.stop, width)], -1).reshape(-1, 2)
                dy, dx = np.moveaxis(cells[:, None] - cells, -1, 0)
                at = [((dy + 3) * 7 + dx + 3) * 16 + 4 * phase + p for p in range(phase + 1)]
                score = product(queries, keys.transpose(1, 2, 0)) + bias[:, np.concatenate(at, 1)]
                e = np.maximum(0, 255 + ((score - score.max(-1, keepdims=True)) >> 6)) ** 2 >> 8
                o = div(product(e, values.transpose(1, 0, 2)), e.sum(-1, keepdims=True))
                out[a, b] = o.transpose(1, 0, 2).reshape(out[a, b].shape)
        both = np.concatenate([out.reshape(x.shape), np.maximum(y[..., 3 * n :], 0)], -1)
        return x + self.linear(f"prior16.{i}.b", both)


def norm(x):
    x = clip(x, 1 << 15)
    return clip(div(32 * x.shape[-1] * x, np.maximum(1, abs(x).sum(-1, keepdims=True))), 127)


def views(y):
    return np.concatenate([clip(y, 60), clip((y + 2) >> 2, 60), clip((y + 10) // 20, 120)], -1)


def tokens(canvas):
    """(3, 16 R, 16 C) to (R, C, 768)."""
    _, h, w = canvas.shape
    return canvas.reshape(3, h // 16, 16, w // 16, 16).transpose(1, 3, 0, 2, 4).reshape(h // 16, w // 16, 768)


def rings(canvas):
    """(3, 16 R, 16 C) to (2 R, 2 C, 432)."""
    near = np.pad(canvas, ((0, 0), (2, 2), (2, 2)), "edge")
    windows = np.lib.stride_tricks.sliding_window_view(near, (12, 12), (1, 2))[:, ::8, ::8]
    return windows.transpose(1, 2, 0, 3, 4).reshape(*windows.shape[1:3], 432)


# ---------------------------------------------------------------- 8, 9, 10. a frame


class Frame:
    """What a frame is coded as. `prediction`: its canvas, or None; `classes`: without a prediction."""

    def __init__(self, model, kind, quality, tune, prediction, classes):
        self.model, self.kind, self.quality, self.tune = model, kind, quality, tune
        self.active = int(model["quantiser.active"][quality - 1])
        if prediction is not None:
            g = prediction.sum(0).reshape(classes.shape[0], 16, classes.shape[1], 16)
            spread = 256 * (g * g).sum((1, 3)) - g.sum((1, 3)) ** 2
            classes = (model["quantiser.contrast"] <= spread[..., None]).sum(-1) - 3
        self.classes = classes
        self.step = model["quantiser.step"][tune, quality - 1][classes + 3][..., None]
        self.weight = model["quantiser.weight"][tune]
        self.p = np.zeros((*classes.shape, 768), np.int64)
        if kind:
            self.p = tokens(prediction) - 128
            analysis = model.keep(("analysis", tune), lambda: div(model["basis"] << 11, self.weight))
            y = clip(div(30 * product(clip(self.p, 127), analysis), self.step), 2400)
            y[..., self.active :] = 0
            self.views = views(y)

    def features(self, mean):
        level = self.model["quantiser.level"][self.quality - 1]
        rest = [level, 32, 32 * (self.kind > 0), 32 * self.tune, 32 * (self.kind == 2)]
        same = [np.full_like(self.classes, value) for value in rest]
        return np.stack([clip(mean, 127), 32 * self.classes, *same], -1)

    def read(self, coder):
        """The coefficients, (R, C, 768)."""
        model, (rows, columns) = self.model, self.classes.shape
        odd = ((0, rows % 2), (0, columns % 2), (0, 0))
        out = np.pad(np.zeros((rows, columns, 768), np.int64), odd)
        f = np.pad(self.features(div(self.p.sum(-1), 768)), odd)
        base = model.linear("p_feature", np.concatenate([f[i::2, j::2] for i, j in PHASES], -1))
        if self.kind:
            seen = np.pad(self.views, odd)
            for k, (i, j) in enumerate(PHASES):
                base = base + model.linear(f"p_prediction.{k}", seen[i::2, j::2], i=6)
        n = 10 * (100 - self.quality)
        i, table = min(n // 99, 9), model["p_bias"][self.kind, self.tune]
        f = n - 99 * i
        bias = ((table[i] * (99 - f) + table[i + 1] * f + 49) // 99).reshape(2, 768)
        known = [[] for _ in range(model.blocks("prior16"))]
        for k, (i, j) in enumerate(PHASES):
            x = base + model["p_phase"][k]
            for block, before in enumerate(known):
                x = model.attention_block(block, x, k, before)
            here = out[i:rows:2, j:columns:2]  # a view of the tokens that are coded
            t = model.linear("p_head", norm(x), o=8, limit=1 << 20)[: here.shape[0], : here.shape[1]]
            first = 0
            for g, size in enumerate(GROUPS):
                if first >= self.active:
                    break
                group = slice(first, first + size)
                spoken = model.linear(f"p_out.{g}", clip(r(t, 3), 0, 511), o=10, limit=1 << 22)
                m = clip(r(spoken[..., :size] + bias[0, group], 5), 1 << 19)
                scale = clip(r(spoken[..., size:] + bias[1, group], 7), -40, 72)
                y = self.digits(coder, m.ravel(), scale.ravel() + 40).reshape(m.shape)
                here[..., group] = y
                if g < 5:
                    t = clip(t + model.linear(f"p_seen.{g}", views(60 * y), i=6, o=8, limit=1 << 20), 1 << 20)
                first += size
            if k < 3:
                base = base + model.linear(f"p_known.{k}", views(60 * out[i::2, j::2]), i=6)
        return out[:rows, :columns]

    def digits(self, coder, m, scale):
        sigmoid, inverse = self.model["quantiser.sigmoid"], self.model["quantiser.inverse"][scale]

        def g(z, at):
            t = clip((z * inverse[at] >> 13) + 81920, 0, 163839)
            i = t >> 8
            return sigmoid[i] + ((sigmoid[i + 1] - sigmoid[i]) * (t & 255) >> 8)

        reach = abs(m) + self.model["quantiser.certain"][scale]
        n = sum((16 * 3**j < reach).astype(np.int64) for j in range(10))
        y = np.zeros_like(m)
        for j in range(9, -1, -1):
            at = np.flatnonzero(n > j)
            z = 32 * y[at] - m[at]
            f3, f1, f_1, f_3 = (g(z + c * 16 * 3**j, at) + z + c * 16 * 3**j for c in (3, 1, -1, -3))
            above = coder.bits(clip(65536 * (f3 - f1) // (f3 - f_3), 1, 65535)) > 0
            k = clip(65536 * (f_1 - f_3) // (f1 - f_3), 1, 65535)
            y[at[above]] += 3**j
            rest = at[~above]
            y[rest] -= 3**j * coder.bits(k[~above])
        at = np.flatnonzero((n > 0) & (abs(y) == (3**n - 1) // 2))
        w = 32 * abs(y[at]) - np.sign(y[at]) * m[at]
        k = 65536 * (2**32 - g(w + 16, at)) // np.maximum(1, 2**32 - g(w - 16, at))
        at = at[coder.bits(clip(k, 16, 32768)) > 0]
        e, going = np.zeros_like(at), np.arange(len(at))
        for _ in range(15):
            going = going[coder.bits(np.full(len(going), 32768)) > 0]
            e[going] += 1
        u = np.ones_like(at)
        for i in range(14, -1, -1):
            those = np.flatnonzero(e > i)
            u[those] = 2 * u[those] + coder.bits(np.full(len(those), 32768))
        y[at] += np.sign(y[at]) * u
        return y

    def reconstruct(self, y):
        """The canvas, (3, 16 R, 16 C)."""
        model, (rows, columns) = self.model, self.classes.shape
        synthesis = model.keep(("synthesis", self.tune), lambda: r(model["basis"] * self.weight, 12).T)
        z = clip(product(y, synthesis), 1 << 24)
        x = clip(r(z * self.step, 18) + 16 * self.p, 1 << 13)
        mean = div(x.sum(-1), 768)
        a = model.linear("d_in", views(60 * y), i=6) + model.linear("d_feature", self.features(r(mean, 4)))
        if self.kind:
            a = a + model.linear("d_prediction", self.views, i=6)
        for i in range(model.blocks("d16")):
            a = model.shift_block(f"d16.{i}", a)
        b = model.linear("d_split", norm(a)).reshape(rows, columns, 2, 2, -1)
        b = b.transpose(0, 2, 1, 3, 4).reshape(2 * rows, 2 * columns, -1)

        def canvas(x):
            t = x.reshape(rows, columns, 3, 16, 16).transpose(2, 0, 3, 1, 4)
            return t.reshape(3, 16 * rows, 16 * columns)

        mean, unit, step = (t.repeat(2, 0).repeat(2, 1)[..., None] for t in (mean, UNIT[self.classes + 3], self.step[..., 0]))
        b = b + model.linear("d_pixels", clip(r((rings(canvas(x)) - mean) * unit, 8), 127), i=4)
        if self.kind:
            b = b + model.linear("d_reference", clip(r((16 * rings(canvas(self.p)) - mean) * unit, 8), 127), i=4)
        for i in range(model.blocks("d8")):
            b = model.shift_block(f"d8.{i}", b)
        e = r(model.linear("d_out", norm(b), o=10, limit=1 << 13) * step, 16).reshape(2 * rows, 2 * columns, 3, 12, 12)
        total = np.pad(canvas(x), ((0, 0), (2, 2), (2, 2)))
        for i in range(12):
            for j in range(12):
                total[:, i:, j:][:, : 16 * rows : 8, : 16 * columns : 8] += e[..., i, j].transpose(2, 0, 1)
        decoded = clip(r(total[:, 2:-2, 2:-2] + 2048, 4), 0, 255)
        most = int(model["quantiser.smooth"][self.quality - 1])
        for lines in (decoded.transpose(2, 0, 1), decoded.transpose(1, 0, 2)) if most else ():  # views of it
            for at in range(16, len(lines), 16):
                p2, p1, p0, q0, q1, q2 = lines[at - 3 : at + 3].copy()
                d = clip(r(4 * (q0 - p0) + p1 - q1, 3), most) * (abs(p0 - q0) < 6 * most)
                more_p, more_q = (clip(r(t, 2), most >> 1) for t in (p2 + p0 - 2 * p1 + 2 * d, q2 + q0 - 2 * q1 - 2 * d))
                lines[at - 2 : at + 2] = p1 + more_p, p0 + d, q0 - d, q1 + more_q
        return clip(decoded, 0, 255)


# ---------------------------------------------------------------- 2. a group of pictures


def between(a, b, level):
    if b - a > 1:
        f = (a + b) // 2
        yield f, a, b, level
        yield from between(a, f, level + 1)
        yield from between(f, b, level + 1)


def decode_group(model, payload, frames, height, width):
    """The frames in the order of time, uint8 (H, W, 3)."""
    check(len(payload) > 4, "a payload that is too short")
    mini, drop, tune, more = payload[:4]
    check(1 <= mini <= 16 and tune <= 1, "the header of a group")
    anchors = [*range(0, frames - 1, mini), frames - 1]
    headers = payload[4 : 4 + len(anchors) * (1 + more)][:: 1 + more]
    coded = payload[4 + len(anchors) * (1 + more) :]
    check(4 + len(anchors) * (1 + more) <= len(payload), "a payload that is too short")
    check(all(1 <= head & 127 <= 100 for head in headers) and headers[0] < 128, "the header of a frame")
    order = [(0, None, None, 0, headers[0])]
    for s, e, head in zip(anchors, anchors[1:], headers[1:]):
        order += [(e, s, None, 0, head), *((*place, head & 127) for place in between(s, e, 1))]
    coder, rows, columns = Coder(coded), -(-height // 16), -(-width // 16)
    canvases, fields, contexts = {}, {}, {}
    for f, a, b, level, head in order:
        references = [a] if b is None and head > 127 else []
        if b is not None and coder.bit(65208):
            references = [a, b] if coder.bit(49152) else [b if coder.bit(32768) else a]
        if b is None and not references:
            contexts = {kind: Contexts(VECTOR_START, 16384) for kind in "PB"}
        fields[f], parts = {}, []
        for ref in references:
            expected = None
            for g, other in ((f, None), (b, a), (a, b)):
                if g is not None and fields[g]:
                    h = other if other in fields[g] else next(iter(fields[g]))
                    sense = 1 if h > g else -1
                    expected = clip(div(sense * (ref - f) * fields[g][h], sense * (h - g)), 2047)
                    break
            fields[f][ref] = read_vectors(coder, contexts["P" if b is None else "B"], rows, columns, expected)
            parts.append(compensate(canvases[ref], fields[f][ref]))
        kind = 0 if not references else 1 if b is None else 2
        prediction = None if not kind else parts[0] if len(parts) == 1 else (parts[0] + parts[1] + 1) >> 1
        classes = np.zeros((rows, columns), np.int64) if kind else read_classes(coder, rows, columns)
        frame = Frame(model, kind, max(1, (head & 127) - drop * level), tune, prediction, classes)
        canvases[f] = frame.reconstruct(frame.read(coder))
    for f in range(frames):
        yield canvases[f][:, :height, :width].transpose(1, 2, 0).astype(np.uint8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    md5 = hashlib.md5()
    try:
        file = Reader(options.file.read_bytes())
        identity, height, width = read_header(file)
        folder = Path(__file__).parent.parent / "models"
        paths = [options.model] if options.model else sorted(folder.glob("*.safetensors"))
        model = next((model for model in map(Model, paths) if model.id == identity), None)
        check(model, f"model {identity.hex()} is not there")
        for frames, payload in read_groups(file):
            for picture in decode_group(model, payload, frames, height, width):
                md5.update(picture.tobytes())
    except Refused as e:
        sys.exit(f"{options.file}: {e}")
    print(md5.hexdigest())


if __name__ == "__main__":
    main()
