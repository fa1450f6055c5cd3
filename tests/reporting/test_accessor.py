"""Results as tables, graphs and files, opened by the libraries that they are for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr
from distributed import Client
from scipy.sparse import csgraph
from scipy.spatial.distance import cdist
from sklearn.cluster import DBSCAN
from sklearn.neighbors import KNeighborsTransformer, NearestNeighbors

import embgeom_dask as eg
from embgeom_dask.cli import app
from embgeom_dask.testing import make_store

TOKENS = ["NA", "", 'a "b", c', "x\ry\n", *(f"w{i}" for i in range(36))]
RADIUS = 1.5


class Made(NamedTuple):
    store: str
    out: Path
    rows: np.ndarray
    scan: xr.Dataset


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Made:
    folder = tmp_path_factory.mktemp("made")
    rows = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    rows[[7, 21]] = rows[3]
    store, out = make_store(folder / "m.zarr", output=rows, tokens=TOKENS, model="org/m"), folder / "scan.zarr"
    asked = {"farthest": 3, "nearest": 4, "neighbors": 5, "histogram": 8, "quantiles": [0.1, 0.5], "within": [1, 1.5]}
    scan = eg.scan(store, out=out, pairs_within=RADIUS, client=client, **asked)
    return Made(store, out, rows.astype(np.float64), scan)


def test_tables_of_pairs_have_both_sides(made: Made) -> None:
    for name in ("farthest", "nearest", "pairs"):
        stem = {"pairs": "pair"}.get(name, name)
        table = made.scan.embgeom.to_frame(name)
        assert [*table][-5:] == ["distance", "token_id_a", "token_a", "token_id_b", "token_b"]
        assert table["distance"].to_numpy().tobytes() == made.scan[f"{stem}_distance"].values.tobytes()
        ids = table[["token_id_a", "token_id_b"]].to_numpy()
        np.testing.assert_array_equal(ids, made.scan[f"{stem}_token_id"])
        assert table["token_a"].tolist() == [TOKENS[i] for i in ids[:, 0]]
        assert table["token_b"].tolist() == [TOKENS[i] for i in ids[:, 1]]
        np.testing.assert_allclose(table["distance"], cdist(made.rows, made.rows)[tuple(ids.T)], rtol=1e-12)
    assert made.scan.embgeom.to_frame("nearest")["rank"].tolist() == [1, 2, 3, 4]


def test_table_of_neighbors_has_a_line_each(made: Made) -> None:
    table = made.scan.embgeom.to_frame("neighbors")
    assert [*table] == ["token_id", "token", "rank", "neighbor_token_id", "neighbor_token", "distance"]
    assert table["distance"].to_numpy().tobytes() == made.scan["neighbor_distance"].values.tobytes()
    assert table["neighbor_token_id"].tolist() == made.scan["neighbor_token_id"].values.ravel().tolist()
    assert table["neighbor_token"].tolist() == [TOKENS[i] for i in table["neighbor_token_id"]]
    assert table["token_id"].tolist() == np.repeat(np.arange(40), 5).tolist()
    assert table["rank"].tolist() == [1, 2, 3, 4, 5] * 40


def test_tables_of_counts(made: Made) -> None:
    scan, report = made.scan, made.scan.embgeom
    assert report.tables == sorted(
        ["farthest", "nearest", "pairs", "neighbors", "histogram", "within", "degrees", "quantiles", "scan"]
    )
    bins = report.to_frame("histogram")
    assert [*bins] == ["bin_left", "bin_right", "bin_center", "histogram_count", "histogram_cdf"]
    assert all(bins[name].tolist() == scan[name].values.tolist() for name in bins)
    within = report.to_frame("within")
    assert dict(zip(within["radius"], within["within_count"], strict=True)) == dict(
        zip([1.0, 1.5], scan["within_count"].values.tolist(), strict=True)
    )
    degrees = report.to_frame("degrees").set_index(["token_id", "radius"])
    true = (cdist(made.rows, made.rows) <= RADIUS).sum(axis=1) - 1
    assert degrees["within_degree"].xs(RADIUS, level="radius").tolist() == true.tolist()
    assert report.to_frame("quantiles")["quantile"].tolist() == [0.1, 0.5]


def test_tables_of_models(made: Made, tmp_path: Path) -> None:
    other = make_store(tmp_path / "n.zarr", output=np.eye(4, 4, dtype=np.float32)[[0, 1, 1, 1]], model="org/n")
    survey = eg.survey([made.store, other])
    table = survey.embgeom.to_frame("survey").set_index("model")
    assert table.index.tolist() == ["org/m", "org/n"]
    assert table["centroid_l2"].tolist() == survey["centroid_l2"].values.tolist()
    centroid = survey.isel(model=[0]).embgeom.to_frame("centroid")
    assert centroid["centroid"].tolist() == survey["centroid"].values[0].tolist()
    report = eg.duplicates([made.store, other]).embgeom
    assert report.tables == ["duplicates", "groups", "members"]
    members = report.to_frame("members")
    assert members["model"].tolist() == ["org/m"] * 3 + ["org/n"] * 3
    assert members["token_id"].tolist() == [3, 7, 21, 1, 2, 3]
    assert members["group_population"].tolist() == [3] * 6
    assert report.to_frame("groups")["model"].tolist() == ["org/m", "org/n"]
    counts = report.to_frame("duplicates")
    assert counts[["model", "matrix", "vocab_size", "unique_count", "member_count"]].to_numpy().tolist() == [
        ["org/m", "output_embedding", 40, 38, 3],
        ["org/n", "output_embedding", 4, 2, 3],
    ]


def test_what_a_result_has_one_of_is_a_line(made: Made) -> None:
    table = made.scan.embgeom.to_frame("scan")
    assert len(table) == 1
    assert table["model"].tolist() == ["org/m"]
    true = cdist(made.rows, made.rows)[np.triu_indices(40, 1)]
    assert table["pair_count"].tolist() == [780]
    assert table["distance_mean"].item() == pytest.approx(true.mean(), rel=1e-6)
    assert table["distance_std"].item() == pytest.approx(true.std(ddof=1), rel=1e-6)
    outliers = eg.outliers(made.store, "0:10")
    line = outliers.embgeom.to_frame("outliers")
    assert line["token_count"].tolist() == [10]
    assert line["outlier_token"].tolist() == [TOKENS[line["outlier_token_id"].item()]]
    assert (
        outliers.embgeom.to_frame("sides")["farthest_token_id"].tolist()
        == outliers["farthest_token_id"].values.tolist()
    )


COLUMNS = {
    "farthest_distance": "distance",
    "farthest_token_id": "token_id_a",
    "nearest_distance": "distance",
    "nearest_token_id": "token_id_a",
    "pair_distance": "distance",
    "pair_token_id": "token_id_a",
    "neighbor_distance": "distance",
    "member_token_id": "token_id",
    "member_group": "group",
    "group_model": "model",
    "bin_edge": "bin_left",
}
"""The columns of tables that have other names than the variables they hold."""


def test_every_variable_of_every_result_is_in_a_table(made: Made, client: Client) -> None:
    zeros = make_store(made.out.parent / "z.zarr", output=np.vstack([np.zeros((1, 4)), made.rows]), model="org/z")
    asked = {"metric": "cosine", "farthest": 1, "neighbors": 2, "histogram": 4, "pairs_within": 0.1, "client": client}
    results = {
        "scan": made.scan,
        "cosine": eg.scan(zeros, quantiles=0.5, exact_quantiles=True, **asked),
        "two": eg.scan(zeros, against=zeros, **asked),
        "root": eg.scan([made.store, zeros], within=1, nearest=1, common_edges=True, histogram=4).to_dataset(),
        "survey": eg.survey([made.store, zeros], client=client),
        "one survey": eg.survey(zeros, client=client),
        "duplicates": eg.duplicates(made.store, client=client),
        "outliers": eg.outliers(made.store, "0:10", client=client),
        "neighbors": eg.neighbors(made.store, ["w1", "w2"], k=3, client=client),
        "tokens": eg.tokens(made.store, client=client),
        "spectrum": eg.spectrum(made.store, sky="1,2,3", sky_by_rank=True, client=client),
        "lattice": eg.lattice(made.rows.astype("bfloat16"), origin=1, within=9, pairs_within=9, client=client),
        "undertrained": eg.undertrained(made.store, unused="3,5", client=client),
        "components": eg.components(made.store, [0.5, 1.0], diameter=True, client=client),
        "cluster": eg.cluster(made.store, least=4, client=client),
        "compare": eg.compare(made.store, zeros, client=client),
        "compare widths": eg.compare(made.store, made.rows[:9, :3], columns=True, shared=2, client=client),
        "compare more": eg.compare(made.store, zeros, neighbors=2, csls=2, columns=True, client=client),
        "compare all": eg.compare([made.store, zeros], client=client),
    }
    for name, result in results.items():
        tables = [result.embgeom.to_frame(each) for each in result.embgeom.tables]
        columns = {column for table in tables for column in table}
        missing = [str(each) for each in result.data_vars if COLUMNS.get(str(each), each) not in columns]
        assert (name, missing) == (name, [])
        assert (name, [each for each in result.data_vars if "long_name" not in result[each].attrs]) == (name, [])


def test_a_tree_has_the_tables_of_all_models(made: Made, tmp_path: Path, client: Client) -> None:
    other = make_store(tmp_path / "n.zarr", output=made.rows[:9] * 2, model="org/n")
    tree = eg.scan([made.store, other], nearest=2, neighbors=3, histogram=4, client=client)
    assert tree.embgeom.tables == ["histogram", "nearest", "neighbors", "scan"]
    nearest = tree.embgeom.to_frame("nearest")
    assert nearest["model"].tolist() == ["org/m", "org/m", "org/n", "org/n"]
    assert nearest["distance"].tolist() == [
        distance for node in tree.children.values() for distance in node["nearest_distance"].values.tolist()
    ]
    assert tree.embgeom.to_frame("neighbors").groupby("model").size().to_dict() == {"org/m": 120, "org/n": 27}
    assert tree.embgeom.to_frame("scan")["pair_count"].tolist() == [780, 36]
    with pytest.raises(eg.InputError, match=r"no table 'pairs': they have histogram, nearest, neighbors, scan$"):
        tree.embgeom.to_frame("pairs")


def test_a_table_that_is_not_there_is_refused_with_those_that_are(made: Made) -> None:
    with pytest.raises(eg.InputError, match=r"no table 'nearst': it has degrees, farthest, .*within"):
        made.scan.embgeom.to_frame("nearst")


def test_neighbors_are_a_sparse_matrix(made: Made) -> None:
    graph = made.scan.embgeom.to_csr()
    assert graph.shape == (40, 40)
    assert graph.nnz == 200
    assert (np.diff(graph.indptr) == 5).all()
    assert graph.indices.tolist() == made.scan["neighbor_token_id"].values.ravel().tolist()
    assert graph.data.tobytes() == made.scan["neighbor_distance"].values.tobytes()
    assert (graph.data == 0).sum() == 6  # three identical rows
    found = NearestNeighbors(n_neighbors=5, metric="precomputed").fit(graph).kneighbors(graph)
    np.testing.assert_array_equal(found[0], made.scan["neighbor_distance"])
    true = NearestNeighbors(n_neighbors=5).fit(made.rows).kneighbors()[0]
    np.testing.assert_allclose(found[0], true, atol=1e-7)
    assert KNeighborsTransformer(n_neighbors=4, metric="precomputed").fit_transform(graph).shape == (40, 40)


def test_pairs_within_are_a_graph(made: Made, client: Client) -> None:
    graph = made.scan.embgeom.to_csr("pairs")
    true = cdist(made.rows, made.rows)
    near = (true <= RADIUS) & ~np.eye(40, dtype=bool)
    assert graph.nnz == near.sum()
    lines, columns = graph.tocoo().coords
    assert {*zip(lines.tolist(), columns.tolist(), strict=True)} == {*map(tuple, np.argwhere(near).tolist())}
    np.testing.assert_allclose(graph.data, true[lines, columns], rtol=1e-12)
    assert csgraph.connected_components(graph)[0] == csgraph.connected_components(near)[0]
    labels = DBSCAN(eps=RADIUS, min_samples=3, metric="precomputed").fit_predict(graph)
    np.testing.assert_array_equal(labels, DBSCAN(eps=RADIUS, min_samples=3).fit_predict(made.rows))
    alone = eg.scan(made.store, pairs_within=RADIUS, client=client)
    assert [*alone.data_vars] == ["pair_radius", "pair_distance", "pair_token_id"]
    assert (alone.embgeom.to_csr("pairs") != graph).nnz == 0
    selected = eg.scan(made.store, tokens="10:30", pairs_within=RADIUS, client=client)
    assert (selected.embgeom.to_csr("pairs") != graph[10:30, 10:30]).nnz == 0
    with pytest.raises(eg.InputError, match="has lost its `token_id`"):
        alone.drop_dims("token_id").embgeom.to_csr("pairs")


def test_a_selection_is_a_graph_of_its_rows(made: Made, client: Client) -> None:
    scan = eg.scan(made.store, tokens="10:30", neighbors=2, client=client)
    graph = scan.embgeom.to_csr()
    assert graph.shape == (20, 20)
    true = cdist(made.rows[10:30], made.rows[10:30])
    lines, columns = graph.tocoo().coords
    np.testing.assert_allclose(graph.data, true[lines, columns], rtol=1e-12)
    with pytest.raises(eg.InputError, match="take the whole result"):
        scan.isel(token_id=slice(3)).embgeom.to_csr()


def test_a_graph_needs_one_matrix_and_its_pairs(made: Made, client: Client) -> None:
    against = eg.scan(made.store, against=made.store, neighbors=1, client=client)
    with pytest.raises(eg.InputError, match="of one matrix"):
        against.embgeom.to_csr()
    with pytest.raises(eg.InputError, match="scan with pairs_within=R"):
        against.embgeom.to_csr("pairs")
    assert len(against.embgeom.to_frame("neighbors")) == 40


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:precomputed_knn.2. .knn_search_index. is not")  # umap-learn's, of any exact list
def test_umap_takes_the_neighbors(made: Made) -> None:
    umap = pytest.importorskip("umap")
    knn = made.scan.embgeom.to_umap()
    assert knn[0][:, 0].tolist() == [*range(40)]
    np.testing.assert_array_equal(knn[1][:, 1:], made.scan["neighbor_distance"])
    model = umap.UMAP(n_neighbors=6, precomputed_knn=knn, init="random", n_epochs=5, random_state=0, n_jobs=1)
    assert model.fit_transform(made.rows).shape == (40, 2)
    assert model.knn_indices is not None
    np.testing.assert_array_equal(model.knn_indices, knn[0])


def test_parquet_holds_a_row_a_token(made: Made, tmp_path: Path) -> None:
    made.scan.embgeom.to_parquet(tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet")
    assert table.column_names == ["token_id", "token", "text", "within_degree_1.0", "within_degree_1.5", "neighbors"]
    assert table["token"].to_pylist() == table["text"].to_pylist() == TOKENS
    first = table["neighbors"][3].as_py()
    assert first["ids"] == made.scan["neighbor_token_id"].values[3].tolist()
    assert first["distances"] == made.scan["neighbor_distance"].values[3].tolist()
    frame = pd.read_parquet(tmp_path / "m.parquet")
    assert frame["within_degree_1.5"].tolist() == made.scan["within_degree"].sel(radius=1.5).values.tolist()
    assert [*frame["neighbors"][0]["ids"]] == made.scan["neighbor_token_id"].values[0].tolist()
    with pytest.raises(eg.InputError, match="exists: `overwrite` replaces it"):
        made.scan.embgeom.to_parquet(tmp_path / "m.parquet")
    for special in (os.devnull, "-"):  # a device is not replaced, nor a file made that no shell can name
        with pytest.raises(eg.InputError, match=f"{special} is no file: name a file"):
            made.scan.embgeom.to_csv(special, "nearest", overwrite=True)
    (tmp_path / "link").symlink_to("m.parquet")
    made.scan.embgeom.to_csv(tmp_path / "link", "nearest", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "m.parquet").read_bytes().startswith(b'"rank"')
    (tmp_path / "link").unlink()
    pairs = made.scan[["pair_distance", "pair_token_id"]]
    with pytest.raises(eg.InputError, match=r"no line for each token .*: take one of tokens, .* `bottom` or"):
        pairs.embgeom.to_parquet(tmp_path / "p.parquet")
    with pytest.raises(eg.InputError, match="no line for each token"):
        eg.survey(made.store).embgeom.to_parquet(tmp_path / "s.parquet")
    assert [each.name for each in tmp_path.iterdir()] == ["m.parquet"]


def test_parquet_holds_the_tokens_of_extreme_products_and_of_csls(made: Made, client: Client, tmp_path: Path) -> None:
    scan = eg.scan(made.store, metric="dot", top=2, bottom=3, client=client)
    scan.embgeom.to_parquet(tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet")
    assert table.column_names == ["token_id", "token", "text", "top", "bottom"]
    for name in ("top", "bottom"):
        listed = table[name].to_pylist()
        assert [each["ids"] for each in listed] == scan[f"{name}_token_id"].values.tolist()
        assert [each["products"] for each in listed] == scan[f"{name}_product"].values.tolist()
    compared = eg.compare(made.store, made.store, csls=2, client=client)
    compared.embgeom.to_parquet(tmp_path / "near.parquet")
    near = pq.read_table(tmp_path / "near.parquet")["near"].to_pylist()
    assert [each["ids"] for each in near] == compared["near_token_id"].values.tolist()
    assert [each["csls"] for each in near] == compared["near_csls"].values.tolist()


def test_csv_has_texts_beside_the_pieces_of_tokens(made: Made, tmp_path: Path) -> None:
    told = {
        name: (variable.dims, np.frompyfunc(lambda text: f"<{text}>", 1, 1)(variable.to_numpy()))
        for name, variable in made.scan.variables.items()
        if str(name).endswith("text")
    }
    scan = made.scan.assign_coords(told)
    columns = {
        "neighbors": {"token": "text", "neighbor_token": "neighbor_text"},
        "pairs": {"token_a": "text_a", "token_b": "text_b"},
        "degrees": {"token": "text"},
    }
    for name, texts in columns.items():
        scan.embgeom.to_csv(tmp_path / f"{name}.csv", name)
        back = pd.read_csv(tmp_path / f"{name}.csv", keep_default_na=False)
        table = scan.embgeom.to_frame(name)
        assert [each for each in back if each not in texts.values()] == [*table]
        for token, text in texts.items():
            assert [*back].index(text) == [*back].index(token) + 1
            assert back[token].tolist() == table[token].tolist()
            assert back[text].tolist() == [f"<{each}>" for each in table[token]]
    scan.drop_vars(told).embgeom.to_csv(tmp_path / "plain.csv", "neighbors")
    assert [*pd.read_csv(tmp_path / "plain.csv")] == [*scan.embgeom.to_frame("neighbors")]


def test_csv_gives_the_same_numbers_back(made: Made, tmp_path: Path) -> None:
    made.scan.embgeom.to_csv(tmp_path / "n.csv", "neighbors")
    back = pd.read_csv(tmp_path / "n.csv", keep_default_na=False)
    table = made.scan.embgeom.to_frame("neighbors")
    pd.testing.assert_frame_equal(back[[*table]], table, check_exact=True)


def run(*args: object) -> int:
    return app.main([str(arg) for arg in args])


def test_commands_write_saved_results(made: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("to-parquet", made.out, "-o", tmp_path / "r.parquet") == 0
    assert capfd.readouterr().out == f"{tmp_path / 'r.parquet'}\n"
    assert pq.read_table(tmp_path / "r.parquet").num_rows == 40
    assert run("to-csv", made.out, "nearest", "-o", tmp_path / "r.csv") == 0
    back = pd.read_csv(tmp_path / "r.csv", keep_default_na=False)
    table = made.scan.embgeom.to_frame("nearest")
    pd.testing.assert_frame_equal(back[[*table]], table, check_exact=True)
    assert run("to-netcdf", made.out, "-o", tmp_path / "r.nc") == 0
    with xr.open_dataset(tmp_path / "r.nc") as opened:
        xr.testing.assert_equal(opened.load(), made.scan)
    capfd.readouterr()
    assert run("to-netcdf", made.out, "-o", tmp_path / "r.nc") == 2
    assert capfd.readouterr().err == f"error: {tmp_path / 'r.nc'} exists: --overwrite replaces it\n"
    assert run("to-netcdf", made.out, "-o", tmp_path / "r.nc", "--overwrite") == 0
    assert {each.name for each in tmp_path.iterdir()} == {"r.parquet", "r.csv", "r.nc"}


def test_a_library_that_is_not_there_is_named_in_a_line(
    made: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run("to-parquet", made.out, "-o", tmp_path / "r.parquet") == 2
    expected = "error: pyarrow is not installed: pip install 'embgeom-dask[notebook]'\n"
    assert capfd.readouterr().err == expected
    assert not [*tmp_path.iterdir()]


def test_the_accessor_loads_no_other_library_before_use() -> None:
    code = (
        "import sys, embgeom_dask as eg; assert 'xarray' not in sys.modules; import embgeom_dask.reporting.accessor;"
        "names = ('matplotlib', 'netCDF4', 'pandas', 'pyarrow', 'scipy.sparse', 'umap');"
        "print([each for each in names if each in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "umap" not in found
    assert "netCDF4" not in found
    assert "matplotlib" not in found
    assert "scipy" not in found
