"""The inner product x.y: no distance, but ordered like one, by the value -x.y."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.correct_rounding import are_settled, dots
from embgeom_dask.kernels.double_double import Keys, dot_keys, integers, products
from embgeom_dask.kernels.double_double_sums import sum_slack
from embgeom_dask.kernels.row_norms import lengths_of_used
from embgeom_dask.metrics.base import Norms, Precision
from embgeom_dask.metrics.matrix_product import ProductOfRows, product_error

Array = NDArray[Any]

_MOST = 2.0**64
"""The most that one side's norms may count as much as the other's: no square times it overflows or underflows."""


class Dot(ProductOfRows):
    """The inner product. Values and distances are -x.y: the nearest pairs are those of the largest products."""

    name = "dot"
    is_product = True
    rounds = True
    prunes_by_norm = False

    def terms(self, rows: Norms, columns: Norms, width: int, precision: Precision) -> tuple[LinearBound, LinearBound]:
        """Bound -p.q, which errs by at most c |p| |q|, c = `product_error`; p, q are off the rows x, y by at most e, f.

        So x.y differs from the product by at most c |p| |q| + e |y| + |p| f, where |p| <= |x| + e. A linear bound is a
        sum: each of these products, u v, is at most (a u^2 + v^2 / a) / 2 for any a > 0, an equality where a = v / u.
        That is taken of the medians of the tile.
        """
        x, y = rows.norm, columns.norm
        p, q = (side.norm if side.error is None else (np.sqrt(side.norm) + side.error) ** 2 for side in (rows, columns))
        parts = [(product_error(0 if precision.element == "int32" else width, precision), p, q)]
        if rows.error is not None:
            parts.append((1 + 2.0**-20, rows.error**2, y))
        if columns.error is not None:
            parts.append((1 + 2.0**-20, p, columns.error**2))
        row, column = np.full(x.shape, precision.tiny), np.full(y.shape, precision.tiny)
        for factor, left, right in parts:
            if left.any() and right.any():
                share = _share(left, right)
                row += 0.5 * factor * share * left
                column += 0.5 * factor / share * right

        def bound(sign: int) -> LinearBound:
            first, second = ((sign * end).astype(precision.dtype) for end in (row, column))
            return LinearBound(first, second, -1.0, sign * precision.rounding)

        return bound(-1), bound(1)

    def direct(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """Return -sum_k x_k y_k, in float64."""
        values: Array = -products(x, y, i, j, np.float64)
        return values

    def rough(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """Return -sum_k x_k y_k, in float32."""
        values: Array = -products(x, y, i, j, np.float32)
        return values

    def rounded(self, x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:
        """Return -x.y and whether it is settled.

        The first sum errs by at most `sum_slack` |x| |y|. Where that does not do, as for orthogonal rows, it is made
        again in a way that tells if anything was rounded.
        """
        high, low = dots(x, y, i, j)
        sizes = lengths_of_used(x, i)[i] * lengths_of_used(y, j)[j]
        settled = are_settled(high, low, (1 + 2.0**-20) * sum_slack(x.shape[1]) * sizes)
        (again,) = np.nonzero(~settled)
        keys = dot_keys(x, y, i[again], j[again])
        exact = again[keys.exact]
        high[exact], low[exact] = keys.high[keys.exact], keys.low[keys.exact]
        settled[exact] = are_settled(high[exact], low[exact], np.zeros(exact.size))
        return 0.0 - high, settled

    def keys(self, x: Array, y: Array, i: Array, j: Array) -> Keys:
        """Return -sum_k x_k y_k in double-double."""
        high, low, exact = dot_keys(x, y, i, j)
        return Keys(0.0 - high, 0.0 - low, exact)

    def order(self, x: Array, y: Array) -> Fraction:
        """Return -x.y in units of 2^-2148, exactly."""
        a, b, unit = integers(x, y)
        return Fraction(-sum(p * q for p, q in zip(a, b, strict=True)) << 2 * unit + 2148)

    def order_of(self, distance: Fraction) -> Fraction:
        """Return the value in units of 2^-2148."""
        return distance * 2**2148

    def near(self, order: Fraction) -> float:
        """Return the value, rounded once."""
        return order.numerator / (order.denominator << 2148)

    def row_bounds(self, lengths: Array, other: float) -> Array:
        """Return |x| times the largest norm."""
        bounds: Array = lengths * other
        return bounds

    def bound(self, largest: float) -> float:
        """Return a bound of every product's size: that of half the sum of the two largest norms, squared."""
        return (0.5 * largest) ** 2


def _share(left: Array, right: Array) -> float:
    """The ratio of the median sizes of the right and the left, which are squares, not all 0: of those that are not."""
    sizes = [float(np.sqrt(np.median(side[side > 0]))) for side in (left, right)]
    return float(np.clip(sizes[1] / sizes[0], 1 / _MOST, _MOST))
