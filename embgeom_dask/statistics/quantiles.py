"""Quantiles of all distances: the bin that each certainly lies in, and its exact value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.execution.panel_result import PassResult
from embgeom_dask.execution.plan import Plan
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.reductions import Histogram, OrderStatistics, Thresholds

Array = NDArray[Any]
RunPass = Callable[[Plan], PassResult]


def find(
    plan: Plan,
    exact: Exact,
    found: PassResult,
    quantiles: Sequence[float],
    pairs: int,
    largest: float,
    run_pass: RunPass | None,
) -> dict[str, tuple[tuple[str, ...], Array]]:
    """Name `quantile`, `quantile_lower` and `quantile_upper`, and `quantile_distance` where `run_pass` is given.

    `found` is what the pass of `plan` found, with a histogram, `pairs` the number of all pairs of tokens, and `largest`
    the largest distance. `run_pass` makes a pass over all tiles.
    """
    histogram = cast(Histogram, plan.reductions["histogram"])
    count = found.state(histogram).count
    identical = pairs - int(count.sum())
    ranks = np.array([rank(quantile, pairs) for quantile in quantiles])
    limits, distances = np.full((ranks.size, 2), np.nan), np.full(ranks.size, np.nan)
    if pairs:
        limits = bounds(histogram, histogram.with_zeros(count, identical), ranks, largest)
    if pairs and run_pass is not None:
        distances = exact_quantiles(plan, exact, count, np.maximum(ranks - identical, 0), largest, run_pass)
    columns = {"quantile": np.array(quantiles), "quantile_lower": limits[:, 0], "quantile_upper": limits[:, 1]}
    columns |= {"quantile_distance": distances} if run_pass is not None else {}
    return {name: (("quantile",), column) for name, column in columns.items()}


def rank(quantile: float, pairs: int) -> int:
    """The rank, from 1, of a quantile among `pairs` distances: the least of which a share `quantile` is not above it.

    The quantile is taken as the decimal number that it is printed as. numpy calls this `inverted_cdf`.
    """
    return max(1, ceil(Fraction(str(quantile)) * pairs))


def bounds(histogram: Histogram, count: Array, ranks: Array, largest: float) -> Array:
    """The edges (q, 2) of the bins that hold the distances of rank `ranks`, among those of `count` (bins + 2,).

    Below all edges 0 is one, and above them the number after the largest distance, which is itself rounded.
    """
    edges = np.concatenate([[0.0], histogram.edges.distance, [np.nextafter(largest, np.inf)]])
    place = np.searchsorted(np.cumsum(count), ranks)
    return np.stack([edges[place], edges[place + 1]], axis=1)


def exact_quantiles(plan: Plan, exact: Exact, count: Array, ranks: Array, largest: float, run_pass: RunPass) -> Array:
    """The distances (q,) of rank `ranks` among the pairs of different rows, of which `count` (bins + 2,) are in bins.

    Bins that hold too many pairs to collect are first divided, by passes over all tiles; `run_pass` makes one. Rank 0
    is a pair of identical tokens.
    """
    if not ranks.any():
        return np.zeros(ranks.size)
    histogram, sought = cast(Histogram, plan.reductions["histogram"]), ranks[ranks > 0]
    while count[bins := np.unique(np.searchsorted(np.cumsum(count), sought))].sum() > tuning.COLLECTED_PAIRS:
        edges = _divided(bounds(histogram, count, sought, largest))
        if np.isin(edges, histogram.edges.distance).all():
            break
        histogram = replace(histogram, edges=Thresholds.at(plan.metric, edges, closed=False))
        found = run_pass(replace(plan, reductions={"histogram": histogram}))
        count = found.state(histogram).count
    below = np.cumsum(count)
    gaps = below[bins] - np.cumsum(count[bins])
    local = np.where(ranks > 0, ranks - gaps[np.searchsorted(below[bins], np.maximum(ranks, 1))], 0)
    ends = np.unique(np.concatenate([bins - 1, bins]).clip(0, histogram.edges.distance.size - 1))
    classes = tuple(np.searchsorted(ends, bins).tolist())
    statistics = OrderStatistics(histogram.edges.take(ends), classes, local, histogram.weights)
    found = run_pass(replace(plan, reductions={"quantiles": statistics}))
    return statistics.finalize(found.state(statistics), plan.rows, exact)["quantile_distance"][1]


def _divided(intervals: Array) -> Array:
    """Edges that part each of the intervals (q, 2) into bins of equally many float64 numbers."""
    intervals = np.unique(intervals, axis=0)
    steps = max(2, tuning.FINE_BINS // len(intervals))
    lower, upper = intervals.view(np.int64).T[..., None]  # as integers these have the order of the numbers, from 0 on
    whole, rest = np.divmod(upper - lower, steps)
    k = np.arange(steps + 1)
    return np.unique((lower + whole * k + rest * k // steps).view(np.float64))
