"""Sums of distances and of their squares as integers, the same in any order; mean and standard deviation from them.

Distances that products tell well enough are summed by the pass over a tile, in fixed point, with what each may be off.
The others are summed here, from their exact values: every bit of them, or of `BITS` the first.
"""

from __future__ import annotations

from fractions import Fraction
from math import inf, isqrt, nextafter, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.double_double import UNIT
from embgeom_dask.pairwise.exact import Exact

Array = NDArray[Any]

BITS = 36
"""Of a distance that products do not tell well: as many as float64 nearly always tells for certain."""

_SIZE, _PART = 27, 1 << 16
"""So many numbers of so many bits add up within 63 bits, times weights of 19 bits."""


def rounded_distances(first: Array, second: Array, known: tuple[Array, Array], exact: Exact) -> Array:
    """The distances (p,) of pairs as they are reported, rounded once more to `BITS` bits.

    Their values (p,) are `known`, and how far each of these may be off (p,).
    """
    values, slack = known
    least, most = (
        _rounded(exact.metric.distance(np.maximum(values + sign * slack, 0)) * (1 + sign * 4 * UNIT))
        for sign in (-1, 1)
    )
    (unsure,) = np.nonzero(~(least == most))
    least[unsure] = _rounded(exact.distances(first[unsure], second[unsure]))
    return least


def _rounded(distance: Array) -> Array:
    mantissa, exponent = np.frexp(distance)
    found: Array = np.ldexp(np.rint(np.ldexp(mantissa, BITS)), exponent - BITS)
    return found


def exact_sums(distance: Array, weight: Array, shift: int) -> tuple[int, int]:
    """The sum of weighed distances (p,) float64 times 2^shift, and of their squares times 2^(2 shift), as integers.

    Weights (p,) are int64, less than 2^38.
    """
    mantissa, exponent = np.frexp(distance)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    total = square = 0
    for e in np.unique(exponent[whole > 0]).tolist():
        here = exponent == e
        w, (high, low) = weight[here], divmod(whole[here], 1 << _SIZE)
        one = (exact_dot(w, high) << _SIZE) + exact_dot(w, low)
        two = (
            (exact_dot(w, high * high) << 2 * _SIZE) + (exact_dot(w, high * low) << _SIZE + 1) + exact_dot(w, low * low)
        )
        places = e - 53 + shift
        total += _shifted(one, places)
        square += _shifted(two, 2 * places)
    return total, square


def exact_dot(weights: Array, numbers: Array) -> int:
    """The sum of weights (p,) < 2^38 times numbers (p,), int64 that are not negative, without overflow."""
    found = 0
    for start in range(0, weights.size, _PART):
        w, x = weights[start : start + _PART], numbers[start : start + _PART]
        for first in range(0, 38, 19):
            weight = w >> first & (1 << 19) - 1
            if weight.any():
                parts = ((x >> second & (1 << _SIZE) - 1, second) for second in range(0, 63, _SIZE))
                found += sum(int(weight @ part) << first + second for part, second in parts)
    return found


def _shifted(number: int, places: int) -> int:
    return number << places if places >= 0 else number >> -places


def mean_and_deviation(
    total: Fraction, square: Fraction, error: Fraction, error_squares: list[Fraction], pairs: int
) -> tuple[float, float, float, float]:
    """The mean of `pairs` distances with its error, and their sample standard deviation with its error.

    `total` is the sum of distances and `square` of their squares; what each is off is the sum of several numbers, with
    sums not above `error` for all, and squares that add up to no more than one of `error_squares` for each. The
    deviation, a length, moves by no more than the length of what its distances move by, and lengths add up (Minkowski).
    """
    if not pairs:
        return (np.nan,) * 4
    mean = total / pairs
    found, more = float(mean), error / pairs
    bound = _up(float(more + abs(Fraction(found) - mean)))
    if pairs == 1:
        return found, bound, np.nan, np.nan
    variance = max((square - total**2 / pairs) / (pairs - 1), Fraction(0))
    deviation = sqrt(variance)
    lost = sum(root_up(each / (pairs - 1)) for each in error_squares) + 8 * UNIT * deviation
    return found, bound, deviation, _up(lost)


def error_by_sum(
    total: Fraction, square: Fraction, error_squares: list[Fraction], apart: Fraction, pairs: int
) -> Fraction:
    """What the sum of distances of so many pairs is off at most, where that of their squares is off by at most `apart`.

    The square of a distance d that is off by e is off by e (2 d - e). So, for any m, here the mean, 2 m sum e is
    sum e (2 d - e) + sum e^2 - 2 sum e (d - m), where the last sum is at most the product of the lengths of both.
    """
    if not total:
        return total
    off = sum((Fraction(root_up(each)) for each in error_squares), Fraction(0))
    spread = Fraction(root_up(max(square - total**2 / pairs, Fraction(0))))
    return ((apart + off**2) / 2 + spread * off) * pairs / total


def root_up(square: Fraction) -> float:
    """A number not less than a square root, and little more."""
    if not square:
        return 0.0
    bits = max(0, 64 + (square.denominator.bit_length() - square.numerator.bit_length() + 1) // 2)
    scaled = (square.numerator << 2 * bits) // square.denominator + 1
    return _up(float(Fraction(isqrt(scaled) + 1, 1 << bits)))


def _up(number: float) -> float:
    return nextafter(number, inf) if number > 0 else 0.0
