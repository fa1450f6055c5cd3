"""All pairs within a radius."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.errors import EmbgeomError
from embgeom_dask.kernels.bounds import round_up, upper_bounds
from embgeom_dask.kernels.passes import select
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.base import Reduction, State, Variables
from embgeom_dask.reductions.expand import expand_all
from embgeom_dask.reductions.thresholds import Thresholds

Array = NDArray[Any]


@dataclass(frozen=True)
class PairsWithin(Reduction):
    """The pairs of tokens at distance <= the one closed threshold of `radius`, `limit` at most.

    `weights` (rows,) int64, for either side, is how many tokens share each row; where `symmetric`, both sides are one,
    and tokens that share a row are pairs too. State: `count` () int64, the pairs of tokens with different rows; unless
    these are too many, the pairs of rows `first`, `second` (int64) and, once it leaves the worker, their `distance` as
    it is reported; `room` () int64, how many may still be kept.
    """

    radius: Thresholds
    limit: int
    weights: tuple[Array, Array]
    symmetric: bool
    name = "pairs_within"

    @property
    def nbytes(self) -> int:
        """Bytes of its states, on worker and client, and of its result."""
        return 200 * min(self.limit, int(self.weights[0].sum() * self.weights[1].sum()))

    def empty(self, hint: Array | None = None) -> State:
        """No pairs; `hint` is the room that other panels left."""
        return self._state(0, self.limit - self._identical if hint is None else int(hint))

    def update(self, state: State, tile: Tile, exact: Exact) -> State:
        """Add the pairs of a tile."""
        low, high = tile.terms
        inside, outside = (bound.item() for bound in self.radius.in_points(exact))
        limit = round_up(np.full(len(low.row), outside), tile.precision.dtype)
        i, j, least = select(tile.product, low, limit, np.full_like(low.column, -np.inf), diagonal=tile.diagonal)
        (unsure,) = np.nonzero(~(upper_bounds(tile.product, low, high, i, j, least) <= inside))
        first, second = tile.pairs(i, j)
        keep = np.ones(first.size, np.bool_)
        keep[unsure] = self.radius.classify(first[unsure], second[unsure], exact)[0] == 0
        first, second = first[keep], second[keep]
        count = int(state["count"] + self.weights[0][first] @ self.weights[1][second])
        pairs = (np.concatenate([state["first"], first]), np.concatenate([state["second"], second]))
        return self._state(count, int(state["room"]), *pairs)

    def finish(self, state: State, exact: Exact) -> State:
        """Give the pairs their distances."""
        return {**state, "distance": exact.distances(state["first"], state["second"])}

    def merge(self, states: list[State], exact: Exact) -> State:  # noqa: ARG002
        """Join the states of several panels."""
        columns = (np.concatenate([state[name] for state in states]) for name in ("first", "second", "distance"))
        return self._state(sum(int(state["count"]) for state in states), int(self.empty()["room"]), *columns)

    def hint(self, state: State, exact: Exact) -> Array:  # noqa: ARG002
        """The room left."""
        return state["room"] - state["count"]

    def finalize(self, state: State, sides: Sides, exact: Exact) -> Variables:  # noqa: ARG002
        """Name `pair_distance` and `pair_token_id`, in order of the first id, then of the second, and `pair_radius`.

        Raises
        ------
        EmbgeomError
            where they are more than `limit`.
        """
        count = int(state["count"]) + self._identical
        if count > self.limit:
            raise EmbgeomError(
                f"{count} pairs lie within {self.radius.distance.item():.9g}, more than the limit of {self.limit}: "
                f"choose a smaller radius for `pairs_within`, or a larger `max_pairs`"
            )
        token_id, distance = expand_all(state["first"], state["second"], state["distance"], sides)
        return {
            "pair_radius": ((), self.radius.distance[0]),
            "pair_distance": (("pair",), distance),
            "pair_token_id": (("pair", "side"), token_id),
        }

    @property
    def _identical(self) -> int:
        weights = self.weights[0]
        return int((weights * (weights - 1) // 2).sum()) if self.symmetric else 0

    def _state(self, count: int, room: int, *columns: Array) -> State:
        kept = columns if columns and count <= room else (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        names = ("first", "second", "distance")[: len(kept)]
        return {"count": np.array(count), "room": np.array(room), **dict(zip(names, kept, strict=True))}
