"""Arrays given as data: their values and labels, whatever xarray, dask, numpy or torch has made of them."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
import xarray as xr
import zarr
from dask.delayed import delayed
from distributed import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from scipy.spatial.distance import cdist

import embgeom_dask as eg
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.execution import array_rows
from embgeom_dask.execution.arrays import given_rows
from embgeom_dask.execution.callbacks import PanelCallback
from embgeom_dask.storage.model_stores import labels_of
from embgeom_dask.testing import make_store

ROWS = np.random.default_rng(0).normal(size=(23, 4)).astype(ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("arrays") / "m.zarr", output=ROWS, tokens=[f"w{i}" for i in range(23)])


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    """Where temporary stores are: empty again at the end of every test."""
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        yield tmp_path
    assert not list(tmp_path.iterdir())


def _made_of(function: Callable[[np.ndarray], Any]) -> Any:
    """A dask array that is said to be float32, of what a function returns."""
    rows = dask.array.from_array(np.arange(12.0).reshape(6, 2), chunks=3)
    return rows.map_blocks(function, dtype=np.float32, meta=np.empty((0, 0), np.float32))


def _integers_called(dtype: Any) -> Any:
    """A dask array that is said to be of `dtype`, of integers that float64 does not hold."""
    rows = dask.array.from_array(2**53 + np.arange(4).reshape(2, 2).astype(np.uint64), chunks=1)
    return rows.map_blocks(lambda block: block, dtype=dtype, meta=np.empty((0, 0), dtype))


def _labelled(ids: list[Any]) -> xr.DataArray:
    return xr.DataArray(np.eye(2), {"token_id": np.array(ids, object)}, ("token_id", "x"))


Step = Callable[[xr.DataArray], xr.DataArray]


def _taken(at: list[float]) -> Step:
    return lambda m: m[[int(part * m.shape[0]) for part in at]]


def _columns(at: list[float]) -> Step:
    return lambda m: m[:, [int(part * m.shape[1]) for part in at]]


def _relabelled(start: int) -> Step:
    return lambda m: m.assign_coords({m.dims[0]: start + np.arange(m.shape[0])[::-1]})


def _without(name: str) -> Step:
    return lambda m: m.drop_vars(name, errors="ignore")


PARTS = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=6)
STEPS = st.one_of(
    PARTS.map(_taken),
    PARTS.map(_columns),
    st.integers(0, 50).map(_relabelled),
    st.sampled_from(["token_id", "token", "text", "has_token"]).map(_without),
    st.sampled_from(
        [
            lambda m: m[::-1],
            lambda m: m[1:] if m.shape[0] > 1 else m,
            lambda m: m.T,
            lambda m: m - m.mean("token_id"),
            lambda m: m * 2,
            lambda m: m.astype("f8"),
            lambda m: m.astype("f2"),
            lambda m: (m * 8).round().astype("i4"),
            lambda m: m.chunk({m.dims[0]: 3, m.dims[1]: 2}),
            lambda m: m.load(),
            lambda m: m.copy(deep=True),
            lambda m: m.drop_attrs(),
            lambda m: m.rename("mine"),
            lambda m: m.where(m > 0, 0),
            lambda m: xr.concat([m, m], "token_id"),
            lambda m: m.sortby(abs(m).sum(m.dims[1])),
        ]
    ),
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=4), raw=st.booleans())
def test_chains_of_operations_are_taken_by_their_values(store: str, steps: list[Step], raw: bool) -> None:
    """Whatever was done to a matrix, the rows are those of `.values`, and the labels its coordinates."""
    array = eg.open_model(store, raw=raw).output_embedding
    for step in steps:
        try:
            array = step(array)
        except TypeError:  # what numpy cannot do with bfloat16
            assert raw
    array = array.transpose("token_id", ...)
    with given_rows(array) as rows:
        np.testing.assert_array_equal(rows.matrix.take(rows.rows).astype("f8"), array.values.astype("f8"))
        ids = array["token_id"] if "token_id" in array.coords else np.arange(array.shape[0])
        assert rows.ids.tolist() == np.asarray(ids).tolist()
        if "token" in array.coords:
            strings = labels_of(rows.matrix, rows.rows)["token"].to_numpy()
            assert strings.tolist() == array["token"].to_numpy().tolist()


CHANGES = {
    "relabelled": (lambda m: m[10:20].assign_coords(token_id=range(100, 110)), range(100, 110)),
    "one column many times": (lambda m: m.isel(hidden=[0] * 5), range(23)),
    "a row twice": (lambda m: m[[5, 5, 7]], [5, 5, 7]),
    "centred": (lambda m: m - m.mean("token_id"), range(23)),
    "backwards": (lambda m: m[::-1], range(22, -1, -1)),
    "numpy": (lambda m: m.values, range(23)),
    "dask": (lambda m: m.chunk(token_id=5, hidden=3).data, range(23)),
    "torch": (lambda m: torch.from_numpy(m.values).to(torch.bfloat16), range(23)),
    "pandas": (lambda m: pd.DataFrame(m.values, index=np.arange(23) + 7), range(7, 30)),
    "big-endian": (lambda m: m.values.astype(">f4"), range(23)),
}


@pytest.mark.parametrize(("change", "ids"), CHANGES.values(), ids=CHANGES)
def test_a_scan_compares_the_rows_given(
    store: str, folder: Path, client: Client, change: Callable[[xr.DataArray], Any], ids: Any
) -> None:
    data = change(eg.open_model(store).output_embedding)
    values = data.double().numpy() if isinstance(data, torch.Tensor) else np.asarray(data, np.float64)
    distance = cdist(values, values)
    found = eg.scan(data, neighbors=2, farthest=1, client=client)
    np.fill_diagonal(distance, np.inf)
    order, ids = np.argsort(distance, axis=1, kind="stable")[:, :2], np.array(ids)
    np.testing.assert_array_equal(found["token_id"], ids)
    np.testing.assert_array_equal(found["neighbor_token_id"], ids[order])
    np.testing.assert_allclose(found["neighbor_distance"], np.take_along_axis(distance, order, 1), rtol=1e-12)
    np.fill_diagonal(distance, -1)
    assert float(found["farthest_distance"][0]) == pytest.approx(distance.max(), rel=1e-12)
    if not isinstance(data, xr.DataArray):
        assert found.attrs["model"] == ["array"]
    else:
        assert found.attrs["model"] == ["test/model (array)"]
        tokens = dict(zip(data["token_id"].values.tolist(), data["token"].values.tolist(), strict=True))
        assert found["farthest_token"].values.ravel().tolist() == [
            tokens[each] for each in found["farthest_token_id"].values.ravel().tolist()
        ]


def test_two_arrays_are_compared_under_the_ids_of_each(store: str, folder: Path, client: Client) -> None:
    matrix = eg.open_model(store).output_embedding
    first = (matrix[:6] * 3).assign_coords(token_id=np.arange(6) + 50)
    found = eg.scan(first, against=matrix, nearest=1, neighbors=1, tokens="50:53", client=client)
    distance = cdist(first.values[:3].astype("f8"), matrix.values.astype("f8"))
    row, column = np.unravel_index(distance.argmin(), distance.shape)
    assert found["nearest_token_id"].values.tolist() == [[row + 50, column]]
    assert found["token_id"].values.tolist() == [50, 51, 52]
    assert found["neighbor_token"].values.ravel().tolist() == [f"w{i}" for i in distance.argmin(1)]


def test_labels_that_are_words_are_the_tokens(folder: Path, client: Client) -> None:
    words = xr.DataArray(np.eye(3)[[0, 1, 1]], {"word": ["king", "queen", "reine"]}, ("word", "feature"))
    found = eg.scan(words, nearest=1, client=client)
    assert found["nearest_token"].values.tolist() == [["queen", "reine"]]
    assert found["nearest_token_id"].values.tolist() == [[1, 2]]


@pytest.mark.parametrize("name", ["token", "row"])
def test_rows_keep_their_ids_along_a_dimension_of_another_name(
    store: str, folder: Path, client: Client, name: str
) -> None:
    matrix = eg.open_model(store).output_embedding.assign_coords(row=("token_id", np.arange(23)[::-1]))
    some = matrix.swap_dims(token_id=name)[[9, 4, 17]]
    for taken in (some, some.T):
        found = eg.scan(taken, neighbors=1, client=client)
        assert found["token_id"].values.tolist() == [9, 4, 17]
        assert found["token"].values.tolist() == ["w9", "w4", "w17"]


@pytest.mark.parametrize("name", ["token_id_2", "token_ids", "tokens_seen"])
def test_only_a_dimension_of_token_ids_is_taken_for_rows(folder: Path, client: Client, name: str) -> None:
    rows = ROWS[:6, :4]
    given = xr.DataArray(rows, dims=("row", name), coords={name: [7, 8, 9, 5]})
    found = eg.scan(given, neighbors=1, client=client)
    np.testing.assert_array_equal(
        found["neighbor_distance"], eg.scan(rows, neighbors=1, client=client)["neighbor_distance"]
    )
    counts = xr.DataArray(rows, dims=("row", "hidden"), coords={name: ("hidden", [7, 8, 9, 5])})
    assert eg.survey(counts, client=client)["vocab_size"].item() == 6


def test_rows_keep_their_tokens_where_their_dimension_is_renamed(store: str, folder: Path, client: Client) -> None:
    some = eg.open_model(store).output_embedding.rename(token_id="token_id_2")[[4, 9, 17]] * 2
    found = eg.scan(some, neighbors=1, client=client)
    assert found["token_id"].values.tolist() == [4, 9, 17]
    assert found["token"].values.tolist() == ["w4", "w9", "w17"]


def test_ids_that_became_floats_or_objects_are_ids_and_what_is_missing_is_no_label(
    store: str, folder: Path, client: Client
) -> None:
    model = eg.open_model(store).output_embedding
    padded = model[:3].reindex(token_id=[2, 99, 0]).fillna(0)
    for ids in (padded.token_id, padded.token_id.astype(np.float64), padded.token_id.astype(object)):
        found = eg.scan(padded.assign_coords(token_id=ids), neighbors=1, client=client)
        assert found.token_id.values.tolist() == [2, 99, 0]
        assert found.token.values.tolist() == ["w2", "", "w0"]


def test_survey_duplicates_and_outliers_take_arrays(store: str, folder: Path, client: Client) -> None:
    matrix = eg.open_model(store).output_embedding
    some = xr.concat([matrix[4:9], matrix[6:7]], "token_id").assign_coords(token_id=[40, 41, 42, 43, 44, 99])
    values = some.values.astype("f8")
    surveyed = eg.survey([some, store], client=client)
    np.testing.assert_allclose(surveyed["centroid"][0], values.mean(0), rtol=1e-14)
    assert surveyed["vocab_size"].values.tolist() == [6, 23]
    groups = eg.duplicates(some, client=client)
    assert groups["member_token_id"].values.tolist() == [42, 99]
    assert groups["member_token"].values.tolist() == ["w6", "w6"]
    assert groups["token_to_group"].sel(token_id=[40, 99]).values.tolist() == [-1, 0]
    pair = eg.outliers(some, "40:45", client=client)
    distance = cdist(values[:5], values[:5])
    assert float(pair["farthest_distance"]) == pytest.approx(distance.max(), rel=1e-14)
    assert pair["farthest_token_id"].values.tolist() == [40 + i for i in np.unravel_index(distance.argmax(), (5, 5))]
    assert eg.survey(matrix[4:9], client=client)["vocab_size"].item() == 5


def test_a_dataset_of_a_model_is_its_matrix(store: str, client: Client) -> None:
    model = eg.open_model(store)
    assert eg.scan(model, nearest=1, client=client).equals(eg.scan(store, nearest=1, client=client))


def test_a_saved_result_of_an_array_is_opened_again_for_the_same_array_alone(
    store: str, folder: Path, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("out") / "r.zarr"
    first = eg.scan(ROWS[:9], farthest=2, out=out, client=client)
    again = eg.scan(ROWS[:9].copy(), farthest=2, out=out, client=client)
    assert again.attrs["seconds"] == first.attrs["seconds"]
    labelled = xr.DataArray(ROWS[:9], {"token_id": np.arange(9) + 1}, ("token_id", "hidden"))
    for other in (ROWS[1:10], labelled):
        with pytest.raises(InputError, match="holds a result from other settings"):
            eg.scan(other, farthest=2, out=out, client=client)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones(4), r"has the shape \(4,\): give one of rows and columns"),
        (np.ones((3, 2, 2)), r"has the shape \(3, 2, 2\)"),
        (np.ones((0, 2)), r"has the shape \(0, 2\)"),
        (np.ones((3, 2), complex), "is complex128: give float64, float32"),
        (np.array([["a"]]), "give float64, float32"),
        (np.array([[2**53 + 1], [0]]), "holds 9007199254740993, which float64 does not"),
        (np.ma.masked_less(np.arange(6.0).reshape(3, 2), 2), "has masked values"),
        (
            dask.array.from_array(np.arange(6.0).reshape(3, 2))[dask.array.from_array(np.ones(3, bool))],
            "know its shape",
        ),
        (xr.DataArray(np.eye(2), {"token_id": [-1, 3]}, ("token_id", "x")), "token ids are 0 or more"),
        (xr.Dataset({"other": ("x", [1.0])}), "has no output_embedding or input_embedding"),
        (torch.ones(3, 2, dtype=torch.float8_e4m3fn), "give it as float32"),
        (torch.ones(3, 2, device="meta"), "is on the device meta: give a dense one that has values"),
        (torch.eye(3).to_sparse(), "is torch.sparse_coo: give a dense one"),
        (torch.ones(3, 2, dtype=torch.complex64).conj(), "is complex64"),
        (_made_of(lambda block: block[:1]), r"has the shape \(1, 2\), and dask was told \(3, 2\)"),
        (_made_of(lambda block: block[:0]), r"has the shape \(0, 2\), and dask was told \(3, 2\)"),
        (_made_of(lambda block: block / 3), "is float64, and dask was told float32: .* the right `dtype`"),
        (_integers_called(float), "holds 9007199254740995, which float64 does not"),
        (_integers_called(np.uint64), "holds 9007199254740995, which float64 does not"),
        (_made_of(lambda block: np.ma.masked_less(block.astype("f4"), 1)), "has masked values"),
        (xr.DataArray(np.eye(2), {"token_id": [3, np.nan]}, ("token_id", "x")), r"or some are missing \(NaN\)"),
        (_labelled([3, None]), r"or some are missing \(NaN\): give integers"),
        (_labelled([None, None]), r"or some are missing \(NaN\): give integers"),
        (_labelled([3, "a"]), "are no integers"),
        (_labelled([3, 2**70]), "are 3 to 1180591620717411303424: token ids are 0 or more, below 2\\^63"),
        (scipy.sparse.csr_array(np.eye(2)), r"is a sparse csr_array: give its toarray\(\)"),
        (delayed(np.eye)(2), r"is a Delayed: give its compute\(\)"),
        (xr.DataTree.from_dict({"/a": xr.Dataset()}), "was given a DataTree: give one of these, or a list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_cannot_be_compared_are_refused(array: Any, words: str, folder: Path) -> None:
    with pytest.raises(InputError, match=words) as refused:
        eg.scan(array, nearest=1)
    assert "\n" not in str(refused.value)


def test_what_is_no_role_is_refused_for_arrays_too(folder: Path) -> None:
    with pytest.raises(InputError, match="no role 'out': choose input or output"):
        eg.scan(np.eye(3), role="out", nearest=1)


def test_lists_of_numbers_are_no_stores(folder: Path) -> None:
    with pytest.raises(InputError, match="was given a float: give numbers in a numpy array"):
        eg.survey([1.0, 2.0])  # type: ignore[list-item]
    with pytest.raises(InputError, match="one store or array is needed, and a list is given: name a store"):
        eg.outliers([np.eye(3), np.eye(3)])


def test_a_mask_with_token_ids_selects_by_these(store: str, client: Client) -> None:
    rows = eg.open_model(store)["output_embedding"]
    chosen = rows.token_id.isin([3, 7, 20])
    for mask in (chosen, chosen[::-1], chosen[2:30], chosen[::-1].rename(token_id="t"), chosen.to_numpy()):
        found = eg.scan(store, tokens=mask, neighbors=1, client=client)
        assert found["token_id"].values.tolist() == [3, 7, 20]


def test_the_plan_counts_what_is_written(folder: Path, client: Client) -> None:
    rows = np.random.default_rng(1).normal(size=(1000, 8))
    plan = eg.scan(rows, nearest=1, dry_run=True, client=client).attrs["plan"]
    assert plan["temporary"] > rows.nbytes / 2


COUNTED: list[int] = []


def _count(block: np.ndarray) -> np.ndarray:
    COUNTED.append(len(block))
    return block


def test_a_dask_array_is_computed_once(folder: Path, client: Client) -> None:
    """Though a mean over all rows is part of every block."""
    rows = dask.array.from_array(np.arange(80.0).reshape(20, 4), chunks=(5, 4)).map_blocks(_count, dtype=float)
    COUNTED.clear()
    eg.scan(rows - rows.mean(0), nearest=1, client=client)
    assert sum(size for size in COUNTED if size > 1) == 20


def test_nothing_is_left_of_an_array_that_fails(folder: Path, client: Client) -> None:
    def failing(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info[0]["chunk-location"][0] == 1:
            raise ZeroDivisionError
        time.sleep(0.5)
        return block

    rows = dask.array.ones((40, 2), chunks=(10, 2)).map_blocks(failing, dtype=float, meta=np.empty((0, 0)))
    for active in (client, None):
        with pytest.raises(ZeroDivisionError):
            eg.scan(rows, nearest=1, client=active)
        time.sleep(1)
        assert not list(folder.iterdir())


@pytest.mark.parametrize("at", ["before", "while"])
def test_nothing_is_left_where_a_block_is_written_after_the_folder_is_removed(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "embgeom-array-x"
    target = zarr.create_array(str(place / "computed"), shape=(4, 2), chunks=(2, 2), dtype=float)
    honest = zarr.Array.__setitem__

    def written(array: Any, where: Any, block: Any) -> None:
        shutil.rmtree(place)
        honest(array, where, block)
        assert place.exists()

    monkeypatch.setattr(zarr.Array, "__setitem__", written)
    if at == "before":
        shutil.rmtree(place)
    with pytest.raises(InputError, match=r"no folder .*computed here: set dask's temporary-directory"):
        array_rows._Blocks(target, str(place / "computed"))[0:2] = np.ones((2, 2))
    assert not list(tmp_path.iterdir())


def test_token_ids_may_be_objects_that_are_integers_or_strings(client: Client) -> None:
    ids = eg.tokens(_labelled([50, 70]), client=client)
    assert ids["token_id"].values.tolist() == [50, 70]
    named = eg.tokens(_labelled(["b", None]), client=client)
    assert (named["token_id"].values.tolist(), named["token"].values.tolist()) == ([0, 1], ["b", ""])


def test_temporary_stores_are_in_the_folder_of_the_system_by_default(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = set[str]()

    def look(*_: object) -> None:
        seen.update(each.name[:14] for each in tmp_path.glob("embgeom-array-*"))

    with PanelCallback(look):
        eg.scan(ROWS, nearest=1, client=client)
    assert seen == {"embgeom-array-"}
    assert not [*tmp_path.glob("embgeom-array-*")]


def _file(folder: Path, name: str, rows: np.ndarray) -> str:
    """Write rows to a file of that ending."""
    if name.endswith(".npy"):
        np.save(folder / name, rows)
    else:
        save_file({"W": rows, "bias": rows[0], "mask": np.ones(3, np.uint8)}, folder / name)
    return str(folder / name)


@pytest.mark.parametrize("name", ["d.npy", "d.safetensors"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_a_matrix_of_a_file_is_its_rows(
    name: str, dtype: type, store: str, folder: Path, tmp_path_factory: pytest.TempPathFactory, client: Client
) -> None:
    rows = np.random.default_rng(1).normal(size=(9, 4)).astype(dtype)
    path = _file(tmp_path_factory.mktemp("files"), name, rows)
    asked = {"metric": "dot", "top": 3, "client": client}
    found, expected = (eg.scan(store, against=each, **asked) for each in (path, rows))
    xr.testing.assert_equal(found["top_product"], expected["top_product"].assign_coords(against=found["against"]))
    np.testing.assert_array_equal(found["top_token_id"], expected["top_token_id"])
    assert found["against"].item() == name
    turned = eg.scan(Path(path), against=store, **asked)
    assert turned["top_token"].values[0, 0] == f"w{turned['top_token_id'].values[0, 0]}"
    assert turned["model"].item() == name
    if name == "d.safetensors":
        named = eg.scan(store, against=f"{path}:W", **asked)
        np.testing.assert_array_equal(named["top_token_id"], expected["top_token_id"])
        assert named["against"].item() == "d.safetensors:W"


def test_files_without_that_matrix_are_refused_in_one_line(store: str, folder: Path, tmp_path_factory: Any) -> None:
    files = tmp_path_factory.mktemp("files")
    save_file({name: np.eye(4, dtype=np.float32) for name in ("A", "B")}, files / "two.safetensors")
    np.save(files / "int.npy", np.eye(4, dtype=np.int64))
    np.save(files / "one.npy", np.ones(4))
    (files / "broken.npy").write_bytes(b"x")
    for name, words in (
        ("two.safetensors", r"has 2 matrices of floats: name one, .*two\.safetensors:KEY \(A, B\)"),
        ("two.safetensors:C", "has no matrix 'C': its matrices of floats are A, B"),
        ("int.npy", "holds <i8"),
        ("one.npy", r"has no matrix of floats, rows and columns: it holds one F64 \[4\]"),
        ("broken.npy", "is not a .npy file"),
        ("none.npy", "none.npy"),
    ):
        with pytest.raises(EmbgeomError, match=words) as caught:
            eg.scan(store, against=str(files / name), farthest=1)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", ["farthest", "nearest"])
@pytest.mark.parametrize("metric", ["euclidean", "chebyshev"])
def test_rows_that_cannot_be_compared_are_named_by_their_own_ids(kept: str, metric: str, client: Client) -> None:
    rows = xr.DataArray(np.eye(4), dims=("token_id", "hidden"), coords={"token_id": [10, 20, 30, 40]})
    reindexed = rows.reindex(token_id=[10, 20, 5000])
    for sides in ((reindexed, None), (rows, reindexed)):
        with pytest.raises(InputError, match=r"1 of 3 rows .*\(token ids 5000\)"):
            eg.scan(sides[0], against=sides[1], metric=metric, client=client, **{kept: 1})
