"""The K largest and the K smallest products of every row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.reductions.base import Variables
from embgeom_dask.reductions.neighbors import Candidates
from embgeom_dask.reductions.turned import TurnedNeighbors


@dataclass(frozen=True)
class RowProducts(TurnedNeighbors):
    """The `k` largest products of each of `rows` rows, or the `smallest`; ties go to the lowest ids.

    Values are products with the sign turned: the largest products are the nearest neighbors, the smallest those of the
    values turned once more. With `is_end` the first of them is told as the end of all products of the row, too, as
    `RowEnd` would find it.
    """

    smallest: bool = False
    is_end: bool = False

    @property
    def name(self) -> str:
        """The prefix of the result's names."""
        return "bottom" if self.smallest else "top"

    def finalize(self, state: Candidates, sides: Sides, exact: Exact) -> Variables:
        """Name `<name>_product` and `<name>_token_id (token_id, <name>)`, and of the end `row_max` or `row_min`."""
        token_id, value = self._nearest_tokens(state, sides, self.turned(exact))
        dims = ("token_id", self.name)
        product = 0.0 - value
        found: Variables = {f"{self.name}_product": (dims, product), f"{self.name}_token_id": (dims, token_id)}
        if self.is_end:
            first = product[:, 0] if product.shape[1] else np.full(len(product), np.nan)  # a single row has no product
            found["row_min" if self.smallest else "row_max"] = ("token_id",), first
        return found

    def is_turned(self, exact: Exact) -> bool:  # noqa: ARG002
        """Whether the smallest products are sought."""
        return self.smallest
