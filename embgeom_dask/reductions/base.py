"""The interface of a reduction: all that plan, worker, runner and result know of it."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, TypeVar

from numpy.typing import NDArray

from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.pairwise.tables import NamedArrays
from embgeom_dask.pairwise.tiles import Tile

Array = NDArray[Any]

Variables = dict[str, tuple[tuple[str, ...], Array]]
"""Variables of a result by name: dimensions and values."""


class MergedState(Protocol):
    """The state that `merge` returns."""

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays. Panels are merged when their own states come to a share of these."""


Running = TypeVar("Running")
Finished = TypeVar("Finished", bound=NamedArrays)
Merged = TypeVar("Merged", bound=MergedState)


class Reduction(Protocol[Running, Finished, Merged]):
    """What is kept of the distances: an immutable specification with functions on states.

    The state of a panel goes through three stages. `empty` makes a *Running* state, and `update` adds each tile to it.
    `finish` turns it into a *Finished* state, which consists of arrays only: it leaves the worker and may be kept in a
    journal. The client joins the states of panels by `merge`, which gives a *Merged* state, and `finalize` makes the
    variables of the result from it. No result depends on the order of tiles or panels, on how they are grouped, or on
    hints.
    """

    @property
    def name(self) -> str:
        """Its key among the reductions of a plan and the states of a panel, and the prefix of its variables."""

    @property
    def nbytes(self) -> int:
        """The most bytes that its states take on a worker or on the client: the plan counts them."""

    @property
    def state_type(self) -> type[Finished]:
        """The class of the *Finished* state. States in a journal are read as this class and no other."""

    @property
    def requires(self) -> tuple[str, ...]:
        """Names of other reductions that its part of the result needs; a plan computes them, too."""
        return ()

    @property
    def duplicate_of(self) -> Array | None:
        """Which pairs of identical rows it leaves out; None: it leaves out none.

        (rows,) int64, the position on the second side of the row identical to each of the first, -1 where none is.
        """
        return None

    @property
    def only_far(self) -> bool:
        """Whether only far pairs matter: `reach` grows, and tiles of blocks sorted by norm may be skipped."""
        return False

    @property
    def only_near(self) -> bool:
        """Whether only near pairs matter: those beyond `span` change nothing, and parts of tiles may be skipped."""
        return False

    @property
    def leaves_ends(self) -> bool:
        """Whether its `update` leaves the ends of strips on a tile, by which others read less of it: it goes first."""
        return False

    def empty(self, hint: Array | None = None) -> Running:
        """The state of no pairs. A `hint` from other panels lets it drop pairs that no result needs."""

    def update(self, state: Running, tile: Tile, exact: Exact) -> Running:
        """The state with the pairs of a tile added. It may change the arrays of `state`, which is not used again."""

    def reach(self, state: Running, exact: Exact) -> float:  # noqa: ARG002
        """The least value, in units of the points, of a pair that can still change the state."""
        return float("-inf")

    def span(self, exact: Exact) -> float:  # noqa: ARG002
        """A bound of the values, in units of the points, of all pairs that can change a state."""
        return float("inf")

    def finish(self, state: Running, exact: Exact) -> Finished:
        """The state as it leaves the worker, after the last tile."""

    def merge(self, merged: Merged | None, found: list[Finished], exact: Exact) -> Merged:
        """Join the states of more panels with `merged` (None at first); changes none of them."""

    def hint(self, state: Merged, exact: Exact) -> Array | None:  # noqa: ARG002
        """What later panels need not keep, as a merged state shows; None if every pair counts."""
        return None

    def finalize(self, state: Merged, sides: Sides, exact: Exact) -> Variables:
        """The variables of the result, over tokens, from the merged state, which is over distinct rows."""


Reductions: TypeAlias = dict[str, Reduction[Any, Any, Any]]
"""The reductions of a plan by name: what each of them makes, only it takes."""
