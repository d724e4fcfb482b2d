"""Output files and folders that get their name when they are whole: the one way in which this package writes a file.

Until then they are hidden beside it, as `.NAME.PID.part`. What an encode wrote so survives a kill, and a later encode
can go on with it (resume.py). The process that writes it holds a lock on it, which leftovers lack.
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

from .errors import BsqError, FormatError

try:
    import fcntl
except ImportError:  # Windows, where a file that another process has open cannot be removed or renamed anyway
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    """A file to read in binary; "-" is standard input. Raises BsqError if it cannot be opened.

    A FormatError that is raised while it is open is raised again with the name of the file.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = sys.stdin.buffer if path == "-" else stack.enter_context(open(path, "rb"))
        except OSError as e:
            raise BsqError(f"cannot read {path}: {e.strerror}") from e
        try:
            yield file
        except FormatError as e:
            raise FormatError(f"{'standard input' if path == '-' else path}: {e}") from e


def check_free(path: str, force: bool) -> None:
    """Raise BsqError if there is a file or a folder with files at `path`, unless `force` allows to replace it."""
    if not force and path != "-" and (os.path.isfile(path) or (os.path.isdir(path) and os.listdir(path))):
        raise BsqError(f"{path} exists already; -f replaces it")


def is_special(path: str) -> bool:
    """Whether there is a device or a pipe at `path`, which no file can replace: it is written in place."""
    return os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[str]:
    """The path of a hidden file or folder, not made yet, that becomes `path` on normal exit.

    On an exception it is removed, and what was at `path` stays. What processes left of `path` that were killed is
    removed, too. A device or a pipe is its own hidden file. Raises BsqError if the folder does not exist, or the name
    cannot be given.
    """
    final, part = _final_and_part(str(path))
    if part == final:
        yield final
        return
    for leftover in _leftovers(final):
        if not _is_running(int(leftover.split(".")[-2])):
            _remove(leftover)
    try:
        yield part
        _rename(part, final)
    except BaseException:
        _remove(part)
        raise


@contextlib.contextmanager
def output_file(path: str, force: bool, resume: bool = False) -> Iterator[BinaryIO]:
    """A binary file that gets its name when all went well, and is gone when not. "-" is standard output.

    With `resume` the file is what an interrupted process left, if there is that, and is left behind when something
    fails. Without `force`, nothing is replaced. Raises BsqError for all that the system refuses.
    """
    if path == "-":
        if resume:
            raise BsqError("only a file can be resumed, not standard output")
        yield sys.stdout.buffer
        return
    check_free(path, force)
    final, part = _final_and_part(path)
    if os.path.isdir(final):
        raise BsqError(f"cannot write {path}: it is a folder")
    if part == final and resume:
        raise BsqError(f"only a file can be resumed, and {path} is none")
    try:
        with open(final, "wb") if part == final else _resumable(part, final, resume) as file:
            yield file
    except BrokenPipeError:
        raise
    except OSError as e:
        raise BsqError(f"cannot write {path}: {e.strerror}") from e


@contextlib.contextmanager
def _resumable(part: str, final: str, resume: bool) -> Iterator[BinaryIO]:
    """The hidden file `part`, which becomes `final` on normal exit; other leftovers of `final` are then removed.

    With `resume` it is the largest leftover, if there is one, and stays on an exception. Raises BsqError if another
    process writes it.
    """
    if resume:
        part = max(filter(os.path.isfile, _leftovers(final)), key=os.path.getsize, default=part)
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
            _rename(part, final)
        except BaseException:
            with contextlib.suppress(OSError):
                file.close()
            if not (resume and begun):
                _remove(part)
            raise
    for name in _leftovers(final):
        with contextlib.suppress(OSError), open(name, "r+b") as file, _locked(file) as mine:
            if mine:
                os.remove(name)


def _final_and_part(path: str) -> tuple[str, str]:
    """The path that is to be written in the end, and that of a hidden file or folder beside it; the same if special.

    A link stays, what it points to is replaced. Raises BsqError if the folder does not exist.
    """
    final = os.path.realpath(path)
    folder, name = os.path.split(final)
    if not os.path.isdir(folder):
        raise BsqError(f"{path}: the folder {folder} does not exist")
    return final, final if is_special(final) else os.path.join(folder, f".{name}.{os.getpid()}.part")


def _is_running(pid: int) -> bool:
    """Whether there is a process of this number; True where that cannot be told."""
    if os.name != "posix":  # elsewhere the call would end it
        return True
    try:
        with contextlib.suppress(PermissionError):  # of another user
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _leftovers(final: str) -> list[str]:
    """The hidden files and folders of `final`, of this process and of others."""
    folder, name = os.path.split(final)
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9]+\.part")
    with contextlib.suppress(OSError):  # a folder that can be written but not read
        return [os.path.join(folder, n) for n in os.listdir(folder) if pattern.fullmatch(n)]
    return []


def _rename(part: str, final: str) -> None:
    try:
        os.replace(part, final)
    except OSError as error:
        raise BsqError(f"cannot write {final}: {error.strerror}") from None


def _remove(part: str) -> None:
    """Remove a hidden file or folder, if it is there and can be removed."""
    if os.path.isdir(part):
        shutil.rmtree(part, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.remove(part)


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
