"""Chebyshev and cityblock distance. No matrix product gives them: tiles compute differences (torch.cdist)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels import correct_rounding
from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.double_double import (
    UNIT,
    Keys,
    absolute_difference_keys,
    absolute_differences,
    integers,
    largest_difference_keys,
    largest_differences,
)
from embgeom_dask.metrics.base import Metric, Norms, Points, Precision
from embgeom_dask.metrics.by_l2 import ChebyshevByL2, CityblockByL2
from embgeom_dask.metrics.workspace import Workspace

Array = NDArray[Any]


class _Differences(Metric):
    """Values are distances. Points are exact, so that the error of a value is relative to the value."""

    def unit(self, scale: float) -> float:
        """Return `scale`."""
        return scale

    def points(self, values: Array, dtype: Any) -> Points:
        """Return the rows as they are; norms are not needed."""
        return Points(values.astype(dtype, copy=False), Norms(np.zeros(len(values))))

    def terms(self, rows: Norms, columns: Norms, width: int, precision: Precision) -> tuple[LinearBound, LinearBound]:
        """Bound the values: they are the product, which errs by at most (d + 8) u of itself."""
        error = (width + 8) * precision.unit

        def bound(sign: int) -> LinearBound:
            row, column = (np.full(len(side.norm), sign * precision.tiny, precision.dtype) for side in (rows, columns))
            return LinearBound(row, column, 1.0 + sign * error)

        return bound(-1), bound(1)

    def order_of(self, distance: Fraction) -> Fraction:
        """Return the distance in units of 2^-1074."""
        return distance * 2**1074

    def near(self, order: Fraction) -> float:
        """Return the distance, rounded once."""
        return order.numerator / (order.denominator << 1074)


class Chebyshev(_Differences):
    """The L-infinity distance: max_k |x_k - y_k|."""

    name = "chebyshev"
    by_l2 = ChebyshevByL2()
    prunes_by_extent = True

    def distance_from_centre(self, l1: Array, l2_squared: Array, linf: Array) -> Array:  # noqa: ARG002
        """Return the L-infinity norm."""
        return linf

    def product(self, rows: torch.Tensor, columns: torch.Tensor, workspace: Workspace) -> torch.Tensor:  # noqa: ARG002
        """Return the distances (m, n) of the points."""
        return torch.cdist(rows, columns, p=float("inf"))

    def direct(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """Return max_k |x_k - y_k|, in float64."""
        return largest_differences(x, y, i, j)

    def direct_slack(self, values: Array, width: int, unit: float = UNIT) -> Array:  # noqa: ARG002
        """Return 2 u v: one difference was rounded."""
        return 2 * unit * values

    def rounded(self, x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:
        """Return the largest rounded difference: rounding keeps order, so it is the rounded largest difference."""
        return largest_differences(x, y, i, j), np.ones(i.size, np.bool_)

    def keys(self, x: Array, y: Array, i: Array, j: Array) -> Keys:
        """Return max_k |x_k - y_k| in double-double, which is always exact."""
        return largest_difference_keys(x, y, i, j)

    def key_slack(self, values: Array, width: int) -> Array:  # noqa: ARG002
        """Return 0: keys are exact."""
        return np.zeros_like(values)

    def order(self, x: Array, y: Array) -> Fraction:
        """Return the distance in units of 2^-1074, exactly."""
        a, b, unit = integers(x, y)
        return Fraction(max(abs(p - q) for p, q in zip(a, b, strict=True)) << unit + 1074)


class Cityblock(_Differences):
    """The L1 distance: sum_k |x_k - y_k|."""

    name = "cityblock"
    by_l2 = CityblockByL2()

    def distance_from_centre(self, l1: Array, l2_squared: Array, linf: Array) -> Array:  # noqa: ARG002
        """Return the L1 norm."""
        return l1

    def product(self, rows: torch.Tensor, columns: torch.Tensor, workspace: Workspace) -> torch.Tensor:  # noqa: ARG002
        """Return the distances (m, n) of the points."""
        return torch.cdist(rows, columns, p=1.0)

    def direct(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """Return sum_k |x_k - y_k|, in float64."""
        return absolute_differences(x, y, i, j)

    def direct_slack(self, values: Array, width: int, unit: float = UNIT) -> Array:
        """Return (d + 4) u v: the sum errs by d u in any order, each difference by u."""
        return (width + 4) * unit * values

    def rounded(self, x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:
        """Return what `kernels.correct_rounding.cityblock` computes."""
        found: tuple[Array, Array] = correct_rounding.cityblock(x, y, i, j)
        return found

    def keys(self, x: Array, y: Array, i: Array, j: Array) -> Keys:
        """Return sum_k |x_k - y_k| in double-double."""
        return absolute_difference_keys(x, y, i, j)

    def key_slack(self, values: Array, width: int) -> Array:
        """Return 4 (d + 1)^2 u^2 v: each of d terms loses at most 3 d u^2 of the sum."""
        return 4.0 * (width + 1) ** 2 * UNIT**2 * values

    def order(self, x: Array, y: Array) -> Fraction:
        """Return the distance in units of 2^-1074, exactly."""
        a, b, unit = integers(x, y)
        return Fraction(sum(abs(p - q) for p, q in zip(a, b, strict=True)) << unit + 1074)
