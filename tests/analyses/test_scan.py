from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from typer.testing import CliRunner

from embgeom_dask import devices
from embgeom_dask.analyses.scan import scan
from embgeom_dask.cli.app import app
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.metrics import DISTANCES, METRICS, Norms, Precision, euclidean
from embgeom_dask.metrics.euclidean import Euclidean
from embgeom_dask.pairwise import traversal
from embgeom_dask.pairwise.blocks import Block
from embgeom_dask.storage.model_stores import open_model
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import Truth, truth
from embgeom_dask.testing.strategies import DTYPES, matrices, slow_examples


def near(result: xr.Dataset, name: str, true: float, more: float = 0.0) -> None:
    """Check that a mean or a deviation is as near to the true one as it says; `true` is rounded, and by `more`."""
    off = abs(float(result[name]) - true)
    assert off <= float(result[f"{name}_error"]) + 1e-14 * true + more, (name, true, off)


def check(result: xr.Dataset, expected: Truth, tokens: np.ndarray) -> None:
    """Compare everything a scan found with brute force."""
    for name in ("farthest", "nearest"):
        if f"{name}_distance" in result:
            k = result.sizes[name]
            ids, distance = expected.best(k, farthest=name == "farthest")
            np.testing.assert_array_equal(result[f"{name}_token_id"], ids)
            np.testing.assert_array_equal(result[f"{name}_distance"], distance)
            assert [f"t{i}" for i in ids.ravel()] == result[f"{name}_token"].values.ravel().tolist()
    if "neighbor_distance" in result:
        np.testing.assert_array_equal(result["token_id"], tokens)
        for row, token in enumerate(tokens.tolist()):
            ids, distance = expected.neighbors(token, result.sizes["neighbor"])
            assert result["neighbor_token_id"].values[row].tolist() == ids
            np.testing.assert_array_equal(result["neighbor_distance"].values[row], distance)
    if "histogram_count" in result:
        np.testing.assert_array_equal(result["histogram_count"], expected.counts(result["bin_edge"].values))
        assert int(result["pair_count"]) == expected.i.size
        if expected.i.size:
            near(result, "distance_mean", expected.distance.mean())
            np.testing.assert_array_equal(result["distance_max"], expected.distance.max())
            np.testing.assert_array_equal(result["distance_min"], expected.distance.min())
        if expected.i.size > 1:
            distance = expected.distance.astype(np.longdouble)
            near(result, "distance_std", float(distance.std(ddof=1)), 1e-17 * float(distance.max()))


