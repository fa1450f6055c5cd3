"""The histogram of all distances, their mean and standard deviation."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.exact import UNIT, Exact, Pairs, direct_error, key_error, squared_integer
from embgeom_dask.kernels import Bins, bin_pairs
from embgeom_dask.metrics import Tile
from embgeom_dask.rows import RowSet

Array = NDArray[Any]
State = dict[str, Array]

_LIMB, _LIMBS = 40, 4


@dataclass(frozen=True)
class Histogram:
    """Counts of all pairs of tokens in equal bins from 0 to `top`, which bounds every distance.

    Bins are half-open, [edge, next edge). `weights` (rows,) int64 is the number of tokens that share each row.
    State: `count` (bins,) int64; `total` and `square` (4,) int64, the sums of the distances and of their squares in
    fixed point, as limbs of 40 bits. Integers add up to the same sums in any order.
    """

    bins: int
    top: float
    weights: Array
    name = "histogram"

    @cached_property
    def edges(self) -> Array:
        """The bin edges, (bins + 1,) float64."""
        return np.linspace(0.0, self.top, self.bins + 1)

    @cached_property
    def bits(self) -> int:
        """Bits of a distance in fixed point: a row of them, weighed, adds up inside int64."""
        return int(min(50, 62 - int(self.weights.sum()).bit_length()))

    def empty(self, hint: Array | None = None) -> State:  # noqa: ARG002
        """Zeros."""
        limbs = np.zeros(_LIMBS, np.int64)
        return {"count": np.zeros(self.bins, np.int64), "total": limbs, "square": limbs}

    def update(self, state: State, tile: Tile, exact: Exact) -> State:
        """Add the pairs of a tile."""
        bins = self._in_points(tile, exact)
        weights = tuple(self.weights[block.start : block.start + block.size] for block in (tile.rows, tile.columns))
        norms = tile.rows.squared_norm, tile.columns.squared_norm
        counts, sums, i, j = bin_pairs(tile.product, *norms, (weights[0], weights[1]), bins, diagonal=tile.diagonal)
        linear, high, cross, low = (_dot(weights[0], column) for column in sums.T)
        total = linear
        square = (high << 2 * bins.half) + (cross << bins.half + 1) + low
        if i.size:
            weight = weights[0][i] * weights[1][j]
            index, distance = self._locate(tile.rows.start + i, tile.columns.start + j, exact)
            np.add.at(counts, index, weight)
            t = np.rint(distance * (exact.scale * bins.quantum)).astype(np.int64).tolist()
            total += sum(w * x for w, x in zip(weight.tolist(), t, strict=True))
            square += sum(w * x * x for w, x in zip(weight.tolist(), t, strict=True))
        found = {"count": counts, "total": _limbs(total), "square": _limbs(square)}
        return self.merge([state, found], exact)

    def finish(self, state: State, exact: Exact) -> State:  # noqa: ARG002
        """What leaves the worker: the state as it is."""
        return state

    def merge(self, states: list[State], exact: Exact) -> State:  # noqa: ARG002
        """Add the states of several panels."""
        return {name: np.sum([state[name] for state in states], axis=0) for name in ("count", "total", "square")}

    def hint(self, state: State, exact: Exact) -> None:  # noqa: ARG002
        """Nothing: every pair counts."""
        return

    def finalize(self, state: State, rows: RowSet, exact: Exact) -> dict[str, tuple[tuple[str, ...], Array]]:
        """Name counts, edges, `distance_mean`, `distance_std` (n - 1) and `pair_count`, identical tokens included."""
        tokens = rows.members.size
        pairs = tokens * (tokens - 1) // 2
        count = state["count"].copy()
        count[0] += int((rows.weights * (rows.weights - 1) // 2).sum())
        unit = Fraction(1, 1 << self.bits - 1) / Fraction(exact.scale)
        total, square = _number(state["total"]), _number(state["square"])
        mean = float(unit * total / pairs) if pairs else np.nan
        variance = unit**2 * (square - Fraction(total**2, pairs)) / (pairs - 1) if pairs > 1 else None
        return {
            "histogram_count": (("bin",), count),
            "bin_edge": (("edge",), self.edges),
            "pair_count": ((), np.array(pairs)),
            "distance_mean": ((), np.array(mean)),
            "distance_std": ((), np.array(np.nan if variance is None else sqrt(variance))),
        }

    def _in_points(self, tile: Tile, exact: Exact) -> Bins:
        squared = np.square(self.edges * exact.scale)
        lower, upper = squared[:-1] * (1 + 8 * UNIT), squared[1:] * (1 - 8 * UNIT)
        lower[0], upper[-1] = -np.inf, np.inf
        per_unit = self.bins / (self.top * exact.scale) if self.top else 0.0
        return Bins(lower, upper, 0.0, per_unit, tile.error, 2.0 ** (self.bits - 1), (self.bits + 1) // 2)

    def _locate(self, first: Array, second: Array, exact: Exact) -> tuple[Array, Array]:
        """The bin (p,) and the distance (p,) of each pair: by differences; on an edge by keys, then integers."""
        squared = exact.squared(first, second)
        slack = (direct_error(exact.width) + 4 * UNIT) * squared
        edges = np.square(self.edges)
        index = np.clip(np.searchsorted(edges, squared + slack, side="right") - 1, 0, self.bins - 1)
        lowest = np.clip(np.searchsorted(edges, squared - slack, side="right") - 1, 0, self.bins - 1)
        (unsure,) = np.nonzero(lowest < index)
        if unsure.size:
            pairs = exact.keys(first[unsure], second[unsure])
            while (below := self._below(pairs, index[unsure], exact) & (lowest[unsure] < index[unsure])).any():
                index[unsure[below]] -= 1
        return index, np.sqrt(squared)

    @cached_property
    def _edge_keys(self) -> tuple[Array, Array]:
        """The squares of the edges in double-double."""
        high = np.square(self.edges)
        exact = zip(self.edges.tolist(), high.tolist(), strict=True)
        return high, np.array([float(Fraction(edge) ** 2 - Fraction(square)) for edge, square in exact])

    def _below(self, pairs: Pairs, index: Array, exact: Exact) -> Array:
        """Whether each pair lies below the lower edge of bin `index`, in exact arithmetic."""
        high, low = (part[index] for part in self._edge_keys)
        below: Array = (pairs["high"] < high) | ((pairs["high"] == high) & (pairs["low"] < low))
        gap = np.abs((pairs["high"] - high) + (pairs["low"] - low))
        for p in np.flatnonzero(~pairs["exact"] & (gap <= 2 * key_error(exact.width) * high)).tolist():
            x, y = exact.rows(pairs["first"][p : p + 1])[0], exact.rows(pairs["second"][p : p + 1])[0]
            edge = np.array([self.edges[index[p]]])
            below[p] = squared_integer(x, y) < squared_integer(edge, np.zeros(1))
        return below


def _dot(weights: Array, sums: Array) -> int:
    """The exact sum of weights (< 2^18) times non-negative int64 sums, of at most 2^13 rows."""
    mask = (1 << 32) - 1
    return (int(weights @ (sums >> 32)) << 32) + int(weights @ (sums & mask))


def _limbs(value: int) -> Array:
    mask = (1 << _LIMB) - 1
    return np.array([value >> _LIMB * k & mask for k in range(_LIMBS)], np.int64)


def _number(limbs: Array) -> int:
    return sum(int(limb) << _LIMB * k for k, limb in enumerate(limbs.tolist()))
