"""The exact mean of some rows of a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.execution.map_rows import map_rows, parts_of_kept
from embgeom_dask.kernels.exact_sums import ColumnSums, column_sums
from embgeom_dask.kernels.rationals import Rationals
from embgeom_dask.storage.model_stores import Matrix

Array = NDArray[Any]


def mean_of(client: Client, what: str, matrix: Matrix, rows: Array) -> Rationals:
    """The mean of the rows `rows` (n,) of a matrix, all of which are fit; `what` is what a bar calls the pass."""
    sums = ColumnSums.none(matrix.hidden_size)
    for part in map_rows(client, what, matrix, parts_of_kept(client, matrix, rows), _sums):
        sums.add(part)
    return sums.mean(rows.size)


def _sums(matrix: Matrix, rows: Array) -> ColumnSums:
    with devices.session(torch.device("cpu")):
        stored = matrix.take(rows)
        return column_sums(stored, np.ones(len(stored), np.bool_))
