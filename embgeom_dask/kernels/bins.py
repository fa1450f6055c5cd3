"""The bins of a histogram pass, in units of the points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Bins:
    """The bins that a pass counts pairs in, and the fixed point that it sums distances in.

    The first bin is below all edges, the last above all. A distance is summed as the integer t = rint(distance *
    quantum), and its square in the three parts a^2, a b and b^2 of t = a 2^half + b: sums of integers are the same in
    any order.

    Attributes
    ----------
    lower, upper : numpy.ndarray of float64, (bins,)
        A value v with lower[b] <= v < upper[b] is certainly in bin b.
    root : bool
        Whether a distance is the square root of a value.
    first, per_unit : float
        A distance is in cell (distance - first) * per_unit.
    table : numpy.ndarray, (cells, 2)
        The first and the last bin that overlap each cell; empty if cell c is bin c + 1.
    digits : float
        A value smaller than `digits` times the width of its bounds has lost too many digits to be summed.
    least : float
        A distance smaller than this has lost too many digits to be summed.
    quantum : float
        The number of steps of the fixed point in one unit.
    half : int
        The number of bits of b.
    """

    lower: NDArray[Any]
    upper: NDArray[Any]
    root: bool
    first: float
    per_unit: float
    table: NDArray[Any]
    digits: float
    least: float
    quantum: float
    half: int
