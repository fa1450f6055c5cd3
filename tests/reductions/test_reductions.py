from __future__ import annotations

import json
from bisect import bisect_right
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from typer.testing import CliRunner

from embgeom_dask import tuning
from embgeom_dask.analyses.scan import scan
from embgeom_dask.cli.app import app
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.metrics import DISTANCES
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import Truth, truth
from embgeom_dask.testing.strategies import matrices, slow_examples


@st.composite
def cases(draw: Any) -> tuple[np.ndarray, np.ndarray | None, str, int]:
    """Rows, rows of a second matrix or None, a metric in which either has distances, and rows of a tile."""
    metric = draw(st.sampled_from(DISTANCES))
    rows = draw(matrices(max_rows=30))
    if metric == "cosine":
        rows[~rows.astype(float).any(axis=1)] = 1
    cut = draw(st.none() | st.integers(0, len(rows) - 1))
    tile = max(draw(st.sampled_from([1, 3, 16, 2048])), len(rows) // 6)
    return rows, None if cut is None else rows[cut:], metric, tile


def compare(case: tuple[np.ndarray, np.ndarray | None, str, int], folder: Any, client: Client, **kept: Any) -> Any:
    """Scan a case."""
    rows, other, metric, tile = case
    store = make_store(folder / "m.zarr", output=rows)
    against = None if other is None else make_store(folder / "n.zarr", output=other)
    return scan(store, against=against, metric=metric, tile=tile, client=client, **kept)


def true(case: tuple[np.ndarray, np.ndarray | None, str, int]) -> Truth:
    rows, other, metric, _ = case
    return truth(rows, metric=metric, against=None if other is None else (other, np.arange(len(other))))


def among(distance: np.ndarray, rng: np.random.Generator, count: int) -> list[float]:
    """Distances, some of them those of pairs, or next to them, some far, ascending and different."""
    near = rng.choice(distance, count) if distance.size else np.ones(count)
    near = np.where(rng.random(count) < 0.2, np.nextafter(near, np.inf), near)
    return np.unique([*near, *rng.choice([0.0, 1.0, 1.5, 2.0, 3.0, 1e300], 2), near[0] * rng.uniform(0, 2)]).tolist()


@slow_examples
@given(case=cases(), seed=st.integers(0, 1000))
def test_counts_within_radii_equal_rational_brute_force(
    case: tuple[np.ndarray, np.ndarray | None, str, int],
    seed: int,
    client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    expected, rng = true(case), np.random.default_rng(seed)
    radii = among(expected.distance, rng, 3)
    result = compare(case, tmp_path_factory.mktemp("within"), client, within=rng.permutation(radii))
    assert result["radius"].values.tolist() == radii
    for k, radius in enumerate(radii):
        near = expected.distance <= radius
        assert int(result["within_count"][k]) == near.sum()
        degree = np.bincount(expected.i[near], minlength=len(case[0]))
        if expected.symmetric:
            degree += np.bincount(expected.j[near], minlength=len(case[0]))
        np.testing.assert_array_equal(result["within_degree"][:, k], degree)
    assert result["token"].values.tolist() == [f"t{i}" for i in range(len(case[0]))]


def test_wrong_numbers_are_refused_in_one_line(client: Client, tmp_path: Any) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(3, dtype=np.float32))
    for kept, words in (
        ({"within": "1,x"}, "`within` 1,x: give numbers"),
        ({"within": [-0.5]}, "`within` -0.5: give numbers of 0 or more"),
        ({"within": "nan"}, "`within` nan"),
        ({"within": float("inf")}, "`within` inf"),
        ({"within": []}, "`within`: give one number"),
        ({"within": "1,2,1.0"}, "`within`: 1.0 is given more than once"),
        ({"pairs_within": "1,2"}, "`pairs_within` 1,2: give one number"),
        ({"pairs_within": -1}, "`pairs_within` -1: give numbers of 0 or more"),
        ({"pairs_within": 1, "max_pairs": 0}, "`max_pairs` 0: give a whole number of at least 1"),
        ({"nearest": 2.5}, "`nearest` 2.5: give a whole number"),
        ({"nearest": "3"}, "`nearest` '3': give a whole number"),
        ({"neighbors": True}, "`neighbors` True: give a whole number"),
        ({"farthest": [1]}, r"`farthest` \[1\]: give a whole number"),
        ({"histogram": np.float64(8)}, r"`histogram` .*8.0.*: give a whole number"),
        ({"nearest": 1, "tile": 2.0}, "`tile` 2.0: give a whole number"),
        ({"within": True}, "`within` True: give numbers"),
        ({"pairs_within": [None]}, r"`pairs_within` \[None\]: give numbers"),
        ({"histogram_edges": [1]}, "`histogram_edges`: give two edges"),
        ({"histogram_edges": "2,1"}, "`histogram_edges`: give numbers that ascend"),
        ({"histogram_edges": "1,1"}, "`histogram_edges`: 1.0 is given more than once"),
        ({"histogram_edges": "1,2", "histogram": 3}, "not both"),
        ({"histogram_scale": "log", "nearest": 1}, "`histogram_scale` log"),
        ({"quantiles": "0.5,1.5"}, "`quantiles` 1.5: give numbers of 0 to 1"),
        ({"exact_quantiles": True, "nearest": 1}, "`exact_quantiles`: say which"),
        ({"histogram_scale": "sqrt", "histogram": 1}, "no scale 'sqrt'"),
    ):
        with pytest.raises(InputError, match=words) as refusal:
            scan(store, client=client, **kept)
        assert "\n" not in str(refusal.value)
    assert scan(store, within=1.5, client=client)["within_count"].values.tolist() == [3]


def test_numbers_of_numpy_are_numbers(client: Client, tmp_path: Any) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(4, dtype=np.float32))
    counts = {"nearest": np.int64(2), "neighbors": np.uint8(1), "histogram": np.int32(8), "tile": np.int16(2)}
    found = scan(store, within=np.float32(1.5), max_pairs=np.int64(9), out=tmp_path / "r.zarr", client=client, **counts)
    plain = {name: int(count) for name, count in counts.items()}  # type: ignore[call-overload]
    assert scan(store, within=1.5, max_pairs=9, out=tmp_path / "r.zarr", **plain).identical(found)


