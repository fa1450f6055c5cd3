"""Panels on a dask cluster: a bounded number at a time, their small states merged as they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from distributed import Client, Future, as_completed

from embgeom_dask import devices, halving, tiles
from embgeom_dask.blocks import Block
from embgeom_dask.exact import Exact
from embgeom_dask.grid import Panel
from embgeom_dask.plan import Plan

State = dict[str, Any]

_MERGE = 2
"""Panels are merged when their states come to so many times what was merged before."""

_AHEAD = 2
"""Panels submitted for each thread of the cluster: one running, one waiting."""


@dataclass
class Found:
    """What one panel, or all of them, found: the state of each reduction, the devices used, and how many pairs each
    level of exactness decided."""

    states: dict[str, State]
    devices: set[str]
    counts: Counter[str]


def run_panel(plan: Plan, panel: Panel, hints: dict[str, Any]) -> Found:
    """Compute the states of one panel on this worker's device."""
    with devices.session(_device(plan)) as device:
        return halving.compute(plan, panel, device, partial(_compute, hints=hints, device=device))


def _compute(plan: Plan, panels: Iterable[Panel], hints: dict[str, Any], device: torch.device) -> Found:
    exact = plan.exact(device)
    states = {name: reduction.empty(hints.get(name)) for name, reduction in plan.reductions.items()}
    for panel in panels:
        rows = plan.sides[0].block(panel.row, device)
        for index in range(panel.start, panel.stop):
            columns = plan.sides[1].block(index, device)
            diagonal = plan.symmetric and index == panel.row
            for tile in _tiles(plan, rows, columns, diagonal, partial(_reach, states, exact)):
                for name, reduction in plan.reductions.items():
                    states[name] = reduction.update(states[name], tile, exact)
    states = {name: reduction.finish(states[name], exact) for name, reduction in plan.reductions.items()}
    return Found(states, {str(device)}, exact.counts)


def _tiles(plan: Plan, rows: Block, columns: Block, diagonal: bool, reach: Callable[[], float]) -> Iterator[tiles.Tile]:
    if plan.sides[0].ranked:
        yield from tiles.ranked_parts(plan.metric, rows, columns, diagonal=diagonal, reach=reach)
    else:
        yield tiles.multiply(plan.metric, rows, columns, diagonal=diagonal)


def _reach(states: dict[str, State], exact: Exact) -> float:
    """The value, of points, that a pair needs to be among the farthest."""
    return -float(states["farthest"]["limit"]) * exact.unit


def _device(plan: Plan) -> torch.device:
    """This worker's device; its cpu where the plan needs float64 and the device has none."""
    device = devices.choose(plan.device)
    return torch.device("cpu") if plan.sides[0].element == "float64" and device.type == "mps" else device


def execute(plan: Plan, client: Client, advance: Callable[[int], None]) -> Found:
    """Run every panel of `plan` and merge what they find.

    One tile of every row block goes first: these tell the others how little they need to keep. `advance` is
    called with the number of tiles of each panel that is done. Whatever ends this early cancels what was submitted.
    """
    exact = plan.exact(torch.device("cpu"))
    merged = {name: reduction.finish(reduction.empty(), exact) for name, reduction in plan.reductions.items()}
    total = Found(merged, set(), exact.counts)
    shared = client.submit(_same, plan, pure=False)
    for panels in (plan.grid.first(), plan.grid.rest()):
        hints = _Hints(client, plan, merged, exact)
        collected: list[dict[str, State]] = []
        for found, count in _windowed(client, shared, panels, hints):
            total.devices |= found.devices
            total.counts.update(found.counts)
            collected.append(found.states)
            advance(count)
            if sum(map(_size, collected)) >= _MERGE * _size(merged):
                merged, collected = _merge(plan, [merged, *collected], exact), []
                hints.renew(merged)
        merged = _merge(plan, [merged, *collected], exact)
    total.states = merged
    return total


class _Hints:
    """What panels submitted from now on are told, kept on the cluster."""

    def __init__(self, client: Client, plan: Plan, merged: dict[str, State], exact: Exact) -> None:
        self._client, self._plan, self._exact = client, plan, exact
        self.renew(merged)

    def renew(self, merged: dict[str, State]) -> None:
        hints = {name: reduction.hint(merged[name], self._exact) for name, reduction in self._plan.reductions.items()}
        self.future: Future[dict[str, Any]] = self._client.submit(_same, hints, pure=False)


def _size(states: dict[str, State]) -> int:
    return sum(column.nbytes for state in states.values() for column in state.values())


def _merge(plan: Plan, found: list[dict[str, State]], exact: Exact) -> dict[str, State]:
    return {
        name: reduction.merge([states[name] for states in found], exact) for name, reduction in plan.reductions.items()
    }


def _windowed(
    client: Client, plan: Future[Plan], panels: Iterable[Panel], hints: _Hints
) -> Iterator[tuple[Found, int]]:
    """Yield each panel's result and its number of tiles, in order of completion."""
    waiting = iter(panels)
    counts: dict[Any, int] = {}

    def submit() -> list[Future[Any]]:
        panel = next(waiting, None)
        if panel is None:
            return []
        future = client.submit(run_panel, plan, panel, hints.future, pure=False)
        counts[future.key] = panel.stop - panel.start
        return [future]

    window = _AHEAD * max(1, sum(client.nthreads().values()))
    futures = as_completed([future for _ in range(window) for future in submit()], loop=client.loop)
    try:
        for future in futures:
            result = future.result()
            yield result, counts.pop(future.key)
            future.release()
            for following in submit():
                futures.add(following)
    finally:
        client.cancel(list(futures.futures), force=True)


def _same(value: Any) -> Any:
    return value
