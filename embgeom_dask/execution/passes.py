"""Run one pass over all tiles: with a progress bar, and with its panels in the journal."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from distributed import Client

from embgeom_dask import progress
from embgeom_dask.errors import AbortRun
from embgeom_dask.execution.journal import Journal
from embgeom_dask.execution.monitor import Monitor, interruptible
from embgeom_dask.execution.panel_result import PassResult
from embgeom_dask.execution.plan import Plan
from embgeom_dask.execution.runner import execute
from embgeom_dask.pairwise.blocks import BlockCache


def run_pass(client: Client, blocks: BlockCache, plan: Plan, what: str, journal: Journal | None) -> PassResult:
    """Compute all tiles of `plan` on the workers of `client`, in the pass called `what`.

    This process reads rows through `blocks`. Where there is a journal it keeps the panels, and a first Ctrl-C lets
    those in flight finish.
    """
    with progress.bar(plan.grid.tiles, f"{plan.sides[0].matrix.label} {what}", "tiles") as advance:
        if journal is None:
            return execute(plan, client, blocks, Monitor(client, advance), None, what)
        kept = journal.open_pass(plan, what)
        monitor = Monitor(client, advance, partial(journal.note, what))
        try:
            with interruptible():
                found = execute(plan, client, blocks, monitor, kept, what)
        except BaseException:
            with suppress(AbortRun):
                journal.write_history()
            raise
        journal.write_history()
        return found
