"""What two vocabularies have in common beyond rows: neighbours that are kept, CSLS, and the nearest shared tokens."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import xarray as xr
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask.analyses.matching import Matched, pieces
from embgeom_dask.analyses.scan import scan
from embgeom_dask.execution.arrays import Given
from embgeom_dask.storage import model_stores
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
            how["against"] = model_stores.open_model(against.store, raw=True)[against.name][np.sort(theirs)]
        found = scan(matrix.store, device=self.device, client=self.client, **how)
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

    `cosine` (n,) are the cosine distances of the pairs; r is the mean cosine of a row with the k nearest rows of the
    other matrix, of those that are matched.
    """
    means = []
    sides = (first.matrix, matched.first), (second.matrix, matched.second)
    for (matrix, rows), (against, others) in (sides, sides[::-1]):
        found = scans.nearest(k, "cosine", matrix, rows, against, others)
        near = np.full(matrix.vocab_size, np.nan)
        near[found["token_id"].to_numpy()] = 1 - found["neighbor_distance"].to_numpy().mean(axis=1)
        means.append(near[rows])
    return {
        "csls": ("token_id", 2 * (1 - cosine) - means[0] - means[1]),
        "near_cosine_mean": ("token_id", means[0]),
        "against_near_cosine_mean": ("token_id", means[1]),
    }


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
        "shared_token_id": (("unmatched", "shared"), np.where(rows >= 0, first.ids_of(rows), -1)),
        "shared_token": (("unmatched", "shared"), np.where(rows >= 0, pieces(first)[rows], "")),
    }
