"""The command that reads directions out: readout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

import embgeom_dask as eg
from embgeom_dask.cli.answers import print_result
from embgeom_dask.cli.options import Device, Json, OutFile, Role, Scheduler
from embgeom_dask.cli.stores import find_store

if TYPE_CHECKING:
    import xarray as xr


def readout(
    context: typer.Context,
    directions: Annotated[
        str,
        typer.Argument(metavar="DIRECTIONS", help="Directions, a row each: FILE.npy, FILE.safetensors:KEY or a store."),
    ],
    against: Annotated[str, typer.Option(metavar="STORE", help="The vocabulary: STORE, STORE:input, STORE:output.")],
    count: Annotated[int, typer.Option("-k", "--count", metavar="K", help="How many tokens of either end.")] = 10,
    columns: Annotated[
        bool, typer.Option("--columns", help="Directions are the columns, as in down_proj.weight, not the rows.")
    ] = False,
    moments: Annotated[
        bool, typer.Option("--moments/--no-moments", help="The moments of all products of a direction, too.")
    ] = True,
    role: Role = None,
    gain: Annotated[
        str | None,
        typer.Option(metavar="FILE:KEY", help="Multiply each column by these numbers: the final norm's weights."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="FILE", help="What the directions are called, one a line.")
    ] = None,
    out: OutFile = None,
    device: Device = "auto",
    scheduler: Scheduler = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What a process may hold, like 2GiB."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Name the tokens that directions write most and least."""
    how: dict[str, Any] = {
        "role": role,
        "columns": columns,
        "moments": moments,
        "gain": gain,
        "labels": labels,
        "out": out,
        "device": device,
    }
    how |= {"client": scheduler, "memory_limit": memory_limit, "resume_command": context.obj}
    _show(eg.readout(find_store(directions), find_store(against), count, **how), as_json)


def _show(found: xr.Dataset, as_json: bool) -> None:
    from embgeom_dask.cli import readout_text

    print_result(found, readout_text.readout_text, as_json)
