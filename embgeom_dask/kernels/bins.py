"""What a histogram pass needs to know, in units of the scaled rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

CLOSE = 2.0**-12
"""Pairs whose squared distance is at most this share of their squared norms lose too many digits in the product."""


@dataclass(frozen=True)
class Bins:
    """Equal bins and fixed-point sums.

    `lower` and `upper` (bins,) float64: a squared distance inside [lower[b], upper[b]) is in bin b for certain;
    `error` is the bound of the product's error relative to the sum of the two squared norms. A distance is summed as
    the integer t = rint(distance * quantum), at most 2^bits, and its square as a^2, a b and b^2 where
    t = a 2^half + b: integers add up to the same total in any order.
    """

    lower: NDArray[Any]
    upper: NDArray[Any]
    first: float
    per_unit: float
    error: float
    quantum: float
    half: int
