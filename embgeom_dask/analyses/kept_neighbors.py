"""What two vocabularies share beyond single rows: common neighbors, CSLS, and the nearest shared tokens."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import xarray as xr
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask.analyses.scan import scan
from embgeom_dask.execution.arrays import Given, temporary_store
from embgeom_dask.kernels.row_checks import SMALLEST
from embgeom_dask.selections.matching import Matched, pieces
from embgeom_dask.storage import model_writing
from embgeom_dask.storage.model_stores import Matrix

Array = NDArray[Any]


class Scans(NamedTuple):
    """How the rows of one matrix, or of two, are scanned; `devices` gets those that did."""

    client: Client
    device: str
    devices: set[str]

    def nearest(self, k: int, metric: str, matrix: Matrix, rows: Array, *others: Any) -> xr.Dataset:
        """The `k` nearest for each of the rows `rows` (n,) of a matrix; ids are numbers of rows.

        The nearest of the others of them; or with a second matrix and rows (m,) of it, of these.
        """
        how: dict[str, Any] = {"role": matrix.role, "tokens": np.sort(rows), "neighbors": k, "metric": metric}
        if others:
            against, theirs = others
            how["against"] = against.rows()[np.sort(theirs)]
        found = scan(matrix, device=self.device, client=self.client, **how)
        self.devices.update(found.attrs["devices"])
        return cast(xr.Dataset, found)


def neighbors_kept(scans: Scans, first: Given, second: Given, matched: Matched, k: int, metric: str) -> dict[str, Any]:
    """How many of the k nearest of the rows that are matched are the nearest in both matrices."""
    lists = []
    for given, rows in ((first, matched.first), (second, matched.second)):
        found = scans.nearest(k, metric, given.matrix, rows)
        places = np.full(given.matrix.vocab_size + 1, -1)
        places[rows] = np.arange(rows.size)
        ids = found["neighbor_token_id"].to_numpy()
        listed = np.full((rows.size, ids.shape[1]), -1)
        listed[places[found["token_id"].to_numpy()]] = np.where(ids >= 0, places[ids], -1)
        lists.append(listed)
    kept = sum((lists[0] == lists[1][:, [place]]) & (lists[0] >= 0) for place in range(lists[1].shape[1]))
    count = np.asarray(kept).sum(axis=1)
    share = count.sum() / max(1, np.count_nonzero(lists[0] >= 0))
    return {"neighbors_kept": ("token_id", count), "neighbors_kept_share": float(share)}


def csls(scans: Scans, first: Given, second: Given, matched: Matched, cosine: Array, k: int) -> dict[str, Any]:
    """Cross-domain similarity local scaling of each two rows that are matched: 2 cos - r - r' (Conneau et al. 2018).

    Also the k rows of the other matrix for which it is largest, of all that are matched. `cosine` (n,) are the cosine
    distances of the pairs; r is the mean cosine of a row with the k nearest rows of the other matrix, of those that are
    matched.
    """
    means = []
    sides = (first.matrix, matched.first), (second.matrix, matched.second)
    for (matrix, rows), (against, others) in (sides, sides[::-1]):
        found = scans.nearest(k, "cosine", matrix, rows, against, others)
        near = np.full(matrix.vocab_size, np.nan)
        near[found["token_id"].to_numpy()] = 1 - found["neighbor_distance"].to_numpy().mean(axis=1)
        means.append(near[rows])
    return _nearest_by_csls(scans, second, sides, means, k) | {
        "csls": ("token_id", 2 * (1 - cosine) - means[0] - means[1]),
        "near_cosine_mean": ("token_id", means[0]),
        "against_near_cosine_mean": ("token_id", means[1]),
    }


def _nearest_by_csls(
    scans: Scans, second: Given, sides: tuple[tuple[Matrix, Array], ...], means: list[Array], k: int
) -> dict[str, Any]:
    """For each row of the first side the k of the second of largest CSLS: a product, of directions with a column more.

    With x and y of length 1 the product of (x, 1) and (y, -r' / 2) is (2 cos - r') / 2, and r is one number a row.
    """
    known = [np.flatnonzero(~np.isnan(each)) for each in means]  # rows of zeros have no direction
    if not min(keep.size for keep in known):
        return {}
    last = np.ones(known[0].size), -means[1][known[1]] / 2
    with ExitStack() as stack:
        stored = []
        for (matrix, rows), keep, column in zip(sides, known, last, strict=True):
            directions = _Directions(matrix, rows[keep], column)
            stored.append(stack.enter_context(temporary_store(directions.write, f"{matrix.label} by directions")))
        mine, theirs = (each.matrix for each in stored)
        found = scan(mine, against=theirs, metric="dot", top=k, device=scans.device, client=scans.client)
        scans.devices.update(found.attrs["devices"])
    size, width = means[0].size, found.sizes["top"]
    values, rows = np.full((size, width), np.nan), np.full((size, width), -1)
    values[known[0]] = 2 * found["top_product"].to_numpy() - means[0][known[0], None]
    places = known[1][found["top_token_id"].to_numpy()]
    rows[known[0]] = sides[1][1][places]
    has = np.isin(known[0], known[1])  # a pair with a row of zeros has no CSLS that could be first or not
    first = places[has, 0] == known[0][has]
    return {
        "near_csls": (("token_id", "near"), values),
        **_named("near", ("token_id", "near"), second, rows),
        "csls_first_share": float(np.mean(first)) if first.size else np.nan,
    }


@dataclass(frozen=True)
class _Directions:
    """The rows `rows` (n,) of a matrix, divided by their norms, and a column after them, as a store is written from."""

    matrix: Matrix
    rows: Array
    last: Array
    tensor: str = "direction"

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.size, self.matrix.hidden_size + 1

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def read(self, start: int, stop: int) -> Array:
        values = self.matrix.take(self.rows[start:stop]).astype(np.float64)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        values[np.abs(values) < SMALLEST] = 0
        return np.column_stack([values, self.last[start:stop]])

    def write(self, folder: str) -> str:
        attrs = {"model": self.matrix.model, "revision": self.matrix.revision}
        return model_writing.write_model(f"{folder}/directions.zarr", {"output_embedding": self}, attrs=attrs)


def nearest_shared(scans: Scans, first: Given, matched: Matched, k: int) -> dict[str, Any]:
    """For each row that is not matched, the k nearest by cosine of those that are, of the same matrix."""
    left = np.setdiff1d(first.rows, matched.first)
    if not left.size:
        return {}
    found = scans.nearest(k, "cosine", first.matrix, left, first.matrix, matched.first)
    width = found.sizes["neighbor"]
    distances, rows = np.full((left.size, width), np.nan), np.full((left.size, width), -1)
    places = np.searchsorted(left, found["token_id"].to_numpy())
    distances[places], rows[places] = found["neighbor_distance"], found["neighbor_token_id"]
    return {
        "shared_distance": (("unmatched", "shared"), distances),
        **_named("shared", ("unmatched", "shared"), first, rows),
    }


def _named(stem: str, dims: tuple[str, str], given: Given, rows: Array) -> dict[str, Any]:
    """The token ids and the strings of rows by their numbers; of -1 it is -1 and the empty ones."""
    return {
        f"{stem}_token_id": (dims, np.where(rows >= 0, given.ids_of(rows), -1)),
        **{f"{stem}_{what}": (dims, np.where(rows >= 0, pieces(given, what)[rows], "")) for what in ("token", "text")},
    }
