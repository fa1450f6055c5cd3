"""Compute a panel again in smaller tiles when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from embgeom_dask import devices, tuning
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.execution.grid import Panel
from embgeom_dask.execution.plan import ITEMSIZE, Plan
from embgeom_dask.execution.worker_state import WorkerState

T = TypeVar("T")


def compute(
    state: WorkerState, plan: Plan, panel: Panel, device: torch.device, work: Callable[[Plan, Iterable[Panel]], T]
) -> T:
    """Do `work` on a panel; where memory runs out, start over with tiles half the size, for this panel and all later.

    `work` is called with a plan and with the panels of that plan that make up `panel`. Each call starts from empty
    states, and no result depends on the size of tiles. Blocks and other things that the worker keeps are dropped before
    the next try. If the points take more memory than was planned, tiles are smaller from the beginning.

    Raises
    ------
    EmbgeomError
        where memory runs out with tiles of 32 rows, or of an odd number.
    """
    key = plan.sides[0].key
    at_first = _times(plan)
    while True:
        times = max(state.halved[key], at_first)
        smaller = plan.with_tile(plan.sides[0].tile >> times)
        try:
            return work(smaller, smaller.grid.part(panel, 1 << times))
        except (RuntimeError, MemoryError) as error:
            if not devices.out_of_memory(error):
                raise
            rows, problem = smaller.sides[0].tile, " ".join(str(error).split())
        if rows <= tuning.LEAST_TILE or rows % 2:
            raise EmbgeomError(
                f"{device} is out of memory even with tiles of {rows} rows: free some, or choose another `device` "
                f"({problem})"
            )
        state.halved[key] = max(state.halved[key], times + 1)
        state.free_memory()
        devices.release(device)


def _times(plan: Plan) -> int:
    """How often tiles are halved so that points of another element than was planned take no more memory."""
    side, times = plan.sides[0], 0
    if side.instead is None:
        return 0
    planned, taken = (ITEMSIZE[point_format.element] for point_format in (side.point_format, side.instead))
    while planned << times < taken and not (side.tile >> times) % 2 and side.tile >> times > tuning.LEAST_TILE:
        times += 1
    return times
