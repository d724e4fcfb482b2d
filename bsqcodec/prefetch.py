"""Iterating in a thread of its own, ahead of the one that needs the items."""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")
_STOP_SECONDS = 0.1  # after which a thread that waits for room looks whether it is still needed


class _End(NamedTuple):
    """What follows the last item: the error that there is in place of the next one, if any."""

    error: BaseException | None


@contextlib.contextmanager
def read_ahead(items: Iterable[_T], size: int) -> Iterator[Iterator[_T]]:
    """Iterate over `items` in a thread of its own that keeps up to `size` of them ready.

    What the thread raises is raised where the item would be. On leaving, the thread ends with the item it is at.
    """
    ready: queue.Queue[_T | _End] = queue.Queue(size)
    stop = threading.Event()

    def put(entry: _T | _End) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(entry, timeout=_STOP_SECONDS)

    def run() -> None:
        error = None
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
        except BaseException as e:
            error = e
        put(_End(error))

    def received() -> Iterator[_T]:
        while not isinstance(entry := ready.get(), _End):
            yield entry
        if entry.error:
            raise entry.error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield received()
    finally:
        stop.set()
        thread.join()
