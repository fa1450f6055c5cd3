"""The K nearest neighbours of every row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.kernels.bounds import LinearBound, upper_bounds
from embgeom_dask.kernels.passes import limits_of, nearest, select, tighten
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.refine import DensePairs, dense_pairs, finer_tiles
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.base import Reduction, State, Variables
from embgeom_dask.reductions.expand import expand_neighbors, lexical_order

Array = NDArray[Any]

_TABLE = ("first", "second", "value")
"""What leaves a worker."""


@dataclass(frozen=True)
class Neighbors(Reduction):
    """The `k` nearest of each of `rows` rows; ties go to the lowest ids.

    Where `symmetric`, both rows of a pair are among the `rows`, and one product serves both. Identical rows are left
    out where `duplicate_of` (rows,) int64 is given, the position on the second side of the row identical to each, -1
    where none is.

    State on a worker, while a panel runs: the candidates `first`, `second` (int64), `least`, a lower bound of their
    value, and that `value` where it is known, else NaN; `best` (rows, k) float64, the smallest upper bounds of each
    row; `limit` (rows,) float64, what a pair must not exceed to be among the k of a row; bounds in units of the points.
    State that leaves it: the pairs that may be among the k of a row, `first`, `second` and their `value` in plain
    float64. Merged state: all of these.
    """

    k: int
    rows: int
    symmetric: bool
    duplicate_of: Array | None = None
    name = "neighbors"

    @property
    def nbytes(self) -> int:
        """Bytes of its states: limits and bounds on the worker, tables on the client while they are sorted."""
        return self.rows * (2 * (8 + 8 * self.k) + 6 * 24 * self.k)

    def empty(self, hint: Array | None = None) -> State:
        """No candidates; `hint` is the limit that other panels reached."""
        return {
            "first": np.empty(0, np.int64),
            "second": np.empty(0, np.int64),
            "least": np.empty(0),
            "value": np.empty(0),
            "best": np.full((self.rows, self.k), np.inf),
            "limit": np.full(self.rows, np.inf) if hint is None else hint.copy(),
        }

    def update(self, state: State, tile: Tile, exact: Exact) -> State:
        """Add the pairs of a tile that may be among the nearest of either row; tightens `best` and `limit` in place."""
        if not tile.rounded:
            return self._add_tiles(state, [tile])
        places = tile.rows.positions, tile.columns.positions
        limits = limits_of(state["limit"], *places, np.float32, symmetric=self.symmetric)
        if any(np.isposinf(limit).any() for limit in limits):  # integers bound nothing from above
            return self._add_tiles(state, [tile.unrounded()])
        first, second, least, dense = self._filter_rounded(tile, limits)
        state = self._add_tiles(state, finer_tiles(tile, dense))  # first, since they lower the limits
        wanted = self._wanted(state, first, second, least)
        first, second = first[wanted], second[wanted]
        values, _ = exact.values(first, second)
        return self._add_valued(state, {"first": first, "second": second, "value": values}, exact)

    def _filter_rounded(self, tile: Tile, limits: tuple[Array, Array]) -> tuple[Array, Array, Array, DensePairs]:
        """The pairs of a tile of integers that its limits leave, with lower bounds of their values; and the dense."""
        i, j, least = select(tile.product, tile.terms[0], *limits, diagonal=tile.diagonal)
        i, j, least = tile.without_duplicates(self.duplicate_of, i, j, least)
        dense = dense_pairs(tile, i, j)
        apart = ~dense.hold(i, j)
        return *tile.pairs(i[apart], j[apart]), least[apart], dense

    def _add_tiles(self, state: State, tiles: Iterable[Tile]) -> State:
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

    def _add_tile(self, state: State, tile: Tile) -> tuple[State, DensePairs]:
        """Add the pairs of a tile but the dense, which are returned."""
        touched = np.union1d(tile.rows.positions, tile.columns.positions if self.symmetric else tile.rows.positions)
        best, terms = state["best"][touched], tile.terms
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
            state["best"][touched] = best
            tighten(state["best"], state["limit"], first, second if self.symmetric else None, most)
        return self._add(state, *tile.pairs(i, j), least), dense

    def _nearest(self, state: State, tile: Tile, terms: tuple[LinearBound, LinearBound]) -> tuple[Array, Array, Array]:
        """The pairs of a tile that may be among the nearest of a row, and the lower bounds of their values."""
        rows, columns = tile.rows.positions, tile.columns.positions
        duplicate_of = None if self.duplicate_of is None else self.duplicate_of[rows]
        return nearest(
            tile.product,
            terms,
            state["best"],
            state["limit"],
            rows,
            columns,
            symmetric=self.symmetric,
            diagonal=tile.diagonal,
            duplicate_of=duplicate_of,
        )

    def finish(self, state: State, exact: Exact) -> State:
        """Give the candidates their values in float64, and keep those that may be among the k of a row."""
        (unknown,) = np.nonzero(np.isnan(state["value"]))
        values = state["value"].copy()
        values[unknown], _ = exact.values(state["first"][unknown], state["second"][unknown])
        found = self._add_valued(self.empty(state["limit"]), {**state, "value": values}, exact)
        return {name: found[name] for name in _TABLE}

    def merge(self, states: list[State], exact: Exact) -> State:
        """Add the pairs of several panels to what was merged before; where many tie, the ids decide which stay."""
        merged, *others = states if "best" in states[0] else [self.empty(), *states]
        if not others:
            return merged
        merged = {**merged, **{name: merged[name].copy() for name in ("best", "limit")}}
        joined = {name: np.concatenate([state[name] for state in others]) for name in _TABLE}
        merged = self._add_valued(merged, joined, exact)
        if merged["value"].size <= tuning.NEIGHBOR_TIES * self.rows * self.k:
            return merged
        order, rank = exact.rank(*(merged[name] for name in _TABLE))
        ordered = {name: merged[name][order] for name in (*_TABLE, "least")}
        _, _, pair, place = self._directed(ordered, rank, merged["limit"])
        keep = np.zeros(rank.size, np.bool_)
        keep[pair[place < self.k]] = True
        return {**merged, **{name: column[keep] for name, column in ordered.items()}}

    def hint(self, state: State, exact: Exact) -> Array | None:  # noqa: ARG002
        """What the value of each row's k-th neighbour so far cannot exceed, in units of the points."""
        return state.get("limit")

    def finalize(self, state: State, sides: Sides, exact: Exact) -> Variables:
        """Name the neighbours of every token, nearest first: `neighbor_distance` and `neighbor_token_id`."""
        order, rank = exact.rank(*(state[name] for name in _TABLE))
        table = {name: state[name][order] for name in (*_TABLE, "least")}
        source, target, pair, place = self._directed(table, rank, state["limit"])
        near = place < self.k
        used, pair = np.unique(pair[near], return_inverse=True)
        first, second = table["first"][used], table["second"][used]
        known = exact.distances(first, second)
        equal = exact.equal(first, second, known)
        token_id, distance = expand_neighbors(
            source[near], target[near], rank[used][pair], known[pair], equal[pair], sides, self.k, self.duplicate_of
        )
        dims = ("token_id", "neighbor")
        return {"neighbor_distance": (dims, distance), "neighbor_token_id": (dims, token_id)}

    def _add_valued(self, state: State, table: State, exact: Exact) -> State:
        """Add pairs whose values are known to float64; tightens `best` and `limit` in place."""
        first, second, value = (table[name] for name in _TABLE)
        slack = exact.metric.direct_slack(value, exact.width)
        most, least = (value + slack) * exact.unit, (value - slack) * exact.unit
        tighten(state["best"], state["limit"], first, second if self.symmetric else None, most)
        return self._add(state, first, second, least, value)

    def _add(self, state: State, first: Array, second: Array, least: Array, value: Array | None = None) -> State:
        """Add pairs to the columns of a state, and drop those that its limits rule out."""
        value = np.full(least.size, np.nan) if value is None else value
        names, parts = ("first", "second", "least", "value"), []
        for columns in ([state[name] for name in names], [first, second, least, value]):
            keep = self._wanted(state, *columns[:3])
            parts.append(columns if keep.all() else [column[keep] for column in columns])
        joined = (np.concatenate(pair) for pair in zip(*parts, strict=True))
        return {**state, **dict(zip(names, joined, strict=True))}

    def _wanted(self, state: State, first: Array, second: Array, least: Array) -> Array:
        """Which pairs (p,) the limits of a state do not rule out."""
        wanted: Array = ~(least > state["limit"][first])
        if self.symmetric:
            wanted |= ~(least > state["limit"][second])
        return wanted

    def _directed(self, ordered: State, rank: Array, limit: Array) -> tuple[Array, Array, Array, Array]:
        """See each pair from its row, or both, where `limit` (rows,) does not rule it out.

        Returns source, target, index of the pair, place among the neighbours of the source.
        """
        ends = (("first", "second"), ("second", "first"))[: 1 + self.symmetric]
        near = [np.flatnonzero(~(ordered["least"] > limit[ordered[mine]])) for mine, _ in ends]
        sides = [
            (ordered[mine][pair], ordered[other][pair], pair) for pair, (mine, other) in zip(near, ends, strict=True)
        ]
        source, target, pair = (np.concatenate(column) for column in zip(*sides, strict=True))
        order = lexical_order(source, rank[pair], target)
        source, target, pair = source[order], target[order], pair[order]
        place = np.arange(source.size) - np.searchsorted(source, source)
        return source, target, pair, place
