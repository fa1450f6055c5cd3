"""The histogram of all distances, their mean and standard deviation."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import frexp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.kernels.bounds import StripEnds
from embgeom_dask.kernels.double_double import UNIT
from embgeom_dask.kernels.numba_bins import MOST_BITS
from embgeom_dask.kernels.passes import Bins, bin_pairs
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.left_out import AllValues, OffValues
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.pairwise.tables import NamedArrays
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.base import Reduction, Variables
from embgeom_dask.reductions.moments import (
    BITS,
    error_by_sum,
    exact_dot,
    exact_sums,
    mean_and_deviation,
    root_up,
    rounded_distances,
)
from embgeom_dask.reductions.thresholds import Thresholds
from embgeom_dask.reductions.undecided import classes, values_of

Array = NDArray[Any]


_LIMB, _LIMBS = 40, 52
_FINE = 900
"""More bits of distances that are small, or near an edge. None of rows in range is less than 2^-900 of another."""

_CLEAR = 2.0**15
"""A value that is not so many times as large as its bounds are apart is summed from the rows: of a distance as long as
the rows digits tell about 2^19, and a few short ones add little to the error of the mean."""

_SECOND_ORDER = 1 + Fraction(2) ** -14
"""Of what a root is off, to first order: its value is off by one part in `_CLEAR` at most; and of rounding."""

_SETTLED_BITS = 32
_SMALL = 2.0**-12
"""Where sums hang on float64 products, distances are summed to so many bits, which these tell for certain, and where
the longest row has length 1, shorter ones than this from the rows."""


def bin_edges(bins: int, top: float, scale: str) -> Array:
    """The edges (bins + 1,) float64 of equal bins from 0 to `top`, or of logarithmic ones from a millionth of it."""
    return np.linspace(0.0, top, bins + 1) if scale == "linear" else np.geomspace(1e-6 * top, top, bins + 1)


@dataclass(frozen=True, eq=False)
class BinnedSums(NamedArrays):
    """The pairs of tokens with different rows in bins, and the sums of their distances.

    `count` (bins + 2,) is how many there are, with those below and above all bins; `total` and `square` (52,) are the
    sums of the distances and of their squares in fixed point, as limbs of 40 bits, `error` and `error_square` (52,)
    those of what the distances may be off. Integers add up to the same sums in any order.
    """

    count: NDArray[np.int64]
    total: NDArray[np.int64]
    square: NDArray[np.int64]
    error: NDArray[np.int64]
    error_square: NDArray[np.int64]


@dataclass(frozen=True)
class Histogram(Reduction[BinnedSums, BinnedSums, BinnedSums]):
    """Counts of all pairs of tokens in bins, and the sums of their distances.

    `edges` are the thresholds between bins: [edge, next edge), the last bin closed. `weights` (rows,) int64, for either
    side, is how many tokens share each row. With `exact_moments` every distance is summed as it is reported.
    """

    edges: Thresholds
    weights: tuple[Array, Array]
    exact_moments: bool = False
    name = "histogram"
    state_type = BinnedSums
    requires = ("farthest", "nearest")

    @cached_property
    def bits(self) -> int:
        """Bits of a distance in fixed point: a row of them, weighed, adds up inside int64, a few inside float64."""
        return int(min(MOST_BITS, 62 - int(max(side.sum() for side in self.weights)).bit_length()))

    @property
    def nbytes(self) -> int:
        """Bytes of its states, on worker and client, and of its edges."""
        return 8 * 8 * self.edges.distance.size

    @property
    def leaves_ends(self) -> bool:
        """True."""
        return True

    def empty(self, hint: Array | None = None) -> BinnedSums:  # noqa: ARG002
        """Zeros."""
        limbs = np.zeros(_LIMBS, np.int64)
        return BinnedSums(np.zeros(self.edges.distance.size + 1, np.int64), limbs, limbs, limbs, limbs)

    def update(self, state: BinnedSums, tile: Tile, exact: Exact) -> BinnedSums:
        """Add the pairs of a tile."""
        bins = self._in_points(exact)
        weights = self.weights[0][tile.rows.positions], self.weights[1][tile.columns.positions]
        ends = None if tile.diagonal else StripEnds.unknown(tile.rows.size, tile.columns.size)
        counts, sums, i, j, summed = bin_pairs(
            tile.product, tile.terms, weights, bins, diagonal=tile.diagonal, ends=ends
        )
        tile.ends = ends
        linear, high, cross, low, error, error_square = (exact_dot(weights[0], column) for column in sums.T)
        total = linear << _FINE
        square = (high << 2 * bins.half) + (cross << bins.half + 1) + low << 2 * _FINE
        if i.size:
            weight = weights[0][i] * weights[1][j]
            index = np.empty(i.size, np.int64)
            index[summed] = classes(self.edges, tile, i[summed], j[summed], exact)
            index[~summed], distance = self._looked_up(tile, i[~summed], j[~summed], exact)
            np.add.at(counts, index, weight)
            shift = _FINE + frexp(_length(exact) * bins.quantum)[1] - 1  # both are powers of two
            more, more_square = exact_sums(distance, weight[~summed], shift)
            total, square = total + more, square + more_square
        found = BinnedSums(counts, *map(_limbs, (total, square, error, error_square)))
        return self.merge(state, [found], exact)

    def _looked_up(self, tile: Tile, i: Array, j: Array, exact: Exact) -> tuple[Array, Array]:
        """The bins (p,) of pairs i, j (p,) of a tile, and their distances (p,), from the rows."""
        first, second = tile.pairs(i, j)
        if self.exact_moments:
            distance = exact.distances(first, second)
            return self.edges.of_reported(distance), distance
        known = values_of(tile, i, j, exact)
        index, _ = self.edges.classify(first, second, exact, known)
        return index, rounded_distances(first, second, known, exact)

    def finish(self, state: BinnedSums, exact: Exact) -> BinnedSums:  # noqa: ARG002
        """All of it."""
        return state

    def merge(self, merged: BinnedSums | None, found: list[BinnedSums], exact: Exact) -> BinnedSums:  # noqa: ARG002
        """Add up."""
        added = [self.empty() if merged is None else merged, *found]
        columns = zip(*(each.arrays().values() for each in added), strict=True)
        return BinnedSums(*(np.sum(arrays, axis=0) for arrays in columns))

    def finalize(self, state: BinnedSums, sides: Sides, exact: Exact) -> Variables:
        """Name counts, edges, `distance_mean`, `distance_std` (n - 1) and `pair_count`, identical tokens included."""
        count, weights, pairs = state.count, sides.first.weights, _pairs(sides)
        if sides.symmetric:
            count = self.with_zeros(count, int((weights * (weights - 1) // 2).sum()))
        return {
            "histogram_count": (("bin",), count[1:-1]),
            "histogram_below": ((), count[0]),
            "histogram_above": ((), count[-1]),
            "bin_edge": (("edge",), self.edges.distance),
            "pair_count": ((), np.array(pairs)),
            **self.moments(state, pairs, exact),
        }

    def moments(self, state: BinnedSums, pairs: int, exact: Exact, known: AllValues | None = None) -> Variables:
        """Name `distance_mean` and `distance_std` of so many pairs and their errors.

        `known` is what is known of all values; their sum tells what the mean is off: see `error_by_sum`.
        """
        total, square, error, squares = self.sums(state, exact, None if known is None else known.off)
        if known is not None and pairs:
            unit = Fraction(exact.unit)
            apart, slip = abs((square if exact.metric.root else total) - known.total / unit), known.error / unit
            by_sum = error_by_sum(total, square, squares, apart + slip, pairs) if exact.metric.root else apart + slip
            error = min(error, by_sum)
        names = ("distance_mean", "distance_mean_error", "distance_std", "distance_std_error")
        found = mean_and_deviation(total, square, error, squares, pairs)
        return {name: ((), np.array(number)) for name, number in zip(names, found, strict=True)}

    def is_certified(self, state: BinnedSums, sides: Sides, exact: Exact, known: AllValues | None) -> bool:
        """Whether mean and deviation are off by at most `tuning.CERTAIN` of themselves."""
        found = self.moments(state, _pairs(sides), exact, known)
        sizes = [float(found[f"distance_{name}"][1]) for name in ("mean", "mean_error", "std", "std_error")]
        return not any(error > tuning.CERTAIN * size for size, error in (sizes[:2], sizes[2:]))

    def sums(
        self, state: BinnedSums, exact: Exact, off: OffValues | None = None
    ) -> tuple[Fraction, Fraction, Fraction, list[Fraction]]:
        """The sum of all distances, that of their squares, and bounds of what these are off: see `mean_and_deviation`.

        A distance summed by a pass is off by its own error and by its rounding, one summed from the rows by the
        rounding to fewer bits. Their own errors are bounded pair by pair, or by what the values are `off`, whichever
        is less.
        """
        length = Fraction(_length(exact))
        quantum = Fraction(self._quantum(exact)) * length
        unit = 1 / (quantum * (1 << _FINE))
        total, square = unit * _number(state.total), unit**2 * _number(state.square)
        relative = Fraction(2 * UNIT if self.exact_moments else 2.0**-BITS)
        error, squares = relative * total, [relative**2 * square]
        if not self.exact_moments:
            steps = _number(state.error)  # every pair that a pass summed adds one at least
            pairs, rounding = min(int(state.count.sum()), steps), Fraction(3, 4) / quantum
            error, squares = error + pairs * rounding, [*squares, pairs * rounding**2]
        if not self.exact_moments and exact.metric.has_digits:
            step = _SECOND_ORDER / (Fraction(self._error_quantum) * length)
            own, own_square = step * _number(state.error), step**2 * _number(state.error_square)
            if off is not None:
                own_square = min(own_square, self._off_square(state.count, off, exact))
                own = min(own, Fraction(root_up(own_square * int(state.count.sum()))))  # Cauchy and Schwarz
            error, squares = error + own, [*squares, own_square]
        return total, square, error, squares

    def _off_square(self, count: Array, off: OffValues, exact: Exact) -> Fraction:
        """A bound of the sum of squares of what distances are off that a pass summed.

        A distance D from the root of a value that is off by e is off by |e| / (D + D'), D' being the true one: by s =
        |e| / 2 D, to first order, which is at most 1 / 4 `_CLEAR` of D, and half the most that values are off over D.
        s^2 is e^2 / 4 t^2 + s^2 (1 - D^2 / t^2), where what is added is negative unless D is less than t: the edge of a
        bin for which the sum is least.
        """
        if not exact.metric.root:
            return Fraction(off.root) ** 2  # cosine has no units
        unit, edges = _length(exact) ** 2, self.edges.distance
        low = np.append(0.0, edges[:-1])
        with np.errstate(all="ignore"):
            most = count[:-1] * np.minimum(edges / (4 * _CLEAR), off.most / (2 * unit * low)) ** 2
            near = np.cumsum(most) * (1 + 2.0**-30) - np.cumsum(most * low**2) / edges**2
            sizes = near + (off.root / (2 * unit) / edges) ** 2
        return Fraction(float(np.min(sizes, initial=2.0**1000, where=np.isfinite(sizes)))) * _SECOND_ORDER**2

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
            digits=_CLEAR if exact.metric.has_digits else 0.0,
            least=np.inf if self.exact_moments else 0.0 if exact.metric.has_digits else _SMALL,
            settled=not exact.metric.has_digits,
            quantum=self._quantum(exact),
            half=(self.bits + 1) // 2,
            error_quantum=self._error_quantum,
            margin=_margin(lower, upper, first, cells / span, exact.metric.root) if equal else 1.0,
        )

    def _quantum(self, exact: Exact) -> float:
        """The steps of distances in one unit; they are at most 2 units."""
        return float(2.0 ** (self.bits - 1 if exact.metric.has_digits else min(self.bits - 1, _SETTLED_BITS)))

    @property
    def _error_quantum(self) -> float:
        """The steps of errors in one unit: these are at most 2^-14 units, by `_CLEAR`, and their squares are summed."""
        return float(2.0 ** (self.bits // 2 + 13))


def _margin(lower: Array, upper: Array, first: float, per_unit: float, root: bool) -> float:
    """How far the ends of bins, cell c being bin c + 1, are from where cells meet, in cells, with what is rounded."""
    ends = np.stack([lower[1:], upper[:-1]])
    ends = np.sign(ends) * np.sqrt(np.abs(ends)) if root else ends
    apart = np.abs((ends - first) * per_unit - np.arange(ends.shape[1]))
    return float(apart.max() + 64 * UNIT * (np.abs(ends).max() + abs(first)) * per_unit)


def _pairs(sides: Sides) -> int:
    """How many pairs of tokens there are."""
    tokens = sides.first.members.size
    return int(tokens * (tokens - 1) // 2 if sides.symmetric else tokens * sides.second.members.size)


def _length(exact: Exact) -> float:
    """What a distance is multiplied by when the rows become points."""
    return float(exact.metric.distance(np.array(exact.unit)))


def _limbs(value: int) -> Array:
    mask = (1 << _LIMB) - 1
    return np.array([value >> _LIMB * k & mask for k in range(_LIMBS)], np.int64)


def _number(limbs: Array) -> int:
    return sum(int(limb) << _LIMB * k for k, limb in enumerate(limbs.tolist()))
