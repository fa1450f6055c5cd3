"""Blocks of rows, as stored and as points on a device: reading them, and keeping those used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask.kernels.recentre import recentre
from embgeom_dask.metrics import Norms, Workspace
from embgeom_dask.pairwise.exact import Rows
from embgeom_dask.pairwise.points import PointFormat
from embgeom_dask.pairwise.rows import DistinctRows
from embgeom_dask.storage.model_stores import Matrix

Array = NDArray[Any]

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class BlockSource:
    """Where the rows of one side of a scan come from, and the form of their points. Small enough to travel.

    With `sorted_by_norm` the rows of a block come in order of their distance from the centre, farthest first. Points
    are of the form `instead` where this process does not multiply those of `point_format` rightly. Blocks are kept for
    later use, up to `keep` bytes of them on the host and `keep_on_device` on a device of its own. `norm` (rows,)
    float64 are bounds of the L2 norms of the rows, where the metric is a product.
    """

    matrix: Matrix
    rows: DistinctRows
    point_format: PointFormat
    tile: int
    sorted_by_norm: bool
    keep: int
    keep_on_device: int
    key: str
    instead: PointFormat | None = None
    norm: Array | None = None

    def load(self, index: int) -> Block:
        """Read block `index` from the store, and make its points, on the CPU."""
        start = index * self.tile
        positions = np.arange(start, min(start + self.tile, self.rows.token_id.size))
        stored = rows = self.matrix.take(self.rows.token_id[positions])
        away = np.zeros(positions.size)
        if self.sorted_by_norm:
            away = self.point_format.distance_from_centre(stored)
            order = np.argsort(-away)
            positions, rows, away = positions[order], stored[order], away[order]
        point_format = self.instead or self.point_format
        return Block(
            positions,
            stored,
            *point_format.points(rows),
            away,
            start,
            point_format,
            self.point_format.unit / point_format.unit,
        )


@dataclass(frozen=True)
class Block:
    """Rows read together.

    `positions` (b,) int64; `stored` (all, d) in the stored dtype, in order of position from `start` on, on the host
    alone; `points` (b, d), the rows at `positions` as the metric's tiles take them, or as stored where `point_format`
    widens them for each product; `norms` (b,), the metric's norms of the points; `distance_from_centre` (b,) float64,
    where the rows are sorted by it, a bound of that of the points; `point_format` is that of the points, and `unit`
    turns values of these points into those of the scan's.
    """

    positions: Array
    stored: Array
    points: torch.Tensor
    norms: Norms
    distance_from_centre: Array
    start: int = 0
    point_format: PointFormat | None = None
    unit: float = 1.0

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self.positions)

    @property
    def nbytes(self) -> int:
        """Bytes held on host and device."""
        shared = self.points.device.type == "cpu" and self.points.data_ptr() == self.stored.ctypes.data
        of_points = (0 if shared else self.points.nbytes) + self.norms.nbytes + self.distance_from_centre.nbytes
        return int(self.stored.nbytes + of_points)

    def take(self, rows: slice | Array) -> Block:
        """Some rows of the block, for a tile of their own; a slice copies nothing."""
        points = self.points[rows if isinstance(rows, slice) else torch.from_numpy(rows)]
        positions, away = self.positions[rows], self.distance_from_centre[rows]
        norms = self.norms.take(rows)
        return replace(self, positions=positions, points=points, norms=norms, distance_from_centre=away)

    def without_points(self, rows: Array) -> Block:
        """Some rows of the block, of which other points are to be made: those that they have are not copied."""
        return replace(
            self,
            positions=self.positions[rows],
            points=self.points[:0],
            norms=self.norms.take(slice(0)),
            distance_from_centre=self.distance_from_centre[rows],
        )

    def on(self, device: torch.device) -> Block:
        """The block with its points on a device, without the rows as stored."""
        return replace(self, stored=self.stored[:0], points=self.multiplied(Workspace(), 0).to(device))

    def multiplied(self, workspace: Workspace, side: int) -> torch.Tensor:
        """The points as they are multiplied, for `side` 0 or 1 of a product that lies in `workspace`."""
        return self.points if self.point_format is None else self.point_format.widened(self.points, workspace, side)

    @property
    def rounded(self) -> bool:
        """Whether the points are rounded to integers."""
        return self.points.dtype == torch.int8 and self.norms.step is None

    @property
    def has_finer_form(self) -> bool:
        """Whether `unrounded` gives points that decide more pairs."""
        return self.point_format is not None and self.point_format.unrounded is not None and len(self.stored) > 0

    def unrounded(self) -> Block:
        """The same rows with points that are not rounded to integers."""
        assert self.point_format is not None
        assert self.point_format.unrounded is not None
        points, norms = self.point_format.unrounded.points(self.stored[self.positions - self.start])
        unit = self.point_format.unit / self.point_format.unrounded.unit
        return replace(self, points=points, norms=norms, point_format=self.point_format.unrounded, unit=unit)

    def row(self, place: int) -> Array:
        """A row as stored, in float64."""
        found: Array = self.stored[self.positions[place] - self.start].astype(np.float64)
        return found

    def about_row(self, row: Array) -> Block:
        """The rows less `row` (d,), in float64 and in the scale of the points."""
        assert self.point_format is not None
        about = PointFormat(self.point_format.metric, "float64", row, self.point_format.scale)
        points, norms = about.points(self.stored[self.positions - self.start])
        return replace(self, points=points, norms=norms, point_format=about)

    def about(self, centre: torch.Tensor) -> Block:
        """The rows less `centre` (d,), one of bfloat16 points as stored: in bfloat16 again, with what that loses."""
        points, norm, left = recentre(self.points, centre)
        roundoff = 2.0**-24 * (1 if points.device.type == "cpu" else 3)  # of a sum: see metrics.product_error
        sums = (points.shape[1] + 16) * roundoff * (np.sqrt(norm) + left)
        return replace(self, points=points, norms=Norms(norm, left + sums))

    def doubled(self) -> Block:
        """The same points in float64."""
        return replace(self, points=self.points.double())


class _Kept:
    """A cache of blocks: those used last, up to a number of bytes, and all that are still in use."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[str, int, str], Block] = OrderedDict()
        self._used: WeakValueDictionary[tuple[str, int, str], Block] = WeakValueDictionary()
        self._lock = Lock()
        self._held = 0

    def get(self, key: tuple[str, int, str], load: Callable[[], Block], keep: int) -> Block:
        """The block of that key. If it is not here, `load` makes it, and the oldest beyond `keep` bytes are dropped."""
        with self._lock:
            if (found := self._used.get(key)) is not None:
                if key in self._blocks:
                    self._blocks.move_to_end(key)
                return found
        block = load()
        with self._lock:
            block = self._used.setdefault(key, block)
            if key not in self._blocks:
                self._blocks[key] = block
                self._held += block.nbytes
                while self._held > keep and self._blocks:
                    self._held -= self._blocks.popitem(last=False)[1].nbytes
        return block

    def forget(self, sources: set[str]) -> None:
        """Drop the blocks of the sources with these keys, and all blocks derived from them."""
        with self._lock:
            for key in [key for key in self._blocks if key[0].partition(" ")[0] in sources]:
                self._held -= self._blocks.pop(key).nbytes
            for key in [key for key in self._used if key[0].partition(" ")[0] in sources]:
                self._used.pop(key, None)

    def __len__(self) -> int:
        return len(self._blocks)

    def clear(self) -> None:
        with self._lock:
            self._blocks.clear()
            self._used.clear()
            self._held = 0


