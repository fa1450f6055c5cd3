"""What a metric is to the engine: a cheap bound of every pair, and the exact answer for the few that matter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.double_double import Keys

Array = NDArray[Any]

UNDERFLOW = {np.dtype(np.float32): 2.0**-100, np.dtype(np.float64): 2.0**-900}
"""More than elements that underflow can add to a pair, where all points have norm 1 at most."""


@dataclass(frozen=True)
class Terms:
    """A bound of each pair of a tile: row[i] + column[j] + factor * p + bend * |p|, where p is the product's element.

    `row` (m,) and `column` (n,) have the dtype that the sum is evaluated in; its rounding is part of the bound.
    """

    row: Array
    column: Array
    factor: float
    bend: float = 0.0

    def __neg__(self) -> Terms:
        """The bound of the negated values."""
        return Terms(-self.row, -self.column, -self.factor, -self.bend)


@dataclass(frozen=True)
class Points:
    """Rows made ready for tiles: `values` (b, d) float32 or float64, and `norm` (b,) float64 as the metric needs it."""

    values: Array
    norm: Array


class Metric(ABC):
    """A distance between rows. Pairs are ordered by a *value* that grows with the distance.

    Rows come as stored, in float64; *points* are rows shifted by `centre` and multiplied by `scale`, a power of two
    that brings them into the unit ball, and the values of points are those of the rows times `unit(scale)`.
    """

    name: str
    root: bool = False
    """Whether the distance is the square root of the value."""
    shifts: bool = False
    """Whether a centre may be subtracted from all rows."""

    @abstractmethod
    def unit(self, scale: float) -> float:
        """What a value is multiplied by when the rows are multiplied by `scale`."""

    @abstractmethod
    def radius(self, values: Array) -> Array:
        """The distance (b,) of rows (b, d), float64, from the origin; no distance exceeds the sum of two of them."""

    @abstractmethod
    def points(self, values: Array, *, double: bool) -> Points:
        """Make points of shifted and scaled rows (b, d), in float64 with `double`, else in float32."""

    @abstractmethod
    def product(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The product (m, n) of the points of two blocks, on their device."""

    @abstractmethod
    def terms(self, rows: Array, columns: Array, width: int, dtype: Any, *, cpu: bool) -> tuple[Terms, Terms]:
        """Lower and upper bound of the values of all pairs, from the norms of two blocks of points.

        `dtype` is that of the product; `cpu` says whether it was made on a CPU.
        """

    @abstractmethod
    def direct(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """The values (p,) of pairs of rows in plain float64."""

    @abstractmethod
    def direct_slack(self, values: Array, width: int) -> Array:
        """A bound (p,) of the error of `direct`."""

    @abstractmethod
    def keys(self, x: Array, y: Array, i: Array, j: Array) -> Keys:
        """The values of pairs of rows in double-double, and whether they are exact."""

    @abstractmethod
    def key_slack(self, values: Array, width: int) -> Array:
        """A bound (p,) of the error of keys that are not exact."""

    @abstractmethod
    def order(self, x: Array, y: Array) -> Fraction:
        """A number that grows with the distance of two rows (d,), float64, without any error."""

    @abstractmethod
    def order_of(self, distance: float) -> Fraction:
        """The same number for pairs at exactly `distance`."""

    def value_of(self, distance: float) -> Fraction:
        """The value of pairs at exactly `distance`."""
        return Fraction(distance) ** 2 if self.root else Fraction(distance)

    def distance(self, values: Array) -> Array:
        """Distances of values."""
        return np.sqrt(values) if self.root else values

    def bound(self, largest: float) -> float:
        """A bound of every distance, where `largest` is the sum of the two largest radii."""
        return largest
