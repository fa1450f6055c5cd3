"""The connected components of the graphs of pairs within given radii, and how many pairs each row has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels import forests
from embgeom_dask.kernels.bounds import LinearBound, round_up, upper_bounds
from embgeom_dask.kernels.passes import select
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.pairwise.tables import NamedArrays
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.base import Reduction, Variables
from embgeom_dask.reductions.expand import token_lines
from embgeom_dask.reductions.thresholds import Thresholds
from embgeom_dask.reductions.undecided import classes

Array = NDArray[Any]

_STRIP_PAIRS = 1 << 20
"""So many pairs of a tile at most are looked at together: where all are within a radius, each takes about 100 bytes."""


@dataclass(frozen=True, eq=False)
class Forests:
    """While a panel runs: `parent` (radii, rows), see `kernels.forests`, and `degree` (rows, radii).

    `degree` counts the pairs of each row whose smallest radius is that one.
    """

    parent: Array
    degree: Array


@dataclass(frozen=True, eq=False)
class Links(NamedArrays):
    """The links (n,) that make the forests, and the rows (m,) that have pairs, with their `degree` (m, radii)."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    radius: NDArray[np.int64]
    row: NDArray[np.int64]
    degree: NDArray[np.int64]


@dataclass(frozen=True)
class Components(Reduction[Forests, Links, Links]):
    """The components of distinct rows, of which there are `rows`, within each of the closed thresholds `radii`.

    A matrix is compared with itself. No state holds more links than rows: pairs of rows that are joined already are
    counted, and dropped.
    """

    radii: Thresholds
    rows: int
    name = "components"
    state_type = Links

    @property
    def nbytes(self) -> int:
        """Bytes of its states, on worker and client."""
        return 8 * self.rows * (6 * self.radii.distance.size + 8) + 100 * _STRIP_PAIRS

    @property
    def only_near(self) -> bool:
        """True."""
        return True

    def span(self, exact: Exact) -> float:
        """The value at the largest radius."""
        return self.radii.span(exact)

    def empty(self, hint: Array | None = None) -> Forests:  # noqa: ARG002
        """The state in which no row has a pair."""
        radii = self.radii.distance.size
        return Forests(np.tile(np.arange(self.rows), (radii, 1)), np.zeros((self.rows, radii), np.int64))

    def update(self, state: Forests, tile: Tile, exact: Exact) -> Forests:
        """Add the pairs of a tile, in place."""
        (low, high), product = tile.terms, tile.product
        outside = round_up(self.radii.in_points(exact)[1][-1:], tile.precision.dtype).item()
        step = max(1, min(-(-len(product) // 4), _STRIP_PAIRS // max(1, product.shape[1])))
        left = []
        for start in range(0, len(product), step):
            part = slice(start, start + step)
            some = product[part], low._replace(row=low.row[part]), high._replace(row=high.row[part])
            i, j, radius, sure = self._decided(*some, outside, exact)
            if tile.diagonal:
                keep = j > i + start
                i, j, radius, sure = i[keep], j[keep], radius[keep], sure[keep]
            left.append((i[~sure] + start, j[~sure]))
            self._add(state, *tile.pairs(i[sure] + start, j[sure]), radius[sure])
        i, j = (np.concatenate(part) for part in zip(*left, strict=True))
        radius = classes(self.radii, tile, i, j, exact)
        self._add(state, *tile.pairs(i, j), radius)
        return state

    def _decided(
        self, product: torch.Tensor, low: LinearBound, high: LinearBound, outside: float, exact: Exact
    ) -> tuple[Array, Array, Array, Array]:
        """The pairs i, j (p,) of some rows of a tile that may be within a radius, its number, and whether it is sure.

        `outside` is a bound of the values of points of all pairs within any radius.
        """
        no_limit = np.full_like(low.column, -np.inf)
        i, j, least = select(product, low, np.full_like(low.row, outside), no_limit, diagonal=False)
        most = upper_bounds(product, low, high, i, j, least)
        return i, j, *self.radii.between(least.astype(np.float64), most, exact)

    def _add(self, state: Forests, first: Array, second: Array, radius: Array) -> None:
        """Add pairs of rows (p,). `radius` (p,) is the index of the smallest radius that each is within, or larger."""
        within = radius < self.radii.distance.size
        first, second, radius = first[within], second[within], radius[within]
        np.add.at(state.degree, (first, radius), 1)
        np.add.at(state.degree, (second, radius), 1)
        forests.join(state.parent, first, second, radius)

    def finish(self, state: Forests, exact: Exact) -> Links:  # noqa: ARG002
        """The links, and the rows that have pairs."""
        row = np.flatnonzero(state.degree.any(axis=1))
        return Links(*forests.links(state.parent), row, state.degree[row])

    def merge(self, merged: Links | None, found: list[Links], exact: Exact) -> Links:
        """Join the forests, and add up the degrees."""
        total = self.empty()
        for each in found if merged is None else [merged, *found]:
            total.degree[each.row] += each.degree
            forests.join(total.parent, each.first, each.second, each.radius)
        return self.finish(total, exact)

    def finalize(self, state: Links, sides: Sides, exact: Exact) -> Variables:  # noqa: ARG002
        """Name the variables that `analyses.components` documents, but diameters."""
        total = self.empty()
        total.degree[state.row] = state.degree
        forests.join(total.parent, state.first, state.second, state.radius)
        rows, radii = sides.first, self.radii.distance
        degree, line = np.cumsum(total.degree, axis=1), token_lines(sides.first)
        found = [
            _of_radius(root, each, rows.weights)
            for root, each in zip(forests.roots(total.parent), degree.T, strict=True)
        ]
        sizes = np.array([one.root.size for one in found])
        before = np.cumsum(sizes) - sizes
        number = np.stack([np.where(one.number < 0, -1, one.number + n) for one, n in zip(found, before, strict=True)])
        root, tokens, distinct, edges = (
            np.concatenate(part)
            for part in zip(*((one.root, one.tokens, one.rows, one.edges) for one in found), strict=True)
        )
        most = distinct * (distinct - 1) // 2
        of_component = ("connected_component",)
        return {
            "radius": (("radius",), radii),
            "token_to_component": (("token_id", "radius"), number.T[line]),
            "degree": (("token_id", "radius"), degree[line]),
            "component_count": (("radius",), np.array([one.all for one in found])),
            "alone_count": (("radius",), np.array([one.all - one.root.size for one in found])),
            "isolated_count": (("radius",), np.count_nonzero(degree == 0, axis=0)),
            "edge_count": (("radius",), degree.sum(axis=0) // 2),
            "distinct_count": ((), np.array(self.rows)),
            "token_count": ((), np.array(rows.members.size)),
            "component_radius": (of_component, np.repeat(radii, sizes)),
            "component_token_count": (of_component, tokens),
            "component_distinct_count": (of_component, distinct),
            "component_edge_count": (of_component, edges),
            "component_density": (of_component, np.where(most > 0, edges / np.maximum(most, 1), np.nan)),
            "component_token_id": (of_component, rows.token_id[root]),
        }


class _Found(NamedTuple):
    """The components at one radius: how many, `all`, and of those of two tokens or more (c,) `root` and sizes.

    These come by tokens, most first, then by lowest row. `number` (rows,) is that of the component of each row, -1
    where its token is alone.
    """

    all: int
    number: Array
    root: Array
    tokens: Array
    rows: Array
    edges: Array


def _of_radius(root: Array, degree: Array, weights: Array) -> _Found:
    """The components at one radius, from the lowest row of each row's, and the pairs of each row."""
    count = np.bincount(root, minlength=root.size)
    tokens, ends = (np.zeros(root.size, np.int64) for _ in range(2))
    np.add.at(tokens, root, weights)
    np.add.at(ends, root, degree)
    (several,) = np.nonzero(tokens > 1)
    order = several[np.argsort(-tokens[several], kind="stable")]
    number = np.full(root.size, -1)
    number[order] = np.arange(order.size)
    return _Found(int(np.count_nonzero(count)), number[root], order, tokens[order], count[order], ends[order] // 2)
