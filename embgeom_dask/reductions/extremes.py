"""The K farthest or the K nearest pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import round_up, upper_bounds
from embgeom_dask.kernels.passes import select
from embgeom_dask.pairwise.exact import Exact, concat_pairs, empty_pairs, take_pairs
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.base import Reduction, State, Variables
from embgeom_dask.reductions.expand import expand_pairs

Array = NDArray[Any]


@dataclass(frozen=True)
class Extreme(Reduction):
    """The `k` pairs of largest (`farthest`) or smallest distance; ties go to the lowest ids.

    Pairs of identical rows are left out where `duplicate_of` (rows,) int64 is given, the position on the second side of
    the row identical to each of the first, -1 where there is none.

    State: a table of at most k pairs with their keys, in order, and `limit` () float64: no pair whose value (negated
    for farthest) is above it is among the k.
    """

    k: int
    farthest: bool
    duplicate_of: Array | None = None

    @property
    def name(self) -> str:
        """The prefix of the result's names."""
        return "farthest" if self.farthest else "nearest"

    @property
    def nbytes(self) -> int:
        """Bytes of its states, on worker and client."""
        return 4 * 33 * self.k

    @property
    def only_far(self) -> bool:
        """Whether the farthest pairs are sought."""
        return self.farthest

    def empty(self, hint: Array | None = None) -> State:
        """No pairs; `hint` is the limit that other panels reached."""
        return {**empty_pairs(), "limit": np.array(np.inf) if hint is None else hint}

    def update(self, state: State, tile: Tile, exact: Exact) -> State:
        """Add the pairs of a tile."""
        sign = -1.0 if self.farthest else 1.0
        low, high = tile.terms
        if self.farthest:
            low, high = -high, -low
        limit = round_up(np.full(len(low.row), state["limit"] * exact.unit), tile.precision.dtype)
        i, j, least = select(tile.product, low, limit, np.full_like(low.column, -np.inf), diagonal=tile.diagonal)
        i, j, least = tile.without_duplicates(self.duplicate_of, i, j, least)
        keep = ~(least > self._cutoff(upper_bounds(tile.product, low, high, i, j, least)))
        i, j, least = i[keep], j[keep], least[keep].astype(np.float64) / exact.unit
        order = np.argsort(least, kind="stable")
        for part in (order[: self.k], order[self.k :]):  # the first are likely to be the best, and rule others out
            part = part[~(least[part] > state["limit"])]
            first, second = tile.pairs(i[part], j[part])
            values, slack = exact.values(first, second)
            keep = ~(sign * values - slack > min(self._cutoff(sign * values + slack), float(state["limit"])))
            if keep.any():
                found = exact.keys(first[keep], second[keep])
                state = self._best([state, {**found, "limit": state["limit"]}], exact)
        return state

    def reach(self, state: State, exact: Exact) -> float:
        """The value of the last of k farthest pairs."""
        return -float(state["limit"]) * exact.unit if self.farthest else -np.inf

    def merge(self, states: list[State], exact: Exact) -> State:
        """Join the states of several panels."""
        return self._best(states, exact)

    def hint(self, state: State, exact: Exact) -> Array:  # noqa: ARG002
        """The limit."""
        return state["limit"]

    def finalize(self, state: State, sides: Sides, exact: Exact) -> Variables:
        """Name distances and token ids: `<name>_distance (<name>)` and `<name>_token_id (<name>, side)`."""
        ordered, rank = exact.sort(concat_pairs([state]), descending=self.farthest)
        ordered["distance"] = exact.distances(ordered["first"], ordered["second"])
        token_id, distance = expand_pairs(
            ordered, rank, sides, self.k, self.duplicate_of is None, farthest=self.farthest
        )
        return {
            f"{self.name}_distance": ((self.name,), distance),
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
            last = kept["high"][-1:]
            slack = 2.0**-51 * np.abs(last) + exact.metric.key_slack(np.abs(last), exact.width)
            limit = min(limit, ((-last if self.farthest else last) + slack).item())
        return {**kept, "limit": np.array(limit)}
