"""Null models: stores of the shape and type of a matrix, filled with random numbers that a seed decides."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.analyses import many
from embgeom_dask.analyses.derived import free_target, write_derived
from embgeom_dask.analyses.survey import survey
from embgeom_dask.analyses.tokens import tokens
from embgeom_dask.errors import InputError
from embgeom_dask.execution.cluster import ClientLike
from embgeom_dask.progress import showing
from embgeom_dask.storage import model_stores
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike

Array = NDArray[Any]
Like = Literal["gaussian", "uniform"]
Match = Literal["centroid"]

_BLOCK_ROWS = 1024
"""Rows that one random stream fills: its number decides them, whatever chunks a store has."""


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
    """Write a store of random numbers of the shape, type and token labels of a matrix: what chance alone would give.

    Every question can be asked of it as of any store. Rows are made 1,024 at a time, those of block b by PCG64 with the
    seed (`seed`, b), as float64 numbers that are rounded to the type of the matrix: nothing else decides them but
    numpy, which does not promise its normal numbers to later versions. The store's attribute `control` names the
    version, and all that the rows were made from.

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
        0 or more.
    match : {"centroid"}, optional
        Put every row where its own token's row is but for the direction: at the same distance from the same centroid,
        but for rounding. By two passes over the matrix.
    stores : path or URL
        The folder of the new store, `<organisation>--<name>-<like>-<seed>.zarr`, with `-centroid` if that is matched.
    overwrite : bool
        Whether to replace a store that exists.
    client : Client, cluster or str, optional
        Where the matrix is read if its centroid is matched: a dask client, a cluster or an address; by default the
        client that is active, or else a cluster in this process.
    progress : bool, optional
        Whether to show a bar with rate and time left; by default only in a notebook.

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
    centroid = distance = None
    if match is not None:
        centroid = survey(store, matrix.role, client=client)["centroid"].to_numpy()[0]
        distance = tokens(store, matrix.role, client=client)["centroid_distance"].to_numpy()
    rows = Control(matrix, like, seed, centroid, distance)
    made = {"like": like, "seed": seed, "match": match or "", "sha256": matrix.sha256, "numpy": np.__version__}
    return write_derived(target, named, rows, matrix, {"control": made}, overwrite=overwrite)


@dataclass(frozen=True)
class Control:
    """Random rows of the shape of `matrix`, as a store is written from.

    With a `centroid` (d,) float64 row i lies in a random direction from it, at `distance[i]` (V,) float64.
    """

    matrix: Matrix
    like: Like
    seed: int
    centroid: Array | None = None
    distance: Array | None = None

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
        if self.centroid is None or self.distance is None:
            return rows
        length = np.sqrt((rows**2).sum(axis=1))
        part: Array = rows * (self.distance[first : first + len(rows)] / length)[:, None] + self.centroid
        return part
