"""Progress reporting and Ctrl-C handling for one pass over the tiles."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from types import FrameType
from typing import Any

from distributed import Client

from embgeom_dask import progress, tuning
from embgeom_dask.execution import known_workers
from embgeom_dask.execution.grid import Panel
from embgeom_dask.execution.panel_result import PanelResult
from embgeom_dask.units import bytes_text, noun

_interrupted: ContextVar[threading.Event | None] = ContextVar("interrupted", default=None)
"""What the first Ctrl-C sets, while `interruptible` is entered: shared by threads that run in copies of the context."""

_stopped: ContextVar[threading.Event | None] = ContextVar("stopped", default=None)
"""What the second Ctrl-C sets: its exception is lost where it meets the end of an object."""


def is_interrupted() -> bool:
    """Whether the first Ctrl-C came since `interruptible` was entered in this context."""
    event = _interrupted.get()
    return event is not None and event.is_set()


class Monitor:
    """Progress of a pass, and how many panels it may submit. `note(panel, found)` is called for each finished one."""

    def __init__(
        self, client: Client, advance: Callable[..., None], note: Callable[[Panel, PanelResult], None] | None = None
    ) -> None:
        self._client, self._advance, self._note = client, advance, note
        self._threads: dict[str, int] = {}
        self._looked = -math.inf
        self._read = self._rechecked = 0

    @property
    def interrupted(self) -> bool:
        """Whether no more panels are to be submitted, after Ctrl-C."""
        return is_interrupted()

    def threads(self) -> dict[str, int]:
        """The threads of each worker that is there, by its address, at the last look."""
        self.window()
        return self._threads

    def window(self) -> int:
        """How many panels may be submitted at a time: workers come and go. None once this was interrupted.

        Raises KeyboardInterrupt once it was interrupted again.
        """
        if (stopped := _stopped.get()) is not None and stopped.is_set():
            raise KeyboardInterrupt
        if self.interrupted:
            return 0
        if monotonic() - self._looked >= tuning.WORKERS_LOOK:
            self._threads, self._looked = known_workers.workers_of_context(self._client), monotonic()
        return tuning.PANELS_AHEAD * max(1, sum(self._threads.values()))

    def done(self, panel: Panel, found: PanelResult, *, fresh: bool) -> None:
        """Count a panel that is done, now (`fresh`) or in an earlier run."""
        if self._note is not None:
            self._note(panel, found)
        self._rechecked += found.counts["float64"]
        if fresh and found.work:
            self._read += found.work.read
            tally(found.work.read, found.work.end - found.work.start)
        several = f"{len(self._threads)} {noun(len(self._threads), 'worker')}"
        rechecked = f"{self._rechecked:,} {noun(self._rechecked, 'pair')} rechecked"
        said = f"{several}, {bytes_text(self._read)} read, {rechecked}"
        self._advance(panel.stop - panel.start, said, fresh=fresh)


class Batch:
    """What the work on many models took so far: bytes read from stores, and seconds that workers spent in panels."""

    def __init__(self, client: Client) -> None:
        self._client, self._lock = client, threading.Lock()
        self._began, self._models, self._read, self._busy = monotonic(), 0, 0, 0.0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """While entered, `tally` adds to this, in this context and in copies of it."""
        entered = _batch.set(self)
        try:
            yield
        finally:
            _batch.reset(entered)

    def add(self, read: int, busy: float) -> None:
        """Count bytes read and seconds of a panel."""
        with self._lock:
            self._read, self._busy = self._read + read, self._busy + busy

    def said(self) -> str:
        """Count a finished model; return a line with models an hour, workers, their share of time in panels, bytes."""
        self._models += 1
        lasted, threads = max(monotonic() - self._began, 1e-3), known_workers.all_workers(self._client)
        share = self._busy / (lasted * max(1, sum(threads.values())))
        workers_there = f"{len(threads)} worker{'s' * (len(threads) != 1)}"
        parts = [f"{self._models * 3600 / lasted:,.0f}/hour", workers_there]
        if self._busy:
            parts.append(f"{min(share, 1):.0%} busy")
        if self._read:
            parts.append(f"{bytes_text(self._read)} read")
        return ", ".join(parts)


_batch: ContextVar[Batch | None] = ContextVar("batch", default=None)


def tally(read: int, busy: float = 0.0) -> None:
    """Add bytes that workers read, and seconds that they were in a panel, to the batch of this context, if any."""
    if (batch := _batch.get()) is not None:
        batch.add(read, busy)


@contextmanager
def interruptible() -> Iterator[None]:
    """While entered, the first Ctrl-C only stops the submission of panels; the second is a KeyboardInterrupt.

    Only the main thread can enter it. Threads whose work it is to stop run in copies of its context.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> Any:
        if interrupted.is_set():
            stopped.set()
            if callable(before):
                return before(number, frame)
            raise KeyboardInterrupt
        interrupted.set()
        return progress.note("interrupted: what is in flight is finished and kept; interrupt again to stop at once")

    interrupted, stopped = threading.Event(), threading.Event()
    entered, entered_too = _interrupted.set(interrupted), _stopped.set(stopped)
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _interrupted.reset(entered)
        _stopped.reset(entered_too)
