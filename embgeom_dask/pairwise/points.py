"""How rows become points: shifted, scaled, and converted to the type that products are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.kernels.digits import digits_of
from embgeom_dask.kernels.double_double import UNIT, squared_differences
from embgeom_dask.kernels.numba_bfloat16 import as_numba
from embgeom_dask.kernels.quantize import quantize
from embgeom_dask.kernels.row_norms import norms, squared_lengths
from embgeom_dask.kernels.shifting import shifted
from embgeom_dask.metrics import METRICS, Metric, Norms, Workspace

Array = NDArray[Any]

_CPU = torch.device("cpu")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


DIGITS = ("int8x3", "float64x3", "int8x2")


@dataclass(frozen=True)
class PointFormat:
    """What the points of a scan are. Small enough to travel.

    `centre` (d,) float64 and `scale`, a power of two, bring the rows near the origin and into the unit ball; products
    are made of `element`s. `bfloat16` rows are points as they are stored, or rounded, with no centre and scale 1.
    `int8` rows are rounded to integers, `scale` being what fills these; rows of `int8x3` are written in three of them,
    those of `int8x2` in two.
    Where products may leave many pairs undecided, `unrounded` is the form in which these are told apart. With `by_l2`
    they are points of L2, whose products bound the squares of the metric's distances. Integers of the first side of
    products are rows multiplied by `balance` too, those of the second, `of_second`, divided by it.
    """

    metric: str
    element: str
    centre: Array
    scale: float
    unrounded: PointFormat | None = None
    by_l2: bool = False
    balance: float = 1.0

    @property
    def of_second(self) -> PointFormat:
        """The points of the second side."""
        return self if self.balance == 1 else replace(self, balance=1 / self.balance)

    @property
    def in_digits(self) -> bool:
        """Whether points are of 8-bit digits, three or two: with `float64x3` they are multiplied as float64 numbers."""
        return self.element in DIGITS

    @property
    def sums(self) -> bool:
        """Whether points are those that all distances are summed by: their sums have the bits of three digits."""
        return self.element in ("int8x3", "float64x3")

    @property
    def elements(self) -> set[str]:
        """What products are made of: of some points as stored again in float64."""
        return (
            {self.element}
            | ({"float64"} if self.element == "bfloat16" else set())
            | (self.unrounded.elements if self.unrounded else set())
        )

    @property
    def unit(self) -> float:
        """The value of two points over the value of their rows."""
        metric = self.tile_metric
        return metric.rounded_unit(self.scale) if self.element == "int8" else metric.unit(self.scale)

    @property
    def tile_metric(self) -> Metric:
        """The metric that makes the points, multiplies them, and bounds pairs of them."""
        metric = METRICS[self.metric]
        return metric.by_l2 or metric if self.by_l2 else metric

    def distance_from_centre(self, rows: Array) -> Array:
        """A bound (b,) float64 of the distance of each row's point from the centre, of rows (b, d) as stored."""
        bound: Array = self.tile_metric.distance_from_centre(*norms(rows, self.centre).T) * self.scale * (1 + 1e-9)
        return bound

    def points(self, rows: Array) -> tuple[torch.Tensor, Norms]:
        """The points (b, d) of rows (b, d) as stored, on the CPU, and their norms.

        Where `keeps_stored` they are the rows, and `widened` makes points of them when they are multiplied.
        """
        if self.keeps_stored(rows.dtype):
            return devices.to_tensor(rows, _CPU), Norms(norms(rows)[:, 1] * self.scale**2)
        if self.element == "bfloat16":
            rounded = rows.astype(BFLOAT16, copy=False)
            error = None if rounded is rows else _distances(rows, rounded)
            return devices.to_tensor(rounded, _CPU), Norms(norms(rows)[:, 1], error)
        if self.element == "int8":
            return self._integers(rows)
        if self.in_digits:
            return self._digits(rows)
        metric, element = self.tile_metric, np.dtype(self.element)
        values = shifted(rows, self.centre, self.scale, element if metric.keeps_rows else np.float64)
        points = metric.points(values, element)
        return devices.to_tensor(points.values, _CPU), points.norms

    def keeps_stored(self, dtype: Any) -> bool:
        """Whether points of rows in `dtype` are these rows in a longer type, scaled: without a centre nothing is lost.

        The rows take less memory than their points, whose first touch costs more than to make them for every tile.
        """
        if not self.tile_metric.is_product or self.element not in ("float32", "float64"):
            return False
        return bool(np.dtype(dtype).itemsize < np.dtype(self.element).itemsize and not self.centre.any())

    def widened(self, points: torch.Tensor, workspace: Workspace, side: int) -> torch.Tensor:
        """What is multiplied of the points of a block: of rows as stored the points, in memory of the workspace."""
        if self.element not in ("float32", "float64") or (dtype := getattr(torch, self.element)) == points.dtype:
            return points
        return workspace.widened(points, side, dtype, self.scale)

    def _integers(self, rows: Array) -> tuple[torch.Tensor, Norms]:
        """What `points` gives, rounded. A row that is divided by its length errs by 8 u at most, u = 2^-53."""
        scale, divisor = self.scale * self.balance, self.tile_metric.divisor(rows, 1.0)
        integers, error = quantize(rows, self.centre, scale, divisor)
        norm, slack = norms(rows, self.centre, divisor)[:, 1] * scale**2, None
        if self.tile_metric.undefined_for_zero_rows:
            off = 8 * UNIT * scale
            error, slack = error + off, 2 * off * np.sqrt(norm) * (1 + 1e-9) + 2 * off**2
        return torch.from_numpy(integers), Norms(norm, error, slack=slack)

    def _digits(self, rows: Array) -> tuple[torch.Tensor, Norms]:
        """What `points` gives, in digits."""
        divisor, square = self.divisors(rows)
        found = digits_of(rows, self.centre, divisor, np.sqrt(square), int(self.element[-1]))
        return torch.from_numpy(found.points), Norms(square, step=found.step, slack=found.slack)

    def divisors(self, rows: Array) -> tuple[Array, Array]:
        """What rows (b, d) as stored are divided by to be points in digits, and the squared lengths of these, (b,)."""
        divisor = self.tile_metric.divisor(rows, self.scale)
        shifts = self.tile_metric.shifts
        return divisor, squared_lengths(rows, self.centre) / divisor**2 if shifts else np.ones(len(rows))


def _distances(rows: Array, rounded: Array) -> Array:
    """Upper bounds (b,) float64 of the L2 distances of rows (b, d) from their rounded points."""
    every, one = np.arange(len(rows)), np.ones(len(rows))
    squares = squared_differences(as_numba(rows), as_numba(rounded), every, every, one, one, np.float64)
    found: Array = np.sqrt(squares) * (1 + 1e-9)
    return found
