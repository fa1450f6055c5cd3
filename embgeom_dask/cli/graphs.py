"""The commands that ask which tokens lie together: components, cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import embgeom_dask as eg
from embgeom_dask.cli.answers import finished, print_many, print_result
from embgeom_dask.cli.options import SELECTION, Device, Distance, FromFile, Json, ManyStores, Out, Part, Role, Scheduler
from embgeom_dask.cli.stores import find_stores

if TYPE_CHECKING:
    import xarray as xr


def components(
    context: typer.Context,
    radius: Annotated[str, typer.Option(metavar="R,R...", help="The radii, all in one pass: 0.5, 2^-14, 2ulp.")],
    stores: ManyStores = None,
    from_file: FromFile = None,
    role: Role = None,
    metric: Distance = "euclidean",
    tokens: Annotated[str | None, SELECTION] = None,
    diameter: Annotated[bool, typer.Option("--diameter", help="Also the farthest pair of each component.")] = False,
    out: Out = None,
    part: Part = None,
    device: Device = "auto",
    scheduler: Scheduler = None,
    memory_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What a process may hold, like 2GiB.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the connected components of pairs within a radius.

    Identical rows are one node of the graph; its edges are the pairs of distinct rows within the radius.
    """
    stores = find_stores(stores, from_file)
    from embgeom_dask.analyses.components import table
    from embgeom_dask.cli import graphs_text

    how: dict[str, Any] = {"role": role, "metric": metric, "tokens": tokens, "diameter": diameter}
    how |= {"out": out, "part": part}
    how |= {"device": device, "memory_limit": memory_limit, "client": scheduler, "resume_command": context.obj}
    if len(stores) == 1 and part is None:
        print_result(eg.components(stores[0], radius, **how), graphs_text.components_text, as_json)
        return

    def show(found: Sequence[xr.Dataset]) -> None:
        print_many(table(found), found, as_json)

    with finished(show):
        tree = eg.components(stores, radius, **how)
    show([node.to_dataset() for node in tree.children.values()])


def cluster(
    stores: ManyStores = None,
    from_file: FromFile = None,
    role: Role = None,
    least: Annotated[int, typer.Option(metavar="N", help="Tokens that the cluster has at least.")] = 16,
    origin: Annotated[
        str | None, typer.Option("--from", metavar="TOKEN", help="Begin at this token, by name or id.")
    ] = None,
    mask: Annotated[
        str | None, typer.Option(metavar="FILE.safetensors", help="Write its mask, ids and centroid here, too.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a mask that exists.")] = False,
    out: Out = None,
    part: Part = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Find the dense cluster of tokens that were never trained."""
    stores = find_stores(stores, from_file)
    from embgeom_dask.batches import trees
    from embgeom_dask.cli import graphs_text
    from embgeom_dask.errors import InputError, parse_path
    from embgeom_dask.reporting import masks
    from embgeom_dask.storage import replacement

    if mask is not None and len(stores) > 1:
        raise InputError("`mask` is of one store: embgeom to-masks writes those of several")
    if mask is not None:
        replacement.check_new(Path(parse_path("mask", mask)), overwrite=overwrite)
    how: dict[str, Any] = {"role": role, "least": least, "origin": origin, "out": out}
    how |= {"part": part, "client": scheduler}
    if len(stores) == 1 and part is None:
        result = eg.cluster(stores[0], **how)
        if mask is not None:
            masks.write(result, mask, overwrite=overwrite)
        print_result(result, graphs_text.cluster_text, as_json)
        return

    def show(found: Sequence[xr.Dataset]) -> None:
        print_many(trees.table("cluster", found), found, as_json)

    with finished(show):
        tree = eg.cluster(stores, **how)
    show([node.to_dataset() for node in tree.children.values()])
