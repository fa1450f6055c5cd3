"""What the values of all pairs together are off, from the rows alone: far less than their bounds add up to.

A row is x = H + M + L + r, of three digits and a rest, and of the product of two rows P leaves out, with G = L + r,

    x.x' - P = H.r' + r.H' + M.G' + G.M' + G.G'

For matrices A, B of n rows each, the squares of all products of a row of A with one of B add up to |A B'|_F^2, at most
|A|_2^2 |B|_F^2 with the spectral norm of A (Horn and Johnson, *Matrix Analysis*, 5.6). That of digits that point
anywhere is about |A|_F / sqrt(d). Of a strip of rows A_s it is at most the largest sum of a row of |A_s A_s'|
(Gershgorin, as A_s A_s' is symmetric), and |A|_2^2 at most the sum of |A_s|_2^2 of all strips.
"""

from __future__ import annotations

from fractions import Fraction
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.digits import REST_DIGITS, low_digits_of
from embgeom_dask.kernels.double_double import UNIT
from embgeom_dask.kernels.parallel import share_out
from embgeom_dask.pairwise.points import PointFormat

Array = NDArray[Any]

STRIP = 64
"""Rows of a strip: their products with each other cost STRIP / n of those of all n rows, about the square root of STRIP
is won."""

_MORE = 1 + 2.0**-20
"""Of the rounding of the sums here."""


class LeftOut(NamedTuple):
    """Sums of bounds over rows, weighed by the tokens that share each: they add up.

    Attributes
    ----------
    tokens : int
    fourth : float
        |x|^4.
    high, middle, low : float
        |H|^2, |M|^2 and |G|^2.
    low_spectral, rest_spectral : float
        Squares of spectral norms, of L and of r.
    """

    tokens: int
    fourth: float
    high: float
    middle: float
    low: float
    low_spectral: float
    rest_spectral: float


def left_out(stored: Array, weights: Array, point_format: PointFormat) -> LeftOut:
    """Sum up what the products of digits leave out of rows (b, d) as stored; `weights` (b,) int64 tokens share each."""
    starts = range(0, len(stored), STRIP)

    def work(first: int, last: int) -> list[LeftOut]:
        strips = (slice(start, start + STRIP) for start in starts[first:last])
        return [_of_strip(stored[strip], weights[strip], point_format) for strip in strips]

    return joined([each for part in share_out(work, len(starts), least=1) for each in part])


def joined(parts: list[LeftOut]) -> LeftOut:
    """Add up sums, one after the other."""
    return LeftOut(*(sum(column) for column in zip(*parts, strict=True)))


def root_of_squares(first: LeftOut, second: LeftOut | None = None, *, point_format: PointFormat) -> Fraction:
    """Bound the root of the sum of squares of what the values of all pairs are off, in units of the points.

    Of the rows of one side, or of two. Products count as often as in the value; rounding adds at most 2^8 u (|x|^2 +
    |y|^2), and what underflows.
    """
    factor = 2.0 if point_format.tile_metric.root else 1.0
    if second is None:  # every pair once, without those of a row with itself
        off = sqrt(2) * _one_way(first, first) + _lowest(first, first) / sqrt(2)
        other = first
    else:
        off = _one_way(first, second) + _one_way(second, first) + _lowest(first, second)
        other = second
    lengths = sqrt(other.tokens * first.fourth) + sqrt(first.tokens * other.fourth)
    rounded = 256 * UNIT * lengths + 2.0**-400 * sqrt(first.tokens * other.tokens)
    return Fraction((factor * off + rounded) * _MORE)


def _one_way(low: LeftOut, high: LeftOut) -> float:
    """H.r' and M.G', all of them together, with r and G of `low`."""
    return sqrt(low.rest_spectral * high.high) + _spectral(low) * sqrt(high.middle)


def _lowest(first: LeftOut, second: LeftOut) -> float:
    """G.G', all of them together."""
    return _spectral(first) * sqrt(second.low)


def _spectral(side: LeftOut) -> float:
    """That of G = L + r."""
    return sqrt(side.low_spectral) + sqrt(side.rest_spectral)


def _of_strip(stored: Array, weights: Array, point_format: PointFormat) -> LeftOut:
    divisor, square = point_format.divisors(stored)
    length = np.sqrt(square)
    found = low_digits_of(stored, point_format.centre, divisor, length)
    share = np.sqrt(weights) * found.step
    low = _spectral_square(found.low_digit, share / 2.0**16)
    rest = _spectral_square(found.rest_digit, share / (2.0**16 * REST_DIGITS))
    # |r - its digits| and what centre, division and turns round: spectral norms are at most those of Frobenius
    unit = (0.5 / REST_DIGITS + 2.0**-20) / 2.0**16
    missed = unit * sqrt(stored.shape[1]) * _norm(share) + 64 * UNIT * _norm(np.sqrt(weights) * length)
    below = found.low + found.rest
    squares = ((length + found.middle + below) ** 2, found.middle**2, below**2)
    sums = (float((weights * each).sum()) * _MORE for each in (square**2, *squares))
    return LeftOut(int(weights.sum()), *sums, low * _MORE, (sqrt(rest) + missed) ** 2 * _MORE)


def _spectral_square(digit: Array, share: Array) -> float:
    """A bound of the squared spectral norm of digits (b, d) int8, each row times its `share` (b,).

    Products of digits are added up without error.
    """
    values = digit.astype(np.float64)
    sums = (np.abs(values @ values.T) * share).sum(axis=1)
    return float((share * sums).max())


def _norm(values: Array) -> float:
    return sqrt(float(np.square(values).sum()))
