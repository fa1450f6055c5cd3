"""Exact answers about the few pairs that matter.

There are three levels, each used only where the one before cannot decide: float64, with a bound of its error;
double-double, the *key* of a pair, with a flag that says whether it is exact; and rational numbers. The reported
distance of a pair is correctly rounded, whatever level decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from math import inf, nextafter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.correct_rounding import upper_boundary
from embgeom_dask.kernels.double_double import UNIT_OF_FLOAT32
from embgeom_dask.kernels.numba_bfloat16 import as_numba
from embgeom_dask.kernels.parallel import share_out
from embgeom_dask.metrics import USUAL_LENGTHS, Metric
from embgeom_dask.pairwise.tables import Table

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Pairs(Table):
    """Pairs of rows (p,) and the keys of their values: positions `first` and `second`, `high` + `low`, `exact`.

    Where a matrix is compared with itself, first < second.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    exact: NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """The rows of one side: `block(b)` gives rows b * tile, b * tile + 1, ..., in the stored dtype.

    `norm` (rows,) float64 are upper bounds of their L2 norms, given where the metric is a product.
    """

    tile: int
    block: Callable[[int], Array]
    norm: Array | None = None

    def __getitem__(self, positions: Array) -> Array:
        """The rows at `positions` (p,), float64 (p, d)."""
        found = [self.block(position // self.tile)[position % self.tile] for position in positions.tolist()]
        return np.array(found).astype(np.float64)


@dataclass(frozen=True)
class Exact:
    """Exact answers about pairs of rows given by position.

    `first` and `second` are the rows of either side, `width` is d; `unit` turns values of rows into values of the
    tiles' points. Where `turned`, values are those with the other sign, and the nearest pairs the farthest; what is
    reported of a pair stays. With `by_l2` the points' values are those of rows squared.
    """

    metric: Metric
    first: Rows
    second: Rows
    width: int
    unit: float
    counts: Counter[str] = field(default_factory=Counter)
    """How many pairs came to each level: `float32`, `float64`, `double_double`, `rational`."""
    turned: bool = False
    by_l2: bool = False

    def turn(self) -> Exact:
        """Answers about the same pairs with values of the other sign."""
        return replace(self, turned=not self.turned)

    def value_slack(self, first: Array, second: Array, values: Array) -> Array:
        """How far `values` (p,) of pairs, in plain float64, may be from the true ones."""
        return self.metric.direct_slack(self._sizes(first, second, values), self.width)

    def key_slack(self, pairs: Pairs) -> Array:
        """How far keys that are not exact may be from the true values, (p,) float64."""
        return self.metric.key_slack(self._sizes(pairs.first, pairs.second, pairs.high), self.width)

    def _sizes(self, first: Array, second: Array, values: Array) -> Array:
        """What the errors of values (p,) are parts of: their sizes, or of products |x| |y|."""
        if not self.metric.is_product:
            return np.abs(values)
        lengths = self._norms(first, second)
        return np.asarray(lengths[0] * lengths[1])

    def _norms(self, first: Array, second: Array) -> tuple[Array, Array]:
        """Upper bounds (p,) of the lengths of rows, which are given where the metric is a product."""
        assert self.first.norm is not None
        assert self.second.norm is not None
        return self.first.norm[first], self.second.norm[second]

    def values(self, first: Array, second: Array) -> tuple[Array, Array]:
        """Values (p,) float64, and how far each may be from the true one."""
        self.counts["float64"] += first.size
        out = self._computed(self.metric.direct, first, second)
        return -out if self.turned else out, self.value_slack(first, second, out)

    def at_least(self, first: Array, second: Array) -> Array:
        """Lower bounds (p,) float64 of values, from float32; -inf where it tells nothing."""
        if not self.metric.has_rough:
            return np.full(first.size, -np.inf)
        self.counts["float32"] += first.size
        out = self._computed(self.metric.rough, first, second)
        told = np.ones(first.size, np.bool_)
        for length in self._norms(first, second) if self.metric.is_product else [np.sqrt(np.abs(out))]:
            told &= (length > USUAL_LENGTHS[0]) & (length < USUAL_LENGTHS[1])
        out[~told] = 0.0
        slack = self.metric.direct_slack(self._sizes(first, second, out), self.width, UNIT_OF_FLOAT32)
        slack *= 1 + 2.0**-6  # that of a value told too small is too small, by (d + 3) 2^-24 of it: 2^-6.9 for d = 2^17
        slack[~told] = np.inf
        bounds: Array = (-out if self.turned else out) - slack
        return bounds

    def _computed(self, compute: Callable[..., Array], first: Array, second: Array) -> Array:
        """What a function of rows and pairs gives of each pair, (p,) float64."""
        out = np.empty(first.size)
        for part, x, y, i, j in self._gather(first, second):
            found = share_out(lambda a, b: compute(x, y, i[a:b], j[a:b]), i.size)  # noqa: B023
            out[part] = np.concatenate(found)
        return out

    def keys(self, first: Array, second: Array) -> Pairs:
        """The pairs with their keys."""
        high, low, exact = np.empty(first.size), np.empty(first.size), np.empty(first.size, np.bool_)
        self.counts["double_double"] += first.size
        for part, x, y, i, j in self._gather(first, second):
            found = share_out(lambda a, b: self.metric.keys(x, y, i[a:b], j[a:b]), i.size)  # noqa: B023
            for column, parts in zip((high, low, exact), zip(*found, strict=True), strict=True):
                column[part] = np.concatenate(parts)
        return Pairs(first, second, -high, -low, exact) if self.turned else Pairs(first, second, high, low, exact)

    def order(self, first: Array, second: Array) -> list[Fraction]:
        """The rational number of each pair that grows with its distance."""
        self.counts["rational"] += first.size
        rows = zip(self.first[first], self.second[second], strict=True)
        numbers = [self.metric.order(x, y) for x, y in rows]
        return [-number for number in numbers] if self.turned else numbers

    def sort(self, pairs: Pairs, *, descending: bool = False) -> tuple[Pairs, Array]:
        """Order pairs by exact distance, then by `first`, then by `second`.

        Returns the ordered pairs and their rank (p,) int64: it starts at 0, and equal distances share one.
        """
        index, rank = self.argsort(pairs, descending=descending)
        return pairs.take(index), rank

    def argsort(self, pairs: Pairs, *, descending: bool = False) -> tuple[Array, Array]:
        """The index (p,) that puts pairs in the order of `sort`, and their rank (p,) in that order."""
        sign = -1.0 if descending else 1.0
        index = np.lexsort((pairs.second, pairs.first, sign * pairs.low, sign * pairs.high))
        high, low, exact = pairs.high[index], pairs.low[index], pairs.exact[index]
        new = (np.diff(high) != 0) | (np.diff(low) != 0)
        slack = self.key_slack(pairs.take(index))
        if self.metric.is_product:  # a pair of short rows may lie between two that its own slack does not tell of
            slack = np.full_like(slack, np.max(slack, where=~exact, initial=0.0))
        close = np.abs(np.diff(high) + np.diff(low)) <= slack[1:] + slack[:-1]
        doubtful = close & ~(exact[1:] & exact[:-1])
        if doubtful.any():
            bounds = np.flatnonzero(np.concatenate([[True], ~close, [True]]))
            for start, stop in pairwise(bounds.tolist()):
                if doubtful[start : stop - 1].any():
                    run = index[start:stop]
                    order, differs = self._argsort_exactly(pairs.first[run], pairs.second[run], descending)
                    index[start:stop], new[start : stop - 1] = run[order], differs
        return index, _ranks(new, index.size)

    def _argsort_exactly(self, first: Array, second: Array, descending: bool) -> tuple[list[int], list[bool]]:
        """The order of some pairs (p,) without error, and where the distance changes in it (p - 1,)."""
        values, places = self.order(first, second), (first.tolist(), second.tolist())
        sign = -1 if descending else 1
        order = sorted(range(len(values)), key=lambda p: (sign * values[p], places[0][p], places[1][p]))
        return order, [values[a] != values[b] for a, b in pairwise(order)]

    def rank(self, first: Array, second: Array, values: Array) -> tuple[Array, Array]:
        """Order pairs whose plain float64 values are known: index (p,) and rank (p,), as `sort` gives it.

        Keys are made only for pairs whose values are too close to tell apart.
        """
        order = np.argsort(values)
        slack = self.value_slack(first[order], second[order], values[order])
        new = _are_apart(values[order] - slack, values[order] + slack)
        alone = np.concatenate([[True], new]) & np.concatenate([new, [True]])
        (close,) = np.nonzero(~alone)
        if close.size:
            index, rank = self.argsort(self.keys(first[order[close]], second[order[close]]))
            order[close] = order[close][index]
            beside = np.diff(close) == 1
            new[close[:-1][beside]] |= (np.diff(rank) != 0)[beside]
        return order, _ranks(new, order.size)

    def distances(self, first: Array, second: Array) -> Array:
        """Distances (p,) float64 as they are reported: correctly rounded, so that ties are equal and none falls."""
        out, settled = np.empty(first.size), np.empty(first.size, np.bool_)
        order = np.lexsort((second, first))
        for part, x, y, i, j in self._gather(first[order], second[order]):
            found = share_out(lambda a, b: self.metric.rounded(x, y, i[a:b], j[a:b]), i.size)  # noqa: B023
            for column, parts in zip((out, settled), zip(*found, strict=True), strict=True):
                column[order[part]] = np.concatenate(parts)
        (unsettled,) = np.nonzero(~settled)
        numbers = replace(self, turned=False).order(first[unsettled], second[unsettled])
        out[unsettled] = [nearest_float(self.metric, number) for number in numbers]
        return out

    def equal(self, first: Array, second: Array, distance: Array) -> Array:
        """Which pairs (p,) are at distance 0 before rounding, bool; `distance` (p,) are their reported distances."""
        equal: Array = distance == 0
        keys = self.keys(first[equal], second[equal])
        equal[equal] = keys.exact & (keys.high == 0)
        return equal

    def _gather(self, first: Array, second: Array) -> Iterator[tuple[Array, Array, Array, Array, Array]]:
        """Group pairs by blocks: yield the indices of the pairs, their two blocks of rows, and the indices in these."""
        chunk = (first // self.first.tile) << 32 | second // self.second.tile
        order = np.argsort(chunk, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(chunk[order])) + 1):
            if part.size:
                i, j = first[part], second[part]
                x, y = self.first.block(int(i[0]) // self.first.tile), self.second.block(int(j[0]) // self.second.tile)
                yield part, as_numba(x), as_numba(y), i % self.first.tile, j % self.second.tile


def _are_apart(least: Array, most: Array) -> Array:
    """Where numbers (p,) in order of their middles, each between two bounds, may be parted: (p - 1,) bool."""
    reached, left = np.maximum.accumulate(most), np.minimum.accumulate(least[::-1])[::-1]
    apart: Array = left[1:] > reached[:-1]
    return apart


def _ranks(new: Array, size: int) -> Array:
    """The rank of each of `size` ordered pairs, from 0; `new` (size - 1,) says where it grows."""
    return np.concatenate([[0], np.cumsum(new)]).astype(np.int64) if size else np.empty(0, np.int64)


def is_at_most(metric: Metric, order: Fraction, distance: float) -> bool:
    """Whether a pair, whose rational number is `order`, is reported at `distance` at most."""
    boundary, inside = upper_boundary(distance)
    most = metric.order_of(boundary)
    return order < most or (inside and order == most)


def nearest_float(metric: Metric, order: Fraction) -> float:
    """The distance of a pair as it is reported, from its rational number."""
    found = metric.near(order)
    while not is_at_most(metric, order, found):
        found = nextafter(found, inf)
    while is_at_most(metric, order, below := nextafter(found, -inf)):
        found = below
    return found
