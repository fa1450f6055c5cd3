"""What a reduction is to the engine: all that plan, worker, runner and result know of one."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.pairwise.tiles import Tile

Array = NDArray[Any]
State = dict[str, Array]
"""Plain numpy arrays by name, which each reduction describes; a journal keeps them as safetensors."""

Variables = dict[str, tuple[tuple[str, ...], Array]]
"""Variables of a result by name: dimensions and values."""


class Reduction(Protocol):
    """What is kept of the distances: an immutable specification with functions on states.

    A panel's state is made by `empty`, grows by `update`, once for each tile, and leaves the worker by `finish`; the
    client joins panels by `merge`, and names the result by `finalize`. No result depends on the order of tiles or
    panels, on how they are grouped, or on hints.
    """

    @property
    def name(self) -> str:
        """Its key among the reductions of a plan and the states of a panel, and the prefix of its variables."""

    @property
    def nbytes(self) -> int:
        """The most bytes that its states take on a worker or on the client: the plan counts them."""

    @property
    def requires(self) -> tuple[str, ...]:
        """Names of reductions that a plan computes beside it, since its part of a result is made of theirs too."""
        return ()

    @property
    def duplicate_of(self) -> Array | None:
        """Which pairs of identical rows it leaves out; None: it leaves out none.

        (rows,) int64, the position on the second side of the row identical to each of the first, -1 where none is.
        """
        return None

    @property
    def only_far(self) -> bool:
        """Whether `reach` grows, so that blocks sorted by their distance from the centre let tiles be skipped."""
        return False

    def empty(self, hint: Array | None = None) -> State:
        """The state of no pairs. `hint`, of other panels, may make it drop pairs that no result needs."""

    def update(self, state: State, tile: Tile, exact: Exact) -> State:
        """The state with the pairs of a tile added; may change the arrays of `state`, which is not used again."""

    def reach(self, state: State, exact: Exact) -> float:  # noqa: ARG002
        """The least value, in units of the points, of a pair that can still change a panel's state."""
        return float("-inf")

    def finish(self, state: State, exact: Exact) -> State:  # noqa: ARG002
        """What leaves the worker, after the last tile."""
        return state

    def merge(self, states: list[State], exact: Exact) -> State:
        """One state of several: finished ones, the first of which may come from `merge` itself."""

    def hint(self, state: State, exact: Exact) -> Array | None:  # noqa: ARG002
        """What later panels need not keep, seen from a merged state; None: every pair counts."""
        return None

    def finalize(self, state: State, sides: Sides, exact: Exact) -> Variables:
        """The variables of the result, of tokens, from the merged state of distinct rows."""
