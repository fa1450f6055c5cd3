"""One line a token: its norms, its distance from the centroid and from a point, ranks, identical rows, labels."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.analyses.duplicates import tokens_to_groups
from embgeom_dask.analyses.survey import Summary, summarize
from embgeom_dask.analyses.token_origins import Chosen, Origin, choose_origin
from embgeom_dask.batches.many import is_one
from embgeom_dask.batches.trees import one_or_tree
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Data, Given, given_rows
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.execution.kept_rows import reading_once
from embgeom_dask.execution.map_rows import by_chunk, rows_of_pass
from embgeom_dask.kernels.exact_sums import ColumnSums
from embgeom_dask.kernels.rationals import Rationals
from embgeom_dask.kernels.row_norms import nearest_distances
from embgeom_dask.kernels.row_sums import nearest_l1_and_linf
from embgeom_dask.pairwise.rows import check_fit, digest, group
from embgeom_dask.progress import showing
from embgeom_dask.statistics.hubs import of_neighbors, open_neighbors
from embgeom_dask.statistics.scripts import scripts
from embgeom_dask.storage import result_names, results
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike
from embgeom_dask.storage.validation import REACHABILITY

Array = NDArray[Any]

_RANKED = ("norm_l1", "norm_l2", "norm_linf", "centroid_distance", "origin_distance")


class RowNorms(NamedTuple):
    """What the first pass keeps of some rows: a survey's `summary`, `l1` and `linf` (n,)."""

    summary: Summary
    l1: Array
    linf: Array


