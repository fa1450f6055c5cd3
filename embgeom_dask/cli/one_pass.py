"""The commands that describe whole vocabularies without visiting pairs: tokens, spectrum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import embgeom_dask as eg
from embgeom_dask.cli.answers import finished, print_many, print_result
from embgeom_dask.cli.options import FromFile, Json, ManyStores, Out, Part, Role, Scheduler
from embgeom_dask.cli.stores import find_stores

if TYPE_CHECKING:
    import xarray as xr


def tokens(
    stores: ManyStores = None,
    from_file: FromFile = None,
    role: Role = None,
    origin: Annotated[
        str | None,
        typer.Option("--from", metavar="TOKEN|FILE|cluster", help="Also the distance from this token or point."),
    ] = None,
    neighbors_of: Annotated[
        str | None,
        typer.Option(metavar="RESULT.zarr", help="Also density, hubs and dimension, of a scan with --neighbors."),
    ] = None,
    out: Out = None,
    part: Part = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Describe every token: norms, distances, ranks, script."""
    from embgeom_dask.cli import one_pass_text

    how: dict[str, Any] = {
        "role": role,
        "origin": origin,
        "neighbors_of": neighbors_of,
        "out": out,
        "part": part,
        "client": scheduler,
    }
    ask("tokens", find_stores(stores, from_file), how, one_pass_text.tokens_text, as_json)


def spectrum(
    stores: ManyStores = None,
    from_file: FromFile = None,
    role: Role = None,
    components: Annotated[
        int, typer.Option(metavar="K", help="Leading components to keep, with every token's score.")
    ] = 3,
    sky: Annotated[
        str | None, typer.Option(metavar="X,Y,Z", help="A map of the sky in three components, like 1,2,3.")
    ] = None,
    sky_by_rank: Annotated[
        bool, typer.Option("--sky-by-rank", help="The map also has latitudes by rank, evenly spread.")
    ] = False,
    out: Out = None,
    part: Part = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Find the eigenvalues and leading components of the rows."""
    from embgeom_dask.cli import one_pass_text

    how: dict[str, Any] = {"role": role, "components": components, "sky": sky, "sky_by_rank": sky_by_rank}
    how |= {"out": out, "part": part, "client": scheduler}
    ask("spectrum", find_stores(stores, from_file), how, one_pass_text.spectrum_text, as_json)


def undertrained(
    stores: ManyStores = None,
    from_file: FromFile = None,
    role: Role = None,
    unused: Annotated[
        str | None,
        typer.Option(
            metavar="SELECTION",
            help="Tokens never trained: ids, names, padding, bytes, named, unreachable, identical, cluster.",
        ),
    ] = None,
    indicator: Annotated[
        Literal["input_norm", "cosine", "centered", "component", "euclidean"] | None,
        typer.Option(help="What tokens are ranked by; default: input_norm where there is one, else cosine."),
    ] = None,
    out: Out = None,
    part: Part = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Rank tokens by how little they were trained."""
    from embgeom_dask.cli import unused_text

    how: dict[str, Any] = {"role": role, "unused": unused, "indicator": indicator}
    how |= {"out": out, "part": part, "client": scheduler}
    ask("undertrained", find_stores(stores, from_file), how, unused_text.undertrained_text, as_json)


def ask(
    command: str, stores: Sequence[str], how: dict[str, Any], as_text: Callable[[xr.Dataset], str], as_json: bool
) -> None:
    """Ask a question of one store and print its result, or of many and print their table."""
    if len(stores) == 1 and how["part"] is None:
        print_result(getattr(eg, command)(stores[0], **how), as_text, as_json)
        return
    from embgeom_dask.analyses import trees

    def show(found: Sequence[xr.Dataset]) -> None:
        print_many(trees.table(command, found), found, as_json)

    with finished(show):
        tree = getattr(eg, command)(stores, **how)
    show([node.to_dataset() for node in tree.children.values()])
