"""Euclidean distance: |x - y|^2 = |x|^2 + |y|^2 - 2 x.y, from one matrix product."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels import correct_rounding, integer_distances
from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.double_double import Keys, integers, squared_difference_keys, squared_differences
from embgeom_dask.metrics.base import Norms, Precision
from embgeom_dask.metrics.matrix_product import ProductOfRows, product_error

Array = NDArray[Any]


class Euclidean(ProductOfRows):
    """The L2 distance. The value is its square: |x|^2 + |y|^2 - 2 x.y in tiles, sum_k (x_k - y_k)^2 elsewhere."""

    name = "euclidean"
    root = True
    shifts = True
    has_digits = True

    def terms(self, rows: Norms, columns: Norms, width: int, precision: Precision) -> tuple[LinearBound, LinearBound]:
        """Bound |x|^2 + |y|^2 - 2 p.q, where p.q errs by at most c |x| |y|, c = `product_error`.

        As 2 |x| |y| <= |x|^2 + |y|^2, the bounds are (1 -+ c) |x|^2 + (1 -+ c) |y|^2 - 2 p.q. If points are not their
        rows, `_moved` bounds what that changes; the errors of the sums are part of it, so that c is taken for d = 0.
        Of points in digits the slack of either row is all of it, of others it is of their norms.
        """
        if rows.step is not None and rows.slack is not None and columns.slack is not None:
            return digit_terms((rows.norm, columns.norm), (rows.slack, columns.slack), -2.0)
        error = product_error(width if rows.error is None else 0, precision)
        sides, moved = (rows, columns), _moved(rows, columns)

        def bound(sign: int) -> LinearBound:
            row, column = (
                (side.norm * (1 + sign * error) + sign * (precision.tiny + more + _slack(side))).astype(precision.dtype)
                for side, more in zip(sides, moved, strict=True)
            )
            return LinearBound(row, column, -2.0, sign * 2 * precision.rounding)

        return bound(-1), bound(1)

    def direct(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """Return sum_k (x_k - y_k)^2, in float64."""
        return squared_differences(x, y, i, j, np.ones(len(x)), np.ones(len(y)), np.float64)

    def rough(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """Return that in float32, which holds rows of all types but float64."""
        if np.float64 in (x.dtype, y.dtype):
            return super().rough(x, y, i, j)
        return squared_differences(x, y, i, j, np.ones(len(x)), np.ones(len(y)), np.float32)

    def rounded(self, x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:
        """Return what `kernels.correct_rounding.euclidean` computes: of most rows of bfloat16 by integers."""
        if x.dtype != np.uint16 or y.dtype != np.uint16:
            found: tuple[Array, Array] = correct_rounding.euclidean(x, y, i, j)
            return found
        distance, settled, computed = integer_distances.distances(x, y, i, j)
        (left,) = np.nonzero(~computed)
        distance[left], settled[left] = correct_rounding.euclidean(x, y, i[left], j[left])
        return distance, settled

    def keys(self, x: Array, y: Array, i: Array, j: Array) -> Keys:
        """Return sum_k (x_k - y_k)^2 in double-double."""
        return squared_difference_keys(x, y, i, j)

    def order(self, x: Array, y: Array) -> Fraction:
        """Return the squared distance in units of 2^-2148, exactly."""
        a, b, unit = integers(x, y)
        return Fraction(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) << 2 * unit + 2148)

    def order_of(self, distance: Fraction) -> Fraction:
        """Return distance |distance| in units of 2^-2148."""
        return distance * abs(distance) * 2**2148

    def near(self, order: Fraction) -> float:
        """Return the square root, computed to 64 more bits than its integer part in units of 2^-1074."""
        return isqrt(int(order) << 128) / (1 << 1074 + 64)


def _slack(side: Norms) -> Array | float:
    return 0.0 if side.slack is None else side.slack


def digit_terms(
    values: tuple[Array, Array], slack: tuple[Array, Array], factor: float
) -> tuple[LinearBound, LinearBound]:
    """Bound what a row and a column give and `factor` times a product of digits, within the slack of either.

    The arrays are (m,) and (n,); what they are of one row hangs on no other.
    """
    low, high = (
        LinearBound(values[0] + sign * (slack[0] + 2.0**-900), values[1] + sign * (slack[1] + 2.0**-900), factor)
        for sign in (-1, 1)
    )
    return low, high


def _moved(rows: Norms, columns: Norms) -> tuple[Array | float, Array | float]:
    """Bound 2 |x.y - p.q| for points p, q off by e, f from rows x, y, by a part of each row and a part of each column.

    The bound e_i |y_j| + |p_i| f_j is a product of a row's and a column's number, but a linear bound is a sum. With the
    medians e', f' of a block's errors, e_i |y_j| <= e' |y_j| + max(e_i - e', 0) max_j |y_j|, and the same for f_j. The
    factor 1 + 2^-20 covers the rounding of the sum of terms.

    Returns
    -------
    row, column : numpy.ndarray of float64, (m,) and (n,)
        0.0 for both if points equal their rows.
    """
    if rows.error is None or columns.error is None or not rows.error.size or not columns.error.size:
        return 0.0, 0.0
    e, f = float(np.median(rows.error)), float(np.median(columns.error))
    p, y = np.sqrt(rows.norm) + rows.error, np.sqrt(columns.norm)
    row = p * f + np.maximum(rows.error - e, 0) * y.max()
    column = y * e + np.maximum(columns.error - f, 0) * p.max()
    return 2 * (1 + 2.0**-20) * row, 2 * (1 + 2.0**-20) * column
