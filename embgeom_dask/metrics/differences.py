"""Chebyshev and cityblock distance: no product gives them, so tiles compare the rows element by element."""

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
from embgeom_dask.metrics.workspace import Workspace

Array = NDArray[Any]


class _Differences(Metric):
    """Values are distances; points are exact, so that errors are relative to the value."""

    def unit(self, scale: float) -> float:
        """`scale`."""
        return scale

    def points(self, values: Array, dtype: Any) -> Points:
        """The rows as they are; no norms are needed."""
        return Points(values.astype(dtype, copy=False), Norms(np.zeros(len(values))))

    def terms(self, rows: Norms, columns: Norms, width: int, precision: Precision) -> tuple[LinearBound, LinearBound]:
        """The product within (d + 8) u of itself."""
        error = (width + 8) * precision.unit

        def bound(sign: int) -> LinearBound:
            row, column = (np.full(len(side.norm), sign * precision.tiny, precision.dtype) for side in (rows, columns))
            return LinearBound(row, column, 1.0 + sign * error)

        return bound(-1), bound(1)

    def order_of(self, distance: Fraction) -> Fraction:
        """The distance in units of 2^-1074."""
        return distance * 2**1074

    def near(self, order: Fraction) -> float:
        """The distance, rounded."""
        return order.numerator / (order.denominator << 1074)


class Chebyshev(_Differences):
    """The L-infinity distance: the largest |x - y|."""

    name = "chebyshev"
    prunes_by_extent = True

    def radius(self, one: Array, two: Array, largest: Array) -> Array:  # noqa: ARG002
        """The L-infinity norm."""
        return largest

    def product(self, rows: torch.Tensor, columns: torch.Tensor, workspace: Workspace) -> torch.Tensor:  # noqa: ARG002
        """The distances of the points."""
        return torch.cdist(rows, columns, p=float("inf"))

    def direct(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """The largest |x - y|."""
        return largest_differences(x, y, i, j)

    def direct_slack(self, values: Array, width: int) -> Array:  # noqa: ARG002
        """One rounded difference."""
        return 2 * UNIT * values

    def rounded(self, x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:
        """The largest of the rounded differences, which is the largest rounded."""
        return largest_differences(x, y, i, j), np.ones(i.size, np.bool_)

    def keys(self, x: Array, y: Array, i: Array, j: Array) -> Keys:
        """The largest |x - y|, always exact."""
        return largest_difference_keys(x, y, i, j)

    def key_slack(self, values: Array, width: int) -> Array:  # noqa: ARG002
        """None."""
        return np.zeros_like(values)

    def order(self, x: Array, y: Array) -> Fraction:
        """The distance in units of 2^-1074."""
        a, b, unit = integers(x, y)
        return Fraction(max(abs(p - q) for p, q in zip(a, b, strict=True)) << unit + 1074)


class Cityblock(_Differences):
    """The L1 distance: the sum of |x - y|."""

    name = "cityblock"

    def radius(self, one: Array, two: Array, largest: Array) -> Array:  # noqa: ARG002
        """The L1 norm."""
        return one

    def product(self, rows: torch.Tensor, columns: torch.Tensor, workspace: Workspace) -> torch.Tensor:  # noqa: ARG002
        """The distances of the points."""
        return torch.cdist(rows, columns, p=1.0)

    def direct(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """Sum |x - y|."""
        return absolute_differences(x, y, i, j)

    def direct_slack(self, values: Array, width: int) -> Array:
        """d u in any order of summation, and the difference."""
        return (width + 4) * UNIT * values

    def rounded(self, x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:
        """See `correct_rounding.cityblock`."""
        found: tuple[Array, Array] = correct_rounding.cityblock(x, y, i, j)
        return found

    def keys(self, x: Array, y: Array, i: Array, j: Array) -> Keys:
        """Sum |x - y|."""
        return absolute_difference_keys(x, y, i, j)

    def key_slack(self, values: Array, width: int) -> Array:
        """Of d terms each loses at most 3 d u^2 of the sum."""
        return 4.0 * (width + 1) ** 2 * UNIT**2 * values

    def order(self, x: Array, y: Array) -> Fraction:
        """The distance in units of 2^-1074."""
        a, b, unit = integers(x, y)
        return Fraction(sum(abs(p - q) for p, q in zip(a, b, strict=True)) << unit + 1074)
