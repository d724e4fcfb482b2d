"""Errors that are shown to the user as one line."""


class BsqError(Exception):
    """Anything the user can be told in one line."""


class FormatError(BsqError):
    """A stream that is broken, or not a .bsq stream."""


class ModelError(BsqError):
    """Weights that are missing, tampered with, or not the ones a stream needs."""


def first_line(error: BaseException) -> str:
    """First line of an error's text, or the name of its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
