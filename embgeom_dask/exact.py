"""Exact answers about the few pairs that matter.

Three levels, each used only where the one before cannot decide: plain float64, within a known error; double-double, the
*key* of a pair, which knows whether it is exact; and rational numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.cpu import share_out
from embgeom_dask.metrics import Metric

Array = NDArray[Any]
Pairs = dict[str, Array]
"""Pairs of rows and the keys of their values: `first`, `second` (int64 positions), `high` + `low` (float64), `exact`
(bool). Where a matrix is compared with itself, first < second."""
Rows = Callable[[Array], Array]
"""The rows at the given positions, float64 (positions, d)."""

_GATHER = 2**22  # float64 values gathered at a time, for each side of the pairs


def empty_pairs() -> Pairs:
    """No pairs."""
    dtypes = {"first": np.int64, "second": np.int64, "high": np.float64, "low": np.float64, "exact": np.bool_}
    return {name: np.empty(0, dtype) for name, dtype in dtypes.items()}


def concat_pairs(tables: list[Pairs]) -> Pairs:
    """Append the tables to each other."""
    return {name: np.concatenate([table[name] for table in tables]) for name in empty_pairs()}


def take_pairs(pairs: Pairs, index: Array | slice) -> Pairs:
    """Select pairs by position, mask or slice."""
    return {name: pairs[name][index] for name in empty_pairs()}


@dataclass(frozen=True)
class Exact:
    """Exact answers about pairs of rows given by position.

    `first` and `second` read the rows of either side, `width` is d, and `scale` is what the tiles' points were
    multiplied by; `unit` turns values of rows into values of points.
    """

    metric: Metric
    first: Rows
    second: Rows
    width: int
    scale: float

    @property
    def unit(self) -> float:
        """The value of two points over the value of their rows."""
        return self.metric.unit(self.scale)

    def values(self, first: Array, second: Array) -> tuple[Array, Array]:
        """Values (p,) float64, and how far each may be from the true one."""
        out = np.empty(first.size)
        for part, x, y, i, j in self._gather(first, second):
            found = share_out(lambda a, b: self.metric.direct(x, y, i[a:b], j[a:b]), i.size)  # noqa: B023
            out[part] = np.concatenate(found)
        return out, self.metric.direct_slack(out, self.width)

    def keys(self, first: Array, second: Array) -> Pairs:
        """The pairs with their keys."""
        pairs = {name: np.empty(first.size, column.dtype) for name, column in empty_pairs().items()}
        pairs["first"], pairs["second"] = first, second
        for part, x, y, i, j in self._gather(first, second):
            found = share_out(lambda a, b: self.metric.keys(x, y, i[a:b], j[a:b]), i.size)  # noqa: B023
            for name, columns in zip(("high", "low", "exact"), zip(*found, strict=True), strict=True):
                pairs[name][part] = np.concatenate(columns)
        return pairs

    def order(self, pairs: Pairs) -> list[Any]:
        """The rational number of each pair that grows with its distance."""
        rows = zip(self.first(pairs["first"]), self.second(pairs["second"]), strict=True)
        return [self.metric.order(x, y) for x, y in rows]

    def sort(self, pairs: Pairs, *, descending: bool = False) -> tuple[Pairs, Array]:
        """Order pairs by exact distance, then by `first`, then by `second`.

        Returns the ordered pairs and their rank (p,) int64: it starts at 0, and equal distances share one.
        """
        sign = -1.0 if descending else 1.0
        order = np.lexsort((pairs["second"], pairs["first"], sign * pairs["low"], sign * pairs["high"]))
        ordered = take_pairs(pairs, order)
        high, low, exact = ordered["high"], ordered["low"], ordered["exact"]
        new = (np.diff(high) != 0) | (np.diff(low) != 0)
        slack = self.metric.key_slack(np.abs(high), self.width)
        close = np.abs(np.diff(high) + np.diff(low)) <= slack[1:] + slack[:-1]
        doubtful = close & ~(exact[1:] & exact[:-1])
        if doubtful.any():
            bounds = np.flatnonzero(np.concatenate([[True], ~close, [True]]))
            for start, stop in pairwise(bounds.tolist()):
                if doubtful[start : stop - 1].any():
                    self._sort_run(ordered, new, start, stop, descending)
        rank = np.concatenate([[0], np.cumsum(new)]) if high.size else np.empty(0, np.int64)
        return ordered, rank.astype(np.int64)

    def _sort_run(self, ordered: Pairs, new: Array, start: int, stop: int, descending: bool) -> None:
        """Order the pairs of ordered[start:stop] without error, in place; mark where the value changes in `new`."""
        run = {name: column[start:stop].copy() for name, column in ordered.items()}
        values = self.order(run)
        first, second = run["first"].tolist(), run["second"].tolist()
        sign = -1 if descending else 1
        order = sorted(range(stop - start), key=lambda p: (sign * values[p], first[p], second[p]))
        for name, column in ordered.items():
            column[start:stop] = run[name][order]
        new[start : stop - 1] = [values[a] != values[b] for a, b in pairwise(order)]

    def _gather(self, first: Array, second: Array) -> Iterator[tuple[Array, Array, Array, Array, Array]]:
        """Yield index arrays into the pairs, the rows they need, and the place of each pair's rows among these."""
        size = max(1, _GATHER // self.width)
        chunk = (first // size) << 32 | second // size
        order = np.argsort(chunk, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(chunk[order])) + 1):
            if part.size:
                i, place_i = np.unique(first[part], return_inverse=True)
                j, place_j = np.unique(second[part], return_inverse=True)
                yield part, self.first(i), self.second(j), place_i, place_j
