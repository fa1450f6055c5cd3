"""What a metric is to the engine: a cheap bound of every pair, and the exact answer for the few that matter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.bounds import LinearBound
from embgeom_dask.kernels.double_double import Keys
from embgeom_dask.metrics.workspace import Workspace

Array = NDArray[Any]


@dataclass(frozen=True)
class Norms:
    """`norm` (b,) float64 of rows as the metric needs it.

    Where points are other than their rows, `error` (b,) float64 is how far each is from its row in the L2 norm, with
    what sums of products add: a product errs by at most the one point times the error of the other, and the reverse.
    """

    norm: Array
    error: Array | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.norm.nbytes + (0 if self.error is None else self.error.nbytes)

    def take(self, rows: slice | Array) -> Norms:
        """Those of some of the rows."""
        return Norms(self.norm[rows], None if self.error is None else self.error[rows])


@dataclass(frozen=True)
class Points:
    """Rows made ready for tiles: `values` (b, d) float32 or float64, and their norms."""

    values: Array
    norms: Norms


@dataclass(frozen=True)
class Precision:
    """How a product was made: of `int32`, `bfloat16`, `float32` or `float64`, summed in `dtype`, on a `cpu` or not.

    A product of bfloat16 points is exact in float32; its sums are rounded to bfloat16 at the end. One of int8 points is
    exact in int32; it is rounded to float32 where it is used.
    """

    element: str
    cpu: bool

    @property
    def dtype(self) -> Any:
        """The numpy dtype of sums and bounds."""
        return np.float64 if self.element == "float64" else np.float32

    @property
    def unit(self) -> float:
        """The unit roundoff of the sums."""
        return float(np.finfo(self.dtype).eps) / 2

    @property
    def tiny(self) -> float:
        """More than elements that underflow can add to a pair, where no point's norm is above 2^10."""
        return 2.0**-900 if self.element == "float64" else 2.0**-100

    @property
    def rounding(self) -> float:
        """What the last rounding may change, relative to the rounded element."""
        return 2.0**-8 * (1 + 2.0**-6) if self.element == "bfloat16" else 0.0


class Metric(ABC):
    """A distance between rows. Pairs are ordered by a *value* that grows with the distance.

    Rows come as stored, in float64; *points* are rows shifted by `centre` and multiplied by `scale`, a power of two
    that brings them into the unit ball, and the values of points are those of the rows times `unit(scale)`.
    """

    name: str
    root: bool = False
    """Whether the distance is the square root of the value."""
    shifts: bool = False
    """Whether a centre may be subtracted from all rows."""
    as_stored: bool = False
    """Whether rows can be points as they are stored."""
    quantizes: bool = False
    """Whether points can be the rows rounded to 8-bit integers."""
    undefined_for_zero_rows: bool = False
    """Whether a row of zeros has no distance to any other: these are left out."""
    prunes_by_norm: bool = True
    """Whether rows near the centre can be ruled out as members of farthest pairs: |x - y| <= |x| + |y|."""
    prunes_by_extent: bool = False
    """Whether the extremes of the columns tell which rows can be members of farthest pairs."""

    @abstractmethod
    def unit(self, scale: float) -> float:
        """What a value is multiplied by when the rows are multiplied by `scale`."""

    @abstractmethod
    def radius(self, one: Array, two: Array, largest: Array) -> Array:
        """The distance (b,) of rows from the centre, from their L1, squared L2 and L-infinity norm about it."""

    @abstractmethod
    def points(self, values: Array, dtype: Any) -> Points:
        """Make points of shifted and scaled float64 rows (b, d), in `dtype`: float32 or float64.

        Points of float64 may share the memory of the rows.
        """

    @abstractmethod
    def product(self, rows: torch.Tensor, columns: torch.Tensor, workspace: Workspace) -> torch.Tensor:
        """The product (m, n) of the points of two blocks, on their device; on a CPU it may lie in `workspace`."""

    @abstractmethod
    def terms(self, rows: Norms, columns: Norms, width: int, precision: Precision) -> tuple[LinearBound, LinearBound]:
        """Lower and upper bound of the values of all pairs, from the norms of two blocks of points."""

    @abstractmethod
    def direct(self, x: Array, y: Array, i: Array, j: Array) -> Array:
        """The values (p,) in plain float64 of pairs of rows, stored in any float dtype (as `as_numba` gives them)."""

    @abstractmethod
    def direct_slack(self, values: Array, width: int) -> Array:
        """A bound (p,) of the error of `direct`."""

    @abstractmethod
    def rounded(self, x: Array, y: Array, i: Array, j: Array) -> tuple[Array, Array]:
        """The distances (p,) float64 of pairs of rows, and whether each is sure to be correctly rounded: (p,) bool."""

    @abstractmethod
    def keys(self, x: Array, y: Array, i: Array, j: Array) -> Keys:
        """The values of pairs of rows in double-double, and whether they are exact."""

    @abstractmethod
    def key_slack(self, values: Array, width: int) -> Array:
        """A bound (p,) of the error of keys that are not exact."""

    @abstractmethod
    def order(self, x: Array, y: Array) -> Fraction:
        """A number that grows with the distance of two rows (d,), float64, without any error."""

    @abstractmethod
    def order_of(self, distance: Fraction) -> Fraction:
        """The same number for pairs at exactly `distance`; below 0 it ascends too."""

    @abstractmethod
    def near(self, order: Fraction) -> float:
        """The distance of pairs whose `order` this is, but for a few roundings."""

    def distance(self, values: Array) -> Array:
        """Distances of values."""
        return np.sqrt(values) if self.root else values

    def bound(self, largest: float) -> float:
        """A bound of every distance, where `largest` is the sum of the two largest radii."""
        return largest
