"""The commands that ask which tokens lie together: components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

import embgeom_dask as eg
from embgeom_dask.cli.answers import finished, print_many, print_result
from embgeom_dask.cli.options import SELECTION, Device, FromFile, Json, ManyStores, Metric, Out, Role, Scheduler
from embgeom_dask.cli.stores import find_stores

if TYPE_CHECKING:
    import xarray as xr


def components(
    context: typer.Context,
    radius: Annotated[str, typer.Option(metavar="R,R...", help="The radii, all in one pass: 0.5, 2^-14, 2ulp.")],
    stores: ManyStores = None,
    from_file: FromFile = None,
    role: Role = None,
    metric: Metric = "euclidean",
    tokens: Annotated[str | None, SELECTION] = None,
    diameter: Annotated[bool, typer.Option("--diameter", help="Also the farthest pair of each component.")] = False,
    out: Out = None,
    device: Device = "auto",
    scheduler: Scheduler = None,
    memory_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What a process may hold, like 2GiB.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find what hangs together within a radius.

    Identical rows are one node of the graph; its edges are the pairs of distinct rows within the radius.
    """
    stores = find_stores(stores, from_file)
    from embgeom_dask.analyses.components import table
    from embgeom_dask.cli import graphs_text

    how: dict[str, Any] = {"role": role, "metric": metric, "tokens": tokens, "diameter": diameter, "out": out}
    how |= {"device": device, "memory_limit": memory_limit, "client": scheduler, "resume_command": context.obj}
    if len(stores) == 1:
        print_result(eg.components(stores[0], radius, **how), graphs_text.components_text, as_json)
        return

    def show(found: Sequence[xr.Dataset]) -> None:
        print_many(table(found), found, as_json)

    with finished(show):
        tree = eg.components(stores, radius, **how)
    show([node.to_dataset() for node in tree.children.values()])
