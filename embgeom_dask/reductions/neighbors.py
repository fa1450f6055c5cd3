"""The K nearest neighbors of every row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.kernels.bounds import LinearBound, upper_bounds
from embgeom_dask.kernels.passes import limits_of, nearest, select, tighten
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.refine import DensePairs, dense_pairs, finer_tiles
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.pairwise.tables import Table
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.base import Reduction, Variables
from embgeom_dask.reductions.expand import expand_neighbors, lexical_order

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class NearestPairs(Table):
    """Pairs `first`, `second` that may be among the k of a row, and their `value` in plain float64."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    value: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PossiblePairs(Table):
    """Pairs `first`, `second` with lower bounds of their values, `least`, in units of the points.

    `value` is known of some, in plain float64 and units of the rows, and NaN of the others.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    least: NDArray[np.float64]
    value: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Candidates:
    """The pairs that may be among the k of a row, and what rules others out, in units of the points.

    `best` (rows, k) float64 are the smallest upper bounds of each row, ascending; `limit` (rows,) float64 is what a
    pair must not exceed to be among the k of a row.
    """

    pairs: PossiblePairs
    best: NDArray[np.float64]
    limit: NDArray[np.float64]

    @property
    def nbytes(self) -> int:
        """Bytes of pairs and bounds."""
        return self.pairs.nbytes + self.best.nbytes + self.limit.nbytes


@dataclass(frozen=True)
class Neighbors(Reduction[Candidates, NearestPairs, Candidates]):
    """The `k` nearest of each of `rows` rows; ties go to the lowest ids.

    Where `symmetric`, both rows of a pair are among the `rows`, and one product serves both. Identical rows are left
    out where `duplicate_of` (rows,) int64 is given, the position on the second side of the row identical to each, -1
    where none is.
    """

    k: int
    rows: int
    symmetric: bool
    duplicate_of: Array | None = None
    state_type = NearestPairs

    @property
    def name(self) -> str:
        """Its key among the reductions of a plan."""
        return "neighbors"

    @property
    def nbytes(self) -> int:
        """Bytes of its states: limits and bounds on the worker, tables on the client while they are sorted."""
        return self.rows * (2 * (8 + 8 * self.k) + 6 * 24 * self.k)

    def empty(self, hint: Array | None = None) -> Candidates:
        """No candidates; `hint` is the limit that other panels reached."""
        limit = np.full(self.rows, np.inf) if hint is None else hint.copy()
        return Candidates(PossiblePairs.empty(), np.full((self.rows, self.k), np.inf), limit)

    def update(self, state: Candidates, tile: Tile, exact: Exact) -> Candidates:
        """Add the pairs of a tile that may be among the nearest of either row; tightens `best` and `limit` in place."""
        if not tile.rounded:
            return self._add_tiles(state, [tile])
        places = tile.rows.positions, tile.columns.positions
        limits = limits_of(state.limit, *places, np.float32, symmetric=self.symmetric)
        if any(np.isposinf(limit).any() for limit in limits):  # integers bound nothing from above
            return self._add_tiles(state, [tile.unrounded()])
        first, second, least, dense = self._filter_rounded(tile, limits)
        state = self._add_tiles(state, finer_tiles(tile, dense))  # first, since they lower the limits
        wanted = self._wanted(state, first, second, least)
        first, second = first[wanted], second[wanted]
        if not self.symmetric:  # else too many are left: rows of columns were compared with few others before
            wanted = self._wanted(state, first, second, exact.at_least(first, second) * exact.unit)
            first, second = first[wanted], second[wanted]
        values, _ = exact.values(first, second)
        return self._add_valued(state, NearestPairs(first, second, values), exact)

    def _filter_rounded(self, tile: Tile, limits: tuple[Array, Array]) -> tuple[Array, Array, Array, DensePairs]:
        """The pairs of a tile of integers that its limits leave, with lower bounds of their values; and the dense."""
        i, j, least = select(tile.product, tile.terms[0], *limits, diagonal=tile.diagonal)
        i, j, least = tile.without_duplicates(self.duplicate_of, i, j, least)
        dense = dense_pairs(tile, i, j)
        apart = ~dense.hold(i, j)
        return *tile.pairs(i[apart], j[apart]), least[apart], dense

    def _add_tiles(self, state: Candidates, tiles: Iterable[Tile]) -> Candidates:
        """Add the pairs of tiles, and of finer ones where these leave many undecided."""
        levels = [iter(tiles)]  # the last is the finest: all of it comes before the next tile of the level above
        while levels:
            tile = next(levels[-1], None)
            if tile is None:
                levels.pop()
                continue
            state, dense = self._add_tile(state, tile)
            levels.append(finer_tiles(tile, dense))
        return state

    def _add_tile(self, state: Candidates, tile: Tile) -> tuple[Candidates, DensePairs]:
        """Add the pairs of a tile but the dense, which are returned."""
        touched = np.union1d(tile.rows.positions, tile.columns.positions if self.symmetric else tile.rows.positions)
        best, terms = state.best[touched], tile.terms
        i, j, least = self._nearest(state, tile, terms)
        wanted = self._wanted(state, *tile.pairs(i, j), least)
        i, j, least = i[wanted], j[wanted], least[wanted]
        dense = dense_pairs(tile, i, j)
        if dense:
            # Each pair has one bound in `best`: those of the dense pairs go, since finer ones will come. The limits
            # stay as low as they are: they were bounds of as many pairs.
            apart = ~dense.hold(i, j)
            i, j, least = i[apart], j[apart], least[apart]
            first, second = tile.pairs(i, j)
            most = upper_bounds(tile.product, *terms, i, j, least)
            state.best[touched] = best
            tighten(state.best, state.limit, first, second if self.symmetric else None, most)
        return self._add(state, PossiblePairs(*tile.pairs(i, j), least, tile.recall(i, j)[0])), dense

    def _nearest(
        self, state: Candidates, tile: Tile, terms: tuple[LinearBound, LinearBound]
    ) -> tuple[Array, Array, Array]:
        """The pairs of a tile that may be among the nearest of a row, and the lower bounds of their values."""
        rows, columns = tile.rows.positions, tile.columns.positions
        duplicate_of = None if self.duplicate_of is None else self.duplicate_of[rows]
        return nearest(
            tile.product,
            terms,
            state.best,
            state.limit,
            rows,
            columns,
            symmetric=self.symmetric,
            diagonal=tile.diagonal,
            duplicate_of=duplicate_of,
        )

    def finish(self, state: Candidates, exact: Exact) -> NearestPairs:
        """Give the candidates their values in float64, and keep those that may be among the k of a row."""
        first, second, values = state.pairs.first, state.pairs.second, state.pairs.value.copy()
        (unknown,) = np.nonzero(np.isnan(values))
        values[unknown], _ = exact.values(first[unknown], second[unknown])
        kept = self._add_valued(self.empty(state.limit), NearestPairs(first, second, values), exact).pairs
        return NearestPairs(kept.first, kept.second, kept.value)

    def merge(self, merged: Candidates | None, found: list[NearestPairs], exact: Exact) -> Candidates:
        """Add the pairs of several panels to what was merged before; where many tie, the ids decide which stay."""
        state = self.empty() if merged is None else replace(merged, best=merged.best.copy(), limit=merged.limit.copy())
        if not found:
            return state
        state = self._add_valued(state, NearestPairs.concat(found), exact)
        if state.pairs.size <= tuning.NEIGHBOR_TIES * self.rows * self.k:
            return state
        ordered, rank = _ordered(state.pairs, exact)
        _, _, pair, place = self._directed(ordered, rank, state.limit)
        keep = np.zeros(rank.size, np.bool_)
        keep[pair[place < self.k]] = True
        return replace(state, pairs=ordered.take(keep))

    def hint(self, state: Candidates, exact: Exact) -> Array:  # noqa: ARG002
        """What the value of each row's k-th neighbor so far cannot exceed, in units of the points."""
        return state.limit

    def finalize(self, state: Candidates, sides: Sides, exact: Exact) -> Variables:
        """Name the neighbors of every token, nearest first: `neighbor_distance` and `neighbor_token_id`."""
        token_id, distance = self._nearest_tokens(state, sides, exact)
        dims = ("token_id", "neighbor")
        return {"neighbor_distance": (dims, distance), "neighbor_token_id": (dims, token_id)}

    def _nearest_tokens(self, state: Candidates, sides: Sides, exact: Exact) -> tuple[Array, Array]:
        """The neighbors of every token, nearest first, and their distances: (tokens, k) each."""
        ordered, rank = _ordered(state.pairs, exact)
        source, target, pair, place = self._directed(ordered, rank, state.limit)
        near = place < self.k
        used, pair = np.unique(pair[near], return_inverse=True)
        first, second = ordered.first[used], ordered.second[used]
        known = exact.distances(first, second)
        equal = exact.equal(first, second, known)
        return expand_neighbors(
            source[near], target[near], rank[used][pair], known[pair], equal[pair], sides, self.k, self.duplicate_of
        )

    def _first(self, state: Candidates, exact: Exact) -> tuple[Array, Array]:
        """The rows that have a neighbor, and the distance of the nearest of each."""
        ordered, rank = _ordered(state.pairs, exact)
        source, _, pair, place = self._directed(ordered, rank, state.limit)
        pair = pair[place == 0]
        return source[place == 0], exact.distances(ordered.first[pair], ordered.second[pair])

    def _add_valued(self, state: Candidates, found: NearestPairs, exact: Exact) -> Candidates:
        """Add pairs whose values are known to float64; tightens `best` and `limit` in place."""
        slack = exact.value_slack(found.first, found.second, found.value)
        most, least = (found.value + slack) * exact.unit, (found.value - slack) * exact.unit
        tighten(state.best, state.limit, found.first, found.second if self.symmetric else None, most)
        return self._add(state, PossiblePairs(found.first, found.second, least, found.value))

    def _add(self, state: Candidates, found: PossiblePairs) -> Candidates:
        """Add pairs to those of a state, and drop what its limits rule out."""
        parts = []
        for pairs in (state.pairs, found):
            keep = self._wanted(state, pairs.first, pairs.second, pairs.least)
            parts.append(pairs if keep.all() else pairs.take(keep))
        return replace(state, pairs=PossiblePairs.concat(parts))

    def _wanted(self, state: Candidates, first: Array, second: Array, least: Array) -> Array:
        """Which pairs (p,) the limits of a state do not rule out."""
        wanted: Array = ~(least > state.limit[first])
        if self.symmetric:
            wanted |= ~(least > state.limit[second])
        return wanted

    def _directed(self, ordered: PossiblePairs, rank: Array, limit: Array) -> tuple[Array, Array, Array, Array]:
        """See each pair from its row, or both, where `limit` (rows,) does not rule it out.

        Returns source, target, index of the pair, place among the neighbors of the source.
        """
        ends = ((ordered.first, ordered.second), (ordered.second, ordered.first))[: 1 + self.symmetric]
        near = [np.flatnonzero(~(ordered.least > limit[mine])) for mine, _ in ends]
        sides = [(mine[pair], other[pair], pair) for pair, (mine, other) in zip(near, ends, strict=True)]
        source, target, pair = (np.concatenate(column) for column in zip(*sides, strict=True))
        order = lexical_order(source, rank[pair], target)
        source, target, pair = source[order], target[order], pair[order]
        place = np.arange(source.size) - np.searchsorted(source, source)
        return source, target, pair, place


def _ordered(pairs: PossiblePairs, exact: Exact) -> tuple[PossiblePairs, Array]:
    """The pairs, all of known value, in order of their distances, and the rank (p,) of each."""
    order, rank = exact.rank(pairs.first, pairs.second, pairs.value)
    return pairs.take(order), rank
