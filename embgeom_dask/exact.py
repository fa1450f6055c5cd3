"""The order of squared euclidean distances, decided without error.

Three levels, each used only where the one before cannot decide: a plain float64 sum of squared differences, whose
relative error is at most `direct_error(d)`; a double-double sum, the *key* of a pair, which knows whether it is exact;
and integers of any length. All of it runs on the CPU, so that every device gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.cpu import share_out

Array = NDArray[Any]
Pairs = dict[str, Array]
"""Pairs of rows and their keys: `first` < `second` (int64 positions), `high` + `low` (float64), `exact` (bool)."""
Rows = Callable[[Array], Array]
"""The rows at the given positions, float64 (positions, d)."""

UNIT = 2.0**-53
_GATHER = 2**22  # float64 values gathered at a time, for each side of the pairs
_SPLIT = 134217729.0


def direct_error(width: int) -> float:
    """Bound the relative error of `squared_distances` in `width` dimensions: (d + 3) u, in any order of summation.

    Jeannerod and Rump, "Improved error bounds for inner products in floating-point arithmetic", SIAM J. Matrix
    Anal. Appl. 34 (2013); 3 u more for the rounded difference and its square; some slack.
    """
    return (width + 8) * UNIT


def key_error(width: int) -> float:
    """Bound the relative error of a key that is not exact: d terms, each losing at most 3 d u^2 of the sum."""
    return 4.0 * width**2 * UNIT**2


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def squared_distances(x: Array, y: Array, i: Array, j: Array) -> Array:  # pragma: no cover (compiled)
    """Sum (x[i] - y[j])^2 over the columns: x (m, d), y (n, d) float64, i and j (p,) integers; (p,) float64."""
    out = np.empty(i.size)
    for p in range(i.size):
        a, b = x[i[p]], y[j[p]]
        total = 0.0
        for k in range(a.size):
            t = a[k] - b[k]
            total += t * t
        out[p] = total
    return out


@numba.njit(nogil=True, cache=True)
def _two_sum(a: float, b: float) -> tuple[float, float]:  # pragma: no cover (compiled)
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@numba.njit(nogil=True, cache=True)
def _square(a: float) -> tuple[float, float]:  # pragma: no cover (compiled)
    q = a * a
    c = _SPLIT * a
    high = c - (c - a)
    low = a - high
    return q, ((high * high - q) + 2.0 * high * low) + low * low


@numba.njit(nogil=True, cache=True)
def squared_keys(x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array, Array]:  # pragma: no cover (compiled)
    """Sum (x[i] - y[j])^2 in double-double: `high` + `low` (p,) float64 each, and `exact` (p,) bool.

    Error-free transformations of Knuth (sum) and Dekker (product). `high` is the float64 nearest to the sum; where
    `exact` holds nothing was rounded and equal sums have equal keys; elsewhere the relative error is `key_error(d)`.
    """
    high, low = np.empty(i.size), np.empty(i.size)
    exact = np.empty(i.size, np.bool_)
    for p in range(i.size):
        a, b = x[i[p]], y[j[p]]
        total, rest, lost = 0.0, 0.0, 0.0
        for k in range(a.size):
            t, e = _two_sum(a[k], -b[k])
            q, r = _square(t)
            total, z = _two_sum(total, q)
            w, lost_here = _two_sum(z, r)
            lost += abs(lost_here)
            if e != 0.0:
                w += 2.0 * t * e
                lost += abs(e)
            rest, lost_here = _two_sum(rest, w)
            lost += abs(lost_here)
        high[p], low[p] = _two_sum(total, rest)
        exact[p] = lost == 0.0
    return high, low, exact


def squared_integer(x: Array, y: Array) -> int:
    """Sum (x - y)^2 of two float64 rows exactly, in units of 2^-2148."""
    return sum((_fixed(a) - _fixed(b)) ** 2 for a, b in zip(x.tolist(), y.tolist(), strict=True))


def _fixed(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    return numerator << (1075 - denominator.bit_length())


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


def sort_pairs(pairs: Pairs, rows: Rows, *, width: int, descending: bool = False) -> tuple[Pairs, Array]:
    """Order pairs by exact distance, then by `first`, then by `second`.

    Returns the ordered pairs and their rank (p,) int64: it starts at 0, equal distances share one, in exact
    arithmetic. `rows` is asked for the rows whose order only integers can decide.
    """
    sign = -1.0 if descending else 1.0
    ordered = take_pairs(
        pairs, np.lexsort((pairs["second"], pairs["first"], sign * pairs["low"], sign * pairs["high"]))
    )
    high, low, exact = ordered["high"], ordered["low"], ordered["exact"]
    new = (np.diff(high) != 0) | (np.diff(low) != 0)
    close = np.abs(np.diff(high) + np.diff(low)) <= 2 * key_error(width) * np.maximum(high[1:], high[:-1])
    doubtful = close & ~(exact[1:] & exact[:-1])
    if doubtful.any():
        bounds = np.flatnonzero(np.concatenate([[True], ~close, [True]]))
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            if doubtful[start : stop - 1].any():
                _sort_run(ordered, new, rows, start, stop, descending)
    rank = np.concatenate([[0], np.cumsum(new)]) if high.size else np.empty(0, np.int64)
    return ordered, rank.astype(np.int64)


def _sort_run(ordered: Pairs, new: Array, rows: Rows, start: int, stop: int, descending: bool) -> None:
    """Order the pairs of ordered[start:stop] by integers, in place, and mark where the value changes in `new`."""
    run = {name: column[start:stop].copy() for name, column in ordered.items()}
    values = [squared_integer(a, b) for a, b in zip(rows(run["first"]), rows(run["second"]), strict=True)]
    sign = -1 if descending else 1
    order = sorted(range(stop - start), key=lambda p: (sign * values[p], int(run["first"][p]), int(run["second"][p])))
    for name, column in ordered.items():
        column[start:stop] = run[name][order]
    new[start : stop - 1] = [values[a] != values[b] for a, b in pairwise(order)]


@dataclass(frozen=True)
class Exact:
    """Exact answers about pairs of rows given by position.

    `rows` reads rows, `width` is d, and `scale` is what the tiles' points were multiplied by.
    """

    rows: Rows
    width: int
    scale: float

    def squared(self, first: Array, second: Array) -> Array:
        """Squared distances (p,) float64, each within `direct_error(width)` of the true one."""
        out = np.empty(first.size)
        for part, x, y, i, j in self._gather(first, second):
            out[part] = np.concatenate(share_out(lambda a, b: squared_distances(x, y, i[a:b], j[a:b]), i.size))  # noqa: B023
        return out

    def keys(self, first: Array, second: Array) -> Pairs:
        """The pairs with their keys."""
        pairs = {name: np.empty(first.size, column.dtype) for name, column in empty_pairs().items()}
        pairs["first"], pairs["second"] = first, second
        for part, x, y, i, j in self._gather(first, second):
            found = share_out(lambda a, b: squared_keys(x, y, i[a:b], j[a:b]), i.size)  # noqa: B023
            for name, columns in zip(("high", "low", "exact"), zip(*found, strict=True), strict=True):
                pairs[name][part] = np.concatenate(columns)
        return pairs

    def sort(self, pairs: Pairs, *, descending: bool = False) -> tuple[Pairs, Array]:
        """`sort_pairs` of these rows."""
        return sort_pairs(pairs, self.rows, width=self.width, descending=descending)

    def _gather(self, first: Array, second: Array) -> Iterator[tuple[Array, Array, Array, Array, Array]]:
        """Yield index arrays into the pairs, the rows they need, and the place of each pair's rows among these."""
        size = max(1, _GATHER // self.width)
        chunk = (first // size) << 32 | second // size
        order = np.argsort(chunk, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(chunk[order])) + 1):
            if part.size:
                i, place_i = np.unique(first[part], return_inverse=True)
                j, place_j = np.unique(second[part], return_inverse=True)
                yield part, self.rows(i), self.rows(j), place_i, place_j
