"""The bins that a pass counts pairs in, and the counts that it returns."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

Array = NDArray[Any]


class Bins(NamedTuple):
    """The bins that a pass counts pairs in, and the fixed point that it sums distances in.

    The first bin is below all edges, the last above all. A distance is summed as the integer t = rint(distance *
    quantum), its square in the three parts a^2, a b and b^2 of t = a 2^half + b, and what it may be off as the integer
    e = floor(bound * error_quantum) + 1, with its square: sums of integers are the same in any order.

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
        A distance smaller than this is not summed.
    settled : bool
        Whether only those distances are summed of whose t the bounds leave no doubt; these are off by nothing more.
    quantum : float
        The number of steps of the fixed point in one unit.
    half : int
        The number of bits of b.
    error_quantum : float
        The number of steps of the fixed point of errors in one unit.
    margin : float
        Where cell c is bin c + 1: in cells, how far at most the ends of bins are from where cells meet, and the error
        of the cell that a distance is in.
    """

    lower: Array
    upper: Array
    root: bool
    first: float
    per_unit: float
    table: Array
    digits: float
    least: float
    settled: bool
    quantum: float
    half: int
    error_quantum: float
    margin: float = 1.0


class BinCounts(NamedTuple):
    """The pairs of a tile in bins, except for those left undecided: these are not counted, and some are not summed.

    Attributes
    ----------
    counts : numpy.ndarray of int64, (bins,)
        Pairs of tokens in each bin.
    sums : numpy.ndarray of int64, (m, 6)
        The sums of each row, weighed by the columns: of t, a^2, a b and b^2, e and e^2 (see `Bins`).
    i, j : numpy.ndarray of int64, (p,)
        The pairs left undecided.
    summed : numpy.ndarray of bool, (p,)
        Which of these are in the sums.
    """

    counts: Array
    sums: Array
    i: Array
    j: Array
    summed: Array


class WithinCounts(NamedTuple):
    """The pairs of a tile within each of r radii, except for those left undecided, which are in neither count.

    Attributes
    ----------
    row_count, column_count : numpy.ndarray of int64, (m, r) and (n, r)
        Tokens of the other side within each radius.
    i, j : numpy.ndarray of int64, (p,)
        The pairs left undecided, ordered by i, then j.
    """

    row_count: Array
    column_count: Array
    i: Array
    j: Array
