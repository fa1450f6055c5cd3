"""The K largest and the K smallest products of every row."""

from __future__ import annotations

from dataclasses import dataclass

from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.reductions.base import Variables
from embgeom_dask.reductions.neighbors import Candidates
from embgeom_dask.reductions.turned import TurnedNeighbors


@dataclass(frozen=True)
class RowProducts(TurnedNeighbors):
    """The `k` largest products of each of `rows` rows, or the `smallest`; ties go to the lowest ids.

    Values are products with the sign turned: the largest products are the nearest neighbours, the smallest those of the
    values turned once more.
    """

    smallest: bool = False

    @property
    def name(self) -> str:
        """The prefix of the result's names."""
        return "bottom" if self.smallest else "top"

    def finalize(self, state: Candidates, sides: Sides, exact: Exact) -> Variables:
        """Name `<name>_product` and `<name>_token_id (token_id, <name>)`."""
        token_id, value = self._nearest_tokens(state, sides, self.turned(exact))
        dims = ("token_id", self.name)
        return {f"{self.name}_product": (dims, 0.0 - value), f"{self.name}_token_id": (dims, token_id)}

    def is_turned(self, exact: Exact) -> bool:  # noqa: ARG002
        """Whether the smallest products are sought."""
        return self.smallest
