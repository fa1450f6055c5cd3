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
    opened = eg.open_result(result)
    if not hasattr(opened, "children"):
        return cast("xr.Dataset", opened)
    if not opened.data_vars:
        raise InputError(f"{result} has no table: embgeom show lists its results, name one of them")
    return cast("xr.Dataset", opened.to_dataset())


def show(
    result: Annotated[str, typer.Argument(metavar="RESULT.zarr", help="What a command was given as --out.")],
    as_json: Json = False,
) -> None:
    """Print a saved result again, or what is in a folder.

    Of a folder it is the table of all models, or where there is none a line for each result in it and in its folders.
    """
    from embgeom_dask.cli import folder_text, text

    opened = eg.open_result(result)
    if hasattr(opened, "children") and not opened.data_vars:
        print_answer(folder_text.as_json(opened) if as_json else folder_text.folder_text(opened))
    else:
        print_result((opened.to_dataset() if hasattr(opened, "children") else opened).load(), text.result_text, as_json)


def status(
    result: Annotated[
        str, typer.Argument(metavar="RESULT.zarr", help="What a command was given as --out; a folder, of many models.")
    ],
    as_json: Json = False,
) -> None:
    """Say how far a scan is, or many, and what goes on with it."""
    from embgeom_dask.cli.status_text import status_text

    known = eg.status(result)
    print_answer(known if as_json else status_text(known))
