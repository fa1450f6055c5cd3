"""Bounds of picked pairs, and rounding that keeps a bound a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from embgeom_dask.metrics.base import Terms

Array = NDArray[Any]


def round_up(values: Array, dtype: Any) -> Array:
    """Convert to `dtype` without going below any value."""
    out = values.astype(dtype)
    return np.where(out < values, np.nextafter(out, dtype(np.inf)), out)


def upper_bounds(product: torch.Tensor, low: Terms, high: Terms, i: Array, j: Array, least: Array) -> Array:
    """The upper bounds (p,) float64 of pairs whose lower bounds are `least`."""
    gap = (high.row - low.row)[i].astype(np.float64) + (high.column - low.column)[j]
    if (high.factor, high.bend) != (low.factor, low.bend):
        picked = product[torch.from_numpy(i), torch.from_numpy(j)]
        p = picked.to(torch.promote_types(picked.dtype, torch.float32)).cpu().numpy().astype(np.float64)
        gap += (high.factor - low.factor) * p + (high.bend - low.bend) * np.abs(p)
    most: Array = least + gap
    return most
