"""Tokens that were hardly trained, by the indicators of Land and Bartolo (2024, arXiv 2405.05417)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from time import perf_counter
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import xarray as xr
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.analyses.duplicates import tokens_to_groups
from embgeom_dask.analyses.spectrum import rows_of_part, spectrum
from embgeom_dask.analyses.survey import Summary, summarize
from embgeom_dask.analyses.unused import categories, find_unused, read_unused, stored_labels
from embgeom_dask.batches.trees import one_or_tree
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Data, Given, given_rows, is_array
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.execution.kept_rows import reading_once
from embgeom_dask.execution.map_rows import by_chunk, rows_of_pass
from embgeom_dask.kernels.exact_sums import ColumnSums
from embgeom_dask.kernels.numba_bfloat16 import as_float, as_numba
from embgeom_dask.kernels.projections import projections
from embgeom_dask.kernels.rationals import Rationals
from embgeom_dask.kernels.row_checks import SMALLEST
from embgeom_dask.kernels.row_norms import nearest_distances, nearest_norms
from embgeom_dask.pairwise.rows import check_fit, digest, group
from embgeom_dask.progress import showing
from embgeom_dask.selections.selection import Selection
from embgeom_dask.statistics.means import mean_of
from embgeom_dask.storage import fill, model_stores, result_names, results
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike
from embgeom_dask.storage.step_matrices import StepMatrix
from embgeom_dask.storage.validation import REACHABILITY

Array = NDArray[Any]

_LEAST = 1e-6
"""The product of two norms is at least this, where magikarp divides by it."""

_ROWS = 64  # that lose a component together: as float64 they stay in the cache of a core

_PERCENT = 2.0
"""Of ordinary tokens, the share below whose indicator tokens are candidates: magikarp's."""

INDICATORS = {
    "input_norm": "input_norm",
    "cosine": "unused_cosine_distance",
    "centered": "unused_centered_distance",
    "component": "unused_component_distance",
    "euclidean": "unused_euclidean_distance",
}
"""What each choice of `indicator` ranks tokens by."""


class Reference(NamedTuple):
    """What rows are compared with: the mean of unused rows, that of all rows, and the first component (d,) float64."""

    unused: Rationals
    centre: Rationals
    component: Array


