"""The commands on results: show, status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

import embgeom_dask as eg
from embgeom_dask.cli.answers import print_answer, print_result
from embgeom_dask.cli.options import Json
from embgeom_dask.errors import InputError

if TYPE_CHECKING:
    import xarray as xr


def open_table(result: str) -> xr.Dataset:
    """Open a result, or of a folder of one command's results their table.

    Raises
    ------
    InputError
        as `open_result`, and where the folder has no table.
    """
    found = eg.open_result(result)
    if not hasattr(found, "children"):
        return cast("xr.Dataset", found)
    if not found.data_vars:
        raise InputError(f"{result} has no table: embgeom show lists its results, name one of them")
    return cast("xr.Dataset", found.to_dataset())


def show(
    result: Annotated[str, typer.Argument(metavar="RESULT.zarr", help="What a command was given as --out.")],
    as_json: Json = False,
) -> None:
    """Print a saved result again, or what is in a folder.

    Of a folder it is the table of all models, or where there is none a line for each result in it and in its folders.
    """
    from embgeom_dask.cli import folder_text, text

    found = eg.open_result(result)
    if hasattr(found, "children") and not found.data_vars:
        print_answer(folder_text.as_json(found) if as_json else folder_text.folder_text(found))
    else:
        print_result((found.to_dataset() if hasattr(found, "children") else found).load(), text.result_text, as_json)


def status(
    result: Annotated[
        str, typer.Argument(metavar="RESULT.zarr", help="What a command was given as --out; a folder, of many models.")
    ],
    as_json: Json = False,
) -> None:
    """Say how far a scan is, or many, and what goes on with it."""
    from embgeom_dask.cli.status_text import status_text

    found = eg.status(result)
    print_answer(found if as_json else status_text(found))
