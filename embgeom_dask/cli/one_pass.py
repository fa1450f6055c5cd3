"""The commands that describe whole vocabularies without visiting pairs: describe, tokens, spectrum, undertrained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

import embgeom_dask as eg
from embgeom_dask.cli.answers import finished, print_answer, print_many, print_result
from embgeom_dask.cli.as_json import to_json
from embgeom_dask.cli.options import FromFile, Json, ManyStores, Out, Part, Role, Scheduler
from embgeom_dask.cli.stores import find_stores

if TYPE_CHECKING:
    import xarray as xr


def describe(
    context: typer.Context,
    stores: ManyStores = None,
    from_file: FromFile = None,
    each: Annotated[
        str, typer.Option(metavar="NAME,...", help="What is asked: survey, tokens, duplicates, outliers, spectrum.")
    ] = "survey,tokens,duplicates,spectrum",
    role: Role = None,
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Save the results here, each as its own command would.")
    ] = None,
    part: Part = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What a process may hold before it keeps no more rows, like 2GiB."),
    ] = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Ask several questions in one run that reads a store once."""
    from embgeom_dask.cli import text

    def show(tree: xr.DataTree) -> None:
        nodes = tree.children
        if as_json:
            print_answer({"each": {name: _with_models(node) for name, node in nodes.items()}})
        else:
            found = [_result_of(node) for node in nodes.values()]  # a part of the models may have none
            print_answer("\n\n".join(text.result_text(each) for each in found if "model" in each.coords))

    given = find_stores(stores, from_file)
    asked = [name.strip() for name in each.split(",") if name.strip()]
    how: dict[str, Any] = {"role": role, "out": out, "memory_limit": memory_limit, "client": scheduler}
    how |= {"part": part, "resume_command": context.find_root().obj}
    with finished(lambda found: show(cast(Any, found[0]))):
        tree = eg.describe(given[0] if len(given) == 1 and part is None else given, asked, **how)
    show(tree)


def _with_models(node: xr.DataTree) -> dict[str, Any]:
    """A result as JSON, or the table of several models with the results themselves."""
    models = [to_json(_result_of(model)) for model in node.children.values()]
    return to_json(_result_of(node)) | ({"results": models} if models else {})


def _result_of(node: xr.DataTree) -> xr.Dataset:
    """The result of a node, with its coordinates first, as commands have them: a tree puts them last."""
    found = node.to_dataset()
    return found.drop_vars(list(found.data_vars)).assign(found.data_vars)


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
    isotropy: Annotated[
        bool, typer.Option("--isotropy", help="Also that of the partition function (Mu and Viswanath).")
    ] = False,
    out: Out = None,
    part: Part = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Find the eigenvalues and leading components of the rows."""
    from embgeom_dask.cli import one_pass_text

    how: dict[str, Any] = {"role": role, "components": components, "sky": sky, "sky_by_rank": sky_by_rank}
    how |= {"isotropy": isotropy, "out": out, "part": part, "client": scheduler}
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
    from embgeom_dask.batches import trees

    def show(found: Sequence[xr.Dataset]) -> None:
        print_many(trees.table(command, found), found, as_json)

    with finished(show):
        tree = getattr(eg, command)(stores, **how)
    show([node.to_dataset() for node in tree.children.values()])
