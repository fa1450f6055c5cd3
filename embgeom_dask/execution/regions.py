"""Which worker gets which panels: a region of the pair matrix each, so that it reads few rows and columns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from embgeom_dask.execution.grid import Panel


class Regions:
    """Assigns the panels of a pass to the workers of a cluster.

    Each of W workers gets a region with about as many tiles as the others have, as square as panels allow. So it reads
    about 2 / sqrt(W) of the rows. A worker that has finished its region, or that joined later, takes over half of what
    is left to the worker with most.

    Parameters
    ----------
    panels : iterable of Panel
        What is dealt.
    threads : callable
        Gives the threads of each worker that is there, by its address.
    """

    def __init__(self, panels: Iterable[Panel], threads: Callable[[], Mapping[str, int]]) -> None:
        self.threads = threads
        there = sorted(threads()) or [""]
        divided = _divided(list(panels), len(there))
        self._left = {worker: deque(region) for worker, region in zip(there, divided, strict=True)}

    def take(self, worker: str) -> Panel | None:
        """The next panel for a worker; None where none is left at all."""
        own = self._left.setdefault(worker, deque())
        if not own:
            most = max(self._left.values(), key=len)
            for _ in range((len(most) + 1) // 2):
                own.appendleft(most.pop())
        return own.popleft() if own else None


def _divided(panels: list[Panel], parts: int) -> list[list[Panel]]:
    """Halve panels across the longer side of the region that they are, and the halves again, into so many parts."""
    if parts == 1:
        return [sorted(panels, key=lambda panel: (panel.row, panel.start))]
    rows, columns = [panel.row for panel in panels], [panel.start + panel.stop for panel in panels]
    if 2 * _span(rows) >= _span(columns):
        panels = sorted(panels, key=lambda panel: (panel.row, panel.start))
    else:
        panels = sorted(panels, key=lambda panel: (panel.start + panel.stop, panel.row))
    some, at, tiles = parts // 2, 0, 0
    wanted = sum(panel.stop - panel.start for panel in panels) * some / parts
    while at < len(panels) and tiles < wanted:
        tiles += panels[at].stop - panels[at].start
        at += 1
    return [*_divided(panels[:at], some), *_divided(panels[at:], parts - some)]


def _span(places: Sequence[int]) -> int:
    return max(places) - min(places) if places else 0