@slow_examples
@given(
    rows=matrices(),
    metric=st.sampled_from(DISTANCES),
    tile=st.sampled_from([1, 3, 16, 2048]),
    k=st.integers(1, 30),
    bins=st.integers(1, 64),
    two=st.booleans(),
    cut=st.none() | st.integers(0, 40),
    wanted=st.sets(st.sampled_from(["farthest", "nearest", "neighbors", "histogram"]), min_size=1),
)
def test_adversarial_rows_equal_rational_brute_force(
    rows: np.ndarray,
    metric: str,
    tile: int,
    k: int,
    bins: int,
    two: bool,
    cut: int | None,
    wanted: set[str],
    workers: Client,
    client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    ids = np.arange(len(rows))
    has_distance = rows.astype(float).any(axis=1) if metric == "cosine" else np.ones(len(rows), bool)
    folder = tmp_path_factory.mktemp("scan")
    store = make_store(folder / "m.zarr", output=rows)
    first = rows if cut is None or cut >= len(rows) else rows[cut:]
    against = None if cut is None else make_store(folder / "n.zarr", output=first)
    kept = {name: bins if name == "histogram" else k for name in wanted}
    asked = {"metric": metric, "tile": max(tile, len(rows) // 8), "client": workers if two else client, **kept}
    left = ids[has_distance]
    other = ids[: len(first)][first.astype(float).any(axis=1) | (metric != "cosine")]
    if not left.size or not other.size:
        with pytest.raises(InputError, match="no row"):
            scan(store, against=against, **asked)
        return
    result = scan(store, against=against, **asked)
    expected = truth(rows[left], left, metric, None if against is None else (first[other], other))
    if "farthest" in wanted:
        assert result.sizes["farthest"] == min(k, expected.i.size)
    if "neighbors" in wanted:
        assert result.sizes["neighbor"] == min(k, other.size - (against is None))
    check(result, expected, left)
    np.testing.assert_array_equal(result.get("left_out_token_id", []), ids[~has_distance])


@pytest.mark.parametrize(
    "dtype",
    ["bfloat16", *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(DTYPES) if name != "bfloat16")],
)
def test_the_command_equals_brute_force_for_any_tile_and_workers(dtype: str, workers: Client, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(300, 24))
    direction = rng.normal(size=24)
    rows[:80] = 0.37 * direction / np.linalg.norm(direction) + 1e-3 / 5 * rng.normal(size=(80, 24))
    rows = rows.astype(DTYPES[dtype])
    rows[200:230] = rows[199]
    rows[240:245] = 0
    rows[280] = (rows[280].astype(float) * 1000).astype(rows.dtype)
    store = make_store(tmp_path / "m.zarr", output=rows)
    expected = truth(rows)
    documents = []
    wanted = ["--farthest", "40", "--nearest", "600", "--neighbors", "12", "--histogram", "300"]
    for extra in (["--tile", "2048"], ["--tile", "97"], ["--tile", "128", "--scheduler", workers.scheduler.address]):
        run = CliRunner().invoke(app, ["scan", store, "--json", *wanted, *extra])
        assert run.exit_code == 0, run.output
        documents.append(json.loads(run.stdout))
    first = {name: np.array(value) for name, value in documents[0].items() if name not in ("attrs", "dims")}
    for document in documents[1:]:
        for name, value in first.items():
            np.testing.assert_array_equal(np.array(document[name]), value, err_msg=name)
    for name, k in (("farthest", 40), ("nearest", 600)):
        ids, distance = expected.best(k, farthest=name == "farthest")
        np.testing.assert_array_equal(first[f"{name}_token_id"], ids)
        np.testing.assert_array_equal(first[f"{name}_distance"], distance)
    for row in range(len(rows)):
        ids, distance = expected.neighbors(row, 12)
        assert first["neighbor_token_id"][row].tolist() == ids
        assert first["neighbor_distance"][row].tolist() == distance
    np.testing.assert_array_equal(first["histogram_count"], expected.counts(first["bin_edge"]))
    near(first, "distance_mean", expected.distance.mean())


@settings(slow_examples, max_examples=3)
@given(
    n=st.integers(50, 3000),
    dtype=st.sampled_from(["bfloat16", "float16", "float32"]),
    seed=st.integers(0, 2**32 - 1),
    tile=st.sampled_from(["200", "777", "2048"]),
    two=st.booleans(),
)
def test_the_command_equals_float64_brute_force_on_random_matrices(
    n: int, dtype: str, seed: int, tile: str, two: bool, workers: Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 16))
    direction = rng.normal(size=16)
    part = rng.permutation(n)
    rows[part[: n // 5]] = 0.37 * direction / np.linalg.norm(direction) + 1e-3 / 4 * rng.normal(size=(n // 5, 16))
    rows[part[n // 5]] *= 1000
    rows = rows.astype(DTYPES[dtype])
    rows[part[n // 4 : n // 3]] = rows[part[n // 4]]
    rows[part[-3:]] = 0
    store = make_store(tmp_path_factory.mktemp("scan") / "m.zarr", output=rows)
    wanted = ["--farthest", "20", "--nearest", "50", "--neighbors", "3", "--histogram", "100"]
    placed = ["--scheduler", workers.scheduler.address] if two else []
    run = CliRunner().invoke(app, ["scan", store, "--json", "--tile", tile, *wanted, *placed])  # type: ignore[list-item]
    assert run.exit_code == 0, run.output
    found = {name: np.array(value) for name, value in json.loads(run.stdout).items() if name not in ("attrs", "dims")}
    distance = pdist(rows.astype(np.float64))
    i, j = np.triu_indices(n, 1)
    for name, order in (
        ("farthest", np.lexsort((j, i, -distance))[:20]),
        ("nearest", np.lexsort((j, i, distance))[:50]),
    ):
        np.testing.assert_array_equal(found[f"{name}_token_id"], np.stack([i, j], 1)[order])
        np.testing.assert_allclose(found[f"{name}_distance"], distance[order], rtol=1e-12)
    square = squareform(distance)
    np.fill_diagonal(square, np.inf)
    neighbors = np.argsort(square, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(found["neighbor_token_id"], neighbors)
    np.testing.assert_allclose(found["neighbor_distance"], np.take_along_axis(square, neighbors, 1), rtol=1e-12)
    np.testing.assert_array_equal(found["histogram_count"], np.histogram(distance, found["bin_edge"])[0])
    near(found, "distance_mean", distance.mean())


def test_three_thousand_rows_equal_scipy(client: Client, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = (rng.normal(size=(3000, 24)) * rng.uniform(0.1, 3, size=(3000, 1))).astype(ml_dtypes.bfloat16)
    store = make_store(tmp_path / "m.zarr", output=rows)
    result = scan(store, farthest=5, nearest=5, neighbors=7, histogram=100, tile=512, client=client)
    distance = pdist(rows.astype(np.float64))
    i, j = np.triu_indices(3000, 1)
    order = np.argsort(distance, kind="stable")
    np.testing.assert_array_equal(result["nearest_token_id"], np.stack([i, j], 1)[order[:5]])
    np.testing.assert_allclose(result["farthest_distance"], distance[order[::-1][:5]], rtol=1e-12)
    square = squareform(distance)
    np.fill_diagonal(square, np.inf)
    np.testing.assert_array_equal(result["neighbor_token_id"], np.argsort(square, axis=1, kind="stable")[:, :7])
    np.testing.assert_array_equal(result["histogram_count"], np.histogram(distance, result["bin_edge"])[0])
    near(result, "distance_std", distance.std(ddof=1))


def test_a_selection_and_a_sliced_array_scan_only_their_rows(client: Client, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(90, 6)).astype(np.float32)
    rows[50:60] = rows[3]
    store = make_store(tmp_path / "m.zarr", output=rows)
    tokens = np.array([2, 3, 4, 10, 11, 40, *range(48, 70)])
    expected = truth(rows[tokens], tokens)
    kept = {"farthest": 9, "nearest": 60, "neighbors": 15, "histogram": 20}
    by_ids = scan(store, tokens="2:5,10,11,40,48:70", client=client, tile=8, **kept)
    by_array = scan(open_model(store).output_embedding.isel(token_id=tokens), client=client, tile=8, **kept)
    check(by_ids, expected, tokens)
    assert by_ids.drop_attrs().identical(by_array.drop_attrs())


def test_a_result_opens_with_xarray_alone_and_is_not_computed_twice(client: Client, tmp_path: Path) -> None:
    rows = np.random.default_rng(2).normal(size=(40, 5)).astype(np.float32)
    store, out = make_store(tmp_path / "m.zarr", output=rows), tmp_path / "r.zarr"
    result = scan(store, farthest=3, neighbors=2, out=out, client=client)
    saved = xr.open_zarr(out)
    for name in [*result.variables]:
        np.testing.assert_array_equal(saved[name], result[name])
    assert saved.attrs["sha256"] == result.attrs["sha256"]
    assert saved.attrs["devices"] == ["cpu"]
    certificate = json.loads(saved.attrs["certificate"])
    assert certificate["products"] == "float32"
    assert 5 * 2**-24 < certificate["product_error"] < 50 * 2**-24
    assert certificate["float64_pairs"] >= certificate["double_double_pairs"] > 0
    again = scan(store, farthest=3, neighbors=2, out=out, client=client)
    assert again.attrs["seconds"] == result.attrs["seconds"]
    with pytest.raises(InputError, match="farthest is 3 there and 4 here"):
        scan(store, farthest=4, neighbors=2, out=out, client=client)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.zarr", "r.zarr", "r.zarr.journal"]


def test_refusals_are_one_line_and_leave_nothing(client: Client, tmp_path: Path) -> None:
    rows = np.ones((4, 3), np.float32)
    rows[2, 1] = np.nan
    store = make_store(tmp_path / "m.zarr", output=rows)
    for kept, words in (
        ({"farthest": 1}, "token ids 2"),
        ({}, "nothing to keep"),
        ({"nearest": 0}, "at least 1"),
        ({"nearest": 1, "metric": "manhattan"}, "choose one of euclidean, cosine"),
        ({"nearest": 1, "tokens": "7"}, "7"),
        ({"nearest": 1, "device": "tpu"}, "tpu"),
    ):
        with pytest.raises(InputError, match=words) as refusal:
            scan(store, out=tmp_path / "r.zarr", client=client, **kept)
        assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]
    assert int(scan(store, tokens="0,1,3", nearest=1, client=client)["nearest_token_id"][0, 1]) == 1


def test_a_bound_that_is_too_small_loses_pairs(monkeypatch: pytest.MonkeyPatch, client: Client, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = (rng.normal(size=(1, 2048)) + 1e-4 * rng.normal(size=(400, 2048))).astype(np.float32)
    rows[0] = 1e4
    store = make_store(tmp_path / "m.zarr", output=rows)
    honest = scan(store, nearest=20, client=client, tile=100)
    monkeypatch.setattr(euclidean, "product_error", lambda *_, **__: 1e-12)
    wrong = scan(store, nearest=20, client=client, tile=100)
    distance = pdist(rows.astype(np.float64))
    np.testing.assert_allclose(honest["nearest_distance"], np.sort(distance)[:20], rtol=1e-12)
    assert not np.array_equal(honest["nearest_token_id"], wrong["nearest_token_id"])


class Careless(Euclidean):
    """Euclidean distance that takes rounded points for their rows."""

    def terms(self, rows: Norms, columns: Norms, width: int, precision: Precision) -> tuple[LinearBound, LinearBound]:
        first, second = (
            replace(side, error=None if side.error is None else side.error * 0) for side in (rows, columns)
        )
        return super().terms(first, second, width, precision)


def test_a_row_said_to_lose_too_little_by_rounding_loses_pairs(
    monkeypatch: pytest.MonkeyPatch, client: Client, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    poles = rng.normal(size=(1, 64)) * np.repeat([[1], [-1]], 200, axis=0)
    rows = (poles + 1e-3 * rng.normal(size=(400, 64))).astype(np.float32)
    store = make_store(tmp_path / "m.zarr", output=rows)
    monkeypatch.setattr(devices, "fastest", lambda _: ["int8", "float32", "bfloat16"])
    honest = scan(store, farthest=20, client=client, tile=100)
    assert json.loads(honest.attrs["certificate"])["products"] == "int8"
    monkeypatch.setitem(METRICS, "euclidean", Careless())
    wrong = scan(store, farthest=20, client=client, tile=100)
    distance = pdist(rows.astype(np.float64))
    np.testing.assert_allclose(honest["farthest_distance"], np.sort(distance)[-20:][::-1], rtol=1e-12)
    assert not np.array_equal(honest["farthest_token_id"], wrong["farthest_token_id"])


@slow_examples
@given(rows=matrices(), repeat=st.sampled_from([16, 20]), tile=st.sampled_from([3, 16, 2048]), k=st.integers(1, 30))
def test_the_farthest_by_8_bit_integers_equal_rational_brute_force(
    rows: np.ndarray, repeat: int, tile: int, k: int, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = np.tile(rows, (1, repeat))
    store = make_store(tmp_path_factory.mktemp("scan") / "m.zarr", output=rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "fastest", lambda _: ["int8", "float32", "bfloat16"])
        result = scan(store, farthest=k, tile=max(tile, len(rows) // 8), client=client)
    assert json.loads(result.attrs["certificate"])["products"] == "int8"
    check(result, truth(rows), np.arange(len(rows)))


def test_a_failing_panel_ends_the_run_and_frees_the_cluster(
    monkeypatch: pytest.MonkeyPatch, client: Client, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the tile is broken")

    monkeypatch.setattr(traversal, "Tile", broken)
    store = make_store(tmp_path / "m.zarr", output=np.eye(50, dtype=np.float32))
    with pytest.raises(EmbgeomError, match=r"RuntimeError: the tile is broken$"):
        scan(store, nearest=1, tile=4, out=tmp_path / "r.zarr", client=client)
    assert not (tmp_path / "r.zarr").exists()
    client.sync(client.cancel, list(client.futures))
    assert client.submit(lambda: 1).result(timeout=20) == 1


def test_the_extremes_of_one_row_and_of_two(client: Client, tmp_path: Path) -> None:
    for n in (1, 2):
        rows = np.arange(n * 3, dtype=np.float32).reshape(n, 3)
        store = make_store(tmp_path / f"{n}.zarr", output=rows)
        result = scan(store, farthest=2, nearest=2, neighbors=2, histogram=4, client=client)
        check(result, truth(rows), np.arange(n))
        assert result.sizes["nearest"] == n - 1
        assert np.isnan(result["distance_mean"]) == (n == 1)


def test_the_neighbors_of_few_rows_are_all_others(client: Client, tmp_path: Path) -> None:
    rows = np.array([[0.125977], [-0.131836], [0.640625]]).astype(ml_dtypes.bfloat16)
    store = make_store(tmp_path / "m.zarr", output=rows)
    for tile in (1, 2, 2048):
        result = scan(store, neighbors=5, tile=tile, client=client)
        assert result["neighbor_token_id"].values.tolist() == [[1, 2], [0, 2], [0, 1]]


def test_input_against_output_names_both_sides(client: Client, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    tokens = [f"w{i}" for i in range(30)]
    rows = {name: rng.normal(size=(30, 5)).astype(np.float32) for name in ("input", "output")}
    store = make_store(tmp_path / "m.zarr", **rows, tokens=tokens)
    by_name = scan(store, role="input", against=f"{store}:output", nearest=4, neighbors=2, client=client)
    model = open_model(store)
    by_array = scan(model.input_embedding, against=model.output_embedding, nearest=4, neighbors=2, client=client)
    expected = truth(rows["input"], against=(rows["output"], np.arange(30)))
    ids, distance = expected.best(4, farthest=False)
    for result in (by_name, by_array):
        np.testing.assert_array_equal(result["nearest_token_id"], ids)
        np.testing.assert_array_equal(result["nearest_distance"], distance)
        assert result["nearest_token"].values.tolist() == [[f"w{i}", f"w{j}"] for i, j in ids.tolist()]
        assert result.attrs["matrix"] == ["input_embedding", "output_embedding"]
    narrow = make_store(tmp_path / "n.zarr", output=np.ones((4, 3), np.float32))
    with pytest.raises(InputError, match=r"5 columns .* 3"):
        scan(store, against=narrow, nearest=1, client=client)


def test_pairs_with_a_larger_matrix_name_both_sides(client: Client, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows, others = (rng.normal(size=(n, 5)).astype(np.float32) for n in (3, 30))
    small = make_store(tmp_path / "m.zarr", output=rows, tokens=[f"a{i}" for i in range(3)])
    large = make_store(tmp_path / "n.zarr", output=others, tokens=[f"b{i}" for i in range(30)])
    result = scan(small, against=large, farthest=4, nearest=4, neighbors=2, client=client)
    expected = truth(rows, against=(others, np.arange(30)))
    for name in ("farthest", "nearest"):
        ids, _ = expected.best(4, farthest=name == "farthest")
        np.testing.assert_array_equal(result[f"{name}_token_id"], ids)
        assert result[f"{name}_token"].values.tolist() == [[f"a{i}", f"b{j}"] for i, j in ids.tolist()]
    assert result["neighbor_token"].values.tolist() == [
        [f"b{j}" for j in expected.neighbors(i, 2)[0]] for i in range(3)
    ]


@pytest.mark.parametrize("kind", ["one hub", "three hubs", "far apart"])
def test_neighbors_in_a_crowd_equal_scipy(
    kind: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(900, 256)) / 16
    place = rng.permutation(900)[:300]
    if kind == "far apart":  # all pairs of these are nearly tied, and none is close
        rows[place[:256]] = rows[0] + 0.3 * np.eye(256)
    else:
        hubs = 0.37 * rows[:3] / np.linalg.norm(rows[:3], axis=1)[:, None]
        rows[place] = hubs[np.arange(300) % (3 if kind == "three hubs" else 1)] + 1e-3 / 16 * rng.normal(
            size=(300, 256)
        )
    rows = rows.astype(ml_dtypes.bfloat16)
    store = make_store(tmp_path / "m.zarr", output=rows)
    monkeypatch.setattr(devices, "fastest", lambda _: ["bfloat16", "float32"])
    made: set[str] = set()
    for name in ("about", "doubled"):
        plain = getattr(Block, name)
        monkeypatch.setattr(Block, name, lambda *given, f=plain, n=name: made.add(n) or f(*given))
    result = scan(store, neighbors=5, tile=256, client=client)
    assert made == {"doubled"} if kind == "far apart" else "about" in made
    square = squareform(pdist(rows.astype(np.float64)))
    np.fill_diagonal(square, np.inf)
    np.testing.assert_array_equal(result["neighbor_token_id"], np.argsort(square, axis=1, kind="stable")[:, :5])
    np.testing.assert_allclose(result["neighbor_distance"], np.sort(square, axis=1)[:, :5], rtol=1e-12)


@slow_examples
@given(rows=matrices(max_rows=60), k=st.integers(1, 12))
def test_the_farthest_in_chebyshev_distance_are_found_among_few_rows(
    rows: np.ndarray, k: int, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = make_store(tmp_path_factory.mktemp("scan") / "m.zarr", output=rows)
    result = scan(store, farthest=k, metric="chebyshev", client=client)
    check(result, truth(rows, metric="chebyshev"), np.arange(len(rows)))
    assert result.sizes["farthest"] == min(k, len(rows) * (len(rows) - 1) // 2)


def test_the_farthest_in_chebyshev_distance_leave_most_rows_out(client: Client, tmp_path: Path) -> None:
    rows = np.random.default_rng(6).normal(size=(5000, 300)).astype(ml_dtypes.bfloat16)
    store = make_store(tmp_path / "m.zarr", output=rows)
    plan = scan(store, farthest=5, metric="chebyshev", client=client, dry_run=True).attrs["plan"]
    result = scan(store, farthest=5, metric="chebyshev", client=client)
    assert plan["rows"][0] < 1000
    distance = pdist(rows.astype(np.float64), "chebyshev")
    np.testing.assert_array_equal(result["farthest_distance"], np.sort(distance)[::-1][:5])
    rows[77, 5] = np.nan
    store = make_store(tmp_path / "n.zarr", output=rows)
    with pytest.raises(InputError, match="token ids 77"):
        scan(store, farthest=5, metric="chebyshev", client=client)
