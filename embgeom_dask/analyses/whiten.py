"""Derived stores in which the covariance of the rows is the identity, or has lost its leading components."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.analyses.derived_stores import free_target, write_derived
from embgeom_dask.analyses.spectrum import covariance_of
from embgeom_dask.batches import many
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Given
from embgeom_dask.execution.cluster import ClientLike, connect
from embgeom_dask.kernels.eigenvalues import eigen
from embgeom_dask.kernels.matrix_products import multiply
from embgeom_dask.kernels.numba_bfloat16 import as_float, as_numba
from embgeom_dask.progress import showing
from embgeom_dask.storage import model_stores
from embgeom_dask.storage.model_stores import Matrix, Role
from embgeom_dask.storage.paths import PathLike

Array = NDArray[Any]

How = Literal["causal", "pca", "zca", "remove"]
Divisor = Literal["n-1", "n"]
Type = Literal["float32", "float64"]

_BLOCK_ROWS = 256
"""Rows that are multiplied together, whatever the chunks."""


class Transform(NamedTuple):
    """How rows are transformed: what is added to the eigenvalues, what sums are divided by, and how many components
    are removed.
    """

    how: How
    ridge: float
    divisor: Divisor
    components: int | None
    dtype: Type


def whiten(
    store: PathLike | Iterable[PathLike],
    role: Role | None = None,
    *,
    how: How = "causal",
    ridge: float = 1e-6,
    divisor: Divisor = "n-1",
    components: int | None = None,
    dtype: Type = "float32",
    stores: PathLike = "stores",
    overwrite: bool = False,
    client: ClientLike | None = None,
    progress: bool | None = None,
) -> Any:
    """Write stores of rows that are transformed so that their covariance is the identity, or lacks leading components.

    With the mean m and the covariance C of all rows, C + ridge I = V D V':

    - `causal`: L'(x - m), where L L' = (C + ridge I)^-1 and L is lower triangular: the causal inner product of Park,
      Choe and Veitch (arXiv 2311.03658), who divide by N and add nothing.
    - `pca`: D^-1/2 V'(x - m), a column for each component, largest variance first.
    - `zca`: V D^-1/2 V'(x - m), which stays nearest to the rows as they were.
    - `remove`: x - m less its part along the leading components (Mu and Viswanath 2018, "all but the top").

    Every command takes the new store like any other. The first three transforms differ by a rotation, so that distances
    are the same up to rounding. Rows are multiplied in float64, with an error of at most (d + 4) 2^-53 |W| |x - m| for
    the matrix W of the transform, and rounded to `dtype`. What a command then says of the new store is exact for these
    rounded numbers. Eigenvectors and products are those of LAPACK and BLAS, whose last bits depend on the machine. The
    store's attribute `whitening` has all settings and the `sha256` of the rows that it was made from. One pass over the
    rows makes the covariance, another the new rows.

    Parameters
    ----------
    store : path, or list of these
        The store of the model, or of several.
    role : {"input", "output"}, optional
        The matrix to transform, as which the rows are stored; by default output, or input if the store has no output
        matrix.
    how : {"causal", "pca", "zca", "remove"}
        The transform.
    ridge : float
        What is added to every eigenvalue of the covariance; not used by `remove`.
    divisor : {"n-1", "n"}
        What the sums of the covariance are divided by.
    components : int, optional
        How many leading components `remove` takes away: fewer than columns; by default a hundredth of
        them, rounded, one at least.
    dtype : {"float32", "float64"}
        The type of the new rows.
    stores : path or URL
        The folder of the new store, `<organisation>--<name>-<how>.zarr`.
    overwrite : bool
        Whether to replace a store that exists.
    client : Client, cluster or str, optional
        Where the covariance is made: a dask client, a cluster or an address; by default the client that is active, or
        else a cluster in this process.
    progress : bool, optional
        Whether to show a progress bar; by default only in a notebook.

    Returns
    -------
    str or list of str
        The path of the new store; of a list, of each.

    Raises
    ------
    InputError
        If there is no store or no such matrix, if an argument is none of these, if an eigenvalue and `ridge` together
        are not certainly above 0, if a store exists and `overwrite` is False, or if `spectrum` refuses the rows.
    EmbgeomError
        If a store cannot be read, or the new one cannot be written.

    Examples
    --------
    >>> import embgeom_dask as eg
    >>> from embgeom_dask.testing import make_store
    >>> rows = np.array([[6, 0], [-6, 0], [0, 1], [0, -1]], np.float32)
    >>> store = make_store("tiny.zarr", output=rows, model="org/tiny")
    >>> whiten(store, how="zca", ridge=0, divisor="n")
    'stores/org--tiny-zca.zarr'
    >>> eg.open_model("stores/org--tiny-zca.zarr")["output_embedding"].values.round(6)
    array([[ 1.414214,  0.      ],
           [-1.414214,  0.      ],
           [ 0.      ,  1.414214],
           [ 0.      , -1.414214]], dtype=float32)
    """
    for name, value, known in (("how", how, How), ("divisor", divisor, Divisor), ("dtype", dtype, Type)):
        if value not in get_args(known):
            raise InputError(f"`{name}` {value}: choose one of {', '.join(get_args(known))}")
    if isinstance(ridge, bool) or not isinstance(ridge, int | float) or not 0 <= ridge < np.inf:
        raise InputError(f"`ridge` {ridge}: give a number, 0 or more")
    if components is not None and (how != "remove" or isinstance(components, bool) or components < 1):
        raise InputError(f"`components` {components}: give 1 or more, and only to remove them")
    asked = Transform(how, float(ridge), divisor, components, dtype)
    with showing(progress):
        if many.is_one(store):
            return _write(cast(PathLike, store), role, asked, stores, overwrite, client)
        each = many.each_of(cast(Any, store), "whiten")
        return [_write(cast(PathLike, one), role, asked, stores, overwrite, client) for one in each]


def _write(
    store: PathLike, role: Role | None, asked: Transform, stores: PathLike, overwrite: bool, client: ClientLike | None
) -> str:
    """Write the transformed rows of one store."""
    if not isinstance(store, str | os.PathLike):
        raise InputError("whiten takes stores, and this is an array: embgeom convert makes one of a file of it")
    matrix = model_stores.find_matrix(store, role)
    if asked.how == "remove":
        asked = asked._replace(components=asked.components or max(1, round(matrix.hidden_size / 100)), ridge=0.0)
        if cast(int, asked.components) >= matrix.hidden_size:
            width = matrix.hidden_size
            raise InputError(f"`components` {asked.components}: {matrix.label} has {width} columns, give fewer")
    named = f"{model_stores.label(matrix.model, matrix.revision)}-{asked.how}"
    target = free_target(stores, named, overwrite=overwrite)
    matrix.labels()  # before the pass over the rows
    with connect(client) as active, devices.session(torch.device("cpu")):
        rows = _transformed(active, matrix, asked)
    made = {**asked._asdict(), "components": asked.components or 0, "model": matrix.model, "revision": matrix.revision}
    made |= {"matrix": matrix.name, "sha256": matrix.sha256}
    return write_derived(target, named, rows, matrix, {"whitening": made}, overwrite=overwrite)


def _transformed(client: Client, matrix: Matrix, asked: Transform) -> Transformed:
    """The rows to write: with the matrix of the transform, of the covariance of all rows."""
    size = matrix.vocab_size
    covariance, high, low, off = covariance_of(client, Given(matrix, np.arange(size)))
    if asked.divisor == "n":
        covariance *= (size - 1) / size
    if asked.how == "remove":
        vectors = eigen(covariance, cast(int, asked.components), off).vector
        return Transformed(matrix, np.eye(matrix.hidden_size) - vectors.T @ vectors, high, low, asked)
    found = eigen(covariance.copy(), matrix.hidden_size, off)
    least = float(found.value[-1]) + asked.ridge
    if least <= 2 * found.error:
        raise InputError(
            f"{matrix.label}: the least eigenvalue of the covariance, {found.value[-1]:.3g}, is not told from 0 "
            f"(within {found.error:.3g}): give a `ridge` above that"
        )
    scaled = found.vector / np.sqrt(found.value + asked.ridge)[:, None]  # rows are components
    if asked.how == "pca":
        return Transformed(matrix, scaled, high, low, asked)
    if asked.how == "zca":
        return Transformed(matrix, found.vector.T @ scaled, high, low, asked)
    return Transformed(matrix, np.linalg.cholesky(scaled.T @ scaled).T, high, low, asked)


@dataclass(frozen=True, eq=False)
class Transformed:
    """Rows `transform` (d, d) (x - m) of a matrix, as a store is written from; m is `high` + `low` (d,)."""

    matrix: Matrix
    transform: Array
    high: Array
    low: Array
    asked: Transform

    @property
    def shape(self) -> tuple[int, ...]:
        """The rows and columns."""
        return self.matrix.vocab_size, self.matrix.hidden_size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the new rows."""
        return np.dtype(self.asked.dtype)

    @property
    def tensor(self) -> str:
        """What the rows are called."""
        return self.asked.how

    def read(self, start: int, stop: int) -> Array:
        """Return rows start..stop-1, rounded to the type."""
        begin, end = start // _BLOCK_ROWS * _BLOCK_ROWS, min(-(-stop // _BLOCK_ROWS) * _BLOCK_ROWS, self.shape[0])
        found = np.empty((end - begin, self.shape[1]), self.dtype)
        with devices.session(torch.device("cpu")):
            rows = as_numba(self.matrix.read(begin, end))
            for first in range(0, end - begin, _BLOCK_ROWS):
                part = slice(first, first + _BLOCK_ROWS)
                found[part] = multiply((as_float(rows[part]) - self.high) - self.low, self.transform.T)
        return found[start - begin : stop - begin]
