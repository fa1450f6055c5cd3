"""What a scan will do: grid, reductions and settings, fixed before the first tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from uuid import uuid4

import numpy as np
from distributed import Client

from embgeom_dask import devices
from embgeom_dask.errors import InputError
from embgeom_dask.execution import memory, products, workers
from embgeom_dask.execution.grid import Grid
from embgeom_dask.execution.memory import Memory
from embgeom_dask.execution.point_format import choose_point_format, point_formats_instead
from embgeom_dask.execution.prune import narrow
from embgeom_dask.execution.spec import ScanSpec
from embgeom_dask.metrics import METRICS, Metric, Precision, product_error
from embgeom_dask.pairwise.blocks import BlockSource
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.points import PointFormat
from embgeom_dask.pairwise.rows import (
    DistinctRows,
    RowSummary,
    Sides,
    centre_of,
    distance_bound,
    distinct_rows,
    duplicates_of,
    inspect,
    join,
)
from embgeom_dask.reductions import (
    Extreme,
    Histogram,
    Neighbors,
    OrderStatistics,
    PairsWithin,
    Reduction,
    Thresholds,
    Within,
)
from embgeom_dask.reductions.histogram import bin_edges
from embgeom_dask.storage.model_stores import Matrix

Selected = tuple[Matrix, np.ndarray]
"""A matrix and the token ids, int64 (n,) ascending, of the rows to compare."""

TILES = 2048, 1024, 512, 256
CUDA_TILES = 8192, 4096, *TILES
RUN, LONG_RUN = 8, 64
"""Tiles of a panel: of up to 2,048 rows, and of more, which take about a millisecond each on cuda."""
_SAMPLE = 2048
"""Rows of a side that centre and shape are taken from."""
_PART = 16 << 20
"""Bytes of rows looked at together."""
ITEMSIZE = {"int8": 1, "bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class Plan:
    """All that a worker needs for any panel; `point_formats_instead`: for one that multiplies its points wrongly."""

    sides: tuple[BlockSource, BlockSource]
    reductions: dict[str, Reduction]
    device: str
    memory: Memory
    point_formats_instead: tuple[PointFormat, ...] = ()

    def __str__(self) -> str:
        """One line: rows, metric, tiles, products, and memory projected and allowed."""
        rows = " x ".join(f"{side.rows.token_id.size:,}" for side in self.sides[: 1 if self.symmetric else 2])
        first = self.sides[0]
        return (
            f"{rows} distinct rows of {first.matrix.hidden_size:,} values, {self.metric.name}; "
            f"{self.grid.tiles:,} tiles of {first.tile:,} rows, {first.point_format.element} products; "
            f"memory: {self.memory}"
        )

    def as_dict(self) -> dict[str, Any]:
        """What a dry run says: rows, values, metric, tiles, tile, products; bytes of memory, of host and device."""
        return {
            "rows": [side.rows.token_id.size for side in self.sides[: 1 if self.symmetric else 2]],
            "values": self.sides[0].matrix.hidden_size,
            "metric": self.metric.name,
            "tiles": self.grid.tiles,
            "tile": self.sides[0].tile,
            "products": self.sides[0].point_format.element,
            "memory_projected": self.memory.projected,
            "memory_allowed": self.memory.allowed,
            "device_memory_projected": self.memory.on_device,
            "device_memory_allowed": self.memory.allowed_on_device,
        }

    @property
    def symmetric(self) -> bool:
        """Whether a matrix is compared with itself."""
        return self.sides[0].key == self.sides[1].key

    @property
    def rows(self) -> Sides:
        """The distinct rows of either side."""
        first, second = (side.rows for side in self.sides)
        return Sides(first, second, self.symmetric)

    @property
    def metric(self) -> Metric:
        """The metric."""
        return METRICS[self.sides[0].point_format.metric]

    @cached_property
    def grid(self) -> Grid:
        """The tiles."""
        first, second = (side.rows.token_id.size for side in self.sides)
        tile = self.sides[0].tile
        return Grid(first, second, tile, RUN if tile <= max(TILES) else LONG_RUN, self.symmetric)

    def certificate(self, products: set[str]) -> dict[str, Any]:
        """What `products`, like "cpu int8", were made of, and the bound of their error that filtered pairs, relative
        to |x| |y|: the largest of the devices used.

        8-bit integers add what each row loses by being rounded to multiples of the step, a distance: it is measured.
        Where these do not filter, as at the start, or leave pairs undecided by the thousand, `unrounded_products` do.
        """
        point_format, width = self.sides[0].point_format, self.sides[0].matrix.hidden_size
        products = products or {f"cpu {point_format.element}"}
        used = [(kind, element) for kind, _, element in (each.partition(" ") for each in sorted(products))]
        elements = sorted(
            {element for _, element in used}, key=lambda element: (element != point_format.element, element)
        )
        error = max((_product_error(kind, element, width) for kind, element in used))
        said = {"products": ", ".join(elements), "product_error": error}
        rounded = [kind for kind, element in used if element == "int8"]
        if rounded:
            said["quantisation_step"] = 1 / point_format.scale
        if rounded and point_format.unrounded is not None:
            plain = point_format.unrounded.element
            error = max(_product_error(kind, plain, width) for kind in rounded)
            said |= {"unrounded_products": plain, "unrounded_product_error": error}
        return said

    def with_tile(self, tile: int) -> Plan:
        """The same scan in tiles of `tile` rows."""
        if tile == self.sides[0].tile:
            return self
        first, second = (replace(side, tile=tile, key=f"{side.key} {tile}") for side in self.sides)
        return replace(self, sides=(first, second))

    def with_points(self, point_format: PointFormat) -> Plan:
        """The same scan with points of another of its forms."""
        if point_format is self.sides[0].point_format:
            return self
        first, second = (
            replace(side, instead=point_format, key=f"{side.key} {point_format.element}") for side in self.sides
        )
        return replace(self, sides=(first, second))

    def exact(self) -> Exact:
        """Exact answers about the rows, read through this process's blocks."""
        first, second = self.sides
        return Exact(self.metric, first.read(), second.read(), first.matrix.hidden_size, first.point_format.unit)


