"""Undertrained tokens: against magikarp's formulas in numpy and scikit-learn, on models with planted unused tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from distributed import Client

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.analyses.undertrained import undertrained
from embgeom_dask.errors import InputError
from embgeom_dask.storage import model_stores, model_writing
from embgeom_dask.testing import make_store
from embgeom_dask.testing.checkpoints import ArrayRows

Array = np.ndarray
UNUSED, PLANTED = np.arange(20, 30), np.array([7, 77, 177])
COSINES = ("unused_cosine_distance", "unused_component_distance", "unused_centered_distance")


def model(rows: int = 400, width: int = 16, seed: int = 0) -> tuple[Array, Array]:
    """An input and an output matrix; tokens 20 to 29 were never trained, 7, 77 and 177 hardly ever."""
    random = np.random.default_rng(seed)
    output = random.normal(size=(rows, width)) + 0.5
    output[:, 0] *= 4
    never = random.normal(size=width)
    held = np.concatenate([UNUSED, PLANTED[rows > PLANTED]])
    output[held] = never + 0.01 * random.normal(size=(held.size, width))
    inputs = random.normal(size=(rows, width))
    inputs[held] *= 0.05
    return inputs, output


def theirs(rows: Array, unused: Array) -> dict[str, Array]:
    """The formulas of magikarp's `embedding_distance_metrics`, in numpy."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    first = decomposition.PCA(n_components=1).fit(rows).components_[0]

    def cosine(matrix: Array, vector: Array) -> Array:
        return 1 - matrix @ vector / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)).clip(min=1e-6)

    without = rows - np.outer(rows @ first, first)
    centred = rows - rows.mean(axis=0)
    found = [cosine(each, each[unused].mean(axis=0)) for each in (rows, without, centred)]
    euclidean = np.linalg.norm(rows - rows[unused].mean(axis=0), axis=1)
    return dict(zip(COSINES, found, strict=True)) | {"unused_euclidean_distance": euclidean}


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32, np.float64])
def test_indicators_are_magikarps(dtype: Any, tmp_path: Path, client: Client) -> None:
    inputs, output = (each.astype(dtype) for each in model())
    output[5] = 0
    path = make_store(tmp_path / "m.zarr", output=output, input=inputs)
    found = undertrained(path, unused=UNUSED, client=client)
    expected = theirs(output.astype(float), UNUSED)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12, atol=2e-12, err_msg=name)
    assert found["unused_cosine_distance"].values[5] == 1
    assert found["input_norm"].values.tolist() == eg.tokens(path, "input", client=client)["norm_l2"].values.tolist()
    assert (found["indicator"].item(), found["unused_rule"].item()) == ("input_norm", "given")
    values = found["input_norm"].values
    assert found["threshold"].item() == np.percentile(values, 2)
    assert found["candidate"].values.tolist() == (values <= np.percentile(values, 2)).tolist()
    assert (found["indicator_mean"].item(), found["indicator_std"].item()) == (values.mean(), values.std())


@pytest.mark.parametrize("indicator", ["input_norm", "cosine", "centered", "component", "euclidean"])
def test_planted_tokens_come_first_by_every_indicator(indicator: str, tmp_path: Path, client: Client) -> None:
    inputs, output = model()
    path = make_store(tmp_path / "m.zarr", output=output, input=inputs)
    found = undertrained(path, unused="20:30", indicator=indicator, client=client)
    first = np.argsort(found["indicator_rank"].values)[: UNUSED.size + PLANTED.size]
    assert sorted(first.tolist()) == sorted([*UNUSED, *PLANTED])
    assert found["candidate_count"].item() == 8  # 2% of 400
    assert found["unused"].values.nonzero()[0].tolist() == UNUSED.tolist()
    means = output[UNUSED].mean(axis=0)
    np.testing.assert_allclose(found["unused_mean"], means, rtol=1e-14)


