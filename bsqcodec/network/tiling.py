"""Large pictures in bands of rows: the memory of a network then depends on the size of a band and not of the picture.

What a token becomes depends on tokens near it alone. A band is run with so many rows more on each side, its halo, that
what is kept of it is what the whole picture would have given. In exact arithmetic that is so bit for bit.
"""

from collections.abc import Iterator

from .patches import TOKEN

MAX_TOKENS_PER_BAND = 1 << 15  # each token takes about 60 kB in the decoder


def bands(rows: int, columns: int, halo: int, max_tokens: int) -> Iterator[tuple[slice, slice]]:
    """Cut a grid of tokens into bands: (rows to run on, rows of these to keep).

    halo: rows on each side that are run and not kept. max_tokens: of a band with its halo, if a row is left to keep.
    """
    height = rows if rows * columns <= max_tokens else max(1, max_tokens // columns - 2 * halo)
    for top in range(0, rows, height):
        bottom = min(top + height, rows)
        first = max(0, top - halo)
        yield slice(first, min(rows, bottom + halo)), slice(top - first, bottom - first)


def pixel_rows(rows: slice) -> slice:
    """The rows of pixels in rows of tokens."""
    return slice(rows.start * TOKEN, rows.stop * TOKEN)
