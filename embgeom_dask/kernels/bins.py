"""What a histogram pass needs to know, in units of the points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Bins:
    """Bins, the first below and the last above all edges, and fixed-point sums.

    `lower` and `upper` (bins,) float64: a value inside [lower[b], upper[b]) is in bin b for certain. A distance is the
    square root of the value with `root`, and lies in cell (distance - first) * per_unit. Where `table` is empty, cells
    are the bins from 1 on; else table[cell] are the first and the last bin that have a part in the cell. A value below
    `digits` times the width of its bounds has lost too many digits to be summed, and so has a distance below `least`. A
    distance is summed as the integer
    t = rint(distance * quantum) and its square as a^2, a b and b^2 where t = a 2^half + b: integers add up to the same
    total in any order.
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
