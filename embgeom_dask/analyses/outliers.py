"""Clusters of tokens: the outliers of seed notebook 1.7b, and the geometry of the triangle that they make."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import nan
from time import perf_counter

import numpy as np
import torch
import xarray as xr
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.analyses.cluster import CLUSTER, members_of
from embgeom_dask.analyses.scan import scan
from embgeom_dask.analyses.survey import Summary, summarize
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Data, Given, given_rows
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.execution.map_rows import map_rows, parts_of
from embgeom_dask.kernels.exact_sums import ColumnSums
from embgeom_dask.kernels.rationals import Rationals, nearest_root
from embgeom_dask.kernels.row_checks import unfit
from embgeom_dask.kernels.row_norms import nearest_distances
from embgeom_dask.pairwise.rows import check_fit
from embgeom_dask.progress import showing
from embgeom_dask.selections.selection import Cluster, Selection, read_cluster
from embgeom_dask.storage import fill, result_names, result_tokens, results
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike

Vector = NDArray[np.float64]

_SPREAD = ("min", "max", "median", "mean")


def outliers(
    data: Data,
    tokens: Selection = CLUSTER,
    role: Role | None = None,
    *,
    out: PathLike | None = None,
    device: str = "auto",
    client: ClientLike | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Find the two tokens of a selection that are farthest apart, and where they lie as seen from its centroid.

    A and B are the farthest pair, where A has the lower token id; C is the centroid. Distances are euclidean.
    Distances, norms, the centroid and every mean are the float64 numbers nearest to the true ones, which are those of
    the stored values and of their exact mean.

    Parameters
    ----------
    data : path or array
        A store, or any array that `scan` takes.
    tokens : selection
        The tokens to compare, as `scan` takes them; at least two. If this is a safetensors file with a centroid, that
        centroid is C; else C is the mean row of the selection. By default, or with "cluster", the tokens are those of
        the dense cluster that `cluster` finds. (A token with the name cluster is given as '"cluster"', in quotes.)
    role : {"input", "output"}, optional
        The matrix of a store; by default output, or input if the store has no output matrix.
    out : path, optional
        Where to save the result. If the same result is there already, it is opened instead of computed again.
    device : {"auto", "cpu", "cuda", "mps"}
        The device that each worker multiplies on.
    client : Client, cluster or str, optional
        A dask client, a cluster, or the address of a scheduler. By default the active client, or else a local cluster.
    progress : bool, optional
        Whether to show a progress bar, and the address of dask's dashboard; by default only in a notebook.

    Returns
    -------
    xarray.Dataset
        Its dimensions are `side` (A, B), `vertex` (A, B, C), `segment` (AB, BC, CA) and `hidden`. The attribute
        `centroid_source` is "file" or "mean".

        - `farthest_distance`, `farthest_token_id (side)`, `farthest_token (side)`, `farthest_text (side)`.
        - `norm (side)`, the distance from the origin; `centroid_distance (side)`; `norm_ratio (side)`, the norm divided
          by `centroid_norm` (NaN if the centroid is zero).
        - `segment_length (segment)`; `angle_law_of_cosines (vertex)` and `angle_dot_product (vertex)`, in degrees.
        - `outlier_token_id`, `outlier_token`: the one of A and B that is farther from the centroid in exact arithmetic,
          or A if neither is.
        - `norm_min`, `norm_max`, `norm_median`, `norm_mean`, and `centroid_distance_min` to `centroid_distance_mean`,
          over the selection; a mean is that of the numbers reported; `token_count`.
        - `centroid (hidden)`, `centroid_norm`.

    Raises
    ------
    InputError
        If the store, the matrix or the selection cannot be used, if the selection has fewer than two tokens, if the
        centroid of its file does not have the width of the matrix, or if a row or that centroid has NaN, infinity, or a
        float64 value below 2^-400 or above 2^400 in size.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> rows = np.array([[0, 0], [1, 0], [4, 0]], np.float32)
    >>> found = outliers(make_store("tiny.zarr", output=rows), [0, 1, 2])
    >>> float(found["farthest_distance"]), int(found["outlier_token_id"])
    (4.0, 2)
    """
    started = perf_counter()
    with showing(progress), given_rows(data, role, client) as given:
        source = given.matrix
        given.stored_labels()
        sought = isinstance(tokens, str) and tokens == CLUSTER
        selected = None if sought else _read(tokens, given)
        centroid = None if selected is None else selected[0].centroid
        settings = _settings(given, selected)
        attrs = results.provenance("outliers", [source], [], 0.0, settings)
        attrs["centroid_source"] = "mean" if centroid is None else "file"
        if out is not None and (done := results.existing(out, attrs)) is not None:
            return done
        with connect(client, device, out) as active:
            cluster, chosen = selected or _read(_cluster_of(active, data, role), given)
            dataset, attrs["devices"] = _measured(active, chosen, cluster, device)
        dataset = result_tokens.with_ids(dataset, [given.token_id])
    return results.finish(dataset, attrs, started, out, result_names.of_matrices(attrs))


