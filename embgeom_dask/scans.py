"""Scan all pairs of rows of a matrix: from the store to the labelled result."""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import sha256
from time import perf_counter
from typing import Any
from uuid import uuid4

import numpy as np
import torch
import xarray as xr
from distributed import Client

from embgeom_dask import metrics, progress, results, stores
from embgeom_dask.blocks import Source, forget
from embgeom_dask.cluster import connect
from embgeom_dask.errors import InputError
from embgeom_dask.execute import exactly, execute
from embgeom_dask.plan import TILE, Plan, Settings
from embgeom_dask.reductions import Extreme, Histogram, Neighbors, Reduction
from embgeom_dask.rows import RowFacts, centre_of, distance_bound, inspect, row_set
from embgeom_dask.stores import Matrix, Role
from embgeom_dask.tokens import parse_tokens

_PART = 2048
"""Rows looked at together before the scan."""


def scan(
    matrix: str | os.PathLike[str] | xr.DataArray,
    *,
    which: Role | None = None,
    tokens: str | Iterable[int] | None = None,
    metric: str = "euclidean",
    farthest: int | None = None,
    nearest: int | None = None,
    neighbors: int | None = None,
    histogram: int | None = None,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    tile: int = TILE,
    client: Client | None = None,
    scheduler: str | None = None,
) -> xr.Dataset:
    """Compare every pair of rows of a matrix, once, and keep what is asked for; the answers are exact.

    Parameters
    ----------
    matrix : a store, or a matrix of `open_model`; of the latter the rows that are left
    which : `input` or `output`, where `matrix` is a store; default output, or input where there is no output matrix
    tokens : the rows to compare, as `tokens.parse_tokens` reads them; default all
    metric : `euclidean`
    farthest, nearest : number of pairs to keep, of largest and of smallest distance; identical rows are at distance 0
    neighbors : number of nearest rows to keep for every row
    histogram : number of equal bins, half-open [edge, next edge), from 0 to a bound of the largest distance: the sum of
        the two largest distances from the mean of the first rows, rounded up to three digits. Adds the mean, standard
        deviation (n - 1), smallest and largest of the distances.
    out : where to save the result; the same result there is opened instead of computed again
    device : `auto`, `cpu`, `cuda` or `mps`, on each worker
    tile : rows of a tile; no result depends on it
    client, scheduler : the dask cluster; default one in this process

    Returns
    -------
    xr.Dataset
        Distances float64, token ids and counts int64, token strings as coordinates. `farthest_distance (farthest)`,
        `farthest_token_id (farthest, side)`, the same for nearest; `neighbor_distance` and `neighbor_token_id
        (token_id, neighbor)`; `histogram_count (bin)`, `bin_edge (edge)`, `distance_mean`, `distance_std`,
        `distance_min`, `distance_max`, `pair_count`. Ties go to the lowest ids. Where there are fewer pairs than asked
        for, all of them are given.

    Raises
    ------
    InputError
        for a store, matrix, selection, metric or device that is not there, a row with NaN or infinity, a result at
        `out` from other settings, or nothing to keep.
    """
    started = perf_counter()
    found, token_id = _rows_of(matrix, which, tokens)
    metrics.check(metric)
    selected = None if token_id.size == found.vocab_size else sha256(token_id.tobytes()).hexdigest()
    settings = Settings(metric, farthest, nearest, neighbors, histogram, selected)
    _check_counts(farthest=farthest, nearest=nearest, neighbors=neighbors, histogram=histogram, tile=tile)
    attrs = results.provenance("scan", [found], [], 0.0, settings.as_dict())
    if out is not None and (done := results.existing(out, attrs)) is not None:
        return done
    with connect(client, scheduler) as cluster:
        plan = _plan(cluster, found, token_id, settings, device, tile)
        try:
            with progress.bar(plan.grid.tiles, f"{found.model} scan", "tiles") as advance:
                states, used = execute(plan, cluster, advance)
            variables = _finalize(plan, states, settings)
        finally:
            cluster.run(forget)
    attrs |= {"devices": sorted(used), "seconds": round(perf_counter() - started, 3)}
    dataset = xr.Dataset(variables, {"token_id": token_id} if neighbors else {}, attrs)
    dataset = results.with_tokens(dataset, found.store)
    if out is not None:
        results.save(dataset, out)
    return dataset


def _rows_of(
    matrix: str | os.PathLike[str] | xr.DataArray, which: Role | None, tokens: str | Iterable[int] | None
) -> tuple[Matrix, np.ndarray]:
    """The matrix and the token ids (n,) int64, ascending, of the rows to compare."""
    found = stores.find_matrix(matrix, which)
    token_id = parse_tokens(tokens, found.vocab_size)
    if isinstance(matrix, xr.DataArray):
        token_id = np.intersect1d(token_id, matrix["token_id"].to_numpy())
        if not token_id.size:
            raise InputError("none of the tokens selected is a row of the array given")
    return found, token_id


def _check_counts(**counts: int | None) -> None:
    if all(count is None for name, count in counts.items() if name != "tile"):
        raise InputError("nothing to keep: ask for --farthest, --nearest, --neighbors or --histogram")
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"--{name} {count}: give a number of at least 1")


def _plan(client: Client, matrix: Matrix, token_id: np.ndarray, settings: Settings, device: str, tile: int) -> Plan:
    """Look at every row once, on the cluster, then fix grid and reductions."""
    centre = centre_of(matrix.take(token_id[:_PART]))
    parts = [token_id[start : start + _PART] for start in range(0, token_id.size, _PART)]
    facts: list[RowFacts] = client.gather([client.submit(inspect, matrix, part, centre, pure=False) for part in parts])
    rows = row_set(matrix, token_id, facts, centre)
    count = rows.token_id.size
    reductions: dict[str, Reduction] = {}
    if settings.farthest or settings.histogram:
        reductions["farthest"] = Extreme(settings.farthest or 1, farthest=True)
    if settings.nearest or settings.histogram:
        reductions["nearest"] = Extreme(settings.nearest or 1, farthest=False)
    if settings.neighbors:
        reductions["neighbors"] = Neighbors(settings.neighbors, count)
    if settings.histogram:
        reductions["histogram"] = Histogram(settings.histogram, distance_bound(facts), rows.weights)
    source = Source(matrix, rows, tile, double=settings.histogram is not None, key=uuid4().hex)
    return Plan(source, reductions, device)


def _finalize(plan: Plan, states: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Name the variables of the result. A histogram's extremes are pairs, exact like every other."""
    exact = exactly(plan, torch.device("cpu"))
    variables: dict[str, Any] = {}
    for name, reduction in plan.reductions.items():
        variables |= reduction.finalize(states[name], plan.source.rows, exact)
    if settings.histogram:
        for name, extreme in (("distance_max", "farthest"), ("distance_min", "nearest")):
            distance = variables[f"{extreme}_distance"][1]
            variables[name] = ((), distance[0] if distance.size else np.nan)
            if getattr(settings, extreme) is None:
                del variables[f"{extreme}_distance"], variables[f"{extreme}_token_id"]
    return variables
