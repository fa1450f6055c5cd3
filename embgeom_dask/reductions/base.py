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
    """What `merge` makes."""

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays: panels are merged when theirs come to some part of these."""


Running = TypeVar("Running")
Finished = TypeVar("Finished", bound=NamedArrays)
Merged = TypeVar("Merged", bound=MergedState)


class Reduction(Protocol[Running, Finished, Merged]):
    """What is kept of the distances: an immutable specification with functions on states.

    A panel's state is made by `empty`, grows by `update`, once for each tile: it is *Running*. By `finish` it leaves
    the worker, *Finished*: arrays alone, which a journal keeps. The client joins panels by `merge`, which makes the
    *Merged* state of them, and names the result by `finalize`. No result depends on the order of tiles or panels, on
    how they are grouped, or on hints.
    """

    @property
    def name(self) -> str:
        """Its key among the reductions of a plan and the states of a panel, and the prefix of its variables."""

    @property
    def nbytes(self) -> int:
        """The most bytes that its states take on a worker or on the client: the plan counts them."""

    @property
    def state_type(self) -> type[Finished]:
        """The class of the states that leave a worker: a journal reads them as no other."""

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

    @property
    def only_near(self) -> bool:
        """Whether pairs beyond `span` change nothing: then most parts of tiles of such blocks may be skipped."""
        return False

    def empty(self, hint: Array | None = None) -> Running:
        """The state of no pairs. `hint`, of other panels, may make it drop pairs that no result needs."""

    def update(self, state: Running, tile: Tile, exact: Exact) -> Running:
        """The state with the pairs of a tile added; may change the arrays of `state`, which is not used again."""

    def reach(self, state: Running, exact: Exact) -> float:  # noqa: ARG002
        """The least value, in units of the points, of a pair that can still change a panel's state."""
        return float("-inf")

    def span(self, exact: Exact) -> float:  # noqa: ARG002
        """A bound of the values, in units of the points, of all pairs that can change a state."""
        return float("inf")

    def finish(self, state: Running, exact: Exact) -> Finished:
        """What leaves the worker, after the last tile."""

    def merge(self, merged: Merged | None, found: list[Finished], exact: Exact) -> Merged:
        """What was merged before, if anything was, and what more panels found; changes neither."""

    def hint(self, state: Merged, exact: Exact) -> Array | None:  # noqa: ARG002
        """What later panels need not keep, seen from a merged state; None: every pair counts."""
        return None

    def finalize(self, state: Merged, sides: Sides, exact: Exact) -> Variables:
        """The variables of the result, of tokens, from the merged state of distinct rows."""


Reductions: TypeAlias = dict[str, Reduction[Any, Any, Any]]
"""The reductions of a plan by name: what each of them makes, only it takes."""
