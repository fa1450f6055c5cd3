"""Euclidean and cosine distance: from one matrix product."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt, sqrt
from threading import local
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels import correct_rounding
from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.correct_rounding import are_settled, dot_slack, dots
from embgeom_dask.kernels.double_double import (
    UNIT,
    Keys,
    dot_keys,
    integers,
    one_minus_ratio,
    squared_difference_keys,
    squared_differences,
)
from embgeom_dask.kernels.numba_bfloat16 import as_float
from embgeom_dask.kernels.row_passes import norms
from embgeom_dask.metrics.base import Metric, Norms, Points, Precision

Array = NDArray[Any]

_SMALLEST = 2.0**-1000
_local = local()


def product_error(width: int, precision: Precision) -> float:
    """Bound the error of the product of two points relative to the product of their norms, and that of using it.

    With u the unit roundoff, a product of rows errs by at most d u |x| |y| in any order of summation (Jeannerod and
    Rump, SIAM J. Matrix Anal. Appl. 34, 2013), 3 d u where tensor cores truncate. 16 u more: rounding the points (4),
    the bound itself (1), its unit (3) and the sum of its terms (4), with slack; and the norms, which are float64 sums.
    """
    return ((1 if precision.cpu else 3) * width + 16) * precision.unit + (width + 4) * UNIT


class Euclidean(Metric):
    """The L2 distance; the value is its square: |x|^2 + |y|^2 - 2 x.y in tiles, the sum of (x - y)^2 elsewhere."""

    name = "euclidean"
    root = True
    shifts = True
    as_stored = True
    quantises = True

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

    def product(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The matrix product."""
        return _product(rows, columns)

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

    def product(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The matrix product."""
        return _product(rows, columns)

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


def _product(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The matrix product: of bfloat16 in float32 where the device can (cuda), else in bfloat16; of int8 in int32.

    On a CPU the next product of the same dtype in the same thread takes its memory.
    """
    if rows.device.type != "cpu":
        wide = rows.dtype == torch.bfloat16 and rows.device.type == "cuda"
        return torch.mm(rows, columns.T, out_dtype=torch.float32) if wide else torch.mm(rows, columns.T)
    size = len(rows) * len(columns)
    buffers: dict[torch.dtype, torch.Tensor] = _local.__dict__.setdefault("buffers", {})
    dtype, multiply = (torch.int32, torch._int_mm) if rows.dtype == torch.int8 else (rows.dtype, torch.mm)
    if dtype not in buffers or buffers[dtype].numel() < size:
        buffers[dtype] = torch.empty(size, dtype=dtype)
    return multiply(rows, columns.T, out=buffers[dtype][:size].view(len(rows), len(columns)))


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


def l2_norm(values: Array) -> Array:
    """The L2 norm (b,) float64 of rows (b, d)."""
    out: Array = np.sqrt(squared_norm(values))
    return out


def _unit(values: Array) -> Array:
    """Rows (b, d) of length 1; each is first scaled by a power of two of its own, so that no square underflows."""
    exponent = np.frexp(np.abs(values).max(axis=1, keepdims=True))[1]
    scaled: Array = np.ldexp(values, -exponent)
    scaled /= l2_norm(scaled)[:, None]
    return scaled