def make_plan(
    client: Client,
    sides: list[Selected],
    settings: ScanSpec,
    device: str,
    tile: int | None = None,
    memory_limit: str | int | None = None,
    element: str | None = None,
) -> Plan:
    """Look at every row once, on the cluster, then fix centre, scale, grid and reductions.

    Without `tile` tiles have 2,048 rows (8,192 on cuda), or fewer where that takes more memory than is allowed; without
    `element` products are of the type that is fastest here.

    Raises
    ------
    InputError
        where a row has no distance to any other (NaN, infinity, out of range), none is left to compare, or the scan
        would take more memory than `memory_limit` allows.
    """
    most = memory.allowed(memory_limit)
    ((kind, free),) = workers.gather(client, devices.own_memory, [(device,)])
    metric = METRICS[settings.metric]
    matrix, token_id = sides[0]
    if settings.kept == {"farthest"} and metric.name == "chebyshev" and len(sides) == 1:
        token_id = narrow(client, matrix, _parts(matrix, token_id), settings.farthest or 1)
        sides = [(matrix, token_id)]
    some = matrix.take(token_id[:_SAMPLE])
    centre = centre_of(some) if metric.shifts else np.zeros(matrix.hidden_size)
    dtypes = {matrix.dtype for matrix, _ in sides}
    alike = matrix.dtype if len(dtypes) == 1 else "float64"
    facts = [_look(client, *side, centre, settings.metric, alike) for side in sides]
    rows = [
        distinct_rows(*side, found, zeros=metric.name != "cosine") for side, found in zip(sides, facts, strict=True)
    ]
    for (matrix, _), distinct in zip(sides, rows, strict=True):
        if not distinct.members.size:
            raise InputError(
                f"{matrix.model}: no row of {matrix.name} selected has a {metric.name} distance: all are 0"
            )
    radii = [found.radius for found in facts]
    largest = np.sort(np.concatenate(radii))[-2:].tolist()
    duplicate_of = _twins(sides, facts, rows) if settings.distinct else None
    reductions = _reductions(settings, metric, rows, distance_bound(metric, largest), duplicate_of)
    (fastest,) = workers.gather(client, products.fastest, [(metric.name, device)])
    samples = [some, *(other.take(ids[:_SAMPLE]) for other, ids in sides[1:] if settings.neighbors)]
    point_format = choose_point_format(settings, dtypes, centre, radii, samples, fastest, element)
    sorted_by_norm = all(each.only_far for each in reductions.values()) and metric.name != "cosine"
    states = (
        sum(reduction.nbytes for reduction in reductions.values()) + settings.exact_quantiles * OrderStatistics.nbytes
    )
    usual = CUDA_TILES if kind == "cuda" else TILES
    most_on_device = memory.allowed_on_device(memory_limit, free)
    matrices = [matrix for matrix, _ in sides]
    threads = max(client.nthreads().values(), default=1)
    tile, needed = _fit(matrices, rows, threads, states, point_format, (tile,) if tile else usual, most, most_on_device)
    keep = needed.cache, needed.cache_on_device
    sources = [
        BlockSource(matrix, distinct, point_format, tile, sorted_by_norm, *keep, uuid4().hex)
        for matrix, distinct in zip(matrices, rows, strict=True)
    ]
    return Plan(
        (sources[0], sources[-1]), reductions, device, needed, point_formats_instead(point_format, dtypes, radii)
    )


