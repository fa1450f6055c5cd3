"""The interface of a metric: cheap bounds for every pair, and the exact answer for the few pairs that need it.

Shapes: a block has b rows of d columns; a tile has m rows and n columns; p pairs are given by their indices i and j,
(p,) each, into rows x (m, d) and y (n, d). u is the unit roundoff, 2^-53 in float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.double_double import UNIT, Keys
from embgeom_dask.metrics.workspace import Workspace

Array = NDArray[Any]

USUAL_LENGTHS = 2.0**-40, 2.0**40
"""Between these, what underflows in float32 is less than 2^-20 of what is rounded there, and nothing overflows."""


@dataclass(frozen=True)
class Norms:
    """What the bounds of a tile need to know of each point.

    Attributes
    ----------
    norm : numpy.ndarray of float64, (b,)
        The squared length for euclidean; of the other metrics' points the norms are not used.
    error : numpy.ndarray of float64, (b,), optional
        An upper bound of |x - p|, the L2 distance of each row x from its point p, with the errors of sums of products
        included; None if points equal their rows. For points p, q of rows x, y with errors e, f:
        |x.y - p.q| <= e |y| + |p| f.
    step, slack : numpy.ndarray of float64, (b,), optional
        Of points in digits, see `kernels.digits`; else None. Neither hangs on other rows. Of unit vectors rounded to
        integers `slack` is how far `norm` may be from that of the row without any rounding.
    """

    norm: Array
    error: Array | None = None
    step: Array | None = None
    slack: Array | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(array.nbytes for array in vars(self).values() if array is not None)

    def take(self, rows: slice | Array) -> Norms:
        """Return the norms of some of the rows."""
        others = (None if array is None else array[rows] for array in (self.error, self.step, self.slack))
        return Norms(self.norm[rows], *others)


@dataclass(frozen=True)
class Points:
    """The points of a block: `values` (b, d), float32 or float64, and their norms."""

    values: Array
    norms: Norms


@dataclass(frozen=True)
class Precision:
    """How a product was computed, from which the bound of its error follows.

    Attributes
    ----------
    element : {"int32", "bfloat16", "float32", "float64"}
        The dtype of the product. `int32`: points are int8, and the product is exact; it is rounded to float32 when it
        is used. `bfloat16`: points are bfloat16, products of two numbers are exact in float32, sums are float32, and
        the final sum is rounded to bfloat16.
    cpu : bool
        Whether it was computed on a CPU. Other devices may truncate where a CPU rounds.
    """

    element: str
    cpu: bool

    @property
    def dtype(self) -> Any:
        """The numpy dtype of sums and bounds: float64 or float32."""
        return np.float64 if self.element == "float64" else np.float32

    @property
    def unit(self) -> float:
        """The unit roundoff u of `dtype`: 2^-53 or 2^-24."""
        return float(np.finfo(self.dtype).eps) / 2

    @property
    def tiny(self) -> float:
        """An upper bound of what underflow changes in a value, for points of norms up to 2^10."""
        return 2.0**-900 if self.element == "float64" else 2.0**-100

    @property
    def rounding(self) -> float:
        """An upper bound of the error of the final rounding to bfloat16, relative to the rounded product; else 0."""
        return 2.0**-8 * (1 + 2.0**-6) if self.element == "bfloat16" else 0.0


class Metric(ABC):
    """A distance between rows.

    Pairs are ordered by a *value* that grows with the distance. Products take *points*: p = scale (x - centre), where
    `scale` is a power of two that brings all points into the unit ball. The value of two points is `unit(scale)` times
    the value of their rows.
    """

    name: str
    root: bool = False
    """The distance is the square root of the value."""
    shifts: bool = False
    """The distance does not change if a centre is subtracted from all rows."""
    as_stored: bool = False
    """Rows can be points without shift and scale, in the dtype that they are stored in."""
    rounds: bool = False
    """Rows that are stored in a longer type can be points of bfloat16 too, rounded, without shift and scale."""
    quantizes: bool = False
    """Points can be rows rounded to 8-bit integers."""
    is_product: bool = False
    """It is no distance: values are inner products, negative, and err by a part of |x| |y|, not of themselves.

    Two identical rows have a product like any others.
    """
    by_l2: Metric | None = None
    """By whose products pairs of this metric are ruled out: L2 distances bound its own. None: it has none."""
    is_filter: bool = False
    """Bounds are of squares of another metric's distances, by L2: finer products would tell no more of those."""
    has_digits: bool = False
    """Points can be rows in digits (`kernels.digits`): values are made of products, less a centre if it `shifts`."""
    has_rough: bool = False
    """`rough` tells values in float32."""
    undefined_for_zero_rows: bool = False
    """A row of zeros has no distance to any row: such rows are left out."""
    keeps_rows: bool = True
    """Points are rows shifted and scaled, and nothing else."""
    prunes_by_norm: bool = True
    """By |x - y| <= |x| + |y|, rows near the centre can be ruled out as members of the farthest pairs."""
    prunes_by_extent: bool = False
    """The extremes of the columns tell which rows can be members of the farthest pairs."""

    @abstractmethod
    def unit(self, scale: float) -> float:
        """Return the factor of a value when the rows are multiplied by `scale`."""

    def rounded_unit(self, scale: float) -> float:
        """Return the factor of a value of points that are rows multiplied by `scale` and rounded to integers."""
        return self.unit(scale)

    @abstractmethod
    def distance_from_centre(self, l1: Array, l2_squared: Array, linf: Array) -> Array:
        """Return the distance from the centre (b,), from the L1, squared L2 and L-infinity norm (b,) of x - centre."""

    @abstractmethod
    def points(self, values: Array, dtype: Any) -> Points:
        """Make points in `dtype`, float32 or float64, from rows (b, d) that are shifted and scaled already.

        The rows are float64, or in `dtype` where the metric `keeps_rows`. Points may share their memory.
        """

    def divisor(self, stored: Array, scale: float) -> Array:
        """Return what each row (b, d), as stored, is divided by to be a point in digits: (b,) float64.

        With scale 1 it is what rows are divided by before they are scaled and rounded to integers.
        """
        return np.full(len(stored), 1 / scale)

    @abstractmethod
    def product(self, rows: torch.Tensor, columns: torch.Tensor, workspace: Workspace) -> torch.Tensor:
        """Multiply the points of two blocks, (m, n), on their device. On a CPU the result may lie in `workspace`."""

    @abstractmethod
    def terms(self, rows: Norms, columns: Norms, width: int, precision: Precision) -> tuple[LinearBound, LinearBound]:
        """Return the lower and the upper bound of the values of all pairs; `width` is d."""

    @abstractmethod
    def direct(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """Return the values (p,) of pairs, in plain float64, of rows as `as_numba` gives them."""

    def rough(self, x: Array, y: Array, i: Array, j: Array) -> Array:  # noqa: ARG002
        """Return what `direct` does from sums in float32, which take half the time; NaN where these tell nothing.

        It is good for differences, and rows of inner products, of `USUAL_LENGTHS`.
        """
        return np.full(i.size, np.nan)

    @abstractmethod
    def direct_slack(self, values: Array, width: int, unit: float = UNIT) -> Array:
        """Return a bound (p,) of the error of what `direct` gave; `width` is d.

        `values` (p,) are the sizes of those values, or of products |x| |y|. With `unit` 2^-24 it is of what `rough`
        gave, if the metric has it.
        """

    @abstractmethod
    def rounded(self, x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:
        """Return the distances (p,) float64 of pairs, and whether each is certainly correctly rounded, (p,) bool."""

    @abstractmethod
    def keys(self, x: Array, y: Array, i: Array, j: Array) -> Keys:
        """Return the values of pairs in double-double (high and low, (p,) float64), and whether each is exact."""

    @abstractmethod
    def key_slack(self, values: Array, width: int) -> Array:
        """Return a bound (p,) of the error of `keys` that are not exact; `values` and `width` as for `direct_slack`."""

    @abstractmethod
    def order(self, x: Array, y: Array) -> Fraction:
        """Return a rational number, without any error, that grows with the distance of two rows (d,) float64."""

    @abstractmethod
    def order_of(self, distance: Fraction) -> Fraction:
        """Return the `order` of pairs at exactly `distance`; it increases for negative distances too."""

    @abstractmethod
    def near(self, order: Fraction) -> float:
        """Return the distance of pairs with this `order`, with the error of a few roundings."""

    def distance(self, values: Array) -> Array:
        """Return the distances of values."""
        return np.sqrt(values) if self.root else values

    def row_bounds(self, lengths: Array, other: float) -> Array:
        """Return a bound of the distances of each row (b,), where `lengths` (b,) are the distances from the centre.

        `other` is the largest of those that it is compared with. Of products, a bound of their size.
        """
        bounds: Array = lengths + other
        return bounds

    def bound(self, largest: float) -> float:
        """Return a bound of every distance; `largest` is the sum of the two largest distances from the centre."""
        return largest
