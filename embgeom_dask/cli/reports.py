"""The command that writes a report of saved results."""

from __future__ import annotations

from typing import Annotated

import typer

import embgeom_dask as eg
from embgeom_dask.cli.answers import print_answer


def report(
    results: Annotated[
        list[str],
        typer.Argument(metavar="RESULT.zarr", help="What commands were given as --out; folders of many models too."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE.html", help="The file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    """Write saved results as one HTML file: tables, plots, search."""
    print_answer(str(eg.report(results, output, overwrite=overwrite)))
