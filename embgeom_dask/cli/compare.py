"""The command that compares vocabularies with each other: compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import embgeom_dask as eg
from embgeom_dask.cli.answers import print_result
from embgeom_dask.cli.options import Device, Distance, FromFile, Json, ManyStores, OutFile, Role, Scheduler
from embgeom_dask.cli.stores import find_store, find_stores

if TYPE_CHECKING:
    import xarray as xr


def compare(
    stores: ManyStores = None,
    from_file: FromFile = None,
    role: Role = None,
    match: Annotated[
        Literal["id", "token"],
        typer.Option(help="Which rows of two models correspond: by id, or by the token's bytes."),
    ] = "id",
    neighbors: Annotated[
        int | None, typer.Option(metavar="K", help="How many of the K nearest tokens are the same in both.")
    ] = None,
    csls: Annotated[
        int | None,
        typer.Option(metavar="K", help="CSLS of each matched pair by its K nearest, and the K nearest by CSLS."),
    ] = None,
    shared: Annotated[
        int | None, typer.Option(metavar="K", help="The K nearest shared tokens of each that is not matched.")
    ] = None,
    columns: Annotated[
        bool, typer.Option("--columns", help="Which column is which, linear CKA, leading directions.")
    ] = False,
    metric: Distance = "euclidean",
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Of two models, too: only which bytes, rows, columns they share.")
    ] = False,
    out: OutFile = None,
    device: Device = "auto",
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Compare two models row by row, or many all against all."""
    given = [*(stores or [])]
    how: dict[str, Any] = {"match": match, "neighbors": neighbors, "csls": csls, "shared": shared, "columns": columns}
    how |= {"metric": metric, "out": out, "device": device, "client": scheduler}
    if len(given) == 2 and not from_file and not all_pairs:
        found = eg.compare(find_store(given[0]), find_store(given[1]), role, **how)
    else:
        found = eg.compare(find_stores(given, from_file), None, role, **how)
    _show(found, as_json)


def _show(found: xr.Dataset, as_json: bool) -> None:
    from embgeom_dask.cli import compare_text

    print_result(found, compare_text.compare_text, as_json)
