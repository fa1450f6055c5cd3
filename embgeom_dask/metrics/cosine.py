"""Cosine distance: 1 - x.y / (|x| |y|), from one matrix product of unit vectors."""

from __future__ import annotations

from fractions import Fraction
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.correct_rounding import are_settled, dots
from embgeom_dask.kernels.double_double import (
    UNIT,
    DoubleDouble,
    Keys,
    dot_keys,
    integers,
    one_minus_ratio,
    squared_differences,
)
from embgeom_dask.kernels.double_double_sums import sum_slack
from embgeom_dask.kernels.numba_bfloat16 import as_float
from embgeom_dask.kernels.row_norms import lengths_of_used, nearest_norms
from embgeom_dask.metrics import matrix_product
from embgeom_dask.metrics.base import USUAL_LENGTHS, Metric, Norms, Points, Precision
from embgeom_dask.metrics.euclidean import Euclidean, digit_terms
from embgeom_dask.metrics.matrix_product import product_error
from embgeom_dask.metrics.workspace import Workspace

Array = NDArray[Any]

_SMALLEST = 2.0**-500
"""A length that replaces those of rows of zeros, which would be divided by."""


class Cosine(Metric):
    """1 - x.y / (|x| |y|); rows of zeros have no direction and must be left out.

    Points are unit vectors, values are distances. The identity 1 - x.y / (|x| |y|) = |x/|x| - y/|y||^2 / 2 gives values
    of nearly parallel rows without cancellation.
    """

    name = "cosine"
    quantizes = True
    has_digits = True
    has_rough = True
    undefined_for_zero_rows = True
    keeps_rows = False
    prunes_by_norm = False

    def unit(self, scale: float) -> float:  # noqa: ARG002
        """Return 1: scaling rows does not change the distance."""
        return 1.0

    def rounded_unit(self, scale: float) -> float:
        """Return 2 scale^2: the values of unit vectors rounded to integers are their squared L2 distances."""
        return 2 * scale**2

    def distance_from_centre(self, l1: Array, l2_squared: Array, linf: Array) -> Array:  # noqa: ARG002
        """Return the L2 norm; it bounds no cosine distance (see `bound`)."""
        return np.asarray(np.sqrt(l2_squared))

    def bound(self, largest: float) -> float:  # noqa: ARG002
        """Return 2, the distance of opposite rows."""
        return 2.0

    def row_bounds(self, lengths: Array, other: float) -> Array:  # noqa: ARG002
        """Return 2 for each row."""
        return np.full(lengths.shape, 2.0)

    def points(self, values: Array, dtype: Any) -> Points:
        """Return unit vectors; their norms are 1."""
        return Points(_unit(values).astype(dtype), Norms(np.ones(len(values))))

    def divisor(self, stored: Array, scale: float) -> Array:  # noqa: ARG002
        """Return the lengths of the rows."""
        return nearest_norms(stored)

    def product(self, rows: torch.Tensor, columns: torch.Tensor, workspace: Workspace) -> torch.Tensor:
        """Return the matrix product."""
        return matrix_product.multiply(rows, columns, workspace)

    def terms(self, rows: Norms, columns: Norms, width: int, precision: Precision) -> tuple[LinearBound, LinearBound]:
        """Bound 1 - p.q; normalising the rows in float64 erred by at most (d + 4) u for each point, u = 2^-53.

        Of points in digits half the slack of either row is all of it. Integers have the bounds of euclidean.
        """
        if rows.error is not None and columns.error is not None:
            return _EUCLIDEAN.terms(rows, columns, width, precision)
        if rows.slack is not None and columns.slack is not None:
            halves = np.full(len(rows.norm), 0.5), np.full(len(columns.norm), 0.5)
            return digit_terms(halves, (rows.slack / 2, columns.slack / 2), -1.0)
        error = product_error(width, precision) + 2 * (width + 4) * UNIT

        def bound(sign: int) -> LinearBound:
            half = 0.5 * (1 + sign * error)
            row, column = (np.full(len(side.norm), half, precision.dtype) for side in (rows, columns))
            return LinearBound(row, column, -1.0, sign * precision.rounding)

        return bound(-1), bound(1)

    def direct(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """Return |x/|x| - y/|y||^2 / 2."""
        values: Array = 0.5 * squared_differences(
            x, y, i, j, _inverse_lengths(x, i), _inverse_lengths(y, j), np.float64
        )
        return values

    def rough(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """Return that in float32, of rows of usual length."""
        scales = _inverse_lengths(x, i), _inverse_lengths(y, j)
        for scale in scales:
            scale[(scale < USUAL_LENGTHS[0]) | (scale > USUAL_LENGTHS[1])] = np.nan
        values: Array = 0.5 * squared_differences(x, y, i, j, *scales, np.float32)
        return values

    def direct_slack(self, values: Array, width: int, unit: float = UNIT) -> Array:
        """Return 2 sqrt(2 v) e + 4 e^2 + (d + 8) u v for a value v.

        Each unit vector is off by at most e = (d / 2 + 6) u, so that their difference, of length sqrt(2 v), is off by
        at most 2 e, and half its square by 2 sqrt(2 v) e + 2 e^2. Summing the squares adds (d + 8) u v.
        """
        error = (0.5 * width + 6) * unit
        slack: Array = 2 * np.sqrt(2 * values) * error + 4 * error**2 + (width + 8) * unit * values
        return slack

    def rounded(self, x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:
        """Return 1 - x.y / sqrt(x.x y.y) and whether it is settled.

        Relative to |x| |y|, x.y errs by at most s = `sum_slack`, and the square root of x.x y.y by s / 2 + s / 2; the
        operations after these add less than 200 u^2.
        """
        squares = []
        for rows, places in ((x, i), (y, j)):
            used, place = np.unique(places, return_inverse=True)
            squares.append(DoubleDouble(*(part[place] for part in dots(rows, rows, used, used))))
        high, low = one_minus_ratio(dots(x, y, i, j), *squares)
        return high, are_settled(high, low, np.full(high.size, 2 * sum_slack(x.shape[1]) + 200 * UNIT**2))

    def keys(self, x: Array, y: Array, i: Array, j: Array) -> Keys:
        """Return 1 - x.y / sqrt(x.x y.y); exact if rows are orthogonal or parallel, and 0 only if they are parallel."""
        dot = dot_keys(x, y, i, j)
        squares = []
        for rows, places in ((x, i), (y, j)):
            used, place = np.unique(places, return_inverse=True)
            found = dot_keys(rows, rows, used, used)
            squares.append(DoubleDouble(found.high[place], found.low[place]))
        high, low = one_minus_ratio(DoubleDouble(dot.high, dot.low), *squares)
        exact = dot.exact & (dot.high == 0)
        for p in np.flatnonzero(high <= self.key_slack(high, x.shape[1])).tolist():
            order = self.order(as_float(x[i[p]]), as_float(y[j[p]]))
            high[p], low[p], exact[p] = self.near(order), 0.0, order == -1
        return Keys(high, low, exact)

    def key_slack(self, values: Array, width: int) -> Array:
        """Return an absolute bound: three double-double sums of d terms, and about twenty operations after them."""
        return np.full_like(values, (12.0 * (width + 1) ** 2 + 200) * UNIT**2)

    def order(self, x: Array, y: Array) -> Fraction:
        """Return -c |c| for the cosine c of the angle."""
        a, b, _ = integers(x, y)
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        return Fraction(-dot * abs(dot), sum(p * p for p in a) * sum(q * q for q in b))

    def order_of(self, distance: Fraction) -> Fraction:
        """Return -c |c| for c = 1 - distance."""
        return (distance - 1) * abs(distance - 1)

    def near(self, order: Fraction) -> float:
        """Return 1 - c; for c > 0 as (1 - c^2) / (1 + c), without cancellation."""
        return float(1 + order) / (1 + sqrt(-order)) if order < 0 else 1 + sqrt(order)

    def distance(self, values: Array) -> Array:
        """Return the values; one of parallel rows that is not exact may be slightly negative, and becomes 0."""
        return np.maximum(values, 0.0)


_EUCLIDEAN = Euclidean()


def _inverse_lengths(rows: Array, used: Array) -> Array:
    """1 / |x| (b,) float64 of those rows (b, d) that are `used` (p,)."""
    inverse: Array = 1 / np.maximum(lengths_of_used(rows, used), _SMALLEST)
    return inverse


def _unit(values: Array) -> Array:
    """Return rows (b, d) of length 1. Each is first multiplied by a power of two, so that no square underflows."""
    exponent = np.frexp(np.abs(values).max(axis=1, keepdims=True))[1]
    scaled: Array = np.ldexp(values, -exponent)
    scaled /= np.sqrt(np.einsum("ij,ij->i", scaled, scaled, dtype=np.float64))[:, None]
    return scaled
