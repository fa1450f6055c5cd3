from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from embgeom_dask import devices, tuning
from embgeom_dask.analyses.scan import scan
from embgeom_dask.execution.point_format import choose_point_format
from embgeom_dask.execution.spec import ScanSpec
from embgeom_dask.metrics import METRICS, Workspace, matrix_product
from embgeom_dask.pairwise.blocks import Block
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import truth
from embgeom_dask.testing.strategies import matrices, slow_examples
from tests.analyses.test_scan import Careless, check

INT8_FIRST = ["int8", "bfloat16", "float32"]


@pytest.fixture
def rounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neighbors are sought by products of integers, however many pairs these leave undecided."""
    monkeypatch.setattr(devices, "fastest", lambda _: INT8_FIRST)
    with tuning.override(UNDECIDED=dict.fromkeys(tuning.UNDECIDED, 1e9)):
        yield


def crowded(count: int) -> np.ndarray:
    """Rows of which a fifth lie close to one point, nearly tied neighbors of all others: (count, 256) bfloat16."""
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(count, 256)) / 16 * rng.uniform(0.8, 1.2, (count, 1))
    place = rng.permutation(count)[: count // 5]
    rows[place] = 0.4 * rows[0] / np.linalg.norm(rows[0]) + 1e-3 / 16 * rng.normal(size=(place.size, 256))
    return rows.astype(ml_dtypes.bfloat16)


def choose(*sides: np.ndarray, fastest: list[str] = INT8_FIRST, element: str | None = None, **kept: int) -> list[str]:
    """The element that is chosen for the rows of one side or two, and the one behind it."""
    centre = sides[0][:512].astype(float).mean(axis=0)
    away = [np.linalg.norm(rows.astype(float) - centre, axis=1) for rows in sides]
    dtypes, samples = {rows.dtype.name for rows in sides}, [rows[:512] for rows in sides]
    point_format = choose_point_format(
        ScanSpec(metric="euclidean", **kept), dtypes, centre, away, samples, fastest, element
    )
    return [point_format.element] + ([point_format.unrounded.element] if point_format.unrounded else [])


def test_integers_are_chosen_where_they_tell_neighbors_from_most_others() -> None:
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(3000, 512))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    groups = directions + 2 * rng.normal(size=(200, 512))[rng.integers(0, 200, 3000)] / np.sqrt(512)
    alike, apart = (rows.astype(ml_dtypes.bfloat16) for rows in (directions, groups))
    assert choose(apart, neighbors=10) == ["int8", "bfloat16"]
    assert choose(apart, fastest=["bfloat16", "int8", "float32"], neighbors=10) == ["bfloat16"]
    assert choose(apart.astype(np.float32), neighbors=10) == ["int8", "float32"]
    assert choose(apart.astype(np.float64), neighbors=10) == ["int8", "float64"]
    assert choose(apart, neighbors=10, nearest=3) == ["bfloat16"]
    assert choose(apart, neighbors=10, farthest=3) == ["int8", "bfloat16"]
    assert choose(apart, neighbors=10, histogram=9) == ["int8x3", "float64"]
    assert choose(apart, fastest=["bfloat16", "float32"], histogram=9) == ["float64x3", "float64"]
    assert choose(alike, neighbors=10) == ["bfloat16"]
    assert choose(alike, element="int8", neighbors=10) == ["int8", "bfloat16"]
    assert choose(alike, element="float32", neighbors=10) == ["float32"]
    assert choose(alike, farthest=3) == ["int8"]
    assert choose(alike[:, :15], farthest=3) == ["bfloat16"]
    assert choose(apart, element="int8", fastest=["bfloat16", "float32"], neighbors=10) == ["bfloat16"]
    assert choose(apart, apart[::-1], neighbors=10) == ["int8", "bfloat16"]
    wide = rng.normal(size=(2, 600, 4096)).astype(ml_dtypes.bfloat16)
    assert choose(*wide, neighbors=10) == ["bfloat16"]


@pytest.mark.filterwarnings("error")
def test_rows_of_any_length_have_a_scale() -> None:
    rows = np.zeros((200, 16))
    rows[0], rows[1], rows[2:100] = 2.0**390, -(2.0**390), 2.0**-390
    assert choose(rows, neighbors=3)[-1] == "float64"
    assert choose(rows, farthest=3) == ["int8"]
    assert choose(rows[100:], element="int8", neighbors=3) == ["int8", "float64"]


@settings(deadline=None, max_examples=80)
@given(matrices(max_rows=30), st.sampled_from([16, 20, 48]), st.sampled_from(["euclidean", "cosine"]))
def test_bounds_of_unrounded_points_hold_as_those_of_the_integers(rows: np.ndarray, repeat: int, metric: str) -> None:
    rows = np.tile(rows, (1, repeat))
    if metric == "cosine":
        rows = rows[(rows != 0).any(axis=1)]
        assume(len(rows))
    centre = rows.astype(float).mean(axis=0) if METRICS[metric].shifts else np.zeros(rows.shape[1])
    away = np.linalg.norm(rows.astype(float) - centre, axis=1)
    asked = ScanSpec(metric=metric, neighbors=1)
    point_format = choose_point_format(asked, {rows.dtype.name}, centre, [away], [rows], INT8_FIRST, "int8")
    assert point_format.element == "int8"
    block = Block(np.arange(100, 100 + len(rows)), rows, *point_format.points(rows), away, 100, point_format)
    tile = Tile(METRICS[metric], block.take(np.arange(0, len(rows), 2)), block, diagonal=False)
    x, y = (np.longdouble(rows[side.positions - 100].astype(float)) for side in (tile.rows, tile.columns))
    if metric == "cosine":  # half the squared distance of unit vectors
        x, y = (side / np.sqrt((side**2).sum(-1) * 2)[:, None] for side in (x, y))
    true = ((x[:, None] - y) ** 2).sum(-1) * np.longdouble(point_format.unit)
    for each in (tile, tile.unrounded()):
        kind = each.terms[0].row.dtype.type
        p = each.product.to(torch.float64).numpy().astype(kind)
        least, most = (
            t.row[:, None] + t.column + kind(t.factor) * p + kind(t.abs_factor) * np.abs(p) for t in each.terms
        )
        assert np.isfinite(most).all()
        assert (least <= true).all()
        assert (most >= true).all()


@slow_examples
@given(
    rows=matrices(),
    repeat=st.sampled_from([16, 20]),
    tile=st.sampled_from([3, 16, 2048]),
    k=st.integers(1, 30),
    cut=st.none() | st.tuples(st.integers(0, 40), st.integers(0, 40)),
    farthest=st.booleans(),
    distinct=st.booleans(),
)
def test_neighbors_by_8_bit_integers_equal_rational_brute_force(
    rows: np.ndarray,
    repeat: int,
    tile: int,
    k: int,
    cut: tuple[int, int] | None,
    farthest: bool,
    distinct: bool,
    rounded: None,
    client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rows = np.tile(rows, (1, repeat))
    folder = tmp_path_factory.mktemp("scan")
    first, second = (rows, None) if cut is None else (rows[c:] if c < len(rows) else rows for c in cut)
    against = None if second is None else make_store(folder / "n.zarr", output=second)
    asked = {"neighbors": k, "tile": max(tile, len(rows) // 8), "distinct": distinct}
    asked |= {"farthest": k} if farthest else {}
    result = scan(make_store(folder / "m.zarr", output=first), against=against, client=client, **asked)
    assert json.loads(result.attrs["certificate"])["products"] == "int8"
    expected = truth(first, against=None if second is None else (second, np.arange(len(second))))
    check(result.drop_vars([str(name) for name in result.data_vars if "neighbor" in str(name)]), expected, np.arange(0))
    others = expected.between_other_rows(first, second) if distinct else expected
    for token, found in enumerate(result["neighbor_token_id"].values.tolist()):
        ids, distance = others.neighbors(token, len(found))
        assert found == ids + [-1] * (len(found) - len(ids))
        known = result["neighbor_distance"].values[token, : len(ids)]
        np.testing.assert_allclose(known, distance, rtol=1e-12, atol=1e-28)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("against", [False, True])
def test_a_crowd_among_integers_is_told_apart_unrounded(
    dtype: str, against: bool, rounded: None, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = crowded(900).astype(dtype)
    store = make_store(tmp_path / "m.zarr", output=rows)
    made: list[int] = []
    plain = Block.unrounded
    monkeypatch.setattr(Block, "unrounded", lambda block: made.append(block.size) or plain(block))
    whole = {256, 128, 900 % 256, 900 % 256 // 2}  # blocks, and halves of them
    result = scan(store, neighbors=5, tile=256, client=client, **({"against": store} if against else {}))
    assert set(made) - whole, "no part of a tile was multiplied again"
    square = cdist(rows.astype(np.float64), rows.astype(np.float64))
    if not against:
        np.fill_diagonal(square, np.inf)
    np.testing.assert_array_equal(result["neighbor_token_id"], np.argsort(square, axis=1, kind="stable")[:, :5])
    np.testing.assert_allclose(result["neighbor_distance"], np.sort(square, axis=1)[:, :5], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("against", [False, True])
def test_neighbors_in_cosine_by_integers_are_those_of_products_of_float32(
    against: bool, rounded: None, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = crowded(600)
    rows *= np.exp2(np.arange(600) % 7 - 3).astype(rows.dtype)[:, None]
    rows[5] = 0
    store = make_store(tmp_path / "m.zarr", output=rows)
    asked = {"neighbors": 5, "tile": 256, "client": client, "metric": "cosine"} | (
        {"against": store} if against else {}
    )
    by_integers = scan(store, farthest=3, **asked)
    assert json.loads(by_integers.attrs["certificate"])["products"] == "int8"
    monkeypatch.setattr(devices, "fastest", lambda _: ["float32"])
    xr.testing.assert_identical(by_integers.drop_attrs(), scan(store, farthest=3, **asked).drop_attrs())


def test_a_row_said_to_lose_too_little_by_rounding_loses_neighbors(
    rounded: None, monkeypatch: pytest.MonkeyPatch, client: Client, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    groups = rng.normal(size=(20, 64))[rng.integers(0, 20, 600)]
    rows = (groups + 1e-2 * rng.normal(size=(600, 64))).astype(np.float32)
    store = make_store(tmp_path / "m.zarr", output=rows)
    honest = scan(store, neighbors=5, client=client, tile=100)
    monkeypatch.setitem(METRICS, "euclidean", Careless())
    wrong = scan(store, neighbors=5, client=client, tile=100)
    square = cdist(rows.astype(np.float64), rows.astype(np.float64))
    np.testing.assert_array_equal(honest["neighbor_token_id"], np.argsort(square, axis=1)[:, 1:6])
    assert not np.array_equal(honest["neighbor_token_id"], wrong["neighbor_token_id"])


def test_halved_tiles_of_integers_find_the_same(
    rounded: None, monkeypatch: pytest.MonkeyPatch, client: Client, tmp_path: Path
) -> None:
    rows = crowded(700)
    store = make_store(tmp_path / "m.zarr", output=rows)
    plain = scan(store, neighbors=4, tile=256, client=client)
    multiply, sizes = matrix_product.multiply, set[int]()

    def scarce(first: torch.Tensor, second: torch.Tensor, workspace: Workspace) -> torch.Tensor:
        if 64 < max(len(first), len(second)) <= 256:  # a tile; planning multiplies a sample of 700 rows
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.add(len(first))
        return multiply(first, second, workspace)

    monkeypatch.setattr(matrix_product, "multiply", scarce)
    halved = scan(store, neighbors=4, tile=256, client=client)
    assert 64 in sizes
    for name in ("neighbor_token_id", "neighbor_distance"):
        np.testing.assert_array_equal(plain[name], halved[name])
