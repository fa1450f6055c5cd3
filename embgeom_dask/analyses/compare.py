"""Two vocabularies row by row, and a list of them all against all."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from time import perf_counter
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import xarray as xr
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices, tuning
from embgeom_dask.analyses import alignment, kept_neighbors
from embgeom_dask.analyses.kept_neighbors import Scans
from embgeom_dask.analyses.lineage import lineage
from embgeom_dask.analyses.survey import Summary, summarize
from embgeom_dask.batches import many
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Data, Given, given_rows, is_array, names_role
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.execution.map_rows import in_order
from embgeom_dask.execution.plan import ITEMSIZE
from embgeom_dask.execution.spec import parse_count
from embgeom_dask.kernels.exact_sums import ColumnSums
from embgeom_dask.kernels.rationals import Rationals
from embgeom_dask.kernels.row_differences import changed_values
from embgeom_dask.metrics import DISTANCES, METRICS, find_distance
from embgeom_dask.pairwise.exact import Exact, Rows
from embgeom_dask.pairwise.rows import check_fit
from embgeom_dask.progress import showing
from embgeom_dask.selections.matching import Matched, labels_of, match_rows, unmatched
from embgeom_dask.storage import result_names, results
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike

Array = NDArray[Any]


class RowPairs(NamedTuple):
    """Pairs that one task compares: the rows `rows` (n,) of a matrix with the rows `others` (n,) of `against`."""

    rows: Array
    others: Array
    against: Matrix


class PairsSummary(NamedTuple):
    """What is kept of some pairs of rows: the summary of either side; how many values differ in each pair, and its
    distances by each metric, (n,) each: none where widths differ, or where a row is unfit.
    """

    first: Summary
    second: Summary
    changed: Array | None
    distances: dict[str, Array]


class Asked(NamedTuple):
    """What is asked of two vocabularies beyond their rows: how many neighbors, by which metric, and so on."""

    neighbors: int | None
    csls: int | None
    shared: int | None
    columns: bool
    metric: str


def compare(
    data: Data | Iterable[Data],
    other: Data | None = None,
    role: Role | None = None,
    *,
    match: str = "id",
    neighbors: int | None = None,
    csls: int | None = None,
    shared: int | None = None,
    columns: bool = False,
    metric: str = "euclidean",
    out: PathLike | None = None,
    device: str = "auto",
    client: ClientLike | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Compare two vocabularies row by row, or find which of several share bytes, rows, columns and tokens.

    Distances and norms are the float64 numbers nearest to the true ones of the stored values, whatever their types.
    Each chunk of the first vocabulary is read once. Chunks of the second are read several times where the matched
    tokens are in a very different order.

    Parameters
    ----------
    data : path, array, or list of these
        A store, or any array that `scan` takes; a list of at least two where `other` is not given.
    other : path or array, optional
        The vocabulary to compare with. `STORE:input` and `STORE:output` name a matrix of a store, else `role` does.
    role : {"input", "output"}, optional
        The matrix of a store; by default output, or input if the store has no output matrix.
    match : {"id", "token"}
        How rows are matched: by token id, or by token. Two tokens are the same if their bytes are the same. For this,
        the marks of a leading space of SentencePiece and of byte-level BPE count as spaces, and in WordPiece a piece
        that begins a word has a space before it. If several tokens of one vocabulary are the same, the one with the
        lowest id is taken.
    neighbors : int, optional
        How many nearest tokens of each token to compare: the result counts those that are the same in both
        vocabularies, among the matched tokens. It takes a scan of each vocabulary.
    csls : int, optional
        How many nearest rows to use for cross-domain similarity local scaling (CSLS, Conneau et al. 2018). The result
        has the CSLS of each matched pair of rows, and for each row so many rows of the other side with the largest
        CSLS. It takes three scans of one side against the other. The last scan is of directions in float64, which are
        written to a temporary store for either side.
    shared : int, optional
        How many matched tokens to name for each token of `data` that is not matched: the nearest ones by cosine.
    columns : bool
        Whether to compare the columns over the matched rows: which column of the other side each one is, linear CKA,
        and leading components. The widths may differ. It takes one more pass, and scipy.
    metric : {"euclidean", "cosine", "chebyshev", "cityblock"}
        The distance that `neighbors` uses.
    out : path, optional
        Where to save the result. If the same result is there already, it is opened instead of computed again.
    device : {"auto", "cpu", "cuda", "mps"}
        The device that each worker multiplies on, in the scans.
    client : Client, cluster or str, optional
        A dask client, a cluster, or the address of a scheduler. By default the active client, or else a local cluster.
    progress : bool, optional
        Whether to show a progress bar, and the address of dask's dashboard; by default only in a notebook.

    Returns
    -------
    xarray.Dataset
        Of two, over `token_id`, the tokens of `data` that are matched:

        - `euclidean_distance`, `cosine_distance` (NaN where a row is zero), `chebyshev_distance` and
          `cityblock_distance` from the row that it is matched with, and `changed_value_count`, how many of its values
          are others (-0 is 0); these are there only if both have the same width. `norm_l2` and `against_norm_l2`.
        - `against_token_id`, and the coordinates `token`, `text`, `against_token` and `against_text`; by id, where
          both have tokens, also `token_changed`, whether the two are called differently.
        - `centroid (hidden)` and `against_centroid` of the rows that are matched (`against_hidden` where the widths
          differ), and `centroid_shift`, the distance between them.
        - `matched_count`, `identical_count`, `token_changed_count`; `vocab_size`, `hidden_size`, `unmatched_count`, and
          of the other side `against_vocab_size` and so on; `unmatched_token_id (unmatched)` and
          `against_unmatched_token_id (against_unmatched)` where there are any.
        - With `neighbors`: `neighbors_kept (token_id)`, how many neighbors are the same in both, and
          `neighbors_kept_share` of all. With `csls`: `csls (token_id)`, 2 cos - r - r', and the means r and r',
          `near_cosine_mean` and `against_near_cosine_mean`; over `token_id` and `near`, `near_csls`, within 1e-12, and
          `near_token_id` of the other side; and `csls_first_share`, for which share of the pairs without a row of zeros
          the matched row is the first of these. With `shared`: `shared_distance` and `shared_token_id`, over
          `unmatched` and `shared`; NaN and -1 of rows of zeros, and where there are fewer.
        - With `columns`: `column_match (hidden)`, the column of the other side that each is (-1 for none), so that the
          sum of sizes of cosines is the largest there is (AWM, arXiv 2510.06738), `column_cosine` of the two, negative
          where the sign was turned; `column_cosine_mean` of their sizes, `column_moved_count` and
          `column_negated_count`. `cka`, linear CKA (Kornblith et al. 2019), |C_xy|^2 / (|C_xx| |C_yy|) in Frobenius
          norms of covariances, within `cka_error`. Of the 10 leading components of either side
          `score_correlation (component, against_component)`, that of the scores of the tokens, `component_cosine` where
          the widths are the same, and `component_share (component)` and `against_component_share` of the variance.

        Of a list, over `model` and `against`, the same models:

        - `same_bytes`, whether both matrices have the same type, shape and bytes; `identical_row_count`, how many token
          ids have the same row in both; `shared_row_count`, how many different rows of one the other has anywhere.
        - `identical_column_count`, how many columns are the same in both, `shared_column_count`, how many different
          columns of one the other has anywhere; of the rows that both have, where one has more than the other.
        - `shared_token_count`, how many different tokens both have, matched as by `match="token"`; and over `model`
          `vocab_size`, `hidden_size`, `dtype` and `tied`. -0 is 0; values of different types are compared as values.

    Raises
    ------
    InputError
        If there is no store or no such matrix, if what is asked of two is asked of a list, if the two are of different
        roles and `role` is not given, if no row is matched, if a row has NaN, infinity, or a float64 value below 2^-400
        or above 2^400 in size (of a list these are compared like other values), if the columns do not fit into memory,
        or if something else is at `out`.
    EmbgeomError
        If a store cannot be read.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> rows = np.array([[3, 4], [0, 1], [1, 1]], np.float32)
    >>> base = make_store("base.zarr", output=rows, tokens=["a", "b", "c"])
    >>> tuned = make_store("tuned.zarr", output=rows * np.float32([[1], [1], [2]]), tokens=["a", "b", "c"])
    >>> found = compare(base, tuned)
    >>> found["identical_count"].item(), found["euclidean_distance"].values, found["cosine_distance"].values
    (2, array([0.        , 0.        , 1.41421356]), array([0., 0., 0.]))
    >>> compare([base, tuned])["identical_row_count"].values
    array([[3, 2],
           [2, 3]])
    """
    with showing(progress):
        asked = _asked(neighbors, csls, shared, columns, metric)
        if other is None:
            if asked != Asked(None, None, None, False, "") or match != "id":
                raise InputError("this is asked of two stores: of a list only which bytes, rows and columns are shared")
            return lineage(many.each_of(data, "compare"), role, out, client)
        if not many.is_one(data):
            raise InputError("`data` is a list: compare it all against all without `other`, or give one store")
        return _compare(cast(Data, data), other, role, match, asked, out, device, client)


