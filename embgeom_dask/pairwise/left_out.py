"""What the values of all pairs together are off, from the rows alone: far less than their bounds add up to.

A row is x = H + M + L + R + o, of three digits, one of the rest and what that misses; of the product of two rows P
leaves out E, what is made of (H, R), (M, L), (M, R) and (L, R) in both orders, of (L, L), of (R, R), and of o.

For matrices A, B with a row for each token, the squares of all products of a row of A with one of B add up to the
scalar product <A'A, B'B>. Let A'A = (a / d) 1 + A0 with a = |A|_F^2 and A0 of trace 0. Then <A'A, B'B> = a b / d +
<A0, B0>, at most a b / d + |A0| |B0|. |A0| is at most the sum of those of strips of the rows, where |A0|^2 = |A'A|^2 -
a^2 / d, and |A'A|^2 are the squares of all products of rows of the strip with each other. Digits that point anywhere
have |A0| about a / sqrt(s), for strips of s rows, so that strips of a few times d rows lose little.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.kernels.digits import REST_DIGITS, all_digits_of
from embgeom_dask.kernels.double_double import UNIT
from embgeom_dask.kernels.strip_products import pair_sums
from embgeom_dask.pairwise.points import PointFormat

Array = NDArray[Any]

_PLACES = np.array([1.0, 2.0**-8, 2.0**-16, 2.0**-16 / REST_DIGITS])
"""What the digits H, M, L and R are multiplied by, beside the step of their row."""

_LEFT_OUT = ((0, 3), (1, 2), (1, 3), (2, 3))
"""Two digits, the first of which is multiplied with the second in no order."""

_MORE = 1 + 2.0**-20
"""Of the rounding of the sums here."""

_SUMMED = 2.0**-30
"""Of that of the sums over a strip, and of what is left where they cancel."""


class LeftOut(NamedTuple):
    """Sums of bounds over rows, weighed by the tokens that share each; and the largest slack of a row.

    Attributes
    ----------
    tokens, width : int
        n and d.
    fourth, missed : float
        |x|^4 and |o|^2.
    length, spread : numpy.ndarray of float64, (4,)
        a and |A0|, of H, M, L and R.
    crossed : numpy.ndarray of float64, (2,)
        |H'R|_F and |M'L|_F.
    slack : float
    """

    tokens: int
    width: int
    fourth: float
    missed: float
    length: Array
    spread: Array
    crossed: Array
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


class AllValues(NamedTuple):
    """What the rows say of the values of all pairs, in units of the points.

    Attributes
    ----------
    total, error : Fraction
        Their sum, and how far it may be off.
    off : OffValues
    """

    total: Fraction
    error: Fraction
    off: OffValues


def left_out(stored: Array, weights: Array, point_format: PointFormat, strip: int, *, whole: bool) -> LeftOut:
    """Sum up what the products of digits leave out of rows (b, d) as stored; `weights` (b,) int64 tokens share each.

    A strip has `strip` rows at most. With `whole` digits are multiplied as integers; else as float32 numbers, to the
    same sums.
    """
    divisor, square = point_format.divisors(stored)
    found = all_digits_of(stored, point_format.centre, divisor, np.sqrt(square))
    share, width = weights * found.step**2, stored.shape[1]
    length, spread, crossed = np.zeros(4), np.zeros(4), np.zeros(2)
    bounds = np.linspace(0, len(stored), -(-len(stored) // strip) + 1).astype(np.int64)
    for start, stop in pairwise(bounds.tolist()):
        sums = pair_sums(
            [[digit[start:stop] for digit in part] for part in found.digits], share[start:stop], whole=whole
        )
        length += sums.length
        spread += np.sqrt(np.maximum(sums.square * (1 + _SUMMED) - sums.length**2 * ((1 - _SUMMED) / width), 0.0))
        slips = _SUMMED * np.sqrt(sums.square[:2] * sums.square[:1:-1])
        crossed += np.sqrt(np.maximum(sums.crossed + slips, 0.0))
    return LeftOut(
        int(weights.sum()),
        width,
        float((weights * square**2).sum()) * _MORE,
        float((weights * found.missed**2).sum()) * _MORE,
        length * _PLACES**2 * _MORE,
        spread * _PLACES**2 * _MORE,
        crossed * _PLACES[:2] * _PLACES[:1:-1] * _MORE,
        float(found.slack.max()),
    )


def joined(parts: list[LeftOut]) -> LeftOut:
    """Add up sums, one after the other."""
    found = LeftOut(*(sum(column) for column in zip(*parts, strict=True)))
    return found._replace(width=parts[0].width, slack=max(part.slack for part in parts))


def off_values(first: LeftOut, second: LeftOut | None, point_format: PointFormat) -> OffValues:
    """Bound what the values are off of all pairs of the rows of one side, or of two.

    Products count as often as in the value; rounding adds at most 2^8 u (|x|^2 + |y|^2), and what underflows.
    """
    factor, other = 2.0 if point_format.tile_metric.root else 1.0, first if second is None else second
    off = _together(first, other) / (sqrt(2) if second is None else 1.0)  # of one side every pair once
    lengths = sqrt(other.tokens * first.fourth) + sqrt(first.tokens * other.fourth)
    rounded = 256 * UNIT * lengths + 2.0**-200 * sqrt(first.tokens * other.tokens)
    return OffValues((factor * off + rounded) * _MORE, factor / 2 * (first.slack + other.slack) * _MORE + 2.0**-890)


def _together(first: LeftOut, second: LeftOut) -> float:
    """A bound of |E|_F, of all rows of the first with all of the second.

    |A B' + B A'|^2 is the sum of the squares of both and twice <A B', B A'>, at most the product of their sizes, and at
    most that of |A'B| of either side. The spectral norm of A is at most the root of a / d + |A0|.
    """

    def squares(a: int, b: int) -> float:
        return float(first.length[a] * second.length[b] / first.width + first.spread[a] * second.spread[b])

    off = sqrt(squares(2, 2)) + sqrt(squares(3, 3))
    for a, b in _LEFT_OUT:
        one, two = squares(a, b), squares(b, a)
        both = sqrt(one) * sqrt(two)
        if a + b == 3:
            both = min(both, float(first.crossed[a] * second.crossed[a]))
        off += sqrt(one + two + 2 * both)
    spectral = [float(np.sqrt(side.length / side.width + side.spread).sum()) for side in (first, second)]
    missed = sqrt(first.missed), sqrt(second.missed)
    return off + missed[1] * spectral[0] + missed[0] * spectral[1] + missed[0] * missed[1]
