from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embgeom_dask import devices, metrics
from embgeom_dask.blocks import Block
from embgeom_dask.kernels import Bins, cpu, device, select
from tests.guards import NoFloat64
from tests.reference import matrices, truth

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.cuda),
    pytest.param("mps", marks=pytest.mark.mps),
]


def block(points: np.ndarray, start: int, where: str = "cpu") -> Block:
    norms = np.einsum("ij,ij->i", points, points, dtype=np.float64)
    return Block(start, points, devices.to_tensor(points, torch.device(where)), norms)


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bound_of_every_pair_holds(where: str, dtype: type) -> None:
    if where == "mps" and dtype is np.float64:
        pytest.skip("mps has no float64")
    rng = np.random.default_rng(0)
    for width in (1, 7, 640):
        points = (rng.normal(size=(60, width)) * rng.uniform(1e-8, 1, size=(60, 1)) / width).astype(dtype)
        points[10:20] = points[9] * (1 + 1e-7 * rng.normal(size=(10, width)))
        rows, columns = block(points[:25], 0, where), block(points[25:], 25, where)
        tile = metrics.tile(rows, columns)
        (row_low, row_high), (column_low, column_high) = tile.bounds(rows), tile.bounds(columns)
        product = tile.product.cpu().numpy()
        low = row_low[:, None] + column_low - dtype(2) * product
        high = row_high[:, None] + column_high - dtype(2) * product
        exact = np.longdouble(points[:25, None]) - np.longdouble(points[None, 25:])
        square = (exact**2).sum(-1)
        assert (low <= square).all()
        assert (high >= square).all()


@settings(deadline=None, max_examples=30)
@given(matrices(max_rows=30), st.floats(0, 4), st.floats(0, 4), st.booleans(), st.sampled_from([-2.0, 2.0]))
def test_both_passes_select_the_same_pairs(
    rows: np.ndarray, row_limit: float, column_limit: float, diagonal: bool, factor: float
) -> None:
    points = rows.astype(np.float64)
    points = (points / max(1e-300, np.sqrt((points**2).sum(1).max()))).astype(np.float32)
    product = torch.from_numpy(points) @ torch.from_numpy(points).T
    norms = (points**2).sum(1)
    limits = np.full(len(points), row_limit, np.float32), np.linspace(-1, column_limit, len(points), dtype=np.float32)
    fast = cpu.select(product, norms, norms, factor, *limits, diagonal)
    plain = device.select(product, norms, norms, factor, *limits, diagonal)
    bound = norms[:, None] + norms + np.float32(factor) * product.numpy()
    hit = bound <= np.maximum(limits[0][:, None], limits[1])
    i, j = np.nonzero(np.triu(hit, 1) if diagonal else hit)
    for found in (fast, plain):
        np.testing.assert_array_equal(found[0], i)
        np.testing.assert_array_equal(found[1], j)
        np.testing.assert_array_equal(found[2], bound[i, j])


def bins_of(count: int, error: float) -> Bins:
    squared = np.linspace(0, 2, count + 1) ** 2
    lower, upper = squared[:-1].copy(), squared[1:].copy()
    lower[0], upper[-1] = -np.inf, np.inf
    return Bins(lower, upper, 0.0, count / 2, error, 2.0**40, 21)


@pytest.mark.parametrize("diagonal", [False, True])
def test_both_passes_count_the_same_and_leave_what_is_near_an_edge(diagonal: bool) -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(150, 8))
    points /= np.sqrt((points**2).sum(1).max())
    points[7] = points[3] * (1 + 1e-9)
    norms, weights = (points**2).sum(1), rng.integers(1, 4, size=150)
    product = torch.from_numpy(points @ points.T)
    bins = bins_of(40, 1e-4)
    fast = cpu.bin_pairs(product, norms, norms, (weights, weights), bins, diagonal)
    plain = device.bin_pairs(product, norms, norms, (weights, weights), bins, diagonal)
    for a, b in zip(fast, plain, strict=True):
        np.testing.assert_array_equal(a, b)
    counts, sums, i, j = fast
    assert (3, 7) in set(zip(i.tolist(), j.tolist(), strict=True))
    first, second = np.triu_indices(150, 1) if diagonal else np.indices((150, 150)).reshape(2, -1)
    left = set(zip(i.tolist(), j.tolist(), strict=True))
    decided = np.array([pair not in left for pair in zip(first.tolist(), second.tolist(), strict=True)])
    first, second = first[decided], second[decided]
    distance = np.sqrt(((points[first] - points[second]) ** 2).sum(1))
    weight = weights[first] * weights[second]
    expected = np.histogram(distance, np.linspace(0, 2, 41), weights=weight)[0]
    np.testing.assert_array_equal(counts, expected)
    assert 0 < i.size < first.size
    total = float(weights @ sums[:, 0]) / 2.0**40
    np.testing.assert_allclose(total, (weight * distance).sum(), rtol=1e-11)
    square = weights @ (sums[:, 1].astype(float) * 2.0**42 + sums[:, 2] * 2.0**22 + sums[:, 3]) / 2.0**80
    np.testing.assert_allclose(square, (weight * distance**2).sum(), rtol=1e-11)


def test_the_tile_of_a_device_without_float64_makes_none() -> None:
    points = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    rows = block(points, 0)
    with NoFloat64():
        tile = metrics.tile(rows, rows)
        low, _ = tile.bounds(rows)
        limit = np.full(20, 3.0, np.float32)
        i, _, _ = device.select(tile.product, low, low, -2.0, limit, limit, True)
    assert i.size == select(tile.product, low, low, -2.0, limit, limit, diagonal=True)[0].size > 0
    expected = truth(points)
    assert i.size == int((expected.distance**2 <= 3).sum())
