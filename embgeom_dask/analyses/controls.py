"""Null models: stores of the shape and type of a matrix, filled with random numbers that a seed decides."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.analyses.derived_stores import free_target, write_derived
from embgeom_dask.analyses.survey import survey
from embgeom_dask.analyses.tokens import tokens
from embgeom_dask.batches import many
from embgeom_dask.errors import InputError
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.progress import showing
from embgeom_dask.storage import model_stores
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike

Array = NDArray[Any]
Like = Literal["gaussian", "uniform"]
Match = Literal["centroid", "norms"]

_BLOCK_ROWS = 1024
"""Rows that one random stream fills: its number decides them, whatever chunks a store has."""

_CLOSE, _PASSES = 1e-9, 60
"""How far the mean of the rows may be from the centroid, as a part of their mean length, and what stops the search."""


def controls(
    store: PathLike | Iterable[PathLike],
    role: Role | None = None,
    *,
    like: Like = "gaussian",
    seed: int = 42,
    match: Match | None = None,
    stores: PathLike = "stores",
    overwrite: bool = False,
    client: ClientLike | None = None,
    progress: bool | None = None,
) -> Any:
    """Write a store of random numbers with the shape, the type and the token labels of a matrix, to compare with it.

    Every command takes it like any other store. Rows are made 1,024 at a time. Those of block b are float64 numbers of
    PCG64 with the seed (`seed`, b), rounded to the type of the matrix. They depend on nothing else but the version of
    numpy, which may change its normal numbers in a later one. The store's attribute `control` names this version, and
    everything that the rows were made from.

    Parameters
    ----------
    store : path, or list of these
        The store of the model, or of several.
    role : {"input", "output"}, optional
        The matrix to imitate, as which the rows are stored; by default output, or input if the store has no output
        matrix.
    like : {"gaussian", "uniform"}
        Standard normal numbers, or numbers from -1 to 1, equally likely.
    seed : int
        The seed, 0 or more.
    match : {"centroid", "norms"}, optional
        What the control keeps of the matrix, up to rounding. Both keep the centroid of the rows. "centroid" also keeps
        the distance of every row from the centroid, "norms" the norm of every row. Directions are random, plus one
        vector that is the same for all rows and chosen so that their mean is the centroid; for very few rows, or rows
        of one column, no such vector may exist. It takes two passes over the matrix, and some over the random numbers.
    stores : path or URL
        The folder that the new store is written into. The store is named `<organisation>--<name>-<like>-<seed>.zarr`,
        with `-centroid` or `-norms` after the seed if these are matched.
    overwrite : bool
        Whether to replace a store that exists.
    client : Client, cluster or str, optional
        Where the matrix is read if its centroid is matched: a dask client, a cluster or an address; by default the
        client that is active, or else a cluster in this process.
    progress : bool, optional
        Whether to show a progress bar; by default only in a notebook.

    Returns
    -------
    str or list of str
        The path of the new store; of a list, of each.

    Raises
    ------
    InputError
        If there is no store or no such matrix, if `like`, `seed` or `match` is not one of these, if a store exists and
        `overwrite` is False, or if the centroid is to be matched of rows that have none.
    EmbgeomError
        If a store cannot be read, or the new one cannot be written.

    Examples
    --------
    >>> import embgeom_dask as eg
    >>> from embgeom_dask.testing import make_store
    >>> store = make_store("tiny.zarr", output=np.eye(40, 8, dtype=np.float32), model="org/tiny")
    >>> controls(store)
    'stores/org--tiny-gaussian-42.zarr'
    >>> eg.survey(controls(store, like="uniform"))["vocab_size"].item()
    40
    """
    if like not in get_args(Like):
        raise InputError(f"`like` {like}: choose {' or '.join(get_args(Like))}")
    if match is not None and match not in get_args(Match):
        raise InputError(f"`match` {match}: choose {' or '.join(get_args(Match))}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"`seed` {seed}: give an integer, 0 or more")
    with showing(progress):
        if many.is_one(store):
            return _write(cast(PathLike, store), role, like, int(seed), match, stores, overwrite, client)
        each = many.each_of(cast(Any, store), "controls")
        return [_write(cast(PathLike, one), role, like, int(seed), match, stores, overwrite, client) for one in each]


def _write(
    store: PathLike,
    role: Role | None,
    like: Like,
    seed: int,
    match: Match | None,
    stores: PathLike,
    overwrite: bool,
    client: ClientLike | None,
) -> str:
    """Write the control of one store."""
    if not isinstance(store, str | os.PathLike):
        raise InputError("controls are of stores, and this is an array: make random numbers of its shape")
    matrix = model_stores.find_matrix(store, role)
    named = "-".join(filter(None, (model_stores.label(matrix.model, matrix.revision), like, str(seed), match or "")))
    target = free_target(stores, named, overwrite=overwrite)
    rows = Control(matrix, like, seed)
    if match is not None:
        with connect(client) as active:
            centroid = survey(store, matrix.role, client=active)["centroid"].to_numpy()[0]
            known = tokens(store, matrix.role, client=active)
        length = known["norm_l2" if match == "norms" else "centroid_distance"].to_numpy()
        rows = rows.kept(centroid, length, from_origin=match == "norms")
    made = {"like": like, "seed": seed, "match": match or "", "sha256": matrix.sha256, "numpy": np.__version__}
    return write_derived(target, named, rows, matrix, {"control": made}, overwrite=overwrite)


@dataclass(frozen=True)
class Control:
    """Random rows of the shape of `matrix`, as a store is written from.

    With `length` (V,) float64 row i lies at this distance from `origin` (d,) float64, in a random direction of length 1
    to which `tilt` (d,) float64 is added.
    """

    matrix: Matrix
    like: Like
    seed: int
    origin: Array | None = None
    length: Array | None = None
    tilt: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The rows and columns."""
        return self.matrix.vocab_size, self.matrix.hidden_size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored type."""
        return self.matrix.read(0, 1).dtype

    @property
    def tensor(self) -> str:
        """What the rows are called."""
        return self.like

    def read(self, start: int, stop: int) -> Array:
        """Return rows start..stop-1, rounded to the stored type."""
        first, last = start // _BLOCK_ROWS, -(-stop // _BLOCK_ROWS)
        found = np.empty((stop - start, self.shape[1]), self.dtype)
        with devices.session(torch.device("cpu")):
            for block in range(first, last):
                begin = block * _BLOCK_ROWS
                low, high = max(start, begin), min(stop, begin + _BLOCK_ROWS)
                found[low - start : high - start] = self._placed(self._block(block)[low - begin : high - begin], low)
        return found

    def _block(self, block: int) -> Array:
        random = np.random.Generator(np.random.PCG64([self.seed, block]))
        size = (_BLOCK_ROWS, self.shape[1])
        return random.standard_normal(size) if self.like == "gaussian" else random.uniform(-1, 1, size)

    def _placed(self, rows: Array, first: int) -> Array:
        if self.origin is None or self.length is None or self.tilt is None:
            return rows
        tilted = rows / _lengths(rows) + self.tilt
        return self.length[first : first + len(rows), None] * tilted / _lengths(tilted) + self.origin

    def kept(self, centroid: Array, length: Array, *, from_origin: bool) -> Control:
        """These rows as long as `length` (V,), from the origin or from the centroid (d,), which is their mean.

        Newton's method finds the tilt, as if all directions were at right angles to it, which in many dimensions they
        nearly are; a step that leads away is halved.
        """
        width, mean_length = self.matrix.hidden_size, float(length.mean())
        origin = np.zeros(width) if from_origin else centroid
        tilt, near = np.zeros(width), np.inf
        best = replace(self, origin=origin, length=length, tilt=tilt)
        for _ in range(_PASSES if mean_length else 0):
            found = replace(best, tilt=tilt)
            missing = (centroid - found._mean()) / mean_length
            off = float(np.sqrt((missing**2).sum()))
            if off < near:
                best, near, share = found, off, 1.0
                step = np.sqrt(1 + (tilt**2).sum()) * (missing + tilt * (tilt * missing).sum())
            else:
                share /= 2
            if near <= _CLOSE:
                break
            tilt = cast(Array, best.tilt) + share * step
        return best

    def _mean(self) -> Array:
        """The mean of the rows, before they are rounded."""
        rows, total = self.matrix.vocab_size, np.zeros(self.matrix.hidden_size)
        for first in range(0, rows, _BLOCK_ROWS):
            total += self._placed(self._block(first // _BLOCK_ROWS)[: rows - first], first).sum(axis=0)
        return total / rows


def _lengths(rows: Array) -> Array:
    """The length of each row, (n, 1)."""
    found: Array = np.sqrt((rows**2).sum(axis=1))[:, None]
    return found
