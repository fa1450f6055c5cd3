from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from embgeom_dask.metrics import METRICS
from embgeom_dask.pairwise.blocks import Block
from embgeom_dask.pairwise.exact import Exact, Rows
from embgeom_dask.pairwise.points import PointFormat
from embgeom_dask.pairwise.refine import dense_pairs, finer_tiles
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions import Neighbors

EUCLIDEAN = METRICS["euclidean"]


def clustered(count: int) -> np.ndarray:
    """Rows of which a third lie close to one of two points: (count, 64) bfloat16."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(count, 64)) / 8
    near = rng.permutation(count)[: count // 3]
    rows[near] = 0.4 * rows[near % 2] + 1e-4 * rng.normal(size=(near.size, 64))
    return rows.astype(ml_dtypes.bfloat16)


def tile_of(rows: np.ndarray, element: str) -> Tile:
    centre = np.zeros(rows.shape[1])
    plain = PointFormat("euclidean", "bfloat16", centre, 1.0)
    chosen = plain if element == "bfloat16" else PointFormat("euclidean", "int8", centre, 256.0, plain)
    block = Block(np.arange(len(rows)), rows, *chosen.points(rows), np.zeros(len(rows)), point_format=chosen)
    return Tile(EUCLIDEAN, block, block, diagonal=True)


@pytest.mark.parametrize("element", ["bfloat16", "int8"])
def test_finer_tiles_hold_each_dense_pair_once(element: str) -> None:
    tile = tile_of(clustered(300), element)
    i, j = np.triu_indices(300, 1)
    dense = dense_pairs(tile, i, j)
    assert dense
    found = []
    for finer in finer_tiles(tile, dense):
        first, second = np.meshgrid(finer.rows.positions, finer.columns.positions, indexing="ij")
        found += list(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    rows, columns = np.meshgrid(np.flatnonzero(dense.rows), np.flatnonzero(dense.columns), indexing="ij")
    assert sorted(found) == sorted(zip(rows.ravel().tolist(), columns.ravel().tolist(), strict=True))


def test_a_tile_of_points_with_a_finer_form_is_multiplied_once() -> None:
    tile = tile_of(clustered(300), "int8")
    product = tile.product
    assert [finer.product.dtype for finer in finer_tiles(tile, dense_pairs(tile, *np.triu_indices(300, 1)))]
    assert tile.product is product


def test_few_or_scattered_pairs_are_not_dense() -> None:
    tile = tile_of(clustered(300), "bfloat16")
    assert not dense_pairs(tile, *np.triu_indices(300, 297))
    assert not dense_pairs(tile, np.arange(300), np.roll(np.arange(300), 1))
    assert list(finer_tiles(tile, dense_pairs(tile, np.zeros(0, int), np.zeros(0, int)))) == []


@pytest.mark.parametrize("element", ["bfloat16", "int8"])
def test_a_tile_whose_dense_pairs_were_multiplied_again_has_its_own_product(
    element: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = clustered(300)
    tile = tile_of(rows, element)
    made: list[Any] = []
    finer = Tile.like
    monkeypatch.setattr(Tile, "like", lambda whole, *given: made.append(given) or finer(whole, *given))
    unit = tile.rows.point_format.unit if tile.rows.point_format else 1.0
    side = Rows(300, lambda _: rows)
    exact = Exact(EUCLIDEAN, side, side, 64, unit)
    neighbors = Neighbors(5, 300, symmetric=True)
    start = neighbors.empty()
    if element == "int8":  # limits of a first tile, without which integers do not filter
        start = neighbors.update(start, tile_of(rows, "bfloat16"), exact)
        start = neighbors.empty(start.limit * 1.5 * unit)
        made.clear()
    state = neighbors.update(start, tile, exact)
    assert made, "no part of the tile was multiplied again"
    points = tile.rows.points.double()
    np.testing.assert_allclose(tile.product.double(), points @ points.T, rtol=2.0**-7, atol=2.0**-10)
    square = cdist(rows.astype(np.float64), rows.astype(np.float64), "sqeuclidean")
    np.fill_diagonal(square, np.inf)
    kept = {*zip(state.pairs.first.tolist(), state.pairs.second.tolist(), strict=True)}
    for row, near in enumerate(np.argsort(square, axis=1, kind="stable")[:, :5].tolist()):
        assert all((min(row, other), max(row, other)) in kept for other in near)
    assert torch.equal(tile.product, Tile(EUCLIDEAN, tile.rows, tile.columns, tile.diagonal).product)
