"""First limits of the largest and smallest products of every row: those with a few long rows of the other side.

Long rows have the largest products, so a few of them rule most others out from the start. What they find is a hint
alone: all pairs are compared afterwards, these too.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.execution.plan import ITEMSIZE, Plan
from embgeom_dask.execution.spec import ScanSpec
from embgeom_dask.pairwise.rows import DistinctRows, RowSummary
from embgeom_dask.reductions import Reductions, RowProducts
from embgeom_dask.storage.model_stores import Matrix

Array = NDArray[Any]


@dataclass(frozen=True)
class LongRows:
    """Distinct rows of one side that are among its longest: `token_id` (n,) int64 ascending, `rows` (n, d) as stored.

    `length` (n,) float64 are bounds of their L2 norms.
    """

    token_id: Array
    rows: Array
    length: Array

    @classmethod
    def of(cls, found: RowSummary, distinct: DistinctRows, length: Array) -> LongRows:
        """The rows found farthest from the origin, one of each group of identical ones; `length` is of all distinct."""
        kept = np.isin(found.far_id, distinct.token_id)
        token_id = found.far_id[kept]
        return cls(token_id, found.far[kept], length[np.searchsorted(distinct.token_id, token_id)])


def share(spec: ScanSpec, matrix: Matrix, token_id: Array) -> float:
    """Of the rows of the second side, the share that first limits are taken from: 0 where none are."""
    if not spec.kept or not spec.kept <= {"top", "bottom"}:
        return 0.0
    held = tuning.LONG_ROWS_BYTES // (matrix.hidden_size * ITEMSIZE[matrix.dtype])
    return min(held / token_id.size, tuning.LONG_ROWS_SHARE)


def plan_before(plan: Plan, long_rows: LongRows) -> Plan | None:
    """The plan of the products with `long_rows`; None where integers do not filter, or rows have more largest products.

    Products other than integers leave few pairs undecided anyway.
    """
    count = long_rows.token_id.size
    kept: Reductions = {
        name: each for name, each in plan.reductions.items() if isinstance(each, RowProducts) and each.k <= count
    }
    if plan.sides[0].point_format.element != "int8" or not kept:
        return None
    matrix = copy(plan.sides[1].matrix)
    vars(matrix)["take"] = partial(_take, long_rows)
    rows = DistinctRows(long_rows.token_id, long_rows.token_id, np.arange(count + 1), np.empty(0, np.int64))
    # without limits integers would leave all pairs undecided
    first, second = (replace(side, instead=side.point_format.unrounded, key=uuid4().hex) for side in plan.sides)
    second = replace(second, matrix=matrix, rows=rows, norm=long_rows.length)
    return replace(plan, sides=(first, second), reductions=kept)


def _take(long_rows: LongRows, ids: Array) -> Array:
    """What `take` of their matrix gives."""
    found: Array = long_rows.rows[np.searchsorted(long_rows.token_id, ids)]
    return found
