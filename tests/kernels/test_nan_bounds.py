from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from embgeom_dask.kernels import nearest, numba_passes, torch_passes
from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.passes import Bins

ROWS, COLUMNS = 5, 150
WHERE = np.array([[0, 3], [1, 63], [1, 64], [2, 149], [4, 0]])  # in a whole strip, at its ends, in a short one
PASSES = pytest.mark.parametrize("passes", [numba_passes, torch_passes])
DTYPE = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def product_with_nan(dtype: type, nan: float = np.nan) -> torch.Tensor:
    """Values of 0.5, but for NaN at the places `WHERE`."""
    product = np.full((ROWS, COLUMNS), 0.5, dtype)
    product[tuple(WHERE.T)] = nan
    return torch.from_numpy(product)


def bound(value: float, dtype: type) -> LinearBound:
    """The element of the product, and `value` more."""
    return LinearBound(np.full(ROWS, value, dtype), np.zeros(COLUMNS, dtype), 1.0)


@PASSES
@DTYPE
def test_a_bound_of_nan_rules_no_pair_out(passes: ModuleType, dtype: type) -> None:
    limits = np.full(ROWS, 0.25, dtype), np.full(COLUMNS, -np.inf, dtype)
    i, j, least = passes.select(product_with_nan(dtype), bound(0, dtype), *limits, False)
    np.testing.assert_array_equal(np.stack([i, j], 1), WHERE)
    assert np.isnan(least).all()


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_bound_of_nan_rules_no_neighbor_out(on_device: bool, symmetric: bool) -> None:
    best, limit = np.full((ROWS + COLUMNS, 2), 0.25), np.full(ROWS + COLUMNS, 0.25)
    positions = nearest.Positions(np.arange(ROWS), np.arange(ROWS, ROWS + COLUMNS), np.full(ROWS, -1))
    terms = bound(-0.1, np.float32), bound(0.1, np.float32)
    work = nearest._on_device if on_device else nearest._on_cpu
    i, j, _ = work(product_with_nan(np.float32), terms, best, limit, positions, symmetric, False)
    np.testing.assert_array_equal(np.stack([i, j], 1), WHERE)
    assert (best == 0.25).all()
    assert (limit == 0.25).all()


@PASSES
@DTYPE
@pytest.mark.parametrize(("radius", "inside"), [(0.25, False), (0.75, True)])
def test_a_pair_whose_bounds_are_nan_is_neither_within_nor_beyond(
    passes: ModuleType, dtype: type, radius: float, inside: bool
) -> None:
    weights, cut = (np.ones(ROWS, np.int64), np.ones(COLUMNS, np.int64)), np.array([radius], dtype)
    terms = bound(-0.1, dtype), bound(0.1, dtype)
    rows, columns, i, j = passes.count_within(product_with_nan(dtype), terms, weights, cut, cut, False)
    np.testing.assert_array_equal(np.stack([i, j], 1), WHERE)
    decided = np.isfinite(product_with_nan(dtype).numpy()) & inside
    np.testing.assert_array_equal(rows[:, 0], decided.sum(axis=1))
    np.testing.assert_array_equal(columns[:, 0], decided.sum(axis=0))


@PASSES
@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("nan", [np.nan, np.inf])
def test_a_pair_whose_bounds_are_no_numbers_is_in_no_bin(
    passes: ModuleType, nan: float, root: bool, equal: bool
) -> None:
    edges = np.array([0.0, 0.4, 0.8, 1.2])
    values = edges**2 if root else edges
    cells = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])
    lower, upper = np.append(-np.inf, values), np.append(values, np.inf)
    bins = Bins(lower, upper, root, 0.0, 1 / 0.4, cells[:0] if equal else cells, 1.0, 0.0, False, 2.0**40, 21, 8.0)
    weights, terms = (np.ones(ROWS, np.int64), np.ones(COLUMNS, np.int64)), (bound(-1e-3, float), bound(1e-3, float))
    counts, sums, i, j, summed = passes.bin_pairs(product_with_nan(float, nan), terms, weights, bins, False)
    np.testing.assert_array_equal(np.stack([i, j], 1), WHERE)
    assert not summed.any()
    assert counts.tolist() == [0, 0, ROWS * COLUMNS - len(WHERE), 0, 0]
    distance = np.rint((np.sqrt(0.5) if root else 0.5) * 2.0**40)
    np.testing.assert_array_equal(sums[:, 0], np.isfinite(product_with_nan(float).numpy()).sum(axis=1) * distance)
