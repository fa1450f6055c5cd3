from __future__ import annotations

from fractions import Fraction
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
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

from embgeom_dask.analyses.outliers import outliers, triangle
from embgeom_dask.analyses.survey import survey
from embgeom_dask.cli import app
from embgeom_dask.errors import InputError
from embgeom_dask.storage.results import open_result
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import root

VOCAB, WIDTH = 400, 48
IDS = np.array([7, 8, 9, 60, 61, 120, 200, 201, 202, 310, 350, 399])


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """A vocabulary with a cluster of radius 1e-3 at 0.37 from the origin, and two members far from it."""
    random = np.random.default_rng(3)
    found = random.normal(size=(VOCAB, WIDTH)) / np.sqrt(WIDTH)
    centre = np.full(WIDTH, 0.37 / np.sqrt(WIDTH))
    found[IDS] = centre + 1e-4 * random.normal(size=(IDS.size, WIDTH))
    found[202] = found[201]
    found[[60, 350]] = centre + random.normal(size=(2, WIDTH)) / np.sqrt(WIDTH)
    return found.astype(ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def store(rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("stores") / "m.zarr", rows, tokens=[f"piece {i}" for i in range(VOCAB)])


@pytest.fixture
def cluster_file(rows: np.ndarray, tmp_path: Path) -> Path:
    """The schema of `1.6a_cluster_mask.safetensors`."""
    mask = np.zeros(VOCAB, dtype=np.uint8)
    mask[IDS] = 1
    centroid = rows[IDS].astype(np.float32).mean(axis=0)
    path = tmp_path / "1.6a_cluster_mask.safetensors"
    save_file(
        {
            "cluster_mask": torch.from_numpy(mask),
            "cluster_token_ids": torch.from_numpy(IDS.astype(np.int32)),
            "spatial_mask": torch.ones(VOCAB, dtype=torch.uint8),
            "centroid": torch.from_numpy(centroid).bfloat16(),
            **{name: torch.tensor([12], dtype=torch.int32) for name in ("n_cluster", "n_spatial", "n_filtered")},
            "n_iterations": torch.tensor([3], dtype=torch.int32),
            **{name: torch.tensor([0.5]) for name in ("center_lat", "center_lon", "angular_diameter")},
        },
        path,
    )
    return path


def angle(at: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """Kahan's: accurate for all triangles, and neither of the ways under test."""
    u, v = (one - at) / np.linalg.norm(one - at), (other - at) / np.linalg.norm(other - at)
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))))


def reference(rows: np.ndarray, ids: np.ndarray, centroid: np.ndarray) -> dict[str, Any]:
    values = rows[ids].astype(np.float64)
    between = np.sqrt(((values[:, None] - values[None]) ** 2).sum(axis=2))
    i, j = np.unravel_index(np.argmax(between), between.shape)
    a, b = values[i], values[j]
    norms, distances = np.linalg.norm(values, axis=1), np.linalg.norm(values - centroid, axis=1)
    angles = [angle(a, b, centroid), angle(b, centroid, a), angle(centroid, a, b)]
    return {
        "farthest_distance": between[i, j],
        "farthest_token_id": ids[[i, j]],
        "outlier_token_id": ids[i] if distances[i] >= distances[j] else ids[j],
        "norm": norms[[i, j]],
        "centroid_distance": distances[[i, j]],
        "norm_ratio": norms[[i, j]] / np.linalg.norm(centroid),
        "segment_length": [between[i, j], distances[j], distances[i]],
        "angle_law_of_cosines": angles,
        "angle_dot_product": angles,
        "token_count": ids.size,
        "centroid": centroid,
        "centroid_norm": np.linalg.norm(centroid),
        **{
            f"{name}_{how}": getattr(np, how)(of)
            for name, of in (("norm", norms), ("centroid_distance", distances))
            for how in ("min", "max", "median", "mean")
        },
    }


