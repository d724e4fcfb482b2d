"""Large pictures in bands of rows: the memory of a network then depends on the size of a band and not of the picture.

What a token becomes depends on tokens near it alone. A band is run with so many rows more on each side, its halo, that
what is kept of it is what the whole picture would have given. In exact arithmetic that is so bit for bit.
"""

from collections.abc import Iterator

from .patches import TOKEN

MOST = 1 << 15  # tokens of a band; each takes about 60 kB in the decoder


def bands(rows: int, columns: int, reach: int, most: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Cut a grid of tokens into bands: (rows to run on, rows of these to keep).

    reach: the halo. most: tokens of a band with its halo, if that leaves a row to keep; MOST unless given.
    """
    most = MOST if most is None else most
    height = rows if rows * columns <= most else max(1, most // columns - 2 * reach)
    for top in range(0, rows, height):
        bottom = min(top + height, rows)
        first = max(0, top - reach)
        yield slice(first, min(rows, bottom + reach)), slice(top - first, bottom - first)


def pixels(rows: slice) -> slice:
    """The rows of pixels of rows of tokens."""
    return slice(rows.start * TOKEN, rows.stop * TOKEN)
