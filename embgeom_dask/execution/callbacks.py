"""Callbacks at every panel, for tests, benchmarks and anyone who watches a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from embgeom_dask.execution.grid import Panel
from embgeom_dask.execution.plan import Plan

PanelEvent = Literal["started", "computed", "committed", "received"]
"""What happened to a panel: on its worker it was started, computed and, where there is a journal, committed; the client
received what it found, from its worker or from the journal."""


class PanelCallback:
    """A function that is called at every event of every panel in this process, while it is registered or entered.

    Workers in this process tell it of all their panels. A worker in another process needs one of its own, for example
    registered by a script that dask preloads there.

    Parameters
    ----------
    call : callable
        Called as `call(event, plan, panel)`, with a `PanelEvent`, in the thread where it happens. What it raises fails
        the panel, or at "received" the scan.

    Examples
    --------
    >>> import numpy as np
    >>> import embgeom_dask as eg
    >>> from embgeom_dask.testing import make_store
    >>> store = make_store("tiny.zarr", output=np.eye(4, 2, dtype=np.float32))
    >>> with PanelCallback(lambda event, plan, panel: print(event, panel.name)):
    ...     found = eg.scan(store, farthest=1)
    started 0-0-1
    computed 0-0-1
    received 0-0-1
    """

    active: ClassVar[list[PanelCallback]] = []
    """Those that are registered in this process, in the order in which they are called."""

    def __init__(self, call: Callable[[PanelEvent, Plan, Panel], object]) -> None:
        self.call = call

    def register(self) -> None:
        """Call it from now on."""
        self.active.append(self)

    def unregister(self) -> None:
        """Call it no more."""
        self.active.remove(self)

    def __enter__(self) -> PanelCallback:
        self.register()
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()


def tell(event: PanelEvent, plan: Plan, panel: Panel) -> None:
    """Call what is registered in this process."""
    for each in tuple(PanelCallback.active):
        each.call(event, plan, panel)
