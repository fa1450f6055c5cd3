"""Cosine distance, from one matrix product of unit vectors."""

from __future__ import annotations

from fractions import Fraction
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.correct_rounding import are_settled, dot_slack, dots
from embgeom_dask.kernels.double_double import UNIT, Keys, dot_keys, integers, one_minus_ratio, squared_differences
from embgeom_dask.kernels.numba_bfloat16 import as_float
from embgeom_dask.kernels.row_norms import norms
from embgeom_dask.metrics import matrix_product
from embgeom_dask.metrics.base import Metric, Norms, Points, Precision
from embgeom_dask.metrics.matrix_product import product_error
from embgeom_dask.metrics.workspace import Workspace

Array = NDArray[Any]

_SMALLEST = 2.0**-1000


class Cosine(Metric):
    """One minus the cosine of the angle between two rows; rows of zeros have none and must be left out.

    Points are unit vectors. Values are distances; by differences they are |x/|x| - y/|y||^2 / 2.
    """

    name = "cosine"
    undefined_for_zero_rows = True
    prunes_by_norm = False

    def unit(self, scale: float) -> float:  # noqa: ARG002
        """1: no distance changes when rows are scaled."""
        return 1.0

    def radius(self, one: Array, two: Array, largest: Array) -> Array:  # noqa: ARG002
        """The L2 norm; distances are bounded by 2 all the same."""
        return np.asarray(np.sqrt(two))

    def bound(self, largest: float) -> float:  # noqa: ARG002
        """2, for opposite rows."""
        return 2.0

    def points(self, values: Array, dtype: Any) -> Points:
        """Unit vectors; their norms are not needed."""
        return Points(_unit(values).astype(dtype), Norms(np.ones(len(values))))

    def product(self, rows: torch.Tensor, columns: torch.Tensor, workspace: Workspace) -> torch.Tensor:
        """The matrix product."""
        return matrix_product.multiply(rows, columns, workspace)

    def terms(self, rows: Norms, columns: Norms, width: int, precision: Precision) -> tuple[LinearBound, LinearBound]:
        """1 - x.y; the points were normalised in float64, which errs by (d + 4) u of float64."""
        error = product_error(width, precision) + 2 * (width + 4) * UNIT

        def bound(sign: int) -> LinearBound:
            half = 0.5 * (1 + sign * error)
            row, column = (np.full(len(side.norm), half, precision.dtype) for side in (rows, columns))
            return LinearBound(row, column, -1.0, sign * precision.rounding)

        return bound(-1), bound(1)

    def direct(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """Half the squared difference of the unit vectors."""
        lengths = [np.maximum(norms(rows)[:, 1], _SMALLEST) for rows in (x, y)]
        values: Array = 0.5 * squared_differences(x, y, i, j, *(1 / np.sqrt(length) for length in lengths))
        return values

    def direct_slack(self, values: Array, width: int) -> Array:
        """Each unit vector is off by at most e = (d / 2 + 6) u; 2 sqrt(2 v) e + 4 e^2 + (d + 8) u v."""
        error = (0.5 * width + 6) * UNIT
        slack: Array = 2 * np.sqrt(2 * values) * error + 4 * error**2 + (width + 8) * UNIT * values
        return slack

    def rounded(self, x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:
        """1 - x.y / sqrt(x.x y.y) in two words; of three sums each errs by its part, and twenty operations more."""
        dot, parts = dots(x, y, i, j), []
        for rows, places in ((x, i), (y, j)):
            used, place = np.unique(places, return_inverse=True)
            parts += [part[place] for part in dots(rows, rows, used, used)]
        high, low = one_minus_ratio(*dot, *parts)
        return high, are_settled(high, low, 2 * dot_slack(x.shape[1]) + 200 * UNIT**2)

    def keys(self, x: Array, y: Array, i: Array, j: Array) -> Keys:
        """1 - x.y / sqrt(x.x y.y); exact where rows are orthogonal or parallel, 0 only where they are parallel."""
        dot = dot_keys(x, y, i, j)
        mine, other = np.arange(len(x)), np.arange(len(y))
        squares = dot_keys(x, x, mine, mine), dot_keys(y, y, other, other)
        high, low = one_minus_ratio(
            *dot[:2], *(part[i] for part in squares[0][:2]), *(part[j] for part in squares[1][:2])
        )
        exact = dot[2] & (dot[0] == 0)
        for p in np.flatnonzero(high <= self.key_slack(high, x.shape[1])).tolist():
            order = self.order(as_float(x[i[p]]), as_float(y[j[p]]))
            high[p], low[p], exact[p] = self.near(order), 0.0, order == -1
        return high, low, exact

    def key_slack(self, values: Array, width: int) -> Array:
        """Absolute: three double-double sums of d terms each, relative to |x| |y|, and twenty operations more."""
        return np.full_like(values, (12.0 * (width + 1) ** 2 + 200) * UNIT**2)

    def order(self, x: Array, y: Array) -> Fraction:
        """Minus the signed square of the cosine."""
        a, b, _ = integers(x, y)
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        return Fraction(-dot * abs(dot), sum(p * p for p in a) * sum(q * q for q in b))

    def order_of(self, distance: Fraction) -> Fraction:
        """Minus the signed square of the cosine."""
        return (distance - 1) * abs(distance - 1)

    def near(self, order: Fraction) -> float:
        """1 - cos; of acute angles (1 - cos^2) / (1 + cos), without cancellation."""
        return float(1 + order) / (1 + sqrt(-order)) if order < 0 else 1 + sqrt(order)

    def distance(self, values: Array) -> Array:
        """The values; a key of parallel rows may be a hair below zero before it is found to be zero."""
        return np.maximum(values, 0.0)


def _unit(values: Array) -> Array:
    """Rows (b, d) of length 1; each is first scaled by a power of two of its own, so that no square underflows."""
    exponent = np.frexp(np.abs(values).max(axis=1, keepdims=True))[1]
    scaled: Array = np.ldexp(values, -exponent)
    scaled /= np.sqrt(np.einsum("ij,ij->i", scaled, scaled, dtype=np.float64))[:, None]
    return scaled
