"""In which tiles the pairs of two blocks are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from embgeom_dask import tuning
from embgeom_dask.metrics import Metric, Workspace
from embgeom_dask.pairwise.blocks import Block
from embgeom_dask.pairwise.tiles import Tile


def traverse(
    metric: Metric,
    rows: Block,
    columns: Block,
    workspace: Workspace,
    *,
    diagonal: bool,
    reach: Callable[[], float] | None = None,
    span: float | None = None,
) -> Iterator[Tile]:
    """Make the tiles of two blocks, whose products lie in `workspace`; `diagonal`: of a block with itself.

    Where the blocks are sorted by norm, `reach` says what value a pair needs, in units of the points, or `span` what it
    must not exceed.
    """
    if span is not None and (parts := parts_within(metric, rows, columns, span, diagonal=diagonal)) is not None:
        for part, other in parts:
            yield Tile(metric, rows.take(part), columns.take(other), diagonal, workspace)
    elif reach is not None:
        yield from parts_sorted_by_norm(metric, rows, columns, workspace, diagonal=diagonal, reach=reach)
    elif diagonal:
        yield from triangle(metric, rows, workspace)
    else:
        yield Tile(metric, rows, columns, diagonal=False, workspace=workspace)


def triangle(metric: Metric, block: Block, workspace: Workspace) -> Iterator[Tile]:
    """Make tiles of the pairs of a block with itself, leaving out most pairs below the diagonal."""
    step = -(-block.size // tuning.TRIANGLE_STEPS)
    for start in range(0, block.size, step):
        part, other = block.take(slice(start, start + step)), block.take(slice(start, None))
        yield Tile(metric, part, other, diagonal=True, workspace=workspace)


def parts_sorted_by_norm(
    metric: Metric, rows: Block, columns: Block, workspace: Workspace, *, diagonal: bool, reach: Callable[[], float]
) -> Iterator[Tile]:
    """Make only those parts of a tile that may hold a pair whose value is at least `reach()`.

    The rows of either block come in order of their distance from the centre, farthest first. By the triangle inequality
    no distance exceeds the sum of those of its two rows. `reach` is asked before each part.
    """
    start = 0
    while start < rows.size:
        value = reach()
        distance = float(metric.distance(np.array(max(value, 0.0)))) * (1 - 1e-9)
        away, other_away = rows.distance_from_centre, columns.distance_from_centre
        count = int(np.searchsorted(-other_away, away[start] - distance, side="right"))
        first = start if diagonal else 0
        if count <= first:
            return
        whole = value > 0 and away[-1] + other_away[-1] >= distance
        stop = rows.size if whole else start + tuning.SORTED_PART_ROWS
        part, other = rows.take(slice(start, stop)), columns.take(slice(first, count))
        yield Tile(metric, part, other, diagonal, workspace)
        start = stop


def parts_within(
    metric: Metric, rows: Block, columns: Block, span: float, *, diagonal: bool
) -> list[tuple[slice, slice]] | None:
    """Those parts of the rows, each with the columns that may be within `span` of them, in units of the points.

    The rows of either block come in order of their distance from the centre, farthest first. By the triangle inequality
    no distance is less than the difference of those of its two rows. None where that leaves out less than a third.
    """
    distance = float(metric.distance(np.array(max(span, 0.0)))) * (1 + 1e-9)
    away, other_away = rows.distance_from_centre, -columns.distance_from_centre  # bounds: they are up to 3e-9 too large
    found, pairs = [], 0
    for start in range(0, rows.size, tuning.SORTED_PART_ROWS):
        stop = min(start + tuning.SORTED_PART_ROWS, rows.size)
        first = int(np.searchsorted(other_away, -(away[start] + distance) * (1 + 1e-8), side="left"))
        last = int(np.searchsorted(other_away, distance - away[stop - 1] * (1 - 1e-8), side="right"))
        first = max(first, start) if diagonal else first
        if first < last:
            found.append((slice(start, stop), slice(first, last)))
            pairs += (stop - start) * (last - first)
    whole = rows.size * columns.size * (0.75 if diagonal else 1.0)
    return found if pairs <= whole * 2 / 3 else None
