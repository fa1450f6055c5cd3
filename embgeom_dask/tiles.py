"""A tile: all pairs of two blocks, multiplied on their device, with bounds of every pair's value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.blocks import Block
from embgeom_dask.metrics import Metric, Terms

Array = NDArray[Any]


@dataclass(frozen=True)
class Tile:
    """All pairs of the rows of two blocks; `product` (m, n) on the device; `diagonal`: only the pairs i < j count."""

    metric: Metric
    rows: Block
    columns: Block
    product: torch.Tensor
    diagonal: bool

    @property
    def dtype(self) -> Any:
        """The numpy dtype in which bounds are evaluated."""
        return np.float64 if self.product.dtype == torch.float64 else np.float32

    @cached_property
    def terms(self) -> tuple[Terms, Terms]:
        """Lower and upper bound of the value of each pair of points."""
        width = self.rows.points.shape[1]
        cpu = self.product.device.type == "cpu"
        return self.metric.terms(self.rows.norm, self.columns.norm, width, self.dtype, cpu=cpu)


def multiply(metric: Metric, rows: Block, columns: Block, *, diagonal: bool) -> Tile:
    """Make the tile of two blocks."""
    return Tile(metric, rows, columns, metric.product(rows.points, columns.points), diagonal)


def round_up(values: Array, dtype: Any) -> Array:
    """Convert to `dtype` without going below any value."""
    out = values.astype(dtype)
    return np.where(out < values, np.nextafter(out, dtype(np.inf)), out)


def upper_bounds(product: torch.Tensor, low: Terms, high: Terms, i: Array, j: Array, least: Array) -> Array:
    """The upper bounds (p,) float64 of pairs whose lower bounds are `least`."""
    gap = (high.row - low.row)[i].astype(np.float64) + (high.column - low.column)[j]
    if (high.factor, high.bend) != (low.factor, low.bend):
        p = product[torch.from_numpy(i), torch.from_numpy(j)].cpu().numpy().astype(np.float64)
        gap += (high.factor - low.factor) * p + (high.bend - low.bend) * np.abs(p)
    most: Array = least + gap
    return most