def _asked(neighbors: int | None, csls: int | None, shared: int | None, columns: bool, metric: str) -> Asked:
    counts = {
        name: parse_count(name, each) for name, each in (("neighbors", neighbors), ("csls", csls), ("shared", shared))
    }
    found = find_distance(metric).name
    return Asked(**counts, columns=bool(columns), metric=found if neighbors else "")


def _compare(
    data: Data,
    other: Data,
    role: Role | None,
    match: str,
    asked: Asked,
    out: PathLike | None,
    device: str,
    client: ClientLike | None,
) -> xr.Dataset:
    """Compare two vocabularies row by row."""
    started = perf_counter()
    with ExitStack() as stack:
        first = stack.enter_context(given_rows(data, role, client, whole=True))
        second = stack.enter_context(given_rows(other, role, client, whole=True))
        if role is None and not any(is_array(each) or names_role(each) for each in (data, other)):
            _check_roles(first.matrix, second.matrix)
        settings: dict[str, Any] = {"match": match} | {name: value for name, value in asked._asdict().items() if value}
        settings |= {
            name: each.selection
            for name, each in (("tokens", first), ("against", second))
            if each.selection is not None
        }
        attrs = results.provenance("compare", [first.matrix, second.matrix], ["cpu"], 0.0, settings)
        if out is not None and (done := results.existing(out, attrs)) is not None:
            return done
        for each in (first, second):
            each.stored_labels()
        _check_asked(asked, first.matrix, second.matrix)
        matched = match_rows(first, second, match)
        with connect(client, device, out) as active:
            variables, means = _measured(active, first, second, matched)
            more, attrs["devices"] = _more(active, first, second, matched, asked, variables, means, device)
            variables |= more
        dataset = xr.Dataset(variables | unmatched(first, second, matched) | labels_of(first, second, matched, match))
        labelled = [name for name in dataset.variables if str(name).endswith(("token", "text"))]
        dataset = dataset.set_coords(["token_id", *labelled])
    return results.finish(dataset, attrs, started, out, result_names.of_matrices(attrs))


