"""Clusters of tokens: the outliers of seed notebook 1.7b, and the geometry of the triangle that they make."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from hashlib import sha256

import numpy as np
import xarray as xr
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import results, stores
from embgeom_dask.cluster import connect
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.scans import scan
from embgeom_dask.stores import Matrix, Role
from embgeom_dask.surveys import check_finite, mean_row, summarize
from embgeom_dask.tokens import Cluster, Selection, read_cluster

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

    - `farthest_distance`, `farthest_token_id (side)`, `farthest_token (side)`;
    - `norm (side)`, from the origin; `centroid_distance (side)`; `norm_ratio (side)`, the norm over `centroid_norm`
      (NaN where the centroid is zero);
    - `segment_length (segment)`, `angle_law_of_cosines (vertex)` and `angle_dot_product (vertex)` in degrees (see
      `triangle`);
    - `outlier_token_id`, `outlier_token`: of A and B the one with the greater `centroid_distance`, A where they are
      equal;
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
    cluster = _read(tokens, source)
    with connect(client, scheduler, device) as active:
        norms, centroid = _norms_and_centroid(source, cluster)
        distances = np.concatenate(
            [summarize(rows - centroid, "cpu").norms for rows in _blocks(source, cluster.token_ids)]
        )
        scanned = scan(store, which=matrix, tokens=cluster.token_ids, farthest=1, device=device, client=active)
    pair = scanned["farthest_token_id"].values[0]
    at = np.searchsorted(cluster.token_ids, pair)
    a, b = source.take(pair).astype(np.float64)
    length = _length(centroid)
    variables = {
        "farthest_distance": scanned["farthest_distance"].values[0],
        "farthest_token_id": ("side", pair),
        "outlier_token_id": pair[np.argmax(distances[at])],
        "norm": ("side", norms[at]),
        "centroid_distance": ("side", distances[at]),
        "norm_ratio": ("side", norms[at] / length if length else np.full(2, np.nan)),
        **_spread("norm", norms),
        **_spread("centroid_distance", distances),
        "token_count": cluster.token_ids.size,
        "centroid": ("hidden", centroid),
        "centroid_norm": length,
    }
    settings = {"tokens": _digest(cluster.token_ids), "centroid": _digest(centroid)}
    seconds = time.perf_counter() - started
    attrs = results.provenance("outliers", [source], scanned.attrs["devices"], seconds, settings)
    attrs["centroid_source"] = "mean" if cluster.centroid is None else "file"
    dataset = xr.Dataset(variables, {"side": _names("A", "B")}, attrs).merge(triangle(a, b, centroid))
    return results.with_tokens(dataset, [source])


def triangle(a: Vector, b: Vector, c: Vector) -> xr.Dataset:
    """Return the sides and angles of the triangle of the points `a`, `b`, `c`, each (d,) float64.

    `segment_length (segment)` holds |AB|, |BC| and |CA|, from differences. The angle at each vertex, in degrees, is
    given twice: `angle_law_of_cosines (vertex)` from the three lengths, cos A = (|AB|^2 + |CA|^2 - |BC|^2) /
    (2 |AB| |CA|), and `angle_dot_product (vertex)` from the vectors, cos A = (B - A).(C - A) / (|AB| |CA|). At a vertex
    that coincides with another it is undefined: NaN.

    Raises
    ------
    EmbgeomError
        where the two cosines differ by more than rounding explains: 32 eps (|AB|^2 + |CA|^2 + |BC|^2) / (2 |AB| |CA|),
        which allows for the cancellation of the law of cosines in a needle.
    """
    points = (a, b, c)
    by_law, by_dot = np.full(3, np.nan), np.full(3, np.nan)
    for vertex in range(3):
        following, last = points[(vertex + 1) % 3], points[(vertex + 2) % 3]
        left, right, across = following - points[vertex], last - points[vertex], following - last
        sides = _length(left) * _length(right)
        if sides == 0:
            continue
        by_law[vertex] = (_dot(left, left) + _dot(right, right) - _dot(across, across)) / (2 * sides)
        by_dot[vertex] = _dot(left, right) / sides
        scale = (_dot(left, left) + _dot(right, right) + _dot(across, across)) / (2 * sides)
        if not abs(by_law[vertex] - by_dot[vertex]) <= 32 * np.finfo(np.float64).eps * scale:
            raise EmbgeomError(
                f"the cosine at {'ABC'[vertex]} is {by_law[vertex]} by the law of cosines and {by_dot[vertex]} by dot "
                "product: the rows are too small for squares in float64"
            )
    return xr.Dataset(
        {
            "segment_length": ("segment", [_length(points[i] - points[(i + 1) % 3]) for i in range(3)]),
            "angle_law_of_cosines": ("vertex", np.degrees(np.arccos(np.clip(by_law, -1, 1)))),
            "angle_dot_product": ("vertex", np.degrees(np.arccos(np.clip(by_dot, -1, 1)))),
        },
        coords={"segment": _names("AB", "BC", "CA"), "vertex": _names("A", "B", "C")},
    )


def _dot(left: Vector, right: Vector) -> float:
    return math.fsum(left * right)


def _length(vector: Vector) -> float:
    return math.sqrt(_dot(vector, vector))


def _read(tokens: Selection, matrix: Matrix) -> Cluster:
    cluster = read_cluster(tokens, matrix.vocab_size)
    if cluster.token_ids.size < 2:
        raise InputError(f"outliers needs two tokens or more, the selection has only {cluster.token_ids[0]}")
    if cluster.centroid is not None and cluster.centroid.size != matrix.hidden_size:
        raise InputError(
            f"the centroid in {tokens} has {cluster.centroid.size} components, {matrix.name} of {matrix.model} has "
            f"{matrix.hidden_size}: choose the cluster's own model and matrix"
        )
    return cluster


def _blocks(matrix: Matrix, token_ids: NDArray[np.int64]) -> Iterator[Vector]:
    step = max(1, _BLOCK_VALUES // matrix.hidden_size)
    for start in range(0, token_ids.size, step):
        yield matrix.take(token_ids[start : start + step]).astype(np.float64)


def _norms_and_centroid(matrix: Matrix, cluster: Cluster) -> tuple[Vector, Vector]:
    summaries = [summarize(rows, "cpu") for rows in _blocks(matrix, cluster.token_ids)]
    norms = np.concatenate([block.norms for block in summaries])
    check_finite(matrix, cluster.token_ids, norms)
    return norms, mean_row(summaries) if cluster.centroid is None else cluster.centroid


def _spread(name: str, values: Vector) -> dict[str, float]:
    return {f"{name}_{how.__name__}": float(how(values)) for how in (np.min, np.max, np.median, np.mean)}


def _names(*names: str) -> NDArray[np.generic]:
    return np.array(names, dtype=np.dtypes.StringDType())


def _digest(values: NDArray[np.generic]) -> str:
    return sha256(values.tobytes()).hexdigest()
