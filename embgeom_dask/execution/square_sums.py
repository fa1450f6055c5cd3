"""Check a pass against sums over all pairs that are known from the rows alone.

Of rows x with the sum S, sum_{i<j} |x_i - x_j|^2 = n sum |x|^2 - |S|^2, whatever is subtracted from all rows; of unit
vectors sum_{i<j} (1 - x_i.x_j) = (n^2 - |S|^2) / 2.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.execution.map_rows import map_rows, parts_of
from embgeom_dask.execution.panel_result import PassResult
from embgeom_dask.execution.plan import Plan
from embgeom_dask.kernels.double_double import UNIT
from embgeom_dask.kernels.row_sums import weighed_sums
from embgeom_dask.metrics import METRICS
from embgeom_dask.pairwise.blocks import BlockSource
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.left_out import LeftOut, OffValues, joined, left_out, off_values
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


def check(client: Client, plan: Plan, found: PassResult, exact: Exact) -> OffValues | None:
    """Refuse what a pass over all pairs found, where its distances do not add up to what the rows say.

    Returns
    -------
    OffValues or None
        What the values are off that the pass summed; None where it summed none.

    Raises
    ------
    EmbgeomError
        where they differ by more than the sums may be off.
    """
    histogram = plan.reductions.get("histogram")
    if not isinstance(histogram, Histogram) or not plan.metric.has_digits:
        return None
    by_pass = not histogram.exact_moments
    sides = [_of_side(client, side, by_pass) for side in plan.sides[: 1 if plan.symmetric else 2]]
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
    return off


def sums_of(matrix: Matrix, token_id: Array, side: BlockSource, by_pass: bool) -> RowSums:
    """The sums of the rows of `token_id` (n,), and of those identical to each; runs on a worker.

    With what products of digits leave out where a pass sums distances made of these (`by_pass`).
    """
    with devices.session(torch.device("cpu")):
        rows, point_format = matrix.take(token_id), side.point_format
        divisor = METRICS[point_format.metric].divisor(rows, point_format.scale)
        weights = side.rows.weights[np.searchsorted(side.rows.token_id, token_id)]
        total, square = weighed_sums(rows, point_format.centre, divisor, weights)
        lost = left_out(rows, weights, point_format) if by_pass and point_format.sums else None
        return RowSums(int(weights.sum()), total, square, lost)


def _of_side(client: Client, side: BlockSource, by_pass: bool) -> RowSums:
    parts = map_rows(client, "sums", side.matrix, parts_of(side.matrix, side.rows.token_id), sums_of, side, by_pass)
    lost = [part.left_out for part in parts if part.left_out is not None]
    total, square = np.sum([part.total for part in parts], axis=0), sum(part.square for part in parts)
    return RowSums(sum(part.tokens for part in parts), total, square, joined(lost) if lost else None)


def _expected(sides: list[RowSums], root: bool) -> tuple[float, float]:
    """The sum over all pairs, and how far float64 may be off: n u of the sums of what was added, for n additions."""
    first, second = sides[0], sides[-1]
    dot = float(first.total @ second.total)
    if len(sides) == 1:
        found = first.tokens * first.square - dot if root else (first.tokens**2 - dot) / 2
    elif root:
        found = first.tokens * second.square + second.tokens * first.square - 2 * dot
    else:
        found = first.tokens * second.tokens - dot
    additions = first.tokens + second.tokens + 2 * first.total.size + 64
    size = first.tokens * second.square + second.tokens * first.square + first.tokens * second.tokens * (not root)
    return found, 8 * additions * UNIT * size
