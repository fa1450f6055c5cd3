"""Check a pass against sums over all pairs that are known from the rows alone.

Of rows x with the sum S, sum_{i<j} |x_i - x_j|^2 = n sum |x|^2 - |S|^2, whatever is subtracted from all rows; of unit
vectors sum_{i<j} (1 - x_i.x_j) = (n^2 - |S|^2) / 2.
"""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices, tuning
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.execution import product_checks
from embgeom_dask.execution.map_rows import map_rows, parts_of
from embgeom_dask.execution.panel_result import PassResult
from embgeom_dask.execution.plan import Plan
from embgeom_dask.kernels.double_double import UNIT
from embgeom_dask.kernels.row_sums import weighed_sum
from embgeom_dask.pairwise.blocks import BlockSource
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.left_out import AllValues, LeftOut, joined, left_out, off_values
from embgeom_dask.reductions import Histogram
from embgeom_dask.reductions.moments import root_up
from embgeom_dask.storage.model_stores import Matrix

Array = NDArray[Any]


class RowSums(NamedTuple):
    """Of the rows of tokens, made like points in digits: how many they are, their sum (d,), that of their squares.

    `left_out`, where it is asked for, is what products of digits leave out of them.
    """

    tokens: int
    total: Array
    square: float
    left_out: LeftOut | None


def check(client: Client, plan: Plan, found: PassResult, exact: Exact) -> AllValues | None:
    """Refuse what a pass over all pairs found, where its distances do not add up to what the rows say.

    Where short strips of rows do not say well enough what mean and deviation are off, long ones are taken.

    Returns
    -------
    AllValues or None
        What is known of the values; None where the pass summed none.

    Raises
    ------
    EmbgeomError
        where they differ by more than the sums may be off.
    """
    histogram = plan.reductions.get("histogram")
    if not isinstance(histogram, Histogram) or not plan.metric.has_digits:
        return None
    if histogram.exact_moments:
        _check(client, plan, found, exact, 0)
        return None
    known, long = _check(client, plan, found, exact, tuning.SUM_STRIP), _long_strip(plan.sides[0].matrix)
    rows = max(side.rows.token_id.size for side in plan.sides)
    certain = partial(histogram.is_certified, found.state(histogram), plan.rows, exact)
    if min(long, rows) > tuning.SUM_STRIP and not certain(known):
        known = _check(client, plan, found, exact, long)
    return known


def _check(client: Client, plan: Plan, found: PassResult, exact: Exact, strip: int) -> AllValues | None:
    histogram = plan.reductions["histogram"]
    assert isinstance(histogram, Histogram)
    sides = [_of_side(client, side, strip) for side in plan.sides[: 1 if plan.symmetric else 2]]
    expected, bound = _expected(sides, plan.metric.root)
    lost = [side.left_out for side in sides if side.left_out is not None]
    off = off_values(lost[0], lost[1] if len(lost) > 1 else None, plan.sides[0].point_format) if lost else None
    total, square, error, squares = histogram.sums(found.state(histogram), exact, off)
    if plan.metric.root:
        length = Fraction(plan.sides[0].point_format.scale)
        apart = sum((Fraction(root_up(each)) for each in squares), Fraction(0)) * length
        total, error = square * length**2, 2 * Fraction(root_up(square)) * length * apart + apart**2
    if abs(total - Fraction(expected)) > error + Fraction(bound):
        what = "squares of the distances" if plan.metric.root else "distances"
        raise EmbgeomError(
            f"{plan.sides[0].matrix.label}: the {what} that were found add up to {float(total):.12g} and those of the "
            f"rows to {expected:.12g} (in units of this scan): some product was wrong, so nothing is kept; remove the "
            f"journal, if there is one, and scan again, elsewhere or with another `device`"
        )
    return None if off is None else AllValues(Fraction(expected), Fraction(bound), off)


def _long_strip(matrix: Matrix) -> int:
    """The rows of a long strip: `tuning.LONG_STRIP` times as many as columns, if a task may read them."""
    return min(tuning.LONG_STRIP * matrix.hidden_size, tuning.LONG_STRIP_VALUES // matrix.hidden_size)


def sums_of(matrix: Matrix, token_id: Array, side: BlockSource, strip: int) -> RowSums:
    """The sums of the rows of `token_id` (n,), and of those identical to each; runs on a worker.

    With what products of digits leave out, of strips of so many rows; without it where that is 0.
    """
    with devices.session(torch.device("cpu")):
        rows, point_format = matrix.take(token_id), side.point_format
        divisor, squares = point_format.divisors(rows)
        weights = side.rows.weights[np.searchsorted(side.rows.token_id, token_id)]
        total, square = weighed_sum(rows, point_format.centre, divisor, weights), float((weights * squares).sum())
        lost = None
        if strip and point_format.sums:
            made = product_checks.fastest(point_format.metric, "cpu")
            whole = "int8" in made and made.index("int8") < made.index("float32")
            lost = left_out(rows, weights, point_format, strip, whole=whole)
        return RowSums(int(weights.sum()), total, square, lost)


def _of_side(client: Client, side: BlockSource, strip: int) -> RowSums:
    ids = side.rows.token_id
    parts = parts_of(side.matrix, ids)
    if strip > max(part.size for part in parts):
        parts = np.array_split(ids, -(-ids.size // strip))
    found = map_rows(client, "sums", side.matrix, parts, sums_of, side, strip)
    lost = [part.left_out for part in found if part.left_out is not None]
    total, square = np.sum([part.total for part in found], axis=0), sum(part.square for part in found)
    return RowSums(sum(part.tokens for part in found), total, square, joined(lost) if lost else None)


def _expected(sides: list[RowSums], root: bool) -> tuple[float, float]:
    """The sum over all pairs, and how far float64 may be off: n u of the sums of what was added, for n additions."""
    first, second = sides[0], sides[-1]
    dot = float((first.total * second.total).sum())  # the same bits anywhere
    if len(sides) == 1:
        found = first.tokens * first.square - dot if root else (first.tokens**2 - dot) / 2
    elif root:
        found = first.tokens * second.square + second.tokens * first.square - 2 * dot
    else:
        found = first.tokens * second.tokens - dot
    additions = first.tokens + second.tokens + 2 * first.total.size + 64
    size = first.tokens * second.square + second.tokens * first.square + first.tokens * second.tokens * (not root)
    return found, 8 * additions * UNIT * size