def _product_error(kind: str, element: str, width: int) -> float:
    """The bound of what a device of that kind makes of an element: cuda adds up bfloat16 in float32, and keeps that."""
    precision = Precision("float32" if (kind, element) == ("cuda", "bfloat16") else element, kind == "cpu")
    return product_error(0 if element == "int8" else width, precision) + precision.rounding


def _fit(
    matrices: list[Matrix],
    rows: list[DistinctRows],
    threads: int,
    states: int,
    point_format: PointFormat,
    tiles: tuple[int, ...],
    most: int,
    most_on_device: int,
) -> tuple[int, Memory]:
    """Choose the rows of a tile, so that the scan stays within `most` bytes, and `most_on_device`."""
    stored = max(ITEMSIZE[matrix.dtype] for matrix in matrices)
    for size in tiles:
        needed = memory.project(
            rows=sum(distinct.members.size for distinct in rows),
            width=matrices[0].hidden_size,
            stored=stored,
            element=ITEMSIZE[point_format.element],
            unrounded=ITEMSIZE[point_format.unrounded.element] if point_format.unrounded else 0,
            tile=size,
            threads=threads,
            as_stored=point_format.element == "bfloat16",
            states=states,
            most=most,
            most_on_device=most_on_device,
        )
        if needed.fits:
            return size, needed
    where, projected, allowed = "", needed.projected, most
    if projected <= most:
        where, projected, allowed = " of the device", needed.on_device, most_on_device
    raise InputError(
        f"this scan needs {memory.text(projected)}{where} and {memory.text(allowed)} are allowed: "
        f"raise `memory_limit`, ask for fewer neighbors, lower `max_pairs`, or scan fewer `tokens`"
    )


def _look(
    client: Client, matrix: Matrix, token_id: np.ndarray, centre: np.ndarray, metric: str, dtype: str
) -> RowSummary:
    parts = _parts(matrix, token_id)
    return join(workers.gather(client, inspect, [(matrix, part, centre, metric, dtype) for part in parts]))


def _twins(sides: list[Selected], facts: list[RowSummary], rows: list[DistinctRows]) -> np.ndarray:
    """The position on the second side of the row identical to each of the first, -1 where there is none."""
    digests = [
        found.digest[np.searchsorted(token_id, distinct.token_id)]
        for (_, token_id), found, distinct in zip(sides, facts, rows, strict=True)
    ]
    return duplicates_of(digests[0], digests[-1])


def _parts(matrix: Matrix, token_id: np.ndarray) -> list[np.ndarray]:
    chunk_bytes = matrix.chunk_rows * matrix.hidden_size * ITEMSIZE[matrix.dtype]
    rows = matrix.chunk_rows * max(1, _PART // chunk_bytes)
    return [token_id[start : start + rows] for start in range(0, token_id.size, rows)]


def _reductions(
    settings: ScanSpec, metric: Metric, rows: list[DistinctRows], top: float, duplicate_of: np.ndarray | None
) -> dict[str, Reduction]:
    """What to keep; `top` bounds every distance."""
    reductions: dict[str, Reduction] = {}
    required = Histogram.requires if settings.summed else ()
    symmetric, weights = len(rows) == 1, (rows[0].weights, rows[-1].weights)
    if settings.farthest or "farthest" in required:
        reductions["farthest"] = Extreme(settings.farthest or 1, farthest=True)
    if settings.nearest or "nearest" in required:
        reductions["nearest"] = Extreme(settings.nearest or 1, False, duplicate_of if settings.nearest else None)
    if settings.neighbors:
        reductions["neighbors"] = Neighbors(settings.neighbors, rows[0].token_id.size, symmetric, duplicate_of)
    if settings.summed:
        edges = settings.histogram_edges or bin_edges(settings.bins, top, settings.histogram_scale)
        closed = np.arange(len(edges)) == len(edges) - 1
        reductions["histogram"] = Histogram(Thresholds.at(metric, edges, closed=closed), weights)
    if settings.within:
        reductions["within"] = Within(Thresholds.at(metric, settings.within, closed=True), weights, symmetric)
    if settings.pairs_within is not None:
        radius = Thresholds.at(metric, [settings.pairs_within], closed=True)
        reductions["pairs_within"] = PairsWithin(radius, settings.max_pairs, weights, symmetric)
    return reductions
