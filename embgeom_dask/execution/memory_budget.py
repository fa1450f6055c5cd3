"""A budget of memory in this process that several models share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class MemoryBudget:
    """So many bytes, of which each takes what it needs for as long as it needs it, and waits where others have it."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._taken = 0
        self._changed = Condition()

    @contextmanager
    def taking(self, nbytes: int) -> Iterator[None]:
        """Take `nbytes`, once they are there; what is more than all waits until nobody has any."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + nbytes <= self._nbytes)
            self._taken += nbytes
        try:
            yield
        finally:
            with self._changed:
                self._taken -= nbytes
                self._changed.notify_all()
