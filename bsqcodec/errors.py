"""Errors that are shown to the user as one line."""


class BsqError(Exception):
    """Anything the user can be told in one line."""


class FormatError(BsqError):
    """A stream that is broken, or not a .bsq stream."""


class ModelError(BsqError):
    """Weights that are missing, tampered with, or not the ones a stream needs."""


def explain(error: BaseException) -> str | None:
    """What the user is told of an expected failure, in one line; None for any other, which deserves a traceback."""
    if isinstance(error, BsqError):
        return str(error)
    # torch has no error of its own for the CPU's memory
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
        return "not enough memory"
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    return None


def shown(text: str, longest: int = 60) -> str:
    """Text of a stranger for a line of output: cut to `longest` characters, escaped where it is not printable.

    >>> shown("Sound"), shown("x" * 9, 5), shown("a\\nb")
    ('Sound', 'xxxxx…', "'a\\\\nb'")
    """
    cut = text if len(text) <= longest else text[:longest] + "…"
    return cut if cut.isprintable() else ascii(cut)


def first_line(error: BaseException) -> str:
    """First line of an error's text, or the name of its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
