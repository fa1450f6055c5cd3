"""No answer depends on how tiles are grouped into panels, on the order in which these are merged, or on hints."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embgeom_dask import tuning
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.kernels.row_norms import norms
from embgeom_dask.metrics import METRICS
from embgeom_dask.pairwise.blocks import Block
from embgeom_dask.pairwise.exact import Exact, Rows
from embgeom_dask.pairwise.points import PointFormat
from embgeom_dask.pairwise.rows import DistinctRows, Sides
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions import (
    Extreme,
    Histogram,
    Neighbors,
    OrderStatistics,
    PairsWithin,
    Reductions,
    RowEnd,
    RowMoments,
    RowProducts,
    Thresholds,
    Within,
)
from embgeom_dask.testing.strategies import matrices

STEP = 4  # rows of a block


@dataclass
class Case:
    """A matrix with itself, or the first of its rows with the others, tile by tile."""

    exact: Exact
    sides: Sides
    tiles: list[Tile]


def shared(count: int, rng: np.random.Generator) -> DistinctRows:
    """So many distinct rows, each of one to three tokens."""
    row = np.concatenate([np.arange(count), rng.integers(0, count, rng.integers(0, count + 1))])
    row = row[np.argsort(row)]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row))])
    members = np.arange(row.size)
    return DistinctRows(members[offsets[:-1]], members, offsets, np.zeros(0, np.int64))


def apart(count: int) -> DistinctRows:
    """So many distinct rows, each of one token."""
    return DistinctRows(np.arange(count), np.arange(count), np.arange(count + 1), np.zeros(0, np.int64))


@st.composite
def cases(draw: Any) -> Case:
    rows, metric = draw(matrices(max_rows=20, max_width=6)), METRICS[draw(st.sampled_from(sorted(METRICS)))]
    rows[~rows.astype(float).any(axis=1)] = 1
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    symmetric = len(rows) < 2 or draw(st.booleans())
    parts = [rows, rows] if symmetric else [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    centre = np.zeros(rows.shape[1])
    length = metric.distance_from_centre(*norms(rows, centre).T).max()
    form = PointFormat(metric.name, "float64", centre, float(2.0 ** -np.ceil(np.log2(length * (1 + 1e-9)))))

    def block(part: np.ndarray, start: int) -> Block:
        some = part[start : start + STEP]
        places = np.arange(start, start + len(some))
        return Block(places, some, *form.points(some), np.zeros(len(some)), start, form)

    def stored(part: np.ndarray) -> Rows:
        length = np.sqrt(norms(part)[:, 1]) * (1 + 1e-9)
        return Rows(STEP, lambda index: part[index * STEP : (index + 1) * STEP], length)

    blocks = [[block(part, start) for start in range(0, len(part), STEP)] for part in parts]
    tiles = [
        Tile(metric, one, other, diagonal=symmetric and i == j)
        for i, one in enumerate(blocks[0])
        for j, other in enumerate(blocks[1])
        if j >= i or not symmetric
    ]
    first = shared(len(parts[0]), rng) if not (symmetric and metric.is_product) else apart(len(parts[0]))
    second = first if symmetric else shared(len(parts[1]), rng)
    return Case(
        Exact(metric, stored(parts[0]), stored(parts[1]), rows.shape[1], form.unit),
        Sides(first, second, symmetric),
        tiles,
    )


def exponent(case: Case) -> int:
    """That of a power of two which no distance exceeds."""
    first, second = np.indices((case.sides.first.token_id.size, case.sides.second.token_id.size)).reshape(2, -1)
    return int(np.frexp(np.abs(case.exact.distances(first, second)).max())[1])


def reductions_of(case: Case, k: int, rng: np.random.Generator) -> Reductions:
    """All of them, with thresholds at distances of pairs."""
    metric, sides = case.exact.metric, case.sides
    rows = sides.first.token_id.size
    weights = sides.first.weights, sides.second.weights
    moments = RowMoments(rng.integers(0, 3, rows) + exponent(case), weights, sides.symmetric)
    ends_of_rows = [RowEnd(1, rows, sides.symmetric, largest=largest) for largest in (False, True)]
    if metric.is_product:
        products: list[Any] = [moments, *ends_of_rows]
        products += [Extreme(k, farthest, of_products=True) for farthest in (False, True)]
        products += [RowProducts(k, rows, sides.symmetric, smallest=smallest) for smallest in (False, True)]
        return {reduction.name: reduction for reduction in products}
    first, second = np.indices((sides.first.token_id.size, sides.second.token_id.size)).reshape(2, -1)
    apart = first < second if sides.symmetric else np.ones(first.size, bool)
    distance = np.append(case.exact.distances(first[apart], second[apart]), 1.0)
    radii = np.unique(rng.choice(distance, 3))
    edges = np.unique([0.0, *radii, 2 * distance.max()])
    pairs = int((weights[0][first] * weights[1][second])[apart].sum())
    found: list[Any] = [
        moments,
        *ends_of_rows,
        Extreme(k, farthest=True),
        Extreme(k, farthest=False),
        Neighbors(k, rows, sides.symmetric),
        Histogram(Thresholds.at(metric, edges, closed=False), weights),
        Within(Thresholds.at(metric, radii, closed=True), weights, sides.symmetric),
        PairsWithin(Thresholds.at(metric, radii[:1], closed=True), 4 * k, weights, sides.symmetric),
        OrderStatistics(
            Thresholds.at(metric, edges, closed=False),
            tuple(range(edges.size + 1)),
            np.unique(rng.integers(0, pairs + 1, 5)),
            weights,
        ),
    ]
    return {reduction.name: reduction for reduction in found}


def panel(reduction: Any, tiles: list[Tile], exact: Exact, hint: Any = None) -> Any:
    state = reduction.empty(hint)
    for tile in tiles:
        state = reduction.update(state, tile, exact)
    found = reduction.finish(state, exact)
    assert type(found) is reduction.state_type
    assert {name: array.dtype for name, array in found.arrays().items()} == reduction.state_type.dtypes()
    return found


def named(reduction: Any, state: Any, case: Case) -> Any:
    """The variables of the result, bit for bit, or why there are none."""
    try:
        variables = reduction.finalize(state, case.sides, case.exact)
    except EmbgeomError as error:
        return str(error)
    return {name: (dims, array.dtype, array.shape, array.tobytes()) for name, (dims, array) in variables.items()}


@settings(max_examples=20)
@given(case=cases(), k=st.integers(1, 6), seed=st.integers(0, 999), ties=st.sampled_from([0.3, 2]), told=st.booleans())
def test_panels_may_be_merged_in_any_order_and_grouping(case: Case, k: int, seed: int, ties: float, told: bool) -> None:
    rng = np.random.default_rng(seed)
    for reduction in reductions_of(case, k, rng).values():
        whole = reduction.merge(None, [panel(reduction, case.tiles, case.exact)], case.exact)
        expected = named(reduction, whole, case)
        order = [case.tiles[place] for place in rng.permutation(len(case.tiles)).tolist()]
        cuts = np.flatnonzero(rng.random(len(order) + 1) < 0.6).tolist()
        panels = [order[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(order)], strict=True)]
        merged, collected = None, []
        with tuning.override(NEIGHBOR_TIES=ties):
            for tiles in panels:
                hint = reduction.hint(merged, case.exact) if told and merged is not None else None
                collected.append(panel(reduction, tiles, case.exact, hint))
                if rng.random() < 0.5:
                    merged, collected = merge(reduction, merged, collected, case.exact), []
            merged = merge(reduction, merged, collected, case.exact)
        assert named(reduction, merged, case) == expected


def merge(reduction: Any, merged: Any, found: list[Any], exact: Exact) -> Any:
    before = pickle.dumps((merged, found))
    joined = reduction.merge(merged, found, exact)
    assert pickle.dumps((merged, found)) == before, "what was merged has changed"
    return joined


@settings(max_examples=20)
@given(case=cases(), k=st.integers(1, 6))
def test_what_nothing_was_merged_of_is_what_no_pairs_give(case: Case, k: int) -> None:
    for reduction in reductions_of(case, k, np.random.default_rng(k)).values():
        if isinstance(reduction, Neighbors | OrderStatistics):  # these need the pairs that the others lack
            continue
        nothing = reduction.merge(None, [], case.exact)
        assert named(reduction, nothing, case) == named(
            reduction, reduction.merge(nothing, [panel(reduction, [], case.exact)], case.exact), case
        )