def undertrained(
    data: Data | Iterable[Data],
    role: Role | None = None,
    *,
    unused: Selection = None,
    indicator: str | None = None,
    out: PathLike | None = None,
    part: str | None = None,
    client: ClientLike | None = None,
    progress: bool | None = None,
) -> Any:
    """Rank tokens by how little they were trained: how near their rows are to those of tokens known to be unused.

    The indicators are those that magikarp computes (github.com/cohere-ai/magikarp, `magikarp/utils.py`); u is the mean
    of the unused rows. Norms and euclidean distances are the float64 numbers nearest to the true ones. Cosine distances
    are within 2^-50 of the true ones; the one without the first component is within 2^-50 plus four times
    `component_error`. It takes four passes over the rows. Workers keep the rows that they read, as far as memory
    allows.

    Parameters
    ----------
    data : path, array, or list of these
        A store, or any array that `scan` takes.
    role : {"input", "output"}, optional
        The matrix whose rows are compared with u; by default output, or input if the store has no output matrix.
    unused : str, list of int and str, or mask, optional
        Which tokens are known to be unused: a selection as `scan` takes it, or the name of a rule. `padding`: rows
        without a token. `bytes`: single bytes that UTF-8 never has (C0, C1, F5 to FF), or if there are none, byte
        tokens like `<0x41>` whose character has a token of its own. `named`: `[unused1]`,
        `<|reserved_special_token_1|>` and the like. `unreachable`: tokens whose text is encoded to other tokens, where
        the store says so. `identical`: rows that several tokens have. `cluster`: the dense cluster that `cluster`
        finds. By default the first rule that finds any.
    indicator : {"input_norm", "cosine", "centered", "component", "euclidean"}, optional
        What to rank tokens by. By default, as magikarp does, `input_norm` if there is one, else `cosine`.
    out : path, optional
        Where to save the result. If the same result is there already, it is opened instead of computed again. With
        several stores it is a folder: each model is saved as `<organisation>--<name>.zarr`, the table of all of them
        as `table.zarr`.
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
        Of a list a DataTree: a node for each model, and in the root a table of the numbers that each has one of. All
        variables are over `token_id`, unless it is said, with the coordinates `token` and `text`.

        - `unused_cosine_distance`, 1 - cos(row, u), where a product of the two norms below 1e-6 is taken as 1e-6;
          `unused_centered_distance`, the same for rows and u less the mean row; `unused_component_distance`, the same
          for rows and u without their part along the first component of the covariance of all rows;
          `unused_euclidean_distance`, the distance from u.
        - `input_norm`, the L2 norm of the row of the input matrix, if input and output are two matrices.
        - `indicator_rank`, from 1 for the lowest value of the chosen indicator, equal ones by token id; `candidate`,
          whether the indicator is at most `threshold ()` and the token is an ordinary or a special one. The threshold
          is the 2nd percentile (numpy's) of the ordinary tokens. If the store says which tokens are reachable, only
          those can be candidates and count for the threshold, as in magikarp.
          `category`: `token`, `special`, `byte`, `partial` (of a letter in UTF-8), `none`. `reachability`, as `tokens`
          gives it, where a store has it.
        - `unused`, whether the token is one of the unused; `unused_mean (hidden)`, u, rounded.
        - `indicator ()`, `unused_rule ()`, what told the unused ones or `given`; `unused_count`, `candidate_count`,
          `indicator_mean`, `indicator_std` of all rows that are tokens (n, as numpy's), `component_error`,
          `vocab_size`.

        Asking the model itself whether it can repeat a token, which magikarp calls verification, needs the model.

    Raises
    ------
    InputError
        If there is no store or no such matrix, if a row has NaN, infinity, or a float64 value below 2^-400 or above
        2^400 in size, if no token is known to be unused, if `indicator` is none of these or the store has no input
        matrix for it, or if something else is at `out`.
    EmbgeomError
        If a store cannot be read.
    SomeFailed
        If some of several stores failed. It is raised after the others are done; its `results` are theirs.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> rows = np.array([[0, 2], [1, 0], [3, 0], [4, 3], [1, 0.1]], np.float32)
    >>> names = ["a", "[unused1]", "[unused2]", "b", "c"]
    >>> found = undertrained(make_store("tiny.zarr", output=rows, tokens=names))
    >>> found["unused_rule"].item(), found["unused_cosine_distance"].values.round(3)
    ('named', array([1.   , 0.   , 0.   , 0.2  , 0.005]))
    >>> found["token"].values[found["indicator_rank"].values.argsort()].tolist()
    ['[unused1]', '[unused2]', 'c', 'b', 'a']
    """
    if indicator is not None and indicator not in INDICATORS:
        raise InputError(f"`indicator` {indicator}: choose one of {', '.join(INDICATORS)}")
    if unused is not None and not (is_array(unused) or isinstance(unused, os.PathLike | Iterable)):
        raise InputError(f"`unused` {unused!r:.40}: give token ids, names or a file of them")
    asked = unused if unused is None or isinstance(unused, str | os.PathLike) or is_array(unused) else list(unused)

    def one(each: Data, target: PathLike | None, active: ClientLike | None, _: int) -> xr.Dataset:
        return _undertrained(each, role, asked, indicator, target, active)

    with showing(progress):
        how: dict[str, Any] = {"unused": asked, "indicator": indicator}
        return one_or_tree("undertrained", data, one, role=role, out=out, client=client, part=part, asked=how)


