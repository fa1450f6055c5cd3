"""Where the tokens around a centre end: the gap in their sorted distances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_FLOOR = 2.0**-10
"""Distances under this share of the median are taken as that share: rows that all but coincide are one place."""

_ROUNDED = 1 + 2.0**-50
"""More than what the quotients of bounds are rounded by."""


class UpToGap(NamedTuple):
    """The tokens about a centre, up to the gap in their distances: the `rows` inside, ascending, and the `contrast`.

    `radius` is the largest distance inside, `following` the next one.
    """

    rows: Array
    radius: float
    following: float
    contrast: float


@dataclass
class Distances:
    """Distances of rows from a point: `value` (n,) float64, each within `off` (n,) of the one that is reported.

    `exactly` gives the distances reported of some rows (k,) int64; asked for, they take the place of what is here.
    """

    value: Array
    off: Array
    exactly: Callable[[Array], Array]

    @classmethod
    def of(cls, value: Array) -> Distances:
        """Distances that are those reported."""
        return cls(value, np.zeros(value.size), lambda rows: value[rows])

    def settle(self, ranks: Array) -> None:
        """See to it that `value` has the distances reported of all rows that may be the r-th in order, for each rank r
        (k,) from 0. So it has the r-th distance, and tells which rows are before it.
        """
        ranks = np.unique(ranks)
        (least, most), (low, high) = self._bounds(), map(self.ascending, self._bounds())
        first, last = low[ranks], high[ranks]  # the r-th distance is between these; both ascend
        place = np.searchsorted(last, least)
        beyond = place == ranks.size
        may = ~beyond & (first[np.where(beyond, 0, place)] <= most) & (self.off > 0)
        rows = np.flatnonzero(may)
        if rows.size:
            self.value[rows], self.off[rows] = self.exactly(rows), 0.0

    def widest(self, upper: Array, lower: Array, floor: float) -> tuple[int, float]:
        """The first k for which the quotient of the distances of rank `upper[k]` and `lower[k]` is largest, and that
        quotient, where a distance is taken as `floor` at least; the ranks are settled that may have it.
        """
        low, high = (np.maximum(self.ascending(each), floor) for each in self._bounds())
        may = high[upper] / low[lower] * _ROUNDED >= (low[upper] / high[lower]).max()
        self.settle(np.concatenate([upper[may], lower[may]]))
        near = np.maximum(self.ascending(self.value), floor)
        ratio = near[upper] / near[lower]
        best = int(ratio.argmax())
        return best, float(ratio[best])

    def ascending(self, values: Array) -> Array:
        """Sort values (n,) that are all but in the order of the distances, which is found once."""
        return np.sort(values[self._order], kind="stable")

    @cached_property
    def _order(self) -> Array:
        """The rows in the order of their distances as first known; settling them moves few."""
        return np.argsort(self.value)

    def _bounds(self) -> tuple[Array, Array]:
        return self.value - self.off, self.value + self.off


def up_to_gap(distances: Distances, least: int, count: int | None = None) -> UpToGap:
    """The tokens about a centre up to the gap, from the distances of all n; with `count` that many are inside."""
    size = distances.value.size
    distances.settle(np.array([size // 2, size - 1]))
    near = distances.ascending(distances.value)
    floor = float(_FLOOR * (near[size // 2] or near[-1] or 1.0))
    first = np.arange(least, size // 4 + 1)
    best, contrast = distances.widest(2 * first - 1, first - 1, floor)
    if count is None:
        k = int(first[best])
        after = np.arange(k, 2 * k)
        count = k + distances.widest(after, after - 1, floor)[0]
    distances.settle(np.array([count - 1, count]))
    radius, following = distances.ascending(distances.value)[[count - 1, count]].tolist()
    inside = distances.value < radius
    inside[np.flatnonzero(distances.value == radius)[: count - np.count_nonzero(inside)]] = True  # ties by token id
    return UpToGap(np.flatnonzero(inside), radius, following, contrast)
