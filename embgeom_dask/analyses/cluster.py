"""The dense cluster of a vocabulary, as of tokens that were never trained, without a box drawn by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
import xarray as xr
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.analyses.scan import scan
from embgeom_dask.batches.trees import one_or_tree
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Data, Given, given_rows
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.execution.kept_rows import reading_once
from embgeom_dask.execution.map_rows import by_chunk, in_order, map_rows, parts_of_kept, rows_of_pass
from embgeom_dask.execution.spec import parse_count
from embgeom_dask.kernels.exact_sums import ColumnSums, column_sums
from embgeom_dask.kernels.rationals import Rationals
from embgeom_dask.kernels.row_checks import unfit
from embgeom_dask.kernels.row_norms import nearest_distances, rough_distances
from embgeom_dask.pairwise.rows import check_fit
from embgeom_dask.progress import showing
from embgeom_dask.selections.origins import row_of
from embgeom_dask.statistics.gaps import Distances, UpToGap, up_to_gap
from embgeom_dask.statistics.means import mean_of
from embgeom_dask.storage import result_names, result_tokens, results
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike

Array = NDArray[Any]

CLUSTER = "cluster"
"""In place of tokens or a point: the dense cluster that `cluster` finds."""

LEAST = 16
"""Tokens of a cluster, at least."""

APART = 2.0
"""What `contrast` a cluster has that stands apart: along a line of tokens at equal steps it is 2, in a plane less."""

_APART_WHERE_DENSE = 3.0
"""What `contrast` a cluster has that is sought from dense places. Of 32 tokens spread evenly in a disc 16 are within a
third of its radius once in 2 * 10^7 times, within half of it once in 500 times."""

_MOST_STEPS = 100
_GAPS = 10

_SAMPLE = 512
"""Tokens among which dense places are sought. None is of a cluster of one token in a hundred once in 170 times."""

_STARTS = 4
"""Dense places that a cluster is looked for from."""

Step = tuple[str, UpToGap, float]
"""What kind it is, the tokens up to the gap as seen from its centre, and how far the next centre is."""


def cluster(
    data: Data | Iterable[Data],
    role: Role | None = None,
    *,
    least: int = LEAST,
    origin: int | str | None = None,
    out: PathLike | None = None,
    part: str | None = None,
    client: ClientLike | None = None,
    progress: bool | None = None,
) -> Any:
    """Find the dense cluster of a vocabulary: the tokens about one centre, up to the gap in their distances from it.

    It begins at the mean row of all tokens and narrows: the half of the tokens nearest to the centre, their mean as the
    next centre, and so on down to `least` tokens. There it refines: of the distances of all tokens from the centre, in
    ascending order, it takes those up to a gap; the mean of these tokens is the next centre, until the tokens are those
    of a step before.

    The gap: let r(k) be the k-th smallest distance. Where r(2k) / r(k) is largest, the number of tokens doubles over
    the longest way; that ratio is the `contrast`. Between these k and 2k tokens the gap is where r(j + 1) / r(j) is
    largest. k is at least `least` and at most a quarter of all tokens, and a distance under 2^-10 of the median one
    counts as that, so that a group of identical rows within a cluster is none of its own. A cluster *stands apart*
    where the contrast is 2 or more. A cloud of one piece has less: 2^(1 / d) in d dimensions.

    Where what it found does not stand apart, as where the cluster is far from the mean, it refines once more, from a
    row in a dense place: of 512 tokens, at equal steps of their ids, it takes the four whose `least` nearest rows that
    differ are nearest, and of these the one from which the contrast is largest. That cluster is the result if its
    contrast is 3 or more: of so many places in a plane one has 2 by chance.

    Centres are the exact means of stored values, distances the float64 numbers nearest to the true ones, and equal
    distances come in order of the token ids: no bit depends on chunks, workers or threads. Every step is a pass over
    the rows, about 20 in all; workers keep the rows that they read, as far as memory allows, and of most rows a rough
    distance with a bound of its error decides.

    Parameters
    ----------
    data : path, array, or list of these
        A store, or any array that `scan` takes.
    role : {"input", "output"}, optional
        The matrix of a store; by default output, or input if the store has no output matrix.
    least : int
        How many tokens the cluster has at least.
    origin : int or str, optional
        A token, by id or by name: it refines from the row of this token, and does not narrow.
    out : path, optional
        Where to save the result; of a list, a folder. If the same result is there already, it is opened instead of
        computed again.
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
        Of a list a DataTree: a node for each model, and in the root a table of the numbers that each has one of.

        - `in_cluster (token_id)`, `cluster_distance (token_id)`, the distance of each token from `centroid (hidden)`,
          the mean row of the cluster; `is_candidate (token_id)`, the tokens that refining began with.
        - `cluster_token_id (cluster)` and the coordinate `cluster_token`, nearest to the centroid first.
        - `cluster_count ()`, `cluster_radius ()`, the largest distance in it, `next_distance ()`, the smallest outside,
          `contrast ()`, `stands_apart ()`, `is_stable ()`, false where steps come in a circle, and `vocab_size ()`.
        - Every step (`iteration`): `iteration_kind`, "narrow" or "refine", and "dense" of the first one from a row in a
          dense place; `iteration_count`, the tokens taken,
          `iteration_radius`, `iteration_next_distance` and `iteration_contrast`, as seen from its centre, and
          `iteration_shift`, how far the centre of the next step is from it.
        - The largest gaps between distances from the centroid (`gap`), largest first: `gap_width`, `gap_start`,
          `gap_end` and `gap_token_count`, the tokens inside. Between them lie the shells.

    Raises
    ------
    InputError
        If there is no store or no such matrix, if it has fewer than four times `least` rows, if a row has NaN,
        infinity, or a float64 value below 2^-400 or above 2^400 in size, if `origin` is not one row, or if something
        else is at `out`.
    SomeFailed
        If some of several stores failed, after the others are done; its `results` are those of the others.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> rows = np.random.default_rng(0).normal(size=(40, 8))
    >>> rows[5:10] = 0.01 * rows[5:10] + 0.3
    >>> found = cluster(make_store("tiny.zarr", output=rows), least=3)
    >>> np.flatnonzero(found["in_cluster"].values), bool(found["stands_apart"])
    (array([5, 6, 7, 8, 9]), True)
    """
    parse_count("least", least)

    def one(each: Data, target: PathLike | None, active: ClientLike | None, _: int) -> xr.Dataset:
        return _cluster(each, role, least, origin, target, active)

    with showing(progress):
        how: dict[str, Any] = {"least": least, "origin": origin}
        return one_or_tree("cluster", data, one, role=role, out=out, client=client, part=part, asked=how)


class NoCluster(InputError):
    """No cluster stands apart."""


def members_of(client: Client, given: Given, advice: str) -> Array:
    """The rows, int64 (n,), of the dense cluster of all rows of a matrix; `advice` says what to give where none is.

    Raises
    ------
    InputError
        where there are too few rows.
    NoCluster
        where none stands apart.
    """
    matrix = given.matrix
    if matrix.vocab_size < 4 * LEAST:
        raise InputError(
            f"{matrix.model}: a cluster is sought among {4 * LEAST} rows or more, and {matrix.name} has "
            f"{matrix.vocab_size}: {advice}"
        )
    dataset = _found(client, given, LEAST, None)
    if not dataset["stands_apart"].item():
        raise NoCluster(
            f"{matrix.model}: no cluster of {matrix.name} stands apart (contrast {dataset['contrast'].item():.3g}, "
            f"under {APART:g}): {advice}"
        )
    return np.flatnonzero(dataset["in_cluster"].to_numpy())


def _cluster(
    data: Data, role: Role | None, least: int, origin: int | str | None, out: PathLike | None, client: ClientLike | None
) -> xr.Dataset:
    """Find the cluster of one model."""
    started = perf_counter()
    with given_rows(data, role, client, whole=True) as given:
        matrix = given.matrix
        given.stored_labels()
        row = None if origin is None else row_of(origin, given)
        settings: dict[str, Any] = {"least": least} | ({} if row is None else {"origin": int(given.ids[row])})
        settings |= {"tokens": given.selection} if given.selection else {}
        attrs = results.provenance("cluster", [matrix], ["cpu"], 0.0, settings)
        if out is not None and (done := results.existing(out, attrs)) is not None:
            return done
        with connect(client, out=out) as active:
            dataset = _found(active, given, least, row)
        dataset = result_tokens.with_tokens(
            dataset.assign_coords(token_id=np.arange(matrix.vocab_size)), [given.stored_labels()]
        )
        dataset = result_tokens.with_ids(dataset, [given.token_id])
    return results.finish(dataset, attrs, started, out, result_names.of_matrices(attrs))


@dataclass(frozen=True)
class _Rows:
    """The rows of a matrix, on the workers of a client."""

    client: Client
    given: Given

    @property
    def step(self) -> int:
        """The rows that a task reads."""
        return rows_of_pass(self.client, self.given.matrix)

    def mean(self, rows: Array) -> Rationals:
        """The mean of some rows, exactly."""
        return mean_of(self.client, "centre", self.given.matrix, rows)

    def mean_of_all(self) -> Rationals:
        """The mean of all rows, none of which may be unfit."""
        matrix = self.given.matrix
        sums, reasons = ColumnSums.none(matrix.hidden_size), np.empty(matrix.vocab_size, np.uint8)
        for start, found in by_chunk("mean", matrix, _look, client=self.client, rows=self.step):
            sums.add(found[0])
            reasons[start : start + found[1].size] = found[1]
        check_fit(matrix, self.given.ids, reasons)
        return sums.mean(matrix.vocab_size)

    def near(self, point: Rationals) -> Distances:
        """The distance of every row from a point, roughly; exactly of those that are asked for."""
        matrix, high = self.given.matrix, point.nearest()
        starts = range(0, matrix.vocab_size, self.step)
        parts = [(start, min(start + self.step, matrix.vocab_size)) for start in starts]
        sizes = [stop - start for start, stop in parts]
        found = in_order(self.client, "distances", matrix, parts, sizes, partial(_roughly, high))
        value, off = (np.concatenate(each) for each in zip(*found, strict=True))
        return Distances(value, off, lambda rows: self.distances(point, rows))

    def point(self, row: int) -> Rationals:
        """One row."""
        return Rationals.of(self.given.matrix.take(np.array([row])).astype(np.float64)[0])

    def distances(self, point: Rationals, rows: Array) -> Array:
        """The float64 nearest to the distance of each of some rows (k,) from a point, (k,)."""
        matrix = self.given.matrix
        point.in_two_words()  # once, and not in every task
        found = map_rows(self.client, "distances", matrix, parts_of_kept(self.client, matrix, rows), _distances, point)
        return np.concatenate(found)


def _found(client: Client, given: Given, least: int, origin: int | None) -> xr.Dataset:
    """The variables of the result, but strings; tokens are numbers of rows."""
    matrix = given.matrix
    if matrix.vocab_size < 4 * least:
        raise InputError(
            f"{matrix.model}: {matrix.name} has {matrix.vocab_size} rows, and a cluster of `least` {least} is sought "
            f"among four times as many: give fewer"
        )
    with reading_once(client, matrix, rows_of_pass(client, matrix)):
        return _sought(_Rows(client, given), least, origin)


def _sought(rows: _Rows, least: int, origin: int | None) -> xr.Dataset:
    """The same, of rows that are read once, as far as they may be kept."""
    matrix = rows.given.matrix
    centre = rows.mean_of_all()
    if origin is not None:
        centre = rows.point(origin)
        return _refined(rows, centre, up_to_gap(rows.near(centre), least), least, [])
    steps: list[Step] = []
    near, size = rows.near(centre), matrix.vocab_size
    while size > least:
        size = max(least, size // 2)
        taken = up_to_gap(near, least, size)
        centre, shift = _moved(rows, centre, taken)
        steps.append(("narrow", taken, shift))
        near = rows.near(centre)
    found = _refined(rows, centre, up_to_gap(near, least), least, steps)
    if not found["stands_apart"]:
        other = _refined(rows, *_dense_point(rows, least), least, [], begin="dense")
        found = other if other["contrast"] >= _APART_WHERE_DENSE else found
    return found


def _dense_point(rows: _Rows, least: int) -> tuple[Rationals, UpToGap]:
    """The row that a cluster is seen best from, of few in dense places, and the tokens up to the gap seen from it."""
    matrix = rows.given.matrix
    some = np.unique(np.linspace(0, matrix.vocab_size - 1, _SAMPLE).astype(np.int64))
    how: dict[str, Any] = {"neighbors": least, "distinct": True, "device": "cpu", "client": rows.client}
    near = scan(matrix, tokens=some, against=matrix, **how)["neighbor_distance"].to_numpy()
    reach = near[:, -1] if near.shape[1] == least else np.zeros(some.size)  # where fewer rows differ, any will do
    points = [rows.point(int(row)) for row in some[np.argsort(reach, kind="stable")[:_STARTS]]]
    seen = [(point, up_to_gap(rows.near(point), least)) for point in points]
    return max(seen, key=lambda each: each[1].contrast)  # the first of equal ones


def _refined(
    rows: _Rows, centre: Rationals, taken: UpToGap, least: int, steps: list[Step], begin: str = "refine"
) -> xr.Dataset:
    """The variables of the cluster about a centre, after `steps`; `begin` is the kind of the first step here.

    `taken` are the tokens up to the gap as seen from the centre.
    """
    seen: list[bytes] = []
    candidates, steps = taken.rows, [*steps]
    while (now := taken.rows.tobytes()) not in seen and len(seen) < _MOST_STEPS:
        seen.append(now)
        centre, shift = _moved(rows, centre, taken)
        steps.append((begin if len(seen) == 1 else "refine", taken, shift))
        last, taken = taken, up_to_gap(rows.near(centre), least)
    distance = rows.distances(centre, np.arange(rows.given.matrix.vocab_size))
    found = _dataset(distance, centre, last.rows, candidates, steps)
    contrast = {"contrast": taken.contrast, "stands_apart": taken.contrast >= APART, "is_stable": now == seen[-1]}
    return found.assign(contrast)


def _moved(rows: _Rows, centre: Rationals, taken: UpToGap) -> tuple[Rationals, float]:
    """The mean of the rows taken, and how far it is from the centre that they were seen from."""
    mean = rows.mean(taken.rows)
    return mean, mean.minus(centre).l2


def _dataset(
    distance: Array,
    centre: Rationals,
    rows: Array,
    candidates: Array,
    steps: Sequence[Step],
) -> xr.Dataset:
    """The variables but the contrast, from the rows of the cluster, whose mean is `centre`, and all distances."""
    inside, candidate = (np.zeros(distance.size, np.bool_) for _ in range(2))
    inside[rows], candidate[candidates] = True, True
    order = np.argsort(distance, kind="stable")
    near = distance[order]
    width = np.diff(near)
    gaps = np.argsort(-width, kind="stable")[:_GAPS]
    kinds, taken, shifts = zip(*steps, strict=True)
    return xr.Dataset(
        {
            "in_cluster": ("token_id", inside),
            "is_candidate": ("token_id", candidate),
            "cluster_distance": ("token_id", distance),
            "cluster_token_id": ("cluster", order[inside[order]]),
            "centroid": ("hidden", centre.nearest()),
            "cluster_count": rows.size,
            "cluster_radius": float(distance[inside].max()),
            "next_distance": float(distance[~inside].min()),
            "vocab_size": distance.size,
            "iteration_kind": ("iteration", np.array(kinds)),
            "iteration_count": ("iteration", np.array([each.rows.size for each in taken])),
            "iteration_radius": ("iteration", np.array([each.radius for each in taken])),
            "iteration_next_distance": ("iteration", np.array([each.following for each in taken])),
            "iteration_contrast": ("iteration", np.array([each.contrast for each in taken])),
            "iteration_shift": ("iteration", np.array(shifts)),
            "gap_width": ("gap", width[gaps]),
            "gap_start": ("gap", near[gaps]),
            "gap_end": ("gap", near[gaps + 1]),
            "gap_token_count": ("gap", gaps + 1),
        }
    )


def _look(matrix: Matrix, part: tuple[int, int]) -> tuple[ColumnSums, Array]:
    with devices.session(torch.device("cpu")):
        stored = matrix.read(*part)
        reasons = unfit(stored)
        return column_sums(stored, reasons == 0), reasons


def _roughly(centre: Array, matrix: Matrix, part: tuple[int, int]) -> tuple[Array, Array]:
    with devices.session(torch.device("cpu")):
        return rough_distances(matrix.read(*part), centre)


def _distances(matrix: Matrix, rows: Array, point: Rationals) -> Array:
    with devices.session(torch.device("cpu")):
        return nearest_distances(matrix.take(rows), point)
