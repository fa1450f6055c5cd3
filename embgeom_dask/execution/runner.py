"""Run panels on a dask cluster: a bounded number at a time, merging their small states as they arrive."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import torch
from distributed import Client, Future, KilledWorker, get_worker

from embgeom_dask import devices, progress, tuning
from embgeom_dask.errors import AbortRun, EmbgeomError
from embgeom_dask.execution import callbacks, memory, product_checks, worker, workers
from embgeom_dask.execution.grid import Panel
from embgeom_dask.execution.journal import Pass
from embgeom_dask.execution.monitor import Monitor
from embgeom_dask.execution.panel_result import PanelResult, PanelStats, PassResult
from embgeom_dask.execution.plan import Plan
from embgeom_dask.execution.regions import Regions
from embgeom_dask.execution.task_titles import TaskTitle
from embgeom_dask.execution.worker_state import WorkerState, state_of
from embgeom_dask.metrics import Workspace
from embgeom_dask.pairwise.blocks import BlockCache, BlockReader
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.points import PointFormat
from embgeom_dask.pairwise.tables import NamedArrays
from embgeom_dask.pairwise.traversal import traverse
from embgeom_dask.reductions.base import Array, MergedState
from embgeom_dask.storage import outages
from embgeom_dask.units import noun

Hints: TypeAlias = dict[str, Array | None]
"""What panels need not keep, by the name of the reduction; nothing before any was merged."""


def run_panel(packed: bytes, panel: Panel, packed_hints: bytes, journal: Pass | None) -> PanelResult:
    """Compute the states of one panel on this worker's device and commit them, unless they are committed already.

    Plan and hints come as pickled bytes. If they came as objects that the worker cannot unpickle, dask would let the
    task hang instead of failing it.
    """
    if journal is not None and (found := journal.get(panel)) is not None:
        return found
    this = get_worker()
    state = state_of(this)
    plan, hints = state.unpacked(packed), pickle.loads(packed_hints)
    start, reader = time.time(), BlockReader(state.blocks)
    callbacks.tell("started", plan, panel)
    try:
        found = _compute(plan, panel, hints, state, reader)
    except EmbgeomError:
        _check_unchanged(plan)
        raise
    found.work = PanelStats(start, time.time(), this.address, reader.nbytes, memory.peak())
    callbacks.tell("computed", plan, panel)
    if journal is not None:
        _check_unchanged(plan)
        outages.waited_out(lambda: journal.commit(panel, found))  # after an outage the panel is not computed again
        callbacks.tell("committed", plan, panel)
    return found


def _compute(plan: Plan, panel: Panel, hints: Hints, state: WorkerState, reader: BlockReader) -> PanelResult:
    point_format, device = _points(plan)
    with devices.session(device):

        def work(smaller: Plan, panels: Iterable[Panel]) -> PanelResult:
            with state.workspace() as workspace:
                return _compute_on(smaller, panels, hints, device, reader, workspace)

        return worker.compute(state, plan.with_points(point_format), panel, device, work)


def _compute_on(
    plan: Plan,
    panels: Iterable[Panel],
    hints: Hints,
    device: torch.device,
    reader: BlockReader,
    workspace: Workspace,
) -> PanelResult:
    exact = plan.exact(reader)
    states: dict[str, object] = {name: reduction.empty(hints.get(name)) for name, reduction in plan.reductions.items()}
    reach = partial(_reach, plan, states, exact) if plan.skips_near else None
    span = max(each.span(exact) for each in plan.reductions.values()) if plan.skips_far else None
    point_format = plan.sides[0].instead or plan.sides[0].point_format
    updates = sorted(plan.reductions.items(), key=lambda each: not each[1].leaves_ends)
    for panel in panels:
        rows = reader.block(plan.sides[0], panel.row, device)
        for index in range(panel.start, panel.stop):
            columns = reader.block(plan.sides[1], index, device)
            diagonal = plan.symmetric and index == panel.row
            sides = point_format.tile_metric, rows, columns, workspace
            for tile in traverse(*sides, diagonal=diagonal, reach=reach, span=span):
                for name, reduction in updates:
                    states[name] = reduction.update(states[name], tile, exact)
    found = {name: reduction.finish(states[name], exact) for name, reduction in plan.reductions.items()}
    return PanelResult(found, {str(device)}, exact.counts, {f"{device.type} {point_format.element}"})


def _check_unchanged(plan: Plan) -> None:
    """Raise AbortRun if a matrix is no longer the one that was planned for: then nothing may be committed."""
    for matrix in {side.matrix for side in plan.sides}:
        try:
            matrix.check_unchanged()
        except EmbgeomError as error:
            raise AbortRun(str(error)) from error


def _reach(plan: Plan, states: dict[str, object], exact: Exact) -> float:
    """The least value, in units of the points, of a pair that any reduction needs."""
    return min(reduction.reach(states[name], exact) for name, reduction in plan.reductions.items())


def _points(plan: Plan) -> tuple[PointFormat, torch.device]:
    """The point format to use in this process, and the device to multiply on.

    The format is the planned one if products of it are right here (see `product_checks`), else the first of
    `point_formats_instead` whose products are. The device is this worker's, or its cpu for products of float64 where
    the device has no float64.

    Raises
    ------
    AbortRun
        where products of none of these formats are right.
    """
    chosen = devices.choose(plan.device)
    for point_format in (plan.sides[0].point_format, *plan.point_formats_instead):
        in_float64 = point_format.element in ("float64", "float64x3")
        device = torch.device("cpu") if in_float64 and chosen.type == "mps" else chosen
        if all(
            product_checks.are_right(point_format.tile_metric.name, element, device)
            for element in point_format.elements
        ):
            return point_format, device
    raise AbortRun(
        f"products of {point_format.element} are wrong on {device}: compute elsewhere, or with another `device`"
    )


def execute(
    plan: Plan,
    client: Client,
    blocks: BlockCache,
    watch: Monitor,
    journal: Pass | None = None,
    what: str = "panels",
    first_hints: Hints | None = None,
) -> PassResult:
    """Run every panel of `plan` that `journal` does not have, and merge what they find.

    One tile of every row block is computed first, with `first_hints`, where there are any. What these tiles find
    becomes the hints of the others, which then keep less. This process reads rows through `blocks`. `watch` is told of
    every finished panel, and `what` names the pass.
    If this ends early for any reason, the submitted panels are cancelled.

    Raises
    ------
    EmbgeomError
        where panels failed: it is raised after all others are done, and lists the panels and the cause. At once where
        nothing can continue: the journal cannot be written, the store was replaced, or the scheduler is lost.
    KeyboardInterrupt
        where `watch` was interrupted: after the submitted panels are done.
    """
    exact = plan.exact(BlockReader(blocks))
    total = PassResult({}, set(), exact.counts, set())
    title = TaskTitle(what, plan.sides[0].matrix.label)
    panels_of_pass = _PanelsOfPass(client, plan, watch, journal, title, first_hints or {})
    for panels in (plan.grid.first, plan.grid.rest):
        panels_of_pass.renew(total.states, exact)
        collected, size = list[dict[str, NamedArrays]](), 0
        for found in panels_of_pass.found(panels):
            total.devices |= found.devices
            total.products |= found.products
            total.counts.update(found.counts)
            collected.append(found.states)
            size += _size(found.states)
            if size >= tuning.MERGE_SHARE * _size(total.states):
                total.states = _merge(plan, total.states, collected, exact)
                collected, size = [], 0
                panels_of_pass.renew(total.states, exact)
        total.states = _merge(plan, total.states, collected, exact)
    panels_of_pass.check()
    return total


def hints_of(plan: Plan, merged: dict[str, MergedState], exact: Exact) -> Hints:
    """What panels need not keep, as merged states show."""
    return {name: plan.reductions[name].hint(state, exact) for name, state in merged.items()}


def _size(states: Mapping[str, NamedArrays | MergedState]) -> int:
    return sum(state.nbytes for state in states.values())


def _merge(
    plan: Plan, merged: dict[str, MergedState], found: list[dict[str, NamedArrays]], exact: Exact
) -> dict[str, MergedState]:
    return {
        name: reduction.merge(merged.get(name), [states[name] for states in found], exact)
        for name, reduction in plan.reductions.items()
    }


class _PanelsOfPass:
    """The panels of one pass: read from the journal if committed, else computed on the cluster.

    A panel that fails is tried again after the others, and a third time alone. A panel whose worker died is tried a
    second time, alone: dask counts the death of a worker against every task that was on it, so the others may be
    innocent.
    """

    def __init__(
        self, client: Client, plan: Plan, watch: Monitor, journal: Pass | None, title: TaskTitle, first_hints: Hints
    ) -> None:
        self._client, self._plan, self._watch, self._journal, self._title = client, plan, watch, journal, title
        self._first_hints = first_hints
        self._committed = journal.names() if journal is not None else set()
        self._shared = self._one_copy(pickle.dumps(plan), "plan")
        self._hints: Future[bytes] | None = None
        self._told = b""
        self._failed: dict[Panel, BaseException] = {}

    def renew(self, merged: dict[str, MergedState], exact: Exact) -> None:
        """Give the panels that are submitted from now on new hints; the cluster holds one copy of them."""
        hints = hints_of(self._plan, merged, exact)
        for name, first in self._first_hints.items():
            later = hints.get(name)
            hints[name] = first if first is None or later is None else np.fmin(first, later)
        if (told := pickle.dumps(hints)) != self._told:
            self._hints, self._told = self._one_copy(told, "hints"), told

    def _one_copy(self, data: bytes, step: str) -> Future[bytes]:
        """Bytes that each worker fetches once. They go there in pieces: dask warns of a task that holds more."""
        title = self._title._replace(step=step)
        pieces = [data[start : start + tuning.SENT_BYTES] for start in range(0, len(data), tuning.SENT_BYTES)]
        sent = [self._client.submit(bytes, piece, key=title.key(), pure=False) for piece in pieces]
        return sent[0] if len(sent) == 1 else self._client.submit(_joined, *sent, key=title.key(), pure=False)

    def found(self, panels: Callable[[], Iterable[Panel]]) -> Iterator[PanelResult]:
        """Yield the result of each panel, in any order."""
        damaged = []
        if self._journal is not None:
            for panel, found in self._journal.read([each for each in panels() if each.name in self._committed]):
                if found is None:
                    damaged.append(panel)
                else:
                    yield self._received(panel, found, fresh=False)
        if damaged:
            progress.note(f"{len(damaged)} damaged {noun(len(damaged), 'panel')} of the journal: computed again")
        missing = (each for each in panels() if each.name not in self._committed)
        for panel, found in self._computed(chain(damaged, missing)):
            yield self._received(panel, found, fresh=True)

    def _received(self, panel: Panel, found: PanelResult, *, fresh: bool) -> PanelResult:
        self._watch.done(panel, found, fresh=fresh)
        callbacks.tell("received", self._plan, panel)
        return found

    def check(self) -> None:
        """Raise an error if panels failed or the pass was interrupted."""
        if self._watch.interrupted:
            raise KeyboardInterrupt
        if not self._failed:
            return
        causes: dict[str, list[str]] = {}
        for panel, error in self._failed.items():
            causes.setdefault(_cause(error), []).append(panel.name)
            if self._journal is not None:
                self._journal.fail(panel, _cause(error))
        said = "; ".join(f"{_some(names)}: {cause}" for cause, names in list(causes.items())[:3])
        kept = " (what is done is kept: the same command goes on)" if self._journal is not None else ""
        total = self._plan.grid.panel_count
        raise EmbgeomError(f"{len(self._failed)} of {total} panels failed{kept}: {said}") from error

    def _computed(self, panels: Iterable[Panel]) -> Iterator[tuple[Panel, PanelResult]]:
        failed: dict[Panel, BaseException] = {}
        in_a_row = 0
        for attempt, window in enumerate((self._watch.window, self._watch.window, self._alone)):
            retried = [panel for panel, error in failed.items() if attempt == 2 or not isinstance(error, KilledWorker)]
            with closing(self._submitted(retried if attempt else panels, window, dealt=not attempt)) as batches:
                for panel, ended in chain.from_iterable(batches):
                    if ended.error is None:
                        failed.pop(panel, None)
                        in_a_row = 0
                        yield panel, ended.value
                    else:
                        failed[panel] = ended.error
                        in_a_row += 1
                        if in_a_row == tuning.HOPELESS_PANELS:
                            self._failed |= failed
                            self.check()
        self._failed |= failed

    def _alone(self) -> int:
        return min(1, self._watch.window())

    def _submitted(
        self, panels: Iterable[Panel], window: Callable[[], int], *, dealt: bool
    ) -> Generator[list[tuple[Panel, workers.Ended]], None, None]:
        """Keep `window()` panels submitted, to each worker from its region; yield those that ended, well or not.

        Where blocks are sorted by norm, panels go in that order: after the first panels, few of the others matter.
        """

        def arguments(panel: Panel) -> tuple[Any, ...]:
            return self._shared, panel, self._hints, self._journal

        several = dealt and len(self._watch.threads()) > 1 and not self._plan.skips_near
        regions = Regions(panels, self._watch.threads) if several else None
        return workers.completed(self._client, run_panel, panels, arguments, window, self._title, regions)


def _joined(*pieces: bytes) -> bytes:
    return b"".join(pieces)


def _cause(error: BaseException) -> str:
    if isinstance(error, KilledWorker):
        return "every worker that ran it died (out of memory?)"
    return " ".join((str(error) if isinstance(error, EmbgeomError) else f"{type(error).__name__}: {error}").split())


def _some(names: list[str]) -> str:
    return f"panel{'s' * (len(names) > 1)} {', '.join(names[:5])}{', ...' * (len(names) > 5)}"
