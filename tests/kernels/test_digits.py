"""Digits against sums of integers: products without error, bounds that hold, the same bits in any cut."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embgeom_dask.kernels import digits
from embgeom_dask.metrics import METRICS, Precision, Workspace, matrix_product, multiply_digits
from embgeom_dask.pairwise.points import PointFormat
from embgeom_dask.testing.strategies import DTYPES


@st.composite
def rows_of_digits(draw: Any) -> np.ndarray:
    """Rows with what breaks digits: one huge value, subnormal numbers, powers of two, equal values, signs, zeros."""
    n, d = draw(st.integers(2, 6)), draw(st.sampled_from([1, 3, 16, 17, 48, 64, 80]))
    name, rng = draw(st.sampled_from(sorted(DTYPES))), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["normal", "huge", "subnormal", "powers", "equal", "signs", "lengths", "near"]))
    rows = rng.normal(size=(n, d))
    if kind == "huge":
        rows[0, rng.integers(d)] = 2.0**12 if name == "float16" else 2.0**100
    elif kind == "subnormal":
        rows = rng.integers(-3, 4, (n, d)) * (2.0**-400 if name == "float64" else 2.0**-130)
    elif kind == "powers":
        rows = np.sign(rows) * 2.0 ** rng.integers(-12, 12, (n, d))
    elif kind == "equal":
        rows = np.tile(rng.normal(size=(n, 1)), (1, d))
    elif kind == "signs":
        rows = rng.choice([-1.0, 1.0], (n, d))
    elif kind == "lengths":
        rows *= 2.0 ** rng.integers(-14, 12, (n, 1))
    elif kind == "near":
        rows = rows[0] + 2.0**-9 * rows
    return rows.astype(DTYPES[name])


def format_of(rows: np.ndarray, metric: str, element: str = "int8x3") -> PointFormat:
    values = rows.astype(float)
    centre = values.mean(axis=0) if METRICS[metric].shifts else np.zeros(rows.shape[1])
    largest = np.sqrt(np.square(values - centre).sum(axis=1).max())
    scale = float(2.0 ** -np.ceil(np.log2(largest))) if largest > 0 else 1.0
    return PointFormat(metric, element, centre, scale)


def exact_value(metric: str, x: np.ndarray, y: np.ndarray, scale: float) -> Fraction:
    """The value of two rows as points: of euclidean a square, of cosine within 2^-300."""
    a, b = ([Fraction(value) for value in side.astype(float).tolist()] for side in (x, y))
    if metric == "euclidean":
        return sum(((p - q) ** 2 for p, q in zip(a, b, strict=True)), Fraction()) * Fraction(scale) ** 2
    dot = sum(p * q for p, q in zip(a, b, strict=True))
    order = abs(METRICS["cosine"].order(x.astype(float), y.astype(float)))  # the square of the cosine
    cosine = Fraction(isqrt((order.numerator << 600) // order.denominator), 2**300)
    return 1 - (cosine if dot > 0 else -cosine)


@settings(deadline=None, max_examples=60)
@given(
    rows=rows_of_digits(),
    metric=st.sampled_from(["euclidean", "cosine"]),
    longest=st.sampled_from([16, 32, 43904]),
    count=st.sampled_from([3, 2]),
)
def test_the_bounds_of_digits_hold_and_their_products_are_the_same_in_any_cut(
    rows: np.ndarray, metric: str, longest: int, count: int
) -> None:
    if metric == "cosine":
        rows[~rows.astype(float).any(axis=1)] = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "LONGEST", longest)
        patch.setattr(matrix_product, "_STRIP", 2)
        point_format = format_of(rows, metric, f"int8x{count}")
        points, norms = point_format.points(rows)
        assert norms.step is not None
        assert norms.slack is not None
        steps = (norms.step, norms.step)
        product = multiply_digits(points, points, steps, Workspace(), whole=True, count=count).numpy()
        if count == 3:
            other = multiply_digits(points, points, steps, Workspace(), whole=False).numpy()
            np.testing.assert_array_equal(product, other)
        for i in range(len(rows)):
            alone, of_it = point_format.points(rows[i : i + 1])
            assert of_it.step == norms.step[i]
            assert of_it.slack == norms.slack[i]
            np.testing.assert_array_equal(alone[0], points[i])
    low, high = METRICS[metric].terms(norms, norms, rows.shape[1], Precision("float64", cpu=True))
    for i in range(len(rows)):
        for j in range(len(rows)):
            least, most = (
                Fraction(t.row[i]) + Fraction(t.column[j]) + Fraction(t.factor) * Fraction(product[i, j])
                for t in (low, high)
            )
            assert least <= exact_value(metric, rows[i], rows[j], point_format.scale) <= most


def points_of(digit: list[int], width: int) -> torch.Tensor:
    """A point (1, 5 w) of the same three digits in each of so many columns."""
    slices, left = [], width
    for part in digits.slices(width):
        columns = np.where(np.arange(part) < left, 1, 0)
        slices += [digit[k] * columns for k in (0, 1, 2, 1, 0)]
        left -= part
    return torch.from_numpy(np.concatenate(slices).astype(np.int8)).reshape(1, -1)


@pytest.mark.parametrize("width", [16, digits.LONGEST, digits.LONGEST + 1, 2 * digits.LONGEST])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_digits_add_up_at_the_widest(width: int, sign: int) -> None:
    h, m, low = 127, -128, -128
    first, second = points_of([h, m, low], width), points_of([sign * h, m, low], width)
    true = width * ((sign * h * h << 16) + ((1 + sign) * h * m << 8) + (1 + sign) * h * low + m * m)
    for whole in (True, False):
        product = multiply_digits(first, second, (np.ones(1), np.ones(1)), Workspace(), whole=whole)
        assert Fraction(product.item()) == Fraction(true, 2**16)


def test_digits_of_rows_lose_about_a_millionth() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 2560)).astype(ml_dtypes.bfloat16)
    rows[:, 7] *= 40  # a column of large values, as vocabularies have
    _, norms = format_of(rows, "euclidean").points(rows)
    assert norms.slack is not None
    assert (norms.slack < 2e-6 * norms.norm).all()
