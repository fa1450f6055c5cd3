"""Connected components: against scipy and networkx on exact distances, and a published graph rebuilt."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.analyses import all_pairs, diameters
from embgeom_dask.analyses.components import components
from embgeom_dask.errors import InputError, SomeFailed
from embgeom_dask.kernels import forests
from embgeom_dask.reductions import Components
from embgeom_dask.reductions import components as reduction
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import Truth, truth
from embgeom_dask.testing.strategies import matrices, slow_examples

Array = np.ndarray
METRICS = ("euclidean", "cosine", "chebyshev", "cityblock")


def of_scipy(found: Truth, count: int, radius: float) -> tuple[list[list[int]], Array]:
    """The components of two tokens or more, most tokens first, then by lowest id; and the degree of each token."""
    sparse = pytest.importorskip("scipy.sparse")
    near = found.distance <= radius
    graph = sparse.coo_array((np.ones(near.sum()), (found.i[near], found.j[near])), (count, count))
    _, labels = sparse.csgraph.connected_components(graph, directed=False)
    sets = [np.flatnonzero(labels == label).tolist() for label in range(labels.max() + 1)]
    several = sorted((each for each in sets if len(each) > 1), key=lambda each: (-len(each), each[0]))
    return several, np.asarray(graph.sum(axis=0) + graph.sum(axis=1)).ravel()


def check(found: xr.Dataset, rows: Array, ids: Array, radii: list[float], metric: str) -> None:
    """Compare all of a result with the truth about the tokens `ids`, whose rows are `rows`."""
    every = truth(rows, metric=metric)
    _, first_of = np.unique(rows.astype(np.float64) + 0.0, axis=0, return_index=True)
    distinct = truth(rows[first_of], metric=metric)
    assert found["token_id"].values.tolist() == ids.tolist()
    assert (found["token_count"].item(), found["distinct_count"].item()) == (len(rows), len(first_of))
    number = 0
    for radius in sorted(radii):
        sets, _ = of_scipy(every, len(rows), radius)
        at = found.sel(radius=radius)
        expected = np.full(len(rows), -1)
        for each in sets:
            expected[each] = number
            one = found.isel(connected_component=number)
            assert one["connected_component"].item() == number
            assert one["component_radius"].item() == radius
            assert one["component_token_count"].item() == len(each)
            assert one["component_token_id"].item() == ids[each[0]]
            nodes = np.flatnonzero(np.isin(first_of, each))
            edges = np.isin(distinct.i, nodes) & np.isin(distinct.j, nodes) & (distinct.distance <= radius)
            counts = (one["component_distinct_count"].item(), one["component_edge_count"].item())
            assert counts == (nodes.size, edges.sum())
            density = edges.sum() / (nodes.size * (nodes.size - 1) / 2) if nodes.size > 1 else np.nan
            np.testing.assert_equal(one["component_density"].item(), density)
            if "component_diameter" in found:
                inside = np.isin(every.i, each) & np.isin(every.j, each)
                best = min(zip((-every.order[inside]).tolist(), every.i[inside], every.j[inside], strict=True))
                largest = every.distance[inside][every.order[inside] == -best[0]][0]
                assert one["component_diameter"].item() == largest
                assert one["component_diameter_token_id"].values.tolist() == ids[list(best[1:])].tolist()
            number += 1
        assert at["token_to_component"].values.tolist() == expected.tolist()
        assert at["component_count"].item() == len(sets) + np.count_nonzero(expected < 0)
        assert at["alone_count"].item() == np.count_nonzero(expected < 0)
        _, degree = of_scipy(distinct, len(first_of), radius)
        assert at["degree"].values[first_of].tolist() == degree.tolist()
        assert at["isolated_count"].item() == np.count_nonzero(degree == 0)
        assert at["edge_count"].item() == degree.sum() // 2
    assert found.sizes["connected_component"] == number


@slow_examples
@given(rows=matrices(max_rows=70), metric=st.sampled_from(METRICS), data=st.data())
def test_components_are_those_of_scipy(client: Client, rows: Array, metric: str, data: st.DataObject) -> None:
    if metric == "cosine":
        rows = rows[(rows != 0).any(axis=1)]
    if len(rows) < 2:
        return
    distances = np.unique(truth(rows, metric=metric).distance)
    radii = data.draw(st.lists(st.sampled_from(distances.tolist()), min_size=1, max_size=3, unique=True))
    with tuning.override(TILES=(32,)):
        found = components(rows, radii, metric=metric, diameter=True, client=client)
    check(found, rows, np.arange(len(rows)), radii, metric)


def test_components_are_those_of_networkx(client: Client) -> None:
    networkx = pytest.importorskip("networkx")
    rows = np.random.default_rng(1).integers(0, 12, (300, 2)).astype(np.float32)
    found = components(rows, [1.0], client=client)
    pairs = eg.scan(rows, pairs_within=1.0, client=client)["pair_token_id"].values
    graph = networkx.Graph(pairs.tolist())
    sets = sorted((sorted(each) for each in networkx.connected_components(graph)), key=lambda each: (-len(each), each))
    label = found["token_to_component"].values[:, 0]
    assert [np.flatnonzero(label == number).tolist() for number in range(len(sets))] == sets
    assert (label >= 0).sum() == graph.number_of_nodes()


STEP = 2.0**-14


def published() -> tuple[Array, Array]:
    """125 vectors in steps of a lattice about zero, and how many tokens each has.

    In chebyshev distance they have 100 pairs at one step: components of 15 vectors (1,070 tokens), 8 (712), 7 (312),
    two of 2, and 91 vectors alone.
    """
    cube = list(product((-1, 0), repeat=3))
    long = [*cube, (1, -1, -1), (1, -1, 0), (2, -1, -1), (2, -1, 0), (3, -1, -1), (3, -1, 0), (4, -1, -1)]
    apart = [(10 * n, 0, 100) for n in range(-45, 46)]
    parts = [long, [(x, y - 30, z) for x, y, z in cube], [(x, y + 30, z) for x, y, z in cube[:7]]]
    parts += [[(0, 60, 0), (1, 60, 0)], [(0, -60, 0), (0, -60, 1)], apart]
    steps = np.concatenate([np.array(part) for part in parts])
    tokens = np.ones(len(steps), int)
    for first, count, total in ((0, 15, 1070), (15, 8, 712), (23, 7, 312)):
        tokens[first : first + count] = np.diff(np.linspace(0, total, count + 1).astype(int))
    return (steps * STEP).astype(ml_dtypes.bfloat16), tokens


def test_a_published_graph_with_a_change_of_sign(tmp_path: Path, client: Client) -> None:
    vectors, tokens = published()
    assert len(np.unique(vectors.astype(np.float32), axis=0)) == 125
    rows = np.repeat(vectors, tokens, axis=0)[np.random.default_rng(0).permutation(tokens.sum())]
    for radius in (STEP, "2^-14"):
        found = components(make_store(tmp_path / "m.zarr", rows), radius, metric="chebyshev", client=client)
        at = found.isel(radius=0)
        assert found["distinct_count"].item() == 125
        assert (at["edge_count"].item(), at["component_count"].item()) == (100, 96)
        assert found["component_distinct_count"].values[:3].tolist() == [15, 8, 7]
        assert found["component_token_count"].values[:3].tolist() == [1070, 712, 312]
        assert found["component_edge_count"].values[:3].tolist() == [49, 28, 21]
    # raw bit patterns have an edge across zero as more than 32,767 steps
    bits = vectors.view(np.uint16).astype(int)
    i, j = np.triu_indices(125, 1)
    steps = np.abs(vectors.astype(float)[i] - vectors.astype(float)[j]).max(axis=1) / STEP
    raw = np.abs(bits[i] - bits[j]).max(axis=1)
    assert np.count_nonzero(raw[steps == 1] > 32_767) > 0


@pytest.mark.slow
def test_no_tile_worker_or_strip_changes_anything(
    tmp_path: Path, workers: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    rows = np.concatenate([rng.normal(size=(700, 6)), 3 + 0.1 * rng.normal(size=(300, 6))]).astype(np.float32)
    rows[100:120] = rows[5]
    path = make_store(tmp_path / "m.zarr", rows)
    how: dict[str, Any] = {"radius": [0.0, 0.2, 1.0, 1.5], "diameter": True}
    alone = components(path, **how)
    assert alone["component_count"].values[0] == 980
    monkeypatch.setattr(reduction, "_STRIP_PAIRS", 50)
    monkeypatch.setattr(diameters, "_SMALL", 5)
    with tuning.override(TILES=(64,), PANEL_TILES=2):
        xr.testing.assert_equal(components(path, **how, client=workers), alone)


@given(
    pairs=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19), st.integers(0, 2)), max_size=40),
    seed=st.integers(0, 99),
)
def test_links_make_the_forests_again_in_any_order(pairs: list[tuple[int, int, int]], seed: int) -> None:
    def forest(joined: Array) -> Array:
        parent = np.tile(np.arange(20), (3, 1))
        forests.join(parent, *np.array(joined, np.int64).reshape(-1, 3).T.copy())
        return parent

    parent = forest(np.array(pairs))
    links = np.stack(forests.links(parent), axis=1)
    assert len(links) < 20
    again = forest(np.random.default_rng(seed).permutation(links))
    assert forests.roots(again).tolist() == forests.roots(parent).tolist()
    for k in range(3):
        lowest = np.arange(20)
        for _ in range(20):
            for a, b, radius in pairs:
                if radius <= k:
                    lowest[[a, b]] = min(lowest[a], lowest[b])
        assert forests.roots(parent)[k].tolist() == lowest.tolist()


@pytest.mark.slow
def test_a_run_that_ends_early_goes_on(tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    path, out = make_store(tmp_path / "m.zarr", rows), tmp_path / "r.zarr"
    how: dict[str, Any] = {"radius": [0.1, 0.3], "client": client}
    with tuning.override(TILES=(64,)):
        with monkeypatch.context() as patch:
            patch.setattr(all_pairs, "_finalize", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                components(path, **how, out=out)
        assert eg.status(out)["state"] == "begun"
        with pytest.raises(InputError, match=r"radius is \[0.1, 0.3\] there and \[0.2\] here"):
            components(path, 0.2, out=out, client=client)
        with monkeypatch.context() as patch:
            patch.setattr(Components, "update", lambda *_: pytest.fail("a panel was computed again"))
            found = components(path, **how, out=out)
    check(found, rows, np.arange(500), [0.1, 0.3], "euclidean")
    xr.testing.assert_identical(eg.open_result(out), found)
    settings = json.loads(found.attrs["settings"])
    assert settings == {"metric": "euclidean", "radius": [0.1, 0.3]}
    with pytest.raises(InputError, match="diameter is None there and True here"):
        components(path, **how, diameter=True, out=out)


def test_selections_names_tables_and_files(tmp_path: Path, client: Client) -> None:
    rows = np.random.default_rng(2).integers(0, 5, (60, 2)).astype(ml_dtypes.bfloat16)
    pieces = [f"p{i}" for i in range(60)]
    path = make_store(tmp_path / "m.zarr", rows, tokens=pieces)
    found = components(path, "1,2", tokens="10:50", metric="cityblock", diameter=True, client=client)
    check(found, rows[10:50], np.arange(10, 50), [1.0, 2.0], "cityblock")
    assert found["component_token"].values[0] == pieces[found["component_token_id"].values[0]]
    assert found["component_diameter_token"].dims == ("connected_component", "side")
    in_ulps = components(path, "1ulp", tokens="10:50", metric="chebyshev", client=client)
    assert in_ulps["radius"].item() == 2.0**-5  # of 4
    listed = found.embgeom.to_frame("connected_components")
    assert listed["component_token_count"].tolist() == found["component_token_count"].values.tolist()
    assert len(found.embgeom.to_frame("token_to_component")) == 80
    assert found.embgeom.to_frame("radii")["edge_count"].tolist() == found["edge_count"].values.tolist()
    parquet = pytest.importorskip("pyarrow.parquet")
    found.embgeom.to_parquet(tmp_path / "r.parquet")
    table = parquet.read_table(tmp_path / "r.parquet").to_pydict()
    assert table["token_to_component_2.0"] == found["token_to_component"].sel(radius=2).values.tolist()
    assert table["degree_1.0"] == found["degree"].sel(radius=1).values.tolist()
    part = eg.open_model(path)["output_embedding"][30:40]
    check(components(part, 1, client=client), rows[30:40], np.arange(30, 40), [1.0], "euclidean")


def test_rows_of_zeros_have_no_cosine(client: Client) -> None:
    rows = np.array([[1, 0], [0, 0], [2, 0], [0, 1]], np.float32)
    found = components(rows, 0.5, metric="cosine", client=client)
    assert found["token_id"].values.tolist() == [0, 2, 3]
    assert found["left_out_token_id"].values.tolist() == [1]
    assert found["token_to_component"].values[:, 0].tolist() == [0, 0, -1]


def test_where_every_token_is_alone_nothing_is_listed(client: Client) -> None:
    found = components(np.eye(4), 0.5, diameter=True, client=client)
    assert found.sizes["connected_component"] == 0
    assert found["component_diameter_token_id"].shape == (0, 2)
    assert (found["component_count"].item(), found["alone_count"].item()) == (4, 4)


def test_many_models_are_a_tree_with_a_table(tmp_path: Path, client: Client) -> None:
    rng = np.random.default_rng(5)
    stores = [make_store(tmp_path / f"{i}.zarr", rng.normal(size=(50 + i, 2)), model=f"org/m{i}") for i in range(2)]
    out = tmp_path / "all"
    tree = components(stores, [0.2, 0.4], out=out, client=client)
    for i, store in enumerate(stores):
        xr.testing.assert_equal(tree[f"org--m{i}"].to_dataset(), components(store, [0.2, 0.4], client=client))
    assert tree["token_count"].values.tolist() == [50, 51]
    assert tree["component_count"].dims == ("model", "radius")
    assert tree.attrs["command"] == "components"
    xr.testing.assert_equal(eg.open_result(out), tree)
    with pytest.raises(InputError, match="`radius` 2ulp: of several stores"):
        components(stores, "2ulp", client=client)
    with pytest.raises(SomeFailed, match=r"none.zarr"):
        components([stores[0], tmp_path / "none.zarr"], 0.2, client=client)


@pytest.mark.parametrize(
    ("radius", "said"),
    [
        (None, "`radius`: give one number at least"),
        ("two", "`radius` two: give numbers"),
        ([0.1, 0.1], "`radius`: 0.1 is given more than once"),
        (-1, "`radius` -1: give numbers of 0 or more"),
        ("1ulp", "`radius`: the values of a whole matrix have many units"),
    ],
)
def test_what_is_refused(tmp_path: Path, client: Client, radius: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        components(make_store(tmp_path / "m.zarr", np.eye(3)), radius, client=client)
    assert str(error.value).startswith(said)
    rows = np.eye(3)
    for ask in (components, eg.neighbors, eg.compare):  # before any row is read
        with pytest.raises(InputError, match="`metric` dot is no distance: choose one of euclidean, cosine"):
            ask(rows, rows if ask is eg.compare else 1, metric="dot", client=client)
