"""What is reported of a pair: the float64 number nearest to its true distance, and what is compared with it."""

from __future__ import annotations

from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embgeom_dask.kernels.numba_bfloat16 import as_numba
from embgeom_dask.kernels.row_norms import norms
from embgeom_dask.metrics import DISTANCES, METRICS
from embgeom_dask.pairwise.exact import Exact, Rows
from embgeom_dask.reductions import Thresholds
from embgeom_dask.testing.references import truth
from embgeom_dask.testing.strategies import DTYPES, hostile

BITS = {"bfloat16": 8, "float32": 24, "float64": 53}


def exactly(rows: np.ndarray, metric: str) -> Exact:
    lengths = np.sqrt(norms(rows)[:, 1]) * (1 + 1e-9)
    blocks = Rows(3, lambda index: rows[3 * index : 3 * index + 3], lengths)
    return Exact(METRICS[metric], blocks, blocks, rows.shape[1], 1.0)


@settings(deadline=None, max_examples=150)
@given(rows=hostile(), metric=st.sampled_from(sorted(METRICS)))
def test_reported_distances_and_what_is_settled_are_correctly_rounded(rows: np.ndarray, metric: str) -> None:
    exact, expected = exactly(rows, metric), truth(rows, metric=metric)
    reported = -expected.distance if metric == "dot" else expected.distance
    np.testing.assert_array_equal(exact.distances(expected.i, expected.j), reported)
    values = as_numba(rows)
    distance, settled = METRICS[metric].rounded(values, values, expected.i, expected.j)
    np.testing.assert_array_equal(distance[settled], reported[settled])


@settings(deadline=None, max_examples=100)
@given(rows=hostile(), metric=st.sampled_from(DISTANCES), closed=st.booleans())
def test_cuts_at_reported_distances_and_beside_them_part_the_pairs(rows: np.ndarray, metric: str, closed: bool) -> None:
    exact, expected = exactly(rows, metric), truth(rows, metric=metric)
    beside = [np.nextafter(expected.distance, np.inf), np.maximum(np.nextafter(expected.distance, -1), 0)]
    cuts = np.unique(np.concatenate([expected.distance, *beside, [0.0]]))
    found, _ = Thresholds.at(exact.metric, cuts, closed=closed).classify(expected.i, expected.j, exact)
    below = np.searchsorted(cuts, expected.distance, side="left" if closed else "right")
    np.testing.assert_array_equal(found, below)


def parts(total: int, bits: int) -> list[int]:
    """Numbers of so many bits whose sum is `total`."""
    found = []
    while total:
        cut = max(total.bit_length() - bits, 0)
        found.append(total >> cut << cut)
        total -= found[-1]
    return found


def roots(total: int, bits: int) -> list[int]:
    """Numbers of so many bits the sum of whose squares is `total`."""
    found = []
    while total:
        root = isqrt(total)
        cut = max(root.bit_length() - bits, 0)
        found.append(root >> cut << cut)
        total -= found[-1] ** 2
    return found


def halfway(metric: str, bits: int, middle: int) -> tuple[list[float], list[float]]:
    """Two rows, of numbers of so many bits, whose distance is `middle` 2^-54 without error."""
    if metric == "cosine":
        cosine = 2**54 - middle
        return [1.0], [float(part) for part in (cosine, *roots(4**54 - cosine**2, bits))]
    if metric == "chebyshev":
        return [-(2.0**-54)], [(middle - 1) * 2.0**-54]
    found = parts(middle, bits) if metric == "cityblock" else roots(middle**2, bits)
    return [0.0], [part * 2.0**-54 for part in found]


@pytest.mark.parametrize(
    ("metric", "dtype"),
    [(metric, dtype) for metric in ("euclidean", "cityblock") for dtype in BITS]
    + [("cosine", "float64"), ("chebyshev", "float64")],
)
def test_a_distance_halfway_between_two_numbers_is_rounded_to_the_even_one(metric: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    middles = [4 * int(whole) + odd for whole in rng.integers(2**51, 2**52, 6) for odd in (1, 3)]
    pairs = [halfway(metric, BITS[dtype], middle) for middle in middles]
    values = np.zeros((2 * len(pairs), max(len(second) for _, second in pairs)))
    for p, pair in enumerate(pairs):
        for row, numbers in zip(values[2 * p : 2 * p + 2], pair, strict=True):
            row[: len(numbers)] = numbers
    rows = values.astype(DTYPES[dtype])
    np.testing.assert_array_equal(rows.astype(float), values)
    exact, first = exactly(rows, metric), np.arange(0, len(rows), 2)
    even = np.array([(middle + 1) // 4 * 2 for middle in middles])  # of both beside it, in units of 2^-53
    expected = even * 2.0**-53
    np.testing.assert_array_equal(exact.distances(first, first + 1), expected)
    for p, distance in enumerate(expected.tolist()):
        one = first[p : p + 1]
        for radius, inside in ((distance, True), (np.nextafter(distance, 0), False), (np.nextafter(distance, 9), True)):
            place, _ = Thresholds.at(exact.metric, [radius], closed=True).classify(one, one + 1, exact)
            assert (place.item() == 0) == inside
