"""Plan a scan in three steps, before its first tile: inspect the rows, choose their points, fit tiles into memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from uuid import uuid4

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.errors import InputError
from embgeom_dask.execution import first_limits, known_workers, memory, product_checks, workers
from embgeom_dask.execution.chebyshev_extremes import narrow
from embgeom_dask.execution.first_limits import LongRows
from embgeom_dask.execution.map_rows import map_rows, parts_of
from embgeom_dask.execution.memory import Memory
from embgeom_dask.execution.plan import ITEMSIZE, Plan
from embgeom_dask.execution.point_format import choose_point_format, point_formats_instead, unless_undecided
from embgeom_dask.execution.spec import ScanSpec
from embgeom_dask.execution.task_titles import TaskTitle
from embgeom_dask.metrics import METRICS
from embgeom_dask.pairwise.blocks import BlockSource
from embgeom_dask.pairwise.points import PointFormat
from embgeom_dask.pairwise.rows import (
    DistinctRows,
    RowSummary,
    centre_of,
    check_fit,
    distance_bound,
    distinct_rows,
    duplicates_of,
    inspect,
    join,
)
from embgeom_dask.reductions import (
    Components,
    Extreme,
    Histogram,
    Neighbors,
    PairsWithin,
    Reductions,
    RowEnd,
    RowMoments,
    RowProducts,
    Thresholds,
    Within,
)
from embgeom_dask.reductions.histogram import bin_edges
from embgeom_dask.reductions.order_statistics import state_bytes
from embgeom_dask.storage.model_stores import Matrix
from embgeom_dask.units import bytes_text, noun

Selected = tuple[Matrix, NDArray[np.int64]]
"""A matrix and the token ids, int64 (n,) ascending, of the rows to compare."""


@dataclass(frozen=True)
class Resources:
    """What a scan may use. No result depends on it; None means the best choice here.

    `device` is the device of each worker, `tile` the rows of a tile, `memory_limit` the bytes that the process of a
    worker may hold, and `memory_share` the share of these that this scan may take while others run. `element` is the
    type of products that an earlier command began the journal with.
    """

    device: str = "auto"
    tile: int | None = None
    memory_limit: int | None = None
    memory_share: float = 1.0
    element: str | None = None


@dataclass(frozen=True)
class InspectedRows:
    """What is known of the rows of each side after all of them were read.

    `distance_from_centre` (n,) float64 has the distance of each row, and `samples` (s, d) some rows as stored.
    `distance_from_centre_of_rows` (rows,) float64 has upper bounds for the distinct rows; with `dot` these are L2
    norms. Where L2 may rule pairs out, centre and distances are those of euclidean. `duplicate_of` (n,) int64 is given
    where pairs of identical rows are left out: for each distinct row of the first side, the identical one of the second
    (-1: none). `long_rows` are given where they may give products their first limits.
    """

    matrices: list[Matrix]
    rows: list[DistinctRows]
    centre: NDArray[np.float64]
    distance_from_centre: list[NDArray[np.float64]]
    samples: list[NDArray[np.generic]]
    distance_from_centre_of_rows: list[NDArray[np.float64]]
    duplicate_of: NDArray[np.int64] | None
    long_rows: LongRows | None

    @property
    def dtypes(self) -> set[str]:
        """The dtypes of the matrices."""
        return {matrix.dtype for matrix in self.matrices}


def make_plan(
    client: Client,
    sides: list[Selected],
    spec: ScanSpec,
    resources: Resources,
    ids: list[NDArray[np.int64]] | None = None,
) -> Plan:
    """Plan the scan `spec` of the rows of one side, or of two against each other, on the workers of `client`.

    `ids` has for each side the token ids (rows,) that error messages name rows by; None for their numbers.

    Raises
    ------
    InputError
        where a row has no distance to any other (NaN, infinity, out of range), none is left to compare, the scan would
        take more memory than is allowed, or its tiles are so small that there are more panels than can be dealt.
    """
    inspected = inspect_rows(client, sides, spec, ids)
    point_format = choose_points(client, inspected, spec, resources)
    reductions = make_reductions(inspected, spec)
    tile, needed = fit_memory(client, inspected, reductions, point_format, spec, resources)
    kept = reductions.values()
    alike = all(each.only_far for each in kept) or (all(each.only_near for each in kept) and not point_format.by_l2)
    sorted_by_norm = alike and METRICS[spec.metric].prunes_by_norm
    sources = [
        BlockSource(
            matrix,
            rows,
            points,
            tile,
            sorted_by_norm,
            needed.cache,
            needed.cache_on_device,
            uuid4().hex,
            norm=lengths if METRICS[spec.metric].is_product else None,
        )
        for matrix, rows, lengths, points in zip(
            inspected.matrices,
            inspected.rows,
            inspected.distance_from_centre_of_rows,
            (point_format, point_format.of_second)[: len(sides)],
            strict=True,
        )
    ]
    instead = point_formats_instead(point_format, inspected.dtypes, inspected.distance_from_centre)
    plan = Plan((sources[0], sources[-1]), reductions, resources.device, needed, instead)
    if (panels := plan.grid.panel_count) > tuning.MOST_PANELS:
        raise InputError(
            f"tiles of {tile:,} {noun(tile, 'row')} make {panels:,} panels and this process deals out at most "
            f"{tuning.MOST_PANELS:,}: give a larger `tile`"
        )
    long_rows = inspected.long_rows
    return plan if long_rows is None else replace(plan, before=first_limits.plan_before(plan, long_rows))


def inspect_rows(
    client: Client, sides: list[Selected], spec: ScanSpec, ids: list[NDArray[np.int64]] | None = None
) -> InspectedRows:
    """Read every row once, on the cluster: which are identical, which cannot be compared, how far from the centre."""
    ids = ids or [rows for _, rows in sides]
    metric = METRICS[spec.metric].by_l2 if spec.is_by_l2 else None
    metric = metric or METRICS[spec.metric]
    matrix, token_id = sides[0]
    if spec.kept == {"farthest"} and metric.prunes_by_extent and len(sides) == 1:
        token_id = narrow(client, matrix, parts_of(matrix, token_id), spec.farthest or 1, ids[0])
        sides, ids = [(matrix, token_id)], [token_id]
    some = matrix.take(token_id[: tuning.SAMPLE_ROWS])
    centre = centre_of(some) if metric.shifts else np.zeros(matrix.hidden_size)
    dtypes = {matrix.dtype for matrix, _ in sides}
    alike = "float64" if len(dtypes) > 1 and spec.distinct else None  # only then are rows of either side compared
    shares = [0.0, first_limits.share(spec, *sides[1])] if len(sides) == 2 else [0.0]
    summaries = [
        join(
            map_rows(client, "rows", each, parts_of(each, ids), inspect, centre, metric.name, alike or each.dtype, far)
        )
        for (each, ids), far in zip(sides, shares, strict=True)
    ]
    for (matrix, _), found, names in zip(sides, summaries, ids, strict=True):
        check_fit(matrix, names, found.unfit)
    zeros, products = not metric.undefined_for_zero_rows, metric.is_product
    apart = products and len(sides) == 1
    rows = [distinct_rows(*side, found, zeros=zeros, apart=apart) for side, found in zip(sides, summaries, strict=True)]
    for (matrix, _), distinct in zip(sides, rows, strict=True):
        if not distinct.members.size:
            raise InputError(
                f"{matrix.model}: no row of {matrix.name} selected has a {metric.name} distance: all are 0"
            )
    lengths = _of_rows(sides, summaries, rows)
    return InspectedRows(
        matrices=[matrix for matrix, _ in sides],
        rows=rows,
        centre=centre,
        distance_from_centre=[found.distance_from_centre for found in summaries],
        samples=[
            some,
            *(
                other.take(ids[: tuning.SAMPLE_ROWS])
                for other, ids in sides[1:]
                if spec.neighbors or spec.radii or products
            ),
        ],
        distance_from_centre_of_rows=lengths,
        duplicate_of=_identical_rows(sides, summaries, rows) if spec.distinct else None,
        long_rows=LongRows.of(summaries[-1], rows[-1], lengths[-1]) if shares[-1] else None,
    )


def choose_points(client: Client, inspected: InspectedRows, spec: ScanSpec, resources: Resources) -> PointFormat:
    """Choose what is multiplied: the type of products that is fastest here and leaves few pairs to recheck."""
    metric = "euclidean" if spec.is_by_l2 else spec.metric
    (fastest,) = workers.gather(client, product_checks.fastest, [(metric, resources.device)], TaskTitle("products"))
    dtypes, away, samples = inspected.dtypes, inspected.distance_from_centre, inspected.samples
    long = None if inspected.long_rows is None else inspected.long_rows.rows
    chosen = choose_point_format(spec, dtypes, inspected.centre, away, samples, fastest, resources.element, long)
    if not chosen.by_l2:
        return chosen
    kinds = {has.kind for has in memory.of_workers(client, resources.device).values()}
    return unless_undecided(chosen, spec, dtypes, away, samples, kinds)


def make_reductions(inspected: InspectedRows, spec: ScanSpec) -> Reductions:
    """What is kept of the distances, with what that requires."""
    metric, rows, duplicate_of = METRICS[spec.metric], inspected.rows, inspected.duplicate_of
    largest = np.sort(np.concatenate(inspected.distance_from_centre))[-2:].tolist()
    reductions: Reductions = {}
    required = Histogram.requires if spec.summed else ()
    symmetric, weights = len(rows) == 1, (rows[0].weights, rows[-1].weights)
    others = rows[-1].members.size  # no more is kept, or memory projected, than there can be
    pairs = rows[0].members.size * others
    if spec.farthest or "farthest" in required:
        reductions["farthest"] = Extreme(min(spec.farthest or 1, pairs), farthest=True)
    if spec.nearest or "nearest" in required:
        reductions["nearest"] = Extreme(min(spec.nearest or 1, pairs), False, duplicate_of if spec.nearest else None)
    if spec.neighbors:
        reductions["neighbors"] = Neighbors(min(spec.neighbors, others), rows[0].token_id.size, symmetric, duplicate_of)
    for name, farthest in (("largest", False), ("smallest", True)):
        if count := getattr(spec, name):
            reductions[name] = Extreme(min(count, pairs), farthest, of_products=True)
    for name, smallest in (("top", False), ("bottom", True)):
        if count := getattr(spec, name):
            size, end = rows[0].token_id.size, spec.moments_per_row
            reductions[name] = RowProducts(min(count, others), size, symmetric, smallest=smallest, is_end=end)
    if spec.moments_per_row:
        lengths, size = inspected.distance_from_centre_of_rows, rows[0].token_id.size
        bounds = metric.row_bounds(lengths[0], float(lengths[-1].max())) * (1 + 1e-9)
        exponent = np.where(bounds > 0, np.frexp(bounds)[1], 0).astype(np.int64)
        reductions["row_moments"] = RowMoments(exponent, weights, symmetric)
        untold = [largest for largest, told in ((False, spec.bottom), (True, spec.top)) if not told]
        reductions |= {end.name: end for end in (RowEnd(1, size, symmetric, largest=each) for each in untold)}
    if spec.summed:
        top = distance_bound(metric, largest)
        edges = spec.histogram_edges or bin_edges(spec.bins, top, spec.histogram_scale)
        closed = np.arange(len(edges)) == len(edges) - 1
        reductions["histogram"] = Histogram(Thresholds.at(metric, edges, closed=closed), weights, spec.exact_moments)
    if spec.within:
        reductions["within"] = Within(Thresholds.at(metric, spec.within, closed=True), weights, symmetric, duplicate_of)
    if spec.pairs_within is not None:
        radius = Thresholds.at(metric, [spec.pairs_within], closed=True)
        reductions["pairs_within"] = PairsWithin(radius, spec.max_pairs, weights, symmetric, duplicate_of)
    if spec.components:
        reductions["components"] = Components(Thresholds.at(metric, spec.components, closed=True), weights[0].size)
    return reductions


def fit_memory(
    client: Client,
    inspected: InspectedRows,
    reductions: Reductions,
    point_format: PointFormat,
    spec: ScanSpec,
    resources: Resources,
) -> tuple[int, Memory]:
    """Choose the rows of a tile, the largest that every worker has the memory for: 2,048 or fewer, on cuda 8,192.

    Raises
    ------
    InputError
        where the smallest tiles take more than is allowed; it gives both numbers.
    """
    of_workers = memory.of_workers(client, resources.device).values()
    unrounded = point_format.unrounded
    states = sum(reduction.nbytes for reduction in reductions.values())
    states += spec.exact_quantiles * state_bytes()
    states += 0 if inspected.long_rows is None else inspected.long_rows.rows.nbytes
    usual = tuning.CUDA_TILES if all(has.kind == "cuda" for has in of_workers) else tuning.TILES
    for tile in (resources.tile,) if resources.tile else usual:
        projected = partial(
            memory.project,
            rows=sum(distinct.members.size for distinct in inspected.rows),
            width=inspected.matrices[0].hidden_size,
            stored=max(ITEMSIZE[matrix.dtype] for matrix in inspected.matrices),
            element=ITEMSIZE[point_format.element],
            unrounded=ITEMSIZE[unrounded.element] if unrounded else 0,
            tile=tile,
            threads=max(known_workers.all_workers(client).values(), default=1),
            as_stored=point_format.element == "bfloat16",
            states=states,
        )
        needed = memory.tightest(
            projected(
                held=has.held,
                most=has.allowed(resources.memory_limit, resources.memory_share),
                most_on_device=has.allowed_on_device(resources.memory_limit, resources.memory_share),
                workers=has.workers,
            )
            for has in of_workers
        )
        if needed.fits:
            return tile, needed
    where, needs, allowed = "", needed.projected, needed.allowed
    if needs <= allowed:
        where, needs, allowed = " of the device", needed.on_device, needed.allowed_on_device
    fewer = ["keep fewer of each row"] * bool(spec.kept & {"neighbors", "top", "bottom"})
    fewer += ["lower `max_pairs`"] * (spec.pairs_within is not None)
    raise InputError(
        f"this scan needs {bytes_text(needs)}{where} and {bytes_text(allowed)} are allowed: "
        f"{', '.join(['raise `memory_limit`', *fewer])} or compare fewer rows"
    )


def _of_rows(sides: list[Selected], found: list[RowSummary], rows: list[DistinctRows]) -> list[NDArray[np.float64]]:
    """Bounds of the distances from the centre of the distinct rows of each side."""
    return [
        summary.distance_from_centre[np.searchsorted(token_id, distinct.token_id)] * (1 + 1e-9)
        for (_, token_id), summary, distinct in zip(sides, found, rows, strict=True)
    ]


def _identical_rows(sides: list[Selected], found: list[RowSummary], rows: list[DistinctRows]) -> NDArray[np.int64]:
    """The position on the second side of the row identical to each of the first, -1 where there is none."""
    digests = [
        summary.digest[np.searchsorted(token_id, distinct.token_id)]
        for (_, token_id), summary, distinct in zip(sides, found, rows, strict=True)
    ]
    return duplicates_of(digests[0], digests[-1])
