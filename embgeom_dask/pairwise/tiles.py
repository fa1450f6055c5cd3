"""A tile: all pairs of two blocks, multiplied on their device, with bounds of every pair's value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import LinearBound, StripEnds
from embgeom_dask.metrics import Metric, Precision, Workspace, multiply_digits
from embgeom_dask.pairwise.blocks import Block
from embgeom_dask.pairwise.exact import Exact

Array = NDArray[Any]

_REMEMBERED = 1 << 17
"""Pairs of a tile at most whose values are kept: a few megabytes."""


class KnownValues(NamedTuple):
    """What `Exact.values` gives of some pairs of a tile: `key` (p,) int64 rises, of row i and column j it is i n + j.

    `values` and `slack` (p,) are float64.
    """

    key: Array
    values: Array
    slack: Array


@dataclass
class Tile:
    """All pairs of the rows of two blocks; `diagonal`: only the pairs i < j count. Its product lies in `workspace`.

    Where `turned`, bounds are those of values with the other sign: the nearest pairs are the farthest.
    """

    metric: Metric
    rows: Block
    columns: Block
    diagonal: bool
    workspace: Workspace = field(default_factory=Workspace)
    turned: bool = False
    ends: StripEnds | None = field(default=None, init=False)
    """What the bounds of strips lie between, where a reduction has found that and left it for others."""
    _known: KnownValues | None = field(default=None, init=False)
    _product: torch.Tensor | None = field(default=None, init=False)

    @property
    def product(self) -> torch.Tensor:
        """The product (m, n) on the device, made when it is first asked for."""
        if self._product is None:  # a cached_property of Python 3.11 would have all threads wait for each other
            self._product = self._multiplied()
        return self._product

    def _multiplied(self) -> torch.Tensor:
        steps = self.rows.norms.step, self.columns.norms.step
        points = self.rows.multiplied(self.workspace, 0), self.columns.multiplied(self.workspace, 1)
        if steps[0] is None or steps[1] is None:
            return self.metric.product(*points, self.workspace)
        element = self.rows.point_format.element if self.rows.point_format else "int8x3"
        whole, count = element.startswith("int8"), int(element[-1])
        return multiply_digits(*points, (steps[0], steps[1]), self.workspace, whole=whole, count=count)

    def forget_product(self) -> None:
        """Drop the product, so that a later one can use its memory. It is made again when it is asked for again."""
        self._product = None

    def turn(self) -> Tile:
        """The same tile with negated values; it shares the product."""
        tile = replace(self, turned=not self.turned)
        tile._product = self.product
        return tile

    def like(self, rows: Block, columns: Block) -> Tile:
        """A tile of other blocks, which hold some of the pairs of this one."""
        return replace(self, rows=rows, columns=columns)

    @property
    def rounded(self) -> bool:
        """Whether the points are rounded to integers."""
        return self.rows.rounded

    def unrounded(self) -> Tile:
        """The same pairs, of points that are not rounded."""
        return self.like(self.rows.unrounded(), self.columns.unrounded())

    @property
    def precision(self) -> Precision:
        """How the product was made."""
        return Precision(str(self.product.dtype).removeprefix("torch."), self.product.device.type == "cpu")

    @property
    def terms(self) -> tuple[LinearBound, LinearBound]:
        """Lower and upper bound of the value of each pair of points, as the points of the scan have it."""
        low, high = self.metric.terms(self.rows.norms, self.columns.norms, self.rows.points.shape[1], self.precision)
        low, high = low.times(self.rows.unit), high.times(self.rows.unit)
        return (-high, -low) if self.turned else (low, high)

    def remember(self, i: Array, j: Array, values: Array, slack: Array) -> None:
        """Keep what `Exact.values` gives of pairs i, j (p,), unless they are many: other reductions ask for it too."""
        if i.size <= _REMEMBERED:
            key = i * self.columns.size + j
            order = np.argsort(key, kind="stable")
            self._known = KnownValues(key[order], values[order], slack[order])

    def recall(self, i: Array, j: Array) -> tuple[Array, Array]:
        """The values (p,) that are kept of pairs i, j (p,), and their slack (p,); of others NaN."""
        values, slack = np.full((2, i.size), np.nan)
        if self._known is not None and self._known.key.size:
            key = i * self.columns.size + j
            place = np.minimum(np.searchsorted(self._known.key, key), self._known.key.size - 1)
            known = self._known.key[place] == key
            values[known], slack[known] = self._known.values[place[known]], self._known.slack[place[known]]
        return values, slack

    def values(self, i: Array, j: Array, exact: Exact) -> tuple[Array, Array]:
        """What `Exact.values` gives of pairs i, j (p,): those that are not kept are looked up."""
        if self._known is None:
            return exact.values(*self.pairs(i, j))
        values, slack = self.recall(i, j)
        (unknown,) = np.nonzero(np.isnan(values))
        first, second = self.pairs(i[unknown], j[unknown])
        values[unknown], slack[unknown] = exact.values(first, second)
        return values, slack

    def pairs(self, i: Array, j: Array) -> tuple[Array, Array]:
        """The positions of pairs of this tile, within one matrix the lower first."""
        first, second = self.rows.positions[i], self.columns.positions[j]
        return (np.minimum(first, second), np.maximum(first, second)) if self.diagonal else (first, second)

    def without_duplicates(self, duplicate_of: Array | None, i: Array, j: Array, bound: Array) -> tuple[Array, ...]:
        """The pairs i, j (p,) and their bound, less those of identical rows: `duplicate_of` names that of each."""
        if duplicate_of is None:
            return i, j, bound
        first, second = self.pairs(i, j)
        keep = duplicate_of[first] != second
        return i[keep], j[keep], bound[keep]
