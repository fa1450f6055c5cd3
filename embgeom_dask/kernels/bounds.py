"""Bounds that are linear in the product of a tile, and rounding that does not break a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class LinearBound:
    """A bound of the value of each pair of a tile: row[i] + column[j] + factor P[i, j] + abs_factor |P[i, j]|.

    P (m, n) is the product of the tile. `row` (m,) and `column` (n,) have the dtype that the sum is evaluated in; the
    bound allows for the rounding of that sum.
    """

    row: Array
    column: Array
    factor: float
    abs_factor: float = 0.0

    def times(self, unit: float) -> LinearBound:
        """Return the bound of the values times `unit`; each term errs by at most 2 u of itself."""
        kind = self.row.dtype.type
        return LinearBound(self.row * kind(unit), self.column * kind(unit), self.factor * unit, self.abs_factor * unit)

    def __neg__(self) -> LinearBound:
        """Return the bound of the negated values; a lower bound becomes an upper one."""
        return LinearBound(-self.row, -self.column, -self.factor, -self.abs_factor)


def round_up(values: Array, dtype: Any) -> Array:
    """Convert `values` to the float type `dtype`, rounding up."""
    out = values.astype(dtype)
    return np.where(out < values, np.nextafter(out, dtype(np.inf)), out)


def upper_bounds(product: torch.Tensor, low: LinearBound, high: LinearBound, i: Array, j: Array, least: Array) -> Array:
    """Return the upper bounds (p,) float64 of pairs i, j (p,) int64 of a tile, whose lower bounds are `least` (p,)."""
    gap = (high.row - low.row)[i].astype(np.float64) + (high.column - low.column)[j]
    if (high.factor, high.abs_factor) != (low.factor, low.abs_factor):
        picked = product[torch.from_numpy(i), torch.from_numpy(j)]
        p = picked.to(torch.promote_types(picked.dtype, torch.float32)).cpu().numpy().astype(np.float64)
        gap += (high.factor - low.factor) * p + (high.abs_factor - low.abs_factor) * np.abs(p)
    most: Array = least + gap
    return most
