from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed import Client

from embgeom_dask.analyses.scan import scan
from embgeom_dask.execution.worker_state import WorkerState
from embgeom_dask.metrics import METRICS, Workspace
from embgeom_dask.pairwise.blocks import Block
from embgeom_dask.pairwise.exact import Exact, Rows
from embgeom_dask.pairwise.points import PointFormat
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.testing import make_store


def block_of(rows: np.ndarray, element: str) -> Block:
    form = PointFormat("euclidean", element, np.zeros(rows.shape[1]), 1.0)
    return Block(np.arange(len(rows)), rows, *form.points(rows), np.zeros(len(rows)), point_format=form)


@pytest.mark.parametrize("element", ["int8", "float32", "float64"])
@pytest.mark.parametrize("held", [lambda product: product, lambda product: product[3], lambda product: product.numpy()])
def test_a_product_that_is_held_is_not_written_over(element: str, held: Any) -> None:
    rows = np.random.default_rng(0).integers(-9, 10, (40, 16)).astype(np.float32)
    workspace, block = Workspace(), block_of(rows, element)
    points = block.points.double()
    right = points @ points.T
    first = Tile(METRICS["euclidean"], block, block, diagonal=False, workspace=workspace)
    kept = held(first.product)
    expected = held(right)
    first.forget_product()
    for size in (40, 7, 40):
        part = block.take(slice(size))
        later = Tile(METRICS["euclidean"], part, part, diagonal=False, workspace=workspace)
        np.testing.assert_array_equal(later.product, right[:size, :size])
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(first.product, right)


def test_finer_products_made_beside_that_of_a_tile_leave_it_its_memory() -> None:
    workspace = Workspace()
    addresses = set()
    for _ in range(3):
        product = workspace.empty(40, 40, torch.float64)
        for size in (5, 20, 10):
            finer = workspace.empty(size, size, torch.float64)
            addresses.add(finer.data_ptr())
            del finer
        addresses.add(product.data_ptr())
        del product
    assert len(addresses) <= 3  # of 5 x 5, given up for 20 x 20, and of the tile


def test_values_that_a_tile_keeps_are_not_looked_up_again() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 16))
    stored = Rows(30, lambda _: rows)
    exact = Exact(METRICS["euclidean"], stored, stored, 16, 1.0)
    block = block_of(rows, "float64")
    tile = Tile(METRICS["euclidean"], block.take(slice(10)), block, diagonal=False)
    i, j = np.indices((10, 30)).reshape(2, -1)[:, ::-1]
    known = exact.values(i, j)
    assert np.isnan(tile.recall(i, j)[0]).all()
    tile.remember(i[::3], j[::3], known[0][::3], known[1][::3])
    exact.counts.clear()
    np.testing.assert_array_equal(tile.values(i, j, exact), known)
    assert exact.counts["float64"] == 200
    np.testing.assert_array_equal(np.isnan(tile.recall(i, j)[0]), np.arange(300) % 3 != 0)


def test_the_tiles_of_a_scan_take_the_same_memory(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).normal(size=(256, 16)).astype(np.float32)
    store = make_store(tmp_path / "m.zarr", output=rows)
    taken: list[int] = []
    products = 0
    empty = Workspace.empty

    def watched(self: Workspace, m: int, n: int, dtype: torch.dtype) -> torch.Tensor:
        nonlocal products
        products += 1
        before = [id(memory) for memory, _ in self._memories.get(dtype, [])]
        product = empty(self, m, n, dtype)
        if id(self._memories[dtype][-1][0]) not in before:
            taken.append(m * n)
        return product

    wanted: dict[str, Any] = {"farthest": 3, "nearest": 3, "neighbors": 3, "within": 2.0, "tile": 32}
    monkeypatch.setattr("embgeom_dask.execution.point_format._cost", lambda *_: 0.0)  # planning multiplies samples
    scan(store, **wanted, client=client)  # the first one of a process tries products of the type that is chosen
    monkeypatch.setattr(Workspace, "empty", watched)
    scan(store, **wanted, client=client)
    assert taken[:2] == [8 * 32, 32 * 32]  # of a tile on the diagonal, and of one that is not
    # The profiler of a dask worker holds frames, and so a product, for a moment: the next one then takes new memory.
    assert len(taken) <= 2 + products // 10


def test_a_panel_takes_over_the_memory_of_an_earlier_one() -> None:
    state = WorkerState()
    with state.workspace() as one, state.workspace() as other:
        assert one is not other
    with state.workspace() as again:
        assert again in (one, other)
    state.forget(set())
    with state.workspace() as new:
        assert new not in (one, other)
