"""The K nearest neighbours of every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embgeom_dask.exact import Exact, Pairs, concat_pairs, direct_error, empty_pairs, take_pairs
from embgeom_dask.kernels import select
from embgeom_dask.metrics import Tile, round_up
from embgeom_dask.reductions.expand import expand_neighbors
from embgeom_dask.rows import RowSet

Array = NDArray[Any]
State = dict[str, Array]


@dataclass(frozen=True)
class Neighbors:
    """The `k` nearest of each of `rows` rows; ties go to the lowest ids. One product serves both rows of a pair.

    State on a worker, while a panel runs: the candidates `first`, `second` (int64) and `least`, a lower bound of their
    squared distance; `best` (rows, k) float32, the smallest upper bounds of each row; `limit` (rows,) float64, what a
    pair must not exceed to be among the k of a row; bounds in units of the scaled points. State that leaves it: a
    table of the pairs among the k of either row, with their keys.
    """

    k: int
    rows: int
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
        (row_low, row_high), (column_low, column_high) = tile.bounds(tile.rows), tile.bounds(tile.columns)
        limit = round_up(state["limit"], tile.dtype)
        rows = slice(tile.rows.start, tile.rows.start + tile.rows.size)
        columns = slice(tile.columns.start, tile.columns.start + tile.columns.size)
        i, j, least = select(
            tile.product, row_low, column_low, -2.0, limit[rows], limit[columns], diagonal=tile.diagonal
        )
        most = least.astype(np.float64) + (row_high - row_low)[i] + (column_high - column_low)[j]
        return self._add(state, i + rows.start, j + columns.start, least.astype(np.float64), most)

    def finish(self, state: State, exact: Exact) -> State:
        """Recheck the candidates in float64, then give those that stay their keys."""
        squared = exact.squared(state["first"], state["second"]) * exact.scale**2
        slack = direct_error(exact.width) * squared
        fresh = {**self.empty(), "limit": state["limit"]}
        kept = self._add(fresh, state["first"], state["second"], squared - slack, squared + slack)
        return self._nearest(exact.keys(kept["first"], kept["second"]), exact)

    def merge(self, states: list[State], exact: Exact) -> State:
        """Join the states of several panels."""
        return self._nearest(concat_pairs(states), exact)

    def hint(self, state: State, exact: Exact) -> Array:
        """The squared distance of each row's k-th neighbour so far, rounded up, in units of the scaled points."""
        limit = np.full(self.rows, np.inf)
        ordered, rank = exact.sort(state)
        source, _, pair, place = _directed(ordered, rank)
        last = place == self.k - 1
        limit[source[last]] = ordered["high"][pair[last]] * ((1 + 2.0**-51) * exact.scale**2)
        return limit

    def finalize(self, state: State, rows: RowSet, exact: Exact) -> dict[str, tuple[tuple[str, ...], Array]]:
        """Name the neighbours of every token, nearest first: `neighbor_distance` and `neighbor_token_id`."""
        ordered, rank = exact.sort(state)
        source, target, pair, _ = _directed(ordered, rank)
        token_id, squared = expand_neighbors(source, target, rank[pair], ordered["high"][pair], rows, self.k)
        dims = ("token_id", "neighbor")
        return {"neighbor_distance": (dims, np.sqrt(squared)), "neighbor_token_id": (dims, token_id)}

    def _add(self, state: State, first: Array, second: Array, least: Array, most: Array) -> State:
        _tighten(state["best"], state["limit"], first, second, round_up(most, np.float32))
        columns = [state["first"], first], [state["second"], second], [state["least"], least]
        first, second, least = (np.concatenate(column) for column in columns)
        keep = least <= np.maximum(state["limit"][first], state["limit"][second])
        return {**state, "first": first[keep], "second": second[keep], "least": least[keep]}

    def _nearest(self, pairs: Pairs, exact: Exact) -> State:
        ordered, rank = exact.sort(pairs)
        _, _, pair, place = _directed(ordered, rank)
        keep = np.zeros(rank.size, np.bool_)
        keep[pair[place < self.k]] = True
        return take_pairs(ordered, keep) if rank.size else empty_pairs()


def _directed(ordered: Pairs, rank: Array) -> tuple[Array, Array, Array, Array]:
    """See each pair from both rows: source, target, index of the pair, and place among the source's neighbours."""
    source = np.concatenate([ordered["first"], ordered["second"]])
    target = np.concatenate([ordered["second"], ordered["first"]])
    pair = np.tile(np.arange(rank.size), 2)
    order = np.lexsort((target, rank[pair], source))
    source, target, pair = source[order], target[order], pair[order]
    place = np.arange(source.size) - np.searchsorted(source, source)
    return source, target, pair, place


@numba.njit(nogil=True, cache=True)
def _tighten(
    best: Array, limit: Array, first: Array, second: Array, most: Array
) -> None:  # pragma: no cover (compiled)
    """Insert the upper bound of each pair among the k smallest of both rows."""
    last = best.shape[1] - 1
    for p in range(first.size):
        for row in (first[p], second[p]):
            if most[p] < best[row, last]:
                k = last
                while k > 0 and best[row, k - 1] > most[p]:
                    best[row, k] = best[row, k - 1]
                    k -= 1
                best[row, k] = most[p]
                limit[row] = min(limit[row], best[row, last])
