"""The commands on the steps of a training: series, store-series."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import embgeom_dask as eg
from embgeom_dask.checkpoints.matrix_files import find_stack_file
from embgeom_dask.cli.answers import print_answer, print_result
from embgeom_dask.cli.options import FromFile, Json, Role, Stores
from embgeom_dask.cli.stores import find_store, find_stores

Steps = Annotated[
    list[str] | None,
    typer.Argument(metavar="STEPS", help="FILE.safetensors:KEY or FILE.h5:KEY, a folder of checkpoints, or stores."),
]


def series(
    given: Steps = None,
    from_file: FromFile = None,
    role: Role = None,
    out: Annotated[str | None, typer.Option(metavar="RESULT.zarr", help="Save the result here.")] = None,
    as_json: Json = False,
) -> None:
    """Follow norms, identical rows and changes over training."""
    from embgeom_dask.cli import series_text

    result = eg.series(_steps(given, from_file), role, out=out)
    print_result(result, series_text.series_text, as_json)


def store_series(
    given: Steps = None,
    from_file: FromFile = None,
    stores: Stores = "stores",
    role: Role = None,
    name: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="What the series is called.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="The tokenizer of checkpoints, where it lies elsewhere.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a series store that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Store one matrix at all steps of a training."""
    how: dict[str, Any] = {"name": name, "tokenizer": tokenizer, "overwrite": overwrite}
    path = eg.store_series(_steps(given, from_file), stores, role, **how)
    print_answer({"stores": [path]} if as_json else path)


def _steps(given: list[str] | None, from_file: str | None) -> Any:
    """What the steps are in: one path, or stores in their order."""
    if not given or len(given) > 1 or from_file:
        return find_stores(given, from_file)
    return given[0] if Path(given[0]).exists() or find_stack_file(given[0]) else find_store(given[0])
