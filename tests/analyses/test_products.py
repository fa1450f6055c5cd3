"""Inner products of all pairs: the largest and the smallest, of the whole and of every row."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from embgeom_dask import devices, tuning
from embgeom_dask.analyses.scan import scan
from embgeom_dask.errors import InputError
from embgeom_dask.execution.callbacks import PanelCallback
from embgeom_dask.kernels.bounds import bounds_of_pairs
from embgeom_dask.metrics import METRICS
from embgeom_dask.pairwise import exact
from embgeom_dask.pairwise.blocks import Block
from embgeom_dask.pairwise.points import PointFormat
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.storage import results
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import Truth, truth
from embgeom_dask.testing.strategies import DTYPES, hostile, matrices, slow_examples
from tests.execution.test_point_format import INT8_FIRST


def check(result: xr.Dataset, expected: Truth, rows: int) -> None:
    """Compare every product that a scan found with brute force."""
    for name in ("largest", "smallest"):
        if f"{name}_product" in result:
            ids, product = expected.best(result.sizes[name], farthest=name == "largest")
            np.testing.assert_array_equal(result[f"{name}_token_id"], ids)
            np.testing.assert_array_equal(result[f"{name}_product"], product)
            assert not np.signbit(result[f"{name}_product"].values[product == 0]).any()
    for name in ("top", "bottom"):
        if f"{name}_product" in result:
            for row in range(rows):
                ids, products = expected.neighbors(row, result.sizes[name], farthest=name == "top")
                assert result[f"{name}_token_id"].values[row].tolist() == ids
                np.testing.assert_array_equal(result[f"{name}_product"].values[row], products)


@slow_examples
@given(
    rows=matrices() | hostile(),
    tile=st.sampled_from([1, 3, 16, 2048]),
    k=st.integers(1, 30),
    cut=st.none() | st.integers(0, 40),
    wanted=st.sets(st.sampled_from(["largest", "smallest", "top", "bottom"]), min_size=1),
    repeat=st.sampled_from([1, 16]),
    long=st.sampled_from([1 / 16, 1.0]),
)
def test_products_equal_rational_brute_force(
    rows: np.ndarray,
    tile: int,
    k: int,
    cut: int | None,
    wanted: set[str],
    repeat: int,
    long: float,
    client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rows = np.tile(rows, (1, repeat))
    folder = tmp_path_factory.mktemp("products")
    store = make_store(folder / "m.zarr", output=rows)
    other = None if cut is None else rows[cut if cut < len(rows) else 0 :][::-1].copy()
    against = None if other is None else make_store(folder / "n.zarr", output=other)
    asked: dict[str, Any] = dict.fromkeys(wanted, k)
    integers = tuning.override(UNDECIDED=dict.fromkeys(tuning.UNDECIDED, 1e9), LONG_ROWS_SHARE=long)
    with pytest.MonkeyPatch.context() as patch, integers:
        patch.setattr(devices, "fastest", lambda _: INT8_FIRST)
        result = scan(store, against=against, metric="dot", tile=max(tile, len(rows) // 8), client=client, **asked)
    by_integers = json.loads(result.attrs["certificate"])["products"] == "int8"
    assert by_integers == (rows.shape[1] >= 16 and wanted <= {"top", "bottom"})
    expected = truth(rows, metric="dot", against=None if other is None else (other, np.arange(len(other))))
    for name in wanted & {"largest", "smallest"}:
        assert result.sizes[name] == min(k, expected.i.size)
    for name in wanted & {"top", "bottom"}:
        assert result.sizes[name] == min(k, len(rows) - 1 if other is None else len(other))
    check(result, expected, len(rows))


@pytest.mark.slow
@slow_examples
@given(
    dtypes=st.tuples(*[st.sampled_from(sorted(DTYPES))] * 2),
    seed=st.integers(0, 999),
    powers=st.tuples(*[st.integers(-12, 12)] * 2),
)
def test_products_of_matrices_of_different_types_and_lengths_equal_rational_brute_force(
    dtypes: tuple[str, str],
    seed: int,
    powers: tuple[int, int],
    client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("products")
    one, other = (
        (rng.normal(size=(n, 70)) * 2.0**power).astype(DTYPES[name])
        for n, power, name in zip((23, 31), powers, dtypes, strict=True)
    )
    one[3], other[5], other[6] = 0, 0, other[7]
    asked = dict.fromkeys(("largest", "smallest", "top", "bottom"), 4)
    stores = [make_store(folder / f"{n}.zarr", output=rows) for n, rows in enumerate((one, other))]
    result = scan(stores[0], against=stores[1], metric="dot", tile=16, client=client, **asked)
    check(result, truth(one, metric="dot", against=(other, np.arange(31))), 23)


def test_identical_rows_have_a_product_like_others(client: Client, tmp_path: Path) -> None:
    rows = np.array([[1, 2], [1, 2], [0, -1], [1, 2]], np.float32)
    store = make_store(tmp_path / "m.zarr", output=rows, tokens=["a", "b", "c", "d"])
    found = scan(store, metric="dot", largest=4, top=2, bottom=9, client=client)
    assert found["largest_product"].values.tolist() == [5, 5, 5, -2]
    assert found["largest_token"].values.tolist() == [["a", "b"], ["a", "d"], ["b", "d"], ["a", "c"]]
    assert found["top_token"].values.tolist() == [["b", "d"], ["a", "d"], ["a", "b"], ["a", "b"]]
    assert found["bottom_product"].values.tolist() == [[-2, 5, 5], [-2, 5, 5], [-2, -2, -2], [-2, 5, 5]]


@pytest.mark.parametrize("dtypes", list(itertools.product(DTYPES, repeat=2)))
@pytest.mark.parametrize(("width", "element"), [(1, "bfloat16"), (7, "bfloat16"), (640, "bfloat16"), (640, "int8")])
def test_bounds_of_rounded_points_hold(dtypes: tuple[str, str], width: int, element: str) -> None:
    rng = np.random.default_rng(width)
    form = PointFormat(
        "dot", element, np.zeros(width), *((1.0,) if element == "bfloat16" else (30.0, None, False, 0.7))
    )
    for kind in ("any", "alike"):
        rows, other = (
            (rng.normal(size=(n, width)) * 2.0 ** rng.integers(-6, 3, (n, 1))).astype(DTYPES[name])
            for n, name in zip((40, 50), dtypes, strict=True)
        )
        if kind == "alike":
            rows[:], other[:] = rows[0], rows[0].astype(other.dtype)
        sides = [
            Block(np.arange(len(each)), each, *points.points(each), np.zeros(len(each)), point_format=points)
            for each, points in ((rows, form), (other, form.of_second))
        ]
        tile = Tile(METRICS["dot"], sides[0], sides[1], diagonal=False)
        assert tile.precision.element == {"int8": "int32"}.get(element, element)
        true = -(rows.astype(np.longdouble) @ other.astype(np.longdouble).T) * form.unit
        i, j = np.indices(true.shape).reshape(2, -1)
        for turned, sign in ((tile, 1), (tile.turn(), -1)):
            least, most = bounds_of_pairs(turned.product, turned.terms, i, j)
            assert (least <= sign * true.ravel()).all()
            assert (most >= sign * true.ravel()).all()


@pytest.mark.parametrize("stored", [ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("element", ["int8", "bfloat16", "float32"])
@tuning.override(UNDECIDED=dict.fromkeys(tuning.UNDECIDED, 1e9))
def test_products_of_every_element_equal_those_of_numpy(
    element: str, stored: type, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "fastest", lambda *_: [element, "float32"])
    rng = np.random.default_rng(0)
    rows, other = (
        (rng.normal(size=(n, 96)) + 0.2).astype(dtype) for n, dtype in ((1000, stored), (3000, ml_dtypes.bfloat16))
    )
    rows[7], other[50:1300] = 40 * rows[8], other[50]  # some norms are far from the median; many ties
    other[1300:2000, 0] += np.linspace(0, 0.1, 700).astype(ml_dtypes.bfloat16)
    stores = [make_store(tmp_path / f"{n}.zarr", output=each) for n, each in enumerate((rows, other))]
    more = {} if element == "int8" else {"largest": 20}
    found = scan(stores[0], against=stores[1], metric="dot", top=10, bottom=10, tile=512, client=client, **more)
    assert json.loads(found.attrs["certificate"])["products"] == element
    products = rows.astype(float) @ other.astype(float).T
    for name, sign in (("top", -1), ("bottom", 1)):
        ids = np.argsort(sign * np.round(products, 9), axis=1, kind="stable")[:, :10]
        np.testing.assert_array_equal(found[f"{name}_token_id"], ids)
        np.testing.assert_allclose(found[f"{name}_product"], np.take_along_axis(products, ids, 1), rtol=1e-9)
    if more:
        np.testing.assert_allclose(found["largest_product"], np.sort(products.ravel())[::-1][:20], rtol=1e-9)


@tuning.override(UNDECIDED=dict.fromkeys(tuning.UNDECIDED, 1e9))
def test_long_rows_give_limits_that_leave_fewer_pairs_and_change_no_result(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "fastest", lambda *_: INT8_FIRST)
    rng = np.random.default_rng(3)
    rows, other = rng.normal(size=(300, 64)), rng.normal(size=(4000, 64))
    other *= rng.uniform(0.2, 2, (4000, 1))
    other[3990:] = other[np.argsort(-np.linalg.norm(other, axis=1))[:10]]  # the longest are there twice
    store = make_store(tmp_path / "n.zarr", output=other.astype(np.float32))
    found, looked_up = [], []
    for most in (0, 1 / 16):
        with tuning.override(LONG_ROWS_SHARE=most):
            found.append(
                scan(rows.astype(np.float32), against=store, metric="dot", top=5, bottom=5, tile=256, client=client)
            )
        certificate = json.loads(found[-1].attrs.pop("certificate"))
        assert certificate["products"] == "int8"
        assert certificate["float32_pairs"] > certificate["float64_pairs"] > 0
        looked_up.append(certificate["float32_pairs"])
        del found[-1].attrs["seconds"]
    assert looked_up[1] < 0.7 * looked_up[0]
    xr.testing.assert_identical(*(each.drop_attrs(deep=False) for each in found))


@tuning.override(UNDECIDED=dict.fromkeys(tuning.UNDECIDED, 1e9))
def test_nothing_is_multiplied_again_where_all_panels_are_done(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "fastest", lambda *_: INT8_FIRST)
    rng = np.random.default_rng(3)
    rows, store = rng.normal(size=(30, 64)).astype(np.float32), tmp_path / "n.zarr"
    make_store(store, output=rng.normal(size=(400, 64)).astype(np.float32))
    ask = partial(scan, rows, against=store, metric="dot", top=5, tile=64, out=tmp_path / "r.zarr", client=client)
    started: list[str] = []

    def count(event: str, plan: Any, panel: Any) -> None:
        started.extend([panel.name] if event == "started" else [])

    with PanelCallback(count):
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(results, "save", lambda *_: (_ for _ in ()).throw(MemoryError()))
            ask()
        assert len(started) > len(set(started)) > 1  # those with long rows are first
        started.clear()
        assert ask().sizes["top"] == 5
    assert not started


@tuning.override(UNDECIDED=dict.fromkeys(tuning.UNDECIDED, 1e9), DENSE_ROW_PAIRS=1 << 20)
def test_a_bound_from_float32_that_is_too_small_loses_pairs(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "fastest", lambda *_: INT8_FIRST)
    rng = np.random.default_rng(3)
    rows, other = rng.normal(size=(200, 640)), rng.normal(size=(1200, 640))
    other = other[0] + 1e-6 * other
    rows, other = rows.astype(np.float32), other.astype(np.float32)
    stores = [make_store(tmp_path / f"{n}.zarr", output=each) for n, each in enumerate((rows, other))]
    products = rows.astype(float) @ other.astype(float).T
    ids = np.argsort(-products, axis=1)[:, :5]
    for unit, right in ((2.0**-24, True), (0.0, False)):
        monkeypatch.setattr(exact, "UNIT_OF_FLOAT32", unit)
        found = scan(stores[0], against=stores[1], metric="dot", top=5, tile=256, client=client)
        assert json.loads(found.attrs["certificate"])["float32_pairs"] > 0
        assert np.array_equal(found["top_token_id"], ids) == right


def test_what_a_metric_does_not_have_is_refused_in_one_line(client: Client, tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(3, dtype=np.float32))
    for asked, words in (
        ({"metric": "dot"}, "nothing to keep: ask for `largest`, `smallest`, `top`, `bottom` or `moments_per_row`"),
        ({"metric": "dot", "farthest": 1}, "`farthest` is of distances, and `metric` dot is none: ask for `largest`"),
        ({"metric": "dot", "histogram": 4, "top": 1}, "`histogram` is of distances, and `metric` dot is none"),
        ({"metric": "dot", "pairs_within": 0, "top": 1}, "`pairs_within` is of distances"),
        ({"top": 1}, "`top` is of inner products: choose `metric` dot, or ask for `farthest`"),
        ({"metric": "dot", "top": 1, "distinct": True}, "`distinct` leaves identical rows out of `nearest`"),
        ({"metric": "dot", "bottom": 0}, "`bottom` 0: give a whole number of at least 1"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            scan(store, client=client, **asked)
        assert "\n" not in str(caught.value)