def _check_roles(first: Matrix, second: Matrix) -> None:
    """Refuse the input matrix of one and the output matrix of the other, unasked; a tied one is both."""
    if first.name != second.name and not (first.tied or second.tied):
        raise InputError(
            f"by default {first.model} gives its {first.name} and {second.model} its {second.name}: choose one `role`"
        )


def _check_asked(asked: Asked, first: Matrix, second: Matrix) -> None:
    """Refuse what two matrices cannot be asked."""
    if asked.csls and first.hidden_size != second.hidden_size:
        raise InputError(
            f"`csls`: {first.label} has {first.hidden_size} columns and {second.label} has {second.hidden_size}"
        )
    if asked.columns:
        alignment.check_columns(first, second)


def _more(
    client: Client,
    first: Given,
    second: Given,
    matched: Matched,
    asked: Asked,
    measured: dict[str, Any],
    means: list[Rationals],
    device: str,
) -> tuple[dict[str, Any], list[str]]:
    """What is asked beyond the rows, and the devices that it was computed on."""
    variables: dict[str, Any] = {}
    scans = Scans(client, device, {"cpu"})
    if asked.neighbors:
        variables |= kept_neighbors.neighbors_kept(scans, first, second, matched, asked.neighbors, asked.metric)
    if asked.csls:
        cosine = measured["cosine_distance"][1]
        variables |= kept_neighbors.csls(scans, first, second, matched, cosine, asked.csls)
    if asked.shared:
        variables |= kept_neighbors.nearest_shared(scans, first, matched, asked.shared)
    if asked.columns:
        with devices.session(torch.device("cpu")):
            variables |= alignment.compare_columns(client, first.matrix, second.matrix, matched, means)
    return variables, sorted(scans.devices)


