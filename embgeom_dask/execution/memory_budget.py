"""A budget of memory in this process that several models share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class MemoryBudget:
    """A number of bytes that threads share: each takes what it needs for a while, and waits until it is free."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._taken = 0
        self._changed = Condition()

    @contextmanager
    def taking(self, nbytes: int) -> Iterator[None]:
        """Wait for `nbytes`, and hold them while entered; more than the whole budget waits until nobody holds any."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + nbytes <= self._nbytes)
            self._taken += nbytes
        try:
            yield
        finally:
            with self._changed:
                self._taken -= nbytes
                self._changed.notify_all()
