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
from embgeom_dask.pairwise.tables import NamedArrays
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.base import Reduction, Variables
from embgeom_dask.reductions.expand import expand_all
from embgeom_dask.reductions.thresholds import Thresholds
from embgeom_dask.reductions.undecided import classes
from embgeom_dask.units import noun

Array = NDArray[Any]

_NO_POSITIONS = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class CountedPairs:
    """`count`, how many pairs of tokens were found; and the pairs of rows, unless there are more than `room`."""

    count: int
    room: int
    first: NDArray[np.int64]
    second: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ReportedPairs(NamedArrays):
    """How many pairs of tokens were found, `count` (), and unless these are too many, the pairs of rows.

    `distance` (p,) is what is reported of the pairs `first`, `second` (p,).
    """

    count: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distance: NDArray[np.float64]


@dataclass(frozen=True)
class PairsWithin(Reduction[CountedPairs, ReportedPairs, ReportedPairs]):
    """The pairs of tokens at distance <= the one closed threshold of `radius`, `limit` at most.

    `weights` (rows,) int64, for either side, is how many tokens share each row; where `symmetric`, both sides are one,
    and tokens that share a row are pairs too, unless `duplicate_of` is given; states count those with different rows.
    Pairs of identical rows are left out where `duplicate_of` (rows,) int64 is given, the position on the second side of
    the row identical to each, -1 where none is.
    """

    radius: Thresholds
    limit: int
    weights: tuple[Array, Array]
    symmetric: bool
    duplicate_of: Array | None = None
    name = "pairs_within"
    state_type = ReportedPairs

    @property
    def nbytes(self) -> int:
        """Bytes of its states, on worker and client, and of its result."""
        return 200 * min(self.limit, int(self.weights[0].sum() * self.weights[1].sum()))

    @property
    def only_near(self) -> bool:
        """True."""
        return True

    def span(self, exact: Exact) -> float:
        """The value at the largest radius."""
        return self.radius.span(exact)

    def empty(self, hint: Array | None = None) -> CountedPairs:
        """No pairs; `hint` is the room that other panels left."""
        return CountedPairs(0, self._room if hint is None else int(hint), _NO_POSITIONS, _NO_POSITIONS)

    def update(self, state: CountedPairs, tile: Tile, exact: Exact) -> CountedPairs:
        """Add the pairs of a tile."""
        low, high = tile.terms
        inside, outside = (bound.item() for bound in self.radius.in_points(exact))
        limit = round_up(np.full(len(low.row), outside), tile.precision.dtype)
        no_limit = np.full_like(low.column, -np.inf)
        i, j, least = select(tile.product, low, limit, no_limit, diagonal=tile.diagonal, ends=tile.ends)
        i, j, least = tile.without_duplicates(self.duplicate_of, i, j, least)
        (unsure,) = np.nonzero(~(upper_bounds(tile.product, low, high, i, j, least) <= inside))
        first, second = tile.pairs(i, j)
        keep = np.ones(first.size, np.bool_)
        keep[unsure] = classes(self.radius, tile, i[unsure], j[unsure], exact) == 0
        first, second = first[keep], second[keep]
        count = state.count + int(self.weights[0][first] @ self.weights[1][second])
        if count > state.room:
            return CountedPairs(count, state.room, _NO_POSITIONS, _NO_POSITIONS)
        joined = np.concatenate([state.first, first]), np.concatenate([state.second, second])
        return CountedPairs(count, state.room, *joined)

    def finish(self, state: CountedPairs, exact: Exact) -> ReportedPairs:
        """Give the pairs their distances."""
        distance = exact.distances(state.first, state.second)
        return ReportedPairs(np.array(state.count), state.first, state.second, distance)

    def merge(self, merged: ReportedPairs | None, found: list[ReportedPairs], exact: Exact) -> ReportedPairs:  # noqa: ARG002
        """Join the pairs, unless they are too many."""
        joined = found if merged is None else [merged, *found]
        count = sum(int(each.count) for each in joined)
        if not joined or count > self._room:
            return ReportedPairs(np.array(count), _NO_POSITIONS, _NO_POSITIONS, np.empty(0))
        columns = zip(*((each.first, each.second, each.distance) for each in joined), strict=True)
        return ReportedPairs(np.array(count), *map(np.concatenate, columns))

    def hint(self, state: ReportedPairs, exact: Exact) -> Array:  # noqa: ARG002
        """The room left."""
        return self._room - state.count

    def finalize(self, state: ReportedPairs, sides: Sides, exact: Exact) -> Variables:  # noqa: ARG002
        """Name `pair_distance` and `pair_token_id`, in order of the first id, then of the second, and `pair_radius`.

        Raises
        ------
        EmbgeomError
            where they are more than `limit`.
        """
        count = int(state.count) + self._identical
        if count > self.limit:
            alike = f"{self._identical} {noun(self._identical, 'pair')} of identical rows"
            alike = f", leave out {alike} with `distinct`" if self._identical else ""
            raise EmbgeomError(
                f"{count} pairs lie within {self.radius.distance.item():.9g}, more than the limit of {self.limit}: "
                f"choose a smaller radius for `pairs_within`{alike}, or a larger `max_pairs`"
            )
        identical = self.duplicate_of is None
        token_id, distance = expand_all(state.first, state.second, state.distance, sides, identical=identical)
        return {
            "pair_radius": ((), self.radius.distance[0]),
            "pair_distance": (("pair",), distance),
            "pair_token_id": (("pair", "side"), token_id),
        }

    @property
    def _identical(self) -> int:
        weights = self.weights[0]
        return int((weights * (weights - 1) // 2).sum()) if self.symmetric and self.duplicate_of is None else 0

    @property
    def _room(self) -> int:
        """How many pairs of tokens with different rows may be kept."""
        return self.limit - self._identical
