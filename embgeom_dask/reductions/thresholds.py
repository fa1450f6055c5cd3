"""Radii and bin edges as exact thresholds, which reported distances are compared with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import sqrt
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.correct_rounding import half_step, last_below
from embgeom_dask.kernels.double_double import UNIT, squares, two_sum
from embgeom_dask.metrics import Metric
from embgeom_dask.pairwise.exact import Exact, Pairs, is_at_most
from embgeom_dask.pairwise.points import PointFormat

Array = NDArray[Any]

_LARGEST = 2.0**480
"""Beyond every distance, and its inverse below every one but 0: rows are within 2^+-400. Their squares are float64."""


@dataclass(frozen=True)
class Thresholds:
    """Ascending distances (c,) float64 that part the pairs into c + 1 classes; class k has k thresholds below it.

    A pair reported at `distance[k]` lies below that threshold where `closed[k]`, else above. `last` (c,) is the largest
    reported distance below each threshold: a pair lies below where its own distance, without error, is below the
    boundary between the numbers that are rounded to `last` and those that are rounded above. `high` + `low` (c,) are
    the values of pairs at these boundaries, within `slack` (c,).
    """

    distance: Array
    closed: Array
    last: Array
    high: Array
    low: Array
    slack: Array

    @classmethod
    def at(cls, metric: Metric, distances: Iterable[float], *, closed: bool | Array) -> Thresholds:
        """Make thresholds, all closed, none, or as an array (c,) says."""
        distance = np.array(list(distances), np.float64)
        shut = np.broadcast_to(closed, distance.shape)
        last = last_below(distance, shut)
        add = cast(Any, two_sum)
        if not metric.root:
            near = np.minimum(last, _LARGEST)
            slack = np.where(np.abs(near) < 2.0**-1000, 2.0**-1070, 0.0)
            high, low = add(near, half_step(near))
            return cls(distance, shut, last, high, low, slack)
        sign, size = np.where(last < 0, -1.0, 1.0), np.clip(np.abs(last), 1 / _LARGEST, _LARGEST)
        high, low = squares(size)
        step = half_step(size)
        high, low = add(high, low + (2 * size * step + step * step))
        return cls(distance, shut, last, sign * high, sign * low, 16 * UNIT**2 * high)

    def take(self, index: Array) -> Thresholds:
        """Some of the thresholds."""
        return Thresholds(*(getattr(self, field.name)[index] for field in fields(self)))

    def in_points(self, points: Exact | PointFormat) -> tuple[Array, Array]:
        """Values of points (c,) float64: a pair below the first lies below the threshold, above the second above it."""
        with np.errstate(over="ignore"):
            values = (self.high * sqrt(points.unit)) ** 2 if points.by_l2 else self.high * points.unit
            values = np.minimum(values, 2.0**64)  # beyond all points, and within float32
        slack = 16 * UNIT * np.abs(values)
        return np.nextafter(values - slack, -np.inf), np.nextafter(values + slack, np.inf)

    def span(self, points: Exact | PointFormat) -> float:
        """The value of points above which a pair lies above all thresholds."""
        return float(self.in_points(points)[1][-1])

    def between(self, least: Array, most: Array, exact: Exact) -> tuple[Array, Array]:
        """The class (p,) int64 of pairs whose values of points are from `least` to `most` (p,), if these are sure."""
        inside, outside = self.in_points(exact)
        index = np.searchsorted(outside, least, side="left")  # so many thresholds lie below for certain
        sure = index == np.searchsorted(inside, most, side="left")
        return index, sure & ~np.isnan(least) & ~np.isnan(most)

    def of_reported(self, distance: Array) -> Array:
        """The class (p,) int64 of pairs reported at `distance` (p,)."""
        return np.searchsorted(self.last, distance, side="left")

    def classify(
        self, first: Array, second: Array, exact: Exact, known: tuple[Array, Array] | None = None
    ) -> tuple[Array, Array]:
        """The class (p,) int64 and the value (p,) of pairs: by differences; near one by keys, then without error.

        What `Exact.values` gives of these pairs may be `known`.
        """
        values, slack = exact.values(first, second) if known is None else known
        slack = slack + 4 * UNIT * np.abs(values)
        index = np.searchsorted(self.high, values + slack, side="right")
        lowest = np.searchsorted(self.high, values - slack, side="left")
        lowest[np.isnan(values)] = 0
        (unsure,) = np.nonzero(lowest < index)
        pairs = exact.keys(first[unsure], second[unsure])
        while unsure.size:
            below = self._below(pairs, index[unsure] - 1, exact)
            index[unsure[below]] -= 1
            below &= lowest[unsure] < index[unsure]
            pairs, unsure = pairs.take(below), unsure[below]
        return index, values

    def _below(self, pairs: Pairs, index: Array, exact: Exact) -> Array:
        """Whether each pair (p,) lies below the threshold of that index (p,)."""
        high, low = self.high[index], self.low[index]
        below: Array = (pairs.high < high) | ((pairs.high == high) & (pairs.low < low))
        gap = np.abs((pairs.high - high) + (pairs.low - low))
        error = np.where(pairs.exact, 0.0, exact.metric.key_slack(np.abs(high), exact.width))
        doubtful = ~(gap > 2 * (error + self.slack[index]))
        if doubtful.any():
            order = exact.order(pairs.first[doubtful], pairs.second[doubtful])
            last = self.last[index[doubtful]].tolist()
            below[doubtful] = [is_at_most(exact.metric, *case) for case in zip(order, last, strict=True)]
        return below