def test_no_chunk_changes_a_bit(tmp_path: Path, client: Client) -> None:
    inputs, output = (each.astype(ml_dtypes.bfloat16) for each in model(3000))
    made = []
    for size in (1 << 14, 1 << 20):
        with tuning.override(CHUNK_BYTES=size):
            path = make_store(tmp_path / f"{size}.zarr", output=output, input=inputs)
        made.append(undertrained(path, unused=UNUSED, client=client))
    xr.testing.assert_equal(*made)


def labelled(path: Path, rows: Array, **labels: Any) -> str:
    count = len(rows)
    own: dict[str, Any] = {"token": [f"t{i}" for i in range(count)], "has_token": [True] * count} | labels
    made = model_stores.make_labels(
        own["token"],
        own.get("text", own["token"]),
        own["has_token"],
        bytes=own.get("bytes", [""] * count),
        **{name: values for name, values in own.items() if name == "reachability"},
    )
    attrs = {"model": f"org/{path.stem}"}
    return model_writing.write_model(path, {"output_embedding": ArrayRows(rows)}, attrs=attrs, labels=made)


def test_unused_tokens_are_proposed_in_this_order(tmp_path: Path, client: Client) -> None:
    rows = model(60, 5)[1]
    rows[50:53] = rows[40]
    plain = [f"t{i}" for i in range(60)]

    def asked(name: str, unused: Any = None, **labels: Any) -> tuple[str, list[int]]:
        found = undertrained(labelled(tmp_path / f"{name}.zarr", rows, **labels), unused=unused, client=client)
        return found["unused_rule"].item(), found["unused"].values.nonzero()[0].tolist()

    assert asked("identical") == ("identical", [40, 50, 51, 52])
    told = ["OK"] * 60
    told[6], told[7], told[8] = "UNREACHABLE_MULTI_TOKEN", "UNREACHABLE_SPECIAL", "UNREACHABLE_SINGLE_TOKEN"
    assert asked("unreachable", reachability=told) == ("unreachable", [6, 8])
    names = plain.copy()
    names[3], names[4], names[9] = "<|reserved_special_token_3|>", "[unused0]", "unused"
    assert asked("named", token=names) == ("named", [3, 4])
    assert asked("both", unused="identical", token=names) == ("identical", [40, 50, 51, 52])
    pieces, texts = names.copy(), names.copy()
    pieces[10], pieces[11], pieces[12] = "<0x41>", "<0x0A>", "A"
    texts[10], texts[11], texts[12] = "A", "\n", "A"
    single = ["" for _ in plain]
    single[10], single[11] = "41", "0a"
    assert asked("fallback", token=pieces, text=texts, bytes=single) == ("bytes", [10])
    single[20], single[21], single[22] = "f5", "c1", "c3"
    assert asked("never", token=pieces, text=texts, bytes=single) == ("bytes", [20, 21])
    has = [i < 57 for i in range(60)]
    assert asked("padding", token=names, has_token=has) == ("padding", [57, 58, 59])
    rows[57:] = 0
    assert asked("zeros", token=names, has_token=has) == ("named", [3, 4])


def test_the_dense_cluster_is_proposed_last(tmp_path: Path, client: Client) -> None:
    rows = np.random.default_rng(0).normal(size=(120, 8))
    rows[40:60] = 1e-3 * rows[40:60] + 0.3
    path = make_store(tmp_path / "m.zarr", output=rows)
    for unused in ("cluster", None):
        found = undertrained(path, unused=unused, client=client)
        assert found["unused_rule"].item() == "cluster"
        assert np.flatnonzero(found["unused"]).tolist() == list(range(40, 60))
    rows[40:60] = 0
    path = make_store(tmp_path / "zeros.zarr", output=rows)
    with pytest.raises(InputError, match=r"the dense cluster of test/model are rows of zeros: give ids"):
        undertrained(path, unused="cluster", client=client)
    with pytest.raises(InputError, match=r"stands apart .*: give some with `unused`, by id or by name"):
        undertrained(make_store(tmp_path / "n.zarr", output=rows[:40].repeat(2, 0)), unused="cluster", client=client)


