"""Section 11 of bitstream_spec.md, a part of reference_decoder.py: the values of alpha, written from it alone."""

import numpy as np


def start(base):  # first counts of the contexts of eight digits
    v = (
        np.arange(base**8)[:, None]
        // base ** np.arange(8)
        % base
        @ np.array([6, 6, 1, 1, 1, 1, 1, 1])
        * 2
        // (base - 1)
    )
    counts = np.stack([37 - v, v + 1], 1)
    counts[0, 0] = counts[-1, 1] = 4096
    return counts.tolist()


def around(x, y):  # of a place in the blocks: where the eight pixels of its contexts are
    left = (0, -1) if x else (-1, 0)
    above = (-1, 0) if y else left
    eight = [left, above, (-1, -1), (-1, 1), (-1, 2), (-2, 0) if y > 1 else above, (0, 16 - x) if x else above]
    return [*eight, (16 - y, 0)] if y else [*[left] * 6, eight[6], left]


class Frame:
    def __init__(self, coder, contexts, n, width, height, before):
        self.coder, self.contexts, self.n, self.before = coder, contexts, n, before
        self.now, self.differs = {}, {}  # of each pixel
        s = 1
        while s < max(height, width):
            s *= 16
        first = s
        while s:
            for y, x in np.ndindex(16, 16):
                those = [(a, b) for a in range(y * s, height, 16 * s) for b in range(x * s, width, 16 * s)]
                if x or y or s == first:
                    near = {(a, b): [(a + i * s, b + j * s) for i, j in around(x, y)] for a, b in those}
                    self.place(those if before is None else self.changed(near), near, y > 0)
            s //= 16

    def digit(self, number):
        return (number > 0) + (number == self.n - 1)

    def changed(self, near):  # those pixels that differ from the frame before, and have to be told
        context = [3 * sum(2**i * self.differs.get(q, 0) for i, q in enumerate(eight)) for eight in near.values()]
        context = [c + self.digit(self.before[p]) for c, p in zip(context, near, strict=True)]
        bits = self.coder.decide(self.contexts["differs"], context)
        self.differs |= dict(zip(near, bits, strict=True))
        for p in near:
            self.now[p] = 1 - self.before[p] if self.n == 2 and self.differs[p] else self.before[p]
        return [p for p in near if self.n > 2 and self.differs[p]]

    def place(self, those, near, row):
        c = {p: sum(3**i * self.digit(self.now.get(q, 0)) for i, q in enumerate(near[p])) for p in those}
        self.now |= dict(zip(those, self.coder.decide(self.contexts["more", row], list(c.values())), strict=True))
        those = [p for p in those if self.now[p] and self.n > 2]
        largest = self.coder.decide(self.contexts["largest", row], [c[p] for p in those])
        self.now |= {p: self.n - 1 for p, bit in zip(those, largest, strict=True) if bit}
        those = [p for p, bit in zip(those, largest, strict=True) if not bit]
        guess = [[self.now.get(q, 0) for q in near[p][:3]] for p in those]
        guess = [16 * min(max(left + above - corner, 0), self.n - 1) // self.n for left, above, corner in guess]
        u, m = [1] * len(those), max(0, self.n - 3).bit_length()
        for i in range(m):
            contexts = [32 * g + one if i < 5 else 512 + i for g, one in zip(guess, u, strict=True)]
            bits = self.coder.decide(self.contexts["between"], contexts)
            u = [2 * one + bit for one, bit in zip(u, bits, strict=True)]
        self.now |= {p: one - 2**m + 1 for p, one in zip(those, u, strict=True)}
        assert all(self.now[p] < self.n - 1 for p in those), "a value of alpha is out of range"


def decode_values(data, frames, width, height, make_coder, gray=None):  # of each frame, (H, W); gray: of method 1
    assert data, "alpha is cut short"
    n, given = data[0] + 1, data[0] + (gray is None)
    values, coder, decoded = np.frombuffer(data[1 : 1 + given], np.uint8), make_coder(data[1 + given :]), []
    assert len(values) == given and all(values[1:] > values[:-1]), "the values of alpha do not rise"
    values = values.astype(np.int64) if gray is None else np.array([0, *values])
    contexts = {(name, row): start(3) for name in ("more", "largest") for row in (False, True)}
    contexts |= {"differs": np.repeat(start(2), 3, 0).tolist(), "between": [[128, 128] for _ in range(520)]}
    now = {}
    for f in range(frames):
        if n > 1 and not (f and coder.bit(32768)):
            before = now if f and coder.bit(32768) else None
            now = Frame(coder, contexts, n, width, height, before).now
        numbers = np.array([[now.get((y, x), 0) for x in range(width)] for y in range(height)])
        decoded.append(values[numbers] if gray is None else np.where(numbers > 0, values[numbers], gray[f]))
    return decoded