def _undertrained(
    data: Data,
    role: Role | None,
    unused: Selection,
    indicator: str | None,
    out: PathLike | None,
    client: ClientLike | None,
) -> xr.Dataset:
    """Rank the tokens of one model."""
    started = perf_counter()
    with given_rows(data, role, client, whole=True) as given:
        matrix, inputs = given.matrix, _inputs(data, given)
        if indicator == "input_norm" and inputs is None:
            raise InputError(f"{matrix.label} has no input matrix of its own: choose another `indicator`")
        indicator = indicator or ("cosine" if inputs is None else "input_norm")
        matrices = [matrix] if inputs is None or inputs == matrix else [matrix, inputs]
        chosen = read_unused(unused, given)  # what is wrong is refused before rows are read
        settings: dict[str, Any] = {"unused": _told(unused, chosen), "indicator": indicator}
        settings |= {"tokens": given.selection} if given.selection else {}
        attrs = results.provenance("undertrained", matrices, ["cpu"], 0.0, settings)
        if out is not None and (done := results.existing(out, attrs)) is not None:
            return done
        given.stored_labels()
        with connect(client, out=out) as active, reading_once(active, matrix, rows_of_part(matrix)):
            dataset = _measured(active, given, inputs, chosen)
        dataset = _ranked(dataset, given, indicator)
    own = {name: value for name, value in attrs.items() if name in ("model", "revision", "matrix")}
    return results.finish(
        dataset, attrs, started, out, result_names.of_matrices({name: each[:1] for name, each in own.items()})
    )


def _told(unused: Selection, chosen: str | NDArray[np.bool_] | None) -> str | None:
    """A selection as the settings have it: a rule or a list as given, of masks and files the digest of their rows."""
    listed = isinstance(unused, str) and not unused.startswith("@") and ".safetensors" not in unused
    return cast(str | None, unused) if listed or unused is None else fill.sha256(cast(NDArray[np.bool_], chosen))


def _inputs(data: Data, given: Given) -> Matrix | None:
    """The input matrix of a store, where that is not its output matrix too."""
    if given.nbytes or not isinstance(data, str | os.PathLike) or given.matrix.tied:
        return None
    if isinstance(given.matrix, StepMatrix):
        return None
    store, _ = model_stores.split_role(data)
    names = model_stores.attributes(store)["matrices"]
    return model_stores.find_matrix(store, "input") if "input_embedding" in names else None


def _measured(client: Client, given: Given, inputs: Matrix | None, unused: str | Array | None) -> xr.Dataset:
    """The indicators of all rows, by four passes over rows that workers keep: sums and digests, the spectrum's two, and
    distances.
    """
    matrix, size = given.matrix, given.matrix.vocab_size
    sums, norms = ColumnSums.none(matrix.hidden_size), np.empty(size)
    digests, unfit = np.empty((size, 16), np.uint8), np.empty(size, np.uint8)
    rows = rows_of_pass(client, matrix)
    for start, (summary, names) in by_chunk("norms", matrix, _look, client=client, rows=rows):
        part = slice(start, start + len(names))
        sums.add(summary.sums)
        norms[part], unfit[part], digests[part] = summary.norms, summary.unfit, names
    check_fit(matrix, given.ids, unfit)
    labelled = stored_labels(given)
    groups = tokens_to_groups(group(given.rows, digests), size)
    chosen, rule = find_unused(client, unused, given, labelled, groups, norms == 0)
    found = spectrum(given, components=1, client=client)
    reference = Reference(
        mean_of(client, "unused", matrix, given.rows[chosen]), sums.mean(size), found["component_vector"].to_numpy()[0]
    )
    for each in (reference.unused, reference.centre):
        each.in_two_words()  # once, and not in every task
    names_of = list(INDICATORS.values())[1:]
    columns: dict[str, Array] = {name: np.empty(size) for name in names_of}
    for start, parts in by_chunk("indicators", matrix, _distances, reference, client=client, rows=rows):
        for name, values in zip(names_of, parts, strict=True):
            columns[name][start : start + values.size] = values
    if inputs is not None:
        columns["input_norm"] = norms if inputs == matrix else _input_norms(client, inputs, size)
    columns |= {"unused": chosen, "category": np.array(categories(labelled), np.object_)}
    columns |= {name: np.array(each, np.object_) for name, each in labelled.items() if name == REACHABILITY}
    variables: dict[str, Any] = {name: ("token_id", values) for name, values in columns.items()}
    variables |= {"unused_mean": ("hidden", reference.unused.nearest()), "unused_rule": rule}
    variables |= {"unused_count": np.count_nonzero(chosen), "vocab_size": size}
    return xr.Dataset(variables | {"component_error": found["component_error"].to_numpy()[0]})


