"""The K farthest or the K nearest pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import round_up, upper_bounds
from embgeom_dask.kernels.passes import select
from embgeom_dask.pairwise.exact import Exact, Pairs
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.base import Reduction, Variables
from embgeom_dask.reductions.expand import expand_pairs

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class BestPairs:
    """The best pairs so far, at most k, in order. Pairs of a value (negated for farthest) above `limit` are dropped."""

    pairs: Pairs
    limit: float

    @property
    def nbytes(self) -> int:
        """Bytes of the pairs."""
        return self.pairs.nbytes


@dataclass(frozen=True)
class Extreme(Reduction[BestPairs, Pairs, BestPairs]):
    """The `k` pairs of largest (`farthest`) or smallest distance; ties go to the lowest ids.

    With `of_products` values are products with the sign turned, and the nearest pairs those of the largest. Pairs of
    identical rows are left out where `duplicate_of` (rows,) int64 is given, the position on the second side of
    the row identical to each of the first, -1 where there is none.
    """

    k: int
    farthest: bool
    duplicate_of: Array | None = None
    of_products: bool = False
    state_type = Pairs

    @property
    def name(self) -> str:
        """The prefix of the result's names."""
        names = ("largest", "smallest") if self.of_products else ("nearest", "farthest")
        return names[self.farthest]

    @property
    def nbytes(self) -> int:
        """Bytes of its states, on worker and client."""
        return 4 * 33 * self.k

    @property
    def only_far(self) -> bool:
        """Whether the farthest pairs are sought."""
        return self.farthest and not self.of_products

    def empty(self, hint: Array | None = None) -> BestPairs:
        """No pairs; `hint` is the limit that other panels reached."""
        return BestPairs(Pairs.empty(), np.inf if hint is None else float(hint))

    def update(self, state: BestPairs, tile: Tile, exact: Exact) -> BestPairs:
        """Add the pairs of a tile."""
        sign = -1.0 if self.farthest else 1.0
        (low, high), ends = tile.terms, tile.ends
        if self.farthest:
            low, high, ends = -high, -low, None if ends is None else -ends
        limit = round_up(np.full(len(low.row), state.limit * exact.unit), tile.precision.dtype)
        no_limit = np.full_like(low.column, -np.inf)
        i, j, least = select(tile.product, low, limit, no_limit, diagonal=tile.diagonal, ends=ends)
        i, j, least = tile.without_duplicates(self.duplicate_of, i, j, least)
        keep = ~(least > self._cutoff(upper_bounds(tile.product, low, high, i, j, least)))
        i, j, least = i[keep], j[keep], least[keep].astype(np.float64) / exact.unit
        order = np.argsort(least, kind="stable")
        for part in (order[: self.k], order[self.k :]):  # likely the best pairs: they lower the limit
            part = part[~(least[part] > state.limit)]
            first, second = tile.pairs(i[part], j[part])
            values, slack = tile.values(i[part], j[part], exact)
            keep = ~(sign * values - slack > min(self._cutoff(sign * values + slack), state.limit))
            if keep.any():
                state = self._best(state, [exact.keys(first[keep], second[keep])], exact)
        return state

    def reach(self, state: BestPairs, exact: Exact) -> float:
        """The value of the last of k farthest pairs."""
        return -state.limit * exact.unit if self.farthest else -np.inf

    def finish(self, state: BestPairs, exact: Exact) -> Pairs:  # noqa: ARG002
        """The pairs."""
        return state.pairs

    def merge(self, merged: BestPairs | None, found: list[Pairs], exact: Exact) -> BestPairs:
        """The best of all pairs."""
        return self._best(self.empty() if merged is None else merged, found, exact)

    def hint(self, state: BestPairs, exact: Exact) -> Array:  # noqa: ARG002
        """The limit."""
        return np.array(state.limit)

    def finalize(self, state: BestPairs, sides: Sides, exact: Exact) -> Variables:
        """Name distances and token ids: `<name>_distance (<name>)` and `<name>_token_id (<name>, side)`.

        Products are called `<name>_product`.
        """
        ordered, rank = exact.sort(state.pairs, descending=self.farthest)
        reported = exact.distances(ordered.first, ordered.second)
        token_id, distance = expand_pairs(
            ordered, reported, rank, sides, self.k, self.duplicate_of is None, farthest=self.farthest
        )
        what, said = ("product", 0.0 - distance) if self.of_products else ("distance", distance)
        return {
            f"{self.name}_{what}": ((self.name,), said),
            f"{self.name}_token_id": ((self.name, "side"), token_id),
        }

    def _cutoff(self, values: Array) -> float:
        """The k-th smallest value, or infinity where there are fewer."""
        return float(np.partition(values, self.k - 1)[self.k - 1]) if values.size >= self.k else np.inf

    def _best(self, state: BestPairs, found: list[Pairs], exact: Exact) -> BestPairs:
        ordered, _ = exact.sort(Pairs.concat([state.pairs, *found]), descending=self.farthest)
        kept, limit = ordered.take(slice(self.k)), state.limit
        if kept.size == self.k:
            last = kept.high[-1:]
            slack = 2.0**-51 * np.abs(last) + exact.key_slack(kept.take(slice(-1, None)))
            limit = min(limit, ((-last if self.farthest else last) + slack).item())
        return BestPairs(kept, limit)
