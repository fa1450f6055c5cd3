"""The nearest tokens of a few tokens, by name."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter

import numpy as np
import xarray as xr

from embgeom_dask.analyses.scan import scan
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Data, given_rows
from embgeom_dask.execution.cluster import ClientLike
from embgeom_dask.execution.spec import parse_count
from embgeom_dask.metrics import find_distance
from embgeom_dask.selections.selection import in_order
from embgeom_dask.storage import fill, result_names, result_tokens, results
from embgeom_dask.storage.model_stores import Role
from embgeom_dask.storage.paths import PathLike


def neighbors(
    data: Data,
    tokens: str | Iterable[int | str],
    k: int = 10,
    *,
    role: Role | None = None,
    metric: str = "euclidean",
    out: PathLike | None = None,
    device: str = "auto",
    client: ClientLike | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Find the nearest tokens of each of a few tokens; the token itself is left out.

    Parameters
    ----------
    data : path or array
        A store, or any array that `scan` takes.
    tokens : str or list of int and str
        The tokens whose neighbors are sought: names and ids, `king,queen` or `["king", 2332]`, as `scan` reads them.
    k : int
        How many neighbors of each; fewer if there are no more. A token with an identical row is a neighbor at distance
        0.
    role : {"input", "output"}, optional
        The matrix of a store; by default output, or input where there is no output matrix.
    metric : {"euclidean", "cosine", "chebyshev", "cityblock"}
        The distance between two rows.
    out : path, optional
        Where to save the result; the same result there is opened instead of computed again.
    device : {"auto", "cpu", "cuda", "mps"}
        The device that each worker multiplies on.
    client : Client, cluster or str, optional
        A dask client, a cluster, or the address of a scheduler. By default the active client, or else a local cluster.
    progress : bool, optional
        Whether to show a progress bar, and the address of dask's dashboard; by default only in a notebook.

    Returns
    -------
    xarray.Dataset
        `neighbor_distance` float64 and `neighbor_token_id` int64, `(token_id, neighbor)`, nearest first, with the
        strings `token`, `text`, `neighbor_token` and `neighbor_text`; tokens come in the order given. Where rows of an
        array share a token id, each of them has its line.

    Raises
    ------
    InputError
        As `scan` does, and if a name is not that of a token, or is that of several.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> rows = np.array([[0, 0], [3, 4], [0, 1]], np.float32)
    >>> found = neighbors(make_store("tiny.zarr", output=rows, tokens=["a", "b", "c"]), "a", k=2)
    >>> found["neighbor_token"].values, found["neighbor_distance"].values
    (array([['c', 'b']], dtype=object), array([[1., 5.]]))
    """
    started = perf_counter()
    count = parse_count("k", k)
    if count is None:
        raise InputError("`k`: give the number of neighbors")
    find_distance(metric)
    with given_rows(data, role, client, whole=True) as given:
        matrix, ids = given.matrix, in_order(tokens, given.vocab_size, given.labels)
        settings = {"tokens": fill.sha256(ids), "k": count, "metric": metric}
        attrs = results.provenance("neighbors", [matrix], [], 0.0, settings)
        if out is not None and (done := results.existing(out, attrs)) is not None:
            return done
        if (missing := ids[~np.isin(ids, given.ids)]).size:
            raise InputError(f"token {missing[0]} is no row of the array given")
        chosen = given.select(ids)
        kept = {"neighbors": count + 1, "metric": metric, "tokens": chosen.rows, "device": device, "client": client}
        found = scan(matrix, against=matrix, progress=progress, **kept)
    named = result_tokens.with_ids(_without_itself(found, count), [given.token_id, given.token_id])
    places = np.concatenate([np.flatnonzero(named["token_id"].to_numpy() == each) for each in ids])
    attrs |= {"devices": found.attrs["devices"], "certificate": found.attrs["certificate"]}
    return results.finish(named.isel(token_id=places), attrs, started, out, result_names.of_matrices(attrs))


def _without_itself(found: xr.Dataset, k: int) -> xr.Dataset:
    """Of the k + 1 nearest rows to each, the first k that are not the row itself."""
    numbers = found["neighbor_token_id"].to_numpy()
    others = numbers != found["token_id"].to_numpy()[:, None]
    first = np.argsort(~others, axis=1, kind="stable")[:, : min(k, numbers.shape[1] - 1)]
    labels = ("neighbor_token", "neighbor_text")
    names = ("neighbor_distance", "neighbor_token_id", *labels)
    taken = {name: (("token_id", "neighbor"), np.take_along_axis(found[name].to_numpy(), first, 1)) for name in names}
    coords = {"token_id": found["token_id"], **{name: taken.pop(name) for name in labels}}
    coords |= {name: found[name] for name in ("token", "text") if name in found.coords}
    return xr.Dataset(taken, coords)
