"""Output files and folders that get their name when they are whole: the one way in which this package writes a file.

Until then they are hidden beside it, as `.NAME.PID.part`. What an encode wrote so survives a kill, and a later encode
can go on with it (resume.py). Who writes it holds a lock, by which leftovers can be told.
"""

import contextlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import BsqError

try:
    import fcntl
except ImportError:  # Windows, where a file that another process has open cannot be removed or renamed anyway
    fcntl = None  # type: ignore[assignment]


def check_free(path: str, force: bool) -> None:
    """Raise BsqError if there is something at `path` that must not be replaced."""
    if not force and path != "-" and (os.path.isfile(path) or (os.path.isdir(path) and os.listdir(path))):
        raise BsqError(f"{path} exists already; -f replaces it")


@contextlib.contextmanager
def output_file(path: str, force: bool, resume: bool = False) -> Iterator[BinaryIO]:
    """A binary file that gets its name when all went well, and is gone when not. "-" is standard output.

    With `resume` it is what an interrupted process left, if there is that, and is left behind when something fails.
    """
    if path == "-":
        if resume:
            raise BsqError("only a file can be resumed, not standard output")
        yield sys.stdout.buffer
        return
    check_free(path, force)
    final, part = hidden_part(path)
    try:
        if part == final:
            if resume:
                raise BsqError(f"only a file can be resumed, and {path} is none")
            with open(final, "wb") as file:
                yield file
        else:
            with resumable(final, part, resume) as file:
                yield file
    except BrokenPipeError:
        raise
    except OSError as e:
        raise BsqError(f"cannot write {path}: {e.strerror}") from e


@contextlib.contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    """A file to read in binary; "-" is standard input. Raises BsqError if it cannot be opened."""
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")
    except OSError as e:
        raise BsqError(f"cannot read {path}: {e.strerror}") from e
    with file:
        yield file


def hidden_part(path: str) -> tuple[str, str]:
    """What `path` stands for, and a hidden file or folder beside it to write into until all is whole.

    A device or a pipe is both. Raises BsqError if there is no folder for them.
    """
    final = os.path.realpath(path)  # a link stays, what it points to is replaced
    folder, name = os.path.split(final)
    if not os.path.isdir(folder):
        raise BsqError(f"{path}: the folder {folder} does not exist")
    return final, final if is_special(final) else os.path.join(folder, f".{name}.{os.getpid()}.part")


def rename(part: str, final: str) -> None:
    """Give a finished part its name. Raises BsqError."""
    try:
        os.replace(part, final)
    except OSError as error:
        raise BsqError(f"cannot write {final}: {error.strerror}") from None


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[str]:
    """The path of `hidden_part`, for the caller to make.

    It gets the name `path` on normal exit, and is removed on an exception. Raises BsqError as those two do.
    """
    final, part = hidden_part(str(path))
    if part == final:
        yield final
        return
    try:
        yield part
        rename(part, final)
    except BaseException:
        if os.path.isdir(part):
            shutil.rmtree(part, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.remove(part)
        raise


def is_special(path: str) -> bool:
    """A device or a pipe, which cannot be replaced by a file."""
    return os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path)


@contextlib.contextmanager
def resumable(final: str, part: str, resume: bool) -> Iterator[BinaryIO]:
    """The hidden file, which is renamed to `final` on normal exit; others that were left of `final` are then removed.

    Args:
        part: its name, if no other one is resumed.
        resume: take the largest that was left, and leave it on an exception. Else it is empty, and removed then.

    Raises BsqError if another process writes it.
    """
    if resume:
        part = max(_left(final), key=os.path.getsize, default=part)
    with open(part, "a+b") as file, _locked(file) as mine:
        if not mine:
            raise BsqError(f"another process is writing {final}")
        begun = False
        try:
            if not resume:
                file.truncate(0)
            try:
                yield file
            finally:
                begun = os.fstat(file.fileno()).st_size > 0  # what is still in the buffer is no whole group
            file.close()
            rename(part, final)
        except BaseException:
            with contextlib.suppress(OSError):
                file.close()
            if not (resume and begun):
                with contextlib.suppress(OSError):
                    os.remove(part)
            raise
    for name in _left(final):
        with contextlib.suppress(OSError), open(name, "r+b") as file, _locked(file) as mine:
            if mine:
                os.remove(name)


def _left(final: str) -> list[str]:
    """Hidden files of `final`."""
    folder, name = os.path.split(final)
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9]+\.part")
    with contextlib.suppress(OSError):  # a folder that can be written but not read
        paths = (os.path.join(folder, n) for n in os.listdir(folder) if pattern.fullmatch(n))
        return [path for path in paths if os.path.isfile(path)]
    return []


@contextlib.contextmanager
def _locked(file: BinaryIO) -> Iterator[bool]:
    """Whether no other process has the lock; then this one has it to the end, even if `file` is closed before."""
    if fcntl is None:
        yield True
        return
    descriptor = os.dup(file.fileno())
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(descriptor), os.stat(file.name))  # not renamed or removed meanwhile
        except (BlockingIOError, FileNotFoundError):
            mine = False
        except OSError:
            mine = True  # a file system without locks
        yield mine
    finally:
        os.close(descriptor)
