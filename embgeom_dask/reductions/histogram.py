"""The histogram of all distances, their mean and standard deviation."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.double_double import UNIT
from embgeom_dask.exact import Exact, Pairs, take_pairs
from embgeom_dask.kernels import Bins, bin_pairs
from embgeom_dask.metrics import Metric
from embgeom_dask.reductions.expand import Sides
from embgeom_dask.tiles import Tile

Array = NDArray[Any]
State = dict[str, Array]

_LIMB, _LIMBS = 40, 4


@dataclass(frozen=True)
class Histogram:
    """Counts of all pairs of tokens in equal bins from 0 to `top`, which bounds every distance.

    Bins are half-open, [edge, next edge). `weights` (rows,) int64, for either side, is how many tokens share each row.
    State: `count` (bins,) int64; `total` and `square` (4,) int64, the sums of the distances and of their squares in
    fixed point, as limbs of 40 bits. Integers add up to the same sums in any order.
    """

    bins: int
    top: float
    weights: tuple[Array, Array]
    name = "histogram"

    @cached_property
    def edges(self) -> Array:
        """The bin edges, (bins + 1,) float64."""
        return np.linspace(0.0, self.top, self.bins + 1)

    @cached_property
    def bits(self) -> int:
        """Bits of a distance in fixed point: a row of them, weighed, adds up inside int64."""
        return int(min(50, 62 - int(max(side.sum() for side in self.weights)).bit_length()))

    @property
    def nbytes(self) -> int:
        """Bytes of its states, on worker and client, and of its edges."""
        return 8 * 8 * self.bins

    def empty(self, hint: Array | None = None) -> State:  # noqa: ARG002
        """Zeros."""
        limbs = np.zeros(_LIMBS, np.int64)
        return {"count": np.zeros(self.bins, np.int64), "total": limbs, "square": limbs}

    def update(self, state: State, tile: Tile, exact: Exact) -> State:
        """Add the pairs of a tile."""
        bins = self._in_points(exact)
        weights = self.weights[0][tile.rows.positions], self.weights[1][tile.columns.positions]
        counts, sums, i, j = bin_pairs(tile.product, tile.terms, weights, bins, diagonal=tile.diagonal)
        linear, high, cross, low = (_dot(weights[0], column) for column in sums.T)
        total = linear
        square = (high << 2 * bins.half) + (cross << bins.half + 1) + low
        if i.size:
            weight = weights[0][i] * weights[1][j]
            index, distance = self._locate(*tile.pairs(i, j), exact)
            np.add.at(counts, index, weight)
            t = np.rint(distance * (_length(exact) * bins.quantum)).astype(np.int64).tolist()
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

    def finalize(self, state: State, sides: Sides, exact: Exact) -> dict[str, tuple[tuple[str, ...], Array]]:
        """Name counts, edges, `distance_mean`, `distance_std` (n - 1) and `pair_count`, identical tokens included."""
        first, second = sides
        pairs, count = first.members.size * second.members.size, state["count"].copy()
        if first is second:
            pairs = pairs * (first.members.size - 1) // (2 * max(1, first.members.size))
            count[0] += int((first.weights * (first.weights - 1) // 2).sum())
        unit = Fraction(1, 1 << self.bits - 1) / Fraction(_length(exact))
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

    def _in_points(self, exact: Exact) -> Bins:
        values = self._edge_keys(exact.metric)[0] * exact.unit
        lower, upper = values[:-1] * (1 + 8 * UNIT), values[1:] * (1 - 8 * UNIT)
        lower[0], upper[-1] = -np.inf, np.inf
        return Bins(
            lower,
            upper,
            root=exact.metric.root,
            first=0.0,
            per_unit=self.bins / (self.top * _length(exact)),
            digits=2.0**-13 / ((2 * exact.width + 20) * UNIT),
            quantum=2.0 ** (self.bits - 1),
            half=(self.bits + 1) // 2,
        )

    def _locate(self, first: Array, second: Array, exact: Exact) -> tuple[Array, Array]:
        """The bin (p,) and the distance (p,) of each pair: by differences; on an edge by keys, then without error."""
        values, slack = exact.values(first, second)
        slack += 4 * UNIT * values
        edges = self._edge_keys(exact.metric)[0]
        index, lowest = (
            np.clip(np.searchsorted(edges, bound, side="right") - 1, 0, self.bins - 1)
            for bound in (values + slack, values - slack)
        )
        (unsure,) = np.nonzero(lowest < index)
        if unsure.size:
            pairs = exact.keys(first[unsure], second[unsure])
            while (below := self._below(pairs, index[unsure], exact) & (lowest[unsure] < index[unsure])).any():
                index[unsure[below]] -= 1
        return index, exact.metric.distance(values)

    def _edge_keys(self, metric: Metric) -> tuple[Array, Array]:
        """The values of the edges in double-double."""
        exact = [metric.value_of(edge) for edge in self.edges.tolist()]
        high = [float(value) for value in exact]
        return np.array(high), np.array([float(a - Fraction(b)) for a, b in zip(exact, high, strict=True)])

    def _below(self, pairs: Pairs, index: Array, exact: Exact) -> Array:
        """Whether each pair lies below the lower edge of bin `index`."""
        high, low = (part[index] for part in self._edge_keys(exact.metric))
        below: Array = (pairs["high"] < high) | ((pairs["high"] == high) & (pairs["low"] < low))
        gap = np.abs((pairs["high"] - high) + (pairs["low"] - low))
        doubtful = ~pairs["exact"] & (gap <= 2 * exact.metric.key_slack(high, exact.width))
        if doubtful.any():
            order = exact.order(take_pairs(pairs, doubtful))
            edges = [exact.metric.order_of(edge) for edge in self.edges[index[doubtful]].tolist()]
            below[doubtful] = [a < b for a, b in zip(order, edges, strict=True)]
        return below


def _length(exact: Exact) -> float:
    """What a distance is multiplied by when the rows become points."""
    return float(exact.metric.distance(np.array(exact.unit)))


def _dot(weights: Array, sums: Array) -> int:
    """The exact sum of weights (< 2^18) times non-negative int64 sums, of at most 2^13 rows."""
    mask = (1 << 32) - 1
    return (int(weights @ (sums >> 32)) << 32) + int(weights @ (sums & mask))


def _limbs(value: int) -> Array:
    mask = (1 << _LIMB) - 1
    return np.array([value >> _LIMB * k & mask for k in range(_LIMBS)], np.int64)


def _number(limbs: Array) -> int:
    return sum(int(limb) << _LIMB * k for k, limb in enumerate(limbs.tolist()))
