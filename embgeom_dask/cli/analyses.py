"""The commands that ask a question of stores: survey, duplicates, scan, neighbors, outliers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import embgeom_dask as eg
from embgeom_dask.cli.answers import finished, print_many, print_result
from embgeom_dask.cli.options import (
    SELECTION,
    Device,
    Distance,
    FromFile,
    Json,
    ManyStores,
    Metric,
    Out,
    OutFile,
    Part,
    Role,
    Scheduler,
    Store,
)
from embgeom_dask.cli.stores import find_store, find_stores

if TYPE_CHECKING:
    import xarray as xr


def survey(
    stores: ManyStores = None,
    from_file: FromFile = None,
    role: Role = None,
    out: Out = None,
    part: Part = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Describe the centroid and the norms of one or many models."""
    _ask_of_models("survey", find_stores(stores, from_file), role, out, part, scheduler, as_json)


def duplicates(
    stores: ManyStores = None,
    from_file: FromFile = None,
    role: Role = None,
    out: Out = None,
    part: Part = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Find the groups of identical rows of one or many models."""
    _ask_of_models("duplicates", find_stores(stores, from_file), role, out, part, scheduler, as_json)


def _ask_of_models(
    command: str,
    stores: list[str],
    role: Role,
    out: str | None,
    part: str | None,
    scheduler: str | None,
    as_json: bool,
) -> None:
    """Ask a question of one or many models, and print one table of them; where some fail, of the others."""
    from embgeom_dask.cli import text

    def show(result: xr.Dataset) -> None:
        if as_json or "model" in result.coords:  # a part of the models may have none
            print_result(result, text.result_text, as_json)

    together = import_module(f"embgeom_dask.analyses.{command}").together
    with finished(lambda found: show(together(found))):
        result = getattr(eg, command)(stores, role, out=out, part=part, client=scheduler)
    show(result)


def scan(
    context: typer.Context,
    stores: ManyStores = None,
    from_file: FromFile = None,
    role: Role = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="STORE2", help="Against other rows: STORE2, STORE2:input, FILE.npy, FILE.safetensors."),
    ] = None,
    metric: Metric = "euclidean",
    tokens: Annotated[str | None, SELECTION] = None,
    out: Out = None,
    part: Part = None,
    farthest: Annotated[int | None, typer.Option(metavar="K", help="The K pairs farthest apart.")] = None,
    nearest: Annotated[int | None, typer.Option(metavar="K", help="The K pairs nearest each other.")] = None,
    neighbors: Annotated[int | None, typer.Option(metavar="K", help="The K nearest tokens of every token.")] = None,
    largest: Annotated[int | None, typer.Option(metavar="K", help="With dot: K pairs of largest product.")] = None,
    smallest: Annotated[int | None, typer.Option(metavar="K", help="With dot: K pairs of smallest product.")] = None,
    top: Annotated[
        int | None, typer.Option(metavar="K", help="With dot: K tokens of largest product for every token.")
    ] = None,
    bottom: Annotated[
        int | None, typer.Option(metavar="K", help="With dot: K tokens of smallest product for every token.")
    ] = None,
    moments_per_row: Annotated[
        bool, typer.Option("--moments-per-row", help="Mean, std, skew, kurtosis, min, max of every token's distances.")
    ] = False,
    histogram: Annotated[
        int | None, typer.Option(metavar="BINS", help="Count all distances in BINS bins; gives mean and std too.")
    ] = None,
    histogram_scale: Annotated[Literal["linear", "log"], typer.Option(help="The scale of the bins.")] = "linear",
    histogram_edges: Annotated[
        str | None,
        typer.Option(metavar="E,E...", help="Count all distances between these edges; gives mean and std too."),
    ] = None,
    common_edges: Annotated[
        bool, typer.Option("--common-edges", help="Of several stores: the same bins for all.")
    ] = False,
    quantiles: Annotated[
        str | None, typer.Option(metavar="Q,Q...", help="The interval that holds each quantile of the distances.")
    ] = None,
    exact_quantiles: Annotated[
        bool, typer.Option("--exact-quantiles", help="Also the values of --quantiles, by a second pass.")
    ] = False,
    exact_moments: Annotated[
        bool,
        typer.Option("--exact-moments", help="Mean and deviation from every distance as it is reported: slow."),
    ] = False,
    within: Annotated[
        str | None,
        typer.Option(metavar="R,R...", help="Count pairs within each radius, and of each token: 0.5, 2^-14, 2ulp."),
    ] = None,
    pairs_within: Annotated[
        str | None, typer.Option(metavar="R", help="List the pairs within a radius: 0.5, 2^-14, 2ulp.")
    ] = None,
    max_pairs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Refuse more pairs for --pairs-within; default 10 million."),
    ] = None,
    distinct: Annotated[
        bool,
        typer.Option(
            "--distinct",
            help="Leave pairs of identical rows out of --nearest, --neighbors, --within and --pairs-within.",
        ),
    ] = False,
    device: Device = "auto",
    scheduler: Scheduler = None,
    tile: Annotated[int | None, typer.Option(metavar="ROWS", help="Rows of a tile; no result depends on it.")] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What a process may hold, like 2GiB."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Compare all pairs of tokens exactly, and keep what is asked.

    With --against each token of one matrix is compared with each of the other.
    """
    stores = find_stores(stores, from_file)
    other = None if against is None else find_store(against)
    from embgeom_dask.batches import many
    from embgeom_dask.cli.scan_text import scan_text

    how: dict[str, Any] = {
        "role": role,
        "against": other,
        "tokens": tokens,
        "metric": metric,
        "farthest": farthest,
        "nearest": nearest,
        "neighbors": neighbors,
        "largest": largest,
        "smallest": smallest,
        "top": top,
        "bottom": bottom,
        "moments_per_row": moments_per_row,
        "histogram": histogram,
        "histogram_scale": histogram_scale,
        "histogram_edges": histogram_edges,
        "quantiles": quantiles,
        "common_edges": common_edges,
        "exact_quantiles": exact_quantiles,
        "exact_moments": exact_moments,
        "within": within,
        "pairs_within": pairs_within,
        "max_pairs": max_pairs,
        "distinct": distinct,
        "out": out,
        "part": part,
        "device": device,
        "client": scheduler,
        "tile": tile,
        "memory_limit": memory_limit,
        "dry_run": dry_run,
        "resume_command": context.obj,
    }
    if len(stores) == 1 and part is None:
        print_result(eg.scan(stores[0], **how), scan_text, as_json)
        return

    def show(found: Sequence[xr.Dataset]) -> None:
        print_many(many.table(found), found, as_json)

    with finished(show):
        found = eg.scan(stores, **how)
    show([node.to_dataset() for node in found.children.values()])


def neighbors(
    store: Store,
    tokens: Annotated[list[str], typer.Argument(metavar="TOKEN", help="Tokens by name or id: king queen 2332.")],
    count: Annotated[int, typer.Option("-k", "--count", metavar="K", help="How many neighbors.")] = 10,
    role: Role = None,
    metric: Distance = "euclidean",
    out: OutFile = None,
    device: Device = "auto",
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Name the nearest tokens of a few tokens."""
    store = find_store(store)
    from embgeom_dask.cli.scan_text import neighbors_text

    how: dict[str, Any] = {"role": role, "metric": metric, "out": out, "device": device, "client": scheduler}
    print_result(eg.neighbors(store, tokens, count, **how), neighbors_text, as_json)


def outliers(
    store: Store,
    tokens: Annotated[str | None, SELECTION] = None,
    role: Role = None,
    out: OutFile = None,
    device: Device = "auto",
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Find the farthest two of some tokens, and their centroid.

    Without --tokens they are those of the dense cluster that `embgeom cluster` finds.
    """
    store = find_store(store)
    from embgeom_dask.cli import text

    result = eg.outliers(store, "cluster" if tokens is None else tokens, role, out=out, device=device, client=scheduler)
    print_result(result, text.outliers_text, as_json)
