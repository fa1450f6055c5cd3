"""The plan of a scan: grid, reductions and point format, fixed before the first tile. `planning` makes it."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np

from embgeom_dask import tuning
from embgeom_dask.execution.grid import Grid
from embgeom_dask.execution.memory import Memory, memory_text
from embgeom_dask.metrics import METRICS, Metric, Precision, product_error
from embgeom_dask.pairwise.blocks import BlockReader, BlockSource
from embgeom_dask.pairwise.exact import Exact
from embgeom_dask.pairwise.points import DIGITS, PointFormat
from embgeom_dask.pairwise.rows import Sides
from embgeom_dask.reductions import Histogram, Reductions
from embgeom_dask.units import bytes_text, noun

ITEMSIZE = {
    "int8": 1,
    "bfloat16": 2,
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "int8x3": 5,
    "float64x3": 5,
    "int8x2": 3,
}


@dataclass(frozen=True, repr=False)
class ScanPlan:
    """What a scan will do, and the memory that it will take.

    Attributes
    ----------
    rows : list of int
        The numbers of distinct rows: of one matrix, or of both.
    values : int
        The values of a row.
    metric : str
    tiles, tile : int
        How many tiles there are, and the rows of one.
    products : str
        What products are made of, such as "int8" or "float32".
    products_of : str
        The metric of the products. It is euclidean where L2 distances rule pairs out for another metric.
    memory_projected, memory_allowed : int
        Bytes of the process of a worker.
    device_memory_projected, device_memory_allowed : int
        Bytes of its device, where that has memory of its own; else 0.
    temporary : int
        Bytes of temporary stores that given arrays were written to.
    last_edge : float or None
        The last bin edge, if there is a histogram.
    """

    rows: list[int]
    values: int
    metric: str
    tiles: int
    tile: int
    products: str
    products_of: str
    memory_projected: int
    memory_allowed: int
    device_memory_projected: int
    device_memory_allowed: int
    temporary: int
    last_edge: float | None

    def __repr__(self) -> str:
        """Return a line each of rows and metric, tiles and products, memory, and what was written of arrays."""
        rows = f"{' x '.join(f'{count:,}' for count in self.rows)} distinct {noun(self.rows[-1], 'row')}"
        of = "" if self.products_of == self.metric else " of L2, which rules pairs out"
        tiles = f"{self.tiles:,} {noun(self.tiles, 'tile')} of {self.tile:,} {noun(self.tile, 'row')}"
        lines = [f"{rows} of {self.values:,} {noun(self.values, 'value')}, {self.metric}"]
        lines += [f"{tiles}, {self.products} products{of}"]
        lines += [f"memory: {memory_text(self.memory_projected, self.memory_allowed)}"]
        if self.device_memory_projected:
            lines += [f"on the device: {memory_text(self.device_memory_projected, self.device_memory_allowed)}"]
        if self.temporary:
            lines += [f"{bytes_text(self.temporary)} written of arrays"]
        return "\n".join(lines)


@dataclass(frozen=True)
class Plan:
    """All that a worker needs to compute any panel.

    `point_formats_instead` are for workers whose products of the first format are wrong. `temporary` is the size in
    bytes of the temporary stores that given arrays were written to. `before` is the plan of a short pass that gives
    this one its first hints.
    """

    sides: tuple[BlockSource, BlockSource]
    reductions: Reductions
    device: str
    memory: Memory
    point_formats_instead: tuple[PointFormat, ...] = ()
    temporary: int = 0
    before: Plan | None = None

    @property
    def summary(self) -> ScanPlan:
        """The plan in numbers, for people and programs."""
        first, histogram = self.sides[0], self.reductions.get("histogram")
        return ScanPlan(
            rows=[side.rows.token_id.size for side in self.sides[: 1 if self.symmetric else 2]],
            values=first.matrix.hidden_size,
            metric=self.metric.name,
            tiles=self.grid.tiles,
            tile=first.tile,
            products=first.point_format.element,
            products_of=first.point_format.tile_metric.name,
            memory_projected=self.memory.projected,
            memory_allowed=self.memory.allowed,
            device_memory_projected=self.memory.on_device,
            device_memory_allowed=self.memory.allowed_on_device,
            temporary=self.temporary,
            last_edge=histogram.edges.distance[-1].item() if isinstance(histogram, Histogram) else None,
        )

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
        """The metric that was asked for. Tiles may have another one, that of the point format."""
        return METRICS[self.sides[0].point_format.metric]

    @cached_property
    def grid(self) -> Grid:
        """The tiles."""
        first, second = (side.rows.token_id.size for side in self.sides)
        tile = self.sides[0].tile
        run = tuning.PANEL_TILES if tile <= max(tuning.TILES) else tuning.LONG_PANEL_TILES
        return Grid(first, second, tile, run, self.symmetric)

    @property
    def skips_near(self) -> bool:
        """Whether tiles whose pairs are all nearer than others are skipped."""
        return self.sides[0].sorted_by_norm and all(each.only_far for each in self.reductions.values())

    @property
    def skips_far(self) -> bool:
        """Whether parts of tiles whose pairs are all beyond the radii are skipped."""
        return self.sides[0].sorted_by_norm and not self.skips_near

    @property
    def digest(self) -> str:
        """The sha256 of all that decides the content of a panel's state: rows, metric, tiles and reductions.

        The point format (element, centre, scale) is left out, since states do not depend on it. The exception are
        points in digits, whose centre and scale decide the last bits of sums.
        """
        found = sha256()

        def add(value: Any) -> None:
            if isinstance(value, np.ndarray):
                found.update(f"{value.dtype.str}{value.shape}".encode() + value.tobytes())
            elif is_dataclass(value):
                add([type(value).__name__, *((field.name, getattr(value, field.name)) for field in fields(value))])
            elif isinstance(value, dict):
                add(list(value.items()))
            elif isinstance(value, list | tuple):
                found.update(f"{len(value)}[".encode())
                for each in value:
                    add(each)
            else:
                found.update(f"{value!r};".encode())

        sides = [
            (side.matrix.name, side.matrix.sha256, side.rows, side.point_format.metric, side.tile)
            for side in self.sides
        ]
        point_format = self.sides[0].point_format
        summed = (point_format.centre, point_format.scale) if point_format.sums else None  # sums hang on these
        add([sides, self.symmetric, self.grid.panel_tiles, self.reductions, summed])
        return found.hexdigest()

    def certificate(self, products: set[str]) -> dict[str, Any]:
        """What `products`, like "cpu int8", were made of, and the bound of their error that filtered pairs, relative
        to |x| |y|: the largest of the devices used.

        8-bit integers add what each row loses by being rounded to multiples of the step, a distance: it is measured.
        Where products do not filter, as at the start, or leave pairs undecided by the thousand, `unrounded_products`
        do. `products_of` is given where the products are those of another metric, whose distances bound the metric's.
        """
        point_format, width = self.sides[0].point_format, self.sides[0].matrix.hidden_size
        products = products or {f"cpu {point_format.element}"}
        used = [(kind, element) for kind, _, element in (each.partition(" ") for each in sorted(products))]
        elements = sorted(
            {element for _, element in used}, key=lambda element: (element != point_format.element, element)
        )
        error = max((_product_error(kind, element, width) for kind, element in used))
        said = {"products": ", ".join(elements), "product_error": error}
        if point_format.by_l2:
            said["products_of"] = point_format.tile_metric.name
        if "int8" in elements:
            said["quantisation_step"] = 1 / point_format.scale
        refined = [kind for kind, element in used if element == point_format.element]
        if refined and point_format.unrounded is not None:
            plain = point_format.unrounded.element
            error = max(_product_error(kind, plain, width) for kind in refined)
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

    def exact(self, reader: BlockReader) -> Exact:
        """Exact answers about the rows that `reader` reads."""
        first, second = self.sides
        rows = reader.rows(first), reader.rows(second)
        points = first.point_format
        return Exact(self.metric, *rows, first.matrix.hidden_size, points.unit, by_l2=points.by_l2)


DIGITS_ERROR = {"int8x3": 2.0**-19, "float64x3": 2.0**-19, "int8x2": 2.0**-12}
"""Of points in digits, a bound of the error of nearly every product relative to |x| |y|; each row has its own."""


def _product_error(kind: str, element: str, width: int) -> float:
    """The bound of what a device of that kind makes of an element: cuda adds up bfloat16 in float32, and keeps that."""
    if element in DIGITS:
        return DIGITS_ERROR[element]
    precision = Precision("float32" if (kind, element) == ("cuda", "bfloat16") else element, kind == "cpu")
    return product_error(0 if element == "int8" else width, precision) + precision.rounding