def _input_norms(client: Client, inputs: Matrix, size: int) -> Array:
    """The norms of the rows of the input matrix, NaN where it has fewer."""
    found, unfit = np.full(max(size, inputs.vocab_size), np.nan), np.zeros(inputs.vocab_size, np.uint8)
    for start, (summary, names) in by_chunk("input norms", inputs, _look, client=client):
        part = slice(start, start + len(names))
        found[part], unfit[part] = summary.norms, summary.unfit
    check_fit(inputs, np.arange(inputs.vocab_size), unfit)
    return found[:size]


def _ranked(dataset: xr.Dataset, given: Given, indicator: str) -> xr.Dataset:
    """The result with ranks, threshold and labels."""
    values, category = dataset[INDICATORS[indicator]].to_numpy(), dataset["category"].to_numpy()
    ranks = np.empty(values.size, np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(1, values.size + 1)
    told = dataset[REACHABILITY].to_numpy() if REACHABILITY in dataset else np.full(values.shape, "OK")
    plain = (category == "token") & (told == "OK")
    ordinary, known = values[plain], values[(category != "none") & ~np.isnan(values)]
    known = known if known.size else values[~np.isnan(values)]
    ordinary = ordinary[~np.isnan(ordinary)] if np.any(plain) else known
    threshold = float(np.percentile(ordinary if ordinary.size else known, _PERCENT))
    candidate = (values <= threshold) & np.isin(category, ("token", "special")) & np.isin(told, ("OK", "OK_SPECIAL"))
    named = given.labels()
    found: dict[str, Any] = {name: ("token_id", named[name].to_numpy()) for name in ("token_id", "token", "text")}
    found |= {"indicator_rank": ("token_id", ranks), "candidate": ("token_id", candidate)}
    found |= {"indicator": indicator, "threshold": threshold, "candidate_count": np.count_nonzero(candidate)}
    found |= {"indicator_mean": float(known.mean()), "indicator_std": float(known.std())}
    return dataset.assign(found).set_coords(["token_id", "token", "text"])


def _look(matrix: Matrix, part: tuple[int, int]) -> tuple[Summary, Array]:
    with devices.session(torch.device("cpu")):
        rows = matrix.read(*part)
        return summarize(rows), digest(rows)


def _distances(matrix: Matrix, part: tuple[int, int], to: Reference) -> list[Array]:
    """The distances of rows from the mean of the unused: cosine, centred, without the component, and euclidean."""
    with devices.session(torch.device("cpu")):
        rows, none = matrix.read(*part), np.zeros(matrix.hidden_size)
        plain = _cosine_distance(rows, none, none, nearest_norms(rows), to.unused)
        high, low = to.centre.in_two_words()
        centred = _cosine_distance(rows, high, low, nearest_distances(rows, to.centre), to.unused.minus(to.centre))
        return [plain, centred, _without(rows, to), nearest_distances(rows, to.unused)]


def _cosine_distance(rows: Array, high: Array, low: Array, norms: Array, point: Rationals) -> Array:
    """1 - cos of rows less a point, of which `norms` (n,) are the lengths, with another vector."""
    dot = projections(rows, high, low, point.nearest()[None])[:, 0]
    return 1 - dot / np.maximum(norms * point.l2, _LEAST)


def _without(rows: Array, to: Reference) -> Array:
    """The cosine distance of rows and the mean of the unused without their parts along the first component."""
    none, direction = np.zeros(rows.shape[1]), to.component[None]

    def left_of(values: Array) -> Array:
        left: Array = values - projections(values, none, none, direction) * to.component
        left[np.abs(left) < SMALLEST] = 0
        return left

    mean = left_of(to.unused.nearest()[None])
    dot, norms = np.empty((2, len(rows)))
    for start in range(0, len(rows), _ROWS):
        left, here = left_of(as_float(as_numba(rows[start : start + _ROWS]))), slice(start, start + _ROWS)
        dot[here], norms[here] = projections(left, none, none, mean)[:, 0], nearest_norms(left)
    distance: Array = 1 - dot / np.maximum(norms * Rationals.of(mean[0]).l2, _LEAST)
    return distance
