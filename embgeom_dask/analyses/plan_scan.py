"""Say what a scan will do, without doing it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import xarray as xr

from embgeom_dask.analyses.scan import scan
from embgeom_dask.execution.arrays import Data
from embgeom_dask.execution.plan import ScanPlan


def plan_scan(data: Data | Iterable[Data], **settings: Any) -> ScanPlan | dict[str, ScanPlan]:
    """Plan a scan: read the rows once, choose products and tiles, and project the memory. No tile is computed.

    Parameters
    ----------
    data : path, array, or list of these
        As for `scan`.
    **settings
        The other parameters of `scan`. Nothing is written to `out`.

    Returns
    -------
    ScanPlan
        It prints as the few lines that a scan notes before it starts, and has their numbers as attributes.
    dict of str to ScanPlan
        Returned for a list of stores: the plan of each, by the name of its result, `<organisation>--<name>`.

    Raises
    ------
    InputError
        As `scan` does; also if the memory that the scan needs at least is more than `memory_limit`.

    Examples
    --------
    >>> plan = plan_scan(np.eye(3), nearest=1)
    >>> plan.rows, plan.tiles, plan.memory_projected < plan.memory_allowed
    ([3], 1, True)
    """
    planned = scan(data, **settings | {"dry_run": True})
    if isinstance(planned, xr.DataTree):
        return {name: ScanPlan(**node.attrs["plan"]) for name, node in planned.children.items()}
    return ScanPlan(**planned.attrs["plan"])