def test_kinds_of_tokens_and_their_labels(tmp_path: Path, client: Client) -> None:
    rows = model(60, 5)[1]
    names = ["[CLS]", "<s>", "<>", "<0x41>", "\u00ff", "\u00e0\u00a4", "king", "", *(f"t{i}" for i in range(8, 60))]
    raw = ["", "", "", "41", "ff", "e0a4", "6b696e67", "", *[""] * 52]
    has = [name != "" for name in names]
    path = labelled(tmp_path / "m.zarr", rows, token=names, bytes=raw, has_token=has)
    found = undertrained(path, unused="20:30", client=client, out=tmp_path / "r.zarr")
    kinds = ["special", "special", "token", "byte", "byte", "partial", "token", "none", *["token"] * 52]
    assert found["category"].values.tolist() == kinds
    ordinary = np.array(kinds) == "token"
    values = found["unused_cosine_distance"].values
    assert found["threshold"].item() == np.percentile(values[ordinary], 2)
    xr.testing.assert_identical(eg.open_result(tmp_path / "r.zarr"), found)
    assert json.loads(found.attrs["settings"]) == {"indicator": "cosine", "unused": "20:30"}
    frame = found.embgeom.to_frame("indicators")
    assert frame["category"].tolist() == kinds


def test_another_mask_or_another_content_of_a_file_is_no_old_result(tmp_path: Path, client: Client) -> None:
    path, file = make_store(tmp_path / "m.zarr", output=model(60, 5)[1]), tmp_path / "ids.txt"
    first, second = (pd.Series(np.arange(60) < 2, index) for index in (range(60), range(59, -1, -1)))
    file.write_text("0\n1")
    for out, unused in (("mask", first), ("file", f"@{file}")):
        found = undertrained(path, unused=unused, client=client, out=tmp_path / f"{out}.zarr")
        assert found["unused"].values.nonzero()[0].tolist() == [0, 1]
        assert undertrained(path, unused=unused, client=client, out=tmp_path / f"{out}.zarr").equals(found)
    file.write_text("58\n59")
    for out, unused in (("mask", second), ("file", f"@{file}")):
        with pytest.raises(InputError, match="holds a result from other settings"):
            undertrained(path, unused=unused, client=client, out=tmp_path / f"{out}.zarr")


def test_many_models_arrays_and_what_is_refused(tmp_path: Path, client: Client) -> None:
    stores = [make_store(tmp_path / f"{i}.zarr", output=model(80 + i)[1], model=f"org/{i}") for i in range(2)]
    tree = undertrained(stores, unused="20:30", client=client)
    assert tree["unused_count"].values.tolist() == [10, 10]
    part = eg.open_model(stores[0])["output_embedding"][10:60]
    found = undertrained(part, unused="20:30", client=client)
    np.testing.assert_allclose(
        found["unused_cosine_distance"], theirs(model(80)[1][10:60], np.arange(10, 20))[COSINES[0]], atol=1e-12
    )
    with pytest.raises(
        InputError, match="nothing tells which tokens of test/plain are unused: give some with `unused`"
    ):
        undertrained(make_store(tmp_path / "p.zarr", output=model(80)[1][40:], model="test/plain"), client=client)
    with pytest.raises(InputError, match="`unused` padding: org/0 has no such rows: give their ids"):
        undertrained(stores[0], unused="padding", client=client)
    unfit = make_store(tmp_path / "nan.zarr", output=np.full((40, 3), np.nan, np.float32))
    for unused, said in (("20:90", "token id 89 is past the vocabulary"), ("unreachable", "convert it again")):
        with pytest.raises(InputError, match=said):  # before rows are read
            undertrained(unfit, unused=unused, client=client)
    with pytest.raises(InputError, match="`indicator` entropy: choose one of input_norm, cosine"):
        undertrained(stores[0], indicator="entropy", client=client)
    with pytest.raises(InputError, match="org/0 has no input matrix of its own: choose another `indicator`"):
        undertrained(stores[0], unused="20:30", indicator="input_norm", client=client)
