"""Models and networks of the second decoder, reference_decoder.py: sections 7 to 10 of bitstream_spec.md."""

import hashlib
import json
import struct

import numpy as np

UNIT = np.array([91, 64, 45, 32, 23, 16, 11])
BOUNDS, PHASES = (0, 8, 32, 96, 192, 416, 768), ((0, 0), (1, 1), (0, 1), (1, 0))
SIZES = ("fine_width", "fine_blocks", "width", "blocks", "prior_width", "prior_blocks", "prior_head")


def r(x, n):
    return (x + (1 << (n - 1))) >> n


def div(n, d):
    return (2 * n + d) // (2 * d)


def clip(x, low, high=None):
    return np.clip(x, -low, low) if high is None else np.clip(x, low, high)


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

    def attention_block(self, s, shift, x, phase, known):
        """`known`: keys and values of the phases before; those of this one are added."""
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


def decode_frame(model, coder, type_, quality, tune, prediction, classes, depth):
    """The canvas with 8 bits, and with `depth` bits.

    prediction: (3, 16 R, 16 C) of a frame of type 1 or 2; classes: of others, as the stream tells.
    """
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
    return [finish(total[:, 2:-10, 2:-10] + 2048, n, smooth << (n - 8)) for n in (8, depth)]


def finish(total, n, smooth):  # samples of n bits
    out = clip(div(((1 << n) - 1) * total, 4080), 0, (1 << n) - 1)
    for lines in (out.transpose(2, 0, 1), out.transpose(1, 0, 2)):  # both are views of it
        for at in range(16, len(lines) if smooth else 0, 16):
            p2, p1, p0, q0, q1, q2 = lines[at - 3 : at + 3].copy()
            soft = abs(p0 - q0) < 6 * smooth
            d = clip(r(4 * (q0 - p0) + p1 - q1, 3), smooth) * soft
            more = [soft * clip(r(t, 2), smooth >> 1) for t in (p2 + p0 - 2 * p1 + 2 * d, q2 + q0 - 2 * q1 - 2 * d)]
            lines[at - 2 : at + 2] = p1 + more[0], p0 + d, q0 - d, q1 + more[1]
    return clip(out, 0, (1 << n) - 1)


def coefficients(model, coder, type_, quality, tune, f, look):  # section 9; f: features; look: views of the prediction
    rows, columns, _ = f.shape
    f, look = (np.pad(t, ((0, rows % 2), (0, columns % 2), (0, 0))) for t in (f, look))
    y = np.zeros((*f.shape[:2], 768), np.int64)
    base = model.linear("p_feature", np.concatenate([f[i::2, j::2] for i, j in PHASES], -1))
    for k, (i, j) in enumerate(PHASES if type_ else ()):
        base = base + model.linear(f"p_prediction.{k}", look[i::2, j::2], i=6)
    i, table = min(10 * (100 - quality) // 99, 9), model["p_bias"][type_, tune]
    f = 10 * (100 - quality) - 99 * i
    bias = ((table[i] * (99 - f) + table[i + 1] * f + 49) // 99).reshape(2, 768)
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
