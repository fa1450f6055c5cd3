"""The commands on the steps of a training: series, store-series."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import embgeom_dask as eg
from embgeom_dask.checkpoints.matrix_files import find_stack_file
from embgeom_dask.cli.answers import print_answer, print_result
from embgeom_dask.cli.as_json import to_json
from embgeom_dask.cli.options import SELECTION, FromFile, Json, Role, Scheduler, Stores
from embgeom_dask.cli.stores import find_store, find_stores
from embgeom_dask.errors import InputError, parse_path

Steps = Annotated[
    list[str] | None,
    typer.Argument(metavar="STEPS", help="FILE.safetensors:KEY or FILE.h5:KEY, a folder of checkpoints, or stores."),
]


def series(
    context: typer.Context,
    given: Steps = None,
    from_file: FromFile = None,
    role: Role = None,
    each: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Also of every step: survey, tokens, duplicates, outliers, spectrum."),
    ] = None,
    tokens: Annotated[str | None, SELECTION] = None,
    components: Annotated[
        int, typer.Option(metavar="K", help="Leading components to keep of every step, with --each spectrum.")
    ] = 3,
    out: Annotated[
        str | None, typer.Option(metavar="RESULT.zarr", help="Save the result here; with --each, a folder.")
    ] = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Follow norms, identical rows and changes over training."""
    from embgeom_dask.cli import series_text

    asked: dict[str, Any] = {name: {} for name in (each or "").split(",") if name}
    if "outliers" in asked and tokens is not None:
        asked["outliers"] = {"tokens": tokens}
    elif tokens is not None:
        raise InputError("`tokens` are those of --each outliers: ask for it, or leave them out")
    if "spectrum" in asked:
        asked["spectrum"] = {"components": components}
    found = eg.series(
        _steps(given, from_file),
        role,
        each=asked,
        out=out,
        client=scheduler,
        resume_command=context.find_root().obj,
    )
    if not asked:
        print_result(found, series_text.series_text, as_json)
        return
    parts = {name: node.to_dataset() for name, node in found.children.items()}
    table = found.to_dataset()
    if as_json:
        print_answer(to_json(table) | {"each": {name: to_json(part) for name, part in parts.items()}})
    else:
        print_answer("\n\n".join(map(series_text.series_text, [table, *parts.values()])))


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
    path = parse_path("steps", given[0])
    return path if Path(path).exists() or find_stack_file(path) else find_store(path)
