"""Iterating in a thread of its own."""

import contextlib
import itertools
import threading
import time

import pytest

from bsqcodec import BsqError
from bsqcodec.prefetch import read_ahead


def test_order_errors_and_bounds_are_kept():
    made = []

    def items():
        for i in range(100):
            made.append(i)
            yield i
        raise BsqError("broken")

    with read_ahead(items(), 3) as ready:
        assert next(ready) == 0
        time.sleep(0.2)
        assert len(made) <= 5
    assert len(made) <= 6
    with read_ahead(items(), 3) as ready:
        assert list(itertools.islice(ready, 100)) == list(range(100))
        with pytest.raises(BsqError, match="broken"):
            next(ready)


def test_the_end_is_the_end():
    with read_ahead(range(5), 2) as ready:
        assert list(ready) == [0, 1, 2, 3, 4]
        assert next(ready, None) is None


def test_leaving_ends_the_thread():
    before = threading.active_count()
    for error in (None, BsqError("of the one who reads")):
        with contextlib.suppress(BsqError), read_ahead(itertools.count(), 1) as ready:
            assert next(ready) == 0
            if error:
                raise error
        assert threading.active_count() == before
