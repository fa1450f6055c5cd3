"""Distances that pairs are compared with, without error: the edges of bins, radii."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.double_double import UNIT, two_product
from embgeom_dask.exact import Exact, Pairs, take_pairs
from embgeom_dask.metrics import Metric

Array = NDArray[Any]

_LARGEST = 2.0**480
"""Beyond every distance, and its inverse below every one but 0: rows are within 2^+-400. Their squares are float64."""


@dataclass(frozen=True)
class Cuts:
    """Ascending distances (c,) float64 that part the pairs into c + 1 classes; class k has k cuts below it.

    A pair at exactly `distance[k]` lies below that cut where `closed[k]`, else above. `high` + `low` (c,) are the
    values of pairs at those distances.
    """

    distance: Array
    closed: Array
    high: Array
    low: Array

    @classmethod
    def at(cls, metric: Metric, distances: Iterable[float], *, closed: bool | Array) -> Cuts:
        """Make cuts, all closed, none, or as an array (c,) says."""
        distance = np.array(list(distances), np.float64)
        shut = np.broadcast_to(closed, distance.shape)
        if not metric.root:
            return cls(distance, shut, distance, np.zeros(distance.size))
        square, clipped = cast(Any, two_product), np.clip(distance, 1 / _LARGEST, _LARGEST) * (distance > 0)
        return cls(distance, shut, *square(clipped, clipped))

    def take(self, index: Array) -> Cuts:
        """Some of the cuts."""
        return Cuts(self.distance[index], self.closed[index], self.high[index], self.low[index])

    def in_points(self, exact: Exact) -> tuple[Array, Array]:
        """Values of points (c,) float64: a pair below the first lies below the cut, one above the second above it."""
        with np.errstate(over="ignore"):
            values = np.minimum(self.high * exact.unit, 2.0**64)  # beyond all points, and within float32
        return np.nextafter(values * (1 - 8 * UNIT), -np.inf), np.nextafter(values * (1 + 8 * UNIT), np.inf)

    def classify(self, first: Array, second: Array, exact: Exact) -> tuple[Array, Array]:
        """The class (p,) int64 and the value (p,) of pairs: by differences; at a cut by keys, then without error."""
        values, slack = exact.values(first, second)
        slack += 4 * UNIT * values
        index = np.searchsorted(self.high, values + slack, side="right")
        lowest = np.searchsorted(self.high, values - slack, side="left")
        (unsure,) = np.nonzero(lowest < index)
        pairs = exact.keys(first[unsure], second[unsure])
        while unsure.size:
            below = self._below(pairs, index[unsure] - 1, exact)
            index[unsure[below]] -= 1
            below &= lowest[unsure] < index[unsure]
            pairs, unsure = take_pairs(pairs, below), unsure[below]
        return index, values

    def _below(self, pairs: Pairs, cut: Array, exact: Exact) -> Array:
        """Whether each pair (p,) lies below the cut (p,) named by its place."""
        high, low, closed = self.high[cut], self.low[cut], self.closed[cut]
        same = pairs["high"] == high
        below: Array = (pairs["high"] < high) | (same & (pairs["low"] < low))
        below |= closed & same & (pairs["low"] == low)
        gap = np.abs((pairs["high"] - high) + (pairs["low"] - low))
        doubtful = ~pairs["exact"] & (gap <= 2 * exact.metric.key_slack(high, exact.width))
        if doubtful.any():
            order = exact.order(take_pairs(pairs, doubtful))
            bounds = [exact.metric.order_of(each) for each in self.distance[cut[doubtful]].tolist()]
            cases = zip(order, bounds, closed[doubtful].tolist(), strict=True)
            below[doubtful] = [mine < bound or (shut and mine == bound) for mine, bound, shut in cases]
        return below
