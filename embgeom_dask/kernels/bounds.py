"""Bounds that are linear in a product, for all pairs of a tile or picked ones, and rounding that keeps them bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class LinearBound:
    """A bound of each pair of a tile: row[i] + column[j] + factor * p + bend * |p|, where p is the product's element.

    `row` (m,) and `column` (n,) have the dtype that the sum is evaluated in; its rounding is part of the bound.
    """

    row: Array
    column: Array
    factor: float
    abs_factor: float = 0.0

    def times(self, unit: float) -> LinearBound:
        """The bound of the values times `unit`; no part is off by more than 2 u of itself."""
        kind = self.row.dtype.type
        return LinearBound(self.row * kind(unit), self.column * kind(unit), self.factor * unit, self.abs_factor * unit)

    def __neg__(self) -> LinearBound:
        """The bound of the negated values."""
        return LinearBound(-self.row, -self.column, -self.factor, -self.abs_factor)


def round_up(values: Array, dtype: Any) -> Array:
    """Convert to `dtype` without going below any value."""
    out = values.astype(dtype)
    return np.where(out < values, np.nextafter(out, dtype(np.inf)), out)


def upper_bounds(product: torch.Tensor, low: LinearBound, high: LinearBound, i: Array, j: Array, least: Array) -> Array:
    """The upper bounds (p,) float64 of pairs whose lower bounds are `least`."""
    gap = (high.row - low.row)[i].astype(np.float64) + (high.column - low.column)[j]
    if (high.factor, high.abs_factor) != (low.factor, low.abs_factor):
        picked = product[torch.from_numpy(i), torch.from_numpy(j)]
        p = picked.to(torch.promote_types(picked.dtype, torch.float32)).cpu().numpy().astype(np.float64)
        gap += (high.factor - low.factor) * p + (high.abs_factor - low.abs_factor) * np.abs(p)
    most: Array = least + gap
    return most
