"""Clusters of tokens: the outliers of seed notebook 1.7b, and the geometry of the triangle that they make."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator

import numpy as np
import xarray as xr
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import results, stores
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.scan import scan
from embgeom_dask.stores import Matrix, Role
from embgeom_dask.survey import check_finite, mean_row, summarize
from embgeom_dask.tokens import Selection, read_cluster

Vector = NDArray[np.float64]

_BLOCK_VALUES = 1 << 22  # 32 MiB of float64


def outliers(
    store: str | os.PathLike[str],
    tokens: Selection,
    matrix: Role | None = None,
    *,
    device: str = "auto",
    client: Client | None = None,
    scheduler: str | None = None,
) -> xr.Dataset:
    """Find the two tokens of a selection that are farthest apart, and where they lie as seen from its centroid.

    A and B are the farthest pair, A the lower token id; C is the centroid: that of the safetensors file that `tokens`
    names where it has one (attribute `centroid_source` = "file"), else the mean row of the selection ("mean"). Lengths
    are euclidean, all is float64, and distances are taken from differences. The dimensions are `side` (A, B), `vertex`
    (A, B, C), `segment` (AB, BC, CA) and `hidden`:

    - `farthest_distance`, `farthest_token_id (side)` with `farthest_token (side)` and `farthest_text (side)`;
    - `norm (side)`, from the origin; `centroid_distance (side)`; `norm_ratio (side)`, the norm over `centroid_norm`
      (infinite where the centroid is zero);
    - `segment_length (segment)`, `angle_law_of_cosines (vertex)` and `angle_dot_product (vertex)` in degrees (see
      `triangle`);
    - `outlier_token_id` with `outlier_token` and `outlier_text`: of A and B the farther from the centroid, A where
      neither is;
    - `norm_min`, `norm_max`, `norm_median`, `norm_mean`, and `centroid_distance_min` ... `centroid_distance_mean`:
      over the selection; `token_count`;
    - `centroid (hidden)`, `centroid_norm`.

    Raises
    ------
    InputError
        where the store, the matrix or the selection cannot be used, the selection has fewer than two tokens, its
        file's centroid has another width than the matrix, or a row holds NaN or infinity.
    EmbgeomError
        where the two ways to the angles disagree.
    """
    started = time.perf_counter()
    source = stores.find_matrix(store, matrix)
    cluster = read_cluster(tokens, source.vocab_size)
    if cluster.token_ids.size < 2:
        raise InputError(f"outliers needs two tokens or more, the selection has only {cluster.token_ids[0]}")
    if cluster.centroid is not None and cluster.centroid.size != source.hidden_size:
        raise InputError(
            f"the centroid in {tokens} has {cluster.centroid.size} components, {source.name} of {source.model} has "
            f"{source.hidden_size}: choose the cluster's own model and matrix"
        )
    norms, mean = _norms_and_mean(source, cluster.token_ids)
    centroid = mean if cluster.centroid is None else cluster.centroid
    distances = np.concatenate([summarize(rows - centroid, "cpu").norms for rows in _blocks(source, cluster.token_ids)])

    scanned = scan(
        store, which=matrix, tokens=cluster.token_ids, farthest=1, device=device, client=client, scheduler=scheduler
    )
    pair = scanned["farthest_token_id"].values[0]
    at = np.searchsorted(cluster.token_ids, pair)
    dataset = xr.Dataset(
        {
            "farthest_distance": scanned["farthest_distance"].values[0],
            "farthest_token_id": ("side", pair),
            "outlier_token_id": pair[np.argmax(distances[at])],
            "norm": ("side", norms[at]),
            "centroid_distance": ("side", distances[at]),
            **_spread("norm", norms),
            **_spread("centroid_distance", distances),
            "token_count": cluster.token_ids.size,
            "centroid": ("hidden", centroid),
            "centroid_norm": math.sqrt(math.fsum(centroid**2)),
        }
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        dataset["norm_ratio"] = dataset["norm"] / dataset["centroid_norm"]
    dataset = dataset.merge(triangle(*source.take(pair).astype(np.float64), centroid))
    dataset = _label(dataset, source)
    dataset.attrs = results.provenance("outliers", [source], scanned.attrs["devices"], time.perf_counter() - started)
    dataset.attrs["centroid_source"] = "mean" if cluster.centroid is None else "file"
    return dataset


def triangle(a: Vector, b: Vector, c: Vector) -> xr.Dataset:
    """Return the sides and angles of the triangle of the points `a`, `b`, `c`, each (d,) float64.

    `segment_length (segment)` holds |AB|, |BC| and |CA|, from differences. The angle at each vertex, in degrees, is
    given twice: `angle_law_of_cosines (vertex)` from the three lengths, cos A = (|AB|^2 + |CA|^2 - |BC|^2) /
    (2 |AB| |CA|), and `angle_dot_product (vertex)` from the vectors, cos A = (B - A).(C - A) / (|AB| |CA|). At a vertex
    that coincides with another it is undefined: NaN.

    Raises
    ------
    EmbgeomError
        where the two cosines differ by more than rounding explains, 8 (d + 8) eps (|AB|^2 + |CA|^2 + |BC|^2) /
        (2 |AB| |CA|); in a needle-thin triangle the law of cosines cancels, and this allows for it.
    """
    points = (a, b, c)
    by_law, by_dot = np.full(3, np.nan), np.full(3, np.nan)
    for vertex in range(3):
        left, right = (points[(vertex + step) % 3] - points[vertex] for step in (1, 2))
        across = points[(vertex + 1) % 3] - points[(vertex + 2) % 3]
        sides = _length(left) * _length(right)
        if sides == 0:
            continue
        squares = [_length(edge) ** 2 for edge in (left, right, across)]
        by_law[vertex] = (squares[0] + squares[1] - squares[2]) / (2 * sides)
        by_dot[vertex] = math.fsum(left * right) / sides
        tolerance = 8 * (a.size + 8) * np.finfo(np.float64).eps * sum(squares) / (2 * sides)
        if not abs(by_law[vertex] - by_dot[vertex]) <= tolerance:
            raise EmbgeomError(
                f"the cosine at {'ABC'[vertex]} is {by_law[vertex]} by the law of cosines and {by_dot[vertex]} by dot "
                "product: the rows are too large or too small for float64"
            )
    return xr.Dataset(
        {
            "segment_length": ("segment", [_length(points[i] - points[(i + 1) % 3]) for i in range(3)]),
            "angle_law_of_cosines": ("vertex", np.degrees(np.arccos(np.clip(by_law, -1, 1)))),
            "angle_dot_product": ("vertex", np.degrees(np.arccos(np.clip(by_dot, -1, 1)))),
        },
        coords={"segment": ["AB", "BC", "CA"], "vertex": ["A", "B", "C"]},
    )


def _length(vector: Vector) -> float:
    return math.sqrt(math.fsum(vector**2))


def _blocks(matrix: Matrix, token_ids: NDArray[np.int64]) -> Iterator[Vector]:
    step = max(1, _BLOCK_VALUES // matrix.hidden_size)
    for start in range(0, token_ids.size, step):
        yield matrix.take(token_ids[start : start + step]).astype(np.float64)


def _norms_and_mean(matrix: Matrix, token_ids: NDArray[np.int64]) -> tuple[Vector, Vector]:
    summaries = [summarize(rows, "cpu") for rows in _blocks(matrix, token_ids)]
    norms = np.concatenate([block.norms for block in summaries])
    check_finite(matrix, token_ids, norms)
    return norms, mean_row(summaries)


def _spread(name: str, values: Vector) -> dict[str, float]:
    return {f"{name}_{how.__name__}": float(how(values)) for how in (np.min, np.max, np.median, np.mean)}


def _label(dataset: xr.Dataset, matrix: Matrix) -> xr.Dataset:
    """Add the token strings of every `*_token_id`."""
    for role in ("farthest", "outlier"):
        ids = dataset[f"{role}_token_id"]
        found = stores.labels(matrix.store, np.atleast_1d(ids.values))
        for name in ("token", "text"):
            dataset = dataset.assign_coords({f"{role}_{name}": (ids.dims, found[name].values.reshape(ids.shape))})
    return dataset.assign_coords(side=["A", "B"])
