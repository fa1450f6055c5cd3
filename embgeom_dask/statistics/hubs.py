"""Statistics of lists of neighbors: density, hubs (tokens in many lists), intrinsic dimension."""

from __future__ import annotations

import json
import math
from typing import Any, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from embgeom_dask.errors import InputError, parse_path
from embgeom_dask.execution.arrays import Given
from embgeom_dask.storage.model_stores import label
from embgeom_dask.storage.paths import PathLike
from embgeom_dask.storage.results import open_result

Array = NDArray[Any]

_KEPT_RATIOS = 0.9
"""The share of the ratios that TwoNN fits, the smallest: Facco et al. discard the others."""


def open_neighbors(neighbors_of: PathLike | xr.Dataset, given: Given) -> xr.Dataset:
    """The result of a scan with `neighbors` of all these rows.

    Raises
    ------
    InputError
        where it is none.
    """
    if isinstance(neighbors_of, xr.Dataset):
        found, named = neighbors_of, "the result"
    else:
        named = parse_path("neighbors_of", neighbors_of)
        found = cast(xr.Dataset, open_result(named))
    if found.attrs.get("command") != "scan" or "neighbor_distance" not in found:
        raise InputError(f"`neighbors_of`: {named} has no neighbors: give the result of scan with `neighbors`")
    of = (given.matrix, given.copied or given.matrix)  # a scan compares some rows of a store where they are
    if found.attrs["sha256"] not in [[each.sha256] for each in of]:
        sides = zip(found.attrs["model"], found.attrs["revision"], found.attrs["matrix"], strict=True)
        whose = " against ".join(f"{label(model, revision)} {matrix}" for model, revision, matrix in sides)
        own = f"{given.matrix.label} {given.matrix.name}"
        raise InputError(f"`neighbors_of`: {named} is of {whose}, and not of {own} alone")
    if not np.array_equal(found["token_id"], given.ids):
        raise InputError(f"`neighbors_of`: {named} has {found.sizes['token_id']} tokens, and not those of the table")
    return found


def of_neighbors(found: xr.Dataset) -> dict[str, Any]:
    """The variables of tokens that `tokens` documents, from lists of neighbors."""
    distance = found["neighbor_distance"].transpose("token_id", "neighbor").to_numpy()
    neighbor = found["neighbor_token_id"].transpose("token_id", "neighbor").to_numpy()
    ids = found["token_id"].to_numpy()
    order = np.argsort(ids, kind="stable")
    place = np.searchsorted(ids, neighbor[neighbor >= 0], sorter=order)
    occurrence = np.bincount(order[place], minlength=ids.size)
    local = local_dimension(distance)
    usable = local[np.isfinite(local) & (local > 0)]
    dimension, count = two_nn(distance)
    return {
        "neighbor_density": ("token_id", density(distance)),
        "k_occurrence": ("token_id", occurrence),
        "k_occurrence_skewness": skewness(occurrence),
        "local_dimension": ("token_id", local),
        "local_dimension_mean": usable.size / math.fsum(1 / usable) if usable.size else math.nan,
        "two_nn_dimension": dimension,
        "two_nn_count": count,
        "neighbor_count": distance.shape[1],
        "neighbor_metric": json.loads(found.attrs["settings"])["metric"],
    }


def density(distance: Array) -> Array:
    """1 / the mean distance of the neighbors (n, k) of each token, (n,): infinite where all are at 0, NaN without any.

    The mean is of the exact sum; with the division there are three roundings.
    """
    found = np.full(len(distance), np.nan)
    for i, row in enumerate(distance):
        near = row[~np.isnan(row)].tolist()
        if near:
            total = math.fsum(near)
            found[i] = 1 / (total / len(near)) if total else np.inf
    return found


def skewness(counts: Array) -> float:
    """The skewness of integers (n,): the third central moment over the cube of the standard deviation, both over n."""
    numbers = counts.tolist()
    size, total = len(numbers), sum(numbers)
    off = [size * number - total for number in numbers]  # n times as far from the mean, without error
    square, cube = sum(each**2 for each in off), sum(each**3 for each in off)
    return cube / size / (square / size) ** 1.5 if square else math.nan


def local_dimension(distance: Array) -> Array:
    """The local intrinsic dimension of each token (n,), by Levina and Bickel, of its neighbors (n, k), nearest first.

    (k - 1) / sum_j log(T_k / T_j) over j < k, T_j the distance of neighbor j. Neighbors at 0 are left out: k counts the
    others. NaN where fewer than two are left, infinite where all these are at one distance.
    """
    used = distance > 0
    count = used.sum(axis=1)
    farthest = np.max(distance, axis=1, initial=0.0, where=used)
    ratio = np.where(used, farthest[:, None] / np.where(used, distance, 1.0), 1.0)
    total = np.log(ratio).sum(axis=1)
    found = np.full(len(distance), np.nan)
    (enough,) = np.nonzero(count >= 2)
    positive = total[enough] > 0
    found[enough] = np.where(positive, (count[enough] - 1) / np.where(positive, total[enough], 1.0), np.inf)
    return found


def two_nn(distance: Array) -> tuple[float, int]:
    """The intrinsic dimension by TwoNN (Facco et al. 2017), of neighbors (n, k), and of how many tokens it is.

    mu is the distance of the second neighbor over that of the first, of tokens whose first is not at 0. With mu in
    ascending order, -log(1 - i / n) of the i-th is fitted by a line through the origin over log mu, less the largest
    tenth; the dimension is its slope. NaN where there is none.
    """
    if distance.shape[1] < 2:
        return math.nan, 0
    first, second = distance[:, 0], distance[:, 1]
    apart = (first > 0) & ~np.isnan(second)
    x = np.log(np.sort(second[apart] / first[apart]))
    rank = np.arange(1, x.size + 1)
    kept = rank <= _KEPT_RATIOS * x.size
    x, y = x[kept], -np.log1p(-(rank[kept] / max(1, kept.size)))
    square = float(x @ x)
    return (float(x @ y) / square if square else math.nan), int(apart.sum())
