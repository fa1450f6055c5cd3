"""Choose the point format of a scan: what is multiplied fast and still decides most pairs."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask import tuning
from embgeom_dask.execution.spec import ScanSpec
from embgeom_dask.kernels.quantize import peaks
from embgeom_dask.kernels.row_norms import norms
from embgeom_dask.kernels.torch_passes import bounds
from embgeom_dask.metrics import METRICS, Metric
from embgeom_dask.pairwise.blocks import Block
from embgeom_dask.pairwise.points import DIGITS, PointFormat
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions.thresholds import Thresholds

Array = NDArray[Any]

_WIDTHS = range(16, 2**31 // 127**2)
"""Sums of so many products of 8-bit integers fit 32 bits; of a single one torch 2.13 gives anything."""


def choose_point_format(
    settings: ScanSpec,
    dtypes: set[str],
    centre: Array,
    distance_from_centre: list[Array],
    samples: list[Array],
    fastest: list[str],
    element: str | None,
    long_rows: Array | None = None,
) -> PointFormat:
    """The form of the points of a scan; `distance_from_centre` (all,) is that of the rows of each side.

    `samples` (n, d) are rows of the first side, and of the second where there is one and neighbors are sought;
    `long_rows` (n, d) those of the second that the first limits of products are taken from.

    Products are of `element` where it is given. Where all distances are summed they are in three digits, or float64
    where the metric has none. Else they are integers where these are multiplied fastest and farthest pairs are sought,
    or neighbors or pairs within radii that integers tell from most others in the samples; else of the first of
    `fastest` that can hold the points, or, where there are radii, of what costs least with the pairs of the samples
    that it leaves undecided: two digits among others. Integers that this machine cannot multiply are not taken even
    where they are given.

    Where L2 distances may rule pairs out, points are of L2, and distances from the centre and `fastest` those of
    euclidean: `unless_undecided` says whether that is worth it.
    """
    if element == "int8" and "int8" not in fastest:
        element = None
    every, width, by_l2 = np.concatenate(distance_from_centre), centre.size, settings.is_by_l2
    largest = float(every.max())
    unscaled = METRICS[settings.metric].is_product and _near_origin(centre, largest)

    def of(name: str) -> PointFormat:
        refined = name in DIGITS or (name == "float32" and settings.radii and not by_l2)
        scale = 1.0 if name == "bfloat16" or unscaled else _into_unit_ball(largest)
        return PointFormat(settings.metric, name, centre, scale, of("float64") if refined else None, by_l2)

    if settings.summed and METRICS[settings.metric].has_digits:
        return of("int8x3" if {"int8", "int8x3"} & set(fastest) else "float64x3")
    possible = [element] if element not in {None, "int8"} else _plain(settings, dtypes, centre, largest, fastest)
    plain, cost = _cheapest([of(name) for name in possible], settings, samples)
    asked = element == "int8"
    if not (asked or (element is None and fastest[0] == "int8" and _can_round(settings, width))):
        return plain
    finer = None if settings.kept == {"farthest"} or by_l2 else plain
    if METRICS[settings.metric].undefined_for_zero_rows:
        samples = [rows[(rows != 0).any(axis=1)] for rows in samples]
        if not all(map(len, samples)):
            return plain
        centre, scale = _of_directions(settings, samples[0])
    else:
        scale = _scale(settings, every, samples[0], centre)
    rounded = PointFormat(settings.metric, "int8", centre, scale, finer, by_l2)
    if METRICS[settings.metric].is_product and len(samples) == 2:  # either side may be of any length
        sides = zip(distance_from_centre, samples, strict=True)
        first, second = (_scale(settings, lengths, some, centre) for lengths, some in sides)
        rounded = replace(rounded, scale=sqrt(first) * sqrt(second), balance=sqrt(first / second))
    count = distance_from_centre[-1].size
    if asked:
        return rounded
    nearest = [(settings.neighbors, False), (settings.top, False), (settings.bottom, True)]
    more = sum(_more_undecided(rounded, samples, k, count, turned, long_rows) for k, turned in nearest if k)
    most = tuning.UNDECIDED.get(plain.element, tuning.UNDECIDED["float64"])  # digits give float64
    if more > (most if long_rows is None else tuning.BY_FIRST_LIMITS * most):
        return plain
    if settings.radii and _cost(rounded, settings, samples) > cost:
        return plain
    return rounded


def _of_directions(settings: ScanSpec, sample: Array) -> tuple[Array, float]:
    """The centre (d,) of rows divided by their lengths, and what these are multiplied by to be rounded."""
    directions = sample.astype(np.float64) / METRICS[settings.metric].divisor(sample, 1.0)[:, None]
    centre = directions.mean(axis=0)
    return centre, _scale(settings, np.sqrt(norms(directions, centre)[:, 1]), directions, centre)


def _scale(settings: ScanSpec, lengths: Array, some: Array, centre: Array) -> float:
    """What rows are multiplied by to be rounded to integers; `lengths` are their distances from the centre."""
    largest = float(lengths.max())
    if settings.farthest:
        return _filling(largest, tuning.UNCLIPPED, some, centre)
    length = max(float(np.quantile(lengths, tuning.USUAL)), largest / tuning.USUAL_RANGE)
    return _filling(length, tuning.UNCLIPPED_USUAL, some, centre)


def unless_undecided(
    by_l2: PointFormat,
    settings: ScanSpec,
    dtypes: set[str],
    distance_from_centre: list[Array],
    samples: list[Array],
    kinds: set[str],
) -> PointFormat:
    """Points of L2, or of the metric itself where L2 leaves too many pairs of the samples undecided.

    That is for one of the `kinds` of devices; `distance_from_centre` (all,) is that of the rows of each side.
    """
    most = min(tuning.UNDECIDED_BY_EUCLIDEAN[kind] for kind in kinds)
    if _undecided(by_l2, settings, samples) <= most:
        return by_l2
    centre = by_l2.centre
    lengths = np.linalg.norm(centre) + max(float(each.max()) for each in distance_from_centre)
    scale = _into_unit_ball(float(lengths) * sqrt(centre.size))  # |x|_1 <= sqrt(d) |x|_2
    finer = PointFormat(settings.metric, "float64", np.zeros_like(centre), scale)
    if by_l2.element == "float64" or "float64" in dtypes:
        return finer
    return replace(finer, element="float32", unrounded=finer)


def point_formats_instead(
    point_format: PointFormat, dtypes: set[str], distance_from_centre: list[Array]
) -> tuple[PointFormat, ...]:
    """What points are, in this order, where a process does not multiply those of `point_format` rightly.

    A device without float64 (mps) multiplies float32 points alone, and leaves what these leave undecided to be decided
    pair by pair.
    """
    if point_format.sums:  # they have the bits of digits, however these are multiplied
        return (replace(point_format, element="float64x3"),) if point_format.element == "int8x3" else ()
    elements = {"float64": (), "float32": ("float64",)}.get(point_format.element, ("float32", "float64"))
    alone = (
        [replace(point_format, unrounded=None)] if point_format.element == "float32" and point_format.unrounded else []
    )
    scale = _into_unit_ball(float(np.concatenate(distance_from_centre).max()))
    centre = point_format.centre if point_format.tile_metric.shifts else np.zeros_like(point_format.centre)
    few = {"float64"} if "float64" in dtypes else {"float32", "float64"}
    others = [
        PointFormat(point_format.metric, element, centre, scale, by_l2=point_format.by_l2)
        for element in elements
        if element in few
    ]
    return (*alone, *others)


def _tile_metric(settings: ScanSpec) -> Metric:
    """The metric of points, unless L2 rules out too few pairs."""
    metric = METRICS[settings.metric]
    return metric.by_l2 or metric if settings.is_by_l2 else metric


def _can_round(settings: ScanSpec, width: int) -> bool:
    """Whether points may be integers: their products bound the distance, and no other pairs than these are sought."""
    wanted = settings.kept <= {"farthest", "neighbors", "within", "pairs_within", "components", "top", "bottom"}
    return wanted and _tile_metric(settings).quantizes and width in _WIDTHS


def _plain(settings: ScanSpec, dtypes: set[str], centre: Array, largest: float, fastest: list[str]) -> list[str]:
    """The elements that points may be of, other than one integer a value; without radii the first is taken."""
    if settings.summed or settings.moments_per_row:
        return ["float64"]
    in_digits = settings.radii and fastest[0] == "int8" and METRICS[settings.metric].has_digits
    digits = ["int8x2"] if in_digits else []
    if "float64" in dtypes and not METRICS[settings.metric].is_product:
        return [*digits, "float64"]
    metric = _tile_metric(settings)
    as_stored = metric.rounds or (dtypes == {"bfloat16"} and metric.as_stored)
    fit = {"float32", "bfloat16"} if as_stored and _near_origin(centre, largest) else {"float32"}
    quick = [name for name in fastest if name in fit]
    quick = quick[: quick.index("float32") + 1]  # what takes longer than float32 tells no more pairs apart
    return [*quick, *digits, *(["float64"] if settings.radii else [])]


def _near_origin(centre: Array, largest: float) -> bool:
    """Whether rows may be points without a scale; `largest` is their largest distance from the centre."""
    offset = float(np.linalg.norm(centre))
    return offset <= largest and 2.0**-10 <= offset + largest <= 2.0**10


def _cheapest(formats: list[PointFormat], settings: ScanSpec, samples: list[Array]) -> tuple[PointFormat, float]:
    """Of several forms of points the one that costs least, and what it costs: the first where there are no radii."""
    if not settings.radii:
        return formats[0], 0.0
    costs = [_cost(each, settings, samples) for each in formats]
    best = int(np.argmin(costs))
    return formats[best], costs[best]


def _cost(point_format: PointFormat, settings: ScanSpec, samples: list[Array]) -> float:
    """What a pair costs on average, in float32 products: its product, and the recheck where radii are in its bounds."""
    share = _undecided(point_format, settings, samples)
    return tuning.PRODUCT_COSTS[point_format.element] + tuning.RECHECK_COST * share


def _undecided(point_format: PointFormat, settings: ScanSpec, samples: list[Array]) -> float:
    """The share of pairs of the samples whose bounds hold a radius."""
    metric, some = METRICS[settings.metric], [samples[0], samples[-1]]
    if metric.undefined_for_zero_rows:
        some = [rows[(rows != 0).any(axis=1)] for rows in some]
    if not all(map(len, some)):
        return 0.0
    blocks = [_block(point_format, rows) for rows in (_few(some[0]), some[1])]
    tile = Tile(point_format.tile_metric, blocks[0], blocks[1], diagonal=False)
    least, most = (bounds(tile.product, terms).numpy() for terms in tile.terms)
    undecided = np.zeros(least.shape, np.bool_)
    radii = Thresholds.at(metric, settings.radii, closed=True)
    for inside, outside in zip(*radii.in_points(point_format), strict=True):
        undecided |= ~(least > outside) & ~(most <= inside)  # those of NaN too
    return float(np.mean(undecided))


def _into_unit_ball(largest: float) -> float:
    """The power of two that brings rows into the unit ball, of which none is farther than `largest` from the centre."""
    return float(2.0 ** -np.ceil(np.log2(largest * (1 + 1e-9)))) if largest > 0 else 1.0


def _filling(length: float, share: float, some: Array, centre: Array) -> float:
    """What rows are multiplied by to be rounded: of that share of them, if of this length, no value exceeds 127."""
    if not length > 0:
        return 1.0
    lengths = np.sqrt(norms(some, centre)[:, 1]) / length
    apart = lengths > 0
    shape = peaks(some[apart], centre, 1 / length) / lengths[apart]
    shape = shape[shape > 0]
    return float(127 / (length * np.quantile(shape, share))) if shape.size else 127 / length


def _more_undecided(
    point_format: PointFormat,
    samples: list[Array],
    neighbors: int,
    count: int,
    turned: bool,
    long_rows: Array | None = None,
) -> float:
    """The share of pairs that integers, the points of `point_format`, leave undecided and its unrounded points do not.

    The pairs are those that may be among the `neighbors` nearest of a row of the first of `samples` (n, d), of `count`
    rows of which the last is a sample; where `turned`, those of the smallest products. What may be is judged by the
    nearest of the sample or, where they are given, by the `neighbors` nearest of `long_rows` (n, d).
    """
    formats = point_format, point_format.of_second if len(samples) == 2 else point_format
    blocks = [_block(each, rows) for each, rows in zip(formats, (_few(samples[0]), samples[-1]), strict=True)]
    rounded = Tile(METRICS[point_format.metric], blocks[0], blocks[1], diagonal=False, turned=turned)
    plain = rounded.unrounded()
    least, most = (bounds(plain.product, terms).numpy() for terms in plain.terms)
    symmetric, size = len(samples) == 1, len(samples[-1])
    place = min(ceil(neighbors * size / count) - 1 + symmetric, size - 1)  # a row is the nearest to itself
    if long_rows is not None and len(long_rows) >= neighbors:
        long = rounded.like(blocks[0], _block(formats[1], long_rows)).unrounded()
        most, place = bounds(long.product, long.terms[1]).numpy(), neighbors - 1
    limit = np.partition(most, place, axis=1)[:, place, None]
    more = np.mean(bounds(rounded.product, rounded.terms[0]).numpy() <= limit) - np.mean(least <= limit)
    return float(more) * (1 + symmetric)  # a pair may be among the nearest of either of its rows


def _few(sample: Array) -> Array:
    """Some rows of a sample, as many as are compared with all of it."""
    return sample[np.arange(0, len(sample), -(-len(sample) // tuning.SAMPLED_ROWS))]


def _block(point_format: PointFormat, rows: Array) -> Block:
    return Block(np.arange(len(rows)), rows, *point_format.points(rows), np.zeros(len(rows)), point_format=point_format)
