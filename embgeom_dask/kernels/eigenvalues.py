"""Eigenvalues and vectors of a symmetric matrix, by LAPACK, with bounds of their errors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.column_products import ColumnProducts, stripes
from embgeom_dask.kernels.double_double import UNIT

Array = NDArray[Any]

_INNER = 128
"""Terms that are summed at a time: n sums of m numbers err by (n + m) u, not by n m u."""

_SLACK = 1.01
"""More than the roundings of the bounds themselves."""

_TINY = 2.0**-400


class Eigen(NamedTuple):
    """Of a symmetric matrix, largest eigenvalue first.

    `value` (d,) float64; each is within `error` of the true one. `vector` (k, d), of length 1 but for rounding, its
    largest component in size positive; the sine of the angle between each and a true one is at most `sine` (k,).
    """

    value: Array
    error: float
    vector: Array
    sine: Array


def eigen(matrix: Array, count: int, off: float) -> Eigen:
    """Return the eigenvalues of a positive semidefinite matrix (d, d) and `count` leading vectors.

    The matrix is not kept. `off` bounds the Frobenius norm of what it differs by from the true one.

    With V and L as computed, R = C V - V L and e = ||V'V - I||: V'CV has the eigenvalues of C up to factors between
    1 - e and 1 + e (Ostrowski), and differs from L by V'R + (V'V - I) L. Below a tiny multiple of the trace a value
    may come out negative, which none is: it is made 0. The sine of an angle is at most the residual divided by the
    distance to the nearest other eigenvalue (Davis and Kahan, *SIAM J. Numer. Anal.* 7, 1970).
    """
    scale = 2.0 ** -np.frexp(np.abs(matrix).max())[1]  # no square overflows, and none that counts underflows
    matrix *= scale
    value, vector = (each.numpy() for each in torch.linalg.eigh(torch.from_numpy(matrix)))
    of_vector = _SLACK * (_residuals(matrix, value, vector) + off * scale)
    of_all, skew, top = float(np.linalg.norm(of_vector)), _SLACK * _skew(vector), float(np.abs(value).max())
    error = _SLACK * ((1 + skew) * of_all + 2 * skew * top) / (1 - skew)
    value, leading = value[::-1], vector[:, ::-1][:, :count].T
    gap = np.full(count, np.inf)
    if value.size > 1:
        between = -np.diff(value)
        gap = np.minimum(np.append(between, np.inf), np.append(np.inf, between))[:count] - 2 * error
    with np.errstate(divide="ignore", invalid="ignore"):
        sine = np.where(gap > 0, np.minimum(1.0, of_vector[::-1][:count] / gap / (1 - skew)), 1.0)
    return Eigen(np.maximum(value, 0) / scale, error / scale, _with_signs(leading), sine)


def _residuals(matrix: Array, value: Array, vector: Array) -> Array:
    """Bounds of the lengths (d,) of the columns of C V - V L."""
    residual = np.ascontiguousarray(-vector * value)
    into, left, right = map(torch.from_numpy, (residual, matrix, np.ascontiguousarray(vector)))
    for start in range(0, len(matrix), _INNER):
        part = slice(start, start + _INNER)
        into += left[:, part] @ right[part]
    rounded = (
        (min(_INNER, len(matrix)) + len(matrix) / _INNER + 4) * UNIT * np.linalg.norm(matrix)
    )  # of products with a unit vector
    found: Array = np.linalg.norm(residual, axis=0) + rounded
    return found


def _skew(vector: Array) -> float:
    """The Frobenius norm of V'V - I."""
    products = ColumnProducts.none(len(vector), stripes(len(vector)))
    products.add_rows(np.where(np.abs(vector) < _TINY, 0, vector))
    square = 0.0
    for total in products.total:
        total[np.diag_indices(len(total))] -= 1
        own, beyond = total[:, : len(total)], total[:, len(total) :]
        square += float((own**2).sum() + 2 * (beyond**2).sum())
    return float(np.sqrt(square))


def _with_signs(vectors: Array) -> Array:
    """The same vectors (k, d), the largest component in size of each positive: the first of several."""
    largest = np.abs(vectors).argmax(axis=1)
    signs: Array = np.sign(vectors[np.arange(len(vectors)), largest])
    return vectors * signs[:, None]