def tokens(
    data: Data | Iterable[Data],
    role: Role | None = None,
    *,
    origin: Origin = None,
    neighbors_of: PathLike | xr.Dataset | None = None,
    out: PathLike | None = None,
    part: str | None = None,
    client: ClientLike | None = None,
    progress: bool | None = None,
) -> Any:
    """Describe every token by its row: norms, distance from the centroid, ranks, identical rows, and its labels.

    Norms and distances are the float64 numbers nearest to the true ones, of the stored values and their exact mean. So
    no bit depends on chunks, workers or threads. There are two passes over the rows; workers keep those that they read,
    as far as memory allows: the others are read twice.

    Parameters
    ----------
    data : path, array, or list of these
        A store, or any array that `scan` takes.
    role : {"input", "output"}, optional
        The matrix of a store; by default output, or input if the store has no output matrix.
    origin : int, str, path or array, optional
        The distance of every row from it is kept, too. A token, by id or by name as in a selection of `scan`; as many
        numbers as a row has, or a file that holds them, `FILE.npy` or `FILE.safetensors:KEY`; or "cluster", the centre
        of the dense cluster that `cluster` finds (the token of that name is '"cluster"', in quotes).
    neighbors_of : path or xarray.Dataset, optional
        The result of `scan` with `neighbors` of the same rows: what its lists say of each token is kept, too. No pair
        is visited again. Of one store only.
    out : path, optional
        Where to save the result. If the same result is there already, it is opened instead of computed again. With
        several stores it is a folder: each model is saved as `<organisation>--<name>.zarr`, the table of all of them
        as `table.zarr`.
    part : str, optional
        Of a list of stores do one part only, "2/8" the second of eight, where several commands share the folder `out`.
    client : Client, cluster or str, optional
        A dask client, a cluster or an address; by default the client that is active, or else a cluster in this process.
    progress : bool, optional
        Whether to show a bar with rate and time left, and a note with the address of dask's dashboard; by default only
        in a notebook.

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        Of a list a DataTree: a node for each model, and in the root a table of the numbers that each has one of. All
        variables are over `token_id`, unless it is said, with the coordinates `token` and `text`.

        - `norm_l1`, `norm_l2`, `norm_linf`, the norms of the row; `centroid_distance`, the euclidean distance from
          the mean row; with `origin` also `origin_distance`, from that row or point.
        - The rank of each, from 1 for the largest, equal ones by token id: `norm_l2_rank` and so on.
        - `token_to_group`, the group of identical rows that the token is in, numbered as `duplicates` does; -1 if its
          row is unique. `group_count ()`, `member_count ()`, the tokens in groups.
        - With `neighbors_of`, of each token's k neighbors: `neighbor_density`, 1 / their mean distance, infinite where
          all are at 0; `k_occurrence`, in how many lists the token is; `local_dimension`, by Levina and Bickel: k - 1
          over the sum of log(T_k / T_j), of the neighbors that are not at 0. Of all, `k_occurrence_skewness ()`, of
          population moments, which hubs make large; `local_dimension_mean ()`, the harmonic mean of the finite;
          `two_nn_dimension ()` of the `two_nn_count ()` tokens whose nearest is not at 0, by Facco et al.: a line
          through the origin, less the largest tenth of the ratios; `neighbor_count ()`, k, and `neighbor_metric ()`.
          These are float64 numbers within a few roundings; counts are exact.
        - `has_token`; where the rows are a store's own `is_added` and `is_special`, as the tokenizer has it, and, where
          that could be told when the checkpoint was converted, `reachability`: whether the text of the token is encoded
          to it, by magikarp's six categories. `OK`, `OK_SPECIAL` (a special token); of those that do not come back
          `UNREACHABLE_SPECIAL` (of the form `<...>` or `[...]`), `UNDECODEABLE` (no UTF-8 alone), and by what the text
          is encoded to instead `UNREACHABLE_SINGLE_TOKEN` or `UNREACHABLE_MULTI_TOKEN`; empty without a token.
        - `script`, of the text, by the names that Unicode gives its letters: `latin`, `cjk`, `cyrillic`, ...; `mixed`;
          of texts without letters `number`, `punctuation`, `symbol`, `space`, `control`, `mark`; `bytes` where the
          token is no text alone; empty where there is no token.
        - `vocab_size ()`. With `origin` also `origin_kind ()`, `token`, `point` or `cluster`; of a token
          `origin_token_id ()`, `origin_token ()` and `origin_text ()`, else `origin_point (hidden)`, rounded;
          `cluster_count ()`.

    Raises
    ------
    InputError
        If there is no store or no such matrix, if a row has NaN, infinity, or a float64 value below 2^-400 or above
        2^400 in size, if `origin` is not one row or not as many numbers as a row has,
        if no cluster stands apart, or if something else is at `out`.
    EmbgeomError
        If a store cannot be read.
    SomeFailed
        If some of several stores failed, after the others are done; its `results` are those of the others.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> rows = np.array([[3, 4], [0, 0], [3, -4]], np.float32)
    >>> found = tokens(make_store("tiny.zarr", output=rows, tokens=["one", "two", "3"]))
    >>> found["norm_l2"].values, found["norm_l2_rank"].values, found["script"].values.tolist()
    (array([5., 0., 5.]), array([1, 3, 2]), ['latin', 'latin', 'number'])
    """

    def one(each: Data, target: PathLike | None, active: ClientLike | None, _: int) -> xr.Dataset:
        return _tokens(each, role, origin, neighbors_of, target, active)

    if neighbors_of is not None and not is_one(data):
        raise InputError("`neighbors_of` is of one store: describe the tokens of each by itself")
    with showing(progress):
        how: dict[str, Any] = {"origin": origin}
        return one_or_tree("tokens", data, one, role=role, out=out, client=client, part=part, asked=how)


def _tokens(
    data: Data,
    role: Role | None,
    origin: Origin,
    neighbors_of: PathLike | xr.Dataset | None,
    out: PathLike | None,
    client: ClientLike | None,
) -> xr.Dataset:
    """Describe the tokens of one model."""
    started = perf_counter()
    with given_rows(data, role, client, whole=True) as given:
        matrix = given.matrix
        given.stored_labels()
        chosen = choose_origin(origin, given)
        settings: dict[str, Any] = {} if chosen is None else {"origin": chosen.setting(given)}
        settings |= {"tokens": given.selection} if given.selection else {}
        neighbors = None if neighbors_of is None else open_neighbors(neighbors_of, given)
        settings |= {} if neighbors is None else {"neighbors_of": neighbors.attrs["fingerprint"]}
        attrs = results.provenance("tokens", [matrix], ["cpu"], 0.0, settings)
        if out is not None and (done := results.existing(out, attrs)) is not None:
            return done
        with connect(client, out=out) as active, reading_once(active, matrix, rows_of_pass(active, matrix)):
            dataset = _measured(active, given, chosen)
        if neighbors is not None:
            dataset = dataset.assign(of_neighbors(neighbors))
        dataset = dataset.assign(_labels(given, dataset)).set_coords(["token_id", "token", "text"])
    return results.finish(dataset, attrs, started, out, result_names.of_matrices(attrs))


