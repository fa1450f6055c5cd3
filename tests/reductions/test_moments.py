"""Mean and deviation of all distances: as near to the true ones as they say, the same bits in any cut, checked."""

from __future__ import annotations

import json
from fractions import Fraction
from math import sqrt
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from typer.testing import CliRunner

from embgeom_dask import devices, tuning
from embgeom_dask.analyses.scan import scan
from embgeom_dask.cli.app import app
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.kernels import digits
from embgeom_dask.metrics import DISTANCES, matrix_product
from embgeom_dask.pairwise import points, tiles
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.reductions import undecided
from embgeom_dask.reductions.moments import error_by_sum, exact_dot, exact_sums
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import truth
from embgeom_dask.testing.strategies import matrices, slow_examples
from tests.execution.test_point_format import crowded

MOMENTS = ("distance_mean", "distance_mean_error", "distance_std", "distance_std_error")


def true_moments(distance: np.ndarray) -> tuple[Fraction, float]:
    """The mean of distances and their sample standard deviation, of float64 numbers, without error but for the root."""
    exact = [Fraction(value) for value in distance.tolist()]
    mean = sum(exact, Fraction()) / len(exact)
    square = sum(((value - mean) ** 2 for value in exact), Fraction())
    return mean, sqrt(square / (len(exact) - 1)) if len(exact) > 1 else 0.0


