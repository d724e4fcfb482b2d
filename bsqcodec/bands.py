"""Large pictures in bands of rows: the memory of a network then depends on the size of a band and not of the picture.

What a token becomes depends on tokens near it alone: those in its windows, in the windows of these in the layer before,
and so on. A band is run with so many rows more on each side, its halo, that what is kept of it is what the whole
picture would have given. In exact arithmetic that is so bit for bit.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from .exact import AttentionBlock
from .tokenizer import TOKEN

MOST = 1 << 16  # tokens of a band; each takes about 33 kB in the decoder


def halo(blocks: Iterable[AttentionBlock], shifts: int = 0) -> int:
    """Rows of tokens beside a cut through a border of unshifted windows that may come out wrong.

    blocks: of attention, in order. shifts: layers after them that reach half a token further.
    """
    rows = 0
    for block in blocks:
        window, offset = block.attention.window, block.attention.offset
        first = max(offset, window - offset) if offset else 0  # to the nearest border of a window
        rows = first + -(-max(0, rows - first) // window) * window
    return rows + -(-shifts // 2)


def bands(rows: int, columns: int, window: int, reach: int, most: int = MOST) -> Iterator[tuple[slice, slice]]:
    """Cut a grid of tokens into bands: (rows to run on, rows of these to keep).

    reach: the halo. most: tokens of a band with its halo, if a row of windows is no more.
    """
    reach = -(-reach // window) * window
    height = rows if rows * columns <= most else max(window, (most // columns - 2 * reach) // window * window)
    for top in range(0, rows, height):
        bottom = min(top + height, rows)
        first = max(0, top - reach)
        yield slice(first, min(rows, bottom + reach)), slice(top - first, bottom - first)


def pixels(rows: slice) -> slice:
    """The rows of pixels of rows of tokens."""
    return slice(rows.start * TOKEN, rows.stop * TOKEN)


def decode(decoder, bits: Tensor, reference: Tensor, condition, finish: Callable[[Tensor], Tensor]) -> Tensor:
    """`decoder(bits, reference, condition, finish)` of a `tokenizer.Decoder` that is ready for inference.

    `finish` should be the same object at every call, by which a graph is known again.
    """
    reach = halo(decoder.blocks, len(decoder.detail_blocks))
    rows, columns = bits.shape[1:3]
    parts = []

    def band(bits: Tensor, reference: Tensor, *condition: Tensor) -> list[Tensor]:
        return [decoder(bits, reference, condition, finish)]

    for run, keep in bands(rows, columns, decoder.config.window, reach):
        part = decoder.graphs.run(finish, band, bits[:, run], reference[:, :, pixels(run)], *condition)[0]
        parts.append(part[:, :, pixels(keep)])
    return torch.cat(parts, 2) if len(parts) > 1 else parts[0]


def encode(network, frame: Tensor, reference: Tensor, condition) -> Tensor:
    """`network.bits(frame, reference, condition)`, but for the rounding of floats."""
    reach = halo(network.encoder.blocks)
    rows, columns = frame.shape[2] // TOKEN, frame.shape[3] // TOKEN
    parts = []
    for run, keep in bands(rows, columns, network.config.window, reach):
        part = network.bits(frame[:, :, pixels(run)], reference[:, :, pixels(run)], condition)
        parts.append(part[:, keep])
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