def check(found: xr.Dataset, expected: dict[str, Any]) -> None:
    assert set(found.data_vars) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].values, value, rtol=1e-12, atol=1e-15, err_msg=name)


def test_cluster_file(store: str, rows: np.ndarray, cluster_file: Path) -> None:
    stored = rows[IDS].astype(np.float32).mean(axis=0).astype(ml_dtypes.bfloat16).astype(np.float64)
    found = outliers(store, cluster_file)
    check(found, reference(rows, IDS, stored))
    assert found["farthest_token_id"].values.tolist() == [60, 350]
    assert found["farthest_token"].values.tolist() == ["piece 60", "piece 350"]
    assert found["outlier_token"].item() == f"piece {found['outlier_token_id'].item()}"
    assert found["side"].values.tolist() == ["A", "B"]
    assert found["vertex"].values.tolist() == ["A", "B", "C"]
    assert found["segment"].values.tolist() == ["AB", "BC", "CA"]
    assert found["angle_dot_product"].sum().item() == pytest.approx(180, abs=1e-9)
    assert found.attrs["centroid_source"] == "file"
    assert found.attrs["command"] == "outliers"
    assert outliers(store, str(cluster_file)).equals(found)
    assert not outliers(store, IDS).equals(found)


# xarray writes the strings of numpy in a type of zarr-python's own, which says so
@pytest.mark.filterwarnings("ignore:The data type .FixedLengthUTF32")
def test_mean_of_the_selection(store: str, rows: np.ndarray, tmp_path: Path) -> None:
    found = outliers(store, "0:5,100:250")
    ids = np.r_[0:5, 100:250]
    check(found, reference(rows, ids, rows[ids].astype(np.float64).mean(axis=0)))
    assert found.attrs["centroid_source"] == "mean"
    out = tmp_path / "outliers.zarr"
    found.to_zarr(out, consolidated=False)
    xr.testing.assert_identical(xr.open_zarr(out, consolidated=False).load(), found)


