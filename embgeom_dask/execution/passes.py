"""The passes of a scan over all tiles: each has its bar, and its panels in the journal."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from distributed import Client

from embgeom_dask import progress
from embgeom_dask.errors import AbortRun
from embgeom_dask.execution.journal import Journal
from embgeom_dask.execution.monitor import Monitor, interruptible
from embgeom_dask.execution.panel_result import PanelResult
from embgeom_dask.execution.plan import Plan
from embgeom_dask.execution.runner import execute


class Passes:
    """Makes passes on a cluster; `journal`, if any, keeps their panels."""

    def __init__(self, client: Client, journal: Journal | None) -> None:
        self._client, self._journal = client, journal

    def run(self, plan: Plan, what: str) -> PanelResult:
        """Make the pass called `what`; with a journal, a first Ctrl-C lets what is in flight finish."""
        with progress.bar(plan.grid.tiles, f"{plan.sides[0].matrix.label} {what}", "tiles") as advance:
            if self._journal is None:
                return execute(plan, self._client, Monitor(self._client, advance))
            kept = self._journal.open_pass(plan, what)
            watch = Monitor(self._client, advance, partial(self._journal.note, what))
            try:
                with interruptible():
                    found = execute(plan, self._client, watch, kept)
            except BaseException:
                with suppress(AbortRun):
                    self._journal.write_history()
                raise
            self._journal.write_history()
            return found
