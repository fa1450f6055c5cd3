"""The commands on results: show, status."""

from __future__ import annotations

from typing import Annotated

import typer

import embgeom_dask as eg
from embgeom_dask.cli.answers import print_answer, print_result
from embgeom_dask.cli.options import Json
from embgeom_dask.errors import InputError


def show(
    result: Annotated[str, typer.Argument(metavar="RESULT.zarr", help="What a command was given as --out.")],
    as_json: Json = False,
) -> None:
    """Print a saved result again, or the table of a folder of results."""
    from embgeom_dask.cli import text

    found = eg.open_result(result)
    if hasattr(found, "children"):  # of several scans
        if not found.data_vars:
            raise InputError(
                f"{result} has no table yet: the command that makes it goes on, or show one of its results"
            )
        found = found.to_dataset()
    print_result(found.load(), text.result_text, as_json)


def status(
    result: Annotated[str, typer.Argument(metavar="RESULT.zarr", help="What a scan was given as --out.")],
    as_json: Json = False,
) -> None:
    """Say how far a scan is that runs or has died, and the command that goes on."""
    from embgeom_dask.cli import text

    found = eg.status(result)
    print_answer(found if as_json else text.status_text(found))
