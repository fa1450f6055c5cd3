"""Euclidean distance as a tile: products in low precision, and the bound that makes them a safe filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.blocks import Block
from embgeom_dask.errors import InputError

Array = NDArray[Any]

METRICS = ("euclidean",)


def check(metric: str) -> str:
    """Return `metric`, or raise InputError naming those that exist."""
    if metric not in METRICS:
        raise InputError(f"no metric {metric!r}: choose one of {', '.join(METRICS)}")
    return metric


def relative_error(width: int, *, double: bool, cpu: bool) -> float:
    """Bound the error of a tile's squared distance, relative to the sum of the two squared norms.

    With u the unit roundoff, the product of two rows errs by at most d u |x| |y| in any order of summation (Jeannerod
    and Rump 2013), 3 d u where tensor cores truncate; |x| |y| is at most half the sum of the squared norms, and the
    product counts twice. 16 u more: rounding the points (4), the bound itself (1) and the sum of its three terms (3).
    """
    unit = 2.0**-53 if double else 2.0**-24
    return ((1 if cpu else 3) * width + 16) * unit + (width + 4) * 2.0**-53


# Elements that underflow in a product of rows inside the unit ball: far less than this, in absolute terms.
_UNDERFLOW = {torch.float32: 2.0**-100, torch.float64: 2.0**-900}


@dataclass(frozen=True)
class Tile:
    """All pairs of two blocks: `product` (m, n) on the device, bounds `low` <= 0 and `high` in units of scaled points.

    For every pair low[i] + low[j] - 2 p <= squared distance <= high[i] + high[j] - 2 p, evaluated in the product's
    own precision; `diagonal` says that the two blocks are one.
    """

    rows: Block
    columns: Block
    product: torch.Tensor
    error: float

    @property
    def diagonal(self) -> bool:
        """Whether this tile lies on the diagonal: only its pairs i < j count."""
        return self.rows.start == self.columns.start

    @property
    def dtype(self) -> Any:
        """The numpy dtype of the product."""
        return np.float64 if self.product.dtype == torch.float64 else np.float32

    def bounds(self, block: Block) -> tuple[Array, Array]:
        """The terms `low` and `high` (b,) of a block's rows, in the product's dtype."""
        slack = self.error * block.squared_norm + _UNDERFLOW[self.product.dtype]
        return (block.squared_norm - slack).astype(self.dtype), (block.squared_norm + slack).astype(self.dtype)


def tile(rows: Block, columns: Block) -> Tile:
    """Multiply two blocks on their device."""
    product = torch.mm(rows.points, columns.points.T)
    double = product.dtype == torch.float64
    error = relative_error(rows.points.shape[1], double=double, cpu=product.device.type == "cpu")
    return Tile(rows, columns, product, error)


def round_up(values: Array, dtype: Any) -> Array:
    """Convert to `dtype` without going below any value."""
    out = values.astype(dtype)
    return np.where(out < values, np.nextafter(out, dtype(np.inf)), out)
