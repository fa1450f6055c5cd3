"""Bound chebyshev and cityblock distances by L2 distances, which come from a matrix product.

Of d differences the largest, l_inf, and the sum, l_1, lie about the root of the sum of squares, l_2:

    l_2 / sqrt(d) <= l_inf <= l_2 <= l_1 <= sqrt(d) l_2
"""

from __future__ import annotations

from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.metrics.base import Norms, Precision
from embgeom_dask.metrics.euclidean import Euclidean


class ChebyshevByL2(Euclidean):
    """Points and products of euclidean; bounds of the square of the chebyshev distance."""

    is_filter = True

    def terms(self, rows: Norms, columns: Norms, width: int, precision: Precision) -> tuple[LinearBound, LinearBound]:
        """Bound l_inf^2 by l_2^2 / d and l_2^2; one more multiplication of the terms, 3 u, is in `product_error`."""
        low, high = super().terms(rows, columns, width, precision)
        return low.times(1 / width), high


class CityblockByL2(Euclidean):
    """Points and products of euclidean; bounds of the square of the cityblock distance."""

    is_filter = True

    def terms(self, rows: Norms, columns: Norms, width: int, precision: Precision) -> tuple[LinearBound, LinearBound]:
        """Bound l_1^2 by l_2^2 and d l_2^2, as `ChebyshevByL2.terms`."""
        low, high = super().terms(rows, columns, width, precision)
        return low, high.times(float(width))
