"""The K nearest neighbours of every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.exact import Exact, Pairs, concat_pairs, take_pairs
from embgeom_dask.kernels import select
from embgeom_dask.reductions.expand import Sides, expand_neighbors
from embgeom_dask.tiles import Tile, round_up, upper_bounds

Array = NDArray[Any]
State = dict[str, Array]


@dataclass(frozen=True)
class Neighbors:
    """The `k` nearest of each of `rows` rows; ties go to the lowest ids.

    Where `mutual`, both rows of a pair are among the `rows`, and one product serves both.

    State on a worker, while a panel runs: the candidates `first`, `second` (int64) and `least`, a lower bound of their
    value; `best` (rows, k) float32, the smallest upper bounds of each row; `limit` (rows,) float64, what a pair must
    not exceed to be among the k of a row; bounds in units of the points. State that leaves it: a table of the pairs
    among the k of a row, with their keys.
    """

    k: int
    rows: int
    mutual: bool
    name = "neighbors"

    def empty(self, hint: Array | None = None) -> State:
        """No candidates; `hint` is the limit that other panels reached."""
        return {
            "first": np.empty(0, np.int64),
            "second": np.empty(0, np.int64),
            "least": np.empty(0),
            "best": np.full((self.rows, self.k), np.inf, np.float32),
            "limit": np.full(self.rows, np.inf) if hint is None else hint.copy(),
        }

    def update(self, state: State, tile: Tile, exact: Exact) -> State:  # noqa: ARG002
        """Add the pairs of a tile that may be among the nearest of either row; tightens `best` and `limit` in place."""
        low, high = tile.terms
        limit = round_up(state["limit"][tile.rows.positions], tile.precision.dtype)
        column_limit = np.full_like(low.column, -np.inf)
        if self.mutual:
            column_limit = round_up(state["limit"][tile.columns.positions], tile.precision.dtype)
        i, j, least = select(tile.product, low, limit, column_limit, diagonal=tile.diagonal)
        most = upper_bounds(tile.product, low, high, i, j, least)
        return self._add(state, *tile.pairs(i, j), least.astype(np.float64), most)

    def finish(self, state: State, exact: Exact) -> State:
        """Recheck the candidates in float64, then give those that stay their keys."""
        values, slack = exact.values(state["first"], state["second"])
        fresh = {**self.empty(), "limit": state["limit"]}
        bounds = (values - slack) * exact.unit, (values + slack) * exact.unit
        kept = self._add(fresh, state["first"], state["second"], *bounds)
        return self._nearest(exact.keys(kept["first"], kept["second"]), exact)

    def merge(self, states: list[State], exact: Exact) -> State:
        """Join the states of several panels."""
        return self._nearest(concat_pairs(states), exact)

    def hint(self, state: State, exact: Exact) -> Array:
        """The value of each row's k-th neighbour so far, rounded up, in units of the points."""
        limit = np.full(self.rows, np.inf)
        ordered, rank = exact.sort(state)
        source, _, pair, place = self._directed(ordered, rank)
        last = place == self.k - 1
        high = ordered["high"][pair[last]]
        slack = 2.0**-51 * np.abs(high) + exact.metric.key_slack(np.abs(high), exact.width)
        limit[source[last]] = (high + slack) * exact.unit
        return limit

    def finalize(self, state: State, sides: Sides, exact: Exact) -> dict[str, tuple[tuple[str, ...], Array]]:
        """Name the neighbours of every token, nearest first: `neighbor_distance` and `neighbor_token_id`."""
        ordered, rank = exact.sort(state)
        source, target, pair, _ = self._directed(ordered, rank)
        token_id, values = expand_neighbors(source, target, rank[pair], ordered["high"][pair], sides, self.k)
        dims = ("token_id", "neighbor")
        distance = exact.metric.distance(values)
        return {"neighbor_distance": (dims, distance), "neighbor_token_id": (dims, token_id)}

    def _add(self, state: State, first: Array, second: Array, least: Array, most: Array) -> State:
        _tighten(state["best"], state["limit"], first, second, round_up(most, np.float32), self.mutual)
        columns = [state["first"], first], [state["second"], second], [state["least"], least]
        first, second, least = (np.concatenate(column) for column in columns)
        keep = least <= state["limit"][first]
        if self.mutual:
            keep |= least <= state["limit"][second]
        return {**state, "first": first[keep], "second": second[keep], "least": least[keep]}

    def _nearest(self, pairs: Pairs, exact: Exact) -> State:
        ordered, rank = exact.sort(pairs)
        _, _, pair, place = self._directed(ordered, rank)
        keep = np.zeros(rank.size, np.bool_)
        keep[pair[place < self.k]] = True
        return take_pairs(ordered, keep)

    def _directed(self, ordered: Pairs, rank: Array) -> tuple[Array, Array, Array, Array]:
        """See each pair from its row, or both: source, target, index of the pair, place among the neighbours."""
        source, target, pair = ordered["first"], ordered["second"], np.arange(rank.size)
        if self.mutual:
            source, target = np.concatenate([source, target]), np.concatenate([target, source])
            pair = np.tile(pair, 2)
        order = np.lexsort((target, rank[pair], source))
        source, target, pair = source[order], target[order], pair[order]
        place = np.arange(source.size) - np.searchsorted(source, source)
        return source, target, pair, place


@numba.njit(nogil=True, cache=True)
def _tighten(
    best: Array, limit: Array, first: Array, second: Array, most: Array, mutual: bool
) -> None:  # pragma: no cover (compiled)
    """Insert the upper bound of each pair among the k smallest of its row, or of both."""
    last = best.shape[1] - 1
    for p in range(first.size):
        for side in range(2 if mutual else 1):
            row = second[p] if side else first[p]
            if most[p] < best[row, last]:
                k = last
                while k > 0 and best[row, k - 1] > most[p]:
                    best[row, k] = best[row, k - 1]
                    k -= 1
                best[row, k] = most[p]
                limit[row] = min(limit[row], best[row, last])