def test_the_command_takes_and_shows_all_of_them(tmp_path: Any) -> None:
    rows = np.array([[0, 0], [3, 4], [3, 4], [6, 8], [0, 100]], np.float32)
    store = make_store(tmp_path / "m.zarr", output=rows)
    asked = ["--within", "5,0", "--pairs-within", "5", "--histogram-edges", "1,5,10"]
    run = CliRunner().invoke(app, ["scan", store, *asked, "--json"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert found["radius"] == [0, 5]
    assert found["within_count"] == [1, 5]
    assert found["within_degree"] == [[0, 2], [1, 3], [1, 3], [0, 2], [0, 0]]
    assert found["pair_token_id"] == [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]
    assert found["pair_token"][1] == ["t0", "t2"]
    assert found["pair_distance"] == [5, 5, 0, 5, 5]
    assert found["histogram_count"] == [0, 5]
    assert (found["histogram_below"], found["histogram_above"]) == (1, 4)
    shown = CliRunner().invoke(app, ["scan", store, *asked]).stdout.splitlines()
    words = [" ".join(line.split()) for line in shown]
    assert "5 pairs within 5" in words
    assert "2 5 0 t0 2 t2" in words
    assert "5 5 2 2 3" in words
    assert "histogram_below 1" in words
    refused = CliRunner().invoke(app, ["scan", store, "--pairs-within", "5", "--max-pairs", "4"])
    assert refused.exception.exit_code == 1
    assert str(refused.exception).startswith("5 pairs lie within 5, more than the limit of 4")
    log = CliRunner().invoke(app, ["scan", store, "--histogram", "3", "--histogram-scale", "log", "--json"])
    assert json.loads(log.stdout)["histogram_below"] == 1


@pytest.mark.slow
@slow_examples
@given(case=cases(), seed=st.integers(0, 1000))
def test_edges_equal_rational_brute_force(
    case: tuple[np.ndarray, np.ndarray | None, str, int],
    seed: int,
    client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    expected, rng = true(case), np.random.default_rng(seed)
    radius = rng.choice(among(expected.distance, rng, 2))
    near = expected.distance <= radius
    folder, limit = tmp_path_factory.mktemp("edges"), max(1, near.sum() - rng.integers(0, 2))
    if near.sum() > limit:
        with pytest.raises(EmbgeomError, match=f"^{near.sum()} pairs lie within .* limit of {limit}: choose"):
            compare(case, folder, client, pairs_within=radius, max_pairs=limit)
        return
    result = compare(case, folder, client, pairs_within=radius, max_pairs=limit)
    ids = np.stack([expected.i[near], expected.j[near]], axis=1)
    order = np.lexsort((ids[:, 1], ids[:, 0]))
    np.testing.assert_array_equal(result["pair_token_id"], ids[order])
    np.testing.assert_array_equal(result["pair_distance"], expected.distance[near][order])
    assert result["pair_token"].values.tolist() == [[f"t{i}", f"t{j}"] for i, j in ids[order].tolist()]


@slow_examples
@given(case=cases(), seed=st.integers(0, 1000), kind=st.sampled_from(["given", "log", "linear"]))
def test_histograms_equal_rational_brute_force(
    case: tuple[np.ndarray, np.ndarray | None, str, int],
    seed: int,
    kind: str,
    client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    expected, rng = true(case), np.random.default_rng(seed)
    edges = among(expected.distance, rng, 6)
    bins = int(rng.integers(1, 60))
    asked = {"histogram_edges": edges} if kind == "given" else {"histogram": bins, "histogram_scale": kind}
    result = compare(case, tmp_path_factory.mktemp("bins"), client, **asked)
    found = result["bin_edge"].values
    if kind == "given":
        assert found.tolist() == edges
    else:
        top = found[-1]
        first = 0 if kind == "linear" else top * 1e-6
        np.testing.assert_allclose(found, (np.linspace if kind == "linear" else np.geomspace)(first, top, bins + 1))
        assert int(result["histogram_above"]) == 0
    place = [bisect_right(found.tolist(), value) - (value == found[-1]) for value in expected.distance.tolist()]
    counts = np.bincount(np.array(place, int), minlength=found.size + 1)
    np.testing.assert_array_equal(result["histogram_count"], counts[1:-1])
    assert [int(result["histogram_below"]), int(result["histogram_above"])] == [counts[0], counts[-1]]
    assert int(result["pair_count"]) == counts.sum()


@slow_examples
@given(
    case=cases(),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["own", "one bin", "log", "given"]),
    most=st.sampled_from([4, 10000]),
    fine=st.sampled_from([2000, 60000]),
)
def test_quantiles_equal_sorted_rationals(
    case: tuple[np.ndarray, np.ndarray | None, str, int],
    seed: int,
    kind: str,
    most: int,
    fine: int,
    client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    expected, rng = true(case), np.random.default_rng(seed)
    wanted = sorted({0.0, 1.0, 0.1, 0.5, round(rng.random(), 3)})
    asked = {
        "own": {},
        "one bin": {"histogram": 1},
        "log": {"histogram": 20, "histogram_scale": "log"},
        "given": {"histogram_edges": among(expected.distance, rng, 3)},
    }[kind]
    with tuning.override(COLLECTED_PAIRS=most, FINE_BINS=fine):
        folder = tmp_path_factory.mktemp("quantiles")
        result = compare(case, folder, client, quantiles=wanted, exact_quantiles=True, **asked)
    assert ("histogram_count" in result) == (kind != "own")
    assert result["quantile"].values.tolist() == wanted
    if not expected.i.size:
        assert np.isnan(result["quantile_distance"]).all()
        return
    order = np.sort(expected.distance)
    values = [order[max(1, ceil(Fraction(str(share)) * order.size)) - 1] for share in wanted]
    np.testing.assert_array_equal(result["quantile_distance"], values)
    for value, lower, upper in zip(values, result["quantile_lower"], result["quantile_upper"], strict=True):
        assert float(lower) <= value <= float(upper)


def test_quantiles_are_those_of_numpy(client: Client, tmp_path: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    store = make_store(tmp_path / "m.zarr", output=rows)
    wanted = [0.01, 0.25, 0.5, 0.99]
    result = scan(store, quantiles="0.5,0.01,0.25,0.99", client=client)
    distance = pdist(rows.astype(np.float64))
    expected = np.quantile(distance, wanted, method="inverted_cdf")
    assert (result["quantile_lower"] <= expected).all()
    assert (result["quantile_upper"] >= expected).all()
    assert float((result["quantile_upper"] - result["quantile_lower"]).max()) < 1e-2
    assert "quantile_distance" not in result
    run = CliRunner().invoke(app, ["scan", store, "--quantiles", "0.01,0.25,0.5,0.99", "--exact-quantiles"])
    table = [line.split() for line in run.stdout.split("quantile_distance\n")[1].splitlines()]
    np.testing.assert_allclose([float(line[3]) for line in table], expected, rtol=1e-8)
    assert "pair_count" in run.stdout


@slow_examples
@given(case=cases(), k=st.integers(1, 30), widened=st.booleans(), histogram=st.booleans())
def test_distinct_leaves_identical_rows_out_like_rational_brute_force(
    case: tuple[np.ndarray, np.ndarray | None, str, int],
    k: int,
    widened: bool,
    histogram: bool,
    client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rows, other, metric, tile = case
    if widened and other is not None:
        case = rows, other.astype(np.float64), metric, tile
    whole = true(case)
    apart = whole.between_other_rows(rows, other)
    radius = float(np.sort(apart.distance)[apart.i.size // 3]) if apart.i.size else 0.0
    kept: dict[str, Any] = {"farthest": k, "nearest": k, "neighbors": k} | ({"histogram": 3} if histogram else {})
    kept |= {"within": radius, "pairs_within": radius}
    result = compare(case, tmp_path_factory.mktemp("distinct"), client, distinct=True, **kept)
    assert json.loads(result.attrs["settings"])["distinct"] is True
    near = apart.distance <= radius
    ids = np.stack([apart.i[near], apart.j[near]], axis=1)
    order = np.lexsort(ids.T[::-1])
    np.testing.assert_array_equal(result["pair_token_id"], ids[order])
    np.testing.assert_array_equal(result["pair_distance"], apart.distance[near][order])
    sides = 2 if whole.symmetric else 1
    degree = np.bincount(ids[:, :sides].ravel(), minlength=len(rows))
    np.testing.assert_array_equal(result["within_degree"][:, 0], degree)
    assert int(result["within_count"][0]) == len(ids)
    for name, pairs in (("farthest", whole), ("nearest", apart)):
        ids, distance = pairs.best(k, farthest=name == "farthest")
        np.testing.assert_array_equal(result[f"{name}_token_id"], ids)
        np.testing.assert_array_equal(result[f"{name}_distance"], distance)
    found = [apart.neighbors(token, k) for token in range(len(rows))]
    width = max(len(ids) for ids, _ in found)
    assert result.sizes["neighbor"] == width
    for token, (ids, distance) in enumerate(found):
        missing = width - len(ids)
        assert result["neighbor_token_id"].values[token].tolist() == ids + [-1] * missing
        assert result["neighbor_token"].values[token].tolist() == [f"t{i}" for i in ids] + [""] * missing
        expected = distance + [np.nan] * missing
        np.testing.assert_array_equal(result["neighbor_distance"].values[token], expected)
    if histogram and whole.i.size:
        np.testing.assert_array_equal(result["distance_min"], whole.distance.min())
        assert int(result["pair_count"]) == whole.i.size


def test_the_command_leaves_identical_rows_out(tmp_path: Any) -> None:
    rows = np.array([[0, -0.0], [-0.0, 0], [3, 4], [3, 4], [3, 4]], np.float32)
    store = make_store(tmp_path / "m.zarr", output=rows)
    run = CliRunner().invoke(app, ["scan", store, "--nearest", "2", "--neighbors", "3", "--distinct", "--json"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert found["nearest_token_id"] == [[0, 2], [0, 3]]
    assert found["neighbor_token_id"] == [[2, 3, 4], [2, 3, 4], [0, 1, -1], [0, 1, -1], [0, 1, -1]]
    assert found["neighbor_distance"] == [[5, 5, 5], [5, 5, 5], [5, 5, None], [5, 5, None], [5, 5, None]]
    assert found["neighbor_token"][4] == ["t0", "t1", ""]
    shown = CliRunner().invoke(app, ["scan", store, "--neighbors", "3", "--distinct"]).stdout.splitlines()
    assert [line.split() for line in shown[-3:]] == [
        ["3", "t3", "2", "5", "1", "t1"],
        ["4", "t4", "1", "5", "0", "t0"],
        ["4", "t4", "2", "5", "1", "t1"],
    ]
    refused = CliRunner().invoke(app, ["scan", store, "--farthest", "1", "--distinct"])
    assert isinstance(refused.exception, InputError)
    assert "`nearest`, `neighbors`, `within` and `pairs_within`: ask for one of them" in str(refused.exception)
    refused = CliRunner().invoke(app, ["scan", store, "--pairs-within", "5", "--max-pairs", "6"])
    assert "leave out 4 pairs of identical rows with `distinct`, or a larger" in str(refused.exception)
    options = ["--within", "5", "--pairs-within", "5", "--distinct", "--max-pairs", "6", "--json"]
    run = CliRunner().invoke(app, ["scan", store, *options])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert found["within_count"] == [6]
    assert found["within_degree"] == [[3], [3], [2], [2], [2]]
    assert found["pair_token_id"] == [[i, j] for i in (0, 1) for j in (2, 3, 4)]


@pytest.mark.parametrize("small", [1.0, 1e-12])
def test_moments_of_distances_that_are_tiny_beside_the_rows(small: float, client: Client, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(1, 40)) * small
    rows[0, -1] = 1
    rows = np.repeat(rows, 24, axis=0)
    for i in range(23):
        rows[i + 1, i] = np.nextafter(rows[i + 1, i], 9)
    store = make_store(tmp_path / "m.zarr", output=rows)
    for metric in DISTANCES:
        found, expected = scan(store, metric=metric, histogram=4, client=client), truth(rows, metric=metric)
        for name, moment in (("mean", expected.distance.mean()), ("std", expected.distance.std(ddof=1))):
            np.testing.assert_allclose(found[f"distance_{name}"], moment, rtol=1e-6)
            assert abs(float(found[f"distance_{name}"]) - moment) <= float(found[f"distance_{name}_error"])
            assert float(found[f"distance_{name}_error"]) <= 1e-5 * moment
        assert found["distance_min"] <= found["distance_mean"] <= found["distance_max"]


@pytest.mark.parametrize("n", [2, 40])
def test_the_mean_of_equal_distances_is_that_distance(n: int, client: Client, tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=np.eye(n, dtype=np.float32))
    found = scan(store, histogram=7, client=client)
    assert (float(found["distance_mean"]), float(found["distance_std"] if n > 2 else 0)) == (np.sqrt(2), 0)
