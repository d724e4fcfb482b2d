"""Iterating in a thread of its own, ahead of the one that needs the items."""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

_T = TypeVar("_T")


@contextlib.contextmanager
def read_ahead(items: Iterable[_T], most: int) -> Iterator[Iterator[_T]]:
    """Iterate over `items` in a thread of its own that keeps up to `most` of them ready.

    What the thread raises is raised where the item would be. On leaving, the thread ends with the item it is at.
    """
    ready: queue.Queue = queue.Queue(most)
    stop = threading.Event()

    def put(entry: tuple[str, Any]) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(entry, timeout=0.1)
                return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(("item", item)):
                    return
        except BaseException as e:
            put(("error", e))
        else:
            put(("end", None))

    def received() -> Iterator[_T]:
        while True:
            what, value = ready.get()
            if what == "error":
                raise value
            if what == "end":
                return
            yield value

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield received()
    finally:
        stop.set()
        thread.join()