def without_cluster(width: int) -> xr.Dataset:
    """The result of a matrix of so many columns in which no cluster stands apart: NaN, -1, no text, and no token."""
    two, three = np.full(2, nan), np.full(3, nan)
    variables = {
        "farthest_distance": nan,
        "farthest_token_id": ("side", np.full(2, -1)),
        "outlier_token_id": -1,
        **dict.fromkeys(("norm", "centroid_distance", "norm_ratio"), ("side", two)),
        **{f"{name}_{how}": nan for name in ("norm", "centroid_distance") for how in _SPREAD},
        "token_count": 0,
        "centroid": ("hidden", np.full(width, nan)),
        "centroid_norm": nan,
        "segment_length": ("segment", three),
        **dict.fromkeys(("angle_law_of_cosines", "angle_dot_product"), ("vertex", three)),
    }
    of_pair = dict.fromkeys(("farthest_token", "farthest_text"), ("side", np.array(["", ""], np.object_)))
    tokens = {**of_pair, **dict.fromkeys(("outlier_token", "outlier_text"), np.array("", np.object_))}
    return xr.Dataset(variables, {**tokens, "side": _names("A", "B")})


def _cluster_of(client: Client, data: Data, role: Role | None) -> NDArray[np.int64]:
    """The token ids (n,) of the dense cluster of all rows of a matrix or an array."""
    with given_rows(data, role, client, whole=True) as given:
        return given.ids[members_of(client, given, "choose tokens with `tokens`")]


def _settings(given: Given, selected: tuple[Cluster, Given] | None) -> dict[str, str]:
    """What decides the result: the tokens and the centroid of a selection, or that the cluster is sought."""
    if selected is None:
        return {"tokens": CLUSTER} | ({"rows": given.selection} if given.selection else {})
    cluster, chosen = selected
    return {
        "tokens": fill.sha256(chosen.ids),
        "centroid": "" if cluster.centroid is None else fill.sha256(cluster.centroid),
    }


def _measured(client: Client, chosen: Given, cluster: Cluster, device: str) -> tuple[xr.Dataset, list[str]]:
    """The variables of the result, with numbers of rows as token ids, and the devices used."""
    source = chosen.matrix
    norms, centroid = _norms_and_centroid(client, chosen, cluster)
    numbered = replace(chosen, token_id=None)  # rows by their numbers, with the labels that were read
    scanned = scan(numbered, farthest=1, device=device, client=client)
    pair = scanned["farthest_token_id"].values[0]
    parts = parts_of(source, chosen.rows)
    distances = np.concatenate(map_rows(client, "distances", source, parts, _distances, centroid))
    with devices.session(torch.device("cpu")):
        a, b = (Rationals.of(row) for row in source.take(pair).astype(np.float64))
    at = np.searchsorted(chosen.rows, pair)
    variables = {
        "farthest_distance": scanned["farthest_distance"].values[0],
        "farthest_token_id": ("side", pair),
        "outlier_token_id": pair[int(_squared(b.minus(centroid)) > _squared(a.minus(centroid)))],
        "norm": ("side", norms[at]),
        "centroid_distance": ("side", distances[at]),
        "norm_ratio": ("side", norms[at] / centroid.l2 if centroid.l2 else np.full(2, nan)),
        **_spread("norm", norms),
        **_spread("centroid_distance", distances),
        "token_count": chosen.rows.size,
        "centroid": ("hidden", centroid.nearest()),
        "centroid_norm": centroid.l2,
    }
    dataset = result_tokens.with_tokens(xr.Dataset(variables, {"side": _names("A", "B")}), [chosen.stored_labels()])
    return dataset.merge(_triangle(a, b, centroid)), scanned.attrs["devices"]