def _measured(client: Client, given: Given, origin: Chosen | None) -> xr.Dataset:
    """The numbers of every row, by two passes.

    Distances are from the mean that the first finds, and only rows of one norm are looked at for identical ones.
    """
    matrix, size = given.matrix, given.matrix.vocab_size
    sums, unfit = ColumnSums.none(matrix.hidden_size), np.empty(size, np.uint8)
    columns = {name: np.empty(size) for name in _RANKED[: 4 if origin is None else 5]}
    rows = rows_of_pass(client, matrix)
    for start, found in by_chunk("norms", matrix, _look, client=client, rows=rows):
        part = slice(start, start + len(found.l1))
        sums.add(found.summary.sums)
        columns["norm_l1"][part], columns["norm_linf"][part] = found.l1, found.linf
        columns["norm_l2"][part] = found.summary.norms
        unfit[part] = found.summary.unfit
    check_fit(matrix, given.ids, unfit)
    points = [sums.mean(size)]
    told: dict[str, Any] = {}
    if origin is not None:
        point, told = origin.place(client, given)
        points.append(point)
    for each in points:
        each.in_two_words()  # once, and not in every task
    alike, digests = _of_one_norm(columns["norm_l2"]), np.zeros((size, 16), np.uint8)
    for start, (distances, names) in by_chunk("distances", matrix, _distances, points, alike, client=client, rows=rows):
        part = slice(start, start + distances[0].size)
        for name, each in zip(_RANKED[3:], distances, strict=False):
            columns[name][part] = each
        digests[part][alike[part]] = names
    distinct = group(given.rows[alike], digests[alike])
    variables: dict[str, Any] = {}
    for name, values in columns.items():
        variables |= {name: ("token_id", values), f"{name}_rank": ("token_id", _ranks(values))}
    variables["token_to_group"] = ("token_id", tokens_to_groups(distinct, size))
    variables["group_count"] = np.count_nonzero(distinct.weights > 1)
    variables["member_count"] = int(distinct.weights[distinct.weights > 1].sum())
    variables["vocab_size"] = size
    return xr.Dataset(variables | told)


def _of_one_norm(norms: Array) -> Array:
    """Whether another row has the norm (n,) of each, (n,) bool: identical rows do, since norms are the nearest."""
    _, number, count = np.unique(norms, return_inverse=True, return_counts=True)
    shared: Array = count[number] > 1
    return shared


def _ranks(values: Array) -> Array:
    """The rank of each value, (n,) int64: 1 for the largest, equal ones in their order."""
    ranks = np.empty(values.size, np.int64)
    ranks[np.argsort(-values, kind="stable")] = np.arange(1, values.size + 1)
    return ranks


def _labels(given: Given, dataset: xr.Dataset) -> dict[str, Any]:
    """The labels of the rows, with the token from which distances are, where there is one."""
    named = given.labels()
    found: dict[str, Any] = {str(name): ("token_id", each.to_numpy()) for name, each in named.variables.items()}
    if not given.nbytes:  # else they were written without
        stored = given.stored_labels()
        for name in ("is_added", "is_special", REACHABILITY):
            if name in stored:
                found[name] = ("token_id", stored[name][given.rows])
    texts = np.where(named["has_token"].to_numpy(), named["text"].to_numpy(), "")
    found["script"] = ("token_id", scripts(texts.tolist()))
    if "origin_token_id" in dataset:
        row = int(np.flatnonzero(given.ids == dataset["origin_token_id"].item())[0])
        found |= {f"origin_{what}": str(named[what].to_numpy()[row]) for what in ("token", "text")}
    return found


def _look(matrix: Matrix, part: tuple[int, int]) -> RowNorms:
    with devices.session(torch.device("cpu")):
        rows = matrix.read(*part)
        return RowNorms(summarize(rows), *nearest_l1_and_linf(rows))


def _distances(
    matrix: Matrix, part: tuple[int, int], points: list[Rationals], alike: Array
) -> tuple[list[Array], Array]:
    """The distances of rows from each point, and the digests of those that are `alike`, of all rows (n,) bool."""
    with devices.session(torch.device("cpu")):
        rows = matrix.read(*part)
        return [nearest_distances(rows, point) for point in points], digest(rows[alike[slice(*part)]])
