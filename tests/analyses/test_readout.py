"""What directions write: against numpy, from files and arrays, with a gain and with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import stats

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.execution.callbacks import PanelCallback
from embgeom_dask.execution.grid import Panel
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import truth
from embgeom_dask.testing.strategies import DTYPES, slow_examples

RNG = np.random.default_rng(0)
VOCABULARY = RNG.normal(size=(300, 24)).astype(ml_dtypes.bfloat16)
DIRECTIONS = RNG.normal(size=(7, 24)).astype(np.float32)
MANY = RNG.normal(size=(100, 24)).astype(np.float32)
GAIN = RNG.uniform(0.5, 2, 24).astype(ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    tokens = [f"w{i}" for i in range(300)]
    return make_store(tmp_path_factory.mktemp("readout") / "m.zarr", output=VOCABULARY, tokens=tokens)


def check(found: xr.Dataset, products: np.ndarray, k: int) -> None:
    """Compare both ends with all products (directions, tokens), which have no ties."""
    order = np.argsort(-products, axis=1)
    for name, ids in (("top", order[:, :k]), ("bottom", order[:, ::-1][:, :k])):
        np.testing.assert_array_equal(found[f"{name}_token_id"], ids)
        np.testing.assert_allclose(found[f"{name}_product"], np.take_along_axis(products, ids, 1), rtol=1e-12)
        assert found[f"{name}_token"].values.tolist() == [[f"w{i}" for i in row] for row in ids.tolist()]


@pytest.mark.parametrize("kind", ["numpy", "torch", "npy", "safetensors", "store", "float64"])
def test_directions_of_any_kind_are_read_out(kind: str, store: str, client: Client, tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", DIRECTIONS)
    save_file({"W_dec": torch.from_numpy(DIRECTIONS)}, tmp_path / "d.safetensors")
    given_as: dict[str, Any] = {
        "numpy": DIRECTIONS,
        "torch": torch.from_numpy(DIRECTIONS),
        "npy": tmp_path / "d.npy",
        "safetensors": f"{tmp_path}/d.safetensors:W_dec",
        "store": make_store(tmp_path / "d.zarr", input=DIRECTIONS),
        "float64": DIRECTIONS.astype(np.float64),
    }
    found = eg.readout(given_as[kind], store, k=4, client=client)
    check(found, DIRECTIONS.astype(float) @ VOCABULARY.astype(float).T, 4)
    assert found["direction"].values.tolist() == list(range(7))
    assert found["label"].values.tolist() == ([f"t{i}" for i in range(7)] if kind == "store" else [""] * 7)
    assert found.attrs["command"] == "readout"
    products = DIRECTIONS.astype(float) @ VOCABULARY.astype(float).T
    np.testing.assert_allclose(found["row_mean"], products.mean(1), atol=1e-6)
    np.testing.assert_allclose(found["row_std"], products.std(1), rtol=1e-6)
    np.testing.assert_allclose(found["row_skew"], stats.skew(products, axis=1), atol=1e-6)
    np.testing.assert_allclose(found["row_kurtosis"], stats.kurtosis(products, axis=1, fisher=False), rtol=1e-6)
    for name, end in (("row_max", "top"), ("row_min", "bottom")):
        np.testing.assert_array_equal(found[name], found[f"{end}_product"].isel({end: 0}))
    without = eg.readout(given_as[kind], store, k=4, moments=False, client=client)
    assert "row_mean" not in without
    np.testing.assert_array_equal(without["top_product"], found["top_product"])


def test_a_gain_multiplies_the_columns_exactly(store: str, client: Client, tmp_path: Path) -> None:
    save_file({"norm.weight": torch.from_numpy(GAIN.astype(np.float32)).bfloat16()}, tmp_path / "g.safetensors")
    np.save(tmp_path / "g.npy", GAIN.astype(np.float32))
    expected = truth(DIRECTIONS.astype(float) * GAIN.astype(float), metric="dot", against=(VOCABULARY, np.arange(300)))
    for gain in (GAIN.astype(float), tmp_path / "g.npy", f"{tmp_path}/g.safetensors:norm.weight"):
        found = eg.readout(DIRECTIONS, store, k=3, gain=gain, client=client)
        for row in range(7):
            for name in ("top", "bottom"):
                ids, products = expected.neighbors(row, 3, farthest=name == "top")
                assert found[f"{name}_token_id"].values[row].tolist() == ids
                assert found[f"{name}_product"].values[row].tolist() == products


def test_labels_come_from_a_file_a_list_or_a_coordinate(store: str, client: Client, tmp_path: Path) -> None:
    names = [f"feature {i}" for i in range(7)]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    labelled = xr.DataArray(DIRECTIONS, dims=("feature", "hidden"), coords={"feature": names})
    for directions, labels in ((DIRECTIONS, names), (DIRECTIONS, tmp_path / "names.txt"), (labelled, None)):
        found = eg.readout(directions, store, k=1, labels=labels, client=client)
        assert found["label"].values.tolist() == names
    numbered = xr.DataArray(DIRECTIONS, dims=("feature", "hidden"), coords={"feature": np.arange(7)[::-1] * 10})
    found = eg.readout(numbered, store, k=2, client=client)
    assert found["direction"].values.tolist() == [60, 50, 40, 30, 20, 10, 0]
    check(found, DIRECTIONS.astype(float) @ VOCABULARY.astype(float).T, 2)
    frame = found.embgeom.to_frame("top")
    columns = ["direction", "label", "rank", "top_token_id", "top_token", "product"]
    assert list(frame.columns) == columns
    assert len(frame) == 14


@pytest.mark.parametrize("together", [1 << 28, 1])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_the_columns_of_a_matrix_are_directions(
    dtype: Any, together: int, store: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embgeom_dask.analyses.directions._TOGETHER", together)
    weight = torch.from_numpy(DIRECTIONS.T.copy()).to(torch.float32 if dtype is np.float32 else torch.bfloat16)
    save_file({"down_proj.weight": weight}, tmp_path / "m.safetensors")
    of_rows = eg.readout(DIRECTIONS.astype(dtype), store, k=4, gain=GAIN, labels=list("abcdefg"), client=client)
    out = tmp_path / "r.zarr"
    how: dict[str, Any] = {"k": 4, "gain": GAIN, "labels": list("abcdefg"), "out": out, "client": client}
    found = eg.readout(f"{tmp_path}/m.safetensors:down_proj.weight", store, columns=True, **how)
    xr.testing.assert_equal(found.drop_vars("model").load(), of_rows.drop_vars("model").load())
    monkeypatch.delattr("embgeom_dask.analyses.directions.temporary_store")  # what is there is opened
    again = eg.readout(f"{tmp_path}/m.safetensors:down_proj.weight", store, columns=True, **how)
    xr.testing.assert_identical(again.load(), found.load())


def test_directions_of_another_width_are_refused_with_what_may_be_meant(store: str, client: Client) -> None:
    wide = np.ones((24, 5), np.float32)
    for directions, how, words in (
        (wide, {}, "have 5 values and the rows of test/model 24: with `columns` its columns are the directions"),
        (wide.T, {"columns": True}, "have 5 values and the rows of test/model 24: without `columns` its rows are"),
        (np.ones((6, 5), np.float32), {"columns": True}, "only matrices of one width"),
        (wide, {"columns": True, "labels": ["a"]}, "`labels` are 1, and directions 5"),
    ):
        with pytest.raises(InputError, match=words):
            eg.readout(directions, store, client=client, **how)


@pytest.mark.parametrize("gain", [None, GAIN])
def test_a_readout_that_is_killed_goes_on_and_status_says_how_far_it_is(
    gain: Any, store: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, computed, kept = str(tmp_path / "r.zarr"), list[str](), list[str]()

    def count(event: str, plan: Any, panel: Panel) -> None:
        if event == "computed":
            computed.append(panel.name)
        elif event == "committed":
            kept.append(panel.name)
        elif event == "received" and dies and len(kept) >= 4:
            raise MemoryError("the client dies")

    with tuning.override(TILES=(64,), PANEL_TILES=1), PanelCallback(count):
        dies = False
        undisturbed = eg.readout(MANY, store, k=3, gain=gain, client=client)
        panels = sorted(computed)
        assert len(panels) == 10
        computed.clear()
        dies = True
        with pytest.raises(MemoryError):
            eg.readout(MANY, store, k=3, gain=gain, out=out, client=client)
        client.submit(int, pure=False).result()
        said = eg.status(out)
        assert (said["command"], said["state"], said["panels_total"]) == ("readout", "begun", 10)
        assert 4 <= said["panels_done"] == len(kept) < 10
        with pytest.raises(InputError, match="was begun with other settings"):
            eg.readout(MANY, store, k=4, gain=gain, out=out, client=client)
        committed, dies = list(kept), False
        computed.clear()
        resumed = eg.readout(MANY, store, k=3, gain=gain, out=out, client=client)
        assert sorted(computed + committed) == panels
        computed.clear()
        monkeypatch.delattr("embgeom_dask.analyses.directions.temporary_store")  # nor are directions multiplied again
        again = eg.readout(MANY, store, k=3, gain=gain, out=out, client=client)
        assert not computed
    assert eg.status(out)["state"] == "finished"
    for found in (resumed, again):
        xr.testing.assert_identical(found.drop_attrs().load(), undisturbed.drop_attrs().load())


@slow_examples
@given(
    dtypes=st.tuples(*[st.sampled_from(sorted(DTYPES))] * 2),
    seed=st.integers(0, 999),
    count=st.integers(1, 5),
    k=st.integers(1, 9),
)
def test_readouts_equal_rational_brute_force(
    dtypes: tuple[str, str], seed: int, count: int, k: int, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("readout")
    directions = rng.integers(-3, 4, (count, 5)).astype(DTYPES[dtypes[0]])
    vocabulary = (rng.integers(-3, 4, (8, 5)) * rng.choice([1, 3, 2.0**-10])).astype(DTYPES[dtypes[1]])
    rows = make_store(folder / "m.zarr", output=vocabulary)
    found = eg.readout(directions, rows, k=k, client=client)
    expected = truth(directions, metric="dot", against=(vocabulary, np.arange(8)))
    for row in range(count):
        for name in ("top", "bottom"):
            ids, products = expected.neighbors(row, k, farthest=name == "top")
            assert found[f"{name}_token_id"].values[row].tolist() == ids
            assert found[f"{name}_product"].values[row].tolist() == products


def test_a_saved_readout_opens_again_and_other_settings_are_refused(store: str, client: Client, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    first = eg.readout(DIRECTIONS, store, k=2, labels=list("abcdefg"), out=out, client=client)
    again = eg.readout(DIRECTIONS, store, k=2, labels=list("abcdefg"), out=out, client=client)
    xr.testing.assert_identical(first, again)
    xr.testing.assert_identical(eg.open_result(out), first)
    with pytest.raises(EmbgeomError, match="holds a result from other settings"):
        eg.readout(DIRECTIONS, store, k=2, gain=GAIN.astype(float), out=out, client=client)


def test_what_does_not_fit_is_refused_in_one_line(store: str, client: Client, tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.ones(5, np.float32))
    save_file({name: torch.ones(24) for name in "ab"}, tmp_path / "g.safetensors")
    for asked, words in (
        ({"k": 0}, "`k` 0: give a whole number"),
        ({"gain": [1.0]}, r"`gain` has the shape \(1,\), the directions have 24 columns"),
        ({"gain": ["a"] * 24}, "`gain`: give numbers, one a column"),
        ({"gain": np.full(24, np.nan)}, "`gain` holds NaN or infinity"),
        ({"gain": tmp_path / "w.npy"}, r"`gain` has the shape \(5,\)"),
        ({"gain": tmp_path / "g.safetensors"}, "has 2 lists of floats: name one"),
        ({"gain": f"{tmp_path}/g.safetensors:c"}, "has no list of floats 'c': its lists are a, b"),
        ({"gain": "weights"}, "`gain` weights: give FILE.npy or FILE.safetensors:KEY"),
        ({"labels": ["x"]}, "`labels` are 1, and directions 7"),
        ({"labels": tmp_path / "none.txt"}, "cannot read the labels .*none.txt: No such file"),
        ({"directions": DIRECTIONS[:, :5]}, "only matrices of one width"),
    ):
        given_as = {"directions": DIRECTIONS, "against": store, "client": client} | asked
        with pytest.raises(EmbgeomError, match=words) as caught:
            eg.readout(**given_as)
        assert "\n" not in str(caught.value)
