"""The histogram of all distances, their mean and standard deviation."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.kernels.double_double import UNIT
from embgeom_dask.kernels.passes import Bins, bin_pairs
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.pairwise.tables import NamedArrays
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.base import Reduction, Variables
from embgeom_dask.reductions.thresholds import Thresholds

Array = NDArray[Any]


_LIMB, _LIMBS = 40, 52
_FINE = 900
"""More bits of distances that are small, or near an edge. None of rows in range is less than 2^-900 of another."""

_SMALL = 2.0**-25
"""Shorter distances, where the longest row has length 1, are summed one by one: too few of their bits are in a sum."""


def bin_edges(bins: int, top: float, scale: str) -> Array:
    """The edges (bins + 1,) float64 of equal bins from 0 to `top`, or of logarithmic ones from a millionth of it."""
    return np.linspace(0.0, top, bins + 1) if scale == "linear" else np.geomspace(1e-6 * top, top, bins + 1)


@dataclass(frozen=True, eq=False)
class BinnedSums(NamedArrays):
    """The pairs of tokens with different rows in bins, and the sums of their distances.

    `count` (bins + 2,) is how many there are, with those below and above all bins; `total` and `square` (52,) are the
    sums of the distances and of their squares in fixed point, as limbs of 40 bits. Integers add up to the same sums in
    any order.
    """

    count: NDArray[np.int64]
    total: NDArray[np.int64]
    square: NDArray[np.int64]


@dataclass(frozen=True)
class Histogram(Reduction[BinnedSums, BinnedSums, BinnedSums]):
    """Counts of all pairs of tokens in bins, and the sums of their distances.

    `edges` are the thresholds between bins: [edge, next edge), the last bin closed. `weights` (rows,) int64, for either
    side, is how many tokens share each row.
    """

    edges: Thresholds
    weights: tuple[Array, Array]
    name = "histogram"
    state_type = BinnedSums
    requires = ("farthest", "nearest")

    @cached_property
    def bits(self) -> int:
        """Bits of a distance in fixed point: a row of them, weighed, adds up inside int64."""
        return int(min(50, 62 - int(max(side.sum() for side in self.weights)).bit_length()))

    @property
    def nbytes(self) -> int:
        """Bytes of its states, on worker and client, and of its edges."""
        return 8 * 8 * self.edges.distance.size

    def empty(self, hint: Array | None = None) -> BinnedSums:  # noqa: ARG002
        """Zeros."""
        limbs = np.zeros(_LIMBS, np.int64)
        return BinnedSums(np.zeros(self.edges.distance.size + 1, np.int64), limbs, limbs)

    def update(self, state: BinnedSums, tile: Tile, exact: Exact) -> BinnedSums:
        """Add the pairs of a tile."""
        bins = self._in_points(exact)
        weights = self.weights[0][tile.rows.positions], self.weights[1][tile.columns.positions]
        counts, sums, i, j = bin_pairs(tile.product, tile.terms, weights, bins, diagonal=tile.diagonal)
        linear, high, cross, low = (_dot(weights[0], column) for column in sums.T)
        total = linear << _FINE
        square = (high << 2 * bins.half) + (cross << bins.half + 1) + low << 2 * _FINE
        if i.size:
            weight = weights[0][i] * weights[1][j]
            first, second = tile.pairs(i, j)
            index, _ = self.edges.classify(first, second, exact)
            np.add.at(counts, index, weight)
            t = np.rint(np.ldexp(exact.distances(first, second) * (_length(exact) * bins.quantum), _FINE))
            for w, x in zip(weight.tolist(), map(int, t.tolist()), strict=True):
                total += w * x
                square += w * x * x
        return self.merge(state, [BinnedSums(counts, _limbs(total), _limbs(square))], exact)

    def finish(self, state: BinnedSums, exact: Exact) -> BinnedSums:  # noqa: ARG002
        """All of it."""
        return state

    def merge(self, merged: BinnedSums | None, found: list[BinnedSums], exact: Exact) -> BinnedSums:  # noqa: ARG002
        """Add up."""
        added = [self.empty() if merged is None else merged, *found]
        count, total, square = (
            np.sum(arrays, axis=0) for arrays in zip(*(each.arrays().values() for each in added), strict=True)
        )
        return BinnedSums(count, total, square)

    def finalize(self, state: BinnedSums, sides: Sides, exact: Exact) -> Variables:
        """Name counts, edges, `distance_mean`, `distance_std` (n - 1) and `pair_count`, identical tokens included."""
        tokens, count, weights = sides.first.members.size, state.count, sides.first.weights
        pairs = tokens * sides.second.members.size
        if sides.symmetric:
            pairs = tokens * (tokens - 1) // 2
            count = self.with_zeros(count, int((weights * (weights - 1) // 2).sum()))
        unit = Fraction(1, 1 << self.bits - 1 + _FINE) / Fraction(_length(exact))
        total, square = _number(state.total), _number(state.square)
        mean = float(unit * total / pairs) if pairs else np.nan
        variance = unit**2 * (square - Fraction(total**2, pairs)) / (pairs - 1) if pairs > 1 else None
        return {
            "histogram_count": (("bin",), count[1:-1]),
            "histogram_below": ((), count[0]),
            "histogram_above": ((), count[-1]),
            "bin_edge": (("edge",), self.edges.distance),
            "pair_count": ((), np.array(pairs)),
            "distance_mean": ((), np.array(mean)),
            "distance_std": ((), np.array(np.nan if variance is None else sqrt(variance))),
        }

    def with_zeros(self, count: Array, zeros: int) -> Array:
        """The counts with so many pairs at distance 0 added."""
        count = count.copy()
        count[int(self.edges.distance[0] == 0)] += zeros
        return count

    def _in_points(self, exact: Exact) -> Bins:
        below, above = self.edges.in_points(exact)
        lower, upper = np.append(-np.inf, above), np.append(below, np.inf)
        ends = np.minimum(self.edges.distance, 2.0**400) * _length(exact)
        steps, first, span = np.diff(ends), float(ends[0]), max(float(ends[-1] - ends[0]), 1e-300)
        equal = np.ptp(steps) <= 1e-9 * span / steps.size
        cells = steps.size if equal else min(4 * steps.size, tuning.BIN_CELLS)
        grid = first + span / cells * np.arange(cells + 1)
        grid = grid**2 if exact.metric.root else grid
        left, right = (np.searchsorted(lower, grid * (1 + slip), side="right") - 1 for slip in (-1e-9, 1e-9))
        left[0], right[-1] = 0, lower.size - 1
        table = np.stack([left[:-1], right[1:]], axis=1)
        return Bins(
            lower,
            upper,
            root=exact.metric.root,
            first=first,
            per_unit=cells / span,
            table=table[:0] if equal else table,
            digits=2.0**-13 / ((2 * exact.width + 20) * UNIT),
            quantum=2.0 ** (self.bits - 1),
            least=_SMALL,
            half=(self.bits + 1) // 2,
        )


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