def _measured(client: Client, first: Given, second: Given, matched: Matched) -> tuple[dict[str, Any], list[Rationals]]:
    """The variables of one pass over the rows that are matched, and the mean row of either side."""
    matrix, against, size = first.matrix, second.matrix, matched.first.size
    sums = [ColumnSums.none(each.hidden_size) for each in (matrix, against)]
    norms, unfit = np.empty((2, size)), np.empty((2, size), np.uint8)
    kept: dict[str, Array] = {}
    parts = _parts(matrix, against, matched)
    sizes = [part.rows.size for part in parts]
    begin = 0
    for pairs in in_order(client, "compare", matrix, parts, sizes, _look):
        here = slice(begin, begin + pairs.first.norms.size)
        for side, summary in enumerate((pairs.first, pairs.second)):
            sums[side].add(summary.sums)
            norms[side, here], unfit[side, here] = summary.norms, summary.unfit
        columns = {f"{name}_distance": values for name, values in pairs.distances.items()}
        columns |= {} if pairs.changed is None else {"changed_value_count": pairs.changed}
        for name, values in columns.items():
            kept.setdefault(name, np.zeros(size, values.dtype))[here] = values
        begin = here.stop
    for given, rows, bad in zip((first, second), matched, unfit, strict=True):
        check_fit(given.matrix, given.ids_of(rows), bad)
    variables: dict[str, Any] = {name: ("token_id", values) for name, values in kept.items()}
    variables |= {"norm_l2": ("token_id", norms[0]), "against_norm_l2": ("token_id", norms[1])}
    if kept:
        variables["identical_count"] = np.count_nonzero(kept["changed_value_count"] == 0)
    means = [each.mean(size) for each in sums]
    return variables | _centroids(*means), means


def _centroids(mine: Rationals, theirs: Rationals) -> dict[str, Any]:
    same = len(mine.numerators) == len(theirs.numerators)
    found: dict[str, Any] = {
        "centroid": ("hidden", mine.nearest()),
        "against_centroid": ("hidden" if same else "against_hidden", theirs.nearest()),
    }
    return found | ({"centroid_shift": mine.minus(theirs).l2} if same else {})


def _parts(matrix: Matrix, against: Matrix, matched: Matched) -> list[RowPairs]:
    """The pairs of rows in parts that one task reads."""
    row_bytes = sum(each.hidden_size * ITEMSIZE[each.dtype] for each in (matrix, against))
    step = max(matrix.chunk_rows, 2 * tuning.PART_BYTES // row_bytes)
    return [
        RowPairs(matched.first[start : start + step], matched.second[start : start + step], against)
        for start in range(0, matched.first.size, step)
    ]


def _look(matrix: Matrix, part: RowPairs) -> PairsSummary:
    """What is kept of the pairs of a part; runs on a worker."""
    with devices.session(torch.device("cpu")):
        x, y = matrix.take(part.rows), part.against.take(part.others)
        first, second = summarize(x), summarize(y)
        if x.shape != y.shape or first.unfit.any() or second.unfit.any():  # refused when all are known
            return PairsSummary(first, second, None, {})
        changed = changed_values(x, y)
        directed = (first.norms > 0) & (second.norms > 0)
        return PairsSummary(
            first, second, changed, {name: _distances(name, x, y, changed, directed) for name in DISTANCES}
        )


def _distances(name: str, x: Array, y: Array, changed: Array, directed: Array) -> Array:
    """The distance of each row of x from that of y; identical rows are at 0, and rows of zeros have no cosine."""
    metric, found = METRICS[name], np.zeros(len(x))
    exact = Exact(metric, Rows(len(x), lambda _: x), Rows(len(y), lambda _: y), x.shape[1], 1.0)
    asked = changed > 0
    if metric.undefined_for_zero_rows:
        found[~directed] = np.nan
        asked &= directed
    places = np.flatnonzero(asked)
    found[places] = exact.distances(places, places)
    return found