@dataclass(frozen=True)
class BlockCache:
    """The blocks kept in the memory of the host, and those kept in the memory of a device. Threads share it."""

    host: _Kept = field(default_factory=_Kept)
    device: _Kept = field(default_factory=_Kept)

    def clear(self) -> None:
        """Drop every block."""
        self.host.clear()
        self.device.clear()

    def forget(self, sources: set[str]) -> None:
        """Drop the blocks of the sources of these keys."""
        self.host.forget(sources)
        self.device.forget(sources)

    def __len__(self) -> int:
        return len(self.host) + len(self.device)


@dataclass
class BlockReader:
    """Reads blocks for one thread, through a cache; `nbytes` counts the bytes of rows read from stores."""

    kept: BlockCache
    nbytes: int = 0

    def block(self, source: BlockSource, index: int, device: torch.device) -> Block:
        """Block `index` of a source, its points on `device`."""
        key = source.key, index, str(device)
        if device.type == "cpu":
            return self.kept.host.get(key, lambda: self._load(source, index), source.keep)
        return self.kept.device.get(key, lambda: self.block(source, index, _CPU).on(device), source.keep_on_device)

    def rows(self, source: BlockSource) -> Rows:
        """The rows of a source as stored."""
        return Rows(source.tile, lambda index: self.block(source, index, _CPU).stored, source.norm)

    def _load(self, source: BlockSource, index: int) -> Block:
        block = source.load(index)
        self.nbytes += block.stored.nbytes
        return block