@slow_examples
@given(
    rows=matrices(max_rows=25),
    repeat=st.sampled_from([1, 16]),
    metric=st.sampled_from(sorted(DISTANCES)),
    sizes=st.sampled_from([(2048, 4), (5, 16)]),
    bins=st.integers(1, 50),
    against=st.booleans(),
)
def test_moments_are_as_near_as_they_say_and_the_same_for_any_tile_and_product(
    rows: np.ndarray,
    repeat: int,
    metric: str,
    sizes: tuple[int, int],
    bins: int,
    against: bool,
    client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rows = np.tile(rows, (1, repeat))
    if metric == "cosine":
        rows[~rows.astype(float).any(axis=1)] = 1
    other = rows[: len(rows) // 2 + 1] if against else None
    folder = tmp_path_factory.mktemp("moments")
    store = make_store(folder / "m.zarr", output=rows)
    asked: dict[str, Any] = {"metric": metric, "client": client}
    asked |= {} if other is None else {"against": make_store(folder / "n.zarr", output=other)}
    expected = truth(rows, metric=metric, against=None if other is None else (other, np.arange(len(other)))).distance
    if not expected.size:
        return
    mean, deviation = true_moments(expected)
    found = scan(store, histogram=bins, tile=max(sizes[0], len(rows) // 8), **asked)
    for result in (found, scan(store, histogram=bins, exact_moments=True, **asked)):
        error = float(result["distance_mean_error"])
        assert abs(Fraction(float(result["distance_mean"])) - mean) <= error + 2.0**-52 * float(mean)
        assert expected.min() <= float(result["distance_mean"]) <= expected.max()
        if expected.size > 1:
            more = 1e-15 * deviation + float(result["distance_mean_error"]) * 0
            assert abs(float(result["distance_std"]) - deviation) <= float(result["distance_std_error"]) + more
    assert float(mean) * (1 - 1e-15) <= float(result["distance_mean"]) <= float(mean) * (1 + 1e-15)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "fastest", lambda _: ["float32"])
        again = scan(store, histogram=bins, tile=max(sizes[1], len(rows) // 8), **asked)
        other_bins = scan(store, histogram=bins + 3, **asked)
    for name in MOMENTS:  # what they are off is found by the bins
        values = [float(each[name]).hex() for each in (found, again, *([] if "error" in name else [other_bins]))]
        assert len(set(values)) == 1, (name, values)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_wrong_tile_is_refused_in_one_line(
    metric: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 64)).astype(ml_dtypes.bfloat16)
    store, out = make_store(tmp_path / "m.zarr", output=rows), tmp_path / "r.zarr"
    multiply, made = matrix_product.multiply_digits, []

    def broken(*given: Any, **how: Any) -> torch.Tensor:
        product = multiply(*given, **how)
        made.append(product.shape)
        if len(made) == 2:
            product[:, 3] *= 1.25
        return product

    monkeypatch.setattr(tiles, "multiply_digits", broken)
    with pytest.raises(
        EmbgeomError, match=r"distances.* add up to .* some product was wrong, so nothing is kept"
    ) as no:
        scan(store, metric=metric, histogram=8, tile=100, client=client, out=out)
    assert "\n" not in str(no.value)
    assert not out.exists()
    assert len(made) > 2
    monkeypatch.undo()
    assert scan(store, metric=metric, histogram=8, tile=100, client=client)["pair_count"] == 300 * 299 // 2


def test_a_bound_said_to_be_too_small_puts_pairs_into_wrong_bins(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 48)).astype(np.float32)
    store, expected = make_store(tmp_path / "m.zarr", output=rows), truth(rows)
    edges = np.unique(expected.distance)[::7]
    counts = expected.counts(edges)
    honest = scan(store, histogram_edges=edges, client=client)
    np.testing.assert_array_equal(honest["histogram_count"].values[:-1], counts[:-1])

    def careless(*given: Any) -> digits.Digits:
        found = digits.digits_of(*given)
        return found._replace(slack=found.slack * 1e-8)

    monkeypatch.setattr(points, "digits_of", careless)
    monkeypatch.setattr("embgeom_dask.execution.square_sums.check", lambda *_: None)
    wrong = scan(store, histogram_edges=edges, client=client)
    assert not np.array_equal(wrong["histogram_count"].values[:-1], counts[:-1])


@tuning.override(TRIANGLE_STEPS=2)  # tiles of fewer rows have too few of the crowd
def test_crowds_are_summed_by_products_about_one_of_them_as_one_by_one(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = crowded(900)
    store = make_store(tmp_path / "m.zarr", output=rows)
    edges = [0.0, *np.linspace(1.3e-3, 2e-3, 40), 0.5, 1.0, 2.0]
    found = scan(store, histogram_edges=edges, tile=512, client=client)
    monkeypatch.setattr(undecided, "tiles_about_rows", lambda *_: iter(()))
    alone = scan(store, histogram_edges=edges, tile=512, client=client)
    for name in (*MOMENTS, "histogram_count"):
        np.testing.assert_array_equal(found[name], alone[name])
    few, many = (json.loads(each.attrs["certificate"])["float64_pairs"] for each in (found, alone))
    assert few < many / 3
    distance = pdist(rows.astype(float))
    np.testing.assert_array_equal(found["histogram_count"], np.histogram(distance, edges)[0])


def test_moments_of_rows_are_summed_from_finer_products_beside_a_histogram(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 64)).astype(ml_dtypes.bfloat16)
    store = make_store(tmp_path / "m.zarr", output=rows)
    alone = scan(store, moments_per_row=True, tile=64, client=client)
    looked_up: list[int] = []
    distances = Exact.distances
    monkeypatch.setattr(Exact, "distances", lambda *given: looked_up.append(given[1].size) or distances(*given))
    beside = scan(store, moments_per_row=True, histogram=8, tile=64, client=client)
    for name in ("row_mean", "row_std", "row_skew", "row_kurtosis"):
        np.testing.assert_array_equal(alone[name], beside[name])
    assert sum(looked_up) < 2000


def test_the_errors_are_small_and_named(client: Client, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(400, 512)).astype(ml_dtypes.bfloat16)
    rows[:, 3] *= 30
    store = make_store(tmp_path / "m.zarr", output=rows)
    found = scan(store, histogram=64, client=client)
    certificate = json.loads(found.attrs["certificate"])
    assert certificate["products"] in ("int8x3", "float64x3")
    assert 0 < float(found["distance_mean_error"]) < 1e-6 * float(found["distance_mean"])
    shown = CliRunner().invoke(app, ["scan", store, "--histogram", "64", "--exact-moments"])
    assert "distance_mean_error" in shown.stdout
    with pytest.raises(InputError, match="`exact_moments`: ask for `histogram` or `quantiles`"):
        scan(store, nearest=1, exact_moments=True, client=client)


@given(
    true=st.lists(st.floats(0, 4) | st.floats(1, 1.001), min_size=2, max_size=12),
    off=st.lists(st.floats(-1, 1), min_size=12, max_size=12),
    size=st.sampled_from([1e-12, 1e-7, 1e-3, 0.3]),
)
def test_what_a_sum_is_off_follows_from_the_sum_of_squares(true: list[float], off: list[float], size: float) -> None:
    errors = [Fraction(size) * Fraction(each) for each in off[: len(true)]]
    given = [Fraction(each) + error for each, error in zip(true, errors, strict=True)]
    if sum(given) <= 0:
        return
    square, length = sum(each**2 for each in given), sum((error**2 for error in errors), Fraction())
    apart = abs(square - sum((Fraction(each) ** 2 for each in true), Fraction()))
    bound = error_by_sum(sum(given, Fraction()), Fraction(square), [length], apart, len(given))
    assert abs(sum(errors)) <= bound


def test_what_a_sum_is_off_is_no_less_than_the_bound_allows() -> None:
    true, errors = [Fraction(1), Fraction(3)], [Fraction(3, 10**4), Fraction(-1, 10**4)]  # squares off by 0 and a bit
    given = [each + error for each, error in zip(true, errors, strict=True)]
    total, square = sum(given, Fraction()), sum((each**2 for each in given), Fraction())
    length, apart = sum((error**2 for error in errors), Fraction()), abs(square - 10)
    bound = error_by_sum(total, square, [length], apart, 2)
    assert bound / 2 < sum(errors) <= bound
    assert sum(errors) > error_by_sum(total, square, [length / 9], apart, 2), "a bound that is too small was not seen"


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_long_strips_of_rows_are_taken_where_short_ones_say_too_little(
    metric: str, client: Client, tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).normal(size=(100, 64)).astype(ml_dtypes.bfloat16)
    store = make_store(tmp_path / "m.zarr", output=rows)
    with tuning.override(SUM_STRIP=4, CERTAIN=1.0):
        short = scan(store, metric=metric, histogram=512, client=client)
    with tuning.override(SUM_STRIP=4, CERTAIN=0.0):
        long = scan(store, metric=metric, histogram=512, client=client)
    mean, deviation = true_moments(truth(rows, metric=metric).distance)
    for found in (short, long):
        assert abs(Fraction(float(found["distance_mean"])) - mean) <= float(found["distance_mean_error"])
        assert abs(float(found["distance_std"]) - deviation) <= float(found["distance_std_error"])
    assert float(long["distance_std_error"]) < float(short["distance_std_error"]) / 2
    assert float(long["distance_std_error"]) < 1e-6 * deviation
    assert float(long["distance_mean_error"]) < (2e-7 if metric == "euclidean" else 1e-9) * mean
    for name in ("distance_mean", "distance_std"):
        assert float(long[name]) == float(short[name])


@pytest.mark.parametrize("exact_moments", [False, True])
def test_equal_distances_are_off_by_their_rounding(exact_moments: bool, client: Client) -> None:
    for rows, square in ((np.eye(5, dtype=np.float32), 2), (np.array([[1, 2], [4, 3]], np.float32), 10)):
        found = scan(rows, histogram=4, exact_moments=exact_moments, client=client)
        mean, error = (Fraction(float(found[f"distance_{name}"])) for name in ("mean", "mean_error"))
        assert (mean - error) ** 2 <= square <= (mean + error) ** 2
        assert error <= mean / 2**53
    assert scan(np.ones((4, 3)), histogram=4, client=client)["distance_mean_error"].item() == 0


@given(st.lists(st.tuples(st.floats(0, 2**60), st.integers(0, 2**37)), min_size=1, max_size=60), st.integers(900, 960))
def test_sums_of_weighed_distances_are_exact(pairs: list[tuple[float, int]], shift: int) -> None:
    distance, weight = np.array([value for value, _ in pairs]), np.array([count for _, count in pairs])
    distance[distance < 1e-200] = 0
    total, square = exact_sums(distance, weight, shift)
    values = [Fraction(value) * 2**shift for value in distance.tolist()]
    assert total == sum(count * value for count, value in zip(weight.tolist(), values, strict=True))
    assert square == sum(count * value**2 for count, value in zip(weight.tolist(), values, strict=True))


def test_sums_that_reach_beyond_64_bits() -> None:
    weights, numbers = np.full(70_000, 2**38 - 1), np.full(70_000, 2**62 - 1)
    assert exact_dot(weights, numbers) == 70_000 * (2**38 - 1) * (2**62 - 1)
