"""The commands that make stores of stores: controls, whiten."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

import embgeom_dask as eg
from embgeom_dask.cli.answers import print_answer
from embgeom_dask.cli.options import FromFile, Json, ManyStores, Role, Scheduler, Stores
from embgeom_dask.cli.stores import find_stores


def controls(
    given: ManyStores = None,
    from_file: FromFile = None,
    role: Role = None,
    like: Annotated[Literal["gaussian", "uniform"], typer.Option(help="How the numbers are distributed.")] = "gaussian",
    seed: Annotated[int, typer.Option(metavar="N", help="What decides the numbers.")] = 42,
    match: Annotated[
        Literal["centroid", "norms"] | None,
        typer.Option(help="The same centroid, and distances of tokens from it, or norms."),
    ] = None,
    stores: Stores = "stores",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that exists.")] = False,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Write stores of random numbers of the same shape and type."""
    how: dict[str, Any] = {"like": like, "seed": seed, "match": match, "stores": stores, "overwrite": overwrite}
    paths = eg.controls(find_stores(given, from_file), role, client=scheduler, **how)
    print_answer({"stores": paths} if as_json else "\n".join(paths))


def whiten(
    given: ManyStores = None,
    from_file: FromFile = None,
    role: Role = None,
    how: Annotated[
        Literal["causal", "pca", "zca", "remove"],
        typer.Option(help="Whitened, by Cholesky, by components or symmetrically; or without leading components."),
    ] = "causal",
    ridge: Annotated[float, typer.Option(metavar="X", help="What is added to each eigenvalue.")] = 1e-6,
    divisor: Annotated[Literal["n-1", "n"], typer.Option(help="What a covariance is divided by.")] = "n-1",
    components: Annotated[
        int | None, typer.Option(metavar="K", help="With remove: how many; default a hundredth of the columns.")
    ] = None,
    dtype: Annotated[Literal["float32", "float64"], typer.Option(help="The type of the new rows.")] = "float32",
    stores: Stores = "stores",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that exists.")] = False,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Write stores of whitened rows."""
    options: dict[str, Any] = {"how": how, "ridge": ridge, "divisor": divisor, "components": components, "dtype": dtype}
    options |= {"stores": stores, "overwrite": overwrite, "client": scheduler}
    paths = eg.whiten(find_stores(given, from_file), role, **options)
    print_answer({"stores": paths} if as_json else "\n".join(paths))
