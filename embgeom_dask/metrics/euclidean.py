"""Euclidean distance, from one matrix product."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels import correct_rounding
from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.double_double import UNIT, Keys, integers, squared_difference_keys, squared_differences
from embgeom_dask.metrics import matrix_product
from embgeom_dask.metrics.base import Metric, Norms, Points, Precision
from embgeom_dask.metrics.matrix_product import product_error
from embgeom_dask.metrics.workspace import Workspace

Array = NDArray[Any]


class Euclidean(Metric):
    """The L2 distance; the value is its square: |x|^2 + |y|^2 - 2 x.y in tiles, the sum of (x - y)^2 elsewhere."""

    name = "euclidean"
    root = True
    shifts = True
    as_stored = True
    quantizes = True

    def unit(self, scale: float) -> float:
        """The square of `scale`."""
        return scale**2

    def radius(self, one: Array, two: Array, largest: Array) -> Array:  # noqa: ARG002
        """The L2 norm."""
        return np.asarray(np.sqrt(two))

    def points(self, values: Array, dtype: Any) -> Points:
        """The rows as they are; norms are squared."""
        points = values.astype(dtype, copy=False)
        return Points(points, Norms(squared_norm(points)))

    def product(self, rows: torch.Tensor, columns: torch.Tensor, workspace: Workspace) -> torch.Tensor:
        """The matrix product."""
        return matrix_product.multiply(rows, columns, workspace)

    def terms(self, rows: Norms, columns: Norms, width: int, precision: Precision) -> tuple[LinearBound, LinearBound]:
        """As |x| |y| is at most half the sum of the squared norms, each norm carries its part of the error.

        Points that are off add what `_moved` says, that of their sums with it.
        """
        error = product_error(width if rows.error is None else 0, precision)
        sides, moved = (rows, columns), _moved(rows, columns)

        def bound(sign: int) -> LinearBound:
            row, column = (
                (side.norm * (1 + sign * error) + sign * (precision.tiny + more)).astype(precision.dtype)
                for side, more in zip(sides, moved, strict=True)
            )
            return LinearBound(row, column, -2.0, sign * 2 * precision.rounding)

        return bound(-1), bound(1)

    def direct(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """Sum (x - y)^2."""
        return squared_differences(x, y, i, j, np.ones(len(x)), np.ones(len(y)))

    def direct_slack(self, values: Array, width: int) -> Array:
        """(d + 3) u in any order of summation: the sum (Jeannerod and Rump), the difference and its square."""
        return (width + 8) * UNIT * values

    def rounded(self, x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:
        """See `correct_rounding.euclidean`."""
        found: tuple[Array, Array] = correct_rounding.euclidean(x, y, i, j)
        return found

    def keys(self, x: Array, y: Array, i: Array, j: Array) -> Keys:
        """Sum (x - y)^2."""
        return squared_difference_keys(x, y, i, j)

    def key_slack(self, values: Array, width: int) -> Array:
        """Of d terms each loses at most 3 d u^2 of the sum."""
        return 4.0 * (width + 1) ** 2 * UNIT**2 * values

    def order(self, x: Array, y: Array) -> Fraction:
        """The squared distance in units of 2^-2148."""
        a, b, unit = integers(x, y)
        return Fraction(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) << 2 * unit + 2148)

    def order_of(self, distance: Fraction) -> Fraction:
        """The square in units of 2^-2148, with the sign of `distance`."""
        return distance * abs(distance) * 2**2148

    def near(self, order: Fraction) -> float:
        """The square root, of 64 more bits than an integer has."""
        return isqrt(int(order) << 128) / (1 << 1074 + 64)


def _moved(rows: Norms, columns: Norms) -> tuple[Array | float, Array | float]:
    """What errors of the points can add to a value: a part of each row (m,) and a part of each column (n,).

    With points p, q off by e, f from x, y: |x.y - p.q| <= e |y| + |p| f. Of e and f the median of a block meets the
    other side's own length, what is above it the largest. 2^-20 of it is for the rounding of the sum of terms.
    """
    if rows.error is None or columns.error is None or not rows.error.size or not columns.error.size:
        return 0.0, 0.0
    e, f = float(np.median(rows.error)), float(np.median(columns.error))
    p, y = np.sqrt(rows.norm) + rows.error, np.sqrt(columns.norm)
    row = p * f + np.maximum(rows.error - e, 0) * y.max()
    column = y * e + np.maximum(columns.error - f, 0) * p.max()
    return 2 * (1 + 2.0**-20) * row, 2 * (1 + 2.0**-20) * column


def squared_norm(values: Array) -> Array:
    """The squared L2 norm (b,) float64 of rows (b, d)."""
    out: Array = np.einsum("ij,ij->i", values, values, dtype=np.float64)
    return out