def triangle(a: Vector, b: Vector, c: Vector) -> xr.Dataset:
    """Return the sides and angles of the triangle of the points `a`, `b`, `c`, each (d,) float64.

    `segment_length (segment)` holds |AB|, |BC| and |CA|, the float64 numbers nearest to the true lengths. The angle at
    each vertex, in degrees, is given twice: `angle_law_of_cosines (vertex)` from these lengths, cos A = (|AB|^2 +
    |CA|^2 - |BC|^2) / (2 |AB| |CA|), which cancels in a needle, and `angle_dot_product (vertex)`, whose cosine
    (B - A).(C - A) / (|AB| |CA|) is within two roundings of the true one. At a vertex that coincides with another it is
    undefined: NaN.
    """
    return _triangle(*(Rationals.of(point) for point in (a, b, c)))


def _triangle(a: Rationals, b: Rationals, c: Rationals) -> xr.Dataset:
    along = [b.minus(a), c.minus(b), a.minus(c)]
    lengths = [side.l2 for side in along]
    by_law, by_dot = np.full(3, nan), np.full(3, nan)
    for vertex in range(3):
        leaving, across, coming = (along[(vertex + turn) % 3] for turn in range(3))
        if leaving.l2 and coming.l2:
            by_law[vertex] = _law_of_cosines(leaving.l2, coming.l2, across.l2)
            by_dot[vertex] = -_cosine(leaving, coming)
    return xr.Dataset(
        {
            "segment_length": ("segment", lengths),
            "angle_law_of_cosines": ("vertex", np.degrees(np.arccos(np.clip(by_law, -1, 1)))),
            "angle_dot_product": ("vertex", np.degrees(np.arccos(by_dot))),
        },
        coords={"segment": _names("AB", "BC", "CA"), "vertex": _names("A", "B", "C")},
    )


def _law_of_cosines(left: float, right: float, across: float) -> float:
    longest = max(left, right, across)  # no square overflows, and none that counts underflows
    left, right, across = left / longest, right / longest, across / longest
    return (left**2 + right**2 - across**2) / (2 * left * right)


def _cosine(left: Rationals, right: Rationals) -> float:
    dot = left.dot(right)
    square = dot * dot / (_squared(left) * _squared(right))
    size = nearest_root(square.numerator, square.denominator)
    return size if dot > 0 else -size


def _squared(vector: Rationals) -> Fraction:
    return vector.dot(vector)


def _read(tokens: Selection, given: Given) -> tuple[Cluster, Given]:
    """The selection, and the rows of its tokens."""
    cluster, matrix = read_cluster(tokens, given.vocab_size, given.labels), given.matrix
    chosen = given.select(cluster.token_ids)
    if chosen.rows.size < 2:
        raise InputError(f"outliers needs two tokens or more, the selection is token {chosen.ids[0]} alone")
    if cluster.centroid is not None and cluster.centroid.size != matrix.hidden_size:
        raise InputError(
            f"the centroid in {tokens} has {cluster.centroid.size} components, {matrix.name} of {matrix.model} has "
            f"{matrix.hidden_size}: choose the cluster's own model and matrix"
        )
    if cluster.centroid is not None and unfit(cluster.centroid[None])[0]:
        raise InputError(
            f"the centroid in {tokens} holds values under 2^-400 or over 2^400 in size: choose another file"
        )
    return cluster, chosen


def _norms_and_centroid(client: Client, chosen: Given, cluster: Cluster) -> tuple[Vector, Rationals]:
    parts = parts_of(chosen.matrix, chosen.rows)
    summaries: list[Summary] = map_rows(client, "outliers", chosen.matrix, parts, _summarize_rows)
    check_fit(chosen.matrix, chosen.ids, np.concatenate([part.unfit for part in summaries]))
    norms = np.concatenate([part.norms for part in summaries])
    if cluster.centroid is not None:
        return norms, Rationals.of(cluster.centroid)
    sums = ColumnSums.none(chosen.matrix.hidden_size)
    for part in summaries:
        sums.add(part.sums)
    return norms, sums.mean(chosen.rows.size)


def _summarize_rows(matrix: Matrix, token_ids: NDArray[np.int64]) -> Summary:
    return summarize(matrix.take(token_ids))


def _distances(matrix: Matrix, token_ids: NDArray[np.int64], centroid: Rationals) -> Vector:
    with devices.session(torch.device("cpu")):
        return nearest_distances(matrix.take(token_ids), centroid)


def _spread(name: str, values: Vector) -> dict[str, float]:
    mean = Rationals.of(values).mean
    found = (values.min(), values.max(), np.median(values), mean)
    return {f"{name}_{how}": float(value) for how, value in zip(_SPREAD, found, strict=True)}


def _names(*names: str) -> NDArray[np.generic]:
    return np.array(names)
