"""The lattice of bfloat16: rows in steps from one number of the type to the next, and by their exponents."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import xarray as xr
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.analyses.scan import scan
from embgeom_dask.batches.trees import one_or_tree
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Data, Given, given_rows, is_array
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.execution.map_rows import map_rows, parts_of
from embgeom_dask.execution.spec import Numbers, counts_ulps
from embgeom_dask.kernels.row_checks import unfit
from embgeom_dask.pairwise.rows import check_fit
from embgeom_dask.progress import showing
from embgeom_dask.selections.origins import row_of
from embgeom_dask.selections.selection import Selection, parse_tokens
from embgeom_dask.storage import result_names, results
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike

Array = NDArray[Any]

METRICS = ("chebyshev", "cityblock")
_PAIRS = 1024
"""Pairs whose values are compared together."""


class Extents(NamedTuple):
    """What some rows span: `unfit` (n,) uint8; the least and the largest step of each column, and its least and largest
    exponent, (d,) int64 each; how many values have each biased exponent, (256,), and how many are below 0; and the
    largest difference of exponents from those of a token, (n,), where one is given.
    """

    unfit: Array
    least: Array
    most: Array
    least_exponent: Array
    most_exponent: Array
    exponents: Array
    negative: int
    apart: Array | None


def lattice(
    data: Data | Iterable[Data],
    role: Role | None = None,
    *,
    tokens: Selection = None,
    origin: int | str | None = None,
    exponents: int = 5,
    within: Numbers | None = None,
    pairs_within: float | str | None = None,
    metric: str = "chebyshev",
    out: PathLike | None = None,
    device: str = "auto",
    part: str | None = None,
    client: ClientLike | None = None,
    progress: bool | None = None,
) -> Any:
    """Measure bfloat16 rows in steps from one number of the type to the next: extents, exponents, pairs of rows.

    The lattice of bfloat16 is the sequence of its numbers in ascending order. The *step* of a value is its index in
    this sequence, with 0 at step 0: the 15 bits below the sign bit, taken as negative for a negative value. The
    difference of two steps says how many numbers apart two values are, also where one is negative and one positive.
    (Bit patterns as unsigned integers do not: across 0 they differ by more than 32,767.) All results are integers,
    without error.

    Parameters
    ----------
    data : path, array, or list of these
        A store, or any array that `scan` takes, of bfloat16.
    role : {"input", "output"}, optional
        The matrix of a store; by default output, or input if the store has no output matrix.
    tokens : str, list of int and str, or mask, optional
        Which rows to measure, as `scan` takes them; by default all.
    origin : int or str, optional
        A token, by id or by name. The result says of every row how far its exponents are from those of this token's
        row.
    exponents : int
        The largest difference of exponents, in every column, that counts for `exponent_within_count`.
    within : float, list of float, or str, optional
        Numbers of steps. For each, the result counts the pairs of rows that are at most so many steps apart, in all and
        of each row.
    pairs_within : float or str, optional
        A number of steps. The result lists every pair that is at most so many steps apart.
    metric : {"chebyshev", "cityblock"}
        How the steps between two rows are counted for these: the largest of all columns, or their sum.
    out : path, optional
        Where to save the result. If the same result is there already, it is opened instead of computed again. With
        several stores it is a folder: each model is saved as `<organisation>--<name>.zarr`, the table of all of them
        as `table.zarr`.
    device : {"auto", "cpu", "cuda", "mps"}
        The device that each worker computes distances of pairs on.
    part : str, optional
        Which part of a list of stores to do, where several commands share the list and the folder `out`: "2/8" is the
        second of eight parts. By default all.
    client : Client, cluster or str, optional
        A dask client, a cluster, or the address of a scheduler. By default the active client, or else a local cluster.
    progress : bool, optional
        Whether to show a progress bar, and the address of dask's dashboard; by default only in a notebook.

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        Of a list a DataTree: a node for each model, and in the root a table of the numbers that each has one of.

        - Over `hidden`: `step_min`, `step_max` and `step_extent`, the steps between them; `value_min` and `value_max`;
          `exponent_min` and `exponent_max`, biased exponents, 0 for 0 and subnormal numbers; `column_ulp`, the unit in
          the last place of the value of largest size, 2^(E - 134), for E = 0 2^-133; `both_signs`, whether there are
          values on either side of 0.
        - `exponent_count (exponent)`, how many values have each biased exponent; `negative_value_count`,
          `token_count`, `hidden_size`; `extent_max`, the largest `step_extent`, and `both_signs_count`.
        - With `origin`: `exponent_distance (token_id)`, the largest difference of exponents in a column from the row of
          the token, max |E(u) - E(v)|; `exponent_within_count`, how many rows have at most `exponents`;
          `origin_token_id`.
        - With `within`: `within_count (radius)` and `within_degree (token_id, radius)`; with `pairs_within`:
          `pair_token_id (pair, side)`, `pair_chebyshev_steps` and `pair_cityblock_steps`, `pair_distance`, the one
          of these that is `metric`, and `pair_radius`.

    Raises
    ------
    InputError
        If there is no store or no such matrix, if it is not of bfloat16, if a row has NaN or infinity, if a selection
        or number is wrong, or if something else is at `out`.
    EmbgeomError
        If a store cannot be read, or there are more pairs than `scan` lists.
    SomeFailed
        If some of several stores failed. It is raised after the others are done; its `results` are theirs.

    Examples
    --------
    >>> import ml_dtypes
    >>> rows = np.array([[1, 0.5], [1.0078125, 0.5], [-1e-40, 0.25]], ml_dtypes.bfloat16)
    >>> found = lattice(rows, pairs_within=1)
    >>> found["step_extent"].values, found["pair_token_id"].values, found["pair_cityblock_steps"].values
    (array([16258,   128]), array([[0, 1]]), array([1]))
    """
    if metric not in METRICS:
        raise InputError(f"`metric` {metric}: choose {' or '.join(METRICS)}")
    if isinstance(exponents, bool) or not isinstance(exponents, int | np.integer) or exponents < 0:
        raise InputError(f"`exponents` {exponents}: give an integer, 0 or more")
    pairs = {"within": within, "pairs_within": pairs_within}
    asked: dict[str, Any] = {name: each for name, each in pairs.items() if each is not None}
    if any(map(counts_ulps, asked.values())):
        raise InputError("`within` and `pairs_within` are numbers of steps here, each of one unit in the last place")
    asked |= {"metric": metric, "device": device} if asked else {}

    def one(each: Data, target: PathLike | None, active: ClientLike | None, _: int) -> xr.Dataset:
        return _lattice(each, role, tokens, origin, int(exponents), asked, target, active)

    with showing(progress):
        how: dict[str, Any] = {"tokens": tokens, "origin": origin, "exponents": exponents, **asked}
        return one_or_tree("lattice", data, one, role=role, out=out, client=client, part=part, asked=how)


def steps_of(rows: Array) -> Array:
    """The step of each value of bfloat16 rows (n, d), int32: monotone in the values, with -0 and +0 at 0."""
    bits = rows.view(np.uint16)
    size = (bits & 0x7FFF).astype(np.int32)
    return np.where(bits >> 15, -size, size)


def exponents_of(rows: Array) -> Array:
    """The biased exponent of each value of bfloat16 rows (n, d), uint8."""
    return ((rows.view(np.uint16) >> 7) & 0xFF).astype(np.uint8)


def _lattice(
    data: Data,
    role: Role | None,
    tokens: Selection,
    origin: int | str | None,
    exponents: int,
    asked: dict[str, Any],
    out: PathLike | None,
    client: ClientLike | None,
) -> xr.Dataset:
    """The lattice of one model."""
    started = perf_counter()
    _check_array(data)
    with given_rows(data, role, client) as given:
        _check_type(given.matrix)
        chosen = given if tokens is None else given.select(parse_tokens(tokens, given.vocab_size, given.labels))
        settings: dict[str, Any] = {name: str(each) for name, each in asked.items() if name != "device"}
        settings |= {"tokens": chosen.selection}
        row = None if origin is None else row_of(origin, given)
        origin_id = None if row is None else int(given.ids_of(np.array([row]))[0])
        settings |= {} if row is None else {"origin": origin_id, "exponents": exponents}
        attrs = results.provenance("lattice", [given.matrix], ["cpu"], 0.0, settings)
        if out is not None and (done := results.existing(out, attrs)) is not None:
            return done
        given.stored_labels()
        with connect(client, asked.get("device", "cpu"), out) as active:
            dataset = _extents(active, chosen, row, exponents)
            if row is not None:
                dataset["origin_token_id"] = origin_id
                dataset = dataset.assign_coords(chosen.labels().drop_vars("has_token").coords)
            if asked:
                pairs = _pairs(active, chosen, asked)
                attrs["devices"] = sorted({"cpu", *pairs.attrs["devices"]})
                dataset = xr.merge([dataset, pairs], compat="override", join="exact", combine_attrs="drop")
    return results.finish(dataset, attrs, started, out, result_names.of_matrices(attrs))


def _check_array(data: Data) -> None:
    """Refuse bit patterns: as integers they are not in the order of the values that they stand for."""
    dtype = getattr(data, "dtype", None)
    if is_array(data) and dtype is not None and str(dtype).rpartition(".")[2] in ("uint16", "int16"):
        raise InputError(
            f"the array given is {dtype}: bits of bfloat16 are not in the order of its numbers, those of negative "
            "numbers come after all others and backwards; give it as `array.view(ml_dtypes.bfloat16)`"
        )


def _check_type(matrix: Matrix) -> None:
    if matrix.dtype != "bfloat16":
        raise InputError(
            f"{matrix.label}: {matrix.name} is {matrix.dtype}, and steps are those of bfloat16: rounded to it, rows "
            "would be others; scan with the metric chebyshev compares values of any type"
        )


def _extents(client: Client, chosen: Given, row: int | None, exponents: int) -> xr.Dataset:
    """The variables of one pass over the rows."""
    matrix = chosen.matrix
    centre = None if row is None else exponents_of(matrix.take(np.array([row])))[0]
    found: list[Extents] = map_rows(client, "lattice", matrix, parts_of(matrix, chosen.rows), _look, centre)
    check_fit(matrix, chosen.ids, np.concatenate([part.unfit for part in found]))
    least, most = (np.stack([getattr(each, name) for each in found]) for name in ("least", "most"))
    low, high = least.min(axis=0), most.max(axis=0)
    exponent = [getattr(each, name) for name in ("least_exponent", "most_exponent") for each in found]
    first, last = np.min(exponent[: len(found)], axis=0), np.max(exponent[len(found) :], axis=0)
    variables: dict[str, Any] = {
        "step_min": low,
        "step_max": high,
        "step_extent": high - low,
        "value_min": _values(low),
        "value_max": _values(high),
        "exponent_min": first,
        "exponent_max": last,
        "column_ulp": np.ldexp(1.0, np.maximum(last, 1) - 134),
        "both_signs": (low < 0) & (high > 0),
    }
    variables = {name: ("hidden", values) for name, values in variables.items()}
    variables["exponent_count"] = ("exponent", np.sum([each.exponents for each in found], axis=0))
    variables["negative_value_count"] = sum(each.negative for each in found)
    variables |= {"token_count": chosen.rows.size, "hidden_size": matrix.hidden_size, "extent_max": (high - low).max()}
    variables["both_signs_count"] = np.count_nonzero((low < 0) & (high > 0))
    if row is not None:
        apart = np.concatenate([cast(Array, each.apart) for each in found])
        variables["exponent_distance"] = ("token_id", apart)
        variables["exponent_within_count"] = np.count_nonzero(apart <= exponents)
    return xr.Dataset(variables, {"exponent": np.arange(256)})


def _values(steps: Array) -> Array:
    """The values of steps (d,), as float64."""
    bits = np.abs(steps).astype(np.uint32) << 16
    return np.where(steps < 0, -1.0, 1.0) * bits.view(np.float32).astype(np.float64)


def _look(matrix: Matrix, part: Array, centre: Array | None) -> Extents:
    """What the rows `part` span; runs on a worker."""
    with devices.session(torch.device("cpu")):
        rows = matrix.take(part)
        steps, exponents = steps_of(rows), exponents_of(rows)
        apart = None
        if centre is not None:
            apart = np.abs(exponents.astype(np.int16) - centre.astype(np.int16)).max(axis=1).astype(np.int64)
        ends = (steps.min(axis=0), steps.max(axis=0), exponents.min(axis=0), exponents.max(axis=0))
        least, most, first, last = (each.astype(np.int64) for each in ends)
        counts = np.bincount(exponents.ravel(), minlength=256)
        return Extents(unfit(rows), least, most, first, last, counts, int(np.count_nonzero(steps < 0)), apart)


def _pairs(client: Client, chosen: Given, asked: dict[str, Any]) -> xr.Dataset:
    """The pairs of rows that are near each other in steps: a scan of the steps themselves, which float32 holds."""
    matrix, labels = chosen.matrix, chosen.labels()
    stored = matrix.rows()[chosen.rows]
    steps = stored.data.map_blocks(_as_floats, dtype=np.float32)
    named = {name: ("row", labels[name].to_numpy()) for name in ("token", "text", "has_token")}
    name = f"{matrix.model} in steps"
    found = scan(xr.DataArray(steps, dims=("row", "hidden"), coords=named, name=name), client=client, **asked)
    numbered = {"token_id": chosen.ids[found["token_id"].to_numpy()]} if "token_id" in found.dims else {}
    if "pair_token_id" not in found:
        return cast(xr.Dataset, found.assign_coords(numbered))
    places = found["pair_token_id"].to_numpy()
    apart = _apart(matrix, chosen.rows[places])
    columns: dict[str, Any] = {f"pair_{name}_steps": ("pair", apart[:, place]) for place, name in enumerate(METRICS)}
    columns["pair_token_id"] = (("pair", "side"), chosen.ids[places])
    return cast(xr.Dataset, found.assign(columns).assign_coords(numbered))


def _apart(matrix: Matrix, rows: Array) -> Array:
    """How many steps each pair of rows (p, 2) is apart: the most in a column, and in all of them, (p, 2) int64."""
    found = np.empty((len(rows), 2), np.int64)
    for start in range(0, len(rows), _PAIRS):
        used, place = np.unique(rows[start : start + _PAIRS], return_inverse=True)
        first, second = place.reshape(-1, 2).T
        steps = steps_of(matrix.take(used))
        apart = np.abs(steps[first] - steps[second])
        found[start : start + _PAIRS] = np.stack([apart.max(axis=1), apart.sum(axis=1, dtype=np.int64)], axis=1)
    return found


def _as_floats(rows: Array) -> Array:
    """The steps of rows (n, d), float32."""
    return steps_of(np.ascontiguousarray(rows)).astype(np.float32)
