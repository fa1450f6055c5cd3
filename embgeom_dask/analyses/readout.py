"""What directions write: the tokens of the largest and of the smallest products with each of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from embgeom_dask.analyses.all_pairs import compare_pairs
from embgeom_dask.analyses.directions import directions_of
from embgeom_dask.checkpoints.bare_files import read_vector
from embgeom_dask.checkpoints.matrix_files import find_matrix_file
from embgeom_dask.errors import InputError, parse_path
from embgeom_dask.execution.arrays import Data, Given, given_rows
from embgeom_dask.execution.cluster import ClientLike
from embgeom_dask.execution.memory import parse_limit
from embgeom_dask.execution.planning import Resources
from embgeom_dask.execution.resume import result_or_journal
from embgeom_dask.execution.spec import ScanSpec, parse_count
from embgeom_dask.progress import showing
from embgeom_dask.selections.sides import check_widths
from embgeom_dask.storage import fill, results
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike

_MOST_LABELS = 1 << 30
"""Bytes of a file of labels."""


def readout(
    directions: Data,
    against: Data,
    k: int = 10,
    *,
    columns: bool = False,
    moments: bool = True,
    role: Role | None = None,
    gain: PathLike | ArrayLike | None = None,
    labels: PathLike | Iterable[str] | None = None,
    out: PathLike | None = None,
    device: str = "auto",
    memory_limit: str | int | None = None,
    client: ClientLike | None = None,
    progress: bool | None = None,
    resume_command: str | None = None,
) -> xr.Dataset:
    """Multiply directions with the rows of a vocabulary, and keep the tokens that each writes most and least.

    Directions are rows of the model's width, like those of a sparse autoencoder's decoder, singular vectors, probes,
    steering vectors; from one of them to millions. This is the logit lens of weights: `scan` of the directions
    `against` the vocabulary with metric `dot`, `top=k`, `bottom=k` and `moments_per_row`.

    Parameters
    ----------
    directions : path or array
        A matrix of a file, `FILE.npy`, `FILE.safetensors` or `FILE.safetensors:KEY`, a store, or any array that `scan`
        takes, a row each. Files and arrays are written to a temporary store.
    against : path or array
        The vocabulary, as a rule the output embedding of a store; `STORE:input` and `STORE:output` name a matrix.
    k : int
        How many tokens of either end to keep of each direction.
    columns : bool
        Whether directions are the columns of the matrix, and not its rows: so they lie in the weights that a layer of
        torch writes with, (model's width, neurons), like `down_proj.weight`. Columns have no labels of their own.
    moments : bool
        Whether to tell the moments of all products of each direction, too: then products are made in float64, which
        takes a few times as long.
    role : {"input", "output"}, optional
        The matrix of the vocabulary's store; by default output, or input where there is no output matrix.
    gain : path or array, optional
        What each value of the directions is multiplied by, (columns,): the weights of the norm before the output
        embedding, as an array, `FILE.npy` or `FILE.safetensors:KEY`. Products of values of up to 24 bits, all types but
        float64, are exact in float64; others are rounded to it once. A model that multiplies by 1 + weight, like
        Gemma, needs that sum.
    labels : path or list of str, optional
        What directions are called: a text file with one a line, or a list. By default the token strings of a store, or
        the labels or the coordinate `token` of an array.
    out : path, optional
        Where to save the result; the same result there is opened instead of computed again. Until it is saved, a
        journal of the products that are done is kept beside it, as for `scan`: the same call goes on where one was
        killed, and `status` says how far it is.
    device : {"auto", "cpu", "cuda", "mps"}
        What products are computed on, on each worker.
    memory_limit : str or int, optional
        What the process of each worker may hold, as for `scan`.
    client : Client, cluster or str, optional
        A dask client, a cluster or an address; by default the client that is active, or else a cluster in this process.
    progress : bool, optional
        Whether to show a bar with rate and time left, and a note with the address of dask's dashboard; by default only
        in a notebook.
    resume_command : str, optional
        The command line that goes on, for `status` to say.

    Returns
    -------
    xarray.Dataset
        `top_product` float64 and `top_token_id` int64 `(direction, top)`, largest first, with the strings `top_token`,
        and the same for bottom, smallest first. Of all products of a direction, population moments as `scan` gives them
        with `moments_per_row`: `row_mean`, `row_std`, `row_skew`, `row_kurtosis` (3 for normal numbers), `row_min`,
        `row_max (direction)`. `direction` numbers the rows or columns, or has the token ids of the rows
        of a store or an array; `label (direction)` are their names.

    Raises
    ------
    InputError
        As `scan` does, and if gain or labels do not fit the directions.

    Examples
    --------
    >>> from embgeom_dask.testing import make_store
    >>> store = make_store("tiny.zarr", output=np.array([[0, 1], [3, 4], [2, 0]], np.float32), tokens=["a", "b", "c"])
    >>> found = readout(np.array([[1.0, 0.0], [0.5, -1.0]]), store, k=1, labels=["right", "down"])
    >>> found["top_token"].values.tolist(), found["bottom_token"].values.tolist()
    ([['b'], ['c']], [['a'], ['b']])
    >>> found["top_product"].sel(direction=1).item()
    1.0
    """
    started, count, limit = perf_counter(), parse_count("k", k), parse_limit(memory_limit)
    if count is None:
        raise InputError("`k`: give the number of tokens")
    with (
        showing(progress),
        given_rows(directions, None, client, whole=True) as given,
        given_rows(against, role, client, whole=True) as vocabulary,
    ):
        _check_widths(given, columns, vocabulary.matrix)
        names = _labels(labels, given, columns)
        factors = None if gain is None else _gain(gain, vocabulary.matrix.hidden_size)
        settings = {"k": count, "moments": moments, "gain": _digest(factors), "labels": _digest(names)}
        settings |= {"tokens": given.selection, "against": vocabulary.selection, "columns": columns}
        made_of = [given.matrix, vocabulary.matrix]
        if columns or factors is not None:  # what is there already needs no store of them
            attrs = results.provenance("readout", made_of, [], 0.0, settings)
            with result_or_journal(out, attrs, dry_run=True) as (done, _):
                if done is not None:
                    return done
        with directions_of(given, columns, factors) as rows:
            return compare_pairs(
                "readout",
                [rows, vocabulary],
                ScanSpec("dot", top=count, bottom=count, moments_per_row=moments),
                Resources(device, memory_limit=limit),
                client,
                started=started,
                out=out,
                settings=settings,
                made_of=made_of,
                resume_command=resume_command,
                reshape=partial(_by_direction, names),
            )


def _check_widths(given: Given, columns: bool, vocabulary: Matrix) -> None:
    """Refuse directions of another width than the vocabulary, with a word on columns if these would fit."""
    of_row, of_column = given.matrix.hidden_size, given.rows.size
    width, other = (of_column, of_row) if columns else (of_row, of_column)
    if width == vocabulary.hidden_size:
        return
    if other != vocabulary.hidden_size:
        check_widths(given.matrix, vocabulary)
    told, do = ("columns", "without `columns` its rows are") if columns else ("rows", "with `columns` its columns are")
    raise InputError(
        f"the {told} of {given.matrix.model} have {width} values and the rows of {vocabulary.model} "
        f"{vocabulary.hidden_size}: {do} the directions"
    )


def _by_direction(names: list[str], found: xr.Dataset) -> xr.Dataset:
    """What products of rows with others give, by direction, each with its name."""
    named = {"direction": found["token_id"].to_numpy(), "label": ("direction", np.array(names, np.object_))}
    coords = {name: found[name].variable for name in ("top_token", "top_text", "bottom_token", "bottom_text")}
    kept = xr.Dataset({name: found[name].variable for name in found.data_vars}, coords, found.attrs)
    return kept.rename_dims(token_id="direction").assign_coords(named)


def _digest(values: NDArray[Any] | list[str] | None) -> str | None:
    """What tells values from others."""
    if isinstance(values, list):
        return fill.sha256(np.frombuffer("\n".join(values).encode(errors="surrogatepass"), np.uint8))
    return None if values is None else fill.sha256(values)


def _gain(gain: PathLike | ArrayLike, width: int) -> NDArray[np.float64]:
    """What each column is multiplied by, (d,) float64."""
    if isinstance(gain, str | os.PathLike):
        file = find_matrix_file(os.fspath(gain))
        if file is None:
            raise InputError(f"`gain` {gain}: give FILE.npy or FILE.safetensors:KEY, a list of numbers")
        values = read_vector(*file)
    else:
        try:
            values = np.asarray(gain, np.float64)
        except (TypeError, ValueError) as error:
            raise InputError("`gain`: give numbers, one a column of the directions") from error
    if values.shape != (width,):
        raise InputError(f"`gain` has the shape {values.shape}, the directions have {width} columns")
    if not np.isfinite(values).all():
        raise InputError("`gain` holds NaN or infinity")
    return values.astype(np.float64)


def _labels(labels: PathLike | Iterable[str] | None, given: Given, columns: bool) -> list[str]:
    """What each direction is called."""
    count = given.matrix.hidden_size if columns else given.rows.size
    if labels is None:
        return [""] * count if columns else list(map(str, given.labels()["token"].to_numpy().tolist()))
    if isinstance(labels, str | os.PathLike):
        labels = parse_path("labels", labels)
        try:
            with Path(labels).open("rb") as file:
                found = file.read(_MOST_LABELS).decode("utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or "it is no text"
            raise InputError(f"cannot read the labels {labels}: {said}") from error
    elif isinstance(labels, Iterable):
        found = list(map(str, labels))
    else:
        raise InputError(f"`labels` {labels!r:.40}: give a list of text, or a file with a line for each")
    if len(found) != count:
        raise InputError(f"`labels` are {len(found)}, and directions {count}: give one for each")
    return found
