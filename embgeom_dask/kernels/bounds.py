"""Bounds of values that are linear in the product of a tile, and rounding that keeps a bound valid."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]

STRIP = 64
"""Columns of a tile that passes on the CPU read together."""


class LinearBound(NamedTuple):
    """A bound of the value of each pair of a tile: row[i] + column[j] + factor P[i, j] + abs_factor |P[i, j]|.

    P (m, n) is the product of the tile. The bound allows for the rounding of this sum.

    Attributes
    ----------
    row, column : numpy.ndarray, (m,) and (n,)
        float32 or float64: the dtype that the sum is evaluated in.
    factor, abs_factor : float
    """

    row: Array
    column: Array
    factor: float
    abs_factor: float = 0.0

    def times(self, unit: float) -> LinearBound:
        """Return the bound of the values times `unit`; each term errs by at most 2 u of itself."""
        kind = self.row.dtype.type
        return LinearBound(self.row * kind(unit), self.column * kind(unit), self.factor * unit, self.abs_factor * unit)

    def in_one_dtype(self) -> LinearBound:
        """Return the bound with its factors in the dtype of its terms, as compiled passes evaluate it."""
        kind = self.row.dtype.type
        return self._replace(factor=kind(self.factor), abs_factor=kind(self.abs_factor))

    def __neg__(self) -> LinearBound:
        """Return the bound of the negated values; a lower bound becomes an upper one."""
        return LinearBound(-self.row, -self.column, -self.factor, -self.abs_factor)


class Limits(NamedTuple):
    """The largest bounds that pairs of a tile may have to be found: of a pair i, j the larger of row[i] and column[j].

    Attributes
    ----------
    row, column : numpy.ndarray, (m,) and (n,)
        In the dtype of the bound.
    """

    row: Array
    column: Array


class StripEnds(NamedTuple):
    """What the bounds of whole strips of a tile lie between: `STRIP` columns of a row, the first from column 0 on.

    Attributes
    ----------
    least, most : numpy.ndarray of float64, (m, n // STRIP)
        At most the smallest lower and at least the largest upper bound of each; -inf and inf where one is NaN.
    """

    least: Array
    most: Array

    @classmethod
    def unknown(cls, rows: int, columns: int) -> StripEnds:
        """Those of a tile of so many rows and columns, of which nothing is known."""
        shape = rows, columns // STRIP
        return cls(np.full(shape, -np.inf), np.full(shape, np.inf))

    def __neg__(self) -> StripEnds:
        """Return those of the negated bounds."""
        return StripEnds(-self.most, -self.least)


class BoundedPairs(NamedTuple):
    """Pairs of a tile, with one bound of the value of each.

    Attributes
    ----------
    i, j : numpy.ndarray of int64, (p,)
        The pairs, by their row and their column in the tile.
    bound : numpy.ndarray, (p,)
    """

    i: Array
    j: Array
    bound: Array


def round_up(values: Array, dtype: Any) -> Array:
    """Convert `values` to the float type `dtype`, rounding up."""
    out = values.astype(dtype)
    return np.where(out < values, np.nextafter(out, dtype(np.inf)), out)


def bounds_of_pairs(
    product: torch.Tensor, terms: tuple[LinearBound, LinearBound], i: Array, j: Array
) -> tuple[Array, Array]:
    """Return the lower and the upper bounds (p,) float64 of pairs i, j (p,) int64 of a tile."""
    p = _picked(product, i, j)
    least, most = (
        bound.row[i].astype(np.float64) + bound.column[j] + bound.factor * p + bound.abs_factor * np.abs(p)
        for bound in terms
    )
    return least, most


def _picked(product: torch.Tensor, i: Array, j: Array) -> Array:
    picked = product[torch.from_numpy(i), torch.from_numpy(j)]
    found: Array = picked.to(torch.promote_types(picked.dtype, torch.float32)).cpu().numpy().astype(np.float64)
    return found


def upper_bounds(product: torch.Tensor, low: LinearBound, high: LinearBound, i: Array, j: Array, least: Array) -> Array:
    """Return the upper bounds (p,) float64 of pairs i, j (p,) int64 of a tile, whose lower bounds are `least` (p,)."""
    gap = (high.row - low.row)[i].astype(np.float64) + (high.column - low.column)[j]
    if (high.factor, high.abs_factor) != (low.factor, low.abs_factor):
        p = _picked(product, i, j)
        gap += (high.factor - low.factor) * p + (high.abs_factor - low.abs_factor) * np.abs(p)
    most: Array = least + gap
    return most
