"""Rational vectors with one denominator, and the float64 numbers nearest to their norms, means and products."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import isqrt, ldexp, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_ROOT_BITS = 64
"""Bits of a square root that are computed, with a flag for more bits; float64 keeps 53."""


@dataclass(frozen=True)
class Rationals:
    """The numbers numerators[k] 2^exponent / denominator: the components of a vector, or a sample."""

    numerators: list[int]
    denominator: int
    exponent: int

    @classmethod
    def of(cls, values: Array) -> Rationals:
        """Return finite float64 values (n,) without error."""
        fraction, exponent = np.frexp(values)
        whole = np.ldexp(fraction, 53).astype(np.int64)
        least = int(exponent.min(initial=0, where=whole != 0))
        shift = np.where(whole != 0, exponent - least, 0)
        numerators = [number << by for number, by in zip(whole.tolist(), shift.tolist(), strict=True)]
        return cls(numerators, 1, least - 53)

    def nearest(self) -> Array:
        """Return the nearest float64 numbers (n,)."""
        return np.array([nearest(number, self.denominator, self.exponent) for number in self.numerators])

    def in_two_words(self) -> tuple[Array, Array]:
        """Return the nearest float64 numbers (n,), and those nearest to what is left of each."""
        return self._words

    @cached_property
    def _words(self) -> tuple[Array, Array]:  # which goes to workers with the numbers
        high = self.nearest()
        return high, self.minus(Rationals.of(high)).nearest()

    @cached_property
    def l1(self) -> float:
        """The float64 nearest to the L1 norm."""
        return nearest(sum(map(abs, self.numerators)), self.denominator, self.exponent)

    @cached_property
    def l2(self) -> float:
        """The float64 nearest to the L2 norm."""
        return nearest_root(self._squares, self.denominator**2, 2 * self.exponent)

    @cached_property
    def linf(self) -> float:
        """The float64 nearest to the L-infinity norm."""
        return nearest(max(map(abs, self.numerators)), self.denominator, self.exponent)

    @cached_property
    def mean(self) -> float:
        """The float64 nearest to the mean."""
        return nearest(sum(self.numerators), len(self.numerators) * self.denominator, self.exponent)

    @cached_property
    def sample_std(self) -> float:
        """The float64 nearest to the sample standard deviation (n - 1); NaN for one number."""
        count = len(self.numerators)
        if count == 1:
            return nan
        squares = count * self._squares - sum(self.numerators) ** 2
        return nearest_root(squares, count * (count - 1) * self.denominator**2, 2 * self.exponent)

    def minus(self, other: Rationals) -> Rationals:
        """Return the difference self - other, exactly."""
        exponent = min(self.exponent, other.exponent)
        mine, theirs = (
            shared << (each.exponent - exponent)
            for each, shared in ((self, other.denominator), (other, self.denominator))
        )
        numerators = [mine * a - theirs * b for a, b in zip(self.numerators, other.numerators, strict=True)]
        return Rationals(numerators, self.denominator * other.denominator, exponent)

    def dot(self, other: Rationals) -> Fraction:
        """Return the scalar product, exactly."""
        products = sum(a * b for a, b in zip(self.numerators, other.numerators, strict=True))
        scale = Fraction(2) ** (self.exponent + other.exponent)
        return scale * Fraction(products, self.denominator * other.denominator)

    @cached_property
    def _squares(self) -> int:
        return sum(number * number for number in self.numerators)


def nearest(numerator: int, denominator: int, exponent: int = 0) -> float:
    """Return the float64 nearest to numerator 2^exponent / denominator: Python divides integers with one rounding."""
    return (numerator << max(exponent, 0)) / (denominator << max(-exponent, 0))


def nearest_root(numerator: int, denominator: int, exponent: int = 0) -> float:
    """Return the float64 nearest to sqrt(numerator 2^exponent / denominator), which must not be negative."""
    shift = 2 * _ROOT_BITS - numerator.bit_length() + denominator.bit_length()
    shift += (shift - exponent) % 2
    square, rest = divmod(numerator << max(shift, 0), denominator << max(-shift, 0))
    root = isqrt(square)
    more = rest != 0 or root * root != square
    return ldexp(float(2 * root + more), (exponent - shift) // 2 - 1)
