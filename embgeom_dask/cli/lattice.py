"""The command that measures rows in steps of bfloat16: lattice."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from embgeom_dask.cli.one_pass import ask
from embgeom_dask.cli.options import SELECTION, Device, FromFile, Json, ManyStores, Out, Part, Role, Scheduler
from embgeom_dask.cli.stores import find_stores


def lattice(
    stores: ManyStores = None,
    from_file: FromFile = None,
    role: Role = None,
    tokens: Annotated[str | None, SELECTION] = None,
    origin: Annotated[
        str | None, typer.Option("--from", metavar="TOKEN", help="Rows whose exponents are near this token's.")
    ] = None,
    exponents: Annotated[int, typer.Option(metavar="N", help="How near, in every column.")] = 5,
    within: Annotated[
        str | None, typer.Option(metavar="N,N...", help="Count pairs at most so many steps apart, and of each token.")
    ] = None,
    pairs_within: Annotated[
        str | None, typer.Option(metavar="N", help="List the pairs at most so many steps apart.")
    ] = None,
    metric: Annotated[
        Literal["chebyshev", "cityblock"], typer.Option(help="Steps in one column, or in all together.")
    ] = "chebyshev",
    out: Out = None,
    part: Part = None,
    device: Device = "auto",
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Measure bfloat16 rows in steps of their type."""
    from embgeom_dask.cli import lattice_text

    how: dict[str, Any] = {"role": role, "tokens": tokens, "origin": origin, "exponents": exponents, "within": within}
    how |= {"pairs_within": pairs_within, "metric": metric, "device": device}
    how |= {"out": out, "part": part, "client": scheduler}
    ask("lattice", find_stores(stores, from_file), how, lattice_text.lattice_text, as_json)
