"""What the values of all pairs together are off, from the rows alone: far less than their bounds add up to.

A row is x = H + M + L + r, of three digits and a rest, and of the product of two rows P leaves out, with G = L + r,

    x.x' - P = H.r' + r.H' + M.G' + G.M' + G.G'

For matrices A, B of n rows each, the squares of all products of a row of A with one of B add up to |A B'|_F^2, at most
|A|_2^2 |B|_F^2 with the spectral norm of A (Horn and Johnson, *Matrix Analysis*, 5.6). That of digits that point
anywhere is about |A|_F / sqrt(d). |A|_2^2 is at most the sum of those of strips of its rows, and of a strip it is the
largest eigenvalue of S = A_s A_s', or of A_s' A_s: for any m at most m + |S - m|_2 <= m + sqrt(|(S - m)^2|_F).
"""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.digits import REST_DIGITS, low_digits_of
from embgeom_dask.kernels.double_double import UNIT
from embgeom_dask.kernels.matrix_products import multiply
from embgeom_dask.pairwise.points import PointFormat

Array = NDArray[Any]

STRIP = 128
"""Rows of a strip: their products with each other cost STRIP / n of those of all n rows, and about the square root of
STRIP is won. Of rows no wider than `NARROW` the products of columns are made, of all rows together."""

NARROW = 512
_TOGETHER = 4096
_HELD = 22
"""Bits of integers whose products add up without error in float64, `NARROW` at a time."""

_WHOLE = 1024
"""Columns of 8-bit digits whose products add up without error in float32: 1024 (2^7)^2 = 2^24."""

_MORE = 1 + 2.0**-20
"""Of the rounding of the sums here."""


class LeftOut(NamedTuple):
    """Sums of bounds over rows, weighed by the tokens that share each; and the largest slack of a row.

    Attributes
    ----------
    tokens : int
    fourth : float
        |x|^4.
    high, middle, low : float
        |H|^2, |M|^2 and |G|^2.
    low_spectral, rest_spectral : float
        Squares of spectral norms, of L and of r.
    slack : float
    """

    tokens: int
    fourth: float
    high: float
    middle: float
    low: float
    low_spectral: float
    rest_spectral: float
    slack: float


class OffValues(NamedTuple):
    """What the values that products of digits give of all pairs are off, in units of the points.

    Attributes
    ----------
    root : float
        A bound of the root of the sum of squares.
    most : float
        A bound of each.
    """

    root: float
    most: float


def left_out(stored: Array, weights: Array, point_format: PointFormat) -> LeftOut:
    """Sum up what the products of digits leave out of rows (b, d) as stored; `weights` (b,) int64 tokens share each."""
    divisor, square = point_format.divisors(stored)
    length = np.sqrt(square)
    found = low_digits_of(stored, point_format.centre, divisor, length)
    below = found.low + found.rest
    squares = (square**2, (length + found.middle + below) ** 2, found.middle**2, below**2)
    fourth, high, middle, lowest = (float((weights * each).sum()) * _MORE for each in squares)
    share = np.sqrt(weights) * found.step
    order = np.argsort(share, kind="stable")  # rows of a strip are about as long
    low = _spectral_square(found.low_digit, share, order) / 2.0**32
    rest = _spectral_square(found.rest_digit, share, order) / (2.0**16 * REST_DIGITS) ** 2
    # |r - its digits| and what centre, division and turns round: spectral norms are at most those of Frobenius
    unit = (0.5 / REST_DIGITS + 2.0**-20) / 2.0**16
    missed = unit * sqrt(stored.shape[1]) * _norm(share) + 64 * UNIT * _norm(np.sqrt(weights) * length)
    rest = (sqrt(rest) + missed) ** 2
    slack = float(found.slack.max())
    return LeftOut(int(weights.sum()), fourth, high, middle, lowest, low * _MORE, rest * _MORE, slack)


def joined(parts: list[LeftOut]) -> LeftOut:
    """Add up sums, one after the other."""
    found = LeftOut(*(sum(column) for column in zip(*parts, strict=True)))
    return found._replace(slack=max(part.slack for part in parts))


def off_values(first: LeftOut, second: LeftOut | None, point_format: PointFormat) -> OffValues:
    """Bound what the values are off of all pairs of the rows of one side, or of two.

    Products count as often as in the value; rounding adds at most 2^8 u (|x|^2 + |y|^2), and what underflows.
    """
    factor = 2.0 if point_format.tile_metric.root else 1.0
    if second is None:  # every pair once, without those of a row with itself
        off = sqrt(2) * _one_way(first, first) + _lowest(first, first) / sqrt(2)
    else:
        off = _one_way(first, second) + _one_way(second, first) + _lowest(first, second)
    other = first if second is None else second
    lengths = sqrt(other.tokens * first.fourth) + sqrt(first.tokens * other.fourth)
    rounded = 256 * UNIT * lengths + 2.0**-400 * sqrt(first.tokens * other.tokens)
    return OffValues((factor * off + rounded) * _MORE, factor / 2 * (first.slack + other.slack) * _MORE + 2.0**-890)


def _one_way(low: LeftOut, high: LeftOut) -> float:
    """H.r' and M.G', all of them together, with r and G of `low`."""
    return sqrt(low.rest_spectral * high.high) + _spectral(low) * sqrt(high.middle)


def _lowest(first: LeftOut, second: LeftOut) -> float:
    """G.G', all of them together."""
    return _spectral(first) * sqrt(second.low)


def _spectral(side: LeftOut) -> float:
    """That of G = L + r."""
    return sqrt(side.low_spectral) + sqrt(side.rest_spectral)


def _spectral_square(digit: Array, share: Array, order: Array) -> float:
    """A bound of the squared spectral norm of digits (b, d) int8, each row times its `share` (b,), rising in `order`.

    Integers are added up without error.
    """
    if digit.shape[1] <= NARROW:
        return _by_columns(digit, share)
    strips = [order[start : start + STRIP] for start in range(0, order.size, STRIP)]
    return sum(float(share[strip[-1]]) ** 2 * _by_rows(digit[strip]) for strip in strips)


def _by_rows(digit: Array) -> float:
    """That of digits (s, d) alone."""
    products = np.zeros((len(digit), len(digit)))
    for start in range(0, digit.shape[1], _WHOLE):
        values = digit[:, start : start + _WHOLE].astype(np.float32)
        products += multiply(values, values.T)
    return _largest_eigenvalue(products)


def _by_columns(digit: Array, share: Array) -> float:
    """That of digits, with shares rounded up to multiples of 2^-7 of the largest: longer rows have no less of it."""
    unit = float(share.max()) / 2.0**7
    times, products = np.floor(share / unit) + 1, np.zeros((digit.shape[1],) * 2)
    for start in range(0, len(digit), _TOGETHER):
        rows = slice(start, start + _TOGETHER)
        values = digit[rows] * times[rows, None]
        products += multiply(values.T, values)
    return unit**2 * _largest_eigenvalue(products)


def _largest_eigenvalue(products: Array) -> float:
    """A bound of that of a symmetric matrix (s, s) of integers."""
    mean = float(np.rint(np.trace(products) / len(products)))
    products[np.diag_indices(len(products))] -= mean
    unit = 2.0 ** max(0, int(np.frexp(np.abs(products).max())[1]) - _HELD)
    rounded = np.rint(products / unit)
    found = sqrt(sqrt(float(np.square(multiply(rounded, rounded)).sum()))) + len(rounded) / 2 * (unit > 1)
    return (mean + unit * found) * _MORE


def _norm(values: Array) -> float:
    return sqrt(float(np.square(values).sum()))
