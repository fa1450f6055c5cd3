"""Commands that write a saved result for other tools."""

from __future__ import annotations

from typing import Annotated

import typer

import embgeom_dask as eg
from embgeom_dask.cli.answers import print_answer
from embgeom_dask.cli.results import open_table

_Result = Annotated[str, typer.Argument(metavar="RESULT.zarr", help="What a command was given as --out.")]
_Output = Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")]


def to_parquet(result: _Result, output: _Output, overwrite: _Overwrite = False) -> None:
    """Write a saved result as parquet, a row for each token."""
    from embgeom_dask.reporting import files

    files.parquet(open_table(result), output, overwrite=overwrite)
    print_answer(output)


def to_csv(
    result: _Result,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A table: farthest, neighbors, histogram, survey...")],
    output: _Output,
    overwrite: _Overwrite = False,
) -> None:
    """Write a table of a saved result as CSV."""
    from embgeom_dask.reporting import files

    files.csv(open_table(result), output, name, overwrite=overwrite)
    print_answer(output)


def to_masks(result: _Result, output: _Output, overwrite: _Overwrite = False) -> None:
    """Write the masks of a saved result as safetensors."""
    from embgeom_dask.reporting import masks

    masks.write(open_table(result), output, overwrite=overwrite)
    print_answer(output)


def to_netcdf(result: _Result, output: _Output, overwrite: _Overwrite = False) -> None:
    """Write a saved result, or a folder of them, as netCDF."""
    from embgeom_dask.reporting import files

    files.netcdf(eg.open_result(result), output, overwrite=overwrite)
    print_answer(output)
