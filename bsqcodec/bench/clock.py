"""The time that encoding and decoding take, by part of the codec."""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from ..network.network import Network

PARTS = ("read", "motion", "tokenizer", "prior", "range coder", "write")
_T = TypeVar("_T")


class Clock:
    """Seconds spent in functions and iterators, by part; time inside a nested part counts for that one alone.

    Times of threads that run side by side add up.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._threads: dict[int, list[float]] = defaultdict(list)  # seconds in nested parts, for each part now open

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of a with block."""
        nested = self._threads[threading.get_ident()]
        nested.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] += spent - nested.pop()
            if nested:
                nested[-1] += spent

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Count the time of every call of a function or method from now on."""
        function = getattr(owner, attribute)

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        setattr(owner, attribute, timed)

    def iterate(self, items: Iterable[_T], name: str) -> Iterator[_T]:
        """The same items; counts the time that each takes to come."""
        iterator = iter(items)
        while True:
            with self.part(name):
                item = next(iterator, None)
            if item is None:
                return
            yield item


def watched(network: Network) -> Clock:
    """A clock of coding with these networks in this process; there is no way to take it off again."""
    from ..gop import mini_gop_choice, motion_choice, references, temporal_filter
    from ..stream import contrast
    from ..stream.modes import ModeCoder
    from ..stream.motion_fields import FieldCoder
    from ..stream.range_coder import BitDecoder, BitEncoder

    clock = Clock()
    for owner, attribute, part in (
        (mini_gop_choice, "search_field", "motion"),
        (mini_gop_choice, "compensate", "motion"),
        (temporal_filter, "search_field", "motion"),
        (temporal_filter, "compensate", "motion"),
        (motion_choice, "search_field", "motion"),
        (motion_choice, "cheapest_vectors", "motion"),
        (motion_choice, "cheapest_split", "motion"),
        (references, "compensate", "motion"),
        (network, "classes", "tokenizer"),
        (network, "context", "tokenizer"),
        (network, "encode", "tokenizer"),
        (network, "decode", "tokenizer"),
        (network, "code", "prior"),
        (BitEncoder, "encode", "range coder"),
        (BitDecoder, "decode", "range coder"),
        (ModeCoder, "encode", "range coder"),
        (ModeCoder, "decode", "range coder"),
        (FieldCoder, "encode", "range coder"),
        (FieldCoder, "decode", "range coder"),
        (contrast, "encode_classes", "range coder"),
        (contrast, "decode_classes", "range coder"),
    ):
        clock.watch(owner, attribute, part)
    return clock
