"""How evenly rows point in all directions: the mean cosine of all pairs, and the isotropy of the partition function."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.execution.map_rows import by_chunk
from embgeom_dask.kernels.double_double import UNIT
from embgeom_dask.kernels.exact_sums import ColumnSums
from embgeom_dask.kernels.matrix_products import multiply
from embgeom_dask.storage.model_stores import Matrix

Array = NDArray[Any]

_ROWS = 1024
"""Rows that a worker multiplies at a time."""


def mean_cosine(units: ColumnSums, count: int) -> dict[str, float]:
    """The mean cosine of all pairs of `count` rows, and a bound of its error, of the sums of these made as long as 1.

    Unit rows are rounded, by at most 2 u in each value, and added without error.
    """
    if count < 2:
        return {"mean_cosine": math.nan, "mean_cosine_error": math.nan}
    total = units.mean(1)
    square = total.dot(total)
    off = 2.1 * UNIT * count
    error = (2 * total.l2 + off) * off / (count * (count - 1))
    mean = float((square - count) / (count * (count - 1)))
    return {"mean_cosine": mean, "mean_cosine_error": 1.01 * error + UNIT * abs(mean)}


def partition_isotropy(client: Client, matrix: Matrix, covariance: Array, mean: Array) -> float:
    """The smallest Z(c) / the largest, Z(c) = sum exp(c.x), over the eigenvectors c of X'X and their opposites.

    `covariance` (d, d) float64 is that of the sample, `mean` (d,) the mean row. One pass over the rows.
    """
    rows = matrix.vocab_size
    _, vectors = np.linalg.eigh(covariance * (rows - 1) + rows * np.outer(mean, mean))
    found = dict(by_chunk("partition", matrix, _sums, vectors, client=client))
    largest, total = _joined([found[start] for start in sorted(found)])
    logarithm = np.log(total) + largest
    return float(np.exp(logarithm.min() - logarithm.max()))


def _joined(parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Sums of exponentials, each divided by that of its largest term, as one of these."""
    largest = np.max([part[0] for part in parts], axis=0)
    return largest, np.sum([total * np.exp(top - largest) for top, total in parts], axis=0)


def _sums(matrix: Matrix, part: tuple[int, int], vectors: Array) -> tuple[Array, Array]:
    """The largest exponents (2 d,) of some rows, and the sums of exp(exponent - largest); runs on a worker."""
    with devices.session(torch.device("cpu")):
        stored, parts = matrix.read(*part), []
        for start in range(0, len(stored), _ROWS):
            one_way = multiply(stored[start : start + _ROWS].astype(np.float64), vectors)
            exponents = np.concatenate([one_way, -one_way], axis=1)
            largest = exponents.max(axis=0)
            parts.append((largest, np.exp(exponents - largest).sum(axis=0)))
        return _joined(parts)
