"""The command that follows a vocabulary over the steps of its training: series."""

from __future__ import annotations

from typing import Annotated

import typer

import embgeom_dask as eg
from embgeom_dask.cli.answers import print_result
from embgeom_dask.cli.options import FromFile, Json, Role
from embgeom_dask.cli.stores import find_stores


def series(
    given: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STEPS", help="FILE.safetensors:KEY or FILE.h5:KEY, a folder of checkpoints, or stores."
        ),
    ] = None,
    from_file: FromFile = None,
    role: Role = None,
    out: Annotated[str | None, typer.Option(metavar="RESULT.zarr", help="Save the result here.")] = None,
    as_json: Json = False,
) -> None:
    """Follow norms, identical rows and changes over training."""
    from embgeom_dask.cli import series_text

    one = given is not None and len(given) == 1 and not from_file
    result = eg.series(given[0] if one and given else find_stores(given, from_file), role, out=out)
    print_result(result, series_text.series_text, as_json)