def test_no_division_into_parts_changes_a_bit(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = outliers(store, None)
    fives = lambda _, ids: np.split(ids, range(5, ids.size, 5))  # noqa: E731
    monkeypatch.setattr("embgeom_dask.analyses.outliers.parts_of", fives)
    xr.testing.assert_equal(outliers(store, None), found)


def test_input_matrix(rows: np.ndarray, tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=rows, input=rows[::-1].copy())
    found = outliers(store, IDS, "input")
    check(found, reference(rows[::-1], IDS, rows[::-1][IDS].astype(np.float64).mean(axis=0)))
    assert found.attrs["matrix"] == ["input_embedding"]


def test_identical_rows(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", np.tile(np.float32([0.1, -0.2, 0.3]), (5, 1)))
    found = outliers(store, "1:4")
    assert found["farthest_token_id"].values.tolist() == [1, 2]
    assert found["farthest_distance"].item() == 0
    assert found["outlier_token_id"].item() == 1
    assert found["centroid_distance_max"].item() == 0
    assert np.isnan(found["angle_law_of_cosines"].values).all()
    assert np.isnan(found["angle_dot_product"].values).all()


def test_centroid_at_the_origin(tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", np.array([[3.0, 4.0], [-3.0, -4.0], [1.0, 0.0], [-1.0, 0.0]]))
    found = outliers(store, None)
    assert found["centroid_norm"].item() == 0
    assert np.isnan(found["norm_ratio"].values).all()
    assert found["farthest_distance"].item() == 10
    np.testing.assert_allclose(found["angle_dot_product"], [0, 0, 180], atol=1e-6)


def test_input_errors(store: str, rows: np.ndarray, cluster_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two tokens or more, the selection is token 17 alone"):
        outliers(store, [17])
    with pytest.raises(InputError, match="token id 400 is past the vocabulary"):
        outliers(store, "0:401")
    narrow = make_store(tmp_path / "narrow.zarr", rows[:, :40].copy())
    with pytest.raises(InputError, match=r"has 48 components, output_embedding of test/model has 40"):
        outliers(narrow, cluster_file)
    broken = rows.copy()
    broken[[2, 60, 61], 0] = np.inf
    path = make_store(tmp_path / "broken.zarr", broken)
    with pytest.raises(InputError, match=r"test/model: 2 of 12 rows .* hold NaN or infinity \(token ids 60, 61\)"):
        outliers(path, cluster_file)


def test_known_triangle() -> None:
    found = triangle(np.array([0.0, 0.0]), np.array([3.0, 0.0]), np.array([3.0, 4.0]))
    assert found["segment_length"].values.tolist() == [3, 4, 5]
    degrees = np.degrees([np.arctan2(4, 3), np.pi / 2, np.arctan2(3, 4)])
    np.testing.assert_allclose(found["angle_law_of_cosines"], degrees, rtol=1e-14)
    np.testing.assert_allclose(found["angle_dot_product"], degrees, rtol=1e-14)


def test_coinciding_vertices() -> None:
    point, other = np.array([1.0, 2.0]), np.array([1.0, 5.0])
    found = triangle(point, other, point)
    assert found["segment_length"].values.tolist() == [3, 3, 0]
    for name in ("angle_law_of_cosines", "angle_dot_product"):
        np.testing.assert_allclose(found[name], [np.nan, 0, np.nan])


@given(
    hnp.arrays(np.float64, (3, 4), elements=st.integers(-1000, 1000).map(lambda n: n / 7)),
    st.sampled_from([1e-7, 1e-3, 1.0, 1e6]),
    st.sampled_from([0.0, 0.37, 1e3]),
)
def test_the_two_ways_agree_on_any_triangle(points: np.ndarray, size: float, offset: float) -> None:
    """Also on needles and on small triangles far from the origin; compared with Kahan's angles where well posed."""
    a, b, c = offset + size * points
    found = triangle(a, b, c)
    lengths = [np.linalg.norm(b - a), np.linalg.norm(c - b), np.linalg.norm(a - c)]
    np.testing.assert_allclose(found["segment_length"], lengths, rtol=1e-14)
    if min(lengths) > 1e-2 * max(lengths):
        expected = [angle(a, b, c), angle(b, c, a), angle(c, a, b)]
        np.testing.assert_allclose(found["angle_law_of_cosines"], expected, atol=1e-4)
        np.testing.assert_allclose(found["angle_dot_product"], expected, atol=2e-6)


def test_small_triangles_are_as_exact_as_large_ones() -> None:
    """Squares of 1e-159 are no float64 numbers."""
    points = np.array([[1.0, 3.3], [5.1, -2.7], [-2.2, 0.6]])
    large, small = triangle(*points), triangle(*(2.0**-528 * points))
    np.testing.assert_array_equal(small["segment_length"], 2.0**-528 * large["segment_length"])
    for name in ("angle_law_of_cosines", "angle_dot_product"):
        np.testing.assert_array_equal(small[name], large[name])


def exact(rows: np.ndarray, centroid: list[Fraction] | None = None) -> dict[str, Any]:
    """Centroid, norms and distances from the true centroid: the float64 numbers nearest to the true ones."""
    values = [[Fraction(value) for value in row] for row in rows.astype(np.float64).tolist()]
    centroid = centroid or [sum(column) / len(values) for column in zip(*values, strict=True)]
    squares = [sum((a - b) ** 2 for a, b in zip(row, centroid, strict=True)) for row in values]
    norms, distances = [root(sum(a * a for a in row)) for row in values], [root(square) for square in squares]
    return {
        "centroid": [float(value) for value in centroid],
        "centroid_norm": root(sum(value * value for value in centroid)),
        "squares": squares,
        "norms": norms,
        "distances": distances,
        "norm_mean": float(sum(map(Fraction, norms)) / len(norms)),
        "centroid_distance_mean": float(sum(map(Fraction, distances)) / len(distances)),
    }


@pytest.mark.parametrize("kind", ["cancelling", "ulps apart", "all sizes", "wide"])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float64])
def test_lengths_are_the_nearest_to_the_true_ones(kind: str, dtype: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    values = random.normal(size=(9, 3000 if kind == "wide" else 20))
    if kind == "cancelling":
        values[:4] *= 1e25
        values[4:8] = -values[:4]
    elif kind == "ulps apart":
        values = 0.37 + random.integers(-2, 3, size=values.shape) * float(ml_dtypes.finfo(dtype).eps)
    elif kind == "all sizes":
        most = 399 if dtype is np.float64 else 126
        values = np.sign(values) * 2.0 ** random.uniform(-most, most, size=values.shape)
    rows = values.astype(dtype)
    found, expected = outliers(make_store(tmp_path / "m.zarr", rows), None), exact(rows)
    at = found["farthest_token_id"].values
    for name in ("centroid", "centroid_norm", "norm_mean", "centroid_distance_mean"):
        np.testing.assert_array_equal(found[name].values, expected[name], err_msg=name)
    for name, each in (("norm", "norms"), ("centroid_distance", "distances")):
        assert found[name].values.tolist() == [expected[each][i] for i in at]
        assert (found[f"{name}_min"].item(), found[f"{name}_max"].item()) == (min(expected[each]), max(expected[each]))
        assert found[f"{name}_median"].item() == sorted(expected[each])[4]
    side = root(sum((Fraction(a) - Fraction(b)) ** 2 for a, b in rows[at].astype(np.float64).T.tolist()))
    assert found["segment_length"].values.tolist() == [side, *found["centroid_distance"].values[::-1]]
    first, second = (expected["squares"][i] for i in at)
    assert found["outlier_token_id"].item() == at[int(second > first)]


def test_two_tokens_are_equally_far_from_their_mean(tmp_path: Path) -> None:
    """As float64 sums about a rounded mean, one in thirty differs by a unit in the last place: A is named."""
    rows = np.random.default_rng(6).normal(size=(24, 33))
    store = make_store(tmp_path / "m.zarr", rows)
    for first in range(0, 24, 2):
        found = outliers(store, [first, first + 1])
        assert found["outlier_token_id"].item() == first
        assert len(set(found["centroid_distance"].values.tolist())) == 1


def test_subnormal_values_are_numbers_whatever_a_library_says(tmp_path: Path) -> None:
    rows = np.float32(1e-45) * np.random.default_rng(7).integers(-40, 40, size=(6, 5)).astype(np.float32)
    store = make_store(tmp_path / "m.zarr", rows)
    found = outliers(store, None)
    torch.set_flush_denormal(True)
    try:
        again, surveyed = outliers(store, None), survey(store)
    finally:
        torch.set_flush_denormal(False)
    xr.testing.assert_equal(again, found)
    assert surveyed["centroid"].values[0].tolist() == exact(rows)["centroid"]
    assert found["centroid_distance_max"].item() == max(exact(rows)["distances"])


def test_a_centroid_beyond_the_range_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ids.safetensors"
    save_file({"cluster_token_ids": torch.arange(3), "centroid": torch.tensor([1e200], dtype=torch.float64)}, path)
    with pytest.raises(InputError, match=r"the centroid in .*ids.safetensors holds values under 2\^-400"):
        outliers(make_store(tmp_path / "m.zarr", np.eye(3, 1)), path)


def test_a_saved_result_is_not_computed_twice(
    tmp_path: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "m.zarr", np.eye(5, 3, dtype=np.float32))
    out = tmp_path / "o.zarr"
    first = outliers(store, "0:4", out=out, client=client)
    xr.testing.assert_identical(open_result(out), first)
    assert outliers(store, "0:4", out=out, client=client).attrs["seconds"] == first.attrs["seconds"]
    with pytest.raises(InputError, match="holds a result from other settings"):
        outliers(store, "1:4", out=out, client=client)
    assert app.main(["outliers", store, "--tokens", "0:4", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert app.main(["show", str(out)]) == 0
    assert capsys.readouterr().out == printed
