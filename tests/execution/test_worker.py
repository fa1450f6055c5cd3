from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from distributed import Client
from scipy.spatial.distance import cdist, pdist

from embgeom_dask import devices, tuning
from embgeom_dask.analyses.scan import scan
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.execution import point_format, product_checks
from embgeom_dask.metrics import METRICS, Workspace, matrix_product
from embgeom_dask.pairwise import tiles
from embgeom_dask.pairwise.points import DIGITS
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import truth

ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
    "host": MemoryError("Unable to allocate 2.00 GiB for an array"),
}


@pytest.fixture
def exhausted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Lets products of more than so many rows fail from the `first` on; gives the rows of all that were asked for."""

    def install(most: int, error: Exception, first: int = 1) -> list[int]:
        asked: list[int] = []
        for element in ("int8", "bfloat16", "float32", "float64", *DIGITS):  # once a process, before the first tile
            product_checks.are_right("euclidean", element, torch.device("cpu"))

        def scarce(honest: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
            def product(rows: torch.Tensor, columns: torch.Tensor, *given: Any, **how: Any) -> torch.Tensor:
                asked.append(max(len(rows), len(columns)))
                if asked[-1] > most and len(asked) >= first:
                    raise error
                return honest(rows, columns, *given, **how)

            return product

        monkeypatch.setattr(point_format, "_cost", lambda *_: 0.0)  # planning multiplies samples
        monkeypatch.setattr(matrix_product, "multiply", scarce(matrix_product.multiply))
        monkeypatch.setattr(tiles, "multiply_digits", scarce(matrix_product.multiply_digits))
        return asked

    return install


def vocabulary(n: int = 150) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, 12)) * rng.uniform(0.5, 2, size=(n, 1))
    rows[20:30] = rows[20]
    return rows.astype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("kind", sorted(ERRORS))
@tuning.override(LEAST_TILE=16, TRIANGLE_STEPS=2)
def test_a_panel_that_runs_out_half_way_is_done_in_smaller_tiles(
    kind: str, monkeypatch: pytest.MonkeyPatch, exhausted: Callable[..., list[int]], client: Client, tmp_path: Any
) -> None:
    rows = vocabulary()
    store = make_store(tmp_path / "m.zarr", output=rows)
    asked = exhausted(16, ERRORS[kind], first=13)  # the third tile of the first panel of several
    kept = {"farthest": 20, "nearest": 60, "neighbors": 4, "histogram": 30, "within": [0, 2.5], "pairs_within": 1.5}
    result = scan(store, tile=32, client=client, **kept)
    assert asked[10:13] == [32] * 3
    assert max(asked[13:]) == 16
    expected = truth(rows)
    for name, k in (("farthest", 20), ("nearest", 60)):
        ids, _ = expected.best(k, farthest=name == "farthest")
        np.testing.assert_array_equal(result[f"{name}_token_id"], ids)
    for token in range(len(rows)):
        assert result["neighbor_token_id"].values[token].tolist() == expected.neighbors(token, 4)[0]
    np.testing.assert_array_equal(result["histogram_count"], expected.counts(result["bin_edge"].values))
    distance = pdist(rows.astype(np.float64))
    np.testing.assert_array_equal(result["within_count"], [(distance == 0).sum(), (distance <= 2.5).sum()])
    assert result.sizes["pair"] == (distance <= 1.5).sum()


@pytest.mark.parametrize("most", [3, 13])
@tuning.override(LEAST_TILE=1)
def test_tiles_are_halved_until_they_fit(
    most: int, monkeypatch: pytest.MonkeyPatch, exhausted: Callable[..., list[int]], client: Client, tmp_path: Any
) -> None:
    rows, other = vocabulary(), vocabulary(90)[20:]
    stores = make_store(tmp_path / "m.zarr", output=rows), make_store(tmp_path / "n.zarr", output=other)
    asked = exhausted(most, ERRORS["cuda"])
    farthest = scan(stores[0], farthest=30, tile=64, client=client)  # by ranked blocks
    ids, _ = truth(rows).best(30, farthest=True)
    np.testing.assert_array_equal(farthest["farthest_token_id"], ids)
    against = scan(stores[0], against=stores[1], nearest=30, within=2.0, tile=64, client=client)
    ids, _ = truth(rows, against=(other, np.arange(len(other)))).best(30, farthest=False)
    np.testing.assert_array_equal(against["nearest_token_id"], ids)
    near = cdist(rows.astype(np.float64), other.astype(np.float64)) <= 2.0
    np.testing.assert_array_equal(against["within_degree"][:, 0], near.sum(axis=1))
    larger = [rows for rows in asked if rows > most]
    assert {64, 32, 16} <= set(larger)
    assert len(larger) < 20  # later panels start with tiles that fit


@pytest.mark.parametrize(("tile", "least"), [(128, 32), (24, 24), (66, 33)])
def test_it_gives_up_in_one_line(
    tile: int, least: int, exhausted: Callable[..., list[int]], client: Client, tmp_path: Any
) -> None:
    store = make_store(tmp_path / "m.zarr", output=vocabulary())
    exhausted(0, ERRORS["cpu"])
    with pytest.raises(EmbgeomError, match=f"cpu is out of memory even with tiles of {least} rows: free some") as gave:
        scan(store, nearest=1, tile=tile, client=client, out=tmp_path / "r.zarr")
    assert "\n" not in str(gave.value)
    assert not (tmp_path / "r.zarr").exists()


def test_other_failures_are_no_lack_of_memory(
    exhausted: Callable[..., list[int]], client: Client, tmp_path: Any
) -> None:
    store = make_store(tmp_path / "m.zarr", output=vocabulary())
    asked = exhausted(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(Exception, match="mat1 and mat2"):
        scan(store, nearest=1, tile=64, client=client)
    assert set(asked) == {64, 13}  # the last block is shorter


def test_torch_itself_says_that_memory_ran_out() -> None:
    with pytest.raises(RuntimeError) as said:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert devices.out_of_memory(said.value)
    with pytest.raises(MemoryError) as said_too:
        np.empty(1 << 60, np.uint8)
    assert devices.out_of_memory(said_too.value)
    assert METRICS["euclidean"].product(torch.ones(2, 3), torch.ones(1, 3), Workspace()).tolist() == [[3], [3]]
