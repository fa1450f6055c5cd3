"""The K farthest or the K nearest pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.exact import Exact, concat_pairs, direct_error, empty_pairs, take_pairs
from embgeom_dask.kernels import select
from embgeom_dask.metrics import Tile, round_up
from embgeom_dask.reductions.expand import expand_pairs
from embgeom_dask.rows import RowSet

Array = NDArray[Any]
State = dict[str, Array]


@dataclass(frozen=True)
class Extreme:
    """The `k` pairs of largest (`farthest`) or smallest distance; ties go to the lowest ids.

    State: a table of at most k pairs with their keys, in order, and `limit` () float64. The value of a pair is its
    squared distance, negated for farthest; no pair whose value is above `limit` is among the k.
    """

    k: int
    farthest: bool

    @property
    def name(self) -> str:
        """The prefix of the result's names."""
        return "farthest" if self.farthest else "nearest"

    def empty(self, hint: Array | None = None) -> State:
        """No pairs; `hint` is the limit that other panels reached."""
        return {**empty_pairs(), "limit": np.array(np.inf) if hint is None else hint}

    def update(self, state: State, tile: Tile, exact: Exact) -> State:
        """Add the pairs of a tile."""
        sign = -1.0 if self.farthest else 1.0
        (row_low, row_high), (column_low, column_high) = tile.bounds(tile.rows), tile.bounds(tile.columns)
        row, column = (-row_high, -column_high) if self.farthest else (row_low, column_low)
        limit = round_up(np.full(len(row), state["limit"] * exact.scale**2), tile.dtype)
        i, j, least = select(
            tile.product,
            row,
            column,
            -2.0 * sign,
            limit,
            np.full_like(column, -np.inf),
            diagonal=tile.diagonal,
        )
        most = least.astype(np.float64) + (row_high - row_low)[i] + (column_high - column_low)[j]
        keep = least <= self._cutoff(most)
        first, second = tile.rows.start + i[keep], tile.columns.start + j[keep]
        squared = exact.squared(first, second)
        slack = direct_error(exact.width) * squared
        keep = sign * squared - slack <= min(self._cutoff(sign * squared + slack), float(state["limit"]))
        if not keep.any():
            return state
        found = exact.keys(first[keep], second[keep])
        return self._best([state, {**found, "limit": state["limit"]}], exact)

    def finish(self, state: State, exact: Exact) -> State:  # noqa: ARG002
        """What leaves the worker: the state as it is."""
        return state

    def merge(self, states: list[State], exact: Exact) -> State:
        """Join the states of several panels."""
        return self._best(states, exact)

    def hint(self, state: State, exact: Exact) -> Array:  # noqa: ARG002
        """The limit."""
        return state["limit"]

    def finalize(self, state: State, rows: RowSet, exact: Exact) -> dict[str, tuple[tuple[str, ...], Array]]:
        """Name distances and token ids: `<name>_distance (<name>)` and `<name>_token_id (<name>, side)`."""
        ordered, rank = exact.sort(state, descending=self.farthest)
        token_id, squared = expand_pairs(ordered, rank, rows, self.k, zeros_first=not self.farthest)
        return {
            f"{self.name}_distance": ((self.name,), np.sqrt(squared)),
            f"{self.name}_token_id": ((self.name, "side"), token_id),
        }

    def _cutoff(self, values: Array) -> float:
        """The k-th smallest value, or infinity where there are fewer."""
        return float(np.partition(values, self.k - 1)[self.k - 1]) if values.size >= self.k else np.inf

    def _best(self, states: list[State], exact: Exact) -> State:
        ordered, _ = exact.sort(concat_pairs(states), descending=self.farthest)
        kept = take_pairs(ordered, slice(self.k))
        limit = min(float(state["limit"]) for state in states)
        if kept["high"].size == self.k:
            high = kept["high"][-1]
            limit = min(limit, float((-high if self.farthest else high) + 2.0**-51 * high))
        return {**kept, "limit": np.array(limit)}
