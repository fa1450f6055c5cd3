"""Run one pass over all tiles: with a progress bar, and with its panels in the journal."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain

from distributed import Client

from embgeom_dask import progress
from embgeom_dask.errors import AbortRun
from embgeom_dask.execution.journal import Journal, Pass
from embgeom_dask.execution.monitor import Monitor, interruptible
from embgeom_dask.execution.panel_result import PassResult
from embgeom_dask.execution.plan import Plan
from embgeom_dask.execution.runner import Hints, execute, hints_of
from embgeom_dask.pairwise.blocks import BlockCache, BlockReader


def run_pass(client: Client, blocks: BlockCache, plan: Plan, what: str, journal: Journal | None) -> PassResult:
    """Compute all tiles of `plan` on the workers of `client`, in the pass called `what`.

    This process reads rows through `blocks`. Where there is a journal it keeps the panels, and a first Ctrl-C lets
    those in flight finish.
    """
    with progress.bar(plan.grid.tiles, f"{plan.sides[0].matrix.label} {what}", "tiles") as advance:
        before, plan = plan.before, replace(plan, before=None)
        kept = None if journal is None else journal.open_pass(plan, what)
        hints = None if before is None or _is_done(plan, kept) else _first_hints(before, client, blocks, what)
        if journal is None:
            return execute(plan, client, blocks, Monitor(client, advance), None, what, hints)
        monitor = Monitor(client, advance, partial(journal.note, what))
        try:
            with interruptible():
                found = execute(plan, client, blocks, monitor, kept, what, hints)
        except BaseException:
            with suppress(AbortRun):
                journal.write_history()
            raise
        journal.write_history()
        return found


def _is_done(plan: Plan, kept: Pass | None) -> bool:
    """Whether all panels are committed."""
    names = set() if kept is None else kept.names()
    return all(panel.name in names for panel in chain(plan.grid.first(), plan.grid.rest()))


def _first_hints(before: Plan, client: Client, blocks: BlockCache, what: str) -> Hints:
    """What the short pass `before` another gives that as its first hints."""
    found = execute(before, client, blocks, Monitor(client, lambda *_, **__: None), None, what)
    return hints_of(before, found.states, before.exact(BlockReader(blocks)))
