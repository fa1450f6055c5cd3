"""Neighbors of each row by negated values: the farthest rows, or those with the smallest products."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.neighbors import Candidates, NearestPairs, Neighbors


@dataclass(frozen=True)
class TurnedNeighbors(Neighbors):
    """`Neighbors` of values with the other sign, where `is_turned` says so."""

    def update(self, state: Candidates, tile: Tile, exact: Exact) -> Candidates:
        """Add the pairs of a tile."""
        return super().update(state, tile.turn() if self.is_turned(exact) else tile, self.turned(exact))

    def finish(self, state: Candidates, exact: Exact) -> NearestPairs:
        """Give the candidates their values."""
        return super().finish(state, self.turned(exact))

    def merge(self, merged: Candidates | None, found: list[NearestPairs], exact: Exact) -> Candidates:
        """Add the pairs of several panels."""
        return super().merge(merged, found, self.turned(exact))

    def turned(self, exact: Exact) -> Exact:
        """Exact answers about the values that pairs are ordered by."""
        return exact.turn() if self.is_turned(exact) else exact

    @abstractmethod
    def is_turned(self, exact: Exact) -> bool:
        """Whether values have the other sign."""
