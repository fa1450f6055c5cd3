"""The K nearest neighbours of every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.exact import Exact
from embgeom_dask.kernels import nearest, tighten
from embgeom_dask.metrics import Terms
from embgeom_dask.reductions.expand import Sides, expand_neighbors
from embgeom_dask.tiles import Tile, crowd, finer

Array = NDArray[Any]
State = dict[str, Array]

_TIES = 2
"""Pairs for each place of a table, beyond which its ties are resolved."""


@dataclass(frozen=True)
class Neighbors:
    """The `k` nearest of each of `rows` rows; ties go to the lowest ids.

    Where `mutual`, both rows of a pair are among the `rows`, and one product serves both. Identical rows are left out
    where `twin` (rows,) int64 is given, the position on the second side of the row identical to each, -1 where none is.

    State on a worker, while a panel runs: the candidates `first`, `second` (int64) and `least`, a lower bound of their
    value; `best` (rows, k) float64, the smallest upper bounds of each row; `limit` (rows,) float64, what a pair must
    not exceed to be among the k of a row; bounds in units of the points. State that leaves it: the pairs that may be
    among the k of a row, `first`, `second` and their `value` in plain float64.
    """

    k: int
    rows: int
    mutual: bool
    twin: Array | None = None
    name = "neighbors"

    @property
    def nbytes(self) -> int:
        """Bytes of its states: limits and bounds on the worker, tables on the client while they are sorted."""
        return self.rows * (16 + 8 * self.k + 6 * 24 * self.k)

    def empty(self, hint: Array | None = None) -> State:
        """No candidates; `hint` is the limit that other panels reached."""
        return {
            "first": np.empty(0, np.int64),
            "second": np.empty(0, np.int64),
            "least": np.empty(0),
            "best": np.full((self.rows, self.k), np.inf),
            "limit": np.full(self.rows, np.inf) if hint is None else hint.copy(),
        }

    def update(self, state: State, tile: Tile, exact: Exact) -> State:
        """Add the pairs of a tile that may be among the nearest of either row; tightens `best` and `limit` in place."""
        touched = np.union1d(tile.rows.positions, tile.columns.positions if self.mutual else tile.rows.positions)
        before = {name: state[name][touched] for name in ("best", "limit")}
        i, j, least = self._nearest(state, tile, tile.terms)
        wanted = self._wanted(state, *tile.pairs(i, j), least)
        rows, columns = crowd(tile, i[wanted], j[wanted])
        if not rows.size:
            return self._add(state, *tile.pairs(i, j), least)
        for name, part in before.items():
            state[name][touched] = part
        tile.product[torch.from_numpy(rows)[:, None], torch.from_numpy(columns)] = torch.nan
        i, j, least = self._nearest(state, tile, tile.terms)
        state = self._add(state, *tile.pairs(i, j), least)
        for finer_tile in finer(tile, rows, columns):  # their products take the memory of this tile's
            state = self.update(state, finer_tile, exact)
        return state

    def _nearest(self, state: State, tile: Tile, terms: tuple[Terms, Terms]) -> tuple[Array, Array, Array]:
        """The pairs of a tile that may be among the nearest of a row, and the lower bounds of their values."""
        rows, columns = tile.rows.positions, tile.columns.positions
        twin = None if self.twin is None else self.twin[rows]
        return nearest(
            tile.product,
            terms,
            state["best"],
            state["limit"],
            rows,
            columns,
            mutual=self.mutual,
            diagonal=tile.diagonal,
            twin=twin,
        )

    def finish(self, state: State, exact: Exact) -> State:
        """Give the candidates their values in float64, and keep those that may be among the k of a row."""
        values, _ = exact.values(state["first"], state["second"])
        table = {"first": state["first"], "second": state["second"], "value": values}
        return self._kept(table, state["limit"], exact)[0]

    def merge(self, states: list[State], exact: Exact) -> State:
        """Join the states of several panels; where many pairs tie, the ids decide which stay."""
        joined = {name: np.concatenate([state[name] for state in states]) for name in ("first", "second", "value")}
        table, _ = self._kept(joined, np.full(self.rows, np.inf), exact)
        if table["value"].size <= _TIES * self.rows * self.k:
            return table
        order, rank = exact.rank(table["first"], table["second"], table["value"])
        table = {name: column[order] for name, column in table.items()}
        _, _, pair, place = self._directed(table, rank)
        keep = np.zeros(rank.size, np.bool_)
        keep[pair[place < self.k]] = True
        return {name: column[keep] for name, column in table.items()}

    def hint(self, state: State, exact: Exact) -> Array:
        """What the value of each row's k-th neighbour so far cannot exceed, in units of the points."""
        return self._kept(state, np.full(self.rows, np.inf), exact)[1]

    def finalize(self, state: State, sides: Sides, exact: Exact) -> dict[str, tuple[tuple[str, ...], Array]]:
        """Name the neighbours of every token, nearest first: `neighbor_distance` and `neighbor_token_id`."""
        order, rank = exact.rank(state["first"], state["second"], state["value"])
        table = {name: column[order] for name, column in state.items()}
        ordered = exact.settle(table["first"], table["second"], table["value"])
        source, target, pair, _ = self._directed(table, rank)
        token_id, values = expand_neighbors(source, target, rank[pair], ordered[pair], sides, self.k, self.twin)
        dims = ("token_id", "neighbor")
        distance = exact.metric.distance(values)
        return {"neighbor_distance": (dims, distance), "neighbor_token_id": (dims, token_id)}

    def _kept(self, table: State, limit: Array, exact: Exact) -> tuple[State, Array]:
        """The pairs that may be among the k of a row by their float64 values, and every row's limit."""
        slack = exact.metric.direct_slack(table["value"], exact.width)
        state = {**self.empty(limit), "value": np.empty(0)}
        most = (table["value"] + slack) * exact.unit
        tighten(state["best"], state["limit"], table["first"], table["second"] if self.mutual else None, most)
        kept = self._add(state, table["first"], table["second"], (table["value"] - slack) * exact.unit, table["value"])
        return {name: kept[name] for name in table}, kept["limit"]

    def _add(self, state: State, first: Array, second: Array, least: Array, *more: Array) -> State:
        """Add pairs to the columns of a state, and drop those that its limits rule out."""
        added = zip(("first", "second", "least", "value"), (first, second, least, *more), strict=False)
        columns = {name: np.concatenate([state[name], column]) for name, column in added}
        keep = self._wanted(state, *(columns[name] for name in ("first", "second", "least")))
        return {**state, **{name: column[keep] for name, column in columns.items()}}

    def _wanted(self, state: State, first: Array, second: Array, least: Array) -> Array:
        """Which pairs (p,) the limits of a state do not rule out."""
        wanted: Array = least <= state["limit"][first]
        if self.mutual:
            wanted |= least <= state["limit"][second]
        return wanted

    def _directed(self, ordered: State, rank: Array) -> tuple[Array, Array, Array, Array]:
        """See each pair from its row, or both: source, target, index of the pair, place among the neighbours."""
        source, target, pair = ordered["first"], ordered["second"], np.arange(rank.size)
        if self.mutual:
            source, target = np.concatenate([source, target]), np.concatenate([target, source])
            pair = np.tile(pair, 2)
        order = np.lexsort((target, rank[pair], source))
        source, target, pair = source[order], target[order], pair[order]
        place = np.arange(source.size) - np.searchsorted(source, source)
        return source, target, pair, place
